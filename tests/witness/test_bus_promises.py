"""The table of promises in docs/bus/README.md: every number is there once, and every name in it is that of something
there is: a test that runs, a file, a step of CI, an item of the API, a document."""

import os
import pathlib
import re

import pytest

from conftest import ROOT

README = ROOT / "docs" / "bus" / "README.md"
# Where a path in the table may start.
BASES = [ROOT, ROOT / "layers" / "bus", ROOT / "layers" / "bus" / "src"]
TEST_SOURCES = ["layers/bus/src", "layers/bus/tests", "src", "examples/gateway/src", "examples/gateway/tests", "tests"]
# Words of the source and of configuration in code type that name no thing of this repository.
WORDS = {
    "Default", "Display", "Error", "Closed", "Arc", "String", "new", "while let Ok", "disputed=true", "dispute",
    "service_crashed_total", "unsafe", "impl Into", "sync", "RON_BUS_*", "RON_AMNESIA", "RON_BUS_WARN_RATE", "RON_BUS_LONG=1", "[bus]",
    "bus_ops", "one tick", "Lagged(n)", "recv", "bus.capacity", "crashed",
}
TEXT = README.read_text(encoding="utf-8")
ROWS = {
    int(match[1]): (match[2], match[3])
    for match in re.finditer(r"^\| (\d+) \| (.*?) \| (.*) \|$", TEXT, re.M)
}


def sources():
    for folder in TEST_SOURCES:
        yield from (path for path in (ROOT / folder).rglob("*.rs") if "trybuild/" not in path.as_posix())


def known_tests():
    """Names of functions that a test runner runs: after #[test], #[tokio::test] or inside proptest!."""
    names, ignored = set(), []
    for path in sources():
        text = path.read_text(encoding="utf-8")
        names |= set(re.findall(r"#\[(?:tokio::)?test[^\]]*\]\s*(?:#\[[^\]]*\]\s*)*(?:async )?fn (\w+)", text))
        ignored += [path] if "layers/bus" in path.as_posix() and re.search(r"#\[ignore", text) else []
    assert not ignored, f"ignored tests keep nothing: {ignored}"
    rust = set(names)
    for path in (ROOT / "tests" / "witness").glob("test_*.py"):
        names |= set(re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.M))
    return names, rust


TESTS, RUST_TESTS = known_tests()
LOGS = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target") / "test-logs"
API = (ROOT / "docs/api-history/ron-bus/0.1.0.txt").read_text(encoding="utf-8")
CRATE = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "layers/bus/src").rglob("*.rs"))
ROUTES = (ROOT / "examples/gateway/src/admin.rs").read_text(encoding="utf-8")
UMBRELLA = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.rs"))
RUN = (ROOT / "tests/run.sh").read_text(encoding="utf-8")
CI = (ROOT / ".ci/run").read_text(encoding="utf-8")


def is_there(name):
    """Whether a name in code type is that of something."""
    if name in WORDS or name in TESTS:
        return True
    if name.startswith("/v1/"):
        return f'route("{name}"' in ROUTES
    if name.startswith("cargo "):
        return name in ("cargo tree", "cargo +nightly miri test -p ron-bus --lib -- --skip no_minute")
    path = name.split(" ")[0]
    if "/" in path or re.search(r"\.(rs|py|sh|json|txt|toml|md)$", path):
        return any((base / path).exists() for base in BASES)
    if re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+){2,}", name):
        return name in API or f"clippy::{name}" in CRATE
    if re.fullmatch(r"[a-z_]+\([\w:]+\)", name):  # A lint: forbid(unsafe_code).
        level, lint = name[:-1].split("(")
        return re.search(rf"#!\[{level}\([^)]*\b{lint}\b", CRATE) is not None
    last = re.split(r"::|: ", name)[-1]
    if name == "--cfg loom":
        return "--cfg loom" in RUN
    return bool(re.search(rf"\b{re.escape(last)}\b", API + UMBRELLA + CRATE)) or f"\n{name}()" in CI + RUN


