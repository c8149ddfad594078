#!/bin/sh
# Builds the policies of this folder into the folder given (default: target/policies). Without a toolchain it says so and
# builds nothing; with STRICT=1 that is an error.
#
# CLANG, else clang-19 or clang with its lld (Debian: clang-19 lld-19).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-"$here/../../../target/policies"}
mkdir -p "$out"
clang=${CLANG:-$(command -v clang-19 || command -v clang || true)}
if [ -z "$clang" ]; then
    echo "skipped: C policies: no clang (Debian: clang-19 lld-19)" >&2
    exit "$([ "${STRICT:-0}" = 0 ] && echo 0 || echo 1)"
fi
for source in "$here"/*.c; do
    name=$(basename "$source" .c)
    "$clang" --target=wasm32-unknown-unknown -Os -Wall -Wextra -Werror -nostdlib -ffreestanding -fno-builtin -Wl,--no-entry \
        -Wl,--strip-all -Wl,-z,stack-size=8192 -o "$out/c_$name.wasm" "$source"
    echo "$out/c_$name.wasm"
done
