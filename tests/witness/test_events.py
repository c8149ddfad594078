"""The exported events (/v1/events), by a model of their shapes that shares nothing with the Rust one: it names every
field, its type and its range, reads strictly, and writes the same bytes."""

import dataclasses
import json
import os
import pathlib
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest

from conftest import ROOT


class Refused(ValueError):
    """Not an event."""


def text(value):
    if type(value) is not str:
        raise Refused(f"{value!r} is no text")
    return value


def truth(value):
    if type(value) is not bool:
        raise Refused(f"{value!r} is no truth value")
    return value


def unsigned(bits):
    def number(value):
        if type(value) is not int or not 0 <= value < 1 << bits:
            raise Refused(f"{value!r} is no number of {bits} bits")
        return value

    return number


# In the order of the wire; `event` goes before them and `corr_id` after.
SHAPES = {
    "health": {"service": text, "ok": truth},
    "config_updated": {"version": unsigned(64)},
    "service_crashed": {"service": text, "reason": text},
    "shutdown": {},
    "policy_reloaded": {"policy": text, "revision": unsigned(64), "ok": truth},
    "schema_changed": {"schema_id": text, "revision": unsigned(64)},
    "rollout_changed": {"rollout": text, "seq": unsigned(64), "basis_points": unsigned(16)},
    "mirror_degraded": {"reason": text, "dropped": unsigned(64)},
}
ADMIN_ONLY = {"shutdown"}
# Texts are cut, and lose what looks like a credential.
TEXT_CHARS_MAX = {"reason": 120, "service": 256, "policy": 256, "schema_id": 256, "rollout": 256}
CLASSES = {tag: dataclasses.make_dataclass(tag, [*shape, "corr_id"], frozen=True) for tag, shape in SHAPES.items()}


def once(pairs):
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise Refused("a field twice")
    return fields


def read(written):
    """The event, as an instance of its own class."""
    try:
        fields = json.loads(written, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise Refused(str(error)) from error
    if type(fields) is not dict or fields.get("event") not in SHAPES:
        raise Refused("no known event")
    tag = fields.pop("event")
    shape = {**SHAPES[tag], "corr_id": text}
    if fields.keys() != shape.keys():
        raise Refused(f"{tag} has {sorted(shape)}, not {sorted(fields)}")
    return CLASSES[tag](**{name: check(fields[name]) for name, check in shape.items()})


def write(event):
    """Its bytes: compact, fields in order, only what must be escaped is."""

    def value(of):
        if isinstance(of, bool):
            return "true" if of else "false"
        return str(of) if isinstance(of, int) else quoted(of)

    fields = {"event": type(event).__name__, **dataclasses.asdict(event)}
    return "{" + ",".join(f"{quoted(name)}:{value(of)}" for name, of in fields.items()) + "}"


SHORT = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}


def quoted(value):
    return '"' + "".join(SHORT.get(c) or (f"\\u{ord(c):04x}" if c < " " else c) for c in value) + '"'


def cases():
    for tag in SHAPES:
        path = ROOT / "tests" / "vectors" / "events" / f"{tag}.json"
        for case in json.loads(path.read_text(encoding="utf-8"))["cases"]:
            yield pytest.param(tag, case, id=f"{tag}: {case['name']}")


@pytest.mark.parametrize("tag, case", list(cases()))
def test_an_event_goes_round_in_another_language(tag, case):
    (variant, fact), = case["fact"].items()
    assert variant == "".join(word.capitalize() for word in tag.split("_"))
    if case["wire"] is None:
        assert tag in ADMIN_ONLY and case["audience"] == "observer"
        return
    assert tag not in ADMIN_ONLY or case["audience"] == "admin"
    event = read(case["wire"])
    assert (type(event).__name__, event.corr_id) == (tag, case["corr_id"])
    assert write(event) == case["wire"]
    secrets = case.get("secrets", [])
    assert not any(secret in case["wire"] for secret in secrets)
    for name, check in SHAPES[tag].items():
        shown, given = getattr(event, name), fact[name]
        if check is not text:
            assert shown == given
            continue
        assert len(shown) <= TEXT_CHARS_MAX[name]
        assert not any(c < " " or "\x7f" <= c < "\xa0" for c in shown)
        # A name changes only where something had to go.
        assert name == "reason" or secrets or shown == given


