"""A headless Chromium, spoken to over the WebDriver protocol that its own driver serves; nothing to install besides."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--hide-scrollbars"]  # fmt: skip


def missing() -> str:
    """What is not installed, in words; "" when all is there."""
    absent = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"no {' and no '.join(absent)} on this machine" if absent else ""


class Browser:
    """`with Browser(folder) as b: b.open(file); b.run("return document.title")`."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __enter__(self) -> "Browser":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL)
        self.address = f"http://127.0.0.1:{port}"
        for _ in range(100):
            try:
                if self.call("GET", "/status")["ready"]:
                    break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
        options = {"binary": shutil.which("chromium"), "args": [*FLAGS, f"--user-data-dir={self.folder}"]}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options,
                  "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}  # fmt: skip
        made = self.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.session = f"/session/{made['sessionId']}"
        return self

    def __exit__(self, *exc: Any) -> None:
        self.call("DELETE", self.session)
        self.driver.terminate()
        self.driver.wait()

    def call(self, verb: str, path: str, body: dict | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"}, method=verb)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def devtools(self, command: str, **params: Any) -> Any:
        return self.call("POST", self.session + "/goog/cdp/execute", {"cmd": command, "params": params})

    def look(self, width: int, dark: bool = False, height: int = 900) -> None:
        """The size of the window and the colours that the reader prefers."""
        self.devtools("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                      mobile=width < 600)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, file: Path) -> None:
        self.call("POST", self.session + "/url", {"url": file.resolve().as_uri()})

    def run(self, script: str, *args: Any) -> Any:
        return self.call("POST", self.session + "/execute/sync", {"script": script, "args": list(args)})

    def console(self) -> list[dict]:
        return self.call("POST", self.session + "/se/log", {"type": "browser"})

    def requests(self) -> list[str]:
        """Addresses that pages asked for since the last look; the browser's own start page is none of them."""
        messages = [json.loads(e["message"])["message"] for e in
                    self.call("POST", self.session + "/se/log", {"type": "performance"})]  # fmt: skip
        asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [address for address in asked if not address.startswith("chrome:")]

    def picture(self, file: Path, whole: bool = True) -> None:
        shot = self.devtools("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        file.write_bytes(base64.b64decode(shot))
