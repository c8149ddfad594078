"""Makes compat.json: 300 random schema edits with the verdict of buf 1.75 (PyPI buf-bin) on each.

pip install buf-bin==1.75.0; python compat.py compat.json [edits] [seed]

The short form is in the repository; `TEST_COMPAT_VECTORS=<file>` runs a longer file of this script.
"""

import json, os, random, shutil, subprocess, sys, tempfile
from concurrent.futures import ThreadPoolExecutor

COUNT = int(sys.argv[2]) if len(sys.argv) > 2 else 300
R = random.Random(int(sys.argv[3]) if len(sys.argv) > 3 else 20261121)
SC = [
    "int32",
    "int64",
    "uint32",
    "uint64",
    "sint32",
    "sint64",
    "fixed32",
    "fixed64",
    "sfixed32",
    "sfixed64",
    "float",
    "double",
    "bool",
    "string",
    "bytes",
]


def base():
    syntax = R.choice(["proto2", "proto3"])
    s = {"syntax": syntax, "package": "p.v1", "messages": {}, "enums": {}}
    for m in ["Order", "Item", "Address"]:
        fs = {}
        for i in range(1, R.randint(3, 7)):
            t = R.choice(SC + ["Item", "Status"] + ["map<string,int32>", "map<int32,Item>"])
            lab = (
                ""
                if t.startswith("map")
                else R.choice(
                    ["", "repeated", "optional"]
                    if syntax == "proto3"
                    else ["optional", "repeated", "required"]
                )
            )
            fs[i] = {
                "name": f"f{i}_{R.choice(['id','name','x'])}",
                "type": t,
                "label": lab,
                "json": None,
                "oneof": None,
                "default": None,
            }
        n = max(fs) + 1
        for k in range(2):
            fs[n + k] = {
                "name": f"choice{k}",
                "type": R.choice(["string", "int32", "Address"]),
                "label": "",
                "json": None,
                "oneof": "pick",
                "default": None,
            }
        s["messages"][m] = {"fields": fs, "rnum": [(50, 55)], "rname": ["old_name"]}
    s["enums"]["Status"] = {
        "values": {0: "ZERO", 1: "ONE", 2: "TWO", 5: "FIVE"},
        "rnum": [(10, 12)],
        "rname": ["GONE"],
    }
    s["enums"]["Other"] = {"values": {0: "O_ZERO", 1: "O_ONE"}, "rnum": [], "rname": []}
    return s


def render(s):
    o = [f'syntax = "{s["syntax"]}"; package {s["package"]};']

    def res(x):
        out = ""
        if x["rnum"]:
            out += " reserved " + ", ".join(f"{a} to {b}" if a != b else str(a) for a, b in x["rnum"]) + ";"
        if x["rname"]:
            out += " reserved " + ", ".join(f'"{n}"' for n in x["rname"]) + ";"
        return out

    for n, m in s["messages"].items():
        body = res(m)
        one = {}
        for num, f in m["fields"].items():
            opt = []
            if f["json"]:
                opt.append(f'json_name = "{f["json"]}"')
            if f["default"] is not None and s["syntax"] == "proto2":
                opt.append(f'default = {f["default"]}')
            line = f'{f["type"]} {f["name"]} = {num}' + (f' [{", ".join(opt)}]' if opt else "") + ";"
            if f["oneof"]:
                one.setdefault(f["oneof"], []).append(line)
            else:
                lab = f["label"]
                if not f["type"].startswith("map"):
                    if s["syntax"] == "proto2" and lab == "":
                        lab = "optional"
                    if s["syntax"] == "proto3" and lab == "required":
                        lab = ""
                else:
                    lab = ""
                body += f" {lab} {line}"
        for k, l in one.items():
            body += f" oneof {k} {{ {' '.join(l)} }}"
        o.append(f"message {n} {{ {body} }}")
    for n, e in s["enums"].items():
        o.append(
            f"enum {n} {{ " + " ".join(f"{v} = {k};" for k, v in sorted(e["values"].items())) + res(e) + " }"
        )
    return "\n".join(o)


