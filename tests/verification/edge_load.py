"""What must not be lost while a gateway under load is reloaded, loses its nats-server and is drained; and what idle WebSockets take.

    ./tests/run.sh python, or:  TEST_GATEWAY=target/debug/arqon-gateway target/tools/venv/bin/python tests/verification/edge_load.py

The short form (300 requests a second, 500 sockets, 36 reloads) is part of the tests; `TEST_EDGE_LONG=1` asks for 2,000 requests a
second, 10,000 sockets and 1,000 reloads of which 100 are of bad files, for which a release build and two descriptors a socket (`ulimit -n 20100`, said at the start) are needed. Figures are
printed; what fails a case is a lost message, a request without an answer, an answer that is no 202 and no 503 with its problem, and
more than 64 KiB an idle socket. Ends with "N passed, N failed".
"""

import asyncio
import contextlib
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import tempfile
import time

import nats
import nats.js.api

from _edge import GATEWAY, ROOT, Cases, Gateway
from _nats import free_port, tell, wait_until_open

LONG = bool(os.environ.get("TEST_EDGE_LONG"))
RATE, SOCKETS, SECONDS = (2_000, 10_000, 5.0) if LONG else (300, 500, 1.5)
RELOADS, BAD_EVERY = (1_000, 10) if LONG else (36, 3)
CONNECTIONS = 32
KIB_MAX = 64
cases = Cases()


