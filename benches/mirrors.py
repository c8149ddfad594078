"""Mirrors head to head, and the mirror under overload (issue 6). One command:

    python3 benches/mirrors.py            # builds, measures (7 minutes), writes docs/mirrors.md, .svg and .json
    python3 benches/mirrors.py --check    # seconds instead of minutes, writes nothing: does every part still work?

Part one: the same POSTs of 1 KiB through a bare axum server, ShadowLayer to NATS and to HTTP, a naive `tokio::spawn`
mirror and nginx `mirror`, with the sink healthy, dead (nobody listens) and stalled (SIGSTOP). Part two: on and off in one
process, its share switched every 0.4 s under a load that never stops, with the sink dead, stalled, or taking a tenth of what
it is sent; a second off in each block of three shows the run's own noise. Part three: how many of the kept traces are whole.

The primary has one core and one thread, load and sink the other core. A tenth of the requests is mirrored: by trace where
the layer does it, by chance elsewhere, as those mirrors do. Needs cargo, nats-server (TEST_NATS_SERVER names one that is
not on the path) and nginx (installed with apt-get if it is not there).
"""

import argparse
import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SYSTEMS = ["bare axum", "ShadowLayer to NATS", "ShadowLayer to HTTP", "tokio::spawn", "nginx, no mirror", "nginx mirror"]
STATES = ["healthy", "dead", "stalled"]
OVERLOAD = 10


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def built() -> str:
    if "MIRRORS" in os.environ:
        return os.environ["MIRRORS"]
    built = subprocess.run(["cargo", "bench", "--no-run", "-p", "arqon-benches", "--bench", "mirrors", "--message-format=json"],
                           cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True).stdout
    return [line["executable"] for line in map(json.loads, built.splitlines()) if line.get("executable")][-1]


