"""The claims ledger: what may stand in it, that its evidence exists, and its page in a browser."""

import re
from collections import Counter

import jupytext
import pytest
import yaml
from click.testing import CliRunner

from bookkit.ledger import claims, labels
from browser import opened
from nodulebook.cli.main import commands
from nodulebook.core import paths
from nodulebook.core.errors import InputError

ENTRY = {
    "id": "C001",
    "section": "3.1.1",
    "kind": "statement",
    "weight": "headline",
    "paraphrase": "There are 1230 nodules.",
    "verdict": "impossible as written",
    "evidence": ["chapters/page.md#here"],
    "decision": "We count them.",
    "chapter": "data_selection",
}

PAPER_NUMBERS = {
    "0.9664", "97.08", "0.9563", "91.67", "97.17", "33.26", "31.62", "23.51", "97.3", "63.43",
    "44.44", "16.79", "61.23", "54.36", "62.32", "53.33", "60.37", "0.30", "0.001", "0.0001", "3.1",
    "0.01", "0.9", "0.5", "5.1",
}  # fmt: skip
"""Decimals of the paper, of its sources, its sections, and settings; none of a result of ours."""


@pytest.fixture(scope="module")
def ledger():
    return claims.read_claims()


def write(folder, *entries):
    path = folder / "claims.yml"
    path.write_text(yaml.safe_dump(list(entries)))
    return path


def test_the_ledger_is_whole_and_its_evidence_exists(ledger):
    assert len(ledger) >= 90
    claims.check_evidence(ledger)


def test_every_claim_is_shown_where_some_of_its_evidence_is(ledger):
    for claim in ledger:
        if claim.chapter == "claims":
            continue
        assert f"chapters/{claim.chapter}.md" in {place.split("#")[0] for place in claim.evidence}


def test_where_the_wording_is_the_claim_the_paper_is_quoted(ledger):
    for claim in ledger:
        if claim.weight in ("headline", "wording") or claim.kind == "contradiction":
            assert claim.quotes, claim.id


def test_the_text_alone_is_evidence_only_with_a_quotation(tmp_path):
    entry = ENTRY | {"evidence": [], "quotes": ["when assessed on 1230 nodules"]}
    (claim,) = claims.read_claims(write(tmp_path, entry))
    assert "1230 nodules</q>" in claims.ledger_html([claim]).data
    table = claims.claims_of("data_selection", [claim])
    assert "quotation" in table["shown at"].item()
    assert list(table)[:3] == ["claim", "the paper", "verdict"]


def test_every_section_equation_table_and_figure_of_the_paper_is_there(ledger):
    assert {claim.section for claim in ledger} == set(claims.SECTIONS)
    said = {kind: " ".join(c.paraphrase for c in ledger if c.kind == kind) for kind in
            ("equation", "table", "figure")}  # fmt: skip
    for kind, word, last in (
        ("equation", "Eq.", 15),
        ("table", "Table", 4),
        ("figure", "Figure", 12),
    ):
        for number in range(1, last + 1):
            assert re.search(rf"{re.escape(word)} {number}\b", said[kind]), (word, number)


def test_no_result_of_ours_is_typed_in(ledger):
    for claim in ledger:
        typed = set(re.findall(r"\d+\.\d+", f"{claim.paraphrase} {claim.decision}"))
        assert typed <= PAPER_NUMBERS, (claim.id, typed - PAPER_NUMBERS)


def test_counts_add_up(ledger):
    texts = claims.count_texts(ledger)
    table = claims.verdict_table(ledger)
    assert texts["claims-all"] == str(len(ledger))
    assert sum(map(int, table["all"])) == len(ledger)
    by_weight = table[list(claims.WEIGHTS)].astype(int)
    assert (by_weight.sum(axis=1) == table["all"].astype(int)).all()
    assert by_weight["headline"].sum() == int(texts["claims-headline"]) > 0
    assert texts["claims-impossible-as-written"] == str(
        Counter(c.verdict for c in ledger)["impossible as written"]
    )
    assert sum(len(claims.claims_of(chapter, ledger)) for chapter in claims.CHAPTERS) == len(ledger)


def cells_with(text, chapter):
    """The code cells of a chapter that have the text."""
    cells = jupytext.read(paths.CHAPTERS / f"{chapter}.md").cells
    return [c.source for c in cells if c.cell_type == "code" and text in c.source]