class NatsServer:
    """A nats-server of our own, with a store that outlives it: it is stopped and started again."""

    def __init__(self, folder):
        self.port, self.store = free_port(), pathlib.Path(folder) / "nats"
        self.program = os.environ.get("TEST_NATS_SERVER") or str(pathlib.Path(sys.executable).with_name("nats-server"))
        self.url = f"nats://127.0.0.1:{self.port}"
        self.process = None
        tell(f"nats: binary {self.program}") if not os.environ.get("TEST_NATS_IMAGE") else None

    def start(self):
        """Until it takes connections."""
        self.process = subprocess.Popen([self.program, "-js", "-a", "127.0.0.1", "-p", str(self.port), "-sd", str(self.store)],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until_open(self.port)

    def stop(self, how=signal.SIGTERM):
        """Ends it."""
        self.process.send_signal(how)
        self.process.wait(20)


class Load:
    """So many publishes a second over connections that live, each with an id of its own, and what became of each."""

    def __init__(self, gateway, what, rate):
        self.gateway, self.what, self.rate, self.stopped = gateway, what.replace(" ", "-"), rate, False
        self.outcomes, self.refused_connects, self.slowest = {}, 0, 0.0

    async def run(self):
        """Until `stopped`."""
        await asyncio.gather(*(self.client(n) for n in range(CONNECTIONS)))

    async def client(self, number):
        pause, count = CONNECTIONS / self.rate, 0
        due, stream = time.monotonic() + pause * number / CONNECTIONS, None
        while not self.stopped:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due = max(due + pause, time.monotonic() - 1)
            if stream is None:
                try:
                    stream = await asyncio.open_connection("127.0.0.1", self.gateway.port)
                except OSError:
                    # Nothing was asked: whoever cannot connect asks elsewhere.
                    self.refused_connects += 1
                    continue
            count += 1
            name = f"{self.what}-{number}-{count}"
            sent = time.monotonic()
            try:
                outcome, closes = await asyncio.wait_for(self.publish(stream, name), 30)
            except (OSError, EOFError, asyncio.TimeoutError) as error:
                outcome, closes = f"no answer: {type(error).__name__}", True
            self.slowest = max(self.slowest, time.monotonic() - sent)
            self.outcomes[name] = outcome
            if closes:
                stream[1].close()
                stream = None
        if stream:
            stream[1].close()

    async def publish(self, stream, name):
        """What the answer was, and whether the connection is at its end."""
        reader, writer = stream
        body = name.encode()
        writer.write(b"POST /v1/publish/load HTTP/1.1\r\nHost: x\r\nNats-Msg-Id: %s\r\nContent-Length: %d\r\n\r\n%s" % (body, len(body), body))
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        lines = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        said = await reader.readexactly(int(lines["content-length"]))
        status = int(head.split(" ")[1])
        if status == 503:
            problem = json.loads(said)
            outcome = f"503 {problem['code']}" + (" retry-after" if "retry-after" in lines else "")
        else:
            outcome = status
        return outcome, lines.get("connection") == "close"

    def count(self):
        """Outcomes and how many had each."""
        counts = {}
        for outcome in self.outcomes.values():
            counts[str(outcome)] = counts.get(str(outcome), 0) + 1
        return counts


@contextlib.asynccontextmanager
async def load(gateway, what, allowed):
    """Load while the body runs; then the outcomes are judged, and told."""
    generator, started = Load(gateway, what, RATE), time.monotonic()
    running = asyncio.create_task(generator.run())
    try:
        yield generator
    finally:
        generator.stopped = True
        await running
    took, counts = time.monotonic() - started, generator.count()
    answered = {name for name in counts if name != "202"}
    print(f"{what}: {len(generator.outcomes) / took:.0f} requests/s for {took:.1f} s: {counts}, slowest {generator.slowest * 1e3:.0f} ms, "
          f"{generator.refused_connects} connections refused")
    cases.check(counts.get("202", 0) > RATE / 4, f"{what}: there was a load")
    cases.check(answered <= set(allowed), f"{what}: answers {answered - set(allowed)}")


async def stored(url):
    """The payloads that the stream holds."""
    client = await nats.connect(url)
    stream = client.jetstream()
    left = (await stream.stream_info("ARQON_IN")).state.messages
    unacknowledged = nats.js.api.ConsumerConfig(ack_policy=nats.js.api.AckPolicy.NONE)
    consumer = await stream.pull_subscribe("in.t.>", stream="ARQON_IN", config=unacknowledged)
    found = []
    while len(found) < left:
        batch = await consumer.fetch(min(500, left - len(found)), timeout=10)
        found += [message.data.decode() for message in batch]
    await client.close()
    return found


def bad_files(text):
    """Files that change nothing, each with its name and what the error has to say: the line where the text itself is broken, else the
    key (and, where there is one, the value)."""
    lines = text.count("\n")
    half = text[:len(text) // 2] + '"'
    return [
        ("broken syntax", text + "[[", f"line {lines + 1}, "), ("cut off", half, "line "), ("empty", "", "is empty"),
        ("an unknown key", text + "\n[bus]\ncapacityy = 2\n", "bus.capacityy"),
        ("a wrong type", text.replace("percent = 0.10", 'percent = []'), "platform.mirroring.rules[0].percent"),
        ("more than all", text.replace("percent = 0.10", "percent = 1.5"), "platform.mirroring.rules[0].percent"),
        ("not a number", text.replace("percent = 0.10", "percent = nan"), "platform.mirroring.rules[0].percent"),
        ("a bad pattern", text.replace("in.t.default.>", "in.t.*x.>"), "platform.mirroring.rules[0].prefix"),
        ("no such policy", text.replace('"block_me.wat"', '"nowhere.wat"'), "nowhere.wat"),
        ("what needs a restart", text + "\n[bus]\ncapacity = 512\n", "bus.capacity needs a restart"),
        ("not UTF-8", text + "#\udcff\n", "UTF-8"), ("a key twice", text + "\n[nats]\nurl = 'nats://127.0.0.1:1'\n", f"line {lines + 2}, "),
    ]


async def faults(gateway, server):
    """A reload, a restart of NATS, a kill of NATS and a drain under load."""
    acknowledged = set()

    def keep(generator):
        acknowledged.update(name for name, outcome in generator.outcomes.items() if outcome == 202)

    config = gateway.folder / "gateway.toml"
    text = config.read_text(encoding="utf-8")
    unavailable = ["503 publish.unavailable retry-after", "503 publish.unavailable"]

    def state():
        return json.loads(gateway.operate("GET", "/v1/state")[1])["config"]

    bad, reached = bad_files(text), set()
    async with load(gateway, "reload", []) as generator:
        for turn in range(RELOADS):
            before, is_bad = await asyncio.to_thread(state), turn % BAD_EVERY == 1
            good = ("good", text.replace("percent = 0.10", f"percent = 0.{1 + turn:04}"), "")
            name, content, said = bad[turn // BAD_EVERY % len(bad)] if is_bad else good
            config.write_bytes(content.encode(errors="surrogateescape"))
            gateway.process.send_signal(signal.SIGHUP)
            end = time.monotonic() + 20
            while (after := await asyncio.to_thread(state)) == before and time.monotonic() < end:
                await asyncio.sleep(0.01)
            if is_bad:
                cases.check(after["refused"] and after["version"] == before["version"], f"reload {turn}, {name}: {before} {after}")
                cases.check(said in (after["refused"] or ""), f"reload {turn}, {name}: no {said!r} in {after['refused']!r}")
                reached.add(name)
            else:
                cases.check(not after["refused"] and after["version"] > before["version"], f"reload {turn}: {before} {after}")
        cases.same(sorted(reached), sorted(name for name, *_ in bad), "bad files that were tried")
        config.write_text(text, encoding="utf-8")
        gateway.process.send_signal(signal.SIGHUP)
        await asyncio.sleep(SECONDS / 2)
    print(f"{RELOADS} reloads, of which every {BAD_EVERY}. of a bad file: {await asyncio.to_thread(state)}")
    keep(generator)

    for what, how in {"restart of NATS": signal.SIGTERM, "kill of NATS": signal.SIGKILL}.items():
        async with load(gateway, what, unavailable) as generator:
            await asyncio.sleep(SECONDS / 2)
            await asyncio.to_thread(server.stop, how)
            await asyncio.sleep(SECONDS / 2)
            await asyncio.to_thread(server.start)
            end = time.monotonic() + 20
            while (await asyncio.to_thread(gateway.operate, "GET", "/readyz"))[0] != 200:
                cases.check(time.monotonic() < end, f"{what}: ready again")
                if time.monotonic() > end:
                    break
                await asyncio.sleep(0.1)
            await asyncio.sleep(SECONDS / 2)
        keep(generator)
        cases.check(any(name in generator.count() for name in unavailable), f"{what}: it was noticed")

    async with load(gateway, "drain", unavailable) as generator:
        await asyncio.sleep(SECONDS)
        started = time.monotonic()
        gateway.process.send_signal(signal.SIGTERM)
        status = await asyncio.to_thread(gateway.process.wait, 40)
    print(f"drain: exit {status} after {time.monotonic() - started:.1f} s")
    cases.check(status == 0 and time.monotonic() - started < 30, "drained within 30 s, exit 0")
    keep(generator)

    found = await stored(server.url)
    twice = len(found) - len(set(found))
    lost = acknowledged - set(found)
    print(f"{len(acknowledged)} acknowledged, {len(found)} stored, {len(lost)} lost, {twice} twice")
    cases.same(len(lost), 0, "acknowledged messages that are not in the stream")


def resident(process):
    """KiB of a process that are in memory."""
    for line in pathlib.Path(f"/proc/{process.pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    return 0


async def idle(gateway, count):
    """So many sockets that say nothing: opened, measured, all of them alive, and what they took given back."""
    request = (b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
               b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: arqon.v1.json\r\n\r\n")

    async def open_one(number):
        # Some thousand ports a source address: several of loopback's.
        source = (f"127.0.{1 + number // 5_000}.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, local_addr=source, limit=4_096)
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101"), head
        return reader, writer

    async def open_many(numbers):
        opened = []
        for at in range(0, len(numbers), 100):
            opened += await asyncio.gather(*(open_one(number) for number in numbers[at:at + 100]))
        return opened

    # What the first connections take once is not theirs.
    warm = await open_many(range(100))
    before = resident(gateway.process)
    sockets = await open_many(range(100, 100 + count))
    await asyncio.sleep(0.5)
    after = resident(gateway.process)
    each = (after - before) / count
    open_now = gateway.metric("shield_gateway_sessions")
    print(f"{count} idle WebSockets: {before} KiB resident before, {after} KiB with them: {each:.1f} KiB each (wanted: at most {KIB_MAX}); "
          f"descriptor limit {resource.getrlimit(resource.RLIMIT_NOFILE)[0]}")
    cases.same(open_now, float(count + 100), "sessions that are open")
    cases.check(each <= KIB_MAX, f"{each:.1f} KiB an idle WebSocket")
    # All of them are served still: a ping in, a pong out.
    for at in range(0, count, 500):
        for _, writer in sockets[at:at + 500]:
            writer.write(b"\x89\x80\0\0\0\0")
        for reader, _ in sockets[at:at + 500]:
            while (await asyncio.wait_for(reader.readexactly(2), 20))[0] != 0x8A:
                pass
    pinged = resident(gateway.process)
    print(f"after a ping to each: {(pinged - before) / count:.1f} KiB each")
    cases.check((pinged - before) / count <= KIB_MAX, f"{(pinged - before) / count:.1f} KiB a WebSocket that was pinged")
    for _, writer in warm + sockets:
        writer.transport.abort()
    end = time.monotonic() + 20
    while gateway.metric("shield_gateway_sessions") and time.monotonic() < end:
        await asyncio.sleep(0.1)
    cases.same(gateway.metric("shield_gateway_sessions"), 0.0, "sessions once all have gone")


def main():
    """All of it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(f"{GATEWAY}; {'long' if LONG else 'short'} form; at most {hard} descriptors a process")
    quiet = {"RUST_LOG": "warn"}
    with Gateway(gateway=f"max_connections = {SOCKETS + 200}\n[gateway.websocket]\nping_seconds = 60\nidle_seconds = 600", environment=quiet) as gateway:
        asyncio.run(idle(gateway, SOCKETS))
    with tempfile.TemporaryDirectory() as folder:
        server = NatsServer(folder)
        server.start()
        try:
            block = (ROOT / "examples/policies/wat/block_me.wat").read_text(encoding="utf-8")
            config = f"""
[nats]
url = "{server.url}"
[platform.overseer]
deadline = "1s"
[[platform.overseer.policies]]
name = "block_me"
path = "block_me.wat"
[platform.mirroring]
rules = [{{ prefix = "in.t.default.>", percent = 0.10 }}]
"""
            with Gateway(config, files={"block_me.wat": block}, environment=quiet) as gateway:
                asyncio.run(faults(gateway, server))
        finally:
            if server.process.poll() is None:
                server.stop()
    cases.end()


if __name__ == "__main__":
    main()
