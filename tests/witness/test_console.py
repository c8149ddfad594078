"""The console in a real browser: what people see of a rollout, and the guarded emergency stop."""

import contextlib
import http.client
import threading
import time

import pytest

from _gateway import TOKEN, Gateway

SECTION = "document.querySelector('#tenants section')"
GUARD = 'guard = { window_seconds = 1, min_samples = 5, latency_factor = 1000.0 }'
# Never markup, whatever somebody signs.
HOSTILE = "<img src=x onerror=\"document.title='owned'\"> & <b>faster</b>"


@pytest.fixture
def gateway(arqon, tmp_path):
    made = Gateway(tmp_path, arqon, more=GUARD)
    try:
        yield made.start()
    finally:
        made.stop()


@contextlib.contextmanager
def traffic(gateway):
    """Forty users who go on asking: without answers of both sides the guard holds the share."""
    over = threading.Event()

    def ask():
        while not over.is_set():
            for user in range(40):
                gateway.publish("x", f"user-{user}")

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield
    finally:
        over.set()
        asking.join()


def stop_dialog(page, tenant, keyfile, token=TOKEN, reason="it burns"):
    page.click("#stop-open")
    page.until("document.querySelector('#stop').open")
    assert page.eval("document.querySelector('#stop-send').disabled"), "nothing is confirmed yet"
    page.choose("#stop-tenant", tenant)
    page.type("#stop-reason", reason)
    page.files("#stop-key", keyfile)
    page.until("document.querySelector('#stop-keyid').value")
    page.type("#stop-token", token)


def test_the_rollout_is_shown_and_the_guarded_stop_stops(browser, gateway):
    gateway.roll_out("p1", 30, 100, 40, reason=HOSTILE)
    page = browser(f"http://127.0.0.1:{gateway.admin}/")

    # 1. What is live, since when, how much, and who decided it.
    with traffic(gateway):
        page.until(f"{SECTION}?.innerText.includes('runs: p1')")
        page.until(f"{SECTION}.innerText.includes('Guard, last window: healthy')")
        page.until(f"{SECTION}.innerText.includes('served 40.00 %')")
    text = page.text("#tenants")
    for said in ["Tenant default", "Tenant other", "approved by ops-1", "served 40.00 %", "sent to the variant", "approval", "faster"]:
        assert said in text, (said, text)
    assert HOSTILE in text, "as text"
    assert page.eval("document.title") == "Arqon" and page.eval("document.querySelectorAll('#tenants img').length") == 0
    # The curve has risen from 30 to 40 %.
    points = page.eval(f"{SECTION}.querySelector('polyline').getAttribute('points')").split()
    heights = [102 - float(point.split(",")[1]) for point in points]
    assert max(heights) == pytest.approx(40) and len(points) > 4, points
    page.screenshot("console-rollout-light")

    # 2. The stop is guarded: the tenant's name has to be typed, and the gateway asks for its token and a known key.
    stop_dialog(page, "default", gateway.key("sre-1"), token="wrong-token-wrong")
    page.type("#stop-confirm", "defaul")
    assert page.eval("document.querySelector('#stop-send').disabled"), "not quite its name"
    page.type("#stop-confirm", "other")
    assert page.eval("document.querySelector('#stop-send').disabled"), "another one's name"
    page.type("#stop-confirm", "default")
    page.screenshot("console-stop-dialog", whole=False)
    page.click("#stop-send")
    assert "auth.invalid" in page.until("document.querySelector('#stop-said').textContent.startsWith('Refused') "
                                        "&& document.querySelector('#stop-said').textContent")
    assert gateway.scope()["phase"] == "holding"
    assert page.eval("document.querySelector('#stop-send').disabled"), "each one is confirmed anew"
    # A proposer's key that nobody listed.
    stranger = gateway.folder / "eve.key"
    gateway_key = gateway.key("sre-1").read_text(encoding="utf-8")
    stranger.write_text("A" + gateway_key[1:] if gateway_key[0] != "A" else "B" + gateway_key[1:], encoding="utf-8")
    page.files("#stop-key", stranger)
    page.type("#stop-token", TOKEN)
    page.type("#stop-confirm", "default")
    page.click("#stop-send")
    page.until("document.querySelector('#stop-said').textContent.includes('unknown_key')")
    assert gateway.scope()["phase"] == "holding"
    # The browser tells of answers above 399 in its log; that was on purpose.
    assert all("status of 40" in error for error in page.errors), page.errors
    page.errors.clear()

    # 3. And then it stops, at once, signed in the page.
    page.files("#stop-key", gateway.key("sre-1"))
    page.until("document.querySelector('#stop-keyid').value === 'sre-1'")
    page.type("#stop-confirm", "default")
    page.click("#stop-send")
    page.until("document.querySelector('#stop-said').textContent.startsWith('In force: stopped')")
    of = gateway.scope()
    assert (of["phase"], of["by"], of["reason"]) == ("stopped", ["sre-1"], "it burns")
    assert gateway.scope(tenant="other")["phase"] == "idle"
    page.click("#stop-cancel")
    # No secret stays in the page.
    page.until("['token', 'key', 'reason'].every((id) => document.querySelector(`#stop-${id}`).value === '')")
    page.until(f"{SECTION}.querySelector('.state').innerText === 'stopped'")
    text = page.text("#tenants section")
    assert "by sre-1: it burns" in text and "served 0.00 %" in text, text
    page.screenshot("console-stopped-light")
    assert not page.errors, page.errors


