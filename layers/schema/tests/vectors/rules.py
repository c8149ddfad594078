"""Makes rules.json: random payloads of the messages in rules.proto with the violations that protovalidate finds.

pip install buf-bin==1.75.0 protobuf==7.36.2 protovalidate==2.1.0
python rules.py rules.json [cases per message] [seed]

The short form is in the repository and checked by `cargo test -p arqon-schema --test rules`; for a long run give a count and
a seed, and `TEST_RULES_VECTORS=<file>` to the test.
"""

import json
import os
import random
import subprocess
import sys
import tempfile

import protovalidate
from google.protobuf import (
    any_pb2,
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    field_mask_pb2,
    message_factory,
    timestamp_pb2,
    wrappers_pb2,
)

HERE = os.path.dirname(os.path.abspath(__file__))
COUNT = int(sys.argv[2]) if len(sys.argv) > 2 else 60
R = random.Random(int(sys.argv[3]) if len(sys.argv) > 3 else 20261121)

TEXTS = {
    "Strings": ["", "a", "ab", "abc", "abcd", "xbc", "xabcx", "b", "grün", "ü", "üü", "日本", "AB", "a b", "ab\n"],
    "Formats": """
        |a@b.c|a@b|@b|a@|a@@b|a b@c|.a@b|a..b@c.d|a@-b|a@b-|a@b.|"a"@b|ä@b.c|a+b@c.d-e.f
        |host|a.b.c|a.b.c.|-a.b|a-.b|a..b|a.1|1.a|a_b|%s|%s.a|255.255.255.255
        |1.2.3.4|01.2.3.4|1.2.3|256.1.1.1|1.2.3.4.5| 1.2.3.4|::|::1|1::|1:2:3:4:5:6:7:8|1:2:3:4:5:6:7::|1:2:3:4:5:6:7:8::|::2:3:4:5:6:7:8
        |1:2:3:4:5:6:7|1::2::3|::ffff:1.2.3.4|::1.2.3|fe80::1%%eth0|fe80::1%%|12345::|:::|g::|[::1]|1:2:3:4:5:6:1.2.3.4|::FFFF|1.2.3.4%%a
        |http://a|http://a.b/c?d=e#f|a:b|a:|:a|1a:b|a+-.1:b|http://|http:///p|http://a:80|http://a:|http://a:8x|http://a:99999|http://u:p@h/|http://u@v@h
        |http://[::1]|http://[::1]:8|http://[::1|http://[v1.x:y]|http://[v.x]|http://[fe80::1%%25en0]|http://[fe80::1%%25]|http://[fe80::1%%en0]|http://[::1]x
        |http://%%41|http://%%zz|http://%%ff|http://%%c3%%bc|a:%%4|a:/b c|a:b<c|http://a/[|mailto:x@y|urn:isbn:1|a://b//c|a:?#|a:?/?:@|a:#/#
        |/a|a/b|a/b:c|a:b/c|//h/p|?q|#f|./a:b|.|..|a%%20b|ä|//|//:80|http://ä|http://a b|http://a^b|HTTP://A|x:y:z|http://a/%%|//@/|http://1.2.3.4.5
        |00000000-0000-0000-0000-000000000000|0000000-0000-0000-0000-0000000000000|ABCDEFab-cdef-0123-4567-89abcdefABCD|g0000000-0000-0000-0000-000000000000
        |00000000000000000000000000000000|0000000000000000000000000000000|0123456789abcdefABCDEF0123456789
    """
    % ("a" * 64, "a" * 63),
    "Networks": """
        |1.2.3.4/8|1.0.0.0/8|1.2.3.4/32|1.2.3.4/33|1.2.3.4/08|1.2.3.4/|1.2.3.4|/8|0.0.0.0/0|1.2.3.0/24|1.2.3.4/24|01.2.3.4/8|1.2.3.4/-1|1.2.3.4/8/8
        |::/0|::1/128|::1/129|1::/16|1:2::/16|1:2::/32|fe80::1%%a/10|1::/016|::|2001:db8::/32|2001:db8::1/32|::ffff:1.2.3.4/96|::ffff:0.0.0.0/96
        |a:1|a:0|a:65535|a:65536|a:01|a:|:1|a|1.2.3.4:5|[::1]:5|[::1]|[::1]:|::1:5|[::1%%x]:5|[1.2.3.4]:5|a.b.:1|a..b:1|1.2:3|[::1]5|[::1:5|a:+1|a: 1
        |00000000000000000000000000|7ZZZZZZZZZZZZZZZZZZZZZZZZZ|8ZZZZZZZZZZZZZZZZZZZZZZZZZ|0000000000000000000000000I|0000000000000000000000000u|000000000000000000000000000
        |a|a.b|_a.b_1|.a|a.|a..b|1a|a.1|a-b|.a.b|..a|.|.1|.a.|ä
    """.replace("%%", "%"),
    "Headers": ["", "a", ":a", "::a", ":", "A-b_c", "a b", "a,b", "a/b", "a:b", "\t", "a\tb", "\x00", "a\n", "\r", "\x7f", "ü", "`~", "a(b"],
    "Patterns": ["", "1", "12", "١", "a", "a_1", "ä", "a.b-c@x", "a@x", " ", "\t", "\x0b", "a b", "ab", "aba", "ababa", "ABC", "abc", "äß", "aä", "bb", "ab b", "a&b", "&", "a.b", "axb", "ü", "a" * 1000, "a" * 1001, "abc1"],
}
for name in ("Formats", "Networks"):
    TEXTS[name] = [""] + [text for line in TEXTS[name].split("\n") for text in line.strip().split("|") if text]
