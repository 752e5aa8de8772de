"""A page in headless Chromium, over its DevTools protocol: no driver and no package needed."""

import asyncio
import base64
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tornado.websocket import WebSocketClientConnection, websocket_connect

from nodulebook.core.errors import InputError

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

TIMEOUT_S = 120
"""For one answer of the browser: long, for a machine that does other work too."""


def find_browser() -> str:
    """The browser's program: `NODULEBOOK_BROWSER`, or one of `NAMES` on the path.

    Raises:
        InputError: there is none.
    """
    given = os.environ.get("NODULEBOOK_BROWSER")
    found = given or next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        raise InputError(
            "no Chromium or Chrome here. On Debian and Ubuntu: apt-get install chromium; "
            "elsewhere NODULEBOOK_BROWSER=/path/to/chrome names one"
        )
    return found


class Page:
    """A tab of a running browser."""

    def __init__(self, socket: WebSocketClientConnection, loop: asyncio.AbstractEventLoop) -> None:
        """Take an open connection to the tab."""
        self.socket, self.loop, self.numbers = socket, loop, itertools.count(1)

    def call(self, method: str, **parameters: Any) -> Any:
        """The answer to a call of the DevTools protocol.

        Raises:
            RuntimeError: the browser refuses it, or does not answer.
        """
        number = next(self.numbers)

        async def ask() -> Any:
            message = {"id": number, "method": method, "params": parameters}
            await self.socket.write_message(json.dumps(message))
            while True:
                read = await asyncio.wait_for(self.socket.read_message(), TIMEOUT_S)
                if read is None:
                    raise RuntimeError(f"{method}: the browser has closed the page")
                answer = json.loads(read)
                if answer.get("id") == number:
                    return answer

        answer = self.loop.run_until_complete(ask())
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; a promise's, once it is there.

        Raises:
            RuntimeError: it throws.
        """
        result = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in result:
            raise RuntimeError(f"{script[:200]}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait(self, script: str, seconds: float = 60) -> Any:
        """Wait until a JavaScript expression is true.

        Raises:
            RuntimeError: it does not come true.
        """
        end = time.monotonic() + seconds
        while not (value := self.run(script)):
            if time.monotonic() > end:
                raise RuntimeError(f"still not so: {script}")
            time.sleep(0.05)
        return value

    def open(self, path: Path) -> None:
        """Open a file, and wait until it is loaded."""
        self.open_address(path.resolve().as_uri())

    def open_address(self, address: str) -> None:
        """Open an address, as `file:///...#label`, and wait until it is loaded."""
        # Away first: to another label of the same page would be no loading at all.
        self.call("Page.navigate", url="about:blank")
        self.wait("location.href === 'about:blank'")
        self.call("Page.navigate", url=address)
        self.wait("location.href !== 'about:blank' && document.readyState === 'complete'")
        if self.run("location.protocol") == "chrome-error:":
            raise RuntimeError(f"{address}: cannot be opened")

    def look(self, width: int, dark: bool, height: int = 900) -> None:
        """Make the window so many CSS pixels wide, in the light or the dark scheme."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        calm = {"name": "prefers-reduced-motion", "value": "reduce"}
        self.call("Emulation.setEmulatedMedia", features=[scheme, calm])

    def picture(self, path: Path) -> None:
        """Write what is in the window as PNG."""
        data = self.call("Page.captureScreenshot", format="png")["data"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(data))


@contextmanager
def running(downloads: Path | None = None) -> Iterator[Page]:
    """An empty tab of a fresh browser, which ends with the block.

    Args:
        downloads: the folder for what a page downloads.

    Raises:
        InputError: there is no browser.
        RuntimeError: it does not start.
    """
    program = find_browser()
    with tempfile.TemporaryDirectory(prefix="nodulebook-", ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [
                program, "--headless=new", "--no-sandbox", "--disable-gpu",
                "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-port=0",
                "--remote-allow-origins=*", "--hide-scrollbars", "--disable-background-networking",
                f"--user-data-dir={profile}", "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)  # tornado asks for the thread's own
        try:
            page = _connect(process, Path(profile), loop)
            if downloads is not None:
                page.call(
                    "Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads)
                )
            yield page
            page.socket.close()
        finally:
            process.kill()
            process.wait()
            asyncio.set_event_loop(None)
            loop.close()


def _connect(
    process: "subprocess.Popen[bytes]", profile: Path, loop: asyncio.AbstractEventLoop
) -> Page:
    end = time.monotonic() + TIMEOUT_S
    port_file = profile / "DevToolsActivePort"
    while not (port_file.is_file() and port_file.read_text().strip()):
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError("the browser did not start")
        time.sleep(0.05)
    port = port_file.read_text().splitlines()[0]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=60) as answer:
        tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
    address = tabs[0]["webSocketDebuggerUrl"]

    async def connect() -> WebSocketClientConnection:
        return await websocket_connect(address, max_message_size=1 << 28)

    return Page(loop.run_until_complete(connect()), loop)
