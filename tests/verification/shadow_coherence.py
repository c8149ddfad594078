"""Mirroring is coherent, seen from outside (issue 6): every trace is mirrored whole or not at all, whatever carries it.

    ./tests/run.sh python, or:  TEST_GATEWAY=target/debug/arqon-gateway target/tools/venv/bin/python tests/verification/shadow_coherence.py

Two gateway processes on one nats-server; traces of 20 requests each, which PyPI's xxhash sorts in and out beforehand, over
8 connections: 3 HTTP/1.1 (http.client), 3 HTTP/2 with prior knowledge (h2), 2 WebSockets (websockets), half of them to each
gateway. Every request of a trace takes any of the 8. The second gateway is restarted twice while requests run:

- with SIGTERM after a third: it drains. No exception is allowed for.
- with SIGKILL after two thirds. Copies that it had not written yet die with it, though their requests were answered: delivery
  is at most once. Those answered within the second before the kill are counted apart, and printed; no others may be missing.

A request without an answer (either time), or with 503, is sent again through the other gateway. So it may be there twice; no
other may. 1,000 traces; with TEST_LONG=1 10,000. TEST_SEED: other traces. Ends with "N passed, N failed".
"""

import asyncio
import base64
import collections
import http.client
import json
import os
import pathlib
import random
import signal
import subprocess
import tempfile
import time
import traceback
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import nats
import websockets
import xxhash

from _nats import free_port, nats_server

ROOT = pathlib.Path(__file__).resolve().parents[2]
GATEWAY = os.environ.get("TEST_GATEWAY") or str(ROOT / "target" / "debug" / "arqon-gateway")
TRACES = 10_000 if os.environ.get("TEST_LONG") else 1_000
REQUESTS = 20
TOTAL = TRACES * REQUESTS
PERCENT, SEED = 10, 4242
LOST_WITHIN = 1.0  # seconds before the SIGKILL
PATIENCE = 900 if os.environ.get("TEST_LONG") else 90  # seconds, for all requests; 15 on two idle cores
SUFFIXES = ["orders.created", "orders.paid", "users", "mail.sent"]


def chosen(trace: str) -> bool:
    """The prediction: XXH3-64 of the 32 hex digits, below the share of 2^64."""
    return xxhash.xxh3_64_intdigest(trace.encode(), SEED) < int(PERCENT / 100 * 2**64)


@dataclass
class Request:
    trace: str
    number: int
    suffix: str
    span: str

    @property
    def name(self) -> str:
        return f"{self.trace}/{self.number}"

    @property
    def headers(self) -> dict:
        # Every fifth comes from a hop that propagates the other way; the key is the same.
        if self.number % 5 == 4:
            return {"x-name": self.name, "b3": f"{self.trace}-{self.span}-1"}
        return {"x-name": self.name, "traceparent": f"00-{self.trace}-{self.span}-01"}

    @property
    def body(self) -> bytes:
        return f"body of {self.name}".encode()


class Gone(Exception):
    """There is no answer, and there will be none on this connection."""


class Gateway:
    """A running `arqon-gateway serve --nats`, which can be started again at the same place."""

    def __init__(self, name: str, folder: pathlib.Path, url: str):
        self.name, self.url, self.port, self.admin = name, url, free_port(), free_port()
        self.up = asyncio.Event()
        self.config = folder / f"{name}.toml"
        self.config.write_text(f"""
[gateway]
listen = "127.0.0.1:{self.port}"
admin_listen = "127.0.0.1:{self.admin}"

[platform.mirroring]
seed = {SEED}
rules = [{{ prefix = "in.t.default.>", percent = "{PERCENT}%" }}]
""", encoding="utf-8")
        self.process = None

    async def start(self) -> None:
        self.process = subprocess.Popen([GATEWAY, "serve", "--config", str(self.config), "--nats", self.url],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 30
        while not await asyncio.to_thread(self.ready):
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"gateway {self.name} is not ready")
            await asyncio.sleep(0.05)
        self.up.set()

    async def restart(self, with_signal: signal.Signals) -> tuple[float, float]:
        """Ends it and starts it again: when the signal was sent, and before when the new process got no request."""
        self.up.clear()
        signalled = time.monotonic()
        self.process.send_signal(with_signal)
        code = await asyncio.to_thread(self.process.wait, 30)
        wanted = 0 if with_signal == signal.SIGTERM else -with_signal
        assert code == wanted, f"gateway {self.name} ended with {code}, not {wanted}"
        await self.start()
        return signalled, time.monotonic()

    def get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def ready(self) -> bool:
        try:
            return self.get("/readyz")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def books(self) -> dict:
        return json.loads(self.get("/v1/state")[1])["mirroring"]


