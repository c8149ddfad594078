"""A headless Chromium for the tests of pages, by the DevTools protocol: real clicks and keys, screenshots, no test framework.

`TEST_CHROMIUM` names the program; else the usual names are looked for. There is always one or the test fails: nothing is
skipped. Screenshots go to `TEST_SCREENSHOTS`, else to `target/test-logs/screenshots`.
"""

import base64
import contextlib
import importlib.resources
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
import urllib.request

from websockets.sync.client import connect

ROOT = pathlib.Path(__file__).resolve().parents[2]
NAMES = ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome", "headless_shell"]
PATIENCE = 30


def program() -> str:
    """The browser."""
    found = os.environ.get("TEST_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    assert found, "no Chromium: install the package `chromium` (tests/run.sh does, as root on Debian), or name one in TEST_CHROMIUM"
    return found


def screenshots() -> pathlib.Path:
    """The folder of what was seen."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
    folder = pathlib.Path(os.environ.get("TEST_SCREENSHOTS") or target / "test-logs" / "screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def chromium():
    """Yields a function that opens a page at a URL."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        arguments = ["--headless=new", "--remote-debugging-port=0", f"--user-data-dir={profile}", "--no-first-run", "--disable-gpu",
                     "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
                     "--window-size=1100,1300", "about:blank"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            arguments.insert(0, "--no-sandbox")
        with open(pathlib.Path(profile) / "log", "wb") as log:
            browser = subprocess.Popen([program(), *arguments], stdout=log, stderr=log)
        pages = []
        try:
            port = _port(browser, pathlib.Path(profile))

            def open_page(url, dark=False):
                made = urllib.request.Request(f"http://127.0.0.1:{port}/json/new?about:blank", method="PUT")
                with urllib.request.urlopen(made, timeout=PATIENCE) as answer:
                    page = Page(json.load(answer)["webSocketDebuggerUrl"], dark)
                pages.append(page)
                page.go(url)
                return page

            yield open_page
        finally:
            for page in pages:
                page.close()
            browser.terminate()
            try:
                browser.wait(10)
            except subprocess.TimeoutExpired:
                browser.kill()
                browser.wait()


@contextlib.contextmanager
def tabs(open_page):
    """The same function; what it opened is closed at the end."""
    pages = []

    def opened(*arguments, **more):
        pages.append(open_page(*arguments, **more))
        return pages[-1]

    try:
        yield opened
    finally:
        for page in pages:
            page.close()


def _port(browser, profile):
    end = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(FileNotFoundError, ValueError, IndexError):
            return int((profile / "DevToolsActivePort").read_text().splitlines()[0])
        assert browser.poll() is None, f"Chromium ended: {(profile / 'log').read_text(errors='replace')[-2000:]}"
        assert time.monotonic() < end, "Chromium did not open its debugging port"
        time.sleep(0.05)


class Page:
    """One tab."""

    def __init__(self, url, dark):
        self.open = contextlib.ExitStack()
        self.socket = self.open.enter_context(connect(url, max_size=64 * 1024 * 1024))
        self.last = 0
        #: Everything the page complained about: exceptions, console errors, refused by the content security policy.
        self.errors = []
        #: Every address that the page asked for.
        self.asked = []
        for domain in ["Page", "Runtime", "Log", "DOM", "Network"]:
            self.call(f"{domain}.enable")
        self.prefer(scheme="dark" if dark else "light")

    def prefer(self, scheme="light", motion="no-preference"):
        """What the reader has set: a colour scheme, and whether things may move."""
        wishes = {"prefers-color-scheme": scheme, "prefers-reduced-motion": motion}
        self.call("Emulation.setEmulatedMedia", features=[{"name": name, "value": value} for name, value in wishes.items()])

    def resize(self, width, height, mobile=False):
        """The size of the window, in CSS pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2 if mobile else 1, mobile=mobile)

    def axe(self):
        """What axe-core finds wrong for people who read by other means: `rule: element`."""
        program = importlib.resources.files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8")
        self.eval(program + "; true")
        found = self.eval("axe.run().then((all) => all.violations.flatMap((one) => one.nodes.map((node) => "
                          "`${one.id}: ${node.target} ${node.failureSummary}`)))")
        self.eval("delete window.axe, true")
        return found

    def close(self):
        # What was not read yet is read before that is answered, else the connection would not end.
        with contextlib.suppress(Exception):
            self.call("Page.close")
        with contextlib.suppress(Exception):
            self.open.close()

    def call(self, method, **params):
        """One command of the protocol, and its result."""
        self.last += 1
        self.socket.send(json.dumps({"id": self.last, "method": method, "params": params}))
        while True:
            said = json.loads(self.socket.recv(timeout=PATIENCE))
            if said.get("id") == self.last:
                assert "error" not in said, (method, said["error"])
                return said["result"]
            self._event(said)

    def _event(self, said):
        params = said.get("params", {})
        match said.get("method"):
            case "Runtime.exceptionThrown":
                self.errors.append(json.dumps(params["exceptionDetails"])[:600])
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "assert"):
                self.errors.append(json.dumps(params["args"])[:600])
            case "Log.entryAdded" if params["entry"]["level"] == "error":
                self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
            case "Network.requestWillBeSent":
                self.asked.append(params["request"]["url"])
            case "Page.javascriptDialogOpening":
                self.errors.append(f"a dialog of the browser: {params['message']}")

    def go(self, url):
        """Opens a URL and waits until it is loaded."""
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def eval(self, expression):
        """The value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, (expression, answer["exceptionDetails"])
        return answer["result"].get("value")

    def until(self, expression, seconds=PATIENCE):
        """Waits until an expression is true in the page."""
        end = time.monotonic() + seconds
        while not (value := self.eval(f"!!({expression}) && ({expression})")):
            assert time.monotonic() < end, f"never true: {expression}\n{self.text('body')}"
            time.sleep(0.05)
        return value

    def text(self, selector):
        """What a person reads in an element."""
        return self.eval(f"document.querySelector({json.dumps(selector)})?.innerText")

    def _point(self, selector):
        """The middle of an element, which has to be what is really there: not covered, not hidden, not disabled."""
        place = self.eval(f"""(() => {{
            const node = document.querySelector({json.dumps(selector)});
            if (!node) return "is not there";
            if (node.disabled) return "is disabled";
            node.scrollIntoView({{ block: "center", behavior: "instant" }});
            const box = node.getBoundingClientRect();
            const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
            const seen = document.elementFromPoint(x, y);
            return node === seen || node.contains(seen) ? [x, y] : "is hidden or covered";
        }})()""")
        assert isinstance(place, list), f"{selector} {place}"
        return place

    def click(self, selector):
        """A real click of the mouse."""
        x, y = self._point(selector)
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, selector, text):
        """Replaces what is in a field, by the keyboard."""
        self.click(selector)
        self.eval(f"document.querySelector({json.dumps(selector)}).select?.()")
        self.call("Input.insertText", text=text)

    def key(self, name, code=None, **more):
        """One key, such as Tab, Enter or Escape."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32}
        text = {"Enter": "\r", " ": " "}.get(name)
        down = {"text": text} if text else {}
        press = {"key": name, "code": code or name, "windowsVirtualKeyCode": codes.get(name, 0), **more}
        self.call("Input.dispatchKeyEvent", type="keyDown", **press, **down)
        self.call("Input.dispatchKeyEvent", type="keyUp", **press)

    def choose(self, selector, value):
        """Chooses an option of a list."""
        self.eval(f"""(() => {{
            const node = document.querySelector({json.dumps(selector)});
            node.value = {json.dumps(value)};
            node.dispatchEvent(new Event("input", {{ bubbles: true }}));
            node.dispatchEvent(new Event("change", {{ bubbles: true }}));
        }})()""")

    def files(self, selector, *paths):
        """Chooses files."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def screenshot(self, name, whole=True):
        """Keeps what is seen as `<name>.png` and yields its path."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path = screenshots() / f"{name}.png"
        path.write_bytes(base64.b64decode(shot["data"]))
        return path
