#!/usr/bin/env bash
# Every test of the project, with a real nats-server. Needs Rust and Python 3; no Docker, nothing beforehand. What it fetches
# goes under target/tools; compilers to Wasm, where they are missing, come from rustup, or from Debian when run as root.
#
#   tests/run.sh                 everything
#   tests/run.sh tools           only set up target/tools (a Python venv with a nats-server in it)
#   tests/run.sh PART..          some of: rust doc loom bus policies python contract
#
# Where the live tests get their server from: TEST_NATS_URL, else a Docker engine (then a run that used anything else
# fails), else the nats-server of target/tools. The last line says how many tests ran: "N passed, N failed".
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
tools=$root/target/tools
venv=$tools/venv
target=${CARGO_TARGET_DIR:-$root/target}
logs=$target/test-logs
official_image=nats:2.12
passed=0
failed=0
problems=()
not_run=()
# What drives real processes against deadlines is tried again when it fails, since a shared machine may stand still for
# seconds; here that is `live=true`, in .config/nextest.toml `retries`. What needed it is named at the end.
live=false
flaky=()

say() { printf '\n== %s\n' "$*"; }
die() {
    printf '%s\n' "$*" >&2
    exit 1
}
limited() { # SECONDS COMMAND..: within that time where the system has `timeout`
    local seconds=$1
    shift
    if command -v timeout >/dev/null 2>&1; then timeout "$seconds" "$@"; else "$@"; fi
}

# --- tools --------------------------------------------------------------------------------------------------------

setup_tools() {
    local python=${PYTHON:-python3} stamp=$tools/requirements.txt
    command -v cargo >/dev/null 2>&1 || die "the tests need Rust: no cargo in PATH"
    command -v "$python" >/dev/null 2>&1 || die "the tests need Python 3: no $python in PATH"
    if cmp -s tests/requirements.txt "$stamp" && "$venv/bin/python" -c '' 2>/dev/null; then return; fi
    say "setting up target/tools"
    rm -rf "$venv" "$stamp"
    mkdir -p "$tools"
    # A Python without ensurepip (Debian's, without python3-venv) can still make the venv; its own pip then fills it.
    if "$python" -m venv "$venv" >"$tools/venv.log" 2>&1; then
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
    elif rm -rf "$venv" && "$python" -m venv --without-pip "$venv" && "$python" -m pip --version >/dev/null 2>&1; then
        "$python" -m pip --python "$venv/bin/python" install --quiet --disable-pip-version-check -r tests/requirements.txt
    else
        die "$python can make no venv with pip ($(tail -n 1 "$tools/venv.log")); install python3-venv or python3-pip"
    fi
    cp tests/requirements.txt "$stamp"
}

# --- Docker -------------------------------------------------------------------------------------------------------

docker_answers() {
    if command -v docker >/dev/null 2>&1; then
        limited 20 docker info >/dev/null 2>&1
        return
    fi
    "$venv/bin/python" - "${DOCKER_HOST:-unix:///var/run/docker.sock}" 2>/dev/null <<'PING'
import socket, sys
scheme, _, address = sys.argv[1].partition("://")
family = socket.AF_UNIX if scheme == "unix" else socket.AF_INET
host, _, port = address.strip("/").partition(":")
with socket.socket(family) as engine:
    engine.settimeout(5)
    engine.connect(address if scheme == "unix" else (host, int(port)))
    engine.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
    sys.exit(b" 200 " not in engine.recv(64))
PING
}

# Chooses the image for testcontainers once, so that not every test asks a registry.
choose_image() {
    [ -z "${TEST_NATS_IMAGE:-}" ] || return 0
    if docker image inspect "$official_image" >/dev/null 2>&1 ||
        limited 60 docker pull --quiet "$official_image" >/dev/null 2>"$logs/pull.log"; then
        export TEST_NATS_IMAGE=$official_image
        return
    fi
    echo "docker: $official_image cannot be pulled ($(tail -n 1 "$logs/pull.log")); building an image from the nats-server binary"
    local version context image
    version=$("$venv/bin/nats-server" --version | sed 's/.* v//')
    image=localhost/arqon-nats-server:$version
    if ! docker image inspect "$image" >/dev/null 2>&1; then
        context=$(mktemp -d "$tools/image.XXXXXX")
        cp -L "$venv/bin/nats-server" "$context/nats-server"
        printf 'FROM scratch\nCOPY nats-server /nats-server\nEXPOSE 4222\nENTRYPOINT ["/nats-server"]\n' >"$context/Dockerfile"
        docker build --quiet --tag "$image" "$context" >"$logs/image.log" 2>&1 || die "docker build failed: $(tail -n 3 "$logs/image.log")"
        rm -rf "$context"
    fi
    export TEST_NATS_IMAGE=$image
}

