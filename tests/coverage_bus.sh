#!/bin/sh
# Line coverage of ron-bus by its own tests: a figure for docs/bus/README.md, no gate. Needs a nightly with llvm-tools;
# says so and passes without one.
set -eu
cd "$(dirname "$0")/.."
sysroot=$(rustc +nightly --print sysroot 2> /dev/null) || sysroot=
tools=$(find "$sysroot/lib/rustlib" -name llvm-cov -path '*bin*' 2> /dev/null | head -n 1)
if [ -z "$tools" ]; then
    echo "not run: no nightly with llvm-tools (rustup component add llvm-tools --toolchain nightly)"
    exit 0
fi
tools=$(dirname "$tools")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/coverage" RUSTFLAGS="-C instrument-coverage" LLVM_PROFILE_FILE="$work/%p-%m.profraw"
export PROPTEST_CASES=500
# Not trybuild: it builds a project of its own, with these flags.
cargo +nightly test --quiet -p ron-bus --all-features --lib --test bus_basic --test batch --test observed_loop \
    --test cutover --test chaos --test features --test prop_bus --test prop_cutover --test lag_exact --test soak > "$work/tests.log" 2>&1 || {
    cat "$work/tests.log"
    exit 1
}
cargo +nightly test --no-run --message-format=json -p ron-bus --all-features --lib --tests 2> /dev/null |
    python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and "ron-bus" in message["package_id"]:
        print(message["executable"])' > "$work/programs"
"$tools/llvm-profdata" merge -sparse "$work"/*.profraw -o "$work/all.profdata"
objects=
first=
while read -r program; do
    if [ -z "$first" ]; then first=$program; else objects="$objects -object $program"; fi
done < "$work/programs"
# shellcheck disable=SC2086 # one word each
"$tools/llvm-cov" report "$first" $objects -instr-profile="$work/all.profdata" --ignore-filename-regex='(/registry/|/rustc/|/tests/)'