def test_every_chapter_with_claims_shows_them():
    for chapter in set(claims.CHAPTERS) - {"claims"}:
        assert len(cells_with(f'claims.claims_of("{chapter}")', chapter)) == 1
    shown = [cell.source for cell in jupytext.read(paths.CHAPTERS / "claims.md").cells]
    assert any("ledger_html" in source for source in shown)


def test_a_fold_that_trains_does_not_read_the_ledger():
    (source,) = cells_with("claims", "training")
    assert all(line.startswith(" ") for line in source.splitlines()[1:] if line)
    assert source.startswith("if done:")
    exec(source, {"done": False})  # nothing is imported, nothing shown


@pytest.mark.parametrize(
    "change, message",
    [
        ({"verdict": "true"}, r"claim 1 \(C001\): verdict: .*confirmed in part"),
        ({"section": "7"}, r"claim 1 \(C001\): section: .*3\.1\.1"),
        ({"section": 4}, r"claim 1 \(C001\): section: "),
        ({"kind": "rumour"}, r"kind: .*'equation'"),
        ({"chapter": "intro"}, r"chapter: .*data_selection"),
        ({"id": "1"}, r"claim 1 \(1\): id: "),
        ({"evidence": []}, r"\(C001\): evidence: "),
        ({"evidence": ["chapters/claims.md#claims-text"]}, r"\(C001\): evidence: "),
        ({"weight": "heavy"}, r"weight: .*headline"),
        ({"evidence": ["the book"]}, r"evidence\.0: .*'the book'"),
        ({"evidence": ["../secret.csv"]}, r"evidence\.0: "),
        ({"paraphrase": ""}, r"paraphrase: "),
        ({"source": "me"}, r"source: unknown; known: id, section"),
    ],
)
def test_wrong_entries_are_named(tmp_path, change, message):
    claims.read_claims(write(tmp_path, ENTRY))
    with pytest.raises(InputError, match=message):
        claims.read_claims(write(tmp_path, ENTRY | change))


@pytest.mark.parametrize("field", sorted(ENTRY))
def test_a_missing_field_is_named(tmp_path, field):
    entry = {key: value for key, value in ENTRY.items() if key != field}
    with pytest.raises(InputError, match=rf"{field}: is missing"):
        claims.read_claims(write(tmp_path, entry))


def test_an_id_twice_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"claim 2 \(C001\): id: "):
        claims.read_claims(write(tmp_path, ENTRY, ENTRY))


@pytest.mark.parametrize("text", ["", "a: 1", "- just words", "[", "- [1]"])
def test_what_is_no_list_of_entries_is_refused(tmp_path, text):
    path = tmp_path / "claims.yml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"claims\.yml"):
        claims.read_claims(path)


def test_the_command_counts_the_claims_and_refuses_a_verdict_that_is_none(tmp_path, monkeypatch):
    path = write(tmp_path, ENTRY, ENTRY | {"id": "C002"})
    monkeypatch.setattr(paths, "CLAIMS_YAML", path)
    (tmp_path / "chapters").mkdir()
    (tmp_path / "chapters" / "page.md").write_text(PAGE)
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    run = CliRunner().invoke(commands, ["claims"])
    assert run.exit_code == 0 and run.output.startswith("2 claims\n")
    write(tmp_path, ENTRY, ENTRY | {"id": "C002", "verdict": "open"})
    refused = CliRunner().invoke(commands, ["claims"]).exception
    assert isinstance(refused, InputError) and "claim 2 (C002): verdict" in str(refused)


PAGE = """---
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

(here)=
# A heading

(there)=
Words.

```text
(not-a-label)=
```

$$
x
$$ (eq-x)

:::{glue:figure} f
:name: fig-f
A figure.
:::

```{code-cell} ipython3
display(tables.numbered(table, "See {numref}`tab-not`.", "tab-t"))
display(tables.profile_table(settings, "p", name="tab-p"))
tables.numbered(table, "made when it is run", f"tab-{name}")
```
"""


def test_labels_of_a_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    found = labels.page_labels(page)
    assert {name: (label.kind, label.title, label.html_id) for name, label in found.items()} == {
        "here": ("section", "A heading", "here"),
        "there": ("section", "A heading", "there"),
        "eq-x": ("equation", "equation: x", "equation-eq-x"),
        "fig-f": ("numbered", "figure: f", "fig-f"),
        "tab-t": ("numbered", "table: t", "tab-t"),
        "tab-p": ("numbered", "table: p", "tab-p"),
    }