setup_nats() {
    TEST_RUN_ID=run-$$-$(date +%s)
    TEST_NATS_SOURCES=$logs/nats-sources
    export TEST_RUN_ID TEST_NATS_SOURCES
    : >"$TEST_NATS_SOURCES"
    # What a test could not do as it should here, and what it did instead.
    export TEST_NOTES=$logs/notes
    : >"$TEST_NOTES"
    expect_docker=false
    if [ -z "${TEST_NATS_URL:-}" ] && docker_answers; then
        expect_docker=true
        # testcontainers knows the usual sockets, not the docker command's contexts.
        local context
        if [ -z "${DOCKER_HOST:-}" ] && context=$(docker context inspect --format '{{.Endpoints.docker.Host}}' 2>/dev/null); then
            export DOCKER_HOST=$context
        fi
        # Without the docker command the tests' own crate pulls or builds the image.
        if command -v docker >/dev/null 2>&1; then
            choose_image
            trap remove_containers EXIT
        fi
    fi
}

# What a killed test left behind; a test that ended removed its own.
remove_containers() {
    docker ps --all --quiet --filter "label=arqon-test-run=$TEST_RUN_ID" | xargs docker rm --force --volumes >/dev/null 2>&1 || true
}

# Says where the servers came from; where Docker runs, all must have come from testcontainers.
check_nats_sources() {
    [ -s "$TEST_NATS_SOURCES" ] || {
        problems+=("no live test asked for a nats-server")
        return 0
    }
    sort "$TEST_NATS_SOURCES" | uniq -c | while read -r count line; do echo "$line: $count servers"; done
    if $expect_docker && grep -qv '^nats: testcontainers ' "$TEST_NATS_SOURCES"; then
        problems+=("a Docker engine answers, but live tests used another nats-server than testcontainers'")
    fi
}

# --- running and counting -----------------------------------------------------------------------------------------

