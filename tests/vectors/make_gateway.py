#!/usr/bin/env python3
"""Writes gateway/frames.json: frames of `arqon.v1.proto`, by PyPI's protobuf from the contract's descriptor.

    target/tools/venv/bin/python tests/vectors/make_gateway.py
"""

import json
import pathlib

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

FOLDER = pathlib.Path(__file__).parent / "gateway"

CLIENT = {
    "the least": {"id": "1", "publish": {"subject": "users"}},
    "a payload": {"id": "2", "publish": {"subject": "users.created", "payload": "CgJ1MQ=="}},
    "headers": {"id": "3", "publish": {"subject": "a", "headers": [{"name": "content-type", "value": "application/json"},
                                                                   {"name": "X-A", "value": "1"}], "payload": "e30="}},
    "a header twice": {"id": "4", "publish": {"subject": "a", "headers": [{"name": "x-a", "value": "1"}, {"name": "x-a", "value": "2"}]}},
    "no id": {"publish": {"subject": "a"}},
    "an id of many bytes": {"id": "é😀" * 50, "publish": {"subject": "a", "payload": "AAECAw=="}},
    "one token": {"id": "5", "subscribe": {"pattern": "users.*"}},
    "all": {"id": "6", "subscribe": {"pattern": ">"}},
}
SERVER = {
    "kept": {"id": "1", "ack": {"subject": "in.t.acme.users", "stream": "ARQON_IN", "sequence": "18446744073709551615", "duplicate": True}},
    "sequence 0": {"id": "1", "ack": {"subject": "in.t.acme.users", "stream": "S", "sequence": "0"}},
    "kept nowhere": {"id": "2", "ack": {"subject": "in.t.acme.users"}},
    "an empty id": {"id": "", "ack": {"subject": "in.t.acme.users"}},
    "unreadable": {"nack": {"type": "urn:arqon:problem:frame.invalid", "title": "The frame is not valid", "status": 400,
                            "detail": "why", "code": "frame.invalid"}},
    "a violation": {"id": "3", "nack": {"type": "urn:arqon:problem:schema.violation", "title": "The payload does not match its schema",
                                        "status": 400, "detail": "field 'user_id' missing", "code": "schema.violation",
                                        "instance": "/v1/publish/users", "traceId": "12345678901234567890123456789012",
                                        "violations": [{"path": "user_id", "rule": "required", "message": "field 'user_id' missing"},
                                                       {"path": ".", "rule": "wire", "message": "x"}]}},
    "subscribed": {"id": "4", "subscribed": {"pattern": "in.t.acme.users.>"}},
    "delivered": {"delivery": {"subject": "users.created", "headers": [{"name": "x-a", "value": "1"}], "payload": "CgJ1MQ=="}},
    "nothing delivered": {"delivery": {"subject": "a"}},
}


def messages():
    """The two frame classes, from the contract's descriptor."""
    files = descriptor_pb2.FileDescriptorSet.FromString((FOLDER / "gateway.binpb").read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    name = "arqon.gateway.v1."
    return tuple(message_factory.GetMessageClass(pool.FindMessageTypeByName(name + side)) for side in ("ClientFrame", "ServerFrame"))


def vectors():
    """Everything that the file holds."""
    client, server = messages()

    def written(kind, frames):
        return [{"name": name, "frame": frame, "hex": json_format.ParseDict(frame, kind()).SerializeToString(deterministic=True).hex()}
                for name, frame in frames.items()]

    return {"client": written(client, CLIENT), "server": written(server, SERVER)}


if __name__ == "__main__":
    (FOLDER / "frames.json").write_text(json.dumps(vectors(), indent=1) + "\n", encoding="utf-8")
