"""The page `examples/policies/README.md`, followed to the letter in an empty folder: from nothing to a deployed Rust policy.

    ./tests/run.sh python, or:  TEST_GATEWAY=target/debug/arqon-gateway TEST_ARQON=target/debug/arqon \
        target/tools/venv/bin/python tests/verification/first_policy.py

Files and commands are the page's own code blocks. Ours are the ports, the deadline, the SDK's path (it is not
published) and the uploads' token. Needs cargo and rustup. Ends with "N passed, N failed".
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import textwrap
import time
import urllib.request

from _nats import free_port

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEBUG = ROOT / "target" / "debug"
GATEWAY = os.environ.get("TEST_GATEWAY") or str(DEBUG / "arqon-gateway")
ARQON = os.environ.get("TEST_ARQON") or str(DEBUG / "arqon")
PAGE = (ROOT / "examples/policies/README.md").read_text(encoding="utf-8")
SDK = ROOT / "layers/overseer/sdk"
PORTS = {"127.0.0.1:8080": f"127.0.0.1:{free_port()}", "127.0.0.1:9901": f"127.0.0.1:{free_port()}"}


def block(language: str, holds: str) -> str:
    """The page's code block that holds a text."""
    found = [textwrap.dedent(text) for text in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if holds in text]
    assert len(found) == 1, f"{len(found)} blocks of {language} hold {holds!r}"
    return found[0]


def page_says(text: str) -> str:
    """A command that the page has within a sentence."""
    assert text in re.sub(r"\s+", " ", PAGE), f"the page no longer says {text!r}"
    return text


