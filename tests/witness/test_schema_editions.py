"""Google's own parser (upb, and its JSON) as the witness of `arqon schema check`, on an edition that prost-reflect cannot read.

Payloads are made by the real encoder from a fixed seed, then damaged. TEST_ROUNDS=100000 takes more of them, TEST_SEED others.
"""

import os
import pathlib
import random
import re
import struct
import subprocess
import sys

import pytest
from google.protobuf import (
    any_pb2,
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    field_mask_pb2,
    json_format,
    message_factory,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)
from google.protobuf.message import DecodeError

HERE = pathlib.Path(__file__).resolve().parent
KNOWN = (any_pb2, duration_pb2, field_mask_pb2, struct_pb2, timestamp_pb2, wrappers_pb2)
ROUNDS = int(os.environ.get("TEST_ROUNDS", "3000"))
SEED = int(os.environ.get("TEST_SEED", "20261121"))
TEXTS = ["", "a", "eu", "gr\u00fcn", "x" * 70, "\0", '"\\']
KEYS = ["", "a", "eu", "gr\u00fcn"]

# Where ours is the stricter reading of bytes that upb takes (docs/specs/schema-cases.md).
STRICTER_WIRE = {"wire.type", "wire.varint", "wire.utf8"}
# Python takes enum numbers in quotes, booleans as numbers, odd base64, durations with a plus sign, and cuts names at a zero.
STRICTER_JSON = {"json.format", "json.type", "json.range", "json.duplicate", "strict.unknown_field"}

REQUIRED = [
    ["explicit"], ["implicit"], ["child.explicit", "tree[].implicit"], ["child.implicit"], ["delimited.number"],
    ["delimited.child.implicit", "choice"], ["groups[].closed"], ["tree[].child.number"], ["closed"], ["list_of_closed"],
    ["packed"], ["message.implicit"], ["closed_choice"], ["numbered"], ["any"], ["i32", "f64"], ["double"],
    ["child.tree[].explicit"], ["choice"],
]  # fmt: skip


@pytest.fixture(scope="module")
def contract(tmp_path_factory):
    built = tmp_path_factory.mktemp("contract") / "hostile.binpb"
    buf = pathlib.Path(sys.executable).parent / "buf"
    subprocess.run([buf, "build", f"{HERE / 'hostile.proto'}", "-o", built], check=True, timeout=120)
    return built


@pytest.fixture(scope="module")
def pool(contract):
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(contract.read_bytes()).file:
        pool.Add(file)
    return pool


@pytest.fixture(scope="module")
def hostile(pool):
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("hostile.Hostile"))


@pytest.fixture(scope="module")
def check(arqon, contract):
    """The verdict of each payload: None, or where and by which rule it is refused."""

    def verdicts(payloads, encoding, required=()):
        command = [arqon, "schema", "check", "--descriptors", contract, "--message", "hostile.Hostile"]
        command += ["--level", "wire", "--encoding", encoding, "--hex-lines", "-"]
        for path in required:
            command += ["--required", path]
        lines = "".join(payload.hex() + "\n" for payload in payloads)
        ended = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=600)
        said = ended.stdout.splitlines()
        assert len(said) == len(payloads), ended.stderr
        return [None if line == "accept" else tuple(line.removeprefix("reject ").rsplit(" ", 1)) for line in said]

    return verdicts