def names(text):
    return re.findall(r"`([^`]+)`", text)


def test_every_promise_is_in_the_table_once():
    numbers = [int(number) for number in re.findall(r"^\| (\d+) \|", TEXT, re.M)]
    assert numbers == list(range(1, 63))
    assert sorted(ROWS) == numbers


@pytest.mark.parametrize("number", range(1, 63))
def test_a_row_names_what_there_is(number):
    _, state = ROWS[number]
    missing = [name for name in names(state) if not is_there(name)]
    assert not missing, f"S2-{number} names {missing}"
    for target in re.findall(r"\]\(([^)#]+)", state):
        assert (README.parent / target).exists(), f"S2-{number} links to {target}"


@pytest.mark.parametrize("number", range(1, 63))
def test_a_row_says_what_keeps_it_or_why_not(number):
    _, state = ROWS[number]
    assert re.search(r"\b(kept|repaired|not kept)\b|^\[performance\]|^F `|^5\.1 ", state), state
    evidence = [name for name in names(state) if name not in WORDS] + re.findall(r"\]\(([^)]+)\)", state)
    if "kept:" in state.replace("not kept:", "") or not re.search("kept|repaired", state):
        assert evidence, f"S2-{number} is said to be kept, but by nothing"
    for reason in re.findall(r"not kept: ([^;]+)", state):
        assert len(reason.split()) >= 4, f"S2-{number}: why is it not kept? {reason!r}"


def test_the_checker_notices_a_name_that_is_not_there():
    for name in ["no_such_test_here", "tests/no_such_file.rs", "forbid(no_such_lint)", "NoSuchItem", "cargo no-such"]:
        assert not is_there(name), name
    for name in ["lagged_overflow_smoke", "tests/soak.rs", "forbid(unsafe_code)", "BusSwitch", "cargo tree"]:
        assert is_there(name), name


def test_what_the_table_says_of_ci_is_in_ci():
    assert "step clippy" in CI or "clippy" in CI
    for part in ("api_bus.py", "msrv_bus.sh --build", "--release --locked --test soak", "--cfg loom"):
        assert part in RUN, part
    assert "deny" in CI and "bash tests/run.sh" in CI.replace("./tests/run.sh", "bash tests/run.sh")


def ran(log):
    """Names of tests that a runner's log says passed (nextest: `PASS [..] crate path::name`; libtest: `test path::name ... ok`)."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", log)
    passed = re.findall(r"^ *PASS \[.*?\].* (\S+)$", text, re.M) + re.findall(r"^test (\S+) \.\.\. ok$", text, re.M)
    return {name.split("::")[-1] for name in passed}


def test_what_ran_is_read_from_both_runners():
    log = ("        PASS [   0.055s] (17/18) ron-bus::bus_basic lagged_overflow_smoke\n"
           "        PASS [   0.001s] ( 2/18) ron-bus bus::tests::bus_new_capacity_must_be_ge_2\n"
           "        FAIL [   0.001s] ( 3/18) ron-bus bus::tests::it_failed\n"
           "test two_publishers_two_subscribers_capacity_two ... ok\ntest other ... FAILED\n")
    assert ran(log) == {"lagged_overflow_smoke", "bus_new_capacity_must_be_ge_2", "two_publishers_two_subscribers_capacity_two"}


@pytest.mark.skipif(not (os.environ.get("CI") and all((LOGS / f"{part}.log").exists() for part in ("rust", "loom", "bus-soak"))),
                    reason="CI reads here whether every Rust test in the table ran before")
def test_every_rust_test_in_the_table_ran_and_passed():
    seen = set().union(*(ran(path.read_text(encoding="utf-8", errors="replace")) for path in LOGS.glob("*.log")))
    named = {name for _, state in ROWS.values() for name in names(state)} & RUST_TESTS
    assert len(named) > 40
    assert not named - seen, f"in the table, but not run: {sorted(named - seen)}"