def nginx_program() -> str:
    if not (found := shutil.which("nginx") or shutil.which("/usr/sbin/nginx")):
        subprocess.run(["apt-get", "install", "-y", "--no-install-recommends", "nginx"], check=True, stdout=subprocess.DEVNULL,
                       env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
        found = shutil.which("nginx") or "/usr/sbin/nginx"
    return found


def get(port: int, path: str, method: str = "GET"):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    with urllib.request.urlopen(request, timeout=20) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def peak(pids: list[int]) -> float:
    """The most memory that processes ever had, in MiB."""
    lines = [line for pid in pids for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def worked(pid: int) -> float:
    """The processor time that a process has had, in seconds."""
    return sum(int(path.read_text().split()[0]) for path in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def first(cores: set[int]) -> None:
    """What a process of the measurement starts with: its core, and, as root, before whatever else runs on the machine."""
    os.sched_setaffinity(0, cores)
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -20)


class Rig:
    """Processes of one measurement."""

    def __init__(self, program: str, folder: pathlib.Path, stack: contextlib.ExitStack):
        self.program, self.folder, self.stack = program, folder, stack
        cores = sorted(os.sched_getaffinity(0))
        self.primary_core, self.other_core = {cores[0]}, {cores[-1]}

    def start(self, command: list[str], port: int, cores: set[int]) -> subprocess.Popen:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   preexec_fn=lambda: first(cores))
        self.stack.callback(self.stop, process)
        end = time.monotonic() + 20
        while time.monotonic() < end and process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return process
            time.sleep(0.02)
        raise RuntimeError(f"{command} did not come up")

    @staticmethod
    def stop(process: subprocess.Popen) -> None:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.wait()

    def part(self, role: str, cores: set[int], **options) -> tuple[subprocess.Popen, int]:
        port = free_port()
        given = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
        return self.start([self.program, role, "--listen", f"127.0.0.1:{port}", *given], port, cores), port

    def nats(self) -> tuple[subprocess.Popen, int]:
        port = free_port()
        server = os.environ.get("TEST_NATS_SERVER") or "nats-server"
        return self.start([server, "-a", "127.0.0.1", "-p", str(port)], port, self.other_core), port

    def nginx(self, upstream: int, sink: int | None) -> tuple[subprocess.Popen, int]:
        port, folder = free_port(), pathlib.Path(tempfile.mkdtemp(dir=self.folder))
        mirror = "mirror /mirror;" if sink else ""
        copies = f"""
    upstream sink {{ server 127.0.0.1:{sink}; keepalive 64; }}
    split_clients $request_id $copied {{ 10% 1; * 0; }}""" if sink else ""
        location = """
      location = /mirror { internal; if ($copied = 0) { return 204; } proxy_pass http://sink/orders;
        proxy_http_version 1.1; proxy_set_header Connection ""; }""" if sink else ""
        config = folder / "nginx.conf"
        config.write_text(f"""
worker_processes 1; daemon off; error_log /dev/null crit; pid {folder}/pid;
events {{ worker_connections 4096; }}
http {{
    access_log off; keepalive_requests 1000000000; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;
    fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    upstream primary {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 1000000000; }}{copies}
    server {{ listen 127.0.0.1:{port};
      location / {{ {mirror} proxy_pass http://primary; proxy_http_version 1.1; proxy_set_header Connection ""; }}{location}
    }}
}}
""", encoding="utf-8")
        return self.start([nginx_program(), "-c", str(config), "-p", str(folder)], port, self.primary_core), port

    def load(self, port: int, seconds: float) -> dict:
        return self.client("load", port, seconds=seconds)

    def rounds(self, port: int, pid: int, blocks: int, seconds: float, percent: float) -> dict:
        return self.client("rounds", port, seconds=seconds, pid=pid, blocks=blocks, percent=percent)

    def client(self, role: str, port: int, **options) -> dict:
        given = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        done = subprocess.run([self.program, role, "--target", f"127.0.0.1:{port}", *given, "--first", str(time.monotonic_ns() % 2**31)],
                              stdout=subprocess.PIPE, check=True, text=True, timeout=300,
                              preexec_fn=lambda: first(self.other_core))
        return json.loads(done.stdout)


def empty(port: int) -> None:
    """Waits until a mirror has nothing in flight."""
    while get(port, "/state")["in_flight"] > 0:
        time.sleep(0.2)


def settled(port: int) -> dict:
    """What a sink counted, once nothing more comes."""
    before, quiet, end = None, 0, time.monotonic() + 4
    while quiet < 3 and time.monotonic() < end:
        time.sleep(0.1)
        report = get(port, "/report")
        quiet, before = (quiet + 1 if report == before else 0), report
    return before


def measure(program: str, system: str, state: str, seconds: float, folder: pathlib.Path) -> dict:
    with contextlib.ExitStack() as stack:
        rig = Rig(program, folder, stack)
        nats = None
        if "NATS" in system:
            nats, nats_port = rig.nats()
            sink, sink_port = rig.part("sink", rig.other_core, nats=f"nats://127.0.0.1:{nats_port}")
            primary, port = rig.part("serve", rig.primary_core, kind="layer", nats=f"nats://127.0.0.1:{nats_port}")
        else:
            sink, sink_port = rig.part("sink", rig.other_core)
            kind = {"ShadowLayer to HTTP": "layer", "tokio::spawn": "spawn"}.get(system, "bare")
            primary, port = rig.part("serve", rig.primary_core, kind=kind, http=f"http://127.0.0.1:{sink_port}")
        pids = [primary.pid]
        if "nginx" in system:
            proxy, port = rig.nginx(port, sink_port if "no mirror" not in system else None)
            children = subprocess.run(["pgrep", "-P", str(proxy.pid)], stdout=subprocess.PIPE, text=True, check=False).stdout
            pids = [proxy.pid, *map(int, children.split())]
        rig.load(port, 0.5)  # warm, and connected to the sink while it is there
        settled(sink_port)
        get(sink_port, "/report", "DELETE")
        target = nats or sink
        if state == "dead":
            target.kill()
            target.wait()
        elif state == "stalled":
            target.send_signal(signal.SIGSTOP)
        before = sum(map(worked, pids))
        result = rig.load(port, seconds)
        result["cpu_us"] = (sum(map(worked, pids)) - before) / result["requests"] * 1e6
        result["memory"] = peak(pids)
        if state == "stalled":
            target.send_signal(signal.SIGCONT)
        report = settled(sink_port) if state != "dead" or nats else {"copies": 0, "traces": 0, "whole": 0}
        return {"system": system, "state": state, **result, **report}


def spread(values: list[float]) -> dict:
    """The median, and between what it lies in 19 of 20 runs like this one (by drawing the blocks again)."""
    draw = random.Random(6)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(2_000))
    return {"median": statistics.median(values), "low": medians[50], "high": medians[-51]}


def slow(rig: Rig, calm: float, share: float) -> tuple[subprocess.Popen, int, int]:
    """A primary, and its sink that takes a tenth of the copies: 64 at once, each as slow as that makes it."""
    _, sink = rig.part("sink", rig.other_core, delay_ms=f"{64 * 1_000 * OVERLOAD / (calm * share):.2f}")
    return *rig.part("serve", rig.primary_core, kind="layer", http=f"http://127.0.0.1:{sink}", in_flight=64, percent=share), sink