class Maker:
    def __init__(self, hostile, seed):
        self.hostile, self.random = hostile, random.Random(seed)

    def scalar(self, field):
        choice = self.random.choice
        match field.type:
            case field.TYPE_STRING:
                return choice(TEXTS)
            case field.TYPE_BYTES:
                return choice([b"", b"\xff", b"abc"])
            case field.TYPE_BOOL:
                return choice([False, True])
            case field.TYPE_ENUM:
                return choice([value.number for value in field.enum_type.values])
            case field.TYPE_DOUBLE | field.TYPE_FLOAT:
                return choice([0.0, -0.0, 1.5, -2.25, float("nan"), float("inf")])
            case field.TYPE_INT64 | field.TYPE_SINT64:
                return choice([0, 1, -1, 2**63 - 1, -(2**63)])
            case field.TYPE_UINT64 | field.TYPE_FIXED64:
                return choice([0, 1, 2**64 - 1])
            case field.TYPE_UINT32:
                return choice([0, 1, 2**32 - 1])
            case _:
                return choice([0, 1, -1, 2**31 - 1, -(2**31)])

    def fill(self, message, depth):
        """Gives a message of any of the types something that its JSON form has."""
        choice, whole = self.random.choice, self.random.randint
        match message.DESCRIPTOR.full_name.rsplit(".", 1)[-1]:
            case "Hostile":
                if depth < 4:
                    message.CopyFrom(self.message(depth))
            case "Any":
                message.Pack(choice([self.message(3), duration_pb2.Duration(seconds=3), struct_pb2.Struct()]))
            case "Struct":
                message.update({"a": [1, None, {"b": True}], "k": "v"})
            case "Value":
                message.ParseFromString(choice([b"\x08\x00", b"\x1a\x01x", b"\x20\x01"]))
            case "Timestamp":
                message.seconds, message.nanos = whole(-62135596800, 253402300799), choice([0, 1, 999999999, 120000000])
            case "Duration":
                message.seconds = whole(-315575999999, 315575999999)
                message.nanos = 500000000 if message.seconds > 0 else 0
            case "FieldMask":
                message.paths.extend(choice([[], ["a"], ["foo_bar", "x.y_z"]]))
            case "Int64Value":
                message.value = choice([0, -1, 2**63 - 1])
            case "BytesValue":
                message.value = choice([b"", b"\xff\x00"])
        message.SetInParent()

    def message(self, depth=0):
        made = self.hostile()
        fields = list(self.hostile.DESCRIPTOR.fields)
        for field in self.random.sample(fields, self.random.randint(0, 6 if depth == 0 else 3)):
            value = getattr(made, field.name)
            some = range(self.random.randint(0, 3))
            match field.name:
                case "tree":
                    for _ in some:
                        self.fill(value[self.random.choice(KEYS)], depth + 1)
                case "numbered":
                    value.update({self.random.randint(-5, 2**31 - 1): self.random.choice([0, 1, -5]) for _ in some})
                case "flags":
                    value.update({self.random.random() < 0.5: self.random.choice(TEXTS) for _ in some})
                case "shares":
                    value.update({self.random.randint(0, 2**64 - 1): self.random.choice([0.0, 1e300]) for _ in some})
                case _ if field.message_type is None and field.is_repeated:
                    value.extend(self.scalar(field) for _ in some)
                case name if field.message_type is None:
                    setattr(made, name, self.scalar(field))
                case _ if field.is_repeated:
                    for _ in some:
                        self.fill(value.add(), depth + 1)
                case _:
                    self.fill(value, depth + 1)
        return made

    def damaged(self, payload, inserted):
        """Flips, cuts, repeats, moves, and puts in what is seldom there by chance."""
        payload = list(payload)
        for _ in range(self.random.randint(1, 3)):
            at = self.random.randrange(len(payload) + 1)
            end = at + self.random.randint(1, 12)
            match self.random.randrange(6):
                case 0:
                    del payload[at:]
                case 1:
                    del payload[at : at + 1]
                case 2:
                    payload[at:at] = payload[at:end]
                case 3:
                    start = self.random.randrange(len(payload) + 1)
                    payload[at:at] = payload[start : start + 12]
                case 4:
                    payload[at : at + 1] = [self.random.choice(inserted)]
                case _:
                    payload.insert(at, self.random.choice(inserted))
        return payload


def reads(parse, payload):
    try:
        parse(payload)
    except (DecodeError, json_format.ParseError, UnicodeDecodeError, RecursionError):
        return False
    return True


def test_binary_verdicts_are_upbs_but_for_the_table(hostile, check):
    maker = Maker(hostile, SEED)
    payloads = []
    for _ in range(ROUNDS):
        payload = maker.message().SerializeToString()
        if maker.random.random() < 0.8:
            payload = bytes(maker.damaged(payload, range(256)))
        payloads.append(payload)
    accepted = 0
    for payload, ours in zip(payloads, check(payloads, "proto"), strict=True):
        theirs = reads(hostile.FromString, payload)
        accepted += ours is None
        assert (ours is None) == theirs or theirs and ours[1] in STRICTER_WIRE, (payload.hex(), ours, theirs)
    assert ROUNDS / 10 < accepted < ROUNDS


