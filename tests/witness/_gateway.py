"""An embedded gateway with its operators, for what looks at it from outside."""

import contextlib
import http.client
import json
import os
import pathlib
import socket
import subprocess
import time

TOKEN = "0123456789abcdef"
CATALOG = {"version": 1, "baseline": 1, "variants": [
    {"id": 1, "name": "stable"}, {"id": 42, "name": "fast", "params": {"alpha": {"default": 0.5, "min": 0, "max": 1}}}]}


def program() -> str:
    """The built gateway."""
    found = os.environ.get("TEST_GATEWAY")
    assert found, "TEST_GATEWAY names no program: run this through ./tests/run.sh python"
    return found


def free_port() -> int:
    """A port of loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Gateway:
    """A running gateway; `more` goes into `[platform.rollout]`, `rest` after it. A `plain` one has its listeners and no more."""

    def __init__(self, folder: pathlib.Path, arqon: str, more="", rest="", tenants=("default", "other"), plain=False):
        self.folder, self.arqon = folder, arqon
        self.port, self.admin = free_port(), free_port()
        if plain:
            (folder / "gateway.toml").write_text(f"""
[gateway]
listen = "127.0.0.1:{self.port}"
admin_listen = "127.0.0.1:{self.admin}"
{rest}
""", encoding="utf-8")
            self.process = None
            return
        keys = {keyid: self._keygen(keyid) for keyid in ("ops-1", "ops-2", "sre-1")}
        (folder / "catalog.json").write_text(json.dumps(CATALOG), encoding="utf-8")
        (folder / "control.token").write_text(TOKEN + "\n", encoding="utf-8")
        (folder / "gateway.toml").write_text(f"""
[gateway]
listen = "127.0.0.1:{self.port}"
admin_listen = "127.0.0.1:{self.admin}"
control_token_file = "control.token"

[platform.rollout]
enabled = true
tenants = {json.dumps(tenants)}
keys = [{keys["ops-1"]}, {keys["ops-2"]}]
stop_keys = [{keys["sre-1"]}]
catalog = {{ path = "catalog.json" }}
audit = {{ path = "audit.jsonl" }}
key = "header:x-user"
{more}
{rest}
""", encoding="utf-8")
        self.process = None

    def _keygen(self, keyid):
        done = subprocess.run([self.arqon, "gov", "keygen", "--key", self.key(keyid)], capture_output=True, text=True, timeout=60,
                              check=True)
        return done.stdout.strip()

    def key(self, keyid) -> pathlib.Path:
        """The file of a secret key."""
        return self.folder / f"{keyid}.key"

    def start(self):
        """Starts it and waits until it is ready."""
        self.process = subprocess.Popen([program(), "serve", "--config", "gateway.toml"], cwd=self.folder,
                                        env=os.environ | {"RUST_LOG": "warn"})
        end = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                if self.ask("GET", "/readyz")[0] == 200:
                    return self
            assert self.process.poll() is None, "the gateway ended"
            assert time.monotonic() < end, "the gateway is not ready"
            time.sleep(0.05)

    def stop(self):
        """Ends it as a power cut would."""
        if self.process:
            self.process.kill()
            self.process.wait()

    def ask(self, method, path, headers=None, body=None, port=None):
        """Status and body of an answer of the admin listener."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.admin, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()

    def publish(self, suffix, user, headers=None, body=b"{}"):
        """One message of a user."""
        return self.ask("POST", f"/v1/publish/{suffix}", {"x-user": user} | (headers or {}), body, self.port)

    def metrics(self):
        """`/metrics`, by series as it stands there."""
        lines = self.ask("GET", "/metrics")[1].decode().splitlines()
        return {series: float(value) for series, value in (line.rsplit(" ", 1) for line in lines if line and line[0] != "#")}

    def scope(self, name="", tenant="default"):
        """A scope as `/v1/state` has it."""
        state = json.loads(self.ask("GET", "/v1/state")[1])
        [of] = [one for one in state["rollout"]["tenants"] if one["tenant"] == tenant]
        return next((one for one in of["scopes"] if one["scope"] == name), None)

    def gov(self, *words, key="ops-1", code=0):
        """`arqon --json gov ..` against it."""
        target = ["--admin", f"http://127.0.0.1:{self.admin}", "--token-file", self.folder / "control.token", "--key", self.key(key)]
        done = subprocess.run([self.arqon, "--json", "gov", *words, *target], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == code, (words, done)
        return json.loads(done.stdout) if done.stdout else {}

    def roll_out(self, name, initial, increment, most, reason="faster", scope=None):
        """Proposes variant 42 and approves it."""
        file = self.folder / f"{name}.json"
        proposal = {"id": name, "timestamp_us": time.time_ns() // 1000, "variant_id": 42, "reason": reason, "confidence": 0.9}
        file.write_text(json.dumps(proposal | ({"scope": scope} if scope else {})), encoding="utf-8")
        self.gov("propose", file)
        self.gov("approve", name, "--proposal", file, "--initial", str(initial), "--increment", str(increment), "--max", str(most))
