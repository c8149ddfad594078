"""`arqon gov` seen by other libraries: digests by PyPI rfc8785, envelopes by PyPI cryptography."""

import base64
import hashlib
import json
import random
import subprocess

import pytest
import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

TYPE = "application/vnd.arqon.control.v1+json"


def run(arqon, *words, given=None):
    return subprocess.run([arqon, *map(str, words)], input=given, capture_output=True, timeout=60, check=False)


def pae(payload: bytes) -> bytes:
    return b"DSSEv1 %d %s %d %s" % (len(TYPE), TYPE.encode(), len(payload), payload)


@pytest.fixture
def key(arqon, tmp_path):
    """A key of the program: its file, and its public half as printed."""
    file = tmp_path / "ops-1.key"
    made = run(arqon, "--json", "gov", "keygen", "--key", file)
    assert made.returncode == 0, made.stderr
    return file, json.loads(made.stdout)


def proposals(count):
    """Proposals with every kind of number and text that JSON can carry both ways."""
    draw = random.Random(8785)
    texts = ["", "plain", "\u20ac\U0001f602", "tab\t\"quoted\" \\", "A\u030a", "\u0000\u001f"]
    for at in range(count):
        proposal = {
            "id": f"p{at}",
            "timestamp_us": draw.randrange(2**53),
            "reason": draw.choice(texts),
            "confidence": draw.choice([0.0, 1.0, 0.92, draw.random()]),
        }
        if draw.random() < 0.7:
            proposal["variant_id"] = draw.randrange(2**32)
        if draw.random() < 0.7:
            values = [0.0, -0.0, 1e21, 1e-7, 5e-324, 333333333.33333329, draw.uniform(-1e6, 1e6), 100.0]
            proposal["params"] = {draw.choice(texts) + str(n): draw.choice(values) for n in range(draw.randrange(4))}
        if draw.random() < 0.3:
            proposal["scope"] = "in.t.default.users.>"
        yield proposal


def test_a_digest_is_sha256_over_rfc_8785(arqon):
    for proposal in proposals(60):
        given = dict(proposal, type="proposal") if proposal["timestamp_us"] % 2 else proposal
        said = run(arqon, "gov", "digest", "-", given=json.dumps(given, indent=1).encode())
        assert said.returncode == 0, (proposal, said.stderr)
        assert said.stdout.decode() == f"sha256:{hashlib.sha256(rfc8785.dumps(proposal)).hexdigest()}\n", proposal


@pytest.mark.parametrize("text", [
    '{"id":"a","id":"b","timestamp_us":1,"reason":"","confidence":1}',
    '{"id":"a","timestamp_us":9007199254740993,"reason":"","confidence":1}',
    '{"id":"a","timestamp_us":1,"reason":"","confidence":1,"other":1}',
    '{"id":"a","timestamp_us":1,"reason":"","confidence":NaN}',
    '{"id":"a","timestamp_us":1,"reason":"","confidence":1e999}',
    '{"id":"a"}', "[]", "", "x",
])
def test_what_has_no_canonical_form_has_no_digest(arqon, text):
    said = run(arqon, "gov", "digest", "-", given=text.encode())
    assert (said.returncode, said.stdout) == (2, b""), said
    assert said.stderr.startswith(b"arqon: "), said.stderr


def test_an_envelope_verifies_elsewhere_and_no_flipped_bit_does(arqon, key, tmp_path):
    file, public = key
    message = {"type": "enforce", "action": {"kind": "set_variant", "value": 42}, "reason": "\u20ac"}
    (tmp_path / "m.json").write_text(json.dumps(message), encoding="utf-8")
    said = run(arqon, "gov", "sign", tmp_path / "m.json", "--key", file, "--tenant", "acme", "--epoch", 3, "--counter", 7)
    assert said.returncode == 0, said.stderr
    envelope = json.loads(said.stdout)
    assert set(envelope) == {"payload", "payloadType", "signatures"} and envelope["payloadType"] == TYPE
    payload = base64.b64decode(envelope["payload"], validate=True)
    control = json.loads(payload)
    assert (control["v"], control["tenant"], control["epoch"], control["counter"]) == (1, "acme", 3, 7)
    assert control["message"] == message and control["expires_at_us"] - control["issued_at_us"] == 300_000_000
    [signature] = envelope["signatures"]
    assert signature["keyid"] == public["keyid"] == "ops-1"
    verifier = Ed25519PublicKey.from_public_bytes(base64.b64decode(public["ed25519"], validate=True))
    sig = base64.b64decode(signature["sig"], validate=True)
    verifier.verify(sig, pae(payload))
    for bit in range(len(payload) * 8):
        flipped = bytearray(payload)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(InvalidSignature):
            verifier.verify(sig, pae(bytes(flipped)))


def test_the_key_file_is_a_seed_of_rfc_8032(key):
    file, public = key
    secret = Ed25519PrivateKey.from_private_bytes(base64.b64decode(file.read_text(encoding="utf-8").strip(), validate=True))
    assert base64.b64encode(secret.public_key().public_bytes_raw()).decode() == public["ed25519"]
    assert file.stat().st_mode & 0o077 == 0, "only its owner reads it"


def test_exit_codes_and_help(arqon, tmp_path):
    (tmp_path / "trail").write_bytes(b'{"n":0}\n')
    for words, code in [(["gov", "--help"], 0), (["gov", "stop", "--help"], 0), (["gov", "nonsense"], 2), (["gov"], 2),
                        (["audit", "verify", tmp_path / "trail"], 1), (["audit", "verify", tmp_path / "none"], 2)]:
        said = run(arqon, *words)
        assert said.returncode == code, (words, said)