def test_no_document_is_taken_that_googles_json_refuses(hostile, pool, check):
    maker = Maker(hostile, SEED)
    odd = [*'{}[]:,"0129.eE+- \\uZ', "null", "true", "1e5", "1e400", "-0", "NaN", '"NaN"', "\\ud800", "\\u0000", "1.0", "\t"]
    odd += ["9223372036854775808", "18446744073709551615.0", '"2000-01-01T00:00:00+01:00"', '"-5"', '"YQ"']
    documents = []
    for _ in range(ROUNDS):
        text = json_format.MessageToJson(
            maker.message(),
            indent=None,
            preserving_proto_field_name=maker.random.random() < 0.3,
            always_print_fields_with_no_presence=maker.random.random() < 0.1,
            descriptor_pool=pool,
        )
        if maker.random.random() < 0.8:
            text = "".join(maker.damaged(re.split(r"(\W)", text), odd))
        documents.append(text.encode())
    accepted = 0
    for document, ours in zip(documents, check(documents, "json"), strict=True):

        def parse(text):
            json_format.Parse(text.decode(), hostile(), descriptor_pool=pool)

        theirs = reads(parse, document)
        accepted += ours is None
        assert (ours is None) == theirs or theirs and ours[1] in STRICTER_JSON, (document, ours, theirs)
    assert ROUNDS / 10 < accepted < ROUNDS


def is_there(message, name):
    field = message.DESCRIPTOR.fields_by_name.get(name)
    if field is None:
        return message.WhichOneof(name) is not None
    value = getattr(message, name)
    if field.is_repeated:
        return len(value) > 0
    if field.has_presence:
        return message.HasField(name)
    return struct.pack("<d", value) != bytes(8) if isinstance(value, float) else bool(value)


def missing(message, path, at=""):
    """Where a path is missing, in the message as upb has merged it."""
    head, _, rest = path.partition(".")
    name = head.removesuffix("[]")
    here = f"{at}.{name}" if at else name
    if not rest:
        return set() if is_there(message, name) else {here}
    value = getattr(message, name)
    if not head.endswith("[]"):
        return missing(value, rest, here) if is_there(message, name) else set()
    if hasattr(value, "keys"):
        each = [missing(value[key], rest, f'{here}["{key}"]') for key in value]
    else:
        each = [missing(child, rest, f"{here}[{at}]") for at, child in enumerate(value)]
    return set().union(*each)


@pytest.mark.parametrize("required", REQUIRED, ids=" ".join)
def test_presence_is_judged_on_the_message_as_upb_merges_it(hostile, pool, check, required):
    maker = Maker(hostile, SEED)
    binary, documents, expected = [], [], []
    while len(binary) < ROUNDS // 10:
        # Parts one after another are one message, by the rules of merging.
        parts = [maker.message().SerializeToString() for _ in range(maker.random.randint(1, 3))]
        payload = b"".join(parts)
        if maker.random.random() < 0.3:
            payload = bytes(maker.damaged(payload, range(256)))
        if not reads(hostile.FromString, payload):
            continue
        message = hostile.FromString(payload)
        try:
            document = json_format.MessageToJson(message, indent=None, descriptor_pool=pool).encode()
        except (json_format.Error, TypeError, ValueError):
            continue
        binary.append(payload)
        documents.append(document)
        expected.append(set().union(*(missing(message, path) for path in required)))
    for payloads, encoding in ((binary, "proto"), (documents, "json")):
        judged = 0
        for payload, ours, wanted in zip(payloads, check(payloads, encoding, required), expected, strict=True):
            if ours and ours[1] != "required":
                # Refused by the table, or a number that only an open enum has.
                continue
            judged += 1
            assert ours is None and not wanted or ours and ours[0] in wanted, (payload, ours, wanted)
        assert judged > len(payloads) / 2
