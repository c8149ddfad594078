"""The integration suite that source 004 promises (S4-7, S4-8), on the built gateway with a real nats-server.

    ./tests/run.sh python, or:  TEST_GATEWAY=target/debug/arqon-gateway target/tools/venv/bin/python tests/verification/epoch2_suite.py

Foreign clients throughout: http.client, websockets, nats-py, protobuf. Ends with "N passed, N failed".
"""

import asyncio
import base64
import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import time
import traceback

import nats
import websockets
from google.protobuf import descriptor_pb2

from _nats import free_port, nats_server

ROOT = pathlib.Path(__file__).resolve().parents[2]
GATEWAY = os.environ.get("TEST_GATEWAY") or str(ROOT / "target" / "debug" / "arqon-gateway")
TRACE = "0af7651916cd43dd8448eb211c80319c"
GOOD = b"\x0a\x02u1"  # user_id = "u1"
TRUNCATED = b"\x0a\x09u1"  # says nine bytes, has two


def user_created() -> bytes:
    """A FileDescriptorSet with events.v1.UserCreated, by Google's own library."""
    files = descriptor_pb2.FileDescriptorSet()
    file = files.file.add(name="user_created.proto", package="events.v1", syntax="proto3")
    message = file.message_type.add(name="UserCreated")
    field = descriptor_pb2.FieldDescriptorProto
    message.field.add(name="user_id", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL, json_name="userId")
    return files.SerializeToString()


