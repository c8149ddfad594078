"""Requests over NATS (`nats.serve`), as nats-py sees them: a foreign client of the built gateway.

    ./tests/run.sh python, or:  TEST_GATEWAY=target/debug/arqon-gateway target/tools/venv/bin/python tests/verification/nats_service.py

Ends with "N passed, N failed".
"""

import asyncio
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile

import nats

from _nats import free_port, nats_server

ROOT = pathlib.Path(__file__).resolve().parents[2]
GATEWAY = os.environ.get("TEST_GATEWAY") or str(ROOT / "target" / "debug" / "arqon-gateway")
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def config(folder: pathlib.Path, url: str) -> pathlib.Path:
    """A gateway with a policy, which takes requests under `gateway`."""
    (folder / "block_me.wat").write_bytes((ROOT / "examples/policies/wat/block_me.wat").read_bytes())
    file = folder / "gateway.toml"
    file.write_text(f"""
[gateway]
listen = "127.0.0.1:{free_port()}"
admin_listen = "127.0.0.1:{free_port()}"
[nats]
url = "{url}"
serve = {{ prefix = "gateway" }}
[platform.overseer]
deadline = "1s"
[[platform.overseer.policies]]
name = "block_me"
path = "block_me.wat"
""", encoding="utf-8")
    return file


async def reply(client, subject: str, payload: bytes, headers: dict | None = None):
    """The reply, once somebody is subscribed."""
    for _ in range(300):
        try:
            return await client.request(subject, payload, timeout=10, headers=headers)
        except nats.errors.NoRespondersError:
            await asyncio.sleep(0.05)
    raise AssertionError("nobody serves")


def publish_deadly(url: str, subject: str) -> None:
    """Publishes by hand what async-nats dies of: a carriage return in a header's value."""
    host, port = url.removeprefix("nats://").split(":")
    headers = b"NATS/1.0\r\na: b\rc\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=10) as stream:
        stream.sendall(b'CONNECT {"headers":true,"verbose":false}\r\n'
                       + f"HPUB {subject} {len(headers)} {len(headers) + 1}\r\n".encode() + headers + b"x\r\nPING\r\n")
        said = b""
        while b"PONG" not in said:
            more = stream.recv(4096)
            if not more:
                raise AssertionError(said)
            said += more


async def survives(client, url: str) -> bool:
    """Whether the gateway answers again after each of three messages that its client dies of."""
    for _ in range(3):
        await asyncio.to_thread(publish_deadly, url, "gateway.in.t.acme.orders")
        deadline = asyncio.get_running_loop().time() + 20
        while True:
            try:
                if b"sequence" in (await client.request("gateway.in.t.acme.orders", b"x", timeout=1)).data:
                    break
            except (nats.errors.NoRespondersError, nats.errors.TimeoutError):
                if asyncio.get_running_loop().time() > deadline:
                    return False
                await asyncio.sleep(0.05)
    return True


async def cases(url: str, process) -> list:
    """What holds, each with whether it does."""
    client = await nats.connect(url)
    fine = await reply(client, "gateway.in.t.acme.orders", b"hello", {"traceparent": TRACE})
    ack = json.loads(fine.data)
    stream = await client.jetstream().get_msg("ARQON_IN", ack["sequence"])
    blocked = await reply(client, "gateway.in.t.acme.orders", b"hello", {"X-Block-Me": "1"})
    problem = json.loads(blocked.data)
    answers = await asyncio.gather(*(reply(client, "gateway.in.t.acme.n", str(n).encode()) for n in range(200)))
    sequences = {json.loads(answer.data)["sequence"] for answer in answers}
    survived = await survives(client, url)
    # A drain answers what was sent before it: none of these is lost.
    asked = [asyncio.create_task(client.request("gateway.in.t.acme.drain", b"x", timeout=20)) for _ in range(50)]
    await client.flush()
    process.send_signal(signal.SIGTERM)
    drained = await asyncio.gather(*asked, return_exceptions=True)
    lost = [answer for answer in drained if not isinstance(answer, nats.errors.NoRespondersError)
            and isinstance(answer, Exception)]
    code = await asyncio.to_thread(process.wait, 40)
    await client.close()
    return [
        ("a request is published and acknowledged", ack["subject"] == "in.t.acme.orders" and stream.data == b"hello"),
        ("the trace goes along", stream.headers["traceparent"][:35] == TRACE[:35]),
        ("a policy's refusal has the service error headers",
         blocked.headers["Nats-Service-Error-Code"] == "403" and problem["code"] == "overseer.denied"),
        ("the problem names the trace's request", problem["status"] == 403 and problem["instance"].endswith("orders")),
        ("two hundred requests at once are two hundred messages", len(sequences) == 200),
        ("a message that the client dies of costs a moment, again and again", survived),
        ("a drain loses no request that was taken", not lost),
        ("the gateway ends with 0", code == 0),
    ]


async def example(url: str, program: str) -> list:
    """What `cargo run -p example-nats` promises in its first lines."""
    process = subprocess.Popen([program, url], stdout=subprocess.PIPE, text=True)
    try:
        client = await nats.connect(url)
        fine = await reply(client, "rpc.hello", b"world")
        refused = await reply(client, "rpc.hello", b"world", {"X-Block-Me": "1"})
        await client.close()
        process.send_signal(signal.SIGINT)
        said, _ = await asyncio.to_thread(process.communicate, timeout=30)
    finally:
        process.kill()
        process.wait()
    return [
        ("the example answers", fine.data == b"rpc.hello got world\n"),
        ("the example's policy refuses", refused.headers["Nats-Service-Error-Code"] == "403"),
        ("the example drains and counts", process.returncode == 0 and said.endswith("1 answered, 1 refused\n")),
    ]


def main() -> int:
    """Runs all cases."""
    with nats_server() as url, tempfile.TemporaryDirectory() as folder:
        file = config(pathlib.Path(folder), url)
        process = subprocess.Popen([GATEWAY, "serve", "--config", str(file)], stdout=subprocess.DEVNULL,
                                   env={**os.environ, "RUST_LOG": "warn"})
        try:
            results = asyncio.run(cases(url, process))
        finally:
            process.kill()
            process.wait()
        results += asyncio.run(example(url, os.environ.get("TEST_EXAMPLE_NATS") or str(pathlib.Path(GATEWAY).with_name("example-nats"))))
    for name, holds in results:
        print(f"{'ok  ' if holds else 'FAIL'} {name}")
    failed = sum(not holds for _, holds in results)
    print(f"{len(results) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
