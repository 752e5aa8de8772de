"""A page in headless Chromium, over its DevTools protocol: no driver and no package needed."""

import asyncio
import itertools
import json
import os
import shutil
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from tornado.websocket import websocket_connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def browser() -> str:
    """The browser's program; the test is skipped where there is none."""
    given = os.environ.get("NODULEBOOK_BROWSER")
    found = given or next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium or Chrome here (NODULEBOOK_BROWSER names one)")
    return found


class Page:
    def __init__(self, socket, loop):
        self.socket, self.loop, self.numbers = socket, loop, itertools.count(1)

    def call(self, method, **parameters):
        number = next(self.numbers)

        async def ask():
            message = {"id": number, "method": method, "params": parameters}
            await self.socket.write_message(json.dumps(message))
            while True:
                answer = json.loads(await asyncio.wait_for(self.socket.read_message(), 60))
                if answer.get("id") == number:
                    return answer

        answer = self.loop.run_until_complete(ask())
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def run(self, script):
        """The value of a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, script, seconds=60):
        end = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < end, f"still not so: {script}"
            time.sleep(0.1)
        return value

    def open(self, path: Path):
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.wait("location.href.startsWith('file:') && document.readyState === 'complete'")


@contextmanager
def opened(page: Path, folder: Path):
    """The page in a fresh browser; what it downloads comes into `folder`."""
    profile = folder / "profile"
    process = subprocess.Popen(
        [
            browser(), "--headless=new", "--no-sandbox", "--disable-gpu",
            "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-port=0",
            "--remote-allow-origins=*", f"--user-data-dir={profile}", "about:blank",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    loop = asyncio.new_event_loop()
    try:
        end = time.monotonic() + 60
        port_file = profile / "DevToolsActivePort"
        while not (port_file.is_file() and port_file.read_text().strip()):
            assert process.poll() is None and time.monotonic() < end, "the browser did not start"
            time.sleep(0.1)
        port = port_file.read_text().splitlines()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=30) as answer:
            tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
        address = tabs[0]["webSocketDebuggerUrl"]

        async def connect():
            return await websocket_connect(address, max_message_size=1 << 28)

        socket = loop.run_until_complete(connect())
        tab = Page(socket, loop)
        tab.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
        tab.open(page)
        yield tab
        socket.close()
    finally:
        process.kill()
        process.wait()
        loop.close()
