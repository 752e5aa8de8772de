"""Sphinx extension: how to cite the book, and what it consists of (RO-Crate).

The first page says how the book is cited, from CITATION.cff, with tags that reference managers
read. `ro-crate-metadata.json`, in the project and next to the pages, lists runs, tables, code and
their licences.
"""

import html
import re
from pathlib import Path
from typing import Any

import yaml
from sphinx.application import Sphinx

from bookkit.tracing.manifest import artefact_files
from nodulebook.core import paths
from nodulebook.core.files import read_json, write_json

CRATE = "ro-crate-metadata.json"
MIT = "https://spdx.org/licenses/MIT"
CC_BY = "https://creativecommons.org/licenses/by/3.0/"


def bibtex(citation: dict[str, Any], year: int, url: str) -> str:
    """A BibTeX entry for the book, from the fields of CITATION.cff."""
    authors = " and ".join(_name(one) for one in citation["authors"])
    fields = {
        "author": f"{{{authors}}}", "title": f"{{{citation['title']}}}", "year": str(year),
        "version": str(citation["version"]), "url": url, "doi": citation.get("doi", ""),
    }  # fmt: skip
    lines = [f"  {key} = {{{value}}}" for key, value in fields.items() if value]
    return "@software{nodulebook,\n" + ",\n".join(lines) + "\n}"


def _name(author: dict[str, str]) -> str:
    return author.get("name") or f"{author['family-names']}, {author['given-names']}"


def meta_tags(citation: dict[str, Any], year: int, url: str) -> str:
    """Tags for reference managers (the names are Google Scholar's)."""
    values = [("citation_title", citation["title"]), ("citation_publication_date", str(year))]
    values += [("citation_author", _name(one)) for one in citation["authors"]]
    values += [("citation_public_url", url)] if url else []
    return "".join(
        f'<meta name="{name}" content="{html.escape(text)}"/>\n' for name, text in values
    )


def crate(citation: dict[str, Any], files: dict[str, Path], url: str) -> dict[str, Any]:
    """The RO-Crate of the project: its files, their licences, and the entities they point to.

    Args:
        citation: fields of CITATION.cff.
        files: name within the project, to path: runs, tables, profiles.
        url: the repository's address; "" where there is none yet.
    """
    runs = sorted({name.rpartition("/")[0] + "/" for name in files if "/fold-" in name})
    tables = sorted(name for name in files if "/fold-" not in name)
    parts = ["lib/", "chapters/", *runs, *tables]
    described = {"lib/": "The code", "chapters/": "The book's pages"}
    types = {".csv": "text/csv", ".json": "application/json"}
    entities: list[dict[str, Any]] = [
        {"@id": CRATE, "@type": "CreativeWork", "about": {"@id": "./"},
         "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"}},
        {"@id": "./", "@type": "Dataset", "name": citation["title"],
         "description": citation["message"], "license": {"@id": MIT},
         "datePublished": str(citation["date-released"]),
         "author": [{"@id": f"#author-{k}"} for k, _ in enumerate(citation["authors"])],
         "hasPart": [{"@id": name} for name in parts]} | ({"url": url} if url else {}),
        {"@id": MIT, "@type": "CreativeWork", "name": "MIT License",
         "description": "Licence of the code, the text and the runs"},
        {"@id": CC_BY, "@type": "CreativeWork", "name": "Creative Commons Attribution 3.0",
         "description": "Licence of LIDC-IDRI, whose annotations the tables of data/ derive from"},
    ]  # fmt: skip
    entities += [
        {"@id": f"#author-{k}", "@type": "Organization" if "name" in one else "Person",
         "name": _name(one)}
        for k, one in enumerate(citation["authors"])
    ]  # fmt: skip
    for name in parts:
        licence = CC_BY if name.startswith("data/") and name.endswith(".csv") else MIT
        entity: dict[str, Any] = {"@id": name, "name": described.get(name, name.rstrip("/"))}
        if name.endswith("/"):
            entity |= {"@type": "Dataset"}
            entity["description"] = described.get(name, "Predictions, history and record of a fold")
        else:
            entity |= {"@type": "File", "contentSize": str(files[name].stat().st_size)}
            entity["encodingFormat"] = types.get(files[name].suffix, "application/yaml")
        entities.append(entity | {"license": {"@id": licence}})
    return {"@context": "https://w3id.org/ro/crate/1.1/context", "@graph": entities}


def _citation() -> dict[str, Any]:
    text = (paths.ROOT / "CITATION.cff").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


def _cite(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    if page != app.config.root_doc or doctree is None or app.builder.name != "html":
        return
    citation, year = _citation(), int(str(app.config.copyright)[:4])
    url = app.config.html_theme_options.get("repository_url") or ""
    entry = html.escape(bibtex(citation, year, url))
    context["metatags"] = context.get("metatags", "") + meta_tags(citation, year, url)
    shown = (
        '<details class="how-to-cite"><summary>How to cite</summary>'
        '<div class="highlight-bibtex notranslate"><div class="highlight"><pre>'
        f"{entry}\n</pre></div></div><p>Runs, data, code and licences in one file: "
        f'<a href="{CRATE}">{CRATE}</a></p></details>'
    )
    context["body"] = re.sub("</h1>", lambda _: f"</h1>\n{shown}", context["body"], count=1)


def _write_crate(app: Sphinx, failed: Exception | None) -> None:
    if failed is None and app.builder.name == "html":
        url = app.config.html_theme_options.get("repository_url") or ""
        made = crate(_citation(), artefact_files(), url)
        write_json(made, Path(app.outdir) / CRATE)
        if not (paths.ROOT / CRATE).is_file() or read_json(paths.ROOT / CRATE) != made:
            write_json(made, paths.ROOT / CRATE)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("html-page-context", _cite)
    app.connect("build-finished", _write_crate)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
