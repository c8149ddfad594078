#!/usr/bin/env python3
"""The figures of governance that hold on a quiet machine (issue 7), each run once and checked.

    tests/rollout_gates.py               the decision's cost, the three gateways, 1,000 killed writers of a trail
    tests/rollout_gates.py PART..        some of: bench cluster kills

`bench` is ratios to the mirror's decision in the same run, and exact counts of allocations. `cluster` is
`governance::cluster` with TEST_ROLLOUT_GATES: three gateways and a JetStream of three, no skew over a ramp, a stop at all
three within 50 ms of its publication (p99 of 120). `kills` is the audit trail's writer, killed 1,000 times; CI kills it 200
times, and whole gateways 12 times. CI runs the two tests without what depends on the machine's load.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent

# (figure, bound, what it is)
MOST = [
    ("decision_over_mirror.10", 1.2, "the decision at 10 % against the mirror's, the key parsed once"),
    ("decision_over_mirror.100", 1.2, "the decision at 100 %"),
    ("stop_among_scopes_ms", 50.0, "a stop among 1,024 scopes with rollouts, the median of 64"),
]
EXACT = [
    ("allocations.decision.10", 0),
    ("allocations.decision.100", 0),
    ("allocations.layer.10", 1),
    ("allocations.layer.100", 1),
    ("allocations.disabled", 0),
]


def figures():
    """The bench, once."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "figures.json"
        binary = os.environ.get("ROLLOUT_BENCH_BINARY")
        command = [binary] if binary else ["cargo", "bench", "--quiet", "-p", "arqon-benches", "--bench", "rollout", "--"]
        subprocess.run([*command, "--json", str(path)], cwd=ROOT, check=True, stdout=sys.stderr)
        return json.loads(path.read_text())


def bench():
    found = figures()
    if any(found[name] > bound for name, bound, _ in MOST):
        # A shared machine is noisy: the better of two.
        again = figures()
        found.update({name: min(found[name], again[name]) for name, _, _ in MOST})
    for name, bound, what in MOST:
        yield found[name] <= bound, f"{name} = {found[name]:.3f}, at most {bound:g} ({what})"
    for name, count in EXACT:
        yield found[name] == count, f"{name} = {found[name]}, exactly {count}"


def test(package, name, **environment):
    """One test of the workspace, with what it printed. ROLLOUT_TEST_SET: other packages to build it with, `-p A -p B`."""
    packages = os.environ.get("ROLLOUT_TEST_SET", "--workspace").split()
    chosen = f"package({package}) and test({name})"
    command = ["cargo", "nextest", "run", *packages, "--all-features", "--no-capture", "-E", chosen]
    ended = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    said = ended.stdout + ended.stderr
    shown = [line for line in said.splitlines() if any(word in line for word in ("over a ramp", "a stop reached", "times killed", "panicked"))]
    sys.stdout.write("".join(f"       {line}\n" for line in shown))
    return ended.returncode == 0 and " 1 passed" in said, f"{package}: {name}"


def cluster():
    yield test("arqon-gateway", "three_gateways_ramp_as_one", TEST_ROLLOUT_GATES="1")


def kills():
    yield test("arqon", "whenever_it_is_killed", TEST_AUDIT_KILLS="1000")


def main():
    parts = {"bench": bench, "cluster": cluster, "kills": kills}
    chosen = sys.argv[1:] or list(parts)
    if unknown := set(chosen) - set(parts):
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    results = [result for part in chosen for result in parts[part]()]
    for holds, text in results:
        print("ok    " if holds else "BROKEN", text)
    failed = sum(not holds for holds, _ in results)
    print(f"{len(results) - failed} passed, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