class Connection:
    """One connection after the other to one gateway; `width` requests under way at once. `exchange` gives the status."""

    protocol, width = "", 8

    def __init__(self, gateway: Gateway, run: "Run"):
        self.gateway, self.run, self.waiting = gateway, run, asyncio.Queue()
        self.open, self.opening, self.answered = False, asyncio.Lock(), 0

    async def work(self) -> None:
        while True:
            request = await self.waiting.get()
            try:
                await self.ensure_open()
                status = await asyncio.wait_for(self.exchange(request), 30)
            except (Gone, OSError, TimeoutError):
                self.open = False
                self.run.again(request, self)
                continue
            if status == 503:
                self.run.again(request, self)
            else:
                self.answered += 1
                self.run.answered(request, status, self)

    async def ensure_open(self) -> None:
        async with self.opening:
            while not self.open:
                await self.gateway.up.wait()
                try:
                    await self.connect()
                    self.open = True
                except OSError:
                    await asyncio.sleep(0.05)


class Http1(Connection):
    protocol, width = "HTTP/1.1", 1

    async def connect(self) -> None:
        self.client = http.client.HTTPConnection("127.0.0.1", self.gateway.port, timeout=30)
        await asyncio.to_thread(self.client.connect)
        # A connection that is lost is not silently made anew within a request.
        self.client.auto_open = 0

    async def exchange(self, request: Request) -> int:
        try:
            return await asyncio.to_thread(self.ask, request)
        except (OSError, http.client.HTTPException) as error:
            self.client.close()
            raise Gone from error

    def ask(self, request: Request) -> int:
        self.client.request("POST", f"/v1/publish/{request.suffix}", request.body, request.headers)
        response = self.client.getresponse()
        response.read()
        if response.will_close:
            self.client.close()
        return response.status


class Answering(Connection):
    """Answers come in any order, to whoever waits under their id."""

    def expect(self, key) -> asyncio.Future:
        return self.answers.setdefault(key, asyncio.get_running_loop().create_future())

    def lose(self) -> None:
        """Nobody gets an answer any more."""
        self.open = False
        for answer in self.answers.values():
            if not answer.done():
                answer.set_exception(Gone())
        self.answers = {}

    def answer(self, key, status: int) -> None:
        future = self.answers.pop(key, None)
        if future and not future.done():
            future.set_result(status)


class Http2(Answering):
    protocol = "HTTP/2"

    async def connect(self) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.gateway.port)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.answers, self.statuses = {}, {}
        self.h2.initiate_connection()
        self.writer.write(self.h2.data_to_send())
        self.reading = asyncio.create_task(self.read(self.reader, self.h2))

    async def exchange(self, request: Request) -> int:
        try:
            stream = self.h2.get_next_available_stream_id()
            self.h2.send_headers(stream, [
                (":method", "POST"), (":scheme", "http"), (":authority", f"127.0.0.1:{self.gateway.port}"),
                (":path", f"/v1/publish/{request.suffix}"), *request.headers.items()])
            self.h2.send_data(stream, request.body, end_stream=True)
        except h2.exceptions.H2Error as error:
            raise Gone from error
        answer = self.expect(stream)
        self.writer.write(self.h2.data_to_send())
        return await answer

    async def read(self, reader, connection) -> None:
        try:
            while data := await reader.read(65_536):
                for event in connection.receive_data(data):
                    if isinstance(event, h2.events.ResponseReceived):
                        self.statuses[event.stream_id] = int(dict(event.headers)[":status"])
                    elif isinstance(event, h2.events.DataReceived):
                        connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    elif isinstance(event, h2.events.StreamEnded):
                        self.answer(event.stream_id, self.statuses.pop(event.stream_id))
                    elif isinstance(event, h2.events.StreamReset) and (lost := self.answers.pop(event.stream_id, None)):
                        lost.set_exception(Gone())
                self.writer.write(connection.data_to_send())
        except (OSError, h2.exceptions.H2Error):
            pass
        self.writer.close()
        self.lose()


class WebSocket(Answering):
    protocol = "WebSocket"

    async def connect(self) -> None:
        try:
            self.socket = await websockets.connect(f"ws://127.0.0.1:{self.gateway.port}/v1/ws", subprotocols=["arqon.v1.json"])
        except websockets.WebSocketException as error:
            raise OSError from error
        self.answers = {}
        self.reading = asyncio.create_task(self.read(self.socket))

    async def exchange(self, request: Request) -> int:
        answer = self.expect(request.name)
        try:
            await self.socket.send(json.dumps({
                "id": request.name, "subject": request.suffix, "headers": request.headers,
                "payload": base64.b64encode(request.body).decode()}))
        except websockets.ConnectionClosed:
            self.lose()
        return await answer

    async def read(self, socket) -> None:
        try:
            async for text in socket:
                frame = json.loads(text)
                self.answer(frame["id"], 202 if "ack" in frame else frame["nack"]["status"])
        except websockets.ConnectionClosed:
            pass
        self.lose()


