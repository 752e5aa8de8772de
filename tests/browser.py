"""A page in headless Chromium, for tests: skipped where there is no browser."""

from contextlib import contextmanager
from pathlib import Path

import pytest

from bookkit.checks.browser import find_browser, running
from nodulebook.core.errors import InputError


@contextmanager
def opened(page: Path, folder: Path):
    """The page in a fresh browser; what it downloads comes into `folder`."""
    try:
        find_browser()
    except InputError as error:
        pytest.skip(str(error))
    with running(downloads=folder) as tab:
        tab.open(page)
        yield tab
