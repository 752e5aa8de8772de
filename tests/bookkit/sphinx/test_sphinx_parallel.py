"""Cells are executed some pages at a time, and the book is the same."""

import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sphinx.application import Sphinx

from bookkit.sphinx import parallel as sphinx_parallel
from bookkit.sphinx.parallel import dealt


@given(st.sets(st.text("abc", min_size=1)), st.integers(1, 5), st.data())
def test_each_process_gets_as_many_pages_with_cells(
    names: set[str], hands: int, data: st.DataObject
) -> None:
    pages = sorted(names)
    executed = data.draw(st.sets(st.sampled_from(pages))) if pages else set()
    order = dealt(pages, executed, hands)
    assert sorted(order) == pages
    ends = [0]
    for hand in range(hands):
        ends.append(ends[-1] + len(range(hand, len(pages), hands)))
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
    monkeypatch.setattr(sphinx_parallel, "UNDECLARED", ("says_nothing", "not_loaded"))
    others = ["says_nothing"]
    plain = built(tmp_path / "plain", others, monkeypatch)
    asked: list[str] = []
    allowed = Sphinx.is_parallel_allowed

    def asks(app: Sphinx, kind: str) -> bool:
        answer = allowed(app, kind)
        asked.append(f"{kind} {answer}")
        return answer

    monkeypatch.setattr(Sphinx, "is_parallel_allowed", asks)
    both = built(tmp_path / "both", [*others, sphinx_parallel.__name__], monkeypatch)
    assert plain.parallel == 1 and both.parallel == 2 and "read True" in asked
    for page in Path(plain.outdir).glob("*.html"):
        again = Path(both.outdir) / page.name
        assert again.read_text() == page.read_text(), page.name
