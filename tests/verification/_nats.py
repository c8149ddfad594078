"""A real nats-server for the scripts beside this one, from where the Rust tests get theirs: TEST_NATS_URL, else
testcontainers where a Docker engine answers, else the program that tests/run.sh installed."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time


def free_port() -> int:
    """A port of loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_open(port: int, seconds: float = 15) -> None:
    """Until something accepts on the port."""
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise TimeoutError(f"nothing listens on port {port} after {seconds} s") from error
            time.sleep(0.05)


def tell(source: str) -> None:
    """Says where the server is from, where tests/run.sh checks it."""
    print(source, file=sys.stderr)
    if file := os.environ.get("TEST_NATS_SOURCES"):
        with open(file, "a", encoding="utf-8") as sources:
            sources.write(source + "\n")


@contextlib.contextmanager
def nats_server():
    """The URL of a server with JetStream; it is gone afterwards."""
    if url := os.environ.get("TEST_NATS_URL"):
        tell("nats: TEST_NATS_URL")
        yield url
    elif image := os.environ.get("TEST_NATS_IMAGE"):
        os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
        from testcontainers.core.container import DockerContainer  # only where an engine answers

        container = DockerContainer(image).with_command("-js").with_exposed_ports(4222)
        if run := os.environ.get("TEST_RUN_ID"):
            container = container.with_kwargs(labels={"arqon-test-run": run})
        with container:
            port = int(container.get_exposed_port(4222))
            tell(f"nats: testcontainers ({image})")
            wait_until_open(port)
            yield f"nats://127.0.0.1:{port}"
    else:
        program = os.environ.get("TEST_NATS_SERVER") or str(pathlib.Path(sys.executable).with_name("nats-server"))
        port = free_port()
        with tempfile.TemporaryDirectory() as store:
            server = subprocess.Popen([program, "-js", "-a", "127.0.0.1", "-p", str(port), "-sd", store],
                                      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                wait_until_open(port)
                tell(f"nats: binary {program}")
                yield f"nats://127.0.0.1:{port}"
            finally:
                server.terminate()
                server.wait(10)
