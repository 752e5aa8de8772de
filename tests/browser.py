"""A page in headless Chromium, for tests: skipped where there is no browser."""

from contextlib import contextmanager
from pathlib import Path

import pytest

from bookkit.checks.browser import find_browser, running
from nodulebook.core.errors import InputError


@contextmanager
def opened(page: Path):
    """The page in a fresh browser."""
    try:
        find_browser()
    except InputError as error:
        pytest.skip(str(error))
    with running() as tab:
        tab.goto(page.resolve().as_uri())
        yield tab
