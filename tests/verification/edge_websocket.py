"""WebSockets, frame by frame: raw sockets for what no library sends, `websockets` and `protobuf` for what clients do.

    ./tests/run.sh python, or:  TEST_GATEWAY=target/debug/arqon-gateway target/tools/venv/bin/python tests/verification/edge_websocket.py

The raw cases are Autobahn's chapters in small: framing, pings, reserved bits, opcodes, fragmentation, UTF-8, closing, limits.
Ends with "N passed, N failed".
"""

import asyncio
import base64
import contextlib
import importlib.util
import json
import os
import signal
import socket
import struct
import threading
import time

import nats
import websockets

from _edge import ROOT, Cases, Gateway, Keys, code, statuses
from _nats import nats_server

cases = Cases()
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
PUBLISH = json.dumps({"id": 1, "subject": "users", "payload": "aGk="}).encode()
PROTOCOL = {"subprotocols": ["arqon.v1.json"]}


def frame(opcode, payload=b"", fin=True, rsv=0, masked=True, length=None, wide=0):
    """One frame, as right or as wrong as asked; `wide` forces a longer form of the length."""
    length = len(payload) if length is None else length
    head = bytes([fin << 7 | rsv << 4 | opcode])
    mask = os.urandom(4) if masked else b""
    if wide == 64 or length > 65_535:
        head += bytes([masked << 7 | 127]) + struct.pack(">Q", length)
    elif wide == 16 or length > 125:
        head += bytes([masked << 7 | 126]) + struct.pack(">H", length)
    else:
        head += bytes([masked << 7 | length])
    body = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload)) if masked else payload
    return head + mask + body


