"""A headless Chromium that a test drives through its DevTools protocol, over a pipe: no driver and no package beyond the browser."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

# Chromium reads commands from descriptor 3 and writes answers to 4, each message ended by a NUL
_START = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"


class Chromium:
    """One browser with one tab. `folder` takes its profile, and what pages save goes to folder/saved."""

    def __init__(self, program: str, folder: Path) -> None:
        commands, self._to = os.pipe()
        answers, said = os.pipe()
        self.saved = folder / "saved"
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe", f"--user-data-dir={folder / 'profile'}"]
        start = [sys.executable, "-c", _START, str(commands), str(said), program, *flags, "about:blank"]
        self._process = subprocess.Popen(start, pass_fds=(commands, said), stderr=subprocess.DEVNULL)
        os.close(commands)
        os.close(said)
        self._from = os.fdopen(answers, "rb", buffering=0)
        self._read, self._number, self._session = b"", 0, ""
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.saved), eventsEnabled=True)
        tab = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
        self.call("Page.enable")

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            more = self._from.read(1 << 20)
            assert more, "the browser has ended"
            self._read += more
        message, _, self._read = self._read.partition(b"\0")
        return json.loads(message)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """What a command of the protocol gives."""
        self._number += 1
        session = {"sessionId": self._session} if self._session else {}
        said = json.dumps({"id": self._number, "method": method, "params": params, **session}).encode() + b"\0"
        while said:
            said = said[os.write(self._to, said) :]
        while (told := self._next()).get("id") != self._number:
            pass
        assert "error" not in told, f"{method}: {told['error']}"
        return told["result"]

    def wait(self, method: str) -> None:
        """Until this event of the protocol."""
        while self._next().get("method") != method:
            pass

    def open(self, page: Path | str, width: int = 1280, dark: bool = False) -> None:
        """Show a file, or what is at an address, at a width in px, from its beginning."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.call("Page.navigate", url=page if isinstance(page, str) else page.resolve().as_uri())
        self.wait("Page.loadEventFired")

    def js(self, expression: str) -> Any:
        """The value of an expression on the page."""
        told = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def click(self, selector: str, number: int = 0) -> None:
        """A click with the mouse in the middle of an element: what lies over it takes the click."""
        place = f"document.querySelectorAll({json.dumps(selector)})[{number}]"
        self.js(f"{place}.scrollIntoView({{block: 'center'}})")
        x, y = self.js(f"(r => [r.x + r.width / 2, r.y + r.height / 2])({place}.getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """A key, down and up."""
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def write(self, text: str) -> None:
        """Text into the element that has the focus."""
        self.call("Input.insertText", text=text)

    def close(self) -> None:
        """End the browser."""
        self._process.terminate()
        self._process.wait()
        self._from.close()
        os.close(self._to)
