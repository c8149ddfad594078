#!/bin/sh
# ron-bus under the thread sanitizer, std included. Needs a nightly with rust-src; says so and passes without one.
# Not run: the one test with a socket (chaos_e2e_reload), whose hand-over through the kernel's epoll the sanitizer
# cannot see (its report names only tokio's socket registration).
set -eu
cd "$(dirname "$0")/.."
sysroot=$(rustc +nightly --print sysroot 2> /dev/null) || sysroot=
if [ ! -d "$sysroot/lib/rustlib/src/rust/library" ]; then
    echo "not run: no nightly with rust-src (rustup component add rust-src --toolchain nightly)"
    exit 0
fi
host=$(rustc +nightly --print host-tuple)
export RUSTFLAGS="-Zsanitizer=thread" CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/tsan"
exec cargo +nightly test -Zbuild-std --target "$host" -p ron-bus --lib --test bus_basic --test batch --test observed_loop \
    --test cutover --test prop_cutover --test chaos --test soak -- --skip chaos_e2e_reload