class Raw:
    """A session spoken by hand."""

    def __init__(self, gateway, headers=(), protocol="arqon.v1.json"):
        self.socket = socket.create_connection(("127.0.0.1", gateway.port), 20)
        lines = [f"Sec-WebSocket-Protocol: {protocol}"] if protocol else []
        lines += [f"{name}: {value}" for name, value in headers]
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(("GET /v1/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                             f"Sec-WebSocket-Key: {key}\r\n" + "".join(line + "\r\n" for line in lines) + "\r\n").encode())
        self.buffer = b""
        while b"\r\n\r\n" not in self.buffer:
            more = self.socket.recv(65_536)
            if not more:
                break
            self.buffer += more
        self.head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        self.status = statuses(self.head)[0]

    def send(self, *frames):
        """Sends bytes as they are."""
        with contextlib.suppress(OSError):
            self.socket.sendall(b"".join(frames))
        return self

    def next(self):
        """The next frame's opcode and payload; None at the end."""
        def need(count):
            while len(self.buffer) < count:
                more = self.socket.recv(65_536)
                if not more:
                    raise EOFError
                self.buffer += more
        try:
            need(2)
            opcode, length, at = self.buffer[0] & 15, self.buffer[1] & 127, 2
            cases.check(not self.buffer[1] & 128, "a server's frame is not masked") if self.buffer[1] & 128 else None
            if length > 125:
                size = 2 if length == 126 else 8
                need(at + size)
                length = int.from_bytes(self.buffer[at:at + size], "big")
                at += size
            need(at + length)
            payload, self.buffer = self.buffer[at:at + length], self.buffer[at + length:]
            return opcode, payload
        except (EOFError, OSError):
            return None

    def end(self):
        """All frames until the end, and the code of the close frame: None when there was none."""
        seen, ended = [], None
        while (got := self.next()) is not None:
            seen.append(got)
            if got[0] == CLOSE:
                ended = int.from_bytes(got[1][:2], "big") if len(got[1]) > 1 else 1005
                self.send(frame(CLOSE, got[1][:2]))
        self.socket.close()
        return seen, ended


def json_of(got):
    """The JSON of a text frame."""
    return json.loads(got[1]) if got and got[0] == TEXT else None


def broken(gateway):
    """What breaks RFC 6455 ends the session with the right code, and nothing of it is published."""
    protocol, size, text = 1002, 1009, 1007
    bad = {
        "an unmasked frame": (frame(TEXT, PUBLISH, masked=False), protocol),
        "a control frame without its end": (frame(PING, b"x", fin=False), protocol),
        "a ping of 126": (frame(PING, b"x" * 126), protocol),
        "a close of 126": (frame(CLOSE, struct.pack(">H", 1000) + b"x" * 124), protocol),
        "a continuation of nothing": (frame(0, b"x"), protocol),
        "a continuation of nothing that goes on": (frame(0, b"x", fin=False), protocol),
        "a text inside a text": (frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), protocol),
        "a binary inside a text": (frame(TEXT, b"a", fin=False) + frame(BINARY, b"b"), protocol),
        "a close of one byte": (frame(CLOSE, b"\x03"), protocol),
        "a frame over the cap": (frame(TEXT, b"", length=262_145, wide=64), size),
        "a frame of 2^63": (frame(TEXT, b"", length=2**63 - 1, wide=64), size),
        "a frame of 2^64": (frame(TEXT, b"", length=2**64 - 1, wide=64), (size, protocol)),
        "fragments over the cap": (frame(TEXT, b"x" * 200_000, fin=False) + frame(0, b"x" * 62_145), size),
        "binary in a text session": (frame(BINARY, PUBLISH), 1003),
        "empty binary in a text session": (frame(BINARY), 1003),
    }
    bad |= {f"reserved bits {rsv}": (frame(TEXT, PUBLISH, rsv=rsv), protocol) for rsv in range(1, 8)}
    bad |= {f"reserved bits {rsv} on a ping": (frame(PING, b"", rsv=rsv), protocol) for rsv in range(1, 8)}
    bad |= {f"the opcode {opcode}": (frame(opcode, b"x"), protocol) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)}
    bad |= {f"UTF-8 {name}": (frame(TEXT, data), text) for name, data in {
        "a lone byte": b"\xff", "a surrogate": b"\xed\xa0\x80", "over-long": b"\xc0\xaf", "too high": b"\xf4\x90\x80\x80", "cut off": b"{\xe2\x82", "a lone tail": b"\x80",
        "over-long NUL": b"\xc0\x80", "five bytes": b"\xf8\x88\x80\x80\x80", "old six": b"\xfc\x84\x80\x80\x80\x80"}.items()}
    bad["UTF-8 broken in a later fragment"] = (frame(TEXT, b'{"a":"', fin=False) + frame(0, b"\xe2\x28\xa1"), text)
    bad["UTF-8 cut off at the end of fragments"] = (frame(TEXT, b"\xe2", fin=False) + frame(0, b"\x82"), text)
    bad |= {f"the close code {code}": (frame(CLOSE, struct.pack(">H", code)), (protocol, 1005)) for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535)}
    for what, (data, expected) in bad.items():
        seen, ended = Raw(gateway).send(data, frame(TEXT, PUBLISH)).end()
        expected = expected if isinstance(expected, tuple) else (expected,)
        cases.check(ended in expected or (ended is None and expected[0] == protocol), f"{what}: {ended} instead of {expected}")
        cases.check(not any(json_of(got) and "ack" in json_of(got) for got in seen), f"{what}: something was published: {seen}")


