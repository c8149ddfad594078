#!/bin/sh
# Builds the Rust and C policies into the folder given (default: target/policies). What a toolchain is missing for is
# said and skipped; with STRICT=1 it is an error.
#
# Rust: RUSTC, else the rustc in PATH if it has the target wasm32-unknown-unknown, else /usr/bin/rustc (Debian: rustc
# libstd-rust-dev-wasm32 lld-14). C: CLANG, else clang-19 or clang (Debian: clang-19 lld-19).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
out=${1:-"$root/target/policies"}
target=wasm32-unknown-unknown
mkdir -p "$out"

skip() {
    echo "skipped: $1" >&2
    [ "${STRICT:-0}" = 0 ] || exit 1
}

has_target() {
    command -v "$1" >/dev/null 2>&1 && [ -d "$("$1" --print sysroot)/lib/rustlib/$target" ]
}

rust() {
    if [ -n "${RUSTC:-}" ]; then rustc=$RUSTC
    elif has_target rustc; then rustc=rustc
    elif has_target /usr/bin/rustc; then rustc=/usr/bin/rustc
    else skip "Rust policies: no rustc with the target $target (rustup target add $target)"; return 0
    fi
    # Debian's rustc brings no linker, and a newer wasm-ld refuses the metadata of its rlibs.
    linker=
    if [ "$rustc" = /usr/bin/rustc ]; then linker="-C linker=wasm-ld-14"; fi
    flags="--edition 2021 --target $target -C opt-level=s -C lto=fat -C panic=abort -C codegen-units=1 -C strip=symbols"
    # One 64 KiB page is enough for these: a small stack, and a small memory is quick to reset.
    # shellcheck disable=SC2086
    "$rustc" --edition 2021 --target $target -C opt-level=s -C panic=abort -C embed-bitcode=yes --crate-type rlib \
        --crate-name arqon_policy --cfg 'feature="panic-handler"' --out-dir "$out" \
        "$root/layers/overseer/sdk/src/lib.rs"
    for source in "$here"/rust/*.rs; do
        name=$(basename "$source" .rs)
        # shellcheck disable=SC2086
        "$rustc" $flags $linker --crate-type cdylib --crate-name "$name" --extern "arqon_policy=$out/libarqon_policy.rlib" \
            -C link-arg=-zstack-size=16384 -o "$out/rust_$name.wasm" "$source"
        echo "$out/rust_$name.wasm"
    done
}

c() {
    clang=${CLANG:-$(command -v clang-19 || command -v clang || true)}
    if [ -z "$clang" ]; then skip "C policies: no clang (Debian: clang-19 lld-19)"; return 0; fi
    for source in "$here"/c/*.c; do
        name=$(basename "$source" .c)
        "$clang" --target=$target -Os -Wall -Wextra -Werror -nostdlib -ffreestanding -Wl,--no-entry -Wl,--strip-all \
            -Wl,-z,stack-size=8192 -o "$out/c_$name.wasm" "$source"
        echo "$out/c_$name.wasm"
    done
}

rust
c