class Gateway:
    """A running `arqon-gateway serve --nats`."""

    def __init__(self, folder: pathlib.Path, url: str):
        self.port, self.admin = free_port(), free_port()
        (folder / "block_me.wat").write_bytes((ROOT / "examples/policies/wat/block_me.wat").read_bytes())
        (folder / "schemas").mkdir()
        (folder / "schemas" / "v1.events.user_created.binpb").write_bytes(user_created())
        variants = [{"id": 1, "name": "stable"}, {"id": 7, "name": "new"}]
        catalog = {"version": 1, "baseline": 1, "variants": variants}
        (folder / "catalog.json").write_text(json.dumps(catalog), encoding="utf-8")
        config = folder / "gateway.toml"
        config.write_text(f"""
[gateway]
listen = "127.0.0.1:{self.port}"
admin_listen = "127.0.0.1:{self.admin}"

[platform.overseer]
deadline = "1s"
[[platform.overseer.policies]]
name = "block_me"
path = "block_me.wat"

[platform.registry]
dir = "schemas"
mappings = [{{ subject = "in.t.default.users.created", schema_id = "v1.events.user_created", required = ["user_id"] }}]

[platform.rollout]
enabled = true
keys = [{{ keyid = "ops-1", ed25519 = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=" }}]

[platform.mirroring]
rules = [{{ prefix = "in.t.default.>", percent = "100%" }}]
""", encoding="utf-8")
        self.process = subprocess.Popen([GATEWAY, "serve", "--config", str(config), "--nats", url],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        end = time.monotonic() + 30
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > end:
                self.process.kill()
                raise RuntimeError(f"the gateway is not ready: {self.process.communicate()[1]}")
            time.sleep(0.05)

    def ready(self) -> bool:
        try:
            return self.get("/readyz")[0] == 200
        except OSError:
            return False

    def request(self, port: int, method: str, path: str, body: bytes = b"", headers: dict | None = None):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def publish(self, suffix: str, body: bytes, headers: dict | None = None):
        return self.request(self.port, "POST", f"/v1/publish/{suffix}", body, headers)

    def get(self, path: str):
        return self.request(self.admin, "GET", path)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


async def policy_blocks(gateway: Gateway, client) -> None:
    """S4-7: a request with X-Block-Me gets 403 and is published nowhere."""
    seen = await client.subscribe("*.t.default.>")
    shadows = await client.subscribe("shadow.>")
    await client.flush()
    status, body = gateway.publish("free", b"hello", {"X-Block-Me": "1"})
    assert (status, json.loads(body)["code"]) == (403, "overseer.denied"), (status, body)
    # The one behind it is the first that arrives.
    status, body = gateway.publish("free", b"after", {"X-Own": "1"})
    assert status == 202, (status, body)
    assert (await seen.next_msg(5)).data == b"after"
    assert (await shadows.next_msg(5)).data == b"after"
    await seen.unsubscribe()
    await shadows.unsubscribe()


async def shadow_is_coherent(gateway: Gateway, client) -> None:
    """S4-7 and S4-8: one request is seen on the primary and on the shadow subject, and only the copy says it is one."""
    primary = await client.subscribe("in.t.default.orders")
    shadow = await client.subscribe("shadow.in.t.default.orders")
    await client.flush()
    status, body = gateway.publish("orders", b"order 1", {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"})
    ack = json.loads(body)
    assert (status, ack["subject"], ack["stream"]) == (202, "in.t.default.orders", "ARQON_IN"), (status, body)
    first, copy = await primary.next_msg(5), await shadow.next_msg(5)
    assert first.data == copy.data == b"order 1"
    assert (copy.headers or {}).get("x-arqon-shadow") == "true", copy.headers
    assert (copy.headers or {}).get("x-arqon-shadow-of") == TRACE, copy.headers
    assert "x-arqon-shadow" not in (first.headers or {}), first.headers
    stored = await client.jetstream().get_msg("ARQON_IN", ack["sequence"])
    assert stored.data == b"order 1"
    for subscription in (primary, shadow):
        try:
            extra = await subscription.next_msg(0.3)
        except nats.errors.TimeoutError:
            continue
        raise AssertionError(f"a second message: {extra}")


async def schema_rejects(gateway: Gateway, client) -> None:
    """S4-7: an invalid structure gets a negative acknowledgement, over HTTP and over the WebSocket the same one."""
    seen = await client.subscribe("in.t.default.users.created")
    await client.flush()
    status, body = gateway.publish("users.created", TRUNCATED)
    http_problem = json.loads(body)
    assert (status, http_problem["code"]) == (400, "schema.violation"), (status, body)
    url = f"ws://127.0.0.1:{gateway.port}/v1/ws"
    async with websockets.connect(url, subprotocols=["arqon.v1.json"]) as socket:
        async def ask(**frame):
            await socket.send(json.dumps(frame))
            return json.loads(await asyncio.wait_for(socket.recv(), 5))

        bad = await ask(id="1", subject="users.created", payload=base64.b64encode(TRUNCATED).decode())
        assert bad["id"] == "1" and bad["nack"]["code"] == "schema.violation", bad
        assert bad["nack"]["violations"] == http_problem["violations"], (bad, http_problem)
        good = await ask(id="2", subject="users.created", payload=base64.b64encode(GOOD).decode())
        assert good["ack"]["subject"] == "in.t.default.users.created", good
        text = await ask(id="3", subject="users.created", json={"userId": "u2"})
        assert "ack" in text, text
    assert (await seen.next_msg(5)).data == GOOD
    assert json.loads((await seen.next_msg(5)).data) == {"userId": "u2"}


async def observability_audit(gateway: Gateway, _client) -> None:
    """S4-8: the metric of the policy is there, and counted what the cases before sent."""
    _, metrics = gateway.get("/metrics")
    text = metrics.decode()
    counted = re.search(r'^shield_wasm_execution_duration_seconds_count\{module="block_me"\} (\d+)', text, re.M)
    assert counted and int(counted[1]) >= 5, text[:2000]
    violations = re.search(r"^shield_schema_violation_total\{[^}]*\} ([1-9]\d*)", text, re.M)
    assert violations, "no violation was counted"
    for file in ("docs/alerts/arqon.rules.yml", "docs/dashboards/arqon.json"):
        named = set(re.findall(r"\b(?:shield|bus)_\w+", (ROOT / file).read_text(encoding="utf-8")))
        absent = {name for name in named if not re.search(rf"^# TYPE {name.removesuffix('_bucket')} ", text, re.M)}
        assert len(named) > 5 and not absent, f"{file} names what /metrics does not have: {absent}"
    status, body = gateway.get("/readyz")
    assert status == 200 and {"name": "nats", "ok": True} in json.loads(body)["checks"], body


async def drain_is_clean(gateway: Gateway, _client) -> None:
    """SIGTERM ends it with 0."""
    assert gateway.stop() == 0


async def main() -> bool:
    failed = 0
    cases = [policy_blocks, shadow_is_coherent, schema_rejects, observability_audit, drain_is_clean]
    with nats_server() as url, tempfile.TemporaryDirectory() as folder:
        gateway = Gateway(pathlib.Path(folder), url)
        client = await nats.connect(url)
        try:
            for case in cases:
                try:
                    await case(gateway, client)
                    print(f"ok      {case.__name__}: {case.__doc__}")
                except Exception:  # noqa: BLE001 - every case runs, whatever the one before did
                    failed += 1
                    print(f"FAILED  {case.__name__}: {case.__doc__}\n{traceback.format_exc()}")
        finally:
            await client.close()
            if gateway.process.poll() is None:
                gateway.process.kill()
    print(f"{len(cases) - failed} passed, {failed} failed")
    return failed == 0


if __name__ == "__main__":
    raise SystemExit(not asyncio.run(main()))
