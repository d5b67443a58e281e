"""A headless Chromium, driven by the WebDriver protocol (W3C) that chromedriver speaks."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.live.service import free_port, until

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's name for "this is an element"
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
)


class Browser:
    """One browser with one window. folder: for its profile."""

    def __init__(self, folder: Path, *, width: int = 1200, height: int = 900) -> None:
        driver = shutil.which("chromedriver")
        assert driver is not None, "chromedriver is not installed: ./dev test installs chromium-driver"
        self._url = f"http://127.0.0.1:{(port := free_port())}"
        self._log = (folder / "chromedriver.log").open("wb")
        self._driver = subprocess.Popen(
            [driver, f"--port={port}"], stdout=self._log, stderr=self._log, start_new_session=True
        )
        self._session = ""
        self._options = {
            "binary": shutil.which("chromium"),
            "args": [*FLAGS, f"--window-size={width},{height}", f"--user-data-dir={folder / 'profile'}"],
        }

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        data = None if method != "POST" else json.dumps(body or {}).encode()
        request = urllib.request.Request(
            f"{self._url}{path}", data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read())["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()[:2000]) from None

    def _started(self) -> bool:
        try:
            return bool(self._ask("GET", "/status")["ready"])
        except OSError:
            return False

    def __enter__(self) -> Browser:
        until(self._started, "chromedriver")
        always = {"browserName": "chrome", "goog:chromeOptions": self._options, "goog:loggingPrefs": {"browser": "ALL"}}
        made = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": always}})
        self._session = f"/session/{made['sessionId']}"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._session:
            self._ask("DELETE", self._session)
        os.killpg(self._driver.pid, signal.SIGKILL)
        self._driver.wait()
        self._log.close()

    def open(self, url: str) -> None:
        """Goes there and waits until it is loaded."""
        self._ask("POST", f"{self._session}/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns."""
        return self._ask("POST", f"{self._session}/execute/sync", {"script": script, "args": arguments})

    def find(self, selector: str) -> str | None:
        """An element that can be seen."""
        made = self.run(
            "return [...document.querySelectorAll(arguments[0])].find((e) => e.checkVisibility())", selector
        )
        return made[ELEMENT] if made else None

    def wait(self, selector: str, text: str = "") -> str:
        """Waits until an element can be seen that has the text."""

        def there() -> str | None:
            found = self.find(selector)
            return found if found and text in self.text(selector) else None

        found: str = until(there, f"{selector} with {text!r}: {self.text('body')[:500]}")
        return found

    def text(self, selector: str) -> str:
        """What all elements of a kind say."""
        script = "return [...document.querySelectorAll(arguments[0])].map((e) => e.innerText).join('\\n')"
        return str(self.run(script, selector))

    def click(self, selector: str) -> None:
        """As a person would: it must be there to be hit."""
        self._act(selector, "click", {})

    def type(self, selector: str, text: str) -> None:
        """Types into a field."""
        self._act(selector, "value", {"text": text})

    def _act(self, selector: str, what: str, body: dict[str, str]) -> None:
        """Does something to an element; again, if the page has put another one in its place meanwhile."""

        def done() -> bool:
            try:
                self._ask("POST", f"{self._session}/element/{self.wait(selector)}/{what}", body)
            except AssertionError as error:
                if "stale element" not in str(error):
                    raise
                return False
            return True

        until(done, f"{what} of {selector}")

    def picture(self, file: Path) -> None:
        """What the window shows, as a PNG."""
        file.write_bytes(base64.b64decode(self._ask("GET", f"{self._session}/screenshot")))

    def size(self, width: int, height: int) -> None:
        """Makes the window so large."""
        self._ask("POST", f"{self._session}/window/rect", {"width": width, "height": height})

    def scheme(self, word: str) -> None:
        """Prefers `light` or `dark`."""
        feature = {"name": "prefers-color-scheme", "value": word}
        command = {"cmd": "Emulation.setEmulatedMedia", "params": {"features": [feature]}}
        self._ask("POST", f"{self._session}/goog/cdp/execute", command)

    def complaints(self) -> list[str]:
        """What the console of the browser has said since it was asked last: errors of scripts, refused by policy."""
        return [entry["message"] for entry in self._ask("POST", f"{self._session}/se/log", {"type": "browser"})]
