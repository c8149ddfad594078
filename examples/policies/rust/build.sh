#!/bin/sh
# Builds the policies of this folder into the folder given (default: target/policies). Without a toolchain it says so and
# builds nothing; with STRICT=1 that is an error.
#
# RUSTC, else the rustc in PATH if it has the target wasm32-unknown-unknown (rustup target add wasm32-unknown-unknown),
# else /usr/bin/rustc (Debian: rustc libstd-rust-dev-wasm32 lld-14).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
out=${1:-"$root/target/policies"}
target=wasm32-unknown-unknown
mkdir -p "$out"

has_target() {
    command -v "$1" >/dev/null 2>&1 && [ -d "$("$1" --print sysroot)/lib/rustlib/$target" ]
}

if [ -n "${RUSTC:-}" ]; then rustc=$RUSTC
elif has_target rustc; then rustc=rustc
elif has_target /usr/bin/rustc; then rustc=/usr/bin/rustc
else
    echo "skipped: Rust policies: no rustc with the target $target (rustup target add $target)" >&2
    exit "$([ "${STRICT:-0}" = 0 ] && echo 0 || echo 1)"
fi
# Debian's rustc brings no linker, and a newer wasm-ld refuses the metadata of its rlibs.
linker=
if [ "$rustc" = /usr/bin/rustc ]; then linker="-C linker=wasm-ld-14"; fi
flags="--edition 2021 --target $target -C opt-level=s -C lto=fat -C panic=abort -C codegen-units=1 -C strip=symbols"
"$rustc" --edition 2021 --target $target -C opt-level=s -C panic=abort -C embed-bitcode=yes --crate-type rlib \
    --crate-name arqon_policy --cfg 'feature="panic-handler"' --out-dir "$out" "$root/layers/overseer/sdk/src/lib.rs"
for source in "$here"/*.rs; do
    name=$(basename "$source" .rs)
    # One 64 KiB page is enough for these: a small stack, and a small memory is quick to reset.
    # shellcheck disable=SC2086
    "$rustc" $flags $linker --crate-type cdylib --crate-name "$name" --extern "arqon_policy=$out/libarqon_policy.rlib" \
        -C link-arg=-zstack-size=16384 -o "$out/rust_$name.wasm" "$source"
    echo "$out/rust_$name.wasm"
done
rm -f "$out/libarqon_policy.rlib"
