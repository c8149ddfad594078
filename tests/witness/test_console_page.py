"""The console in a real browser: its numbers, its alerts, and who can use it: by keyboard, by ear, on a phone, in the dark,
with the gateway gone, or with nothing on."""

import contextlib
import http.server
import json
import re
import threading
import time
import urllib.error
import urllib.request

import pytest

from _gateway import TOKEN, Gateway
from conftest import ROOT

BLOCK_ME = (ROOT / "examples/policies/wat/block_me.wat").read_text(encoding="utf-8")
SCHEMA = 'syntax = "proto3"; package events.v1; message UserCreated { string user_id = 1; }'
LAYERS = """
[platform.overseer]
watch_interval = "20ms"
deadline = "1s"
[[platform.overseer.policies]]
name = "block_me"
path = "block_me.wat"
[platform.registry]
dir = "schemas"
mappings = [{ subject = "in.t.default.users", schema_id = "v1.events.user_created", required = ["user_id"] }]
[platform.mirroring]
rules = [{ prefix = "in.t.default.>", percent = 1.0, max_body_bytes = 100 }]
"""
SETTLED = """(() => {
  const all = [...document.querySelectorAll("data[data-series]")].map((one) => [one.dataset.series, Number(one.value), one.textContent]);
  return JSON.stringify(all);
})()"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "block_me.wat").write_text(BLOCK_ME, encoding="utf-8")
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas/v1.events.user_created.proto").write_text(SCHEMA, encoding="utf-8")
    return tmp_path


@contextlib.contextmanager
def running(gateway):
    try:
        yield gateway.start()
    finally:
        gateway.stop()


def url(gateway):
    return f"http://127.0.0.1:{gateway.admin}/"


def alerts(page):
    return page.text("#alert-list")


def series(name, metrics):
    """The sum of the series that `name{label="value",..}` names, among other labels."""
    base, _, inside = name.partition("{")
    wanted = set(re.findall(r'(\w+="(?:[^"\\]|\\.)*")', inside))
    return sum(value for key, value in metrics.items()
               if key.partition("{")[0] == base and wanted <= set(re.findall(r'(\w+="(?:[^"\\]|\\.)*")', key)))


def test_every_number_is_what_the_metrics_say_after_known_traffic(browser, folder, arqon):
    with running(Gateway(folder, arqon, rest=LAYERS)) as gateway:
        page = browser(url(gateway))
        typed = {"content-type": "application/json"}
        for at in range(20):
            assert gateway.publish("x", f"u{at}")[0] == 202
        for at in range(7):
            assert gateway.publish("x", f"u{at}", {"x-block-me": "1"})[0] == 403
        for at in range(5):
            assert gateway.publish("users", f"u{at}", typed)[0] == 400
        for at in range(3):
            assert gateway.publish("users", f"u{at}", typed, b'{"userId":"u"}')[0] == 202
        # Too large to be mirrored.
        for at in range(4):
            assert gateway.publish("x", f"u{at}", body=b"x" * 101)[0] == 202

        # Known traffic: 39 asked Overseer, 7 stopped there and 5 by the contract; 27 sampled, 4 of them too large.
        layer = "document.querySelector('[data-layer={}]').innerText.replace(/\\s+/g, ' ')".format
        page.until(f"{layer('overseer')}.includes('asked 39 let pass 32 stopped here 7')")
        page.until(f"{layer('schema')}.includes('asked 32 let pass 27 stopped here 5')")
        page.until(f"{layer('shadow')}.includes('asked 27 let pass 27 under way 0')")
        page.until("document.querySelector('.books').innerText.replace(/\\s+/g, ' ')"
                   " === '27 sampled = 23 mirrored + 4 dropped + 0 in flight the books balance'")
        policy = page.text("[data-policy=block_me]")
        assert re.search(r"allowed\s+32\b", policy) and re.search(r"rejected\s+7\b", policy), policy
        assert "39 calls; half took at most 1K, 99 % at most 1K; limit 10M" in policy, policy
        assert re.search(r"body_too_large\s+4\s+lost", page.text("#mirror")), page.text("#mirror")
        contracts = page.text("#contracts")
        assert re.search(r"v1\.events\.user_created\s+1\s+1\s+5\b", contracts), contracts
        assert re.search(r"overseer\.denied\s+7\b", page.text("#refusals")) and re.search(r"schema\.violation\s+5\b", page.text("#refusals"))

        # Every other number that says which series it is: compared with what /metrics says before and after it was read.
        moves = {"shield_gateway_connections", "shield_gateway_connections_total"}
        end = time.monotonic() + 30
        while True:
            before, shown, after = gateway.metrics(), json.loads(page.eval(SETTLED)), gateway.metrics()
            wrong = [(name, value, series(name, before)) for name, value, text in shown
                     if not series(name, before) <= value <= series(name, after) and name.partition("{")[0] not in moves]
            if not wrong:
                break
            assert time.monotonic() < end, wrong
            time.sleep(0.2)
        assert len(shown) > 50, shown
        assert all(text == f"{value:,.0f}" for _, value, text in shown), shown
        # Latency: both quantiles lie where the histogram has them.
        assert page.eval("document.querySelectorAll('#latency-chart .plot').length") == 1
        tiles = page.text("#figures")
        assert re.search(r"Latency p99\s+(–|[\d.]+ [µm]?s)", tiles), tiles
        page.screenshot("console-traffic-light")

        # Nothing was asked of anybody else, and nothing went wrong.
        assert page.asked and all(asked.startswith(url(gateway)) for asked in page.asked), page.asked
        assert not page.errors, page.errors


def test_alerts_say_what_is_wrong_and_go_when_it_is_mended(browser, folder, arqon):
    with running(Gateway(folder, arqon, rest=LAYERS)) as gateway:
        page = browser(url(gateway))
        page.until("document.querySelector('#alert-list').innerText === 'Nothing needs you.'")
        assert page.eval("document.title") == "Arqon"
        config = (folder / "gateway.toml").read_text(encoding="utf-8")

        # A configuration, a policy's file and a schema that do not hold; and everything dropped that is sampled.
        (folder / "gateway.toml").write_text(config.replace('deadline = "1s"', 'deadline = "1 parsec"'), encoding="utf-8")
        (folder / "block_me.wat").write_text("(module (import \"env\" \"nothing\" (func)))", encoding="utf-8")
        (folder / "schemas/v1.events.user_created.proto").write_text("message {", encoding="utf-8")
        for at in range(3):
            gateway.publish("x", f"u{at}", body=b"x" * 101)
        for said in ["The configuration was refused, version 1 goes on: ", "The file of policy block_me was refused",
                     "An update of a schema was refused, the last good revision stays: v1.events.user_created",
                     "The mirror drops: 3 of 3 copies within a minute (body_too_large 3)"]:
            page.until(f"document.querySelector('#alert-list').innerText.includes({json.dumps(said)})")
        assert "parsec" in alerts(page) and "env" in alerts(page), alerts(page)
        assert page.eval("document.title") == "(4) Arqon"
        # Told aloud in one sentence, not the whole list.
        assert page.eval("document.querySelector('#alerts-said').textContent").startswith("4 things need you. ")
        assert "file refused" in page.text("#policies") and "refused" in page.text("#health")
        page.click("#alert-list a[href='#policies']")
        page.until("location.hash === '#policies' && document.querySelector('#policies').getBoundingClientRect().top < 400")
        page.screenshot("console-alerts-light")

        (folder / "gateway.toml").write_text(config, encoding="utf-8")
        (folder / "block_me.wat").write_text(BLOCK_ME, encoding="utf-8")
        (folder / "schemas/v1.events.user_created.proto").write_text(SCHEMA, encoding="utf-8")
        for gone in ["configuration was refused", "file of policy", "update of a schema"]:
            page.until(f"!document.querySelector('#alert-list').innerText.includes({json.dumps(gone)})")

        # A stop is an alert, in the words of who ordered it, and a fact among the events.
        gateway.gov("stop", "--reason", "it burns", key="sre-1")
        page.until("document.querySelector('#alert-list').innerText.includes('Stopped: default')")
        assert "it burns" in alerts(page)
        page.until("document.querySelector('#event-list').innerText.includes('policy_reloaded policy block_me refused a module')")
        page.until("document.querySelector('#event-list').innerText.includes('config is well')")
        assert not page.errors, page.errors


def test_the_guarded_stop_by_keys_alone(browser, folder, arqon):
    with running(Gateway(folder, arqon)) as gateway:
        gateway.roll_out("p1", 25, 0, 25)
        page = browser(url(gateway))
        page.until("document.querySelector('[data-scope=\"\"]')?.innerText.includes('served 25.00 %')")
        focus = "document.activeElement.id"

        def tab_to(wanted, most=12):
            for _ in range(most):
                page.key("Tab")
                if page.eval(focus) == wanted:
                    return
            pytest.fail(f"no Tab leads to {wanted}, but to {page.eval(focus)}")

        # The first stop of Tab is the way past the header; the stop is reached within three.
        page.key("Tab")
        assert page.eval("document.activeElement.getAttribute('href')") == "#main"
        tab_to("stop-open", most=3)
        page.key("Enter")
        page.until("document.querySelector('#stop').open")
        assert page.eval(focus) == "stop-tenant" and "25.00 % of its requests go to fast (p1)" in page.text("#stop-effect")
        tab_to("stop-reason", most=3)
        page.call("Input.insertText", text="by keys")
        # The one thing that is the system's and not the page's: its dialog to choose a file.
        tab_to("stop-key")
        page.files("#stop-key", gateway.key("sre-1"))
        page.until("document.querySelector('#stop-keyid').value === 'sre-1'")
        tab_to("stop-token")
        page.call("Input.insertText", text=TOKEN)
        # Enter does nothing before the name is there.
        page.key("Enter")
        assert gateway.scope()["phase"] == "holding"
        tab_to("stop-confirm")
        page.call("Input.insertText", text="default")
        page.until("!document.querySelector('#stop-send').disabled")
        tab_to("stop-cancel")
        tab_to("stop-send", most=1)
        page.key(" ", code="Space")
        page.until("document.querySelector('#stop-said').textContent.startsWith('In force: stopped')")
        assert gateway.scope()["reason"] == "by keys"
        page.key("Escape")
        page.until("!document.querySelector('#stop').open")
        assert page.eval(focus) == "stop-open", "back where it was"
        assert not page.errors, page.errors


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_light_and_dark_at_any_width(browser, folder, arqon, scheme):
    with running(Gateway(folder, arqon, rest=LAYERS, more="guard = { window_seconds = 1, min_samples = 5, latency_factor = 1000.0 }")) as gateway:
        gateway.roll_out("p1", 30, 0, 30)
        gateway.roll_out("p2", 10, 0, 10, scope="in.t.default.users")
        gateway.gov("stop", "--reason", "it burns", "--tenant", "other", key="sre-1")
        (folder / "gateway.toml").write_text("nothing of it", encoding="utf-8")
        for at in range(30):
            gateway.publish("x", f"u{at}", {"x-block-me": "1"} if at % 3 == 0 else {}, b"x" * (200 if at % 5 == 0 else 1))
        page = browser(url(gateway), dark=scheme == "dark")
        page.prefer(scheme=scheme, motion="reduce")
        page.until("document.querySelector('#alert-list').innerText.includes('configuration was refused')")
        page.until("document.querySelector('#tenants').innerText.includes('Guard, last window')")
        assert page.axe() == []
        assert page.eval("getComputedStyle(document.documentElement).scrollBehavior") == "auto", "nothing glides where motion is unwanted"
        for width, height in [(390, 844), (320, 640)]:
            page.resize(width, height, mobile=True)
            page.until("innerWidth < 400")
            assert page.eval("document.documentElement.scrollWidth <= innerWidth"), f"the page itself never scrolls sideways at {width}"
            # What does is reached by keys.
            page.until("[...document.querySelectorAll('.scroll')].every((one) => one.scrollWidth <= one.clientWidth + 1 || one.tabIndex === 0)")
            assert page.axe() == []
        page.resize(390, 844, mobile=True)
        page.screenshot(f"console-phone-{scheme}")
        page.click("#stop-open")
        page.until("document.querySelector('#stop').open")
        assert page.axe() == []
        page.screenshot(f"console-phone-stop-{scheme}", whole=False)
        assert not page.errors, page.errors


def test_with_nothing_on_it_says_how_to_turn_it_on_and_why_nothing_can_be_stopped(browser, folder, arqon):
    with running(Gateway(folder, arqon, plain=True)) as gateway:
        page = browser(url(gateway))
        page.until("document.querySelector('#alert-list').innerText === 'Nothing needs you.'")
        for where, said in [("policies", "No policy is configured"), ("contracts", "No schema is known"), ("mirror", "No rule: nothing is mirrored"),
                            ("rollouts", "There are no rollouts here"), ("refusals", "Nothing was refused so far."),
                            ("health", "nobody is authenticated, every request is of tenant default")]:
            assert said in page.text(f"#{where}"), (where, page.text(f"#{where}"))
        page.click("#stop-open")
        page.until("document.querySelector('#stop').open")
        assert "rollouts are off" in page.text("#stop") and page.eval("document.querySelector('#stop-form').hidden")
        page.click("#stop-cancel")
        assert page.axe() == []
        page.screenshot("console-empty-light")
        assert not page.errors, page.errors


def test_without_a_control_token_it_names_the_other_ways_to_stop(browser, folder, arqon):
    gateway = Gateway(folder, arqon)
    config = (folder / "gateway.toml").read_text(encoding="utf-8")
    (folder / "gateway.toml").write_text(config.replace('control_token_file = "control.token"', ""), encoding="utf-8")
    with running(gateway):
        page = browser(url(gateway))
        page.until("document.querySelector('[data-tenant=other]')?.innerText.includes('idle')")
        page.click("#stop-open")
        page.until("document.querySelector('#stop-off').innerText.includes('kill -USR1')")
        assert page.eval("document.querySelector('#stop-send').hidden && document.querySelector('#stop-form').hidden")
        assert not page.errors, page.errors


def test_of_three_hundred_tenants_those_come_first_where_something_goes_on(browser, folder, arqon):
    tenants = [f"tenant-{at:03}" for at in range(299)] + ["zebra"]
    with running(Gateway(folder, arqon, tenants=tenants)) as gateway:
        gateway.gov("stop", "--reason", "it burns", "--tenant", "zebra", key="sre-1")
        page = browser(url(gateway))
        page.until("document.querySelector('[data-tenant]')?.dataset.tenant === 'zebra'")
        assert page.eval("document.querySelectorAll('[data-tenant]').length") == 20
        assert "20 of 300 shown" in page.text("#tenant-count")
        page.type("#tenant-filter", "Nant-27")
        page.until("document.querySelectorAll('[data-tenant]').length === 10")
        # It stays while the figures go on.
        page.until("performance.getEntriesByType('resource').filter((one) => one.name.endsWith('/v1/state')).length > 2")
        assert page.eval("document.activeElement.id") == "tenant-filter"
        assert page.eval("document.querySelectorAll('[data-tenant]').length") == 10
        page.type("#tenant-filter", "nobody")
        page.until("document.querySelector('#tenants').innerText === 'No tenant has that in its name.'")
        assert page.eval("document.querySelectorAll('#stop-tenant option').length") == 300
        assert not page.errors, page.errors


def test_it_stands_still_on_request_and_what_a_reader_marked_stays(browser, folder, arqon):
    with running(Gateway(folder, arqon, rest=LAYERS)) as gateway:
        page = browser(url(gateway))
        page.until("document.querySelector('[data-policy]') !== null")
        # A selection, a place and a node survive new figures.
        page.eval("""(() => {
            const heading = document.querySelector("[data-policy] h3");
            heading.mark = "mine";
            getSelection().selectAllChildren(heading);
        })()""")
        gateway.publish("x", "u")
        page.until("/allowed\\s+1\\b/.test(document.querySelector('[data-policy]').innerText)")
        assert page.eval("getSelection().toString()").startswith("block_me")
        assert page.eval("document.querySelector('[data-policy] h3').mark") == "mine"
        page.click("#pause")
        assert page.eval("document.querySelector('#pause').getAttribute('aria-pressed')") == "true"
        page.until("document.querySelector('#still').innerText.startsWith('Paused: what is below is of ')")
        page.eval("new Promise((done) => setTimeout(done, 300))")
        asked = len(page.asked)
        gateway.publish("x", "u")
        page.eval("new Promise((done) => setTimeout(done, 2500))")
        assert len(page.asked) == asked, page.asked[asked:]
        assert re.search(r"allowed\s+1\b", page.text("[data-policy]"))
        page.click("#pause")
        page.until("/allowed\\s+2\\b/.test(document.querySelector('[data-policy]').innerText)")
        assert not page.errors, page.errors


@contextlib.contextmanager
def in_front(gateway, refused):
    """A proxy that lets nobody read the state while `refused` is set, and ends a stream at once."""

    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status, kind, body = 401, "text/plain", b"who are you?"
            if not (refused.is_set() and self.path.startswith("/v1/")) and self.path != "/v1/events":
                with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(f"http://127.0.0.1:{gateway.admin}{self.path}") as answer:
                    status, kind, body = answer.status, answer.headers["content-type"], answer.read()
            self.send_response(status)
            self.send_header("content-type", kind)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_who_is_not_let_in_is_told_so_and_it_goes_on_afterwards(browser, folder, arqon):
    refused = threading.Event()
    with running(Gateway(folder, arqon)) as gateway, in_front(gateway, refused) as address:
        page = browser(address)
        page.until("document.querySelector('#ready').innerText === 'ready'")
        assert page.eval("document.querySelector('#lost').hidden")
        refused.set()
        page.until("document.querySelector('#lost').innerText.startsWith('Not authorised (401)')")
        assert page.text("#ready") == "not known" and page.eval("document.title") == "(!) Arqon"
        assert "What is below is of " in page.text("#lost") and page.eval("document.body.classList.contains('old')")
        refused.clear()
        page.until("document.querySelector('#lost').hidden && document.querySelector('#ready').innerText === 'ready'")
        gateway.stop()
        page.until("!document.querySelector('#lost').hidden")
        assert "/v1/state is answered with" in page.text("#lost") or "Not authorised" in page.text("#lost")
        assert page.axe() == []
        assert all("status of 401" in error for error in page.errors), page.errors