def calm(program: str, folder: pathlib.Path) -> float:
    """Requests a second of a server whose mirror is off."""
    with contextlib.ExitStack() as stack:
        rig = Rig(program, folder, stack)
        _, nats = rig.nats()
        _, port = rig.part("serve", rig.primary_core, kind="layer", nats=f"nats://127.0.0.1:{nats}", percent=0)
        rig.load(port, 0.5)
        return rig.load(port, 1.0)["per_second"]


def paired(program: str, case: str, blocks: int, seconds: float, folder: pathlib.Path) -> dict:
    """On and off in one process. Every share is a tenth; the ratio of a block is that of its on, or of its second off, to its
    first off."""
    rate = calm(program, folder)
    with contextlib.ExitStack() as stack:
        rig = Rig(program, folder, stack)
        if case == "slow sink":
            process, port, _ = slow(rig, rate, 0.1)
        else:
            target, nats = rig.nats()
            process, port = rig.part("serve", rig.primary_core, kind="layer", nats=f"nats://127.0.0.1:{nats}")
        rig.load(port, 0.5)
        if case == "dead":
            target.kill()
            target.wait()
        elif case == "stalled":
            target.send_signal(signal.SIGSTOP)
        # Overload is under way, and the queue full, before anything counts.
        rig.load(port, 2.0)
        run = rig.rounds(port, process.pid, blocks, seconds, 0.1)
        found = {"blocks": blocks, "seconds": seconds, "failed": run["failed"], "memory": peak([process.pid]), "books": get(port, "/state")}
        kinds = {kind: [row for row in run["rounds"] if row["kind"] == kind] for kind in ("off", "on", "off again")}
        for key in ["per_second", "p50_us", "p99_us", "cpu_us"]:
            found[key] = {kind: statistics.median(row[key] for row in rows) for kind, rows in kinds.items()}
            for kind in ("on", "off again"):
                ratios = [row[key] / off[key] for row, off in zip(kinds[kind], kinds["off"])]
                found.setdefault(f"{key}_ratio", {})[kind] = spread(ratios)
        return found


def whole(program: str, share: float, lengths: list[float], folder: pathlib.Path) -> list[dict]:
    """Loads of which the sink takes a tenth: what is whole of what is kept, from the first request of the first on."""
    rate = calm(program, folder)
    with contextlib.ExitStack() as stack:
        process, port, sink = slow(rig := Rig(program, folder, stack), rate, share)
        found = []
        for length in lengths:
            get(sink, "/report", "DELETE")
            before, run = get(port, "/state"), rig.load(port, length)
            empty(port)
            after = get(port, "/state")
            dropped = {reason: count - before["dropped"].get(reason, 0) for reason, count in after["dropped"].items()}
            found.append({"seconds": run["seconds"], "failed": run["failed"], "memory": peak([process.pid]), "sampled": after["sampled"] - before["sampled"],
                          "mirrored": after["mirrored"] - before["mirrored"], "dropped": dropped, **settled(sink)})
        return found


# How many blocks are measured of each case; a block takes 1.4 s.
CASES = {"dead": 72, "stalled": 72, "slow sink": 36}


def picture(rows: list[dict]) -> str:
    """Bars of requests a second and of p99, a group for each system; an SVG by hand, so that nothing has to be installed."""
    colours = {"healthy": "#2f7d5b", "dead": "#3a66a8", "stalled": "#c2542d"}
    width, left, group, bar = 960, 190, 84, 20
    height = 66 + len(SYSTEMS) * group

    def panel(x: int, span: int, key: str, title: str, log: bool) -> list[str]:
        import math
        value = (lambda v: math.log10(max(v, 1.0)) - 1.5) if log else (lambda v: v)
        most = max(value(row[key]) for row in rows)
        out = [f'<text x="{x}" y="52" class="h">{title}</text>']
        for row in rows:
            y = 66 + SYSTEMS.index(row["system"]) * group + STATES.index(row["state"]) * (bar + 3)
            size = max(1.0, value(row[key]) / most * (span - 90))
            shown = f'{row[key]:,.0f}' if key == "per_second" else micros(row[key])
            out += [f'<rect x="{x}" y="{y}" width="{size:.1f}" height="{bar}" fill="{colours[row["state"]]}"/>',
                    f'<text x="{x + size + 6:.1f}" y="{y + 15}">{shown}</text>']
        return out

    legend = [f'<rect x="{left + 110 * at}" y="14" width="14" height="14" fill="{colour}"/><text x="{left + 20 + 110 * at}" y="26">{state}</text>'
              for at, (state, colour) in enumerate(colours.items())]
    names = [f'<text x="{left - 12}" y="{66 + at * group + 38}" text-anchor="end" class="n">{name}</text>' for at, name in enumerate(SYSTEMS)]
    lines = [f'<line x1="16" x2="{width - 16}" y1="{58 + at * group}" y2="{58 + at * group}" stroke="#ddd"/>' for at in range(len(SYSTEMS))]
    body = "\n".join([*lines, *legend, *names, *panel(left, 370, "per_second", "requests a second", False),
                      *panel(left + 390, 370, "p99_us", "p99 (logarithmic)", True)])
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">\n'
            f'<style>text{{font:13px sans-serif;fill:#222}}.h{{font-weight:bold}}.n{{font-size:14px}}</style>\n'
            f'<rect width="{width}" height="{height}" fill="#fff"/>\n{body}\n</svg>\n')