@dataclass
class Seen:
    """What came out on NATS, by the name of the request."""

    primary: collections.Counter = field(default_factory=collections.Counter)
    copies: collections.Counter = field(default_factory=collections.Counter)
    wrong: list = field(default_factory=list)
    lasts: int = 0

    async def on_primary(self, message) -> None:
        headers = message.headers or {}
        self.primary[headers.get("x-name")] += 1
        if any(name.lower().startswith("x-arqon-shadow") for name in headers):
            self.wrong.append(("a primary with a mark", message.subject, headers))

    async def on_copy(self, message) -> None:
        headers = message.headers or {}
        name = headers.get("x-name", "")
        if name.endswith("/last"):
            self.lasts += 1
            return
        self.copies[name] += 1
        marks = [(key, value) for key, value in headers.items() if key.lower() == "x-arqon-shadow"]
        if (marks != [("x-arqon-shadow", "true")] or headers.get("x-arqon-shadow-of") != name.partition("/")[0]
                or message.data != f"body of {name}".encode() or message.reply):
            self.wrong.append((message.subject, headers, message.data))


class Run:
    """All requests through all connections, and both restarts."""

    def __init__(self, gateways: list[Gateway]):
        self.gateways = gateways
        kinds = [Http1, Http2, WebSocket, Http1, Http2, Http2, WebSocket, Http1]
        self.connections = [kind(gateways[place // 4], self) for place, kind in enumerate(kinds)]
        self.rng = random.Random(os.environ.get("TEST_SEED", "arqon"))
        self.traces = [f"{self.rng.getrandbits(128) | 1:032x}" for _ in range(TRACES)]
        self.requests = [
            Request(trace, number, self.rng.choice(SUFFIXES), f"{self.rng.getrandbits(64) | 1:016x}")
            for trace in self.traces for number in range(REQUESTS)]
        self.rng.shuffle(self.requests)
        self.done = {}  # name: (gateway, time)
        self.refused = []
        self.retried = set()
        self.restarted = []  # of each restart: when the signal was sent, when the new process was ready

    def answered(self, request: Request, status: int, connection: Connection) -> None:
        if status != 202:
            self.refused.append((request.name, status, connection.protocol))
        self.done[request.name] = (connection.gateway, time.monotonic())
        self.moved()

    def again(self, request: Request, connection: Connection) -> None:
        self.retried.add(request.name)
        others = [other for other in self.connections
                  if other.protocol == connection.protocol and other.gateway is not connection.gateway]
        self.rng.choice(others).waiting.put_nowait(request)

    def moved(self) -> None:
        if len(self.done) in (TOTAL // 3, 2 * TOTAL // 3, TOTAL):
            self.marks[len(self.done)].set()

    async def go(self) -> None:
        self.marks = collections.defaultdict(asyncio.Event)
        for request in self.requests:
            self.rng.choice(self.connections).waiting.put_nowait(request)
        workers = [asyncio.create_task(connection.work())
                   for connection in self.connections for _ in range(connection.width)]
        restarts = asyncio.create_task(self.restarts())
        try:
            async with asyncio.timeout(PATIENCE):
                await self.marks[TOTAL].wait()
                await restarts
        finally:
            for task in [*workers, restarts]:
                task.cancel()

    async def restarts(self) -> None:
        await self.marks[TOTAL // 3].wait()
        self.restarted.append(await self.gateways[1].restart(signal.SIGTERM))
        await self.marks[2 * TOTAL // 3].wait()
        self.restarted.append(await self.gateways[1].restart(signal.SIGKILL))

    async def last_copies(self, seen: Seen) -> None:
        """A copy through each gateway, behind all others of its connection to NATS: what is not there then never comes."""
        trace = next(trace for trace in self.traces if chosen(trace))
        for gateway in self.gateways:
            connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
            connection.request("POST", "/v1/publish/last", b"", {"traceparent": f"00-{trace}-00000000000000ff-01", "x-name": f"{trace}/last"})
            assert connection.getresponse().status == 202
            connection.close()
        end = time.monotonic() + 20
        while seen.lasts < len(self.gateways):
            if time.monotonic() > end:
                return print(f"{seen.lasts} of the last copies came within 20 s")
            await asyncio.sleep(0.02)

    def counted_apart(self, seen: Seen) -> set[str]:
        """Answered by the killed process in its last second, and no copy came out."""
        killed, back = self.restarted[1]
        return {name for name, (gateway, at) in self.done.items()
                if gateway is self.gateways[1] and killed - LOST_WITHIN <= at <= back
                and name not in self.retried and chosen(name.partition("/")[0]) and name not in seen.copies}


def every_trace_is_whole_or_absent(run: Run, seen: Seen) -> None:
    """Every trace is mirrored with all of its 20 requests or with none."""
    apart, by_trace = run.counted_apart(seen), collections.Counter()
    for name in [*seen.copies, *apart]:
        by_trace[name.partition("/")[0]] += 1
    torn = {trace: count for trace, count in by_trace.items() if count != REQUESTS}
    assert not torn, torn


def the_set_is_what_xxhash_predicts(run: Run, seen: Seen) -> None:
    """The mirrored traces are exactly those that PyPI's xxhash predicts."""
    predicted = {trace for trace in run.traces if chosen(trace)}
    mirrored = {name.partition("/")[0] for name in seen.copies}
    assert predicted == mirrored and 0 < len(predicted) < TRACES, (predicted - mirrored, mirrored - predicted)


def copies_are_marked_and_single(run: Run, seen: Seen) -> None:
    """A copy is marked once, names its trace and has the body of its request; only what was sent again is there twice."""
    assert not seen.wrong, seen.wrong[:3]
    twice = {name for name, count in seen.copies.items() if count > 1} - run.retried
    assert not twice, twice


def every_primary_arrived(run: Run, seen: Seen) -> None:
    """Every request was answered 202 and is on its primary subject, once unless it was sent again."""
    assert not run.refused, run.refused[:5]
    missing = {request.name for request in run.requests} - set(seen.primary)
    twice = {name for name, count in seen.primary.items() if count > 1 and not name.endswith("/last")} - run.retried
    assert not missing and not twice, (missing, twice)


def the_books_say_the_same(run: Run, seen: Seen) -> None:
    """The gateway that ran all the time counted each of its chosen requests, mirrored all and dropped none."""
    books = run.gateways[0].books()
    own = sum(chosen(name.partition("/")[0]) for name, (gateway, _) in run.done.items() if gateway is run.gateways[0])
    assert books["sampled"] == books["mirrored"] == own + 1, (books, own)
    assert not any(books["dropped"].values()) and books["no_key"] == 0, books


def the_restarts_were_felt(run: Run, seen: Seen) -> None:
    """Every connection carried requests, those of the restarted gateway before and after each restart."""
    assert all(connection.answered for connection in run.connections)
    first, second = (signalled for signalled, _ in run.restarted)
    at = sorted(when for gateway, when in run.done.values() if gateway is run.gateways[1])
    assert at[0] < first and any(run.restarted[0][1] < when < second for when in at) and at[-1] > run.restarted[1][1], at[-1]
    assert run.retried, "the restarts hit nothing that was under way"


async def main() -> bool:
    failed = 0
    cases = [every_trace_is_whole_or_absent, the_set_is_what_xxhash_predicts, copies_are_marked_and_single,
             every_primary_arrived, the_books_say_the_same, the_restarts_were_felt]
    with nats_server() as url, tempfile.TemporaryDirectory() as folder:
        gateways = [Gateway(name, pathlib.Path(folder), url) for name in ("one", "two")]
        client = await nats.connect(url)
        seen = Seen()
        try:
            await client.subscribe("in.t.default.>", cb=seen.on_primary, pending_msgs_limit=-1, pending_bytes_limit=-1)
            await client.subscribe("shadow.in.t.default.>", cb=seen.on_copy, pending_msgs_limit=-1, pending_bytes_limit=-1)
            await client.flush()
            for gateway in gateways:
                await gateway.start()
            run, begun = Run(gateways), time.monotonic()
            await run.go()
            took = time.monotonic() - begun
            await run.last_copies(seen)
            carried = collections.Counter()
            for connection in run.connections:
                carried[connection.protocol] += connection.answered
            apart = run.counted_apart(seen)
            print(f"{TRACES} traces x {REQUESTS} in {took:.1f} s: {dict(carried)}, sent again {len(run.retried)}")
            print(f"copies {sum(seen.copies.values())} of {sum(map(chosen, run.traces))} traces; "
                  f"counted apart, lost with the killed process: {len(apart)} {sorted(apart)[:5]}")
            for case in cases:
                try:
                    case(run, seen)
                    print(f"ok      {case.__name__}: {case.__doc__}")
                except Exception:  # noqa: BLE001 - every case runs, whatever the one before did
                    failed += 1
                    print(f"FAILED  {case.__name__}: {case.__doc__}\n{traceback.format_exc()}")
        finally:
            await client.close()
            for gateway in gateways:
                if gateway.process and gateway.process.poll() is None:
                    gateway.process.kill()
                    gateway.process.wait()
    print(f"{len(cases) - failed} passed, {failed} failed")
    return failed == 0


if __name__ == "__main__":
    raise SystemExit(not asyncio.run(main()))
