"""What `nodulebook check` looks at: each check finds what it is for, on small made pages."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from bookkit.checks import links, looks, numbers, reader, run, spelling
from bookkit.checks.browser import find_browser
from bookkit.checks.prose import Line, read_prose
from bookkit.ledger import claims
from browser import opened
from nodulebook.core import paths
from nodulebook.core.errors import InputError

PAGE = """---
jupytext: 0.13 teh
---
(a-label)=
# Title with 1,234

Text with {term}`a nodule <Nodule>`, `code 0.5`, $x = 0.7$ and [words](https://x.org/0.123).

```{code-cell} ipython3
---
tags: [remove-cell]
---
value = 0.99  # teh
caption = "A caption of three words, 0.25"
```

```bash
make 0.333
```

:::{glue:figure} a-figure
:name: fig-1.5

Below the figure 2.5 mm
:::
"""


def prose_of(text: str, folder: Path) -> list[Line]:
    (folder / "page.md").write_text(text)
    return read_prose(folder / "page.md", folder)


def test_prose_is_what_a_reader_reads(tmp_path: Path) -> None:
    lines = {line.number: line.text.strip() for line in prose_of(PAGE, tmp_path)}
    assert lines[5] == "Title with 1,234"
    assert lines[7].split() == ["Text", "with", "a", "nodule,", ",", "and", "words."]
    assert lines[14] == "A caption of three words, 0.25"
    assert lines[24] == "Below the figure 2.5 mm"
    assert set(lines) == {5, 7, 14, 24}
    assert prose_of(PAGE, tmp_path)[0].where == "page.md:5"


def test_prose_of_a_page_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        read_prose(tmp_path / "nowhere.md", tmp_path)


# ----------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("an accuracy of 97.08% and 0.9664", ["97.08 %", "0.9664"]),
        ("1,230 nodules in 888 scans", ["1,230", "888"]),
        ("ten folds of 32 mm, 3 readers", []),
        ("sections 3.1.1 and 5.1, Tables 3 and 4, Fig. 9, Eq. 11", []),
        ("LUNA16, LIDC-IDRI-0003, ResNet-50, pylidc 0.2.3, in 2016", []),
        ("AUC 0.91 (0.90 to 0.92).", ["0.91", "0.90", "0.92"]),
        ("an AUC of .91, see results.md or e.g. 3.", [".91"]),
    ],
)
def test_numbers_that_need_a_source(text: str, found: list[str]) -> None:
    assert numbers.numbers_of(text) == found


def allowed(**changed: object) -> numbers.Typed:
    entry = {"pages": ["a.md"], "numbers": ["0.5"], "whose": "choice", "why": "threshold"}
    return numbers.Typed.model_validate(entry | changed)


def test_a_typed_number_is_found_unless_its_page_may_have_it() -> None:
    lines = [Line("a.md", 3, "below 0.5"), Line("b.md", 4, "and 0.5")]
    found = numbers.typed_numbers(lines, [allowed()], "list.yml")
    assert len(found) == 1 and found[0].startswith("b.md:4: '0.5' is typed")


def test_an_entry_that_no_page_needs_is_found() -> None:
    found = numbers.typed_numbers([], [allowed()], "list.yml")
    assert found == ["list.yml: '0.5' is not in the prose of a.md (any more)"]


def test_a_typed_number_of_rows_is_counted(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("x\n" + "1\n" * 1200)
    right = allowed(whose="table", rows_of="t.csv", numbers=["1,200"])
    wrong = allowed(whose="table", rows_of="t.csv", numbers=["1,201"])
    assert numbers.wrong_row_counts([right], tmp_path) == []
    assert "t.csv has 1,200 rows" in numbers.wrong_row_counts([wrong], tmp_path)[0]
    assert numbers.wrong_row_counts([allowed(whose="table")], tmp_path)


def test_the_list_of_typed_numbers_is_checked(tmp_path: Path) -> None:
    (tmp_path / "list.yml").write_text("- {pages: [a.md], numbers: ['1'], whose: mine, why: none}")
    with pytest.raises(InputError, match=r"list\.yml"):
        numbers.read_typed(tmp_path / "list.yml")


def test_no_number_of_the_book_is_typed_unlisted() -> None:
    typed = numbers.read_typed(paths.ROOT / run.TYPED)
    assert numbers.typed_numbers(run.all_prose(), typed, run.TYPED) == []
    assert numbers.wrong_row_counts(typed, paths.ROOT) == []


def test_numbers_said_to_be_the_papers_are_in_the_paper() -> None:
    paper = Path(os.environ.get("NODULEBOOK_DATA", "/nowhere")).parent / "paper" / "paper.txt"
    if not paper.is_file():
        pytest.skip("the paper's text is not here")
    text = paper.read_text(encoding="utf-8").replace(",", "")
    listed = yaml.safe_load((paths.ROOT / run.TYPED).read_text(encoding="utf-8"))
    for entry in listed:
        if entry["whose"] == "paper":
            for number in entry["numbers"]:
                assert number.removesuffix(" %").replace(",", "") in text, (number, entry["why"])


# ----------------------------------------------------------------------------------- spelling


def test_misspelt_words_are_found_and_names_are_not() -> None:
    text = "Teh nodules of LUNA16, isn't MyST's; a pylidc_x and 3rd colour."
    lines = [Line("a.md", 1, text), Line("a.md", 1, "nodlue"), Line("b.md", 1, "nodlue")]
    assert spelling.misspelt(lines, set()) == [
        "a.md:1 and 1 more: 'nodlue' is in no dictionary; mend it, or add it to data/words.txt",
        "a.md:1: 'Teh' is misspelt: the",
    ]


@pytest.mark.parametrize("word", ["normalize", "color", "tumors", "labeled", "gray", "analyzed"])
def test_american_spelling_is_found(word: str) -> None:
    assert "is American" in spelling.misspelt([Line("a.md", 1, f"we {word} it")], set())[0]


@pytest.mark.parametrize("word", ["size", "sized", "parameter", "seizes", "labelled", "grey"])
def test_these_are_not_american(word: str) -> None:
    assert spelling.misspelt([Line("a.md", 1, f"we {word} it")], set()) == []


def test_own_words_are_known_and_must_be_used(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("# ours\nMish  # a function\nvoxel\n")
    words = spelling.read_words(tmp_path / "words.txt")
    assert words == {"Mish", "voxel"}
    found = spelling.misspelt([Line("a.md", 1, "a Voxel of it")], words)
    assert found == ["data/words.txt: 'Mish' is not used (any more)"]
    (tmp_path / "words.txt").write_text("one\none\n")
    with pytest.raises(InputError, match="twice"):
        spelling.read_words(tmp_path / "words.txt")


# ----------------------------------------------------------------------------------- links


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.html").write_text('<h1 id="there">B</h1><a href="../a.html#x">a</a>')
    (tmp_path / "a.html").write_text('<p id="x"><a href="sub/b.html#there">b</a>')
    return tmp_path


def test_links_that_lead_somewhere(site: Path) -> None:
    findings, looked_at = links.check_links(site)
    assert findings == [] and looked_at.startswith("2 links within 2 pages")


@pytest.mark.parametrize(
    ("html", "said"),
    [
        ('<a href="nowhere.html">', "'nowhere.html' leads to no file"),
        ('<a href="sub/b.html#gone">', "leads to a place that is not on that page"),
        ('<a href="#gone">', "leads to a place that is not on that page"),
        ('<img src="gone.png">', "'gone.png' leads to no file"),
        ('<i id="x">', "the id 'x' occurs twice"),
        ('<a href="http://localhost/x">', "is no address of a server"),
        ('<a href="https://no-server">', "is no address of a server"),
    ],
)
def test_a_link_that_leads_nowhere_is_found(site: Path, html: str, said: str) -> None:
    page = site / "a.html"
    page.write_text(page.read_text() + html)
    findings, _ = links.check_links(site)
    assert len(findings) == 1 and findings[0].startswith("a.html: ") and said in findings[0]


# ----------------------------------------------------------------------------------- browser

GOOD = """<!doctype html><html lang="en" data-theme="light"><title>t</title><main><h1>t</h1>
<p style="color:#000;background:#fff">words</p></main>"""


def test_looks_find_what_keeps_people_out(tmp_path: Path) -> None:
    """Low contrast, a picture without words, an overflow and a page too heavy, in one browser."""
    page, data = tmp_path / "page.html", tmp_path / "data.css"
    data.write_text("/*" + "x" * 5000 + "*/")
    page.write_text(GOOD)
    with opened(page) as tab:
        assert looks.axe_findings(tab) == looks.too_wide(tab) == []
        assert looks.look_at(tab, page, "p", 2000) == ([], page.stat().st_size)
        page.write_text(
            GOOD + "<link rel=stylesheet href=data.css><article>"
            "<p style='color:#ccc;background:#fff'>pale</p>"
            "<p style='color:#fff;background:#fff'>white</p>"
            "<img src=gone.png><figure><img src=data:, alt=numbered><figcaption>"
            "<span class=caption-number>Fig. 1</span></figcaption></figure>"
            "<figure><pre>&lt;Figure size 640x480 with 1 Axes&gt;</pre></figure>"
            "<div style='width:9000px;height:3px'>"
        )
        findings, weight = looks.look_at(tab, page, "p", 5000)
        assert weight == page.stat().st_size + data.stat().st_size
        text = "\n".join(findings)
        for words in ("pale", "white", "image-alt", "9008 px wide", "<div", "data.css 0.01 MB",
                      "text, not a picture: <Figure size", "gone.png does not load",
                      "gone.png is in no numbered"):  # fmt: skip
            assert words in text, words
        assert "numbered is in no" not in text
        assert "image-alt" not in " ".join(looks.axe_findings(tab, looks.COLOUR_RULES))


def test_tall_pages_squeezed_cells_and_tables_without_figures_are_found(tmp_path: Path) -> None:
    page, table = tmp_path / "page.html", "<table><tr><td>one</td></tr></table>"
    figure = "<figure><figcaption class=caption-number>Fig. 1</figcaption></figure>"
    thin = "<td style='width:1em;display:block;overflow-wrap:anywhere'>letter by letter</td>"
    cases = {
        figure + 2 * table: "",
        figure + 3 * table: "3 tables and 1 figures",
        table: "1 tables and 0 figures",
        "<p>no tables</p>": "",
        f"{figure}<table><tr><td>{table}</td><td>words that have room</td></tr></table>": "",
        f"{figure}<table><tr>{thin}</tr></table>": "too narrow for its words: letter",
        "<p style='height:12000px'>much</p>": "px tall, at most 12,000",
        "<p style='height:11000px'>less</p>": "",
        f"{figure}<div tabindex=0 style='overflow:auto;width:99px'>"
        "<table><tr><td style='min-width:200px'>a long cell": "cut off in print: a long",
        "<details><pre>" + 200 * "x" + "</pre></details>": "cut off in print: xxx",
        f"<details><pre style='white-space:pre-wrap;overflow-wrap:anywhere'>{200 * 'x'}": "",
    }
    page.write_text(GOOD)
    with opened(page) as tab:
        for body, words in cases.items():
            page.write_text(f"{GOOD}<article>{body}</article>")
            findings, _ = looks.look_at(tab, page, "p", 9999, shows=True)
            assert all(words in line for line in findings) and bool(findings) == bool(words), body
        page.write_text(f"{GOOD}<article>{table}<p style='height:99999px'></article>")
        assert looks.look_at(tab, page, "p", 9999, long=True)[0] == []


def test_a_result_beyond_the_edge_of_a_phone_is_found(tmp_path: Path) -> None:
    heads = {"AUC": "0.9", "value": "0.9 (0.8 to 0.95)", "share": "0.5", "what": "words"}
    box = "<div tabindex=0 style='overflow-x:auto;width:300px'>"
    wide = "style='min-width:300px;display:inline-block'"

    def body(head: str, first: bool, folded: bool = False) -> str:
        order = ["name", head, "other"] if first else ["name", "other", head]
        cells = "".join(f"<th {wide if one == 'other' else ''}>{one}</th>" for one in order)
        values = "".join(f"<td>{heads.get(one, 'x')}</td>" for one in order)
        table = f"<table><thead><tr>{cells}</tr></thead><tbody><tr>{values}</tr></tbody></table>"
        shown = f"{box}{table}</div>"
        return f"<details><summary>s</summary>{shown}</details>" if folded else shown

    page = tmp_path / "page.html"
    page.write_text(GOOD)
    with opened(page) as tab:
        tab.set_viewport_size({"width": 390, "height": 800})
        for head, first, folded, found in (
            ("AUC", False, False, True), ("AUC", True, False, False), ("AUC", False, True, True),
            ("value", False, False, True), ("value", True, True, False),
            ("what", False, False, False), ("share", False, False, False),
        ):  # fmt: skip
            tab.set_content(f"{GOOD}<article>{body(head, first, folded)}</article>")
            assert bool(looks.out_of_sight(tab)) == found, (head, first, folded)
            assert not tab.locator("details[open]").count()


def test_colours_of_a_narrow_window_and_of_the_dark_are_looked_at(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        GOOD + "<style>.d { display: none; color: #bbb } @media (max-width: 500px) { "
        ".a { color: #ccc } .c { opacity: .3 } .d { display: block } } "
        "@media (prefers-color-scheme: dark) { .b { background: #555 } }</style>"
        "<p class=a>pale</p><div class=b><p style='color:#333'>dim</p></div>"
        "<div class=c><p>faint</p></div><p class=d>hidden</p><p>plain</p>"
    )
    with opened(page) as tab:
        findings, _ = looks.look_at(tab, page, "p", 9999)
    found = {
        (where, word)
        for line in findings
        for where in ("1280 px, light", "1280 px, dark", "390 px, light", "390 px, dark")
        for word in ("pale", "dim", "faint", "hidden", "plain")
        if f", {where}:" in line and word in line
    }
    narrow = {(f"390 px, {s}", w) for s in ("light", "dark") for w in ("pale", "faint", "hidden")}
    assert found == narrow | {("1280 px, dark", "dim"), ("390 px, dark", "dim")}


def test_a_scheme_that_a_script_sets_is_looked_at(tmp_path: Path) -> None:
    """As the book's theme does: at loading, and when the device's scheme changes."""
    page = tmp_path / "page.html"
    page.write_text(
        GOOD + "<style>.dark p { background: #555 !important }</style><p>dim</p><script>"
        "const dark = matchMedia('(prefers-color-scheme: dark)');"
        "const set = () => document.body.classList.toggle('dark', dark.matches);"
        "set(); dark.onchange = set;</script>"
    )
    with opened(page) as tab:
        findings, _ = looks.look_at(tab, page, "p", 9999)
    for width in ("1280", "390"):
        assert any(f", {width} px, dark: serious: color-contrast" in line for line in findings)
    assert not any(", light:" in line for line in findings)


def test_a_ledger_that_does_not_search_or_filter_is_found(tmp_path: Path) -> None:
    page = tmp_path / "claims.html"
    whole = GOOD + claims.ledger_html(claims.read_claims()).data
    page.write_text(whole)
    with opened(page) as tab:
        assert reader.ledger(tab) == []
        for broken in ("words.every(word =>", "row.dataset[name] === value"):
            assert broken in whole
            page.write_text(whole.replace(broken, f"true || {broken}"))
            tab.reload()
            assert reader.ledger(tab), broken


def test_without_a_browser_it_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NODULEBOOK_BROWSER", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match="apt-get install chromium"):
        find_browser()


# ----------------------------------------------------------------------------------- all


def test_each_check_says_how_it_went_and_one_failure_fails_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> run.Result:
        raise InputError("it is broken")

    monkeypatch.setattr(run, "BOOK", tmp_path)
    good = run.Step("good", "what", lambda: ([], "3 things"), "mend")
    bad = run.Step("bad", "what", lambda: (["one", "two"], ""), "look")
    broken = run.Step("broken", "what", fail, "look")
    bookless = run.Step("bookless", "what", lambda: ([], ""), "build", needs_book=True)
    said: list[str] = []
    assert run.run_steps([good], said.append)
    assert said[0].startswith("ok      good: 3 things")
    for step in (bad, broken, bookless):
        assert not run.run_steps([good, step], said.append)
    text = "\n".join(said)
    assert "FAILED  bad (what), 2 findings" in text and "To mend: look" in text
    assert "it is broken" in text and "no built book" in text


def test_checks_side_by_side_all_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a book the others are left out; one finding anywhere fails the whole."""
    monkeypatch.setattr(run, "BOOK", tmp_path)
    for failing in (None, "numbers", "build", "links", "looks"):
        (tmp_path / "index.html").write_text("<title>A page</title>")
        done: list[str] = []

        def result(name: str, failing: str | None = failing, done: list[str] = done) -> run.Result:
            done.append(name)
            return ["a finding"] if name == failing else [], "seen"

        every = [
            run.Step(name, "what", lambda name=name: result(name), "mend", name[0] == "l")  # type: ignore[misc]
            for name in ("numbers", "build", "links", "looks")
        ]
        told: list[str] = []
        assert run.run_all(every, told.append) == (failing is None)
        assert sum(line.startswith("FAILED") for line in told) == (failing is not None)
        assert len(done) == (2 if failing == "build" else 4)
        assert any("left out" in line for line in told) == (failing == "build")


@pytest.mark.parametrize(
    ("there", "whole", "strict"), [(False, False, True), (True, False, False), (True, True, True)]
)
def test_the_book_is_built_strictly_where_there_is_none_or_it_is_asked_for(
    there: bool, whole: bool, strict: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A warning then leaves no book; else `verify` builds all of it strictly, and compares."""
    words: list[str] = []
    monkeypatch.setattr(run, "BUILD", tmp_path)
    monkeypatch.setattr(run, "BOOK", tmp_path / "html")
    monkeypatch.setattr(run, "hook", lambda _: lambda: None)
    if there:
        (tmp_path / "html").mkdir()
        (tmp_path / "html" / "index.html").touch()

    def command(of: list[str]) -> subprocess.CompletedProcess[str]:
        words[:] = of
        (tmp_path / "html").mkdir(exist_ok=True)
        return subprocess.CompletedProcess(of, 1, "", "page.md:1: WARNING: a label\nend")

    monkeypatch.setattr(run, "_command", command)
    build = next(step for step in run.steps(whole=whole) if step.name == "build")
    assert build.run() == (["page.md:1: WARNING: a label"], "")
    assert ("-W" in words) == strict and (tmp_path / "html").exists() != strict


def test_the_second_build_of_a_check_is_strict(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []

    def answers(_: Path, options: Sequence[str]) -> list[tuple[list[str], str]]:
        given.extend(options)
        return [([], "runs"), (["a page differs"], "pages")]

    monkeypatch.setattr("bookkit.tracing.verify.verify", answers)
    verify = next(step for step in run.steps() if step.name == "verify")
    assert verify.run() == (["a page differs"], "runs; pages")
    assert "-W" in given
