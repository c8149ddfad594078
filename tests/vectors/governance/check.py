#!/usr/bin/env python3
"""A second witness of the governance vectors: PyPI `rfc8785` and `cryptography`, none of our code.

    pip install rfc8785 cryptography && python3 tests/vectors/governance/check.py
"""

import base64
import hashlib
import json
import pathlib

import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

FOLDER = pathlib.Path(__file__).parent
FIELDS = {"id", "timestamp_us", "variant_id", "params", "reason", "confidence", "scope"}
REQUIRED = {"id", "timestamp_us", "reason", "confidence"}


def unique(pairs):
    keys = [key for key, _ in pairs]
    if len(keys) != len(set(keys)):
        raise ValueError("duplicate key")
    return dict(pairs)


def canonical(text):
    """RFC 8785 of exactly a proposal's fields; ValueError for what is none."""
    value = json.loads(text, object_pairs_hook=unique)
    value.pop("type", None)
    value = {key: item for key, item in value.items() if item is not None}
    if not REQUIRED <= set(value) <= FIELDS:
        raise ValueError("not a proposal")
    try:
        return rfc8785.dumps(value)
    except rfc8785.CanonicalizationError as error:
        raise ValueError(str(error)) from error


def pae(payload_type, payload):
    head = f"DSSEv1 {len(payload_type)} {payload_type} {len(payload)} "
    return head.encode() + payload


digests = json.loads((FOLDER / "digests.json").read_text())
for vector in digests:
    try:
        form = canonical(vector["json"])
    except ValueError as error:
        assert vector["digest"] is None, (vector, error)
        continue
    assert vector["canonical"] == form.decode(), (vector, form)
    assert vector["digest"] == "sha256:" + hashlib.sha256(form).hexdigest(), vector

signed = json.loads((FOLDER / "envelopes.json").read_text())
keys = {
    key["keyid"]: Ed25519PublicKey.from_public_bytes(base64.b64decode(key["ed25519"]))
    for key in signed["keys"]
}
messages = json.loads((FOLDER / "messages.json").read_text())
signatures = 0
for vector in signed["envelopes"]:
    envelope = vector["envelope"]
    payload = base64.b64decode(envelope["payload"], validate=True)
    assert payload.decode() == vector["payload"]
    assert json.loads(payload)["message"] == messages[vector["name"]], vector["name"]
    for signature in envelope["signatures"]:
        keys[signature["keyid"]].verify(
            base64.b64decode(signature["sig"]), pae(envelope["payloadType"], payload)
        )
        signatures += 1

print(f"{len(digests)} digests, {len(signed['envelopes'])} envelopes, {signatures} signatures: all agree")
