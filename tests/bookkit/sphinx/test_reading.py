"""A page is built again if what it is computed from has changed; pages are read side by side."""

import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sphinx.application import Sphinx

from bookkit.sphinx import reading
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
    reading._files.cache_clear()
    reading._imported.cache_clear()
    try:
        return reading.page_digest(page, artefacts)
    finally:
        reading._files.cache_clear()
        reading._imported.cache_clear()


def test_modules_behind_a_page_count_and_others_do_not(root: Path) -> None:
    first = digest()
    (root / "lib" / "nodulebook" / "core" / "other.py").write_text("B = 2\n")
    assert digest() == first
    (root / "lib" / "nodulebook" / "core" / "files.py").write_text("A = 2\n")
    assert digest() != first


def test_committed_files_count_where_there_are_cells(root: Path) -> None:
    assert digest(artefacts="a") != digest(artefacts="b")
    assert digest("# Words\n", "a") == digest("# Words\n", "b")


@given(st.sets(st.text("abc", min_size=1)), st.integers(1, 5), st.data())
def test_each_process_gets_as_many_pages_with_cells(
    names: set[str], workers: int, data: st.DataObject
) -> None:
    pages = sorted(names)
    executed = data.draw(st.sets(st.sampled_from(pages))) if pages else set()
    order = reading.dealt(pages, executed, workers)
    assert sorted(order) == pages
    ends = [0]
    for worker in range(workers):
        ends.append(ends[-1] + len(range(worker, len(pages), workers)))
    shares = [executed & set(order[a:b]) for a, b in pairwise(ends)]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def built(folder: Path, extensions: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> Sphinx:
    """A book of eight pages whose headings are numbered and that refer to each other."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    source = folder / "source"
    source.mkdir(parents=True)
    names = [f"p{k}" for k in range(7)]
    toc = "\n".join(f"   {name}" for name in names)
    (source / "index.rst").write_text(f"Front\n=====\n\n.. toctree::\n   :numbered:\n\n{toc}\n")
    for name, other in zip(names, names[1:] + names[:1], strict=True):
        text = f".. _{name}:\n\nPage {name}\n=======\n\nSee :ref:`{other}`.\n"
        (source / f"{name}.rst").write_text(text)
    out = folder / "out"
    app = Sphinx(
        source, None, out, folder / "trees", "html",
        confoverrides={"extensions": list(extensions)}, status=None, warning=None, parallel=1,
    )  # fmt: skip
    app.build()
    return app


def test_the_pages_are_those_of_a_build_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = ModuleType("says_nothing")
    silent.setup = lambda app: {}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "says_nothing", silent)
    monkeypatch.setattr(reading, "UNDECLARED", ("says_nothing", "not_loaded"))
    others = ["says_nothing"]
    plain = built(tmp_path / "plain", others, monkeypatch)
    asked: list[str] = []
    allowed = Sphinx.is_parallel_allowed

    def asks(app: Sphinx, kind: str) -> bool:
        answer = allowed(app, kind)
        asked.append(f"{kind} {answer}")
        return answer

    monkeypatch.setattr(Sphinx, "is_parallel_allowed", asks)
    both = built(tmp_path / "both", [*others, reading.__name__], monkeypatch)
    assert plain.parallel == 1 and both.parallel == 2 and "read True" in asked
    for page in Path(plain.outdir).glob("*.html"):
        again = Path(both.outdir) / page.name
        assert again.read_text() == page.read_text(), page.name
