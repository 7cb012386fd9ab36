"""Chromium without a window, driven over the pipe of its DevTools protocol: no library is needed."""
from __future__ import annotations

import base64
import collections
import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import tempfile
import time
from typing import Any

import harness

WORDS = ["chromium", "chromium-browser", "google-chrome"]


def find() -> str | None:
    return next((path for word in WORDS if (path := shutil.which(word))), None)


class Browser:
    """A process of it, with a profile of its own that is gone afterwards."""

    def __init__(self) -> None:
        self.profile = tempfile.TemporaryDirectory(prefix="sluice-browser-", ignore_cleanup_errors=True)
        to_browser, self.write_end = os.pipe()
        self.read_end, from_browser = os.pipe()
        # It reads commands from descriptor 3 and writes to 4; the shell moves the pipe's ends there.
        command = [find(), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-pipe",
                   f"--user-data-dir={self.profile.name}", "about:blank"]
        self.child = subprocess.Popen([*harness.DIE_WITH_PARENT, "bash", "-c", f'exec 3<&{to_browser} 4>&{from_browser} "$@"', "browser", *command],
                                      stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                      pass_fds=(to_browser, from_browser), start_new_session=True)
        os.close(to_browser)
        os.close(from_browser)
        self.sent = 0
        self.pending = b""
        self.events: collections.deque[dict[str, Any]] = collections.deque(maxlen=10_000)

    def call(self, method: str, session: str | None = None, seconds: float = 240, **params: Any) -> dict[str, Any]:
        self.sent += 1
        message = {"id": self.sent, "method": method, "params": params, **({"sessionId": session} if session else {})}
        os.write(self.write_end, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + seconds
        while True:
            while b"\0" in self.pending:
                one, self.pending = self.pending.split(b"\0", 1)
                answer = json.loads(one)
                if answer.get("id") != self.sent:
                    self.events.append(answer)
                    continue
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            readable, _, _ = select.select([self.read_end], [], [], max(0.0, deadline - time.monotonic()))
            assert readable, f"the browser did not answer {method} within {seconds} s"
            data = os.read(self.read_end, 1 << 20)
            assert data, "the browser has ended"
            self.pending += data

    def open(self, url: str, **device: Any) -> Page:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        page = Page(self, self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])
        for domain in ("Page", "Runtime", "Log"):
            page.call(f"{domain}.enable")
        page.resize(**device)
        page.call("Page.navigate", url=url)
        page.wait(f"location.href.startsWith({json.dumps(url)}) && document.readyState === 'complete'")
        return page

    def close(self) -> None:
        os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()
        os.close(self.write_end)
        os.close(self.read_end)
        self.profile.cleanup()


class Page:
    def __init__(self, browser: Browser, session: str) -> None:
        self.browser = browser
        self.session = session

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self.browser.call(method, self.session, **params)

    def resize(self, width: int = 1280, height: int = 800, mobile: bool = False) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)

    def run(self, script: str) -> Any:
        """The value of an expression, which may be a promise."""
        told = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def wait(self, script: str, seconds: float = 240) -> Any:
        return harness.wait_until(lambda: self.run(script), script, seconds)

    def click(self, selector: str) -> None:
        self.run(f"document.querySelector({json.dumps(selector)}).click()")

    def write(self, selector: str, text: str) -> None:
        """As if somebody typed it in place of what was there."""
        self.run(f"(() => {{ const field = document.querySelector({json.dumps(selector)}); field.focus(); field.select?.(); }})()")
        self.call("Input.insertText", text=text)

    def press_enter(self) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r" if kind == "keyDown" else "")

    def text(self, selector: str) -> str:
        return self.run(f"document.querySelector({json.dumps(selector)}).innerText")

    def screenshot(self, path: pathlib.Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def complaints(self) -> list[str]:
        """What the console has of errors, broken promises and refusals by the policy of the page."""
        self.run("1")  # so that what came before is read
        found = []
        for event in self.browser.events:
            params = event.get("params", {})
            if event.get("sessionId") != self.session:
                continue
            if event["method"] == "Runtime.exceptionThrown":
                found.append(str(params["exceptionDetails"]))
            elif event["method"] == "Log.entryAdded" and params["entry"]["level"] == "error":
                found.append(params["entry"]["text"] + " " + params["entry"].get("url", ""))
        return found
