"""A real browser for tests: Chromium, told what to do over chromedriver's own HTTP interface."""

import base64
import json
import re
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

SWITCHES = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
    "--disable-background-networking", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--proxy-server=127.0.0.1:9",  # whatever would leave the machine finds a closed door
)  # fmt: skip

PATIENCE = 60.0
"""Seconds to wait for anything."""


class Browser:
    """One session. Scripts run in the page; logs hold what it said and asked for."""

    def __init__(self, address: str, profile: str) -> None:
        self.address = address
        options = {"binary": CHROMIUM, "args": [*SWITCHES, f"--user-data-dir={profile}"]}
        wanted = {
            "browserName": "chrome", "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }  # fmt: skip
        made = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.address = f"{address}/session/{made['sessionId']}"
        self._call("POST", "/url", {"url": "about:blank"})
        self.log("performance")  # of the browser's own first page

    def open(self, path: Path, width: int = 1100, height: int = 900) -> None:
        """Load a file and wait until it says that its charts are drawn."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.devtools("Emulation.setDeviceMetricsOverride", size)
        self._call("POST", "/url", {"url": path.resolve().as_uri()})
        limit = time.monotonic() + PATIENCE
        while self.run("return document.documentElement.dataset.charts") != "drawn":
            assert time.monotonic() < limit, f"the charts of {path} were not drawn: {self.log('browser')}"
            time.sleep(0.05)

    def run(self, script: str, *arguments: Any) -> Any:
        """The value that a script in the page returns."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def devtools(self, command: str, parameters: dict[str, Any]) -> Any:
        """A command of the DevTools protocol."""
        return self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def log(self, kind: str) -> list[dict[str, Any]]:
        """What was logged since the last call: "browser" (the console), "performance" (requests)."""
        found: list[dict[str, Any]] = self._call("POST", "/se/log", {"type": kind})
        return found

    def requests(self) -> list[str]:
        """Addresses that were asked for since the last call."""
        messages = (json.loads(entry["message"])["message"] for entry in self.log("performance"))
        return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]

    def picture(self, path: Path) -> None:
        """The whole page as PNG."""
        size = self.devtools("Page.getLayoutMetrics", {})["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.devtools("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        """End the session, and with it the browser."""
        self._call("DELETE", "")

    def _call(self, method: str, place: str, content: dict[str, Any] | None = None) -> Any:
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(
            self.address + place, data, {"Content-Type": "application/json"}, method=method
        )
        # No proxy of the environment: the driver is on this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=PATIENCE) as answer:
            return json.load(answer)["value"]


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser with a profile of its own, gone at the end."""
    assert DRIVER is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        driver = subprocess.Popen(
            [DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            assert driver.stdout is not None
            port = next(found[1] for line in driver.stdout if (found := re.search(r"on port (\d+)\.", line)))
            browser = Browser(f"http://127.0.0.1:{port}", profile)
            try:
                yield browser
            finally:
                browser.close()
        finally:
            driver.terminate()
            driver.wait(PATIENCE)
