"""The vectors of binary WebSocket frames, by PyPI protobuf: what it writes now is what is checked in."""

import importlib.util
import json

from google.protobuf import json_format


def test_frames_are_what_protobuf_writes_and_reads(vectors):
    spec = importlib.util.spec_from_file_location("make_gateway", vectors / "make_gateway.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    kept = json.loads((vectors / "gateway" / "frames.json").read_text(encoding="utf-8"))
    assert kept == make.vectors()
    for side, kind in zip(("client", "server"), make.messages(), strict=True):
        assert len(kept[side]) > 5
        for vector in kept[side]:
            read = json_format.MessageToDict(kind.FromString(bytes.fromhex(vector["hex"])))
            written = json_format.MessageToDict(json_format.ParseDict(vector["frame"], kind()))
            assert read == written, vector["name"]