def lawful(gateway):
    """What RFC 6455 allows is taken, and answered in order."""
    good = {
        "whole": frame(TEXT, PUBLISH),
        "a long form of the length": frame(TEXT, PUBLISH, wide=16),
        "the longest form": frame(TEXT, PUBLISH, wide=64),
        "two fragments": frame(TEXT, PUBLISH[:7], fin=False) + frame(0, PUBLISH[7:]),
        "a fragment a byte": frame(TEXT, PUBLISH[:1], fin=False) + b"".join(frame(0, bytes([byte]), fin=False) for byte in PUBLISH[1:]) + frame(0),
        "empty fragments": frame(TEXT, fin=False) + frame(0, fin=False) + frame(0, PUBLISH),
    }
    for what, data in good.items():
        raw = Raw(gateway).send(data)
        reply = json_of(raw.next())
        cases.check(reply and reply["id"] == 1 and reply["ack"]["subject"] == "in.t.default.users", f"{what}: {reply}")
        raw.socket.close()
    raw = Raw(gateway).send(frame(TEXT, PUBLISH[:7], fin=False), frame(PING, b"between"), frame(0, PUBLISH[7:]))
    cases.same(raw.next(), (PONG, b"between"), "a ping between fragments")
    cases.check("ack" in (json_of(raw.next()) or {}), "and the message is whole")
    for size in (0, 1, 125):
        raw.send(frame(PING, b"p" * size))
        cases.same(raw.next(), (PONG, b"p" * size), f"a ping of {size}")
    raw.send(*[frame(PONG, b"unasked")] * 50, *[frame(PING, b"")] * 2_000, frame(TEXT, PUBLISH))
    while (got := raw.next()) and got[0] == PONG:
        pass
    cases.check("ack" in (json_of(got) or {}), "a flood of pings is answered, and the session goes on")
    for split in range(len(data := '{"id":"é😀","subject":"a"}'.encode())):
        raw.send(frame(TEXT, data[:split], fin=False), frame(0, data[split:]))
        cases.same((json_of(raw.next()) or {}).get("id"), "é😀", f"UTF-8 split at {split}")
    # An id comes back as it was written, whatever a reader makes of it.
    for written in ("12345678901234567890123", "1e2", "-0", "1.50", '"\\u0061"', '""'):
        raw.send(frame(TEXT, f'{{"id":{written},"subject":"a"}}'.encode()))
        got = raw.next()
        cases.check(got and f'"id":{written}}}'.encode() in got[1] and b'"ack"' in got[1], f"the id {written}: {got}")
    for wrong in ("true", "false", "[]", "{}"):
        raw.send(frame(TEXT, f'{{"id":{wrong},"subject":"a"}}'.encode()))
        reply = json_of(raw.next()) or {}
        cases.same((reply.get("id"), reply.get("nack", {}).get("code")), (None, "frame.invalid"), f"the id {wrong}")
    for headers in ('{"X":"1","X":"2"}', '{"x-a":"1","X-A":"2"}', '{"X":["1"],"X":["1"]}'):
        raw.send(frame(TEXT, f'{{"id":7,"subject":"a","headers":{headers}}}'.encode()))
        reply = json_of(raw.next()) or {}
        cases.same((reply.get("id"), reply.get("nack", {}).get("code")), (7, "frame.invalid"), f"two equal names: {headers}")
    raw.send(frame(TEXT, b" " * 262_144))
    cases.same((json_of(raw.next()) or {}).get("nack", {}).get("code"), "frame.invalid", "a message at the cap")
    # One byte at a time.
    for byte in frame(TEXT, PUBLISH):
        raw.socket.sendall(bytes([byte]))
    cases.check("ack" in (json_of(raw.next()) or {}), "a byte at a time")
    raw.send(*[frame(TEXT, json.dumps({"id": n, "subject": "users"}).encode()) for n in range(300)])
    cases.same([(json_of(raw.next()) or {}).get("id") for _ in range(300)], list(range(300)), "answers come in order")
    for close in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999):
        _, ended = Raw(gateway).send(frame(CLOSE, struct.pack(">H", close) + "grüß".encode())).end()
        cases.check(ended in (close, 1000, 1005), f"a close with {close} is answered: {ended}")
    cases.check(Raw(gateway).send(frame(CLOSE)).end()[1] is not None, "a close without a code is answered")
    seen, _ = Raw(gateway).send(frame(CLOSE, struct.pack(">H", 1000)), frame(TEXT, PUBLISH)).end()
    cases.check(not any(got[0] == TEXT for got in seen), "nothing behind a close is taken")