def edit(s):
    m = s["messages"][R.choice(list(s["messages"]))]
    fs = m["fields"]
    k = R.choice(list(fs))
    f = fs[k]
    e = s["enums"][R.choice(list(s["enums"]))]
    op = R.randrange(19)
    if op == 0:
        fs[R.randint(20, 40)] = {
            "name": f"new{R.randint(0,999)}",
            "type": R.choice(SC),
            "label": "",
            "json": None,
            "oneof": None,
            "default": None,
        }
    elif op == 1:
        del fs[k]
    elif op == 2:
        m["rnum"].append((k, k))
        del fs[k]
    elif op == 3:
        m["rnum"].append((k, k))
        m["rname"].append(f["name"])
        del fs[k]
    elif op == 4:
        f["name"] = "renamed_" + f["name"]
    elif op == 5:
        f["json"] = "other" + str(k)
    elif op in (6, 7) and not f["oneof"]:
        f["type"] = R.choice(SC + ["Item", "Status", "Other", "Address"])
        f["label"] = f["label"] or "optional"
    elif op == 8 and not f["type"].startswith("map") and not f["oneof"]:
        f["label"] = R.choice(["optional", "repeated", "required", ""])
    elif op == 9:
        fs[R.randint(60, 90)] = fs.pop(k)
    elif op == 10 and not f["type"].startswith("map") and not f["oneof"]:
        f["oneof"] = "pick"
        f["label"] = ""
    elif op == 11 and f["oneof"]:
        f["oneof"] = None
    elif op == 12 and f["oneof"]:
        f["oneof"] = "other_pick"
    elif op == 13:
        v = R.choice([x for x in e["values"] if x != 0] or [0])
        v and e["values"].pop(v)
    elif op == 14:
        v = R.choice([x for x in e["values"] if x != 0] or [0])
        if v:
            e["rnum"].append((v, v))
            n = e["values"].pop(v)
            R.random() < 0.5 and e["rname"].append(n)
    elif op == 15:
        v = R.choice(list(e["values"]))
        e["values"][v] += "_RENAMED"
    elif op == 16:
        e["values"][R.randint(20, 30)] = f"NEW_{R.randint(0,999)}"
    elif op == 17:
        R.choice(
            [
                lambda: m["rname"].clear(),
                lambda: m["rnum"].clear(),
                lambda: e["rnum"].clear(),
                lambda: e["rname"].clear(),
                lambda: m.__setitem__(
                    "rnum", [(50, R.choice([52, 60]))] + [x for x in m["rnum"] if x != (50, 55)]
                ),
            ]
        )()
    elif op == 18:
        if R.random() < 0.3:
            s["package"] = "p.v2"
        elif (
            s["syntax"] == "proto2"
            and f["type"] in ("int32", "int64")
            and f["label"] == "optional"
            and not f["oneof"]
        ):
            f["default"] = R.choice([0, 5])
        elif R.random() < 0.3:
            (
                s["messages"].pop("Address", None)
                if not any(
                    x["type"] == "Address" for mm in s["messages"].values() for x in mm["fields"].values()
                )
                else None
            )


def fix(s):
    for m in s["messages"].values():
        if not m["fields"]:
            m["fields"][1] = {
                "name": "filler",
                "type": "int32",
                "label": "",
                "json": None,
                "oneof": None,
                "default": None,
            }
        for f in m["fields"].values():
            if s["syntax"] == "proto3" and f["label"] == "required":
                f["label"] = ""


def one(i_pair):
    i, old, new = i_pair
    d = tempfile.mkdtemp()
    imgs = []
    try:
        for w, src in (("old", old), ("new", new)):
            os.makedirs(f"{d}/{w}")
            open(f"{d}/{w}/a.proto", "w").write(src)
            r = subprocess.run(
                ["buf", "build", ".", "-o", f"../{w}.binpb"], cwd=f"{d}/{w}", capture_output=True, text=True
            )
            if r.returncode:
                return None
        out = {}
        for c in ("WIRE", "WIRE_JSON"):
            r = subprocess.run(
                [
                    "buf",
                    "breaking",
                    "new.binpb",
                    "--against",
                    "old.binpb",
                    "--config",
                    '{"version":"v2","breaking":{"use":["%s"]}}' % c,
                    "--error-format",
                    "json",
                ],
                cwd=d,
                capture_output=True,
                text=True,
            )
            if r.returncode not in (0, 100):
                return None
            out[c] = sorted(json.loads(l)["type"] for l in r.stdout.splitlines())
        return {
            "old": old,
            "new": new,
            "wire": sorted(set(out["WIRE"])),
            "wire_json": sorted(set(out["WIRE_JSON"])),
        }
    finally:
        shutil.rmtree(d)


import copy

pairs = []
for i in range(COUNT * 7 // 5):
    a = base()
    fix(a)
    b = copy.deepcopy(a)
    for _ in range(R.choice([1, 1, 1, 2, 3])):
        edit(b)
    fix(b)
    pairs.append((i, render(a), render(b)))
with ThreadPoolExecutor(3) as ex:
    res = [r for r in ex.map(one, pairs) if r]
print(len(res), file=sys.stderr)
json.dump(res[:COUNT], open(sys.argv[1], "w"), indent=0)