def test_each_event_is_shown_in_some_vector():
    shown = {param.values[0] for param in cases() if param.values[1]["wire"]}
    assert shown == set(SHAPES)
    hidden = {param.values[0] for param in cases() if param.values[1]["wire"] is None}
    assert hidden == ADMIN_ONLY


@pytest.mark.parametrize(
    "case",
    json.loads((ROOT / "tests/vectors/events/refused.json").read_text(encoding="utf-8"))["refused"],
    ids=lambda case: case["name"],
)
def test_what_is_no_event_is_refused(case):
    with pytest.raises(Refused):
        read(case["text"])


# --- a running gateway --------------------------------------------------------------------------------------------

TOKEN = "0123456789abcdef"
CONFIG = '[gateway]\ncontrol_token_file = "control.token"\n'
RULES = '[platform.mirroring]\nrules = [{ prefix = "in.t.default.>", percent = 0.25 }]\n'
PATIENCE = 30


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(ask):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if answer := ask():
                return answer
        except (urllib.error.URLError, ConnectionError):
            pass
        time.sleep(0.02)
    raise AssertionError("nothing in time")


class Gateway:
    """The built gateway, with a configuration that can change."""

    def __init__(self, program, folder: pathlib.Path):
        self.file = folder / "gateway.toml"
        (folder / "control.token").write_text(TOKEN)
        self.file.write_text(CONFIG)
        self.admin = f"http://127.0.0.1:{(port := free_port())}"
        listen = ["--listen", f"127.0.0.1:{free_port()}", "--admin-listen", f"127.0.0.1:{port}"]
        self.process = subprocess.Popen([program, "serve", "--config", str(self.file), *listen],
                                        env={**os.environ, "RUST_LOG": "warn"})
        until(lambda: self.get("/readyz"))

    def get(self, path):
        with urllib.request.urlopen(self.admin + path, timeout=PATIENCE) as answer:
            return json.load(answer)

    def events(self, token=None):
        """The stream: (name, id, data) for each event, until it ends."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        stream = urllib.request.urlopen(urllib.request.Request(self.admin + "/v1/events", headers=headers), timeout=PATIENCE)
        return self.parsed(stream)

    @staticmethod
    def parsed(stream):
        fields = {}
        for line in stream:
            line = line.decode().rstrip("\n")
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "data" in fields:
                yield fields["event"], fields.get("id"), fields["data"]
                fields = {}
            else:
                fields = {}


@pytest.fixture()
def gateway(tmp_path):
    program = os.environ.get("TEST_GATEWAY")
    assert program, "TEST_GATEWAY names no program: run this through ./tests/run.sh python"
    gateway = Gateway(program, tmp_path)
    yield gateway
    gateway.process.kill()
    gateway.process.wait()


def test_a_gateways_facts_are_events_of_this_model_and_shutdown_is_for_admins(gateway):
    admin, observer = gateway.events(TOKEN), gateway.events()
    gateway.file.write_text(CONFIG + RULES)
    gateway.process.send_signal(signal.SIGHUP)
    version = until(lambda: (v := gateway.get("/v1/state")["config"]["version"]) > 1 and v)
    gateway.process.send_signal(signal.SIGTERM)
    told = [[(name, ident, read(data)) for name, ident, data in stream if name != "resync"] for stream in (admin, observer)]
    for name, ident, event in told[0] + told[1]:
        assert (name, ident) == (type(event).__name__, event.corr_id)
    updates = [event for name, _, event in told[0] if name == "config_updated"]
    assert updates[-1].version >= version
    kinds = [name for name, _, _ in told[0]]
    assert kinds[-2:] == ["health", "shutdown"] and told[0][-2][2].ok is False
    assert told[1] == [event for event in told[0] if event[0] != "shutdown"], "the same ids, without the shutdown"
    assert gateway.process.wait(PATIENCE) == 0
