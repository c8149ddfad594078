"""Bad HTTP at the public listener: raw sockets, h2, curl and TLS clients against the built gateway.

    ./tests/run.sh python, or:  TEST_GATEWAY=target/debug/arqon-gateway target/tools/venv/bin/python tests/verification/edge_http.py

Every ambiguous message is followed by a second one on the same connection, `POST /v1/publish/smuggled`: a subscriber must
never hear it. Ends with "N passed, N failed".
"""

import asyncio
import contextlib
import json
import pathlib
import re
import resource
import socket
import ssl
import subprocess
import threading
import time

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import nats
import websockets

from _edge import Cases, Gateway, Keys, certificates, code, statuses
from _nats import nats_server

cases = Cases()
SMUGGLED = b"POST /v1/publish/smuggled HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\ns"
RESERVED = ("x-arqon-shadow", "x-arqon-tenant", "x-arqon-variant", "x-arqon-claims", "x-arqon-schema", "x-arqon-shadow-of", "x-arqon-pin", "x-arqon-request-id")
PROTOCOL = {"subprotocols": ["arqon.v1.json"]}


def spellings(name):
    """The same name, as others may read it."""
    yield from {name, name.upper(), name.title(), name.replace("-", "_"), name.replace("-", "."), name.replace("x-arqon-", "x_arqon-"),
                name.replace("x-arqon-", "x-arqon_"), name.replace("x-arqon-", "X.Arqon_"), name.replace("-", "_").upper()}


def post(head: bytes, body=b"", path=b"/v1/publish/users"):
    """A request with this head (without Host) and body."""
    return b"POST " + path + b" HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n" + body


