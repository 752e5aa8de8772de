"""A page is built again if what it is computed from has changed, and only then."""

from pathlib import Path

import pytest

from bookkit.sphinx import outdated
from nodulebook.core import paths

PAGE = """# Page

```{code-cell} ipython3
:tags: [remove-cell]

%matplotlib inline
from nodulebook.stats import metrics
```
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with two modules of which the page's cell needs one, through the other."""
    for name, text in (
        ("nodulebook/__init__", ""),
        ("nodulebook/stats/__init__", ""),
        ("nodulebook/stats/metrics", "def auc():\n    from nodulebook.core import files\n"),
        ("nodulebook/core/__init__", ""),
        ("nodulebook/core/files", "A = 1\n"),
        ("nodulebook/core/other", ""),
    ):
        path = tmp_path / "lib" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    return tmp_path


def digest(page: str = PAGE, artefacts: str = "a") -> str:
    outdated._files.cache_clear()
    outdated._imported.cache_clear()
    try:
        return outdated.page_digest(page, artefacts)
    finally:
        outdated._files.cache_clear()
        outdated._imported.cache_clear()


def test_modules_behind_a_page_count_and_others_do_not(root: Path) -> None:
    first = digest()
    (root / "lib" / "nodulebook" / "core" / "other.py").write_text("B = 2\n")
    assert digest() == first
    (root / "lib" / "nodulebook" / "core" / "files.py").write_text("A = 2\n")
    assert digest() != first


def test_committed_files_count_where_there_are_cells(root: Path) -> None:
    assert digest(artefacts="a") != digest(artefacts="b")
    assert digest("# Words\n", "a") == digest("# Words\n", "b")