PLAIN = ["", "a", "ab", "abc", "abcd", "grün", "x"]
BLOBS = [b"", b"a", b"ab", b"abc", b"abcd", b"a\xff", b"\xff", b"b" * 16, b"c" * 4, b"ABCD", b"x" * 17]
PATHS = ["a", "b_c", "b_c.d", "b_c.de", "a.x", "z", ""]
F = descriptor_pb2.FieldDescriptorProto


def pool():
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "rules.binpb")
        root = os.path.join(HERE, "..", "..", "proto")
        os.makedirs(os.path.join(folder, "in", "buf", "validate"))
        for source, target in (
            (os.path.join(root, "buf", "validate", "validate.proto"), "buf/validate/validate.proto"),
            (os.path.join(HERE, "rules.proto"), "rules.proto"),
        ):
            with open(source, "rb") as read, open(os.path.join(folder, "in", target), "wb") as write:
                write.write(read.read())
        subprocess.run(["buf", "build", "in", "-o", out], cwd=folder, check=True)
        with open(out, "rb") as file:
            files = descriptor_pb2.FileDescriptorSet.FromString(file.read())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    message_factory.GetMessageClassesForFiles([file.name for file in files.file], pool)
    return pool


def scalar(field, root):
    kind = field.type
    if kind == F.TYPE_BOOL:
        return R.random() < 0.5
    if kind == F.TYPE_STRING:
        text = R.choice(TEXTS.get(root, PLAIN))
        return text + R.choice("a.:/%1 ") if R.random() < 0.05 else text
    if kind == F.TYPE_BYTES:
        return R.choice(BLOBS)
    if kind == F.TYPE_ENUM:
        return R.choice([0, 1, 2, 5, 5, 7, 9, -1])
    if kind in (F.TYPE_FLOAT, F.TYPE_DOUBLE):
        return R.choice([0.0, 1, 2, 2.5, 3, 4, 5, 6, 7, 0.1, -1, float("nan"), float("inf"), float("-inf"), -0.0])
    bits = 32 if "32" in F.Type.Name(kind) else 64
    if kind in (F.TYPE_UINT32, F.TYPE_UINT64, F.TYPE_FIXED32, F.TYPE_FIXED64):
        return R.choice([0, 1, 2, 3, 3, 4, 5, 6, 7, 8, 2**bits - 1])
    return R.choice([0, 1, 2, 3, 3, 4, 5, 6, 7, 8, -1, 2 ** (bits - 1) - 1, -(2 ** (bits - 1))])


def fill(message, root, depth=0):
    name = message.DESCRIPTOR.full_name
    if name == "google.protobuf.Any":
        message.type_url = R.choice(["a/b", "c/d", "x", ""])
    elif name in ("google.protobuf.Duration", "google.protobuf.Timestamp"):
        message.seconds = R.choice([0, 1, 2, 3, 3, 4, 5, 6, 4_000_000_000])
        message.nanos = R.choice([0, 0, 1, 7, 500_000_000, 500_000_001])
    elif name == "google.protobuf.FieldMask":
        message.paths.extend(R.choice([["a", "b_c"], [R.choice(PATHS) for _ in range(R.randrange(3))]]))
    else:
        fields = message.DESCRIPTOR.fields
        many = R.choice([1, 2, 3, len(fields)])
        for field in R.sample(list(fields), min(many, len(fields))):
            value(message, field, root, depth)


def value(message, field, root, depth):
    if field.message_type and field.message_type.GetOptions().map_entry:
        of = field.message_type.fields_by_name["value"]
        for _ in range(R.choice([0, 1, 1, 2, 3])):
            key = scalar(field.message_type.fields_by_name["key"], root)
            if of.message_type:
                fill(getattr(message, field.name)[key], root, depth + 1)
            else:
                getattr(message, field.name)[key] = scalar(of, root)
    elif field.is_repeated:
        items = getattr(message, field.name)
        for _ in range(R.choice([0, 1, 2, 2, 3, 4])):
            if field.message_type:
                fill(items.add(), root, depth + 1)
            else:
                items.append(scalar(field, root))
    elif field.message_type:
        inner = getattr(message, field.name)
        inner.SetInParent()
        if depth < 4:
            fill(inner, root, depth + 1)
    else:
        setattr(message, field.name, scalar(field, root))


def path(violation):
    out = ""
    for element in violation.proto.field.elements if violation.proto.has_field("field") else []:
        out += ("." if out else "") + element.field_name
        key = element.subscript
        if key is None:
            continue
        if key.field == "string_key":
            out += "[" + json.dumps(key.value, ensure_ascii=False) + "]"
        else:
            out += "[" + (str(key.value).lower() if key.field == "bool_key" else str(key.value)) + "]"
    return out or "."


def main():
    rules = pool()
    validator = protovalidate.Validator()
    cases = []
    for file in [rules.FindFileByName("rules.proto")]:
        for name, descriptor in sorted(file.message_types_by_name.items()):
            kind = message_factory.GetMessageClass(descriptor)
            count = COUNT * (4 if name in ("Formats", "Networks") else 2 if name in TEXTS else 1)
            for at in range(count):
                payload = b""
                # Several messages one after the other are one message.
                for _ in range(R.choice([1, 1, 1, 2]) if at else 0):
                    message = kind()
                    fill(message, name)
                    payload += message.SerializeToString()
                message = kind.FromString(payload)
                try:
                    found = validator.collect_violations(message)
                    found = sorted([path(one), one.proto.rule_id, one.proto.message] for one in found)
                except protovalidate.EvaluationError as error:
                    found = str(error)
                cases.append([name, payload.hex(), found])
    with open(sys.argv[1], "w", encoding="utf-8") as out:
        out.write("[\n" + ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases) + "\n]\n")
    print(len(cases), "cases", sum(1 for case in cases if case[2]), "refused", file=sys.stderr)


main()