def micros(value: float) -> str:
    return f"{value:,.0f} µs" if value < 1_000 else f"{value / 1_000:,.1f} ms" if value < 100_000 else f"{value / 1_000:,.0f} ms"


def percent(ratio: float) -> str:
    return f"{(ratio - 1) * 100:+.1f} %"


def page(rows: list[dict], under: dict, kept: dict) -> str:
    head = subprocess.run([nginx_program(), "-v"], stderr=subprocess.PIPE, text=True, check=True).stderr.strip().split("/")[-1]
    server = subprocess.run([os.environ.get("TEST_NATS_SERVER") or "nats-server", "-v"], stdout=subprocess.PIPE, text=True, check=True)
    lines = ["""# Mirrors, head to head

Written by `python3 benches/mirrors.py`, which measures all of it again. Do not edit; figures: `mirrors.json`.

The same POSTs of 1 KiB over 32 connections, as fast as answers come; a tenth is mirrored. The primary has one core and one
thread, load and sink the other core. ShadowLayer mirrors one trace in ten, whole. The naive mirror (a task for each copy,
10 s patience) and nginx (`split_clients`, its usual recipe) mirror one request in ten. nginx is a proxy, so it is compared
with itself without a mirror. Work is the processor time that the mirroring process (axum's, or nginx') spends on one request.
A share of what ShadowLayer and the naive mirror add to it is axum's own: each layer of a router boxes service and body anew.
What the mirror itself adds stands below, measured against the same server with its share at 0.

![requests a second and p99](mirrors.svg)

| mirror | sink | requests/s | p50 | p99 | work | failed | peak memory | copies | traces kept | of them whole |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"""]
    for row in rows:
        mirrors = row["system"] not in ("bare axum", "nginx, no mirror")
        whole = f"{row['whole'] / row['traces'] * 100:.2f} %" if row["traces"] else "none"
        lines.append(f"| {row['system']} | {row['state']} | {row['per_second']:,.0f} | {micros(row['p50_us'])} | {micros(row['p99_us'])} | "
                     f"{row['cpu_us']:.1f} µs | {row['failed']} | {row['memory']:.0f} MiB | " + (f"{row['copies']:,} | {row['traces']:,} | {whole} |" if mirrors else " | | |"))
    of_one = next(iter(under.values()))
    blocks = " and ".join(f"{found['blocks']} blocks ({case})" for case, found in under.items())
    lines.append(f"""
With a sink that is dead nothing can be kept. With one that is stalled, what is kept is what was on its way when it
stopped, and what is delivered after it goes on. An HTTP service that goes on also reads the few copies that were in its
sockets; they had timed out, so the mirror has counted them as lost.

## On and off in one process

The share of one running server is switched between a tenth and nothing (`ShadowHandle::set_percent`) under a load that never
stops: {blocks} of three rounds of {of_one['seconds']:g} s, off, on and off again, in every order. A ratio is that to the first off of
its block, the median of all blocks (in brackets: between what it lies in 19 of 20 such runs); that of the second off is the
run's own noise. Dead and stalled: a nats-server, killed and stopped with SIGSTOP. Slow sink: an HTTP service that takes a
tenth of what is chosen; the copies that it does take are sent by the primary's own thread, which is what they cost: a sink that
works, at ten times too much, and not one that is dead or stalled. Work is the processor time of
the primary's process for one request, mirroring included.

| sink | measure | off | on | against off | off again, against off |
| --- | --- | ---: | ---: | ---: | ---: |""")

    def against(ratio: dict) -> str:
        return f"{percent(ratio['median'])} ({percent(ratio['low'])} to {percent(ratio['high'])})"

    for case, found in under.items():
        for key, name, shown in [("per_second", "requests/s", "{:,.0f}".format), ("p50_us", "p50", micros), ("p99_us", "p99", micros),
                                 ("cpu_us", "work", "{:.2f} µs".format)]:
            ratio = found[f"{key}_ratio"]
            lines.append(f"| {case} | {name} | {shown(found[key]['off'])} | {shown(found[key]['on'])} | {against(ratio['on'])} | {against(ratio['off again'])} |")
    memory = ", ".join(f"{case} {found['memory']:.0f} MiB" for case, found in under.items())
    failed = sum(found["failed"] for found in under.values())
    lines.append(f"""
Requests that failed: {failed}. The budget of the queue is 32 MiB and 4,096 copies; peak memory of the whole process: {memory}.

## What is whole of what is kept

Two hundred traces of twenty requests are under way at any time; the sink takes a tenth of what is chosen. "A tenth" and
"all": of the traffic, each with a server of its own, from its first request on.

| chosen | seconds | sampled | mirrored | dropped | failed | peak memory | traces kept | of them whole |
| --- | --- | ---: | ---: | --- | ---: | ---: | ---: | ---: |""")
    for name, rows in kept.items():
        begun = 0.0
        for row in rows:
            dropped = ", ".join(f"{reason} {count:,}" for reason, count in row["dropped"].items() if count)
            lines.append(f"| {name} | {begun:.0f} to {begun + row['seconds']:.0f} | {row['sampled']:,} | {row['mirrored']:,} | {dropped} | {row['failed']} | "
                         f"{row['memory']:.0f} MiB | {row['traces']:,} | {row['whole'] / max(row['traces'], 1) * 100:.2f} % |")
            begun += row["seconds"]
        traces = sum(row["traces"] for row in rows)
        lines.append(f"| {name} | together | | | | | | {traces:,} | {sum(row['whole'] for row in rows) / max(traces, 1) * 100:.2f} % |")
    lines.append(f"""
Were a tenth of the copies kept by chance, not one trace in 10^20 would be whole.

nginx {head}, {server.stdout.strip()}, {os.cpu_count()} cores, Linux {os.uname().release}.
""")
    return "\n".join(lines)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--check", action="store_true", help="seconds instead of minutes; writes nothing")
    arguments.add_argument("--part", choices=["peers", "paired", "whole", "page"], help="measure one part, or write the page of what was measured")
    given = arguments.parse_args()
    kept = pathlib.Path(os.environ.get("MIRRORS_JSON") or DOCS / "mirrors.json")
    found = json.loads(kept.read_text()) if kept.exists() and given.part and not given.check else {}
    program = built() if given.part != "page" else ""
    seconds = 0.5 if given.check else 4.0
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        if given.part in (None, "peers"):
            found["peers"] = []
            for state in STATES:
                # What mirrors nothing is measured three times too: it shows the run's noise.
                for system in SYSTEMS:
                    row = measure(program, system, state, seconds, pathlib.Path(folder))
                    print(json.dumps(row), flush=True)
                    found["peers"].append(row)
        if given.part in (None, "paired"):
            found["paired"] = {}
            for case, blocks in CASES.items():
                found["paired"][case] = paired(program, case, 1 if given.check else blocks, seconds / 10, pathlib.Path(folder))
                print(case, json.dumps(found["paired"][case], indent=1), flush=True)
        if given.part in (None, "whole"):
            found["whole"] = {}
            for name, share in [("a tenth", 0.1), ("all", 1.0)]:
                found["whole"][name] = whole(program, share, [seconds / 2, 4 * seconds], pathlib.Path(folder))
                print(name, json.dumps(found["whole"][name]), flush=True)
    if given.check:
        broken = [row for row in found.get("peers", []) if row["failed"] and "nginx" not in row["system"] and row["system"] != "tokio::spawn"]
        lost = [row for row in found.get("peers", []) if row["system"].startswith("ShadowLayer") and row["state"] == "healthy"
                and (not row["traces"] or row["whole"] != row["traces"])]
        broken += [case for case, row in found.get("paired", {}).items() if row["failed"]]
        lost += [(name, row) for name, rows in found.get("whole", {}).items() for row in rows if not row["traces"] or row["whole"] < 0.99 * row["traces"]]
        print("broken:", broken, lost)
        return 1 if broken or lost else 0
    if not found:
        print(f"nothing is measured yet: {kept} is not there")
        return 1
    kept.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if {"peers", "paired", "whole"} <= found.keys():
        (DOCS / "mirrors.svg").write_text(picture(found["peers"]), encoding="utf-8")
        (DOCS / "mirrors.md").write_text(page(found["peers"], found["paired"], found["whole"]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
