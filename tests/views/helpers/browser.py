"""A headless Chromium, told what to do through a pipe; no driver and no port."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
LIMIT = 60.0
"""Seconds to wait for an answer."""


def executable() -> str | None:
    """Where a Chromium is; None if there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One page of a browser; `events` are what the page did."""

    def __init__(self) -> None:
        self.profile = tempfile.mkdtemp(prefix="vaepipe-browser-")
        theirs, self._out = os.pipe()
        self._in, back = os.pipe()
        command = [executable(), "--headless", "--no-sandbox", "--disable-gpu",
                   "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run",
                   "--remote-debugging-pipe", f"--user-data-dir={self.profile}"]  # fmt: skip

        def place() -> None:
            first, second = os.dup(theirs), os.dup(back)
            os.dup2(first, 3)
            os.dup2(second, 4)

        self.process = subprocess.Popen(
            command, preexec_fn=place, close_fds=False, stderr=subprocess.DEVNULL
        )
        os.close(theirs)
        os.close(back)
        self.number, self.session, self.events, self._held = 0, None, [], b""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        answer = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = answer["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params):
        """Send a command and wait for its answer."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            got = self._next()
            if got.get("id") == self.number:
                assert "error" not in got, got
                return got["result"]
            self.events.append(got)
        raise TimeoutError(method)

    def open(self, path) -> None:
        """Load a file and wait until it has loaded."""
        self.events.clear()
        self.call("Page.navigate", url=path.absolute().as_uri())
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(self._next())

    def show(self, width: int, height: int = 900, media: str = "", **features: str) -> None:
        """The window, and what the reader prefers: `scheme`, `motion`."""
        phone = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=phone)  # fmt: skip
        names = {"scheme": "prefers-color-scheme", "motion": "prefers-reduced-motion"}
        asked = [{"name": names[k], "value": v} for k, v in features.items()]
        self.call("Emulation.setEmulatedMedia", media=media, features=asked)

    def ask(self, expression: str):
        """The value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def picture(self) -> bytes:
        """The whole page as PNG."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(answer["data"])

    def paper(self) -> bytes:
        """The page as it prints, as PDF."""
        return base64.b64decode(self.call("Page.printToPDF")["data"])

    def happened(self, method: str) -> list[dict]:
        """Parameters of the events of a kind since the page was opened."""
        return [e["params"] for e in self.events if e.get("method") == method]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for end in (self._in, self._out):
            with suppress(OSError):
                os.close(end)
        shutil.rmtree(self.profile, ignore_errors=True)

    def _next(self) -> dict:
        while b"\0" not in self._held:
            data = os.read(self._in, 1 << 16)
            if not data:
                raise EOFError("the browser ended")
            self._held += data
        message, _, self._held = self._held.partition(b"\0")
        return json.loads(message)
