#!/bin/sh
# ron-bus keeps Rust 1.80: resolves a copy of the crate, outside the workspace, with the MSRV-aware
# resolver, and checks that no dependency (of any feature) asks for a newer compiler. Then the same with the
# lowest tokio the manifest allows, compiled, so that no newer tokio function slips in. `--build` also
# compiles the copy with Rust 1.80; where rustup has none and cannot get it, that is said in a line "not run: ..",
# which tests/run.sh repeats in its result.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -R "$root/layers/bus/src" "$root/layers/bus/README.md" "$copy/"
python3 - "$root" "$copy" <<'PY'
import sys, tomllib
root, copy = sys.argv[1:]
work = tomllib.load(open(f"{root}/Cargo.toml", "rb"))["workspace"]
crate = tomllib.load(open(f"{root}/layers/bus/Cargo.toml", "rb"))
package = crate["package"]
lines = ["[package]", 'name = "ron-bus"', f'version = "{work["package"]["version"]}"']
lines += [f'edition = "{package["edition"]}"', f'rust-version = "{package["rust-version"]}"', "[workspace]", "[features]"]
lines += [f"{name} = {on!r}" for name, on in crate["features"].items()]
lines += ["[dependencies]"]
for name, own in crate["dependencies"].items():
    base = work["dependencies"][name]
    base = {"version": base} if isinstance(base, str) else base
    features = base.get("features", []) + own.get("features", [])
    default = str(base.get("default-features", True)).lower()
    optional = str(own.get("optional", False)).lower()
    lines.append(f'{name} = {{ version = "{base["version"]}", features = {features!r}, default-features = {default}, optional = {optional} }}')
lines += ["[lints.rust]", 'unexpected_cfgs = { level = "warn", check-cfg = ["cfg(loom)", "cfg(docsrs)"] }']
open(f"{copy}/Cargo.toml", "w").write("\n".join(lines) + "\n")
PY
cd "$copy"
export CARGO_RESOLVER_INCOMPATIBLE_RUST_VERSIONS=fallback
cargo generate-lockfile --quiet
cargo metadata --format-version 1 --all-features > metadata.json
python3 - <<'PY'
import json
def parts(version):
    return tuple(int(part) for part in (version.split(".") + ["0"])[:3])
packages = json.load(open("metadata.json"))["packages"]
own = next(package for package in packages if package["name"] == "ron-bus")
newer = []
for package in sorted(packages, key=lambda package: package["name"]):
    asked = package["rust_version"] or "-"
    print(f'{package["name"]:<24} {package["version"]:<12} {asked}')
    if package["rust_version"] and parts(asked) > parts(own["rust_version"]):
        newer.append(package["name"])
assert not newer, f'{newer} need more than Rust {own["rust_version"]}'
print(f'resolves on Rust {own["rust_version"]}: {len(packages)} packages')
PY
passed=2
if [ "${1:-}" = "--build" ]; then
    if ! cargo +1.80 --version > /dev/null 2>&1 && command -v rustup > /dev/null 2>&1; then
        rustup toolchain install 1.80 --profile minimal > rustup.log 2>&1 || tail -n 2 rustup.log
    fi
    if cargo +1.80 --version > /dev/null 2>&1; then
        CARGO_TARGET_DIR="$copy/target" cargo +1.80 check --quiet --all-features
        echo "compiles on $(rustc +1.80 --version)"
        passed=3
    else
        echo "not run: compiling ron-bus on Rust 1.80, for there is no such toolchain and rustup cannot get one"
    fi
fi
cargo update --quiet -p tokio --precise 1.38.0
CARGO_TARGET_DIR="$copy/target" cargo check --quiet
echo "compiles with tokio 1.38.0"
echo "$passed passed, 0 failed"
