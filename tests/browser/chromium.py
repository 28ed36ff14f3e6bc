"""A headless Chromium, driven over its DevTools protocol.

By a pipe, and without a package: what these tests need is small, Chromium tells of each
request by itself, and no driver has to fit its version.
"""

from __future__ import annotations

import base64
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from ..helpers.waiting import OF_PROCESSES, until

PATH = shutil.which("chromium") or shutil.which("chromium-browser")
OPTIONS = [
    "--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu",
    "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-default-apps", "--disable-extensions", "--disable-sync",
    "--disable-dev-shm-usage", "--no-proxy-server", "--hide-scrollbars",
    "--font-render-hinting=none", "--force-color-profile=srgb",
]  # fmt: skip
# It reads from descriptor 3, and writes to 4. Not by a shell: dash knows 0 to 9 only.
BEGIN = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
WIDE = (1200, 900)


class Chromium:
    """The process. ``with Chromium() as chromium: page = chromium.open(url)``."""

    def __enter__(self):
        self.home = tempfile.mkdtemp(prefix="chromium-")
        to_it, self.write = os.pipe()
        self.read, from_it = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-c", BEGIN, str(to_it), str(from_it), PATH, *OPTIONS,
             f"--user-data-dir={self.home}"],
            pass_fds=(to_it, from_it), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": self.home},
        )  # fmt: skip
        os.close(to_it)
        os.close(from_it)
        self.number = 0
        self.answers = {}  # queues, by the number of the command
        self.pages = {}  # by session
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        return self

    def __exit__(self, *error):
        if self.process.poll() is None:
            self.tell("Browser.close")
        self.process.wait(OF_PROCESSES)
        self.reader.join()
        os.close(self.write)
        shutil.rmtree(self.home, ignore_errors=True)

    def open(self, url="about:blank", size=WIDE, dark=False, scripts=True):
        """A tab of its own, with that page."""
        context = self.ask("Target.createBrowserContext")["browserContextId"]
        target = self.ask(
            "Target.createTarget", url="about:blank", browserContextId=context
        )["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        page = Page(self, session["sessionId"], target)
        for domain in ("Page", "Network", "Runtime", "Log"):
            page.ask(f"{domain}.enable")
        page.look(size, dark)
        if not scripts:
            page.ask("Emulation.setScriptExecutionDisabled", value=True)
        page.go(url)
        return page

    def ask(self, method, session=None, **params):
        """Send a command, and return its result."""
        number, answers = self._send(method, session, params)
        try:
            answer = answers.get(timeout=OF_PROCESSES)
        finally:
            del self.answers[number]
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def tell(self, method):
        """Send a command that nobody may be left to answer."""
        self._send(method, None, {})

    def _send(self, method, session, params):
        self.number += 1
        number, answers = self.number, queue.Queue()
        self.answers[number] = answers
        command = {"id": number, "method": method, "params": params}
        if session is not None:
            command["sessionId"] = session
        os.write(self.write, json.dumps(command).encode() + b"\0")
        return number, answers

    def _read(self):
        with open(self.read, "rb") as file:
            rest = b""
            while data := file.read1(1 << 20):
                *messages, rest = (rest + data).split(b"\0")
                for text in messages:
                    self._take(json.loads(text))

    def _take(self, message):
        answers = self.answers.get(message.get("id"))
        if answers is not None:
            answers.put(message)
        page = self.pages.get(message.get("sessionId"))
        if page is not None and "method" in message:
            page.events.append((message["method"], message["params"]))


class Page:
    """One tab: what is on it, and what it has asked for."""

    def __init__(self, chromium, session, target):
        self.chromium = chromium
        self.session = session
        self.target = target
        self.events = []
        chromium.pages[session] = self

    def ask(self, method, **params):
        """Send a command for this tab."""
        return self.chromium.ask(method, self.session, **params)

    def go(self, url):
        """Open that page, and wait until it is there."""
        before = self.loads
        self.ask("Page.navigate", url=url)
        self.loaded(before)

    @property
    def loads(self):
        """How often a page was loaded here."""
        return sum(name == "Page.loadEventFired" for name, _ in list(self.events))

    def loaded(self, before):
        """Wait until there was one more load than before."""
        until(lambda: self.loads > before, "the page to load", OF_PROCESSES)

    def look(self, size=WIDE, dark=False):
        """Have a window of that size, and a user who likes pages dark, or light."""
        width, height = size
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height,
            deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        calm = {"name": "prefers-reduced-motion", "value": "reduce"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme, calm])

    def run(self, script):
        """The value of an expression of JavaScript, or of its promise."""
        answer = self.ask(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, (script[:200], answer)
        return answer["result"].get("value")

    def text(self, selector="main"):
        """What is to be read there."""
        return self.run(f"document.querySelector({selector!r})?.innerText ?? ''")

    def shows(self, text, selector="main"):
        """Wait until that is to be read there."""
        until(
            lambda: text in self.text(selector),
            lambda: f"{text!r} in {self.text(selector)!r}",
            OF_PROCESSES,
        )

    def hides(self, text, selector="main"):
        """Wait until that is not to be read there any more."""
        until(lambda: text not in self.text(selector), f"no {text!r}", OF_PROCESSES)

    def key(self, key):
        """Press that key."""
        text = {"Enter": "\r", " ": " "}.get(key, "")
        codes = {"Tab": 9, "Enter": 13, " ": 32}
        down = {"key": key, "text": text, "windowsVirtualKeyCode": codes[key]}
        self.ask("Input.dispatchKeyEvent", type="keyDown", **down)
        self.ask("Input.dispatchKeyEvent", type="keyUp", key=key,
                 windowsVirtualKeyCode=codes[key])  # fmt: skip

    @property
    def requests(self):
        """The URLs that it has asked for."""
        return [
            params["request"]["url"]
            for name, params in list(self.events)
            if name == "Network.requestWillBeSent"
        ]

    @property
    def complaints(self):
        """What the browser's console says, such as what the policy has stopped."""
        return [
            params["entry"]["text"]
            for name, params in list(self.events)
            if name == "Log.entryAdded" and params["entry"]["level"] == "error"
        ]

    def screenshot(self, path, whole=True):
        """Write what is seen to a PNG file; all of the page, not just the window."""
        data = self.ask("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        Path(path).write_bytes(base64.b64decode(data))
