#!/bin/sh
# Builds the Rust and C policies into the folder given (default: target/policies). What a toolchain is missing for is
# said and skipped; with STRICT=1 it is an error. WAT needs no build.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-"$here/../../target/policies"}
mkdir -p "$out"
sh "$here/rust/build.sh" "$out"
sh "$here/c/build.sh" "$out"
