#!/usr/bin/env python3
"""The public API of ron-bus, one item a line, against docs/api-history/ron-bus/<version>.txt.

    tests/api_bus.py            fails when the surface differs, or when a feature or --cfg loom changes it
    tests/api_bus.py --bless    writes the snapshot

Reads rustdoc's JSON, which the installed stable compiler gives under RUSTC_BOOTSTRAP=1: nothing to install.
It lists what cargo-public-api's --simplified lists: items, signatures, fields, variants, #[non_exhaustive] and
impls of traits; no auto traits, no blanket impls.
"""

import difflib
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
CRATE = "ron_bus"
# What a feature may add: impls of its own dependency's traits, nothing else.
ALLOWED = {"impl Serialize for ron_bus::BusConfig", "impl Deserialize<'de> for ron_bus::BusConfig"}


def rustdoc(*args, rustflags=""):
    """The JSON that rustdoc makes of the crate."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / ("api-loom" if rustflags else "api")
    env = {**os.environ, "RUSTC_BOOTSTRAP": "1", "CARGO_TARGET_DIR": str(target)}
    env["RUSTFLAGS"] = env["RUSTDOCFLAGS"] = rustflags
    command = ["cargo", "rustdoc", "--quiet", "-p", "ron-bus", "--lib", *args]
    subprocess.run([*command, "--", "-Zunstable-options", "--output-format=json"], cwd=ROOT, env=env, check=True)
    return json.loads((target / "doc" / f"{CRATE}.json").read_text())


class Surface:
    """Walks the items that a user can name."""

    def __init__(self, doc):
        self.index, self.lines = doc["index"], set()
        self.module(self.item(doc["root"]), CRATE)

    def item(self, number):
        return self.index[str(number)]

    def module(self, module, path):
        for number in module["inner"]["module"]["items"]:
            item = self.item(number)
            if "use" in item["inner"]:
                use = item["inner"]["use"]
                if item["visibility"] == "public" and str(use["id"]) in self.index:
                    self.public(self.item(use["id"]), f"{path}::{use['name']}")
            elif item["visibility"] == "public":
                self.public(item, f"{path}::{item['name']}")

    def public(self, item, path):
        kind, inner = next(iter(item["inner"].items()))
        mark = "#[non_exhaustive] " if any("non_exhaustive" in str(attr) for attr in item["attrs"]) else ""
        if kind == "module":
            self.lines.add(f"pub mod {path}")
            self.module(item, path)
        elif kind == "struct":
            self.lines.add(f"{mark}pub struct {path}{self.generics(inner)}")
            self.fields(inner["kind"], path, "pub ")
            self.impls(inner["impls"], path)
        elif kind == "enum":
            self.lines.add(f"{mark}pub enum {path}{self.generics(inner)}")
            for number in inner["variants"]:
                self.variant(self.item(number), path)
            self.impls(inner["impls"], path)
        elif kind == "function":
            self.lines.add(self.function(inner, path))
        elif kind == "type_alias":
            self.lines.add(f"pub type {path} = {self.type(inner['type'])}")
        else:
            self.lines.add(f"pub {kind} {path}")

    def fields(self, kind, path, visibility):
        if not isinstance(kind, dict):
            return
        numbers = next(iter(kind.values()))
        numbers = numbers["fields"] if isinstance(numbers, dict) else numbers
        for number in filter(None, numbers):
            field = self.item(number)
            if visibility == "" or field["visibility"] == "public":
                self.lines.add(f"{visibility}{path}::{field['name']}: {self.type(field['inner']['struct_field'])}")

    def variant(self, item, path):
        mark = "#[non_exhaustive] " if any("non_exhaustive" in str(attr) for attr in item["attrs"]) else ""
        path = f"{path}::{item['name']}"
        self.lines.add(f"{mark}{path}")
        self.fields(item["inner"]["variant"]["kind"], path, "")

    def impls(self, numbers, path):
        for number in numbers:
            impl = self.item(number)["inner"]["impl"]
            if impl["is_synthetic"] or impl["blanket_impl"]:
                continue
            if impl["trait"]:
                name = impl["trait"]["path"].split("::")[-1]
                if not name.startswith("Structural"):
                    self.lines.add(f"impl {name}{self.arguments(impl['trait'])} for {path}")
                continue
            for number in impl["items"]:
                item = self.item(number)
                if item["visibility"] != "public":
                    continue
                kind, inner = next(iter(item["inner"].items()))
                if kind == "function":
                    self.lines.add(self.function(inner, f"{path}::{item['name']}"))
                else:
                    self.lines.add(f"pub const {path}::{item['name']}: {self.type(inner['type'])}")

    def function(self, function, path):
        sig, head = function["sig"], function["header"]
        words = "const " if head["is_const"] else ""
        words += "async " if head["is_async"] else ""
        inputs = ", ".join(self.input(name, ty) for name, ty in sig["inputs"])
        output = f" -> {self.type(sig['output'])}" if sig["output"] else ""
        return f"pub {words}fn {path}{self.generics(function)}({inputs}){output}"

    def input(self, name, ty):
        text = self.type(ty)
        return {"Self": "self", "&Self": "&self", "&mut Self": "&mut self"}.get(text, text) if name == "self" else f"{name}: {text}"

    def generics(self, owner):
        names = [p["name"] for p in owner["generics"]["params"] if not p["name"].startswith("impl ")]
        return f"<{', '.join(names)}>" if names else ""

    def arguments(self, path):
        args = (path.get("args") or {}).get("angle_bracketed", {})
        texts = [arg.get("lifetime") or (self.type(arg["type"]) if "type" in arg else "?") for arg in args.get("args", [])]
        return f"<{', '.join(texts)}>" if texts else ""

    def bound(self, bound):
        if "trait_bound" not in bound:
            return str(next(iter(bound.values())))
        trait = bound["trait_bound"]["trait"]
        call = (trait.get("args") or {}).get("parenthesized")
        tail = f"({', '.join(map(self.type, call['inputs']))})" if call else self.arguments(trait)
        return trait["path"].split("::")[-1] + tail

    def type(self, ty):
        kind, inner = next(iter(ty.items()))
        if kind == "resolved_path":
            return inner["path"].split("::")[-1] + self.arguments(inner)
        if kind in ("primitive", "generic"):
            return inner
        if kind == "borrowed_ref":
            life = f"{inner['lifetime']} " if inner["lifetime"] else ""
            return f"&{life}{'mut ' if inner['is_mutable'] else ''}{self.type(inner['type'])}"
        if kind == "tuple":
            return f"({', '.join(map(self.type, inner))})"
        if kind == "slice":
            return f"[{self.type(inner)}]"
        if kind == "impl_trait":
            return "impl " + " + ".join(map(self.bound, inner))
        if kind == "dyn_trait":
            return "dyn " + " + ".join(self.bound({"trait_bound": t}) for t in inner["traits"])
        if kind == "qualified_path":
            return f"{self.type(inner['self_type'])}::{inner['name']}"
        raise SystemExit(f"unknown type {kind}: teach tests/api_bus.py")


def main():
    lines = Surface(rustdoc()).lines
    meta = subprocess.run(
        ["cargo", "metadata", "--format-version=1", "--no-deps"], cwd=ROOT, check=True, capture_output=True
    )
    version = next(p["version"] for p in json.loads(meta.stdout)["packages"] if p["name"] == "ron-bus")
    snapshot = ROOT / "docs" / "api-history" / "ron-bus" / f"{version}.txt"
    text = "".join(f"{line}\n" for line in sorted(lines, key=lambda line: line.replace("#[non_exhaustive] ", "")))
    if "--bless" in sys.argv:
        snapshot.parent.mkdir(parents=True, exist_ok=True)
        snapshot.write_text(text)
    before = snapshot.read_text() if snapshot.exists() else ""
    diff = list(difflib.unified_diff(before.splitlines(), text.splitlines(), str(snapshot.name), "now", lineterm=""))
    print("\n".join(diff))
    broken = bool(diff)
    for name, variant in {
        "--all-features": rustdoc("--all-features"),
        "--cfg loom": rustdoc(rustflags="--cfg loom"),
    }.items():
        changed = (Surface(variant).lines ^ lines) - ALLOWED
        if changed:
            print(f"{name} changes the surface:", *sorted(changed), sep="\n  ")
            broken = True
    named = [line for line in lines if line.startswith("pub") and "<T" in line.split("(")[0]]
    if named or any(line.startswith("pub trait") for line in lines):
        print("public generics or traits:", named)
        broken = True
    if broken:
        sys.exit("the public API differs: bless it with a CHANGELOG entry and the version that SemVer asks for")
    print(f"{len(lines)} items, as in {snapshot.relative_to(ROOT)}; the same with every feature and with --cfg loom")
    print("3 passed, 0 failed")


if __name__ == "__main__":
    main()