# The counts that test runners print, summed: libtest, nextest, pytest, and our plain "N passed, N failed".
count() {
    sed 's/\x1b\[[0-9;]*m//g' "$1" | awk '
        function number(word,   parts) { return match($0, "[0-9]+ " word) ? substr($0, RSTART, RLENGTH) + 0 : 0 }
        /^test result: /                            { p += number("passed"); f += number("failed") }
        /^ *Summary \[.*tests? run: /               { p += number("passed"); f += number("tests? run") - number("passed") }
        /^[0-9]+ (passed|failed|error).* in [0-9.]+s/ { p += number("passed"); f += number("failed") + number("error") }
        /^[0-9]+ passed, [0-9]+ failed$/            { p += number("passed"); f += number("failed") }
        /^contract: [0-9]+ of [0-9]+ shapes hold$/  { p += $2; f += $4 - $2 }
        END { print p + 0, f + 0 }'
}

run() { # NAME COMMAND..: runs it, keeps its log and adds up its tests
    local name=$1 status=0 p f line started=$SECONDS
    shift
    say "$name: $*"
    "$@" 2>&1 | tee "$logs/$name.log" || status=$?
    if [ "$status" -ne 0 ] && $live; then
        mv "$logs/$name.log" "$logs/$name.first.log"
        say "$name: failed (exit $status), once more"
        status=0
        "$@" 2>&1 | tee "$logs/$name.log" || status=$?
        [ "$status" -ne 0 ] || flaky+=("$name failed at first; log: $logs/$name.first.log")
    fi
    while IFS= read -r line; do flaky+=("$name: $line"); done \
        < <(sed 's/\x1b\[[0-9;]*m//g' "$logs/$name.log" | sed -n 's/^ *FLAKY \([0-9].*\)$/\1/p' | sort -u)
    read -r p f <<<"$(count "$logs/$name.log")"
    if [ "$status" -ne 0 ]; then
        problems+=("$name failed (exit $status); log: $logs/$name.log")
        # A step that broke before its first test is a failure too.
        [ "$f" -gt 0 ] || f=1
    elif [ "$f" -gt 0 ]; then
        problems+=("$name counted $f failures, but its command succeeded; log: $logs/$name.log")
    elif [ "$p" -eq 0 ]; then
        problems+=("$name ran no test; log: $logs/$name.log")
    fi
    passed=$((passed + p))
    failed=$((failed + f))
    # What a step left out for want of something is said again at the end.
    while IFS= read -r line; do not_run+=("$name: ${line#not run: }"); done < <(grep '^not run: ' "$logs/$name.log")
    echo "-- $name: $p passed, $f failed, $((SECONDS - started)) s"
}

rust() {
    if cargo nextest --version >/dev/null 2>&1; then
        run rust cargo nextest run --workspace --all-features --locked --no-fail-fast
    else
        run rust cargo test --workspace --all-features --locked --no-fail-fast --lib --bins --tests --examples
    fi
}

doc() { run doc cargo test --doc --workspace --all-features --locked --no-fail-fast; }

# ron-bus under loom's scheduler: its unit models, and tests/loom*.rs where there are such.
loom() {
    local arguments=(--lib) file
    for file in layers/bus/tests/loom*.rs; do
        [ ! -e "$file" ] || arguments+=(--test "$(basename "$file" .rs)")
    done
    run loom env RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR="$target/loom" \
        cargo test --package ron-bus --release --locked "${arguments[@]}"
}

# ron-bus: the documented surface (no feature changes it), and the oldest Rust it resolves for.
bus() {
    run bus-api "$venv/bin/python" tests/api_bus.py
    run bus-msrv env PATH="$venv/bin:$PATH" sh tests/msrv_bus.sh --build
    run bus-plain cargo test --package ron-bus --locked --lib --tests
    run bus-soak cargo test --package ron-bus --release --locked --test soak
}

# The sample policies, built and run, and the guest SDK with the oldest Rust it promises. Compilers for Wasm come from
# rustup, from Debian (as root) and from PyPI; what cannot be had fails the part.
policies() {
    local target=wasm32-unknown-unknown oldest=1.63
    wasm_rust() { [ -d "$("$@" --print sysroot 2>/dev/null)/lib/rustlib/$target" ]; }
    if ! wasm_rust rustc && command -v rustup >/dev/null 2>&1; then
        rustup target add "$target" >"$logs/wasm-rustup.log" 2>&1 || tail -n 2 "$logs/wasm-rustup.log"
    fi
    local packages=()
    wasm_rust rustc || wasm_rust /usr/bin/rustc || packages+=(rustc libstd-rust-dev-wasm32 lld-14)
    command -v clang-19 >/dev/null 2>&1 || command -v clang >/dev/null 2>&1 || packages+=(clang-19 lld-19)
    if [ ${#packages[@]} -gt 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${packages[@]}"; } \
            >"$logs/wasm-apt.log" 2>&1 </dev/null || tail -n 2 "$logs/wasm-apt.log"
    fi
    # Without root: the clang that is inside the Zig of PyPI.
    if ! command -v clang-19 >/dev/null 2>&1 && ! command -v clang >/dev/null 2>&1; then
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check ziglang==0.13.0 || true
        export CLANG=$tools/zig-clang
        cat >"$CLANG" <<WRAPPER
#!/bin/sh
for a; do
    shift
    case \$a in --target=$target) a=--target=wasm32-freestanding ;; esac
    set -- "\$@" "\$a"
done
exec "$venv/bin/python" -m ziglang cc "\$@"
WRAPPER
        chmod +x "$CLANG"
    fi
    # The whole workspace's features: another choice of them would build the engine once more.
    run policies env STRICT=1 cargo test --workspace --all-features --locked --test overseer -- samples::
    run policies-sdk cargo test --package arqon-policy --locked
    # The SDK and the samples again, with the oldest Rust.
    if command -v rustup >/dev/null 2>&1; then
        rustup toolchain install "$oldest" --profile minimal --target "$target" >"$logs/wasm-oldest.log" 2>&1 || true
    fi
    local old=
    if wasm_rust rustup run "$oldest" rustc; then
        old=$logs/rustc-$oldest
        printf '#!/bin/sh\nexec rustup run %s rustc "$@"\n' "$oldest" >"$old"
        chmod +x "$old"
    elif wasm_rust /usr/bin/rustc && /usr/bin/rustc --version | grep -q "^rustc $oldest\\."; then
        old=/usr/bin/rustc
    else
        problems+=("no Rust $oldest with the target $target; log: $logs/wasm-oldest.log")
        return
    fi
    run policies-oldest env STRICT=1 RUSTC_POLICIES="$old" cargo test --workspace --all-features --locked --test overseer \
        -- samples::
}

# The two programs, for the suites that drive them from outside.
programs() {
    cargo build --quiet --workspace --bins --all-features --locked || return 1
    export TEST_ARQON=$target/debug/arqon TEST_GATEWAY=$target/debug/arqon-gateway
}

# A browser for the console. Where there is none the tests of it fail and say so.
browser() {
    [ -z "${TEST_CHROMIUM:-}" ] || return 0
    local name
    for name in chromium chromium-browser google-chrome-stable google-chrome chrome headless_shell; do
        ! command -v "$name" >/dev/null 2>&1 || return 0
    done
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends chromium; } \
            >"$logs/chromium-apt.log" 2>&1 </dev/null || tail -n 2 "$logs/chromium-apt.log"
    fi
}

python() {
    browser
    programs || problems+=("the programs do not build")
    local live=true
    run python "$venv/bin/python" -m pytest -q -p no:cacheprovider tests
    local script
    for script in tests/verification/*.py; do
        case $script in
        *'*'* | */test_*.py | */conftest.py | */_*.py) ;;
        *) run "$(basename "$script" .py)" "$venv/bin/python" "$script" ;;
        esac
    done
}

