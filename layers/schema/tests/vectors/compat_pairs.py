"""Makes compat_pairs.json: named pairs of schemas that compat.py's random edits do not reach (editions, extensions, defaults of
each type, aliases), as descriptor sets in hex, with the verdict of buf 1.75 (PyPI buf-bin) on each.

pip install buf-bin==1.75.0; python compat_pairs.py compat_pairs.json
"""

import itertools
import json
import pathlib
import subprocess
import sys
import tempfile

PROTO2, EDITION = 'syntax = "proto2";', 'edition = "2023";'
DELIMITED = "[features.message_encoding = DELIMITED]"
EXTENDABLE = "message M { extensions 100 to 200; } "
DEFAULTS = {
    "int32": ["0", "1", "-0"],
    "uint64": ["0", "18446744073709551615"],
    "double": ["0", "-0.0", "1", "1e0", "inf", "nan"],
    "bool": ["false", "true"],
    "string": ['""', '"0"', '"false"', '"a"'],
    "bytes": ['""', '"0"', '"\\x00"'],
    "X": ["A", "B"],
}
PAIRS = {
    "a message becomes delimited": (EDITION, "message N {} message M { N n = 1; }", EDITION, f"message N {{}} message M {{ N n = 1 {DELIMITED}; }}"),
    "all of a file become delimited": (EDITION, "message N {} message M { N n = 1; map<int32, N> by = 2; }", EDITION,
                                       "option features.message_encoding = DELIMITED; message N {} message M { N n = 1; map<int32, N> by = 2; }"),
    "maps have a length whatever the file says": (EDITION, "message N {} message M { map<int32, N> by = 2; }", EDITION,
                                                  "option features.message_encoding = DELIMITED; message N {} message M { map<int32, N> by = 2; }"),
    "a group becomes delimited": (PROTO2, "message M { optional group N = 1 {} }", EDITION, f"message M {{ message N {{}} N n = 1 {DELIMITED}; }}"),
    "a group becomes a message": (PROTO2, "message M { optional group N = 1 {} }", PROTO2, "message M { message N {} optional N n = 1; }"),
    "an alias is added": (PROTO2, "enum X { A = 0; B = 1; }", PROTO2, "enum X { option allow_alias = true; A = 0; B = 1; C = 1; }"),
    "aliases change places": (PROTO2, "enum X { option allow_alias = true; A = 0; B = 1; C = 1; }", PROTO2,
                              "enum X { option allow_alias = true; A = 0; C = 1; B = 1; }"),
    "an enum begins with another value": (PROTO2, "enum X { A = 0; B = 1; } message M { optional X a = 1; }", PROTO2,
                                          "enum X { B = 1; A = 0; } message M { optional X a = 1; }"),
    "a boolean becomes a number": (PROTO2, "message M { optional bool a = 1 [default = true]; }", PROTO2, "message M { optional int32 a = 1 [default = 1]; }"),
    "an enum becomes a number": (PROTO2, "enum X { A = 0; B = 1; } message M { optional X a = 1 [default = B]; }", PROTO2,
                                 "enum X { A = 0; B = 1; } message M { optional int32 a = 1 [default = 1]; }"),
    "a string becomes bytes": (PROTO2, 'message M { optional string a = 1 [default = "x"]; }', PROTO2, 'message M { optional bytes a = 1 [default = "x"]; }'),
    "an extension is gone": (PROTO2, EXTENDABLE + "extend M { optional int32 x = 100; }", PROTO2, EXTENDABLE),
    "a nested extension changes": (PROTO2, EXTENDABLE + "message O { extend M { optional int32 x = 100; } }", PROTO2,
                                   EXTENDABLE + "message O { extend M { optional string x = 100; } }"),
    "an extension moves into a message": (PROTO2, EXTENDABLE + "message O {} extend M { optional int32 x = 100; }", PROTO2,
                                          EXTENDABLE + "message O { extend M { optional int32 x = 100; } }"),
    "an extension becomes delimited": (EDITION, EXTENDABLE + "message N {} extend M { N x = 100; }", EDITION,
                                       EXTENDABLE + f"message N {{}} extend M {{ N x = 100 {DELIMITED}; }}"),
}
for old, new in itertools.permutations(
        ["optional int32 x", "optional string x", "optional int32 y", "repeated int32 x", "optional int64 x"], 2):
    PAIRS[f"extension {old} -> {new}"] = tuple(t for field in (old, new) for t in (PROTO2, EXTENDABLE + f"extend M {{ {field} = 100; }}"))
for kind, values in DEFAULTS.items():
    for old, new in itertools.permutations(["", *(f"[default = {value}]" for value in values)], 2):
        PAIRS[f"{kind} {old} -> {new}"] = tuple(
            t for default in (old, new) for t in (PROTO2, f"enum X {{ A = 0; B = 1; }} message M {{ optional {kind} a = 1 {default}; }}"))


def verdict(folder, category):
    """The rules that buf says are broken, once each."""
    config = json.dumps({"version": "v2", "breaking": {"use": [category]}})
    done = subprocess.run(["buf", "breaking", "new.binpb", "--against", "old.binpb", "--error-format", "json", "--config", config],
                          cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 100), done.stderr
    return sorted({json.loads(line)["type"] for line in done.stdout.splitlines()})


def pair(name, folder):
    """One entry of the file."""
    entry = {"name": name}
    for which, (syntax, text) in (("old", PAIRS[name][:2]), ("new", PAIRS[name][2:])):
        (folder / which).mkdir()
        (folder / which / "a.proto").write_text(f"{syntax} package p; {text}", encoding="utf-8")
        subprocess.run(["buf", "build", ".", "--exclude-source-info", "-o", f"../{which}.binpb"], cwd=folder / which, check=True)
        entry[which] = (folder / f"{which}.binpb").read_bytes().hex()
    return entry | {"wire": verdict(folder, "WIRE"), "wire_json": verdict(folder, "WIRE_JSON")}


entries = []
for name in PAIRS:
    with tempfile.TemporaryDirectory() as folder:
        entries.append(pair(name, pathlib.Path(folder)))
pathlib.Path(sys.argv[1]).write_text("[\n" + ",\n".join(json.dumps(entry) for entry in entries) + "\n]\n", encoding="utf-8")
print(len(entries), "pairs,", sum(bool(entry["wire"]) for entry in entries), "break the wire")