def upgrades(gateway):
    """Who may open a session, and in which words."""
    for origins, status in (([], 101), (["https://app.example"], 101), (["https://evil.example"], 403), (["https://app.example.evil.example"], 403), (["null"], 403),
                            (["https://APP.example"], 403), (["http://app.example"], 403), (["https://app.example", "https://evil.example"], 403), ([""], 403),
                            (["https://app.example/"], 403)):
        raw = Raw(gateway, [("Origin", origin) for origin in origins])
        cases.same(raw.status, status, f"the origin {origins}")
        published = gateway.publish(headers=[("Origin", origin) for origin in origins])[0]
        cases.same(published, 202 if status == 101 else status, f"a publish from {origins}")
    for protocol, status in (("arqon.v1.json", 101), ("arqon.v1.proto", 101), ("x, arqon.v1.proto, y", 101), ("", 400), ("arqon.v2.json", 400), ("ARQON.V1.JSON", 400),
                             ("arqon.v1", 400), ("arqon.v1.json arqon.v1.proto", 400)):
        raw = Raw(gateway, protocol=protocol)
        cases.same(raw.status, status, f"the subprotocol {protocol!r}")
    cases.check(b"sec-websocket-extensions" not in Raw(gateway, [("Sec-WebSocket-Extensions", "permessage-deflate")]).head.lower(), "no compression is agreed on")
    for what, change in {"version 8": (b"Version: 13", b"Version: 8"), "no key": (b"Sec-WebSocket-Key", b"X-Key"), "no upgrade": (b"Upgrade: websocket\r\n", b""),
                         "h2c": (b"websocket\r\n", b"h2c\r\n"), "a POST": (b"GET", b"POST"), "HTTP/1.0": (b"HTTP/1.1", b"HTTP/1.0")}.items():
        data = (b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: arqon.v1.json\r\n\r\n").replace(*change)
        got = statuses(gateway.raw(data, 3))
        cases.check(got and got[0] in (400, 405, 426), f"an upgrade with {what}: {got}")


async def binary(gateway, stored=False):
    """`arqon.v1.proto` by PyPI's protobuf: the same verdicts as text, and each hears the other."""
    spec = importlib.util.spec_from_file_location("make_gateway", ROOT / "tests/vectors/make_gateway.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    client, server = make.messages()
    url = f"ws://127.0.0.1:{gateway.port}/v1/ws"
    async with websockets.connect(url, subprotocols=["arqon.v1.proto"]) as proto, websockets.connect(url, **PROTOCOL) as text:
        async def ask(**fields):
            await proto.send(client(**fields).SerializeToString())
            return server.FromString(await asyncio.wait_for(proto.recv(), 30))

        reply = await ask(id="1", subscribe={"pattern": "orders.>"})
        cases.same((reply.id, reply.subscribed.pattern), ("1", "in.t.default.orders.>"), "a subscription")
        await text.send(json.dumps({"id": 1, "subscribe": "users"}))
        await text.recv()
        await text.send(json.dumps({"id": 2, "subject": "orders.eu", "headers": {"x-a": ["1", "2"]}, "payload": "AAEC/w=="}))
        cases.check("ack" in json.loads(await text.recv()), "a text frame")
        heard = server.FromString(await asyncio.wait_for(proto.recv(), 30))
        cases.same((heard.HasField("id"), heard.delivery.subject, heard.delivery.payload, [(h.name, h.value) for h in heard.delivery.headers if h.name == "x-a"]),
                   (False, "orders.eu", b"\0\1\2\xff", [("x-a", "1"), ("x-a", "2")]), "a text frame, heard in binary")
        reply = await ask(id="é", publish={"subject": "users", "headers": [{"name": "X-B", "value": "3"}], "payload": b"\0\xff"})
        cases.same((reply.id, reply.ack.subject, reply.ack.HasField("stream"), reply.ack.duplicate), ("é", "in.t.default.users", stored, False), "an ack")
        heard = json.loads(await asyncio.wait_for(text.recv(), 30))
        cases.same((heard["subject"], heard["payload"], heard["headers"]["x-b"]), ("users", "AP8=", "3"), "a binary frame, heard in text")
        for what, fields, code in (("blocked", {"publish": {"subject": "a", "headers": [{"name": "x-block-me", "value": "1"}]}}, "overseer.denied"), ("no kind", {}, "frame.invalid"),
                                   ("a wildcard", {"publish": {"subject": "a.*"}}, "subject.invalid"), ("an injection", {"publish": {"subject": "a\r\nPUB x 0"}}, "subject.invalid"),
                                   ("a bad header", {"publish": {"subject": "a", "headers": [{"name": "a b", "value": "1"}]}}, "frame.invalid"),
                                   ("a header's value", {"publish": {"subject": "a", "headers": [{"name": "a", "value": "1\r\nb: 2"}]}}, "frame.invalid"),
                                   ("65 headers", {"publish": {"subject": "a", "headers": [{"name": f"h{n}", "value": "1"} for n in range(65)]}}, "frame.invalid"),
                                   ("too large", {"publish": {"subject": "a", "payload": b"x" * 70_000}}, "body.too_large"), ("a bad pattern", {"subscribe": {"pattern": "a..b"}}, "subject.invalid")):
            reply = await ask(id="7", **fields)
            status = {"overseer.denied": 403, "body.too_large": 413}.get(code, 400)
            cases.same((reply.id, reply.nack.code, reply.nack.status, reply.nack.type), ("7", code, status, f"urn:arqon:problem:{code}"), what)
        for data in (b"\xff", b"\x0a\x05x", b"\x12\x01\xff", os.urandom(50)):
            await proto.send(data)
            reply = server.FromString(await asyncio.wait_for(proto.recv(), 30))
            cases.same((reply.HasField("id"), reply.nack.code), (False, "frame.invalid"), f"unreadable {data[:4]!r}")
        await proto.send("{}")
        with contextlib.suppress(websockets.ConnectionClosed):
            await asyncio.wait_for(proto.recv(), 30)
        cases.same(proto.close_code, 1003, "text in a binary session")


def rss(gateway):
    """Resident memory in KiB."""
    with open(f"/proc/{gateway.process.pid}/status", encoding="utf-8") as status:
        return int(next(line.split()[1] for line in status if line.startswith("VmRSS")))


def gone():
    """Peers that vanish are let go, quiet ones that answer pings stay, and those that do not read are closed with 1013."""
    quick = "[gateway.websocket]\nping_seconds = 1\nidle_seconds = 3\nsend_timeout_ms = 1000\n"
    with Gateway(quick) as gateway:
        silent = [Raw(gateway) for _ in range(20)]

        async def quiet():
            async with websockets.connect(f"ws://127.0.0.1:{gateway.port}/v1/ws", **PROTOCOL) as socket_:
                await asyncio.sleep(6)
                await socket_.send(PUBLISH.decode())
                return json.loads(await socket_.recv())

        cases.check("ack" in asyncio.run(quiet()), "a quiet client that answers pings stays")
        for raw in silent:
            seen, ended = raw.end()
            cases.same(([got[0] for got in seen][:1], ended), ([PING], 1001), "a silent peer is pinged, and let go")
        cases.same(gateway.metric('shield_websocket_closed_total{code="1001"}'), 20.0, "counted")
    with Gateway("[gateway.websocket]\nsend_timeout_ms = 1000\n") as gateway:
        # It subscribes, and never reads: small buffers, large messages.
        before = rss(gateway)
        stalled = []
        for _ in range(30):
            raw = Raw(gateway)
            raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            raw.send(frame(TEXT, json.dumps({"id": 1, "subscribe": ">"}).encode()))
            raw.next()
            stalled.append(raw)
        end = time.monotonic() + 60
        body = b"x" * 200_000
        while (gateway.metric('shield_websocket_closed_total{code="1013"}') or 0) < 30 and time.monotonic() < end:
            cases.same(gateway.publish(body=body)[0], 202, "a publisher does not wait for a slow consumer") if time.monotonic() % 5 < 0.1 else gateway.publish(body=body)
        cases.same(gateway.metric('shield_websocket_closed_total{code="1013"}'), 30.0, "who never reads is closed with 1013")
        grown = rss(gateway) - before
        cases.check(grown < 400_000, f"memory grew by {grown} KiB")
        for raw in stalled:
            raw.socket.close()


def places():
    """A session keeps its connection's place, and its tenant's; what it holds of unfinished messages is bounded for all together."""
    with Gateway(gateway="max_connections = 5") as gateway:
        sessions = [Raw(gateway) for _ in range(5)]
        cases.same(gateway.metric('shield_gateway_connections{listener="public"}'), 5.0, "sessions are connections")
        with socket.create_connection(("127.0.0.1", gateway.port), 2) as sixth:
            sixth.sendall(b"POST /v1/publish/users HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            answered = b""
            with contextlib.suppress(OSError):
                answered = sixth.recv(100)
            cases.same(answered, b"", "a sixth connection waits")
            sixth.settimeout(30)
            sessions.pop().socket.close()
            cases.check(sixth.recv(100).startswith(b"HTTP/1.1 202"), "until a session has ended")
        for raw in sessions:
            raw.socket.close()
    with Gateway("[gateway.websocket]\ntenant_sessions = 2\n") as gateway:
        sessions = [Raw(gateway) for _ in range(2)]
        third = Raw(gateway)
        cases.check(third.head.startswith(b"HTTP/1.1 429") and b"retry-after" in third.head.lower(), f"a third session: {third.head[:80]}")
        sessions.pop().socket.close()
        end = time.monotonic() + 30
        while not (again := Raw(gateway)).head.startswith(b"HTTP/1.1 101") and time.monotonic() < end:
            time.sleep(0.05)
        cases.check(again.head.startswith(b"HTTP/1.1 101"), "once one has ended")
    with Gateway("[gateway.websocket]\nmax_buffered_bytes = 300_000\n") as gateway:
        message = frame(TEXT, json.dumps({"id": 1, "subject": "users", "payload": base64.b64encode(b"x" * 150_000).decode()}).encode())
        first, second, third = Raw(gateway), Raw(gateway), Raw(gateway)
        first.send(message[:-1])
        second.send(message[:-1])
        # Together they have more than may be held; one of them ends, and the other's message comes whole.
        end = time.monotonic() + 30
        while not gateway.metric('shield_websocket_closed_total{code="1013"}') and time.monotonic() < end:
            time.sleep(0.05)
        cases.same(gateway.metric('shield_websocket_closed_total{code="1013"}'), 1.0, "one session is closed with 1013")
        cases.check((gateway.metric('shield_edge_shed_total{what="buffers"}') or 0) >= 1, "and counted")
        third.send(frame(TEXT, PUBLISH))
        cases.check(b'"ack"' in third.next()[1], "a session that holds little is not touched")
        answers = []
        for raw in (first, second):
            with contextlib.suppress(OSError):
                raw.send(message[-1:])
            answers.append(raw.next())
        cases.same(sorted(answer[0] for answer in answers), [TEXT, CLOSE], "the other one is answered")
    with Gateway(gateway="request_timeout_ms = 1500") as gateway:
        drips, pings = Raw(gateway), Raw(gateway)
        drips.send(frame(TEXT, PUBLISH)[:-1])
        # Pings do not keep a message alive that is not whole; a session without one they do.
        end = time.monotonic() + 30
        drips.socket.settimeout(0.3)
        ended = None
        while ended is None and time.monotonic() < end:
            for raw in (drips, pings):
                raw.send(frame(PING, b"x")) if raw is pings else raw.send(b"")
            got = drips.next()
            ended = got if got and got[0] == CLOSE else None
        cases.same(int.from_bytes(ended[1][:2], "big") if ended else None, 1008, "a message that does not come whole in its time ends its session")
        cases.check(ended and b"in time" in ended[1], f"and says so: {ended}")
        pings.send(frame(TEXT, PUBLISH))
        seen = [pings.next()]
        while seen[-1] and seen[-1][0] != TEXT:
            seen.append(pings.next())
        cases.check(seen[-1] and b'"ack"' in seen[-1][1], "one that only pings stays")
    with Gateway() as gateway:
        raw = Raw(gateway)
        for n in range(65):
            raw.send(frame(TEXT, json.dumps({"id": n, "subscribe": f"a{n}"}).encode()))
        answers = [json.loads(raw.next()[1]) for _ in range(65)]
        cases.check(all("ack" in answer for answer in answers[:64]), "64 subscriptions")
        cases.same(answers[64].get("nack", {}).get("code"), "overloaded", "one more")
        for name in ("x-request-id", "content-type"):
            raw.send(frame(TEXT, json.dumps({"id": name, "subject": "b", "headers": {name: ["a", "b"]}}).encode()))
            cases.same(json.loads(raw.next()[1]).get("nack", {}).get("code"), "frame.invalid", f"{name} twice")
        cases.check((gateway.metric('shield_gateway_problems_total{code="frame.invalid"}') or 0) >= 2, "counted as refusals")


def slow_over_nats():
    """A session that does not keep up with what NATS delivers: all of what comes is in order and without a gap, until it is closed with 1013; memory stays flat."""
    with nats_server() as url, Gateway(f'[nats]\nurl = "{url}"\n[gateway.websocket]\nsend_timeout_ms = 2000\n') as gateway:
        raw = Raw(gateway)
        raw.send(frame(TEXT, json.dumps({"id": 1, "subscribe": ">"}).encode()))
        raw.next()
        before = rss(gateway)

        async def flood():
            client = await nats.connect(url)
            for n in range(60_000):
                await client.publish("in.t.default.n", f"{n:08}".encode() + b"x" * 4_000)
            await client.flush()
            await client.close()

        publisher = threading.Thread(target=lambda: asyncio.run(flood()))
        publisher.start()
        seen, ended = raw.end()
        publisher.join()
        grown = rss(gateway) - before
        cases.check(grown < 100_000, f"240 MB were published, memory grew by {grown} KiB")
        numbers = [int(base64.b64decode(json.loads(got[1])["payload"])[:8]) for got in seen if got[0] == TEXT]
        cases.same((numbers, ended), (list(range(len(numbers))), 1013), "no gap, then the end")


# What a NATS server passes on as headers, and the gateway's client gives up its connection for.
UNREADABLE = (b"NATS/1.0\r\nbad line\r\n\r\n", b"NATS/1.0\r\na b: v\r\n\r\n", b"NATS/1.0\r\na: \xff\r\n\r\n", b"NATS/9\r\n\r\n", b"garbage\r\n\r\n")


def unreadable_over_nats():
    """Messages with headers that nobody can read, by a NATS user of one tenant: no publish is refused, the gateway stays ready, the
    sessions of other tenants miss nothing, and that tenant's end with a reason that is true."""
    keys = Keys()
    with nats_server() as url, Gateway(f'[nats]\nurl = "{url}"\nserve = {{ prefix = "gw" }}\n', keys=keys) as gateway:
        tokens = {tenant: keys.token(tenant_id=tenant) for tenant in ("acme", "other")}
        sessions = {tenant: Raw(gateway, [("Authorization", f"Bearer {token}")]) for tenant, token in tokens.items()}
        for raw in sessions.values():
            raw.send(frame(TEXT, json.dumps({"id": 1, "subscribe": ">"}).encode()))
            cases.check("ack" in (json_of(raw.next()) or {}), "subscribed")
        with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as user:
            user.sendall(b'CONNECT {"headers":true,"verbose":false}\r\n')
            published, stop = {}, threading.Event()

            def publish():
                while not stop.is_set():
                    status, _, said = gateway.publish("n", token=tokens["other"])
                    published[status, code(said)] = published.get((status, code(said)), 0) + 1

            publisher = threading.Thread(target=publish)
            publisher.start()
            for _ in range(4):
                for headers in UNREADABLE:
                    for subject in (b"gw.in.t.acme.n", b"in.t.acme.n"):
                        user.sendall(b"HPUB %s %d %d\r\n%sx\r\n" % (subject, len(headers), len(headers) + 1, headers))
                    cases.same(gateway.operate("GET", "/readyz")[0], 200, "ready meanwhile")
                    time.sleep(0.05)
            stop.set()
            publisher.join()
        cases.same(list(published), [(202, None)], f"publishes of another tenant meanwhile: {published}")
        seen, ended = sessions["acme"].end()
        reason = [got[1][2:].decode() for got in seen if got[0] == CLOSE]
        cases.check(ended == 1013 and "missing" in reason[0], f"that tenant's session: {ended} {reason}")
        heard = [json_of(sessions["other"].next()) for _ in range(published.get((202, None), 0))]
        cases.check(all(delivery and delivery["subject"] == "n" for delivery in heard), "another tenant's session hears every publish")
        end = time.monotonic() + 30
        while "held, and is back" not in gateway.said() and time.monotonic() < end:
            time.sleep(0.05)
        told = [json.loads(line) for line in gateway.said().splitlines() if "held, and is back" in line]
        cases.check(any(line["tenant"] == "acme" for line in told), f"the log names the tenant: {told[:2]}")
        cases.check(not any(line["tenant"] == "other" for line in told), "and no other")

        async def asked():
            client = await nats.connect(url)
            end = time.monotonic() + 30
            while time.monotonic() < end:
                with contextlib.suppress(nats.errors.NoRespondersError, nats.errors.TimeoutError):
                    answer = await client.request("gw.in.t.acme.n", b"x", timeout=2)
                    await client.close()
                    return json.loads(answer.data).get("subject")
            return None

        cases.same(asyncio.run(asked()), "in.t.acme.n", "requests over NATS are served afterwards")


def drains():
    """SIGTERM closes every session with 1001, and waits for no connection that never asked for anything."""
    with Gateway() as gateway:
        silent = socket.create_connection(("127.0.0.1", gateway.port), 20)
        silent.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
        cases.check(silent.recv(9), "HTTP/2 is spoken")
        began = time.monotonic()
        sessions = [Raw(gateway) for _ in range(50)]
        gateway.process.send_signal(signal.SIGTERM)
        ended = [raw.end()[1] for raw in sessions]
        cases.same(set(ended), {1001}, "a drain")
        cases.same(gateway.process.wait(30), 0, "and an end")
        took = time.monotonic() - began
        cases.check(took < 20, f"before the 25 s of a drain are over: {took:.1f} s")
        silent.close()


def main():
    """Everything."""
    block = (ROOT / "examples/policies/wat/block_me.wat").read_bytes()
    config = '[platform.overseer]\ndeadline = "1s"\n[[platform.overseer.policies]]\nname = "block_me"\npath = "block_me.wat"\n'
    with Gateway(config, gateway='cors_origins = ["https://app.example"]\nmax_body_bytes = 65536', files={"block_me.wat": block}) as gateway:
        broken(gateway)
        lawful(gateway)
        upgrades(gateway)
        asyncio.run(binary(gateway))
        cases.same(gateway.publish()[0], 202, "after all of it")
        cases.check("panicked" not in gateway.said(), "nothing panicked")
    # The same with NATS below.
    with nats_server() as url:
        config += f'[nats]\nurl = "{url}"\n'
        with Gateway(config, gateway='max_body_bytes = 65536', files={"block_me.wat": block}) as gateway:
            lawful(gateway)
            asyncio.run(binary(gateway, stored=True))
    gone()
    places()
    slow_over_nats()
    unreadable_over_nats()
    drains()
    cases.end()


if __name__ == "__main__":
    main()
