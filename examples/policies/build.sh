#!/bin/sh
# Builds the Rust, C and WAT policies into the folder given (default: target/policies). What a toolchain is missing for is
# said and skipped; with STRICT=1 it is an error.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-"$here/../../target/policies"}
mkdir -p "$out"
sh "$here/rust/build.sh" "$out"
sh "$here/c/build.sh" "$out"
sh "$here/wat/build.sh" "$out"
