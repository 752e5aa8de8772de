"""The system's Chromium or Chrome, driven by playwright."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Page, sync_playwright

from nodulebook.core.errors import InputError

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


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


@contextmanager
def running() -> Iterator[Page]:
    """An empty tab of a fresh browser, which ends with the block.

    Raises:
        InputError: there is no browser.
    """
    program = find_browser()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        )
        page = browser.new_page(reduced_motion="reduce")
        page.set_default_timeout(120_000)  # a machine that does other work too
        yield page
        browser.close()


def show(page: Page, address: str, width: int, scheme: str) -> None:
    """Open an address in a window so many CSS pixels wide, in the light or the dark scheme."""
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.goto(address)


def switch(page: Page, scheme: str) -> None:
    """Show the open page in the other scheme, as on a device that changes in the evening."""
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    # The page's script is told in the next frame.
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => "
                  "requestAnimationFrame(done)))")  # fmt: skip