@pytest.mark.parametrize(
    "place, message",
    [
        ("chapters/page.md#nowhere", "C001: .*no label 'nowhere'"),
        ("chapters/page.md#tab-not", "C001: .*no label 'tab-not'"),
        ("chapters/none.md#here", r"C001: .*no page chapters/none\.md"),
        ("data/none.csv", r"C001: .*no table data/none\.csv"),
    ],
)
def test_evidence_that_is_not_there_is_named(tmp_path, place, message):
    (tmp_path / "chapters").mkdir()
    (tmp_path / "chapters" / "page.md").write_text(PAGE)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "there.csv").write_text("a\n")
    good = ENTRY | {"evidence": ["chapters/page.md#eq-x", "data/there.csv"]}
    claims.check_evidence(claims.read_claims(write(tmp_path, good)), tmp_path)
    bad = claims.read_claims(write(tmp_path, good | {"evidence": [*good["evidence"], place]}))
    with pytest.raises(InputError, match=message):
        claims.check_evidence(bad, tmp_path)


def test_no_label_is_given_on_two_pages():
    """Sphinx knows one place a label; evidence on another page would lead there."""
    count = Counter(name for page in labels.all_labels().values() for name in page)
    assert not [name for name, number in count.items() if number > 1]


def test_text_is_shown_as_it_is(tmp_path):
    text = '<b>a|b</b> *c* $d$ {e} `f` <script>alert(1)</script> "g"'
    odd = claims.read_claims(write(tmp_path, ENTRY | {"paraphrase": text, "decision": text}))
    page = claims.ledger_html(odd).data
    assert "&lt;b&gt;a|b&lt;/b&gt; *c*" in page and "<b>" not in page
    assert page.count("<script>") == page.count("</script>") == 1
    cell = claims.claims_of("data_selection", odd)["the paper"].item()
    assert cell.startswith(r"\<b\>a|b\</b\> \*c\* \$d\$ \{e\} \`f\`")


def test_a_chapter_without_claims_is_named(ledger):
    with pytest.raises(InputError, match="'reproduce'"):
        claims.claims_of("reproduce", ledger)


def test_the_page_is_small_and_needs_nothing_from_elsewhere(ledger):
    page = claims.ledger_html(ledger).data
    assert len(page.encode()) < 500_000
    assert "http" not in page and "src=" not in page and "@import" not in page


def test_the_ledger_is_searched_and_filtered_in_a_browser(ledger, tmp_path):
    path = tmp_path / "claims.html"
    body = claims.ledger_html(ledger).data
    path.write_text(
        f'<!DOCTYPE html><html lang="en"><meta charset="utf-8"><body>{body}</body></html>'
    )
    said = {c.id: f"{c.paraphrase} {c.quotes} {c.decision}".replace(",", "") for c in ledger}
    holding = {name for name, text in said.items() if "1230" in text}
    holding |= {c.id for c in ledger if any("1230" in place for place in c.evidence)}
    refused = {c.id for c in ledger if c.verdict == "not reproduced"}
    assert 3 < len(holding) < len(ledger) / 4

    with opened(path) as tab:

        def shown():
            rows = "[...document.querySelectorAll('tbody tr')].filter(r => r.offsetParent)"
            return set(tab.evaluate(f"{rows}.map(r => r.id)"))

        def choose(name, value):
            tab.evaluate(
                f"{{const f = document.querySelector('[name={name}]'); f.value = {value!r};"
                " f.dispatchEvent(new Event('input', {bubbles: true}))}"
            )

        assert len(shown()) == len(ledger)
        choose("q", "1230")
        assert shown() == holding
        status = "document.querySelector('[role=status]').textContent"
        assert tab.evaluate(status).startswith(f"{len(holding)} of {len(ledger)} ")
        choose("q", "1,230")
        assert shown() == holding
        choose("q", "nodules NO-SUCH-WORD")
        assert not shown()
        choose("q", "")
        choose("verdict", "not reproduced")
        assert shown() == refused
        choose("weight", "headline")
        assert shown() == {c.id for c in ledger if c.id in refused and c.weight == "headline"}
        choose("weight", "")
        section = next(c.section for c in ledger if c.id in refused)
        choose("section", section)
        assert (
            shown() == {c.id for c in ledger if c.id in refused and c.section == section} < refused
        )
        tab.evaluate("document.querySelector('button[type=reset]').click()")
        tab.wait_for_function(
            f"document.querySelectorAll('tbody tr:not([hidden])').length === {len(ledger)}"
        )
        # Every field has its label; on a phone nothing is wider than the screen.
        assert tab.evaluate(
            "[...document.querySelectorAll('input, select')].every(f => f.labels.length)"
        )
        tab.set_viewport_size({"width": 390, "height": 800})
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
