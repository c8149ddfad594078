"""Comparing answers, from outside: a real candidate, a real control, and the report page in a real browser."""

import contextlib
import http.client
import http.server
import itertools
import json
import threading
import urllib.request

import pytest

from _browser import chromium
from _gateway import Gateway

REQUESTS = 150


class Service(http.server.ThreadingHTTPServer):
    """Answers as a gateway does, but for what `change` does to the answer."""

    def __init__(self, change):
        super().__init__(("127.0.0.1", 0), Handler)
        self.change, self.numbers, self.seen = change, itertools.count(1), []


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.seen.append((self.path, dict(self.headers), body))
        answer = {"subject": "in.t.default." + self.path.rsplit("/", 1)[-1], "stream": None, "duplicate": False,
                  # As a clock or a counter: no two ever agree.
                  "sequence": next(self.server.numbers)}
        self.server.change(answer)
        text = json.dumps(answer).encode()
        self.send_response(202)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(change):
    service = Service(change)
    thread = threading.Thread(target=service.serve_forever)
    thread.start()
    try:
        yield service
    finally:
        service.shutdown()
        thread.join()
        service.server_close()


def read(gateway, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{gateway.admin}{path}", timeout=10) as answer:
        return json.load(answer)


@pytest.fixture
def compared(tmp_path):
    """A gateway that has compared a candidate, which says `duplicate` wrongly, with a control."""
    with serving(lambda answer: answer.update(duplicate="<b>yes</b>")) as candidate, serving(lambda answer: None) as control:
        gateway = Gateway(tmp_path, "", plain=True, rest=f"""
[platform.mirroring]
compare = {{ candidate = "http://127.0.0.1:{candidate.server_port}", control = "http://127.0.0.1:{control.server_port}", methods = ["POST"] }}
rules = [{{ prefix = "in.t.default.>", percent = 1.0, compare = true, methods = ["POST"] }}]
""")
        gateway.start()
        try:
            client = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
            for n in range(REQUESTS):
                client.request("POST", "/v1/publish/orders", f"order {n}", {"authorization": "Bearer secret", "x-arqon-shadow": "false"})
                answer = client.getresponse()
                assert (answer.status, json.load(answer)["duplicate"]) == (202, False), "the client gets the primary's answer"
            # Two requests may not end in the order they were made, so the report is waited for.
            for _ in range(400):
                report = read(gateway, "/v1/state")["mirroring"]["comparison"]
                if report["compared"] == REQUESTS:
                    break
                threading.Event().wait(0.05)
            yield gateway, report, candidate, control
        finally:
            gateway.stop()


def test_a_divergence_is_told_from_noise_and_drawn(compared):
    gateway, report, candidate, control = compared
    assert (report["compared"], report["controlled"]) == (REQUESTS, REQUESTS)
    diverging = {name for name, field in report["fields"].items() if field["diverges"]}
    assert diverging == {"duplicate"}, report
    assert report["fields"]["sequence"]["noise"] == REQUESTS, "the control shows that this one is noise"
    example = report["fields"]["duplicate"]["examples"][0]
    assert (example["primary"], example["other"]) == ("boolean", "string of 10"), "kinds, never values"
    assert len(report["fields"]["duplicate"]["examples"]) <= 8
    assert "yes" not in json.dumps(report)

    # Copies are marked once, whatever the client said, and carry no credentials.
    for service in (candidate, control):
        for path, headers, body in service.seen:
            names = [name.lower() for name in headers]
            assert path == "/v1/publish/orders" and body.startswith(b"order ")
            assert names.count("x-arqon-shadow") == 1 and headers["x-arqon-shadow"] == "true" and "authorization" not in names

    metrics = urllib.request.urlopen(f"http://127.0.0.1:{gateway.admin}/metrics", timeout=10).read().decode()
    assert f'shield_mirror_divergence_total{{field="duplicate"}} {REQUESTS}' in metrics
    assert 'field="sequence"' not in metrics, "noise is no divergence"
    history = read(gateway, "/v1/divergence")["history"]
    assert sum(span["compared"] for span in history) == REQUESTS
    assert sum(span["fields"]["duplicate"]["different"] for span in history) == REQUESTS

    with chromium() as open_page:
        page = open_page(f"http://127.0.0.1:{gateway.admin}/divergence")
        page.until("document.querySelectorAll('main section').length === 2")
        assert page.eval("document.querySelector('main section').dataset.field") == "duplicate", "what diverges stands first"
        assert "1 of 2 fields" in page.text("#summary") and "diverges" in page.text("section.diverges h2")
        assert "noise" in page.text("[data-field=sequence] h2")
        drawn = page.eval("document.querySelectorAll('.diverges svg .rate-dot').length")
        assert drawn == len(history), "a dot for each half minute"
        page.click(".diverges summary")
        assert "string of 10" in page.text(".diverges table")
        page.screenshot("divergence")
        assert page.errors == []


def test_without_a_candidate_the_page_says_so(tmp_path):
    gateway = Gateway(tmp_path, "", plain=True).start()
    try:
        assert read(gateway, "/v1/divergence") is None
        with chromium() as open_page:
            page = open_page(f"http://127.0.0.1:{gateway.admin}/divergence")
            page.until("document.querySelector('#summary').innerText.includes('Nothing is compared')")
            assert page.errors == []
    finally:
        gateway.stop()