def sh(command: str, folder: pathlib.Path, fine: bool = True) -> str:
    """What a command of the page prints, as a shell would run it there."""
    for there, here in PORTS.items():
        command = command.replace(there, here)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("CARGO_", "RUST"))}
    env["PATH"] = os.pathsep.join([str(folder / ".bin"), env["PATH"]])
    for kept in ("RUSTUP_HOME", "CARGO_HOME"):
        if kept in os.environ:
            env[kept] = os.environ[kept]
    done = subprocess.run(["bash", "-ec", command], cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    if fine and done.returncode:
        raise AssertionError(f"{command}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def serve(folder: pathlib.Path) -> subprocess.Popen:
    """The gateway, once it answers."""
    page_says("arqon-gateway serve --config gateway.toml")
    log = open(folder / "gateway.log", "w", encoding="utf-8")
    process = subprocess.Popen([GATEWAY, "serve", "--config", "gateway.toml"], cwd=folder, stdout=log, stderr=log)
    for _ in range(300):
        try:
            urllib.request.urlopen(f"http://{PORTS['127.0.0.1:9901']}/readyz", timeout=5).close()
            return process
        except OSError:
            assert process.poll() is None, (folder / "gateway.log").read_text(encoding="utf-8")
            time.sleep(0.05)
    process.kill()
    raise AssertionError("the gateway is not ready")


def cases(folder: pathlib.Path) -> list:
    """What holds, each with whether it does."""
    (folder / ".bin").mkdir()
    (folder / ".bin/arqon").symlink_to(ARQON)
    # 1. A crate.
    create = block("sh", "cargo new --lib my_policy").replace("cargo add arqon-policy", f"cargo add --path {SDK} arqon-policy")
    sh(create, folder)
    crate = folder / "my_policy"
    (crate / ".bin").symlink_to(folder / ".bin")
    with open(crate / "Cargo.toml", "a", encoding="utf-8") as manifest:
        manifest.write("\n" + block("toml", 'crate-type = ["cdylib", "rlib"]'))
    (crate / ".cargo").mkdir()
    (crate / ".cargo/config.toml").write_text(block("toml", "zstack-size"), encoding="utf-8")
    # 2. Its source, and a test of it.
    first = page_says('#![cfg_attr(target_arch = "wasm32", no_std)]')
    sample = (ROOT / "examples/policies/rust/block_header.rs").read_text(encoding="utf-8").replace("#![no_std]\n", "")
    (crate / "src/lib.rs").write_text(f"{first}\n{sample}\n{block('rust', '#[cfg(test)]')}", encoding="utf-8")
    # 3. Tested on the host, built for Wasm.
    tested = sh(page_says("cargo test"), crate)
    sh(page_says("cargo build --release --target wasm32-unknown-unknown"), crate)
    module = "target/wasm32-unknown-unknown/release/my_policy.wasm"
    # 4. Looked at.
    checked = sh(page_says(f"arqon policy check {module}"), crate)
    (crate / "request.json").write_text(page_says('{"headers":{"x-block-me":"1"}}'), encoding="utf-8")
    ran = sh(page_says("arqon policy run FILE --request request.json").replace("FILE", module), crate, fine=False)
    timed = sh(page_says("arqon policy bench FILE").replace("FILE", module), crate)
    # 5. Deployed, to watch and then to be obeyed.
    (crate / "policies").mkdir()
    (crate / "policies/my_policy.wasm").write_bytes((crate / module).read_bytes())
    sh(next(line for line in block("sh", "curl -i -X POST").splitlines() if "> control.token" in line), crate)
    listens = "".join(f'{key} = "{PORTS[there]}"\n' for key, there in (("listen", "127.0.0.1:8080"), ("admin_listen", "127.0.0.1:9901")))
    config = block("toml", "[[platform.overseer.policies]]").replace("[gateway]\n", f"[gateway]\n{listens}")
    # A busy machine of many builds is not what the page is about.
    config = config.replace("[[platform", '[platform.overseer]\ndeadline = "1s"\n\n[[platform')
    (crate / "gateway.toml").write_text(config, encoding="utf-8")
    (crate / "policies/my_policy_v2.wasm").write_bytes((crate / module).read_bytes())
    steps = [line.split("#")[0] for line in block("sh", "curl -i -X POST").splitlines() if line.startswith("curl")]
    gateway = serve(crate)
    try:
        watched, counted = sh(steps[0], crate), sh(steps[1], crate)
        # 6. The next version, as a candidate.
        put, promote = block("sh", "as=candidate").replace("\\\n", " ").splitlines()
        candidate = json.loads(sh(put.replace("curl", "curl -s"), crate))
        promoted = sh(promote.replace("curl", "curl -s -o /dev/null -w '%{http_code}'"), crate)
    finally:
        gateway.terminate()
        gateway.wait()
    page_says('With `mode = "enforce"` the same request is answered with 403.')
    (crate / "gateway.toml").write_text(config.replace('mode = "monitor"', 'mode = "enforce"'), encoding="utf-8")
    gateway = serve(crate)
    try:
        enforced = sh(steps[0], crate)
        passed = sh(steps[0].replace("-H 'X-Block-Me: 1'", ""), crate)
    finally:
        gateway.terminate()
        gateway.wait()
    return [
        ("the policy is tested without Wasm", "1 passed" in tested),
        ("what was built may be loaded, with one page", ": ok" in checked and "1 pages" in checked),
        ("it refuses the request that was written down", ran.startswith("reject 403")),
        ("it is timed", "allow: best" in timed),
        ("while it watches, the request passes", "HTTP/1.1 202" in watched),
        ("and is counted", 'module="my_policy",decision="monitor"} 1' in counted),
        ("the next version is taken as a candidate", candidate["ok"] is True),
        ("and promoted", promoted == "200"),
        ("enforced, the request is refused", "HTTP/1.1 403" in enforced),
        ("and another is not", "HTTP/1.1 202" in passed),
    ]


def main() -> None:
    """Follows the page and says what held."""
    with tempfile.TemporaryDirectory() as folder:
        results = cases(pathlib.Path(folder))
    for name, held in results:
        print(f"{'PASS' if held else 'FAIL'} {name}")
    failed = sum(not held for _, held in results)
    print(f"{len(results) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