FRAMING = {
    "CL then TE": post(b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    "TE then CL": post(b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", b"0\r\n\r\n"),
    "TE and a CL over the chunks": post(b"Transfer-Encoding: chunked\r\nContent-Length: 200\r\n", b"1\r\nx\r\n0\r\n\r\n"),
    "two lengths": post(b"Content-Length: 1\r\nContent-Length: 2\r\n", b"x"),
    "a list of lengths": post(b"Content-Length: 1, 2\r\n", b"x"),
    "a list of the same": post(b"Content-Length: 1, 1\r\n", b"x"),
    "+1": post(b"Content-Length: +1\r\n", b"x"),
    "-1": post(b"Content-Length: -1\r\n", b"x"),
    "0x1": post(b"Content-Length: 0x1\r\n", b"x"),
    "1.0": post(b"Content-Length: 1.0\r\n", b"x"),
    "1e0": post(b"Content-Length: 1e0\r\n", b"x"),
    "an empty length": post(b"Content-Length: \r\n", b"x"),
    "a length in words": post(b"Content-Length: one\r\n", b"x"),
    "a length past 64 bits": post(b"Content-Length: 18446744073709551616\r\n", b"x"),
    "a length past 63 bits": post(b"Content-Length: 18446744073709551615\r\n", b"x"),
    "a space before the colon": post(b"Content-Length : 1\r\n", b"x"),
    "a tab before the colon": post(b"Transfer-Encoding\t: chunked\r\n", b"0\r\n\r\n"),
    "a space in a name": post(b"Content Length: 1\r\n", b"x"),
    "no name": post(b": 1\r\n"),
    "no colon": post(b"Content-Length\r\n"),
    "obs-fold": post(b"X-A: 1\r\n folded\r\nContent-Length: 0\r\n"),
    "obs-fold of TE": post(b"Transfer-Encoding:\r\n chunked\r\n", b"0\r\n\r\n"),
    "a fold before the first header": b"POST /v1/publish/users HTTP/1.1\r\n Host: x\r\n\r\n",
    "NUL in a value": post(b"X-A: a\0b\r\nContent-Length: 0\r\n"),
    "CR in a value": post(b"X-A: a\rb\r\nContent-Length: 0\r\n"),
    "a control character in a name": post(b"X\x01A: 1\r\nContent-Length: 0\r\n"),
    "a non-ASCII name": post(b"X-\xc3\xa4: 1\r\nContent-Length: 0\r\n"),
    "HTTP/1.0 with TE": b"POST /v1/publish/users HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.2": b"POST /v1/publish/users HTTP/1.2\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    "HTTP/2.0 in words": b"POST /v1/publish/users HTTP/2.0\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    "HTTP/0.9": b"POST /v1/publish/users\r\n\r\n",
    "a lower-case version": b"POST /v1/publish/users http/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    "a space in the target": b"POST /v1/publish/us ers HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    "a control in the target": b"POST /v1/publish/us\x01ers HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    "a control in the method": b"PO\x01ST /v1/publish/users HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    "no method": b" /v1/publish/users HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    "two hosts": b"POST /v1/publish/users HTTP/1.1\r\nHost: x\r\nHost: y\r\nContent-Length: 1\r\n\r\nx",
    "two equal hosts": b"POST /v1/publish/users HTTP/1.1\r\nHost: x\r\nHost: x\r\nContent-Length: 1\r\n\r\nx",
    "no host": b"POST /v1/publish/users HTTP/1.1\r\nContent-Length: 1\r\n\r\nx",
    "two content types": post(b"Content-Type: application/json\r\nContent-Type: application/x-protobuf\r\nContent-Length: 1\r\n", b"x"),
    "two ids of a message": post(b"Nats-Msg-Id: a\r\nNats-Msg-Id: b\r\nContent-Length: 1\r\n", b"x"),
    "two request ids": post(b"X-Request-Id: a\r\nX-Request-Id: b\r\nContent-Length: 1\r\n", b"x"),
    "a chunk size of letters": post(b"Transfer-Encoding: chunked\r\n", b"xyz\r\n"),
    "a chunk size with 0x": post(b"Transfer-Encoding: chunked\r\n", b"0x1\r\nx\r\n0\r\n\r\n"),
    "a chunk size with +": post(b"Transfer-Encoding: chunked\r\n", b"+1\r\nx\r\n0\r\n\r\n"),
    "a negative chunk": post(b"Transfer-Encoding: chunked\r\n", b"-1\r\nx\r\n0\r\n\r\n"),
    "a chunk size past 64 bits": post(b"Transfer-Encoding: chunked\r\n", b"10000000000000000\r\nx\r\n0\r\n\r\n"),
    "a chunk longer than it says": post(b"Transfer-Encoding: chunked\r\n", b"1\r\nxyz\r\n0\r\n\r\n"),
    "a chunk size with a space in it": post(b"Transfer-Encoding: chunked\r\n", b"1 1\r\nx\r\n0\r\n\r\n"),
}
FRAMING |= {f"TE {value!r}": post(b"Transfer-Encoding: " + value + b"\r\n", b"0\r\n\r\n")
            for value in (b"xchunked", b"chunked, identity", b"identity", b"gzip", b"chunked;q=1", b"chunked x", b"\x0bchunked", b"'chunked'",
                          b'"chunked"', b"chunk", b"chunked, gzip", b"", b"cow", b"chunkedchunked")}
# What has to be refused outright, with a problem: hyper would take it.
REFUSED = {f"TE {value!r}": post(b"Transfer-Encoding: " + value + b"\r\n", b"1\r\nx\r\n0\r\n\r\n")
           for value in (b"gzip, chunked", b"chunked, chunked", b"identity, chunked", b"chunked\r\nTransfer-Encoding: chunked", b"gzip\r\nTransfer-Encoding: chunked")}
REFUSED |= {f"Host {host!r}": b"POST /v1/publish/users HTTP/1.1\r\nHost: " + host + b"\r\nContent-Length: 1\r\n\r\nx"
            for host in (b"a b@c/", b"user@x", b"x:http", b"x/y", b"[::1", b"x\xff")}
# Sound messages of a form that others read in another way: taken, and the connection ends behind them.
LAWFUL_AND_LAST = {
    "chunked": post(b"Transfer-Encoding: chunked\r\n", b"1\r\nx\r\n0\r\n\r\n"),
    "chunked in capitals": post(b"Transfer-Encoding: CHUNKED\r\n", b"1\r\nx\r\n0\r\n\r\n"),
    "a chunk extension": post(b"Transfer-Encoding: chunked\r\n", b"1;a=b\r\nx\r\n0\r\n\r\n"),
    "forbidden trailers": post(b"Transfer-Encoding: chunked\r\nTrailer: x-arqon-shadow\r\n", b"1\r\nx\r\n0\r\nX-Arqon-Shadow: true\r\nContent-Length: 9\r\n\r\n"),
    "Connection: close": post(b"Connection: close\r\nContent-Length: 1\r\n", b"x"),
    "HTTP/1.0": b"POST /v1/publish/users HTTP/1.0\r\nContent-Length: 1\r\n\r\nx",
}


def framing(gateway, heard):
    """Nothing is heard behind an ambiguous message."""
    for what, message in FRAMING.items():
        answer = gateway.raw(message + SMUGGLED, 8)
        got = statuses(answer)
        # Either it is refused and the connection ends, or it was taken by its chunks and the connection ends.
        cases.check(len(got) <= 1 and all(status in (202, 400, 408, 501, 505) or status == 431 for status in got), f"{what}: {got}")
    for what, message in REFUSED.items():
        answer = gateway.raw(message + SMUGGLED, 8)
        cases.check(statuses(answer) == [400] and b"frame.invalid" in answer, f"{what}: {answer[:300]}")
    for host in (b"x:80", b"[::1]:80", b"a-b_c.example.", b""):
        got = statuses(gateway.raw(b"POST /v1/publish/users HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx", 8))
        cases.same(got, [202], f"Host {host!r}")
    for what, message in LAWFUL_AND_LAST.items():
        got = statuses(gateway.raw(message + SMUGGLED, 8))
        cases.same(got, [202], what)
    # Two lawful ones on one connection, so that the silence above means something.
    one = post(b"Content-Length: 1\r\n", b"x")
    same = post(b"Content-Length: 1\r\nContent-Length: 1\r\n", b"x")
    absolute = b"POST http://y/v1/publish/users HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx"
    expect = post(b"Expect: 100-continue\r\nContent-Length: 1\r\n", b"x")
    last = post(b"Connection: close\r\nContent-Length: 1\r\n", b"x")
    for what, first in {"one": one, "two equal lengths": same, "absolute form": absolute}.items():
        cases.same(statuses(gateway.raw(first + last)), [202, 202], f"two on a connection: {what}")
    cases.same(statuses(gateway.raw(expect + last)), [100, 202, 202], "two on a connection: expect")
    upgrade = post(b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 1\r\n", b"x")
    cases.same(statuses(gateway.raw(upgrade + last)), [202, 202], "an upgrade that is not taken")
    # A GET whose body is a request.
    gateway.raw(b"GET /v1/publish/users HTTP/1.1\r\nHost: x\r\nContent-Length: " + str(len(SMUGGLED)).encode() + b"\r\n\r\n" + SMUGGLED, 5)
    # Bytes behind an upgrade, before its 101.
    early = (b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
             b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: arqon.v1.json\r\n\r\n")
    cases.same(statuses(gateway.raw(early + SMUGGLED, 5)), [101], "bytes behind an upgrade are no request")
    cases.check(b"smuggled" not in heard(), "nothing was smuggled")


def heads(gateway):
    """Heads that are too large, too many, or never end."""
    for what, head, allowed in (("a header of 70 KiB", b"X-A: " + b"a" * 70_000 + b"\r\n", (431,)), ("200 headers", b"".join(b"X-%d: 1\r\n" % n for n in range(200)), (431,)),
                                ("a target of 70 KiB", b"", (414, 431, 400))):
        path = b"/" + b"a" * 70_000 if not head else b"/v1/publish/users"
        got = statuses(gateway.raw(post(head + b"Content-Length: 0\r\n", path=path), 8))
        cases.check(len(got) <= 1 and all(status in allowed for status in got), f"{what}: {got}")
    for suffix, expected in (("a" * 200, 202), ("a.b-c_d", 202), ("a%2Eb", 202), ("%61", 202), ("a%20b", 400), ("%3E", 400), ("%2A", 400), ("a%0D%0APUB%20x%200", 400), ("%24SYS.x", 202),
                             ("a..b", 400), (".a", 400), ("a.", 400), ("%00", 400), ("%ff", 400), ("a%09b", 400), ("%EF%BC%8E", 202), ("%E2%80%AE", 202),
                             ("a%2Fb", 202), ("%2e%2e", 400), ("a" * 5_000, 400), ("in.t.other.x", 202)):
        status, _, said = gateway.publish(suffix)
        cases.check(status == expected or (expected == 202 and code(said) == "subject.invalid"), f"the suffix {suffix[:40]}: {status}")
        if status == 202:
            cases.check(said["subject"].startswith("in.t.default."), f"{suffix[:40]} stays in its tenant: {said['subject'][:60]}")


def slow(port):
    """Silent and slow clients are let go; others do not notice."""
    def opened(data):
        stream = socket.create_connection(("127.0.0.1", port), 10)
        stream.sendall(data)
        return stream

    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)
    preface = preface[:-9] + b"\0\0\0\4\0\0\0\0\0"
    slow_ones = {"nothing": b"", "half a line": b"POST /v1/pub", "half a head": b"POST /v1/publish/users HTTP/1.1\r\nHost: x\r\n", "half a preface": b"PRI * HT",
                 "HTTP/2 without a stream": preface, "half a body": post(b"Content-Length: 9\r\n", b"x"), "half a chunk": post(b"Transfer-Encoding: chunked\r\n", b"9\r\nx")}
    held = {what: opened(data) for what, data in slow_ones.items()}
    # The second head of a connection has no other time than the first.
    second = {"half a frame of a second head": b"\0\0\x09\1\4\0\0\0\3\x83", "a second head that does not go on": b"\0\0\1\1\0\0\0\0\3\x83"}
    for what, part in second.items():
        connection = H2(port)
        cases.same(connection.ask(LAWFUL), 202, "a first request")
        connection.socket.sendall(part)
        held[what] = connection.socket
    return held


def let_go(held, seconds):
    """Whether each is closed within the time."""
    end = time.monotonic() + seconds
    for what, stream in held.items():
        stream.settimeout(max(0.1, end - time.monotonic()))
        try:
            while stream.recv(65_536):
                pass
            cases.check(True, what)
        except ConnectionError:
            cases.check(True, what)
        except TimeoutError:
            cases.check(False, f"{what} is still held after {seconds} s")
        stream.close()


# A publish over HTTP/2.
LAWFUL = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"x"), (b":path", b"/v1/publish/users")]


class H2:
    """One HTTP/2 connection whose frames may be anything."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), 15)
        config = h2.config.H2Configuration(client_side=True, header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False)
        self.connection = h2.connection.H2Connection(config)
        self.connection.initiate_connection()
        self.flush()

    def flush(self):
        """Sends what waits."""
        self.socket.sendall(self.connection.data_to_send())

    def ask(self, headers, body=b"x", trailers=None):
        """The status, or "reset" or "gone"."""
        stream = self.connection.get_next_available_stream_id()
        self.connection.send_headers(stream, headers)
        if trailers is None:
            self.connection.send_data(stream, body, end_stream=True)
        else:
            self.connection.send_data(stream, body)
            self.connection.send_headers(stream, trailers, end_stream=True)
        return self.outcome(stream)

    def outcome(self, stream):
        """What becomes of a stream."""
        with contextlib.suppress(OSError, h2.exceptions.ProtocolError):
            self.flush()
            while data := self.socket.recv(65_536):
                for event in self.connection.receive_data(data):
                    if isinstance(event, h2.events.ResponseReceived) and event.stream_id == stream:
                        return int(dict(event.headers)[b":status"])
                    if isinstance(event, h2.events.StreamReset) and event.stream_id == stream:
                        return "reset"
                    if isinstance(event, h2.events.ConnectionTerminated):
                        return "gone"
                self.flush()
        return "gone"


def http2(gateway):
    """Malformed HTTP/2, each on a connection of its own."""
    lawful = LAWFUL
    cases.same(H2(gateway.port).ask(lawful), 202, "lawful HTTP/2")
    bad = {
        "an upper-case name": lawful + [(b"X-A", b"1")], "connection": lawful + [(b"connection", b"close")], "keep-alive": lawful + [(b"keep-alive", b"1")],
        "transfer-encoding": lawful + [(b"transfer-encoding", b"chunked")], "upgrade": lawful + [(b"upgrade", b"websocket")], "te": lawful + [(b"te", b"gzip")],
        "proxy-connection": lawful + [(b"proxy-connection", b"x")], "CR in a value": lawful + [(b"x-a", b"a\rb")], "LF in a value": lawful + [(b"x-a", b"a\nb")],
        "NUL in a value": lawful + [(b"x-a", b"a\0b")], "CRLF in a value": lawful + [(b"x-a", b"a\r\nx-arqon-shadow: true")], "a space in a name": lawful + [(b"x a", b"1")],
        "a colon in a name": lawful + [(b"x:a", b"1")], "an empty name": lawful + [(b"", b"1")], "no method": lawful[1:], "no scheme": [lawful[0]] + lawful[2:],
        "no path": lawful[:3], "two paths": lawful + [(b":path", b"/")], "two methods": [(b":method", b"GET")] + lawful, "an unknown pseudo header": lawful + [(b":x", b"1")],
        "a pseudo header behind others": [lawful[0], (b"x-a", b"1")] + lawful[1:], "a path without a slash": lawful[:3] + [(b":path", b"v1/publish/users")],
        "an empty path": lawful[:3] + [(b":path", b"")], "CRLF in the path": lawful[:3] + [(b":path", b"/v1/publish/users HTTP/1.1\r\nx: y")],
        "a length that is too long": lawful + [(b"content-length", b"9")], "a length that is too short": lawful + [(b"content-length", b"0")],
        "two lengths": lawful + [(b"content-length", b"1"), (b"content-length", b"2")], "a length in words": lawful + [(b"content-length", b"one")],
        "two content types": lawful + [(b"content-type", b"a/b"), (b"content-type", b"application/json")], "two hosts": lawful + [(b"host", b"a"), (b"host", b"b")],
        "a status": lawful + [(b":status", b"200")],
    }
    for what, headers in bad.items():
        outcome = H2(gateway.port).ask(headers)
        cases.check(outcome in ("reset", "gone", 400), f"HTTP/2 with {what}: {outcome}")
    many = H2(gateway.port).ask(lawful + [(b"x-%d" % n, b"1") for n in range(10_000)])
    cases.check(many in ("reset", "gone", 431), f"HTTP/2 with 10,000 headers: {many}")
    # A pseudo header in trailers is nothing: refused, or left out.
    cases.check(H2(gateway.port).ask(lawful, trailers=[(b":status", b"200")]) in ("reset", "gone", 400, 202), "a pseudo header in trailers")

    # Rapid reset: a stream opened and reset, over and over.
    rapid = H2(gateway.port)
    gone = False
    try:
        for n in range(1, 20_000, 2):
            rapid.connection.send_headers(n, lawful)
            rapid.connection.reset_stream(n)
            if n % 101 == 0:
                rapid.flush()
        rapid.flush()
        gone = rapid.ask(lawful) == "gone"
    except (OSError, h2.exceptions.ProtocolError):
        gone = True
    cases.check(gone, "rapid reset ends the connection")
    # Frames that ask for nothing: a thousand in a row are taken, twenty thousand are not.
    window, shed = b"\0\0\4\x08\0\0\0\0\0\0\0\0\1", 'shield_edge_shed_total{what="frames"}'
    floods = {"settings": b"\0\0\0\4\0\0\0\0\0", "ping": b"\0\0\x08\6\0\0\0\0\0" + b"12345678", "priority": b"\0\0\5\2\0\0\0\0\3" + bytes(5), "window": window}
    for what, frame in floods.items():
        lively, before = H2(gateway.port), gateway.metric(shed)
        lively.socket.sendall(frame * 900)
        cases.same(lively.ask(lawful), 202, f"900 frames of {what}, and a request")
        lively.socket.sendall(frame * 900)
        cases.same((lively.ask(lawful), gateway.metric(shed)), (202, before), f"and again: {what}")
        flood, ended = H2(gateway.port), False
        cases.same(flood.ask(lawful), 202, "a request, then nothing but frames")
        flood.socket.settimeout(10)
        try:
            for _ in range(200):
                flood.socket.sendall(frame * 100)
            while flood.socket.recv(65_536):
                pass
            ended = True
        except TimeoutError:
            pass
        except OSError:
            ended = True
        flood.socket.close()
        cases.check(ended and gateway.metric(shed) == before + 1, f"a {what} flood is ended, and counted")
        cases.same(H2(gateway.port).ask(lawful), 202, f"others are served beside a {what} flood")
    # CONTINUATION without an end.
    flood = H2(gateway.port)
    ended = False
    flood.socket.settimeout(30)
    try:
        flood.socket.sendall(b"\0\0\1\1\0\0\0\0\1\x82")
        for _ in range(3_000):
            flood.socket.sendall(b"\0\x40\0\x09\0\0\0\0\1" + b"\0\1a\x7f" * 4_096)
    except TimeoutError:
        pass
    except OSError:
        # 48 MB were never taken.
        ended = True
    cases.check(ended, "a CONTINUATION flood is cut off")
    cases.same(H2(gateway.port).ask(lawful), 202, "others are served beside it")

    # The cap on streams is told, and one over it is refused while they are open.
    streams = H2(gateway.port)
    cases.same(streams.ask(lawful), 202, "a first stream")
    cases.same(streams.connection.remote_settings.max_concurrent_streams, 256, "the cap on streams")
    streams.connection.remote_settings.acknowledge()
    opened = []
    for _ in range(256):
        opened.append(streams.connection.get_next_available_stream_id())
        streams.connection.send_headers(opened[-1], lawful)
    streams.flush()
    over = opened[-1] + 2
    # h2 itself keeps to the cap: the frame is written by hand, all its fields from the static table but the path.
    head = b"\x83\x86\x41\x01x\x44\x11/v1/publish/users"
    streams.socket.sendall(len(head).to_bytes(3, "big") + b"\x01\x04" + over.to_bytes(4, "big") + head)
    refused = None
    with contextlib.suppress(OSError):
        buffer = b""
        while refused is None and (data := streams.socket.recv(65_536)):
            buffer += data
            while len(buffer) >= 9 and len(buffer) >= 9 + int.from_bytes(buffer[:3], "big"):
                length = int.from_bytes(buffer[:3], "big")
                if buffer[3] == 3 and int.from_bytes(buffer[5:9], "big") == over:
                    refused = int.from_bytes(buffer[9:13], "big")
                buffer = buffer[9 + length:]
    cases.same(refused, 7, "one stream over the cap is refused")


async def reserved(url):
    """No spelling of a reserved name arrives at a foreign subscriber."""
    client = await nats.connect(url)
    heard = await client.subscribe("in.t.default.>")
    await client.flush()
    with Gateway(f'[nats]\nurl = "{url}"\n') as gateway:
        sent = 0

        async def arrived(what):
            nonlocal sent
            sent += 1
            message = await asyncio.wait_for(heard.next_msg(30), 30)
            headers = {name.lower().replace("_", "-").replace(".", "-"): value for name, value in (message.headers or {}).items()}
            cases.check(not any(name.startswith("x-arqon-") for name in headers), f"{what}: {headers}")
            return headers

        for name in RESERVED:
            for spelling in spellings(name):
                lines = {"once": f"{spelling}: true\r\n", "twice": f"{spelling}: a\r\n{spelling}: b\r\n", "blank": f"{spelling}:   true  \r\n"}
                for how, line in lines.items():
                    got = statuses(gateway.raw(post(line.encode() + b"Connection: close\r\nContent-Length: 1\r\n", b"x")))
                    cases.same(got, [202], f"{spelling} {how}")
                    await arrived(f"{spelling} {how}")
            for tokens in (name, name.upper() + ", keep-alive", name.replace("-", "_")):
                gateway.raw(post(f"{name}: true\r\nConnection: {tokens}\r\nConnection: close\r\nContent-Length: 1\r\n".encode(), b"x"))
                await arrived(f"Connection: {tokens}")
            gateway.raw(post(f"Transfer-Encoding: chunked\r\nTrailer: {name}\r\n".encode(), f"1\r\nx\r\n0\r\n{name}: true\r\n\r\n".encode()))
            await arrived(f"{name} in trailers")
            lawful = LAWFUL
            cases.same(H2(gateway.port).ask(lawful + [(name.encode(), b"true")]), 202, f"{name} over HTTP/2")
            await arrived(f"{name} over HTTP/2")
            cases.same(H2(gateway.port).ask(lawful, trailers=[(name.encode(), b"true")]), 202, f"{name} in HTTP/2 trailers")
            await arrived(f"{name} in HTTP/2 trailers")
        async with websockets.connect(f"ws://127.0.0.1:{gateway.port}/v1/ws", additional_headers={"X-Arqon-Shadow": "true"}, **PROTOCOL) as socket_:
            for name in RESERVED:
                for spelling in spellings(name):
                    await socket_.send(json.dumps({"id": 1, "subject": "users", "headers": {spelling: "true"}, "payload": "eA=="}))
                    reply = json.loads(await socket_.recv())
                    cases.check("ack" in reply, f"{spelling} in a frame: {reply}")
                    await arrived(f"{spelling} in a frame")
        cases.check((gateway.metric("shield_reserved_headers_total") or 0) > sent / 2, "what was taken out is counted")

        # Lines of the NATS protocol, wherever a client may write.
        marker = b"\r\nPUB in.t.victim.x 1\r\nx\r\n"
        for where in ("X-A", "Content-Type", "Nats-Msg-Id", "traceparent"):
            gateway.raw(post(where.encode() + b": a" + marker + b"Content-Length: 1\r\n", b"x"), 3)
        for value in ("a\r\nPUB x 0\r\n\r\n", "a\nSUB > 1\n", "a\r", "a\0"):
            async with websockets.connect(f"ws://127.0.0.1:{gateway.port}/v1/ws", **PROTOCOL) as socket_:
                for frame in ({"headers": {"x-a": value}, "subject": "users"}, {"headers": {value: "x"}, "subject": "users"}, {"subject": f"users{value}"},
                              {"subscribe": f"users{value}"}, {"headers": {"nats-msg-id": value}, "subject": "users"}):
                    await socket_.send(json.dumps({"id": 1} | frame))
                    reply = json.loads(await socket_.recv())
                    cases.check(reply.get("nack", {}).get("code") in ("frame.invalid", "subject.invalid"), f"{frame}: {reply}")
        cases.same(gateway.publish("last")[0], 202, "the last")
        while True:
            message = await asyncio.wait_for(heard.next_msg(30), 30)
            if message.subject.endswith(".last"):
                break
            cases.check(message.subject.startswith("in.t.default."), f"heard {message.subject}")
        cases.same(gateway.publish("ids", headers=[("Nats-Msg-Id", "7")])[0], 202, "an id of a message")
        message = await asyncio.wait_for(heard.next_msg(30), 30)
        cases.same((message.headers or {}).get("Nats-Msg-Id"), "default:7", "a client's id is the tenant's")
        for header, value in (("Nats-Msg-Id", b"caf\xc3\xa9"), ("Nats-Msg-Id", b"caf\xe9"), ("Nats-Msg-Id", b"a b"), ("Nats-Msg-Id", b""), ("X-Own", b"caf\xe9")):
            status, _, said = gateway.publish("ids", headers=[(header, value)])
            cases.same((status, code(said)), (400, "frame.invalid"), f"{header}: {value!r}")
    await client.close()


def overload():
    """Too many requests and bytes are 503 at once; operators are served meanwhile; sessions are shed first."""
    with Gateway("[telemetry]\naccess_log = true\n", gateway="max_requests = 4\nmax_requests_bytes = 2_000_000") as gateway:
        # One after the other, until there is no place: our own probe may take one for a moment.
        held = []
        end = time.monotonic() + 20
        while (answer := gateway.publish())[0] == 202 and time.monotonic() < end:
            held.append(socket.create_connection(("127.0.0.1", gateway.port)))
            held[-1].sendall(post(b"Content-Length: 9\r\n", b"x"))
        cases.same((answer[0], code(answer[2]), answer[1].get("retry-after"), answer[1].get("connection")), (503, "overloaded", "1", "close"), "a fifth request")
        shed = answer[1].get("x-request-id")
        cases.check(shed and answer[2].get("request_id") == shed, f"what is shed has an id: {answer}")
        lines = [json.loads(line) for line in gateway.said().splitlines() if shed and shed in line and line.startswith("{")]
        cases.same([(line.get("status"), line.get("code")) for line in lines if line.get("target") == "access"], [(503, "overloaded")], "and a line in the access log")
        cases.check((gateway.metric('shield_gateway_problems_total{code="overloaded"}') or 0) >= 1, "and is counted as a refusal")
        cases.check((gateway.metric('shield_gateway_requests_total{protocol="http/1.1",status="5xx"}') or 0) >= 1, "and as a request")
        twice = gateway.raw(b"POST /v1/publish/users HTTP/1.1\r\nHost: x\r\nContent-Type: a/b\r\nContent-Type: a/b\r\nX-Request-Id: twice-1\r\nContent-Length: 0\r\n\r\n", 5)
        cases.check(statuses(twice) == [400] and b"twice-1" in twice and b"connection: close" in twice.lower(), f"a header twice: {twice[:200]}")
        cases.check("twice-1" in gateway.said(), "in the access log too")
        upgrade = (b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                   b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: arqon.v1.json\r\n\r\n")
        cases.same(statuses(gateway.raw(upgrade, 3)), [503], "no session meanwhile")
        cases.same(gateway.operate("GET", "/healthz")[0], 200, "operators are served meanwhile")
        cases.check((gateway.metric('shield_edge_shed_total{what="requests"}') or 0) >= 2, "what is shed is counted")
        for stream in held:
            stream.close()
        end = time.monotonic() + 20
        while (answer := gateway.publish())[0] != 202 and time.monotonic() < end:
            time.sleep(0.05)
        cases.same(answer[0], 202, "places come back")
        held = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(2)]
        for stream in held:
            # The largest body each: what is chunked announces nothing.
            stream.sendall(post(b"Transfer-Encoding: chunked\r\n", b"1\r\nx\r\n"))
        end = time.monotonic() + 20
        while (answer := gateway.publish(body=b"x" * 10))[0] == 202 and time.monotonic() < end:
            time.sleep(0.05)
        cases.check(answer[0] in (202, 503), "bytes are counted")
        cases.check((gateway.metric('shield_edge_shed_total{what="bytes"}') or 0) >= 1, "bodies over the budget are shed")
        for stream in held:
            stream.close()
    # A list of headers counts too: over HTTP/2 a byte names one. 1,500 of them have 192,000 bytes.
    with Gateway(gateway="max_requests_bytes = 2_000_000\nmax_body_bytes = 65536") as gateway:
        listed = H2(gateway.port)
        fields = b"\x83\x86\x41\x01x\x44\x11/v1/publish/users\x0f\x0d\x011" + bytes([0x80 + 21]) * 1_500
        listed.socket.sendall(b"".join(len(fields).to_bytes(3) + b"\1\4" + stream.to_bytes(4) + fields for stream in range(1, 41, 2)))
        end, shed = time.monotonic() + 20, 'shield_edge_shed_total{what="bytes"}'
        while (gateway.metric(shed) or 0) < 10 and time.monotonic() < end:
            time.sleep(0.05)
        cases.same((gateway.metric(shed), gateway.publish()[0]), (10, 202), "twenty heads of 1,500 headers each")
    # From four fifths on: requests are served, their connections end with the answer, and no session is opened.
    with Gateway(gateway="max_requests = 10") as gateway:
        upgrade = (b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                   b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: arqon.v1.json\r\n\r\n")
        cases.check("connection" not in gateway.publish()[1], "below, connections stay")
        held, end = [], time.monotonic() + 20
        while "connection" not in (answer := gateway.publish())[1] and time.monotonic() < end:
            held.append(socket.create_connection(("127.0.0.1", gateway.port)))
            held[-1].sendall(post(b"Content-Length: 9\r\n", b"x"))
            time.sleep(0.05)
        cases.same((answer[0], answer[1].get("connection")), (202, "close"), "above, they end with their answer")
        cases.same(len(held), 8, "at four fifths")
        cases.same(statuses(gateway.raw(upgrade, 3)), [503], "no session is opened")
        cases.same(gateway.publish()[0], 202, "requests are")
        for stream in held:
            stream.close()


def refused_and_slow():
    """Whoever is refused and goes on sending, slowly, takes no place from others: over HTTP/1 and over HTTP/2."""
    keys = Keys()
    # One body of unknown length is all that may be under way.
    with Gateway(keys=keys, gateway="max_requests_bytes = 1_048_576") as gateway:
        refused, token = 'shield_gateway_problems_total{code="auth.missing"}', keys.token()

        def answered(count):
            end = time.monotonic() + 30
            while (gateway.metric(refused) or 0) < count and time.monotonic() < end:
                time.sleep(0.02)
            return (gateway.metric(refused) or 0) >= count

        with socket.create_connection(("127.0.0.1", gateway.port)) as slow:
            slow.sendall(post(b"Transfer-Encoding: chunked\r\n", b"1\r\nx\r\n"))
            cases.check(answered(1), "refused without a token")
            cases.same(gateway.publish(token=token)[0], 202, "a publish beside a refused body over HTTP/1")
        with socket.create_connection(("127.0.0.1", gateway.port)) as slow:
            client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
            client.initiate_connection()
            stream = client.get_next_available_stream_id()
            client.send_headers(stream, [(":method", "POST"), (":path", "/v1/publish/users"), (":scheme", "http"), (":authority", "x")])
            client.send_data(stream, b"x")
            slow.sendall(client.data_to_send())
            cases.check(answered(2), "refused without a token over HTTP/2")
            cases.same(gateway.publish(token=token)[0], 202, "a publish beside a refused body over HTTP/2")


def tenants():
    """A rate and a concurrency for each tenant, frames too; others notice nothing."""
    keys = Keys()
    with Gateway(gateway="rate_limit = { per_second = 1, burst = 5 }", keys=keys) as gateway:
        for tenant in ("a", "b"):
            answers = [gateway.publish(token=keys.token(tenant_id=tenant)) for _ in range(12)]
            passed = sum(status == 202 for status, *_ in answers)
            cases.check(5 <= passed <= 11, f"{passed} of 12 passed")
            over = [answer for answer in answers if answer[0] != 202]
            cases.check(over and all((status, code(said)) == (429, "rate.limited") and int(headers["retry-after"]) >= 1 for status, headers, said in over), "over the rate")
        cases.same(gateway.publish(token=keys.token(tenant_id="c"))[0], 202, "another tenant")
        cases.same(gateway.publish()[0], 401, "nobody's flood is refused before it is counted")

        async def frames():
            async with websockets.connect(f"ws://127.0.0.1:{gateway.port}/v1/ws", additional_headers={"Authorization": f"Bearer {keys.token(tenant_id='d')}"},
                                          **PROTOCOL) as socket_:
                replies = []
                for n in range(12):
                    await socket_.send(json.dumps({"id": n, "subject": "users"} if n % 2 else {"id": n, "subscribe": "x"}))
                    replies.append(json.loads(await socket_.recv()))
                return replies

        replies = asyncio.run(frames())
        limited = [reply for reply in replies if reply.get("nack", {}).get("code") == "rate.limited"]
        cases.check(limited and [reply["id"] for reply in replies] == list(range(12)), f"frames are limited, and answered in order: {len(limited)}")
        cases.check((gateway.metric('shield_tenant_limited_total{limit="rate"}') or 0) >= 10, "what is limited is counted")
    with Gateway(gateway="tenant_concurrency = 2", keys=keys) as gateway:
        slow_ones = []
        end = time.monotonic() + 20
        while (answer := gateway.publish(token=keys.token(tenant_id="a")))[0] == 202 and time.monotonic() < end:
            slow_ones.append(socket.create_connection(("127.0.0.1", gateway.port)))
            slow_ones[-1].sendall(post(b"Authorization: Bearer " + keys.token(tenant_id="a").encode() + b"\r\nContent-Length: 9\r\n", b"x"))
        cases.same((answer[0], code(answer[2])), (429, "rate.limited"), "a third of the tenant's")
        cases.same(gateway.publish(token=keys.token(tenant_id="b"))[0], 202, "another tenant's")
        for stream in slow_ones:
            stream.close()


async def peers(url):
    """A proxy of ours keeps the shadow marker; nobody else does."""
    client = await nats.connect(url)
    heard = await client.subscribe("in.t.default.>")
    await client.flush()
    for trusted, expected in (('["127.0.0.0/8"]', "true"), ('["10.0.0.0/8"]', None)):
        with Gateway(f'[nats]\nurl = "{url}"\n', gateway=f"trusted_peers = {trusted}") as gateway:
            gateway.publish("users", headers=[("X-Arqon-Shadow", "true"), ("X-Arqon-Variant", "7"), ("X-Forwarded-For", "203.0.113.7")])
            message = await asyncio.wait_for(heard.next_msg(30), 30)
            headers = {name.lower(): value for name, value in (message.headers or {}).items()}
            cases.same((headers.get("x-arqon-shadow"), headers.get("x-arqon-variant")), (expected, None), f"the marker by {trusted}")
    await client.close()


def tls():
    """TLS by curl and Python: both protocols, client certificates, a new certificate without a restart."""
    with Gateway(gateway="header_timeout_ms = 2000") as scratch:
        serial = certificates(scratch.folder)
        other = certificates(scratch.folder, "client")
        files = {path.name: path.read_bytes() for path in scratch.folder.glob("*.pem")} | {path.name: path.read_bytes() for path in scratch.folder.glob("*.key")}
    cases.check(serial != other, "two certificates")

    class Secure(Gateway):
        """Readiness is asked on the admin listener, which has no TLS."""

    def curl(gateway, *arguments):
        done = subprocess.run(["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code} %{http_version}", "--cacert", str(gateway.folder / "server-ca.pem"), "-d", "x",
                               *arguments, f"https://127.0.0.1:{gateway.port}/v1/publish/users"], capture_output=True, text=True, timeout=60, check=False)
        return done.stdout if done.returncode == 0 else f"curl {done.returncode}"

    with Secure(gateway='tls = { cert = "server.pem", key = "server.key" }\nheader_timeout_ms = 2000', files=files) as gateway:
        cases.same(curl(gateway, "--http1.1"), "202 1.1", "HTTP/1.1 over TLS")
        cases.same(curl(gateway, "--http2"), "202 2", "HTTP/2 over TLS")
        cases.check(curl(gateway, "--tls-max", "1.1").startswith(("curl 35", "curl 4")), "TLS 1.1 is refused")
        cases.same(statuses(gateway.raw(post(b"Content-Length: 0\r\n"), 5)), [], "no plain HTTP")
        context = ssl.create_default_context(cafile=str(gateway.folder / "server-ca.pem"))

        async def secure_socket():
            async with websockets.connect(f"wss://127.0.0.1:{gateway.port}/v1/ws", ssl=context, **PROTOCOL) as socket_:
                await socket_.send(json.dumps({"id": 1, "subject": "users"}))
                return json.loads(await socket_.recv())

        cases.check("ack" in asyncio.run(secure_socket()), "a WebSocket over TLS")
        let_go({"a handshake that does not come": socket.create_connection(("127.0.0.1", gateway.port))}, 10)

        def serial_now():
            with socket.create_connection(("127.0.0.1", gateway.port), 10) as plain:
                with context.wrap_socket(plain, server_hostname="127.0.0.1") as secure:
                    return int(secure.getpeercert()["serialNumber"], 16)

        cases.same(serial_now(), serial, "the certificate")
        (gateway.folder / "server.key").write_text("not a key", encoding="utf-8")
        end = time.monotonic() + 20
        while "does not hold" not in gateway.said() and time.monotonic() < end:
            time.sleep(0.1)
        cases.same(serial_now(), serial, "a broken key changes nothing")
        renewed = certificates(gateway.folder)
        context = ssl.create_default_context(cafile=str(gateway.folder / "server-ca.pem"))
        end = time.monotonic() + 30
        seen = None
        while seen != renewed and time.monotonic() < end:
            with contextlib.suppress(ssl.SSLError):
                seen = serial_now()
            time.sleep(0.2)
        cases.same(seen, renewed, "a new certificate is taken over")
    with Secure(gateway='tls = { cert = "server.pem", key = "server.key", client_ca = "client-ca.pem" }', files=files) as gateway:
        cases.check(curl(gateway).startswith("curl"), "a client without a certificate")
        cases.check(curl(gateway, "--cert", str(gateway.folder / "server.pem"), "--key", str(gateway.folder / "server.key")).startswith("curl"), "a client of another authority")
        cases.same(curl(gateway, "--http1.1", "--cert", str(gateway.folder / "client.pem"), "--key", str(gateway.folder / "client.key")), "202 1.1", "a client of the authority")


def memory(gateway):
    """What the process holds, in MiB."""
    text = pathlib.Path(f"/proc/{gateway.process.pid}/status").read_text(encoding="ascii")
    return int(re.search(r"^VmRSS:\s+(\d+) kB", text, re.M)[1]) / 1_024


def unfinished():
    """Heads that are not whole share a budget: who goes beyond it is cut, the others and small heads are served."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16_384), hard))
    count, shed = min(2_000, min(hard, 16_384) - 500), 'shield_edge_shed_total{what="heads"}'
    # HPACK: one byte names a header. HEADERS without END_HEADERS.
    fields = bytes([0x80 + 21]) * 1_500
    listed = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0" + (3 + len(fields)).to_bytes(3) + b"\1\0\0\0\0\1\x83\x86\x84" + fields
    # The head of a ClientHello of 65,000 bytes, in records, and no end.
    hello = b"\1" + (65_000).to_bytes(3) + b"\3\3" + bytes(60_000)
    hello = b"".join(b"\x16\3\1" + len(part).to_bytes(2) + part for part in (hello[at:at + 16_000] for at in range(0, len(hello), 16_000)))
    with Gateway() as scratch:
        certificates(scratch.folder)
        files = {path.name: path.read_bytes() for path in scratch.folder.glob("server.*")}
    plain, secure = "max_requests_bytes = 67_108_864\nheader_timeout_ms = 60000\n", 'tls = { cert = "server.pem", key = "server.key" }'
    kinds = {"60 KB of a head": (post(b"X-A: " + b"a" * 60_000), plain), "a list of headers that goes on": (listed, plain), "60 KB of a handshake": (hello, plain + secure)}
    for what, (data, limits) in kinds.items():
        context = ssl.create_default_context() if limits != plain else None
        if context:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

        def connected(port, context=context):
            stream = socket.create_connection(("127.0.0.1", port), 10)
            return context.wrap_socket(stream) if context else stream

        def publish(gateway, *pieces, connected=connected):
            """The status of a publish whose head has so many bytes more, in these pieces."""
            with connected(gateway.port) as stream:
                for piece in pieces:
                    stream.sendall(piece)
                    time.sleep(0.2 if len(pieces) > 1 else 0)
                return statuses(stream.recv(65_536))

        def head(bytes_):
            return post(b"X-A: " + b"a" * bytes_ + b"\r\nConnection: close\r\nContent-Length: 1\r\n", b"x")

        # A quarter of 64 MiB is for heads.
        with Gateway(gateway=limits, files=files, environment={"RUST_LOG": "info"}) as gateway:
            cases.same(publish(gateway, head(10)), [202], f"{what}: a publish before")
            before, held, got = memory(gateway), [], []
            cases.same(gateway.metric(shed), 0, "nothing was cut")
            for n in range(count):
                held.append(socket.create_connection(("127.0.0.1", gateway.port), 10))
                with contextlib.suppress(OSError):
                    held[-1].sendall(data)
                if n % 400 == 399:
                    got += publish(gateway, head(4_000))
            end = time.monotonic() + 20
            while (gateway.metric(shed) or 0) < count / 4 and time.monotonic() < end:
                time.sleep(0.1)
            grown, cut = memory(gateway) - before, gateway.metric(shed) or 0
            print(f"{count} sockets with {what}: {grown:.0f} MiB more, {cut:.0f} were cut")
            cases.check(grown < 96, f"{what}: {grown:.0f} MiB for {count} sockets")
            cases.check(count / 4 <= cut < count, f"{what}: {cut} of {count} were cut")
            cases.same(got, [202] * (count // 400), f"{what}: a publish meanwhile")
            for stream in held:
                stream.close()
            # Room comes back: a head of 20 KB in two pieces.
            got, end = [], time.monotonic() + 20
            while got != [202] and time.monotonic() < end:
                with contextlib.suppress(OSError):
                    got = publish(gateway, head(20_000)[:15_000], head(20_000)[15_000:])
            cases.same(got, [202], f"{what}: room comes back")
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def drips():
    """A body that comes too slowly for a whole request is told so, with its request's ids."""
    keys, trace = Keys(), "4bf92f3577b34da6a3ce929d0e0e4736"
    with Gateway("[telemetry]\naccess_log = true\n", gateway="request_timeout_ms = 2000\nbody_idle_timeout_ms = 30000", keys=keys) as gateway:
        head = (b"POST /v1/publish/drip?a=b HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + keys.token().encode() + b"\r\nX-Request-Id: drip-1\r\n"
                b"Traceparent: 00-" + trace.encode() + b"-00f067aa0ba902b7-01\r\nContent-Length: 1000\r\n\r\n")
        with socket.create_connection(("127.0.0.1", gateway.port), 60) as stream:
            stream.sendall(head)
            started, got = time.monotonic(), b""
            stream.settimeout(0.1)
            while time.monotonic() - started < 60:
                with contextlib.suppress(TimeoutError):
                    more = stream.recv(65_536)
                    got += more
                    if not more:
                        break
                if b"\r\n\r\n" not in got:
                    with contextlib.suppress(OSError):
                        stream.sendall(b"x")
        print(f"a body that drips: answered and closed after {time.monotonic() - started:.1f} s (2 s are allowed)")
        said = json.loads(got.partition(b"\r\n\r\n")[2] or b"{}")
        cases.same((statuses(got), code(said)), ([408], "body.timeout"), "a body that drips")
        cases.same([said.get(key) for key in ("instance", "request_id", "trace_id", "tenant")], ["/v1/publish/drip", "drip-1", trace, "acme"], "its ids")
        cases.check(len(said.get("span_id", "")) == 16, "its span")
        cases.check(b"x-request-id: drip-1" in got.lower(), "its answer has its request's id")
        line = next((line for line in gateway.said().splitlines() if '"drip-1"' in line and '"access"' in line), "{}")
        cases.same([json.loads(line).get(key) for key in ("status", "code", "trace_id")], [408, "body.timeout", trace], "its line of log")


def attackers():
    """Idle attackers do not stop a client, and what they hold comes back."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16_384), hard))
    count = min(5_000, min(hard, 16_384) - 500)
    with Gateway(gateway="header_timeout_ms = 10000") as gateway:
        idle = []
        with contextlib.suppress(OSError):
            for n in range(count):
                stream = socket.create_connection(("127.0.0.1", gateway.port), 10)
                stream.sendall(b"POST /v1" if n % 2 else b"")
                idle.append(stream)
        started = time.monotonic()
        cases.same((len(idle), gateway.publish()[0]), (count, 202), f"a client beside {count} idle ones")
        cases.check(time.monotonic() - started < 5, "and in time")
        let_go({f"idle {n}": stream for n, stream in enumerate(idle[:50])}, 30)
        for stream in idle:
            stream.close()
    # Without descriptors it waits, and recovers.
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    gateway = Gateway(gateway="header_timeout_ms = 3000")
    with gateway:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4_096), hard))
        idle = [socket.create_connection(("127.0.0.1", gateway.port), 10) for _ in range(100)]
        end = time.monotonic() + 20
        while "could not be accepted" not in gateway.said() and time.monotonic() < end:
            time.sleep(0.1)
        cases.check(gateway.said().count("could not be accepted") < 1_000, "no busy loop without descriptors")
        for stream in idle:
            stream.close()
        status = None
        end = time.monotonic() + 30
        while status != 202 and time.monotonic() < end:
            with contextlib.suppress(OSError):
                status = gateway.publish()[0]
            time.sleep(0.1)
        cases.same(status, 202, "it recovers when descriptors are there again")
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def main():
    """Everything."""
    with Gateway(gateway="header_timeout_ms = 2000\nbody_idle_timeout_ms = 2000\nmax_body_bytes = 65536") as gateway:
        held = slow(gateway.port)
        got = []
        ready, stop = threading.Event(), threading.Event()

        def listen():
            async def subscribed():
                async with websockets.connect(f"ws://127.0.0.1:{gateway.port}/v1/ws", **PROTOCOL) as socket_:
                    await socket_.send(json.dumps({"id": 1, "subscribe": ">"}))
                    await socket_.recv()
                    ready.set()
                    while not stop.is_set():
                        with contextlib.suppress(asyncio.TimeoutError):
                            got.append((await asyncio.wait_for(socket_.recv(), 0.2)).encode())
            asyncio.run(subscribed())

        listener = threading.Thread(target=listen)
        listener.start()
        cases.check(ready.wait(30), "a subscriber")
        let_go(held, 20)

        def heard():
            gateway.publish("marker")
            end = time.monotonic() + 30
            while not any(b'"marker"' in message for message in got) and time.monotonic() < end:
                time.sleep(0.05)
            cases.check(any(b'"users"' in message for message in got), "the subscriber hears")
            return b"".join(got)

        framing(gateway, heard)
        heads(gateway)
        http2(gateway)
        status, _, said = gateway.publish(body=b"x" * 70_000)
        cases.same((status, code(said)), (413, "body.too_large"), "a body over the cap")
        endless = gateway.raw(post(b"Transfer-Encoding: chunked\r\n", b"4000\r\n" + b"x" * 0x4000 + b"\r\n" + (b"4000\r\n" + b"x" * 0x4000 + b"\r\n") * 200), 20)
        cases.same(statuses(endless)[:1], [413], "endless chunks")
        cases.same(gateway.publish()[0], 202, "after all of it")
        cases.same(gateway.process.poll(), None, "it lives")
        cases.check("panicked" not in gateway.said(), "nothing panicked")
        stop.set()
        listener.join()
    overload()
    refused_and_slow()
    tenants()
    tls()
    drips()
    attackers()
    unfinished()
    with nats_server() as url:
        asyncio.run(reserved(url))
        asyncio.run(peers(url))
    cases.end()


if __name__ == "__main__":
    main()
