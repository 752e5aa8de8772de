"""How the book is cited, and what it consists of."""

from pathlib import Path

from bookkit.sphinx import publish
from bookkit.tracing.manifest import artefact_files
from nodulebook.core import paths

CITATION = {
    "title": "A & B", "version": "1", "message": "Cite it.", "date-released": "2026-01-02",
    "authors": [{"family-names": "Doe", "given-names": "Ann"}, {"name": "The group"}],
}  # fmt: skip


def test_the_entry_and_the_tags_name_authors_title_and_year() -> None:
    entry = publish.bibtex(CITATION, 2026, "https://example.org/x")
    assert entry.startswith("@software{") and "Doe, Ann and The group" in entry
    assert "year = {2026}" in entry and "https://example.org/x" in entry and "doi" not in entry
    tags = publish.meta_tags(CITATION, 2026, "")
    assert tags.count("citation_author") == 2 and 'content="A &amp; B"' in tags


def test_every_entity_of_the_crate_is_described_once(tmp_path: Path) -> None:
    table = tmp_path / "x.csv"
    table.write_text("a\n1\n")
    files = {"data/x.csv": table, "papermill_runs/r/fold-0/run.json": table}
    made = publish.crate(CITATION, files, "")
    ids = [one["@id"] for one in made["@graph"]]
    assert len(ids) == len(set(ids))
    root = next(one for one in made["@graph"] if one["@id"] == "./")
    parts = [part["@id"] for part in root["hasPart"]]
    assert parts == ["lib/", "chapters/", "papermill_runs/r/fold-0/", "data/x.csv"]
    assert {*parts, *(one["@id"] for one in root["author"]), root["license"]["@id"]} <= set(ids)
    assert all("license" in one for one in made["@graph"] if one["@id"] in parts)


def test_what_the_crate_of_the_project_names_is_there() -> None:
    made = publish.crate(publish._citation(), artefact_files(), "")
    root = next(one for one in made["@graph"] if one["@id"] == "./")
    for part in root["hasPart"]:
        assert (paths.ROOT / part["@id"]).exists(), part