def ask_slowly(gateway, user, seconds):
    """One message whose body comes so much later than its head; says which variant it was given."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
    with contextlib.closing(connection):
        connection.putrequest("POST", "/v1/publish/x")
        connection.putheader("x-user", user)
        connection.putheader("content-length", "2")
        connection.endheaders()
        time.sleep(seconds)
        connection.send(b"{}")
        answer = connection.getresponse()
        answer.read()
        return answer.getheader("x-arqon-variant")


def test_a_breach_of_the_guard_is_an_alert_until_another_rollout(browser, arqon, tmp_path):
    guard = 'guard = { window_seconds = 2, min_samples = 5, latency_factor = 2.0, action = "freeze" }'
    made = Gateway(tmp_path, arqon, more=guard)
    with contextlib.ExitStack() as ending:
        ending.callback(made.stop)
        gateway = made.start()
        page = browser(f"http://127.0.0.1:{gateway.admin}/")
        page.until("document.querySelector('#alert-list').innerText === 'Nothing needs you.'")
        gateway.roll_out("p1", 50, 0, 50)
        page.until(f"{SECTION}?.innerText.includes('runs: p1')")
        users = [f"user-{n}" for n in range(24)]
        given = {user: ask_slowly(gateway, user, 0) for user in users}
        assert set(given.values()) == {"stable", "fast"}, given
        # Whoever is given the variant waits half a second for every answer, and nobody else does.
        over = threading.Event()

        def ask(user):
            while not over.is_set():
                ask_slowly(gateway, user, 0.5 if given[user] == "fast" else 0)
                over.wait(0.05)

        asking = [threading.Thread(target=ask, args=[user]) for user in users]
        ending.callback(lambda: [thread.join() for thread in asking])
        ending.callback(over.set)
        for thread in asking:
            thread.start()
        said = "The guard lowered a share: default"
        page.until(f"document.querySelector('#alert-list').innerText.includes('{said}')")
        page.until("document.title === '(1) Arqon'")
        row = page.eval("(() => { const row = document.querySelector('#alert-list li'); return [row.className, row.innerText]; })()")
        assert row[0] == "now" and "look at the figures, then stop or resume" in row[1], row
        assert said in page.text("#alerts-said"), "told aloud too"
        assert page.eval("document.querySelector('#alert-list a').getAttribute('href')") == "#rollouts"
        of = gateway.scope()
        assert of["guarded"] is True and of["guard"]["verdict"] in ("breach", "no_data"), of
        page.until(f"{SECTION}.innerText.includes('lowered by the guard')")
        page.screenshot("console-guard-breach-light")
        over.set()
        # Another rollout begins anew.
        gateway.gov("stop", "--reason", "slow", key="sre-1")
        page.until("document.querySelector('#alert-list').innerText.includes('Stopped: default')")
        gateway.gov("resume")
        gateway.roll_out("p2", 20, 0, 20)
        page.until("document.querySelector('#alert-list').innerText === 'Nothing needs you.'")
        assert not page.errors, page.errors


def test_the_keyboard_is_enough_dark_is_dark_and_a_lost_gateway_is_said(browser, gateway):
    gateway.roll_out("p1", 50, 0, 50)
    page = browser(f"http://127.0.0.1:{gateway.admin}/", dark=True)
    page.until(f"{SECTION}?.innerText.includes('holding')")
    red, green, blue = page.eval("getComputedStyle(document.documentElement).colorScheme && [...document.body.ownerDocument"
                                 ".defaultView.getComputedStyle(document.querySelector('h1')).color.matchAll(/\\d+/g)].map(Number)")[:3]
    assert min(red, green, blue) > 200, "light text on dark"
    # Opened, left and refused by keys alone.
    page.eval("document.querySelector('#stop-open').focus()")
    page.key("Enter")
    page.until("document.querySelector('#stop').open")
    assert page.eval("document.querySelector('#stop').contains(document.activeElement)"), "the focus is in the dialog"
    unnamed = page.eval("[...document.querySelectorAll('#stop input, #stop select')].filter((one) => !one.labels.length).length")
    assert unnamed == 0, "every field has a label"
    page.key("Escape")
    page.until("!document.querySelector('#stop').open")
    assert page.eval("document.activeElement.id") == "stop-open"
    page.screenshot("console-rollout-dark")
    assert not page.errors, page.errors
    gateway.stop()
    page.until("!document.querySelector('#lost').hidden")
    page.screenshot("console-lost-dark", whole=False)