# The outside contract's shapes, where the checkout has them beside it.
contract() {
    local smoke=../shared/contract/smoke.py
    [ -f "$smoke" ] || { say "contract: $smoke is not here; going on without it"; return 0; }
    programs || problems+=("the programs do not build")
    # The script's function `http` hides the module `http` that it calls: give the module another name in a copy.
    local mended=$logs/contract
    mkdir -p "$mended"
    sed 's/\bhttp\.client, json/http.client as httpclient, json/; s/return http\.client\./return httpclient./' "$smoke" >"$mended/smoke.py"
    cp "$(dirname "$smoke")"/*.wat "$mended/"
    run contract "$venv/bin/python" "$mended/smoke.py" "$TEST_GATEWAY" "$TEST_ARQON"
}

main() {
    local part parts=("$@")
    setup_tools
    if [ "${1:-}" = tools ]; then
        echo "target/tools is ready: $("$venv/bin/nats-server" --version)"
        return
    fi
    [ ${#parts[@]} -gt 0 ] || parts=(rust doc loom bus policies python contract)
    for part in "${parts[@]}"; do
        case $part in
        rust | doc | loom | bus | policies | python | contract) ;;
        *) die "unknown part $part: one of tools, rust, doc, loom, bus, policies, python, contract" ;;
        esac
    done
    mkdir -p "$logs"
    setup_nats
    for part in "${parts[@]}"; do "$part"; done
    say "result"
    case " ${parts[*]} " in *" rust "*) check_nats_sources ;; esac
    sort "$TEST_NOTES" | uniq -c | while read -r count line; do echo "note, $count times: $line"; done
    if [ ${#problems[@]} -gt 0 ]; then
        printf 'problem: %s\n' "${problems[@]}"
        [ "$failed" -gt 0 ] || failed=${#problems[@]}
    fi
    [ ${#flaky[@]} -eq 0 ] || printf 'flaky: %s\n' "${flaky[@]}"
    [ ${#not_run[@]} -eq 0 ] || printf 'not run: %s\n' "${not_run[@]}"
    printf '%s passed, %s failed\n' "$passed" "$failed" | tee "$logs/result"
    [ "$failed" -eq 0 ]
}

# Sourced, it only defines its parts: tests/witness/test_run.py checks the counting.
if [ "${BASH_SOURCE[0]}" = "$0" ]; then main "$@"; fi
