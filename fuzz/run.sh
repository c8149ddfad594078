#!/bin/sh
# Fuzzes each target for so many seconds: `fuzz/run.sh [SECONDS] [TARGET..]` (default 60, all). Needs nightly and a C++
# compiler; cargo-fuzz is not needed. What is found lies under target/fuzz, to be put into fuzz/corpus with its mend.
set -eu
cd "$(dirname "$0")"
seconds=${1:-60}
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- overseer_module overseer_generated overseer_abi
target=${CARGO_TARGET_DIR:-$PWD/../target}/fuzz
host=$(rustc +nightly -vV | sed -n 's/^host: //p')
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
coverage="$coverage -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing"
RUSTFLAGS="$coverage" cargo +nightly build --release --target "$host" --target-dir "$target"
for name; do
    mkdir -p "$target/found/$name"
    "$target/$host/release/$name" "$target/found/$name" "corpus/$name" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=0 \
        -max_len=65536 -artifact_prefix="$target/found/$name-" -print_final_stats=1
done
