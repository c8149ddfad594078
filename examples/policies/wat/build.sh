#!/bin/sh
# Puts the policies of this folder into the folder given (default: target/policies). WAT is taken as it is: whoever loads a
# policy assembles it.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-"$here/../../../target/policies"}
mkdir -p "$out"
for source in "$here"/*.wat; do
    cp "$source" "$out/wat_$(basename "$source")"
    echo "$out/wat_$(basename "$source")"
done
