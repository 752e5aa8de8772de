"""The claims ledger: what the paper says, what became of it, and where the book shows it.

`data/claims.yml` is a list; each entry is a `Claim`. Its evidence is a place of the book,
`chapters/<page>.md#<label>`, or a committed table, `data/<file>.csv`.
"""

import ast
import html
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import yaml
from IPython.display import HTML
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from nodulebook.core import paths
from nodulebook.core.errors import InputError

VERDICTS: dict[str, str] = {
    "reproduced": "it comes out, or can be built, as the paper says",
    "reproduced in part": "it does once repaired, or for a part of what is said",
    "not reproduced": "what we computed, or the source that is cited, says otherwise",
    "impossible as written": "the text contradicts itself, arithmetic or its own sources",
    "not checkable": "what would decide it is lost, was never printed, or is not in such data",
    "borrowed": "words or numbers of another work; no evidence about this paper's network",
}
"""Every verdict and what it means."""

SECTIONS: dict[str, str] = {
    "title": "title",
    "abstract": "abstract",
    "1": "introduction",
    "2": "related works",
    "3": "methods",
    "3.1.1": "data acquisition",
    "3.1.2": "data extraction",
    "3.1.3": "squeeze and excitation",
    "3.1.4": "Grad-CAM++",
    "3.1.5": "class discrimination and trust",
    "3.1.6": "network parameters",
    "4": "data and experiments",
    "5": "results",
    "5.1": "implementation details",
    "6": "conclusion",
    "references": "references",
}
"""The paper's sections, in its order."""

CHAPTERS = (
    "data_selection",
    "patch_extraction",
    "se_architecture",
    "training",
    "grad_cam",
    "explanations",
    "results",
    "comparison",
    "claims",
)
"""The pages that show claims; what no run can decide is in `claims` itself."""


def _one_of(known: Iterable[str]) -> AfterValidator:
    def check(value: str) -> str:
        if value not in known:
            raise ValueError(f"must be one of {', '.join(known)}")
        return value

    return AfterValidator(check)


_Text = Annotated[str, Field(min_length=5, max_length=300)]
_Place = Annotated[str, Field(pattern=r"^(chapters/\w+\.md#[a-z0-9-]+|data/\w+\.csv)$")]


class Claim(BaseModel):
    """One entry of the ledger."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    id: str = Field(pattern=r"^C\d{3}$")
    """Never given to another claim."""
    section: Annotated[str, _one_of(SECTIONS)]
    """Of the paper, where it says so first."""
    kind: Literal["statement", "equation", "table", "figure", "contradiction", "citation"]
    paraphrase: _Text
    """What the paper says, in our words."""
    verdict: Annotated[str, _one_of(VERDICTS)]
    evidence: list[_Place]
    """Where the book shows it, the best place first."""
    decision: _Text
    """What was done instead, or how it was read."""
    chapter: Annotated[str, _one_of(CHAPTERS)]
    """The page that lists it."""


def read_claims(path: Path | None = None) -> list[Claim]:
    """Read and check the ledger; `check_evidence` looks whether its evidence is there.

    Args:
        path: `data/claims.yml` where None.

    Raises:
        InputError: not a list of entries, a wrong, missing or unknown field, an id twice, or no
            evidence; every one is named.
    """
    path = path or paths.CLAIMS_YAML
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as YAML ({error})") from None
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: must be a list of claims, each with id, section, kind, ...")
    claims: list[Claim] = []
    wrong: list[str] = []
    for number, entry in enumerate(entries, start=1):
        name = entry.get("id") if isinstance(entry, dict) else None
        where = f"claim {number} ({name})" if name else f"claim {number}"
        try:
            claim = Claim.model_validate(entry)
        except ValidationError as error:
            wrong += [f"{where}: {_problem(problem)}" for problem in error.errors()]
            continue
        if not claim.evidence:
            wrong.append(f"{where}: evidence: at least one place of the book is needed")
        if claim.id in {other.id for other in claims}:
            wrong.append(f"{where}: id: is there twice")
        claims.append(claim)
    if wrong:
        raise InputError(f"{path}:\n" + "\n".join(wrong))
    return claims


def _problem(problem: Any) -> str:
    field = ".".join(str(part) for part in problem["loc"]) or "(all)"
    if problem["type"] == "extra_forbidden":
        return f"{field}: unknown; known: {', '.join(Claim.model_fields)}"
    if problem["type"] == "missing":
        return f"{field}: is missing"
    return f"{field}: {problem['msg']} (got {problem['input']!r})"


@dataclass(frozen=True)
class Label:
    """A place of a page that can be linked to."""

    name: str
    kind: Literal["section", "numbered", "equation"]
    title: str
    """The heading after a section's label, else the label in words."""

    @property
    def html_id(self) -> str:
        """The id that Sphinx gives the place."""
        return f"equation-{self.name}" if self.kind == "equation" else self.name


_NUMBERED_TABLES = {"numbered", "key_value", "profile_table", "record_table"}
"""Functions of `bookkit.tracing.tables`: the label is their third argument, or `name`."""


def page_labels(page: Path) -> dict[str, Label]:
    """The labels of a chapter, by name.

    `(label)=`, `:name: label` and `$$ (label)` of its text, and in its cells the tables that
    `bookkit.tracing.tables` numbers. A label that a cell puts together when it is run is not seen.

    Raises:
        InputError: there is no such page.
    """
    if not page.is_file():
        raise InputError(f"{page}: there is no such page")
    return {label.name: label for label in _notebook_labels(page.read_text(encoding="utf-8"))}


@lru_cache(maxsize=32)
def _notebook_labels(text: str) -> tuple[Label, ...]:
    import jupytext  # seconds: not for the chapters, which show claims and read no page

    labels: list[Label] = []
    for cell in jupytext.reads(text, fmt="md:myst").cells:
        if cell.cell_type == "code":
            labels += _cell_labels(cell.source)
        elif cell.cell_type == "markdown":
            labels += _text_labels(cell.source)
    return tuple(labels)


def _text_labels(source: str) -> Iterable[Label]:
    text = re.sub(r"^```.*?^```", "", source, flags=re.M | re.S)
    for name, heading in re.findall(r"^\(([\w-]+)\)=\n+(?:#+ +(.+))?", text, flags=re.M):
        yield Label(name, "section", heading.strip() or _words(name))
    for name in re.findall(r"^:name: ([\w-]+)$", text, flags=re.M):
        yield Label(name, "numbered", _words(name))
    for name in re.findall(r"^\$\$ \(([\w-]+)\)$", text, flags=re.M):
        yield Label(name, "equation", _words(name))


def _cell_labels(source: str) -> Iterable[Label]:
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if node.func.attr in _NUMBERED_TABLES:
            named = [word.value for word in node.keywords if word.arg == "name"]
            for value in [*named, *node.args[2:3]]:
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield Label(value.value, "numbered", _words(value.value))


def _words(name: str) -> str:
    """`tab-paper-sizes` to "table: paper sizes"."""
    kinds = {"tab": "table: ", "fig": "figure: ", "eq": "equation: "}
    first, _, rest = name.partition("-")
    return kinds[first] + rest.replace("-", " ") if first in kinds else name.replace("-", " ")


def all_labels(root: Path | None = None) -> dict[str, dict[str, Label]]:
    """The labels of every chapter: `chapters/<page>.md` to label to `Label`."""
    root = root or paths.ROOT
    pages = sorted((root / "chapters").glob("*.md"))
    return {f"chapters/{page.name}": page_labels(page) for page in pages}


def check_evidence(claims: Sequence[Claim], root: Path | None = None) -> None:
    """See that every claim's evidence is there.

    Args:
        claims: the ledger.
        root: the folder that holds `chapters/` and `data/`.

    Raises:
        InputError: names each claim whose page, label or table is not there.
    """
    root = root or paths.ROOT
    labels, wrong = all_labels(root), []
    for claim in claims:
        for place in claim.evidence:
            page, _, label = place.partition("#")
            if not label and not (root / place).is_file():
                wrong.append(f"{claim.id}: evidence: there is no table {place}")
            elif label and page not in labels:
                wrong.append(f"{claim.id}: evidence: there is no page {page}")
            elif label and label not in labels[page]:
                wrong.append(f"{claim.id}: evidence: {page} has no label {label!r}")
    if wrong:
        raise InputError("data/claims.yml:\n" + "\n".join(wrong))


def count_texts(claims: Sequence[Claim]) -> dict[str, str]:
    """How many claims there are, and of each verdict, for glue: `claims-all`, ..."""
    counts = {"claims-all": str(len(claims))}
    for verdict in VERDICTS:
        number = sum(claim.verdict == verdict for claim in claims)
        counts[f"claims-{verdict.replace(' ', '-')}"] = str(number)
    return counts


def verdict_table(claims: Sequence[Claim]) -> pd.DataFrame:
    """Every verdict, what it means and how many claims have it, as text."""
    counts = count_texts(claims)
    rows = [
        {"verdict": verdict, "claims": counts[f"claims-{verdict.replace(' ', '-')}"], "when": when}
        for verdict, when in VERDICTS.items()
    ]
    return pd.DataFrame(rows)


def claims_of(chapter: str, claims: Sequence[Claim] | None = None) -> pd.DataFrame:
    """The claims that a chapter lists, as cells of MyST text for `tables.numbered`.

    Args:
        chapter: a name of `CHAPTERS`.
        claims: the ledger; `data/claims.yml` where None.

    Raises:
        InputError: no such chapter, or one that lists no claim.
    """
    shown = [c for c in (read_claims() if claims is None else claims) if c.chapter == chapter]
    if not shown:
        raise InputError(f"no claim has the chapter {chapter!r}; known: {', '.join(CHAPTERS)}")
    labels = all_labels()
    rows = [
        {
            "claim": claim.id,
            "section": claim.section,
            "the paper": _myst(claim.paraphrase),
            "verdict": claim.verdict,
            "our reading": _myst(claim.decision),
            "shown at": ", ".join(_myst_link(place, labels) for place in claim.evidence),
        }
        for claim in shown
    ]
    return pd.DataFrame(rows)


def _myst(text: str) -> str:
    """Text that MyST shows as it is; `tables` sees to "|"."""
    return re.sub(r"([\\`*_{}\[\]<>$#~])", r"\\\1", text)


def _myst_link(place: str, labels: dict[str, dict[str, Label]]) -> str:
    page, _, name = place.partition("#")
    label = labels.get(page, {}).get(name)
    if label is None:
        return f"`{place}`"
    if label.kind == "section":
        return f"{{ref}}`{label.title} <{name}>`"
    return f"Eq. {{eq}}`{name}`" if label.kind == "equation" else f"{{numref}}`{name}`"


TEMPLATE = Path(__file__).with_name("claims.html")


def ledger_html(claims: Sequence[Claim], root: Path | None = None) -> HTML:
    """All claims as a table with a search field and two filters; needs no server, no other file.

    Without scripts the table is whole and the fields are not there. Links lead to the pages
    beside `claims.html`.

    Args:
        claims: the ledger.
        root: the folder that holds `chapters/`.
    """
    labels = all_labels(root)
    parts: dict[str, Callable[[], str]] = {
        "VERDICTS": lambda: _options({v: v for v in VERDICTS}),
        "SECTIONS": lambda: _options({s: _section(s) for s in SECTIONS}),
        "ROWS": lambda: "\n".join(_row(claim, labels) for claim in claims),
    }
    page = TEMPLATE.read_text(encoding="utf-8")
    page = re.sub(r"<!--(VERDICTS|SECTIONS|ROWS)-->", lambda found: parts[found[1]](), page)
    return HTML(page)  # type: ignore[no-untyped-call]


def _section(name: str) -> str:
    return name if name == SECTIONS[name] else f"{name} {SECTIONS[name]}"


def _options(values: dict[str, str]) -> str:
    return "".join(
        f'<option value="{html.escape(value)}">{html.escape(text)}</option>'
        for value, text in values.items()
    )


def _row(claim: Claim, labels: dict[str, dict[str, Label]]) -> str:
    cells = {
        "Claim": f'<a href="#{claim.id}">{claim.id}</a> '
        + " ".join(
            f"<small>{html.escape(text)}</small>" for text in (claim.kind, _section(claim.section))
        ),
        "The paper": html.escape(claim.paraphrase),
        "Verdict": f"<span>{html.escape(claim.verdict)}</span>",
        "Our reading": html.escape(claim.decision),
        "Shown at": "; ".join(_html_link(place, labels) for place in claim.evidence),
    }
    inside = "".join(f'<td role="cell" data-is="{k}">{text}</td>' for k, text in cells.items())
    return (
        f'<tr role="row" id="{claim.id}" data-verdict="{html.escape(claim.verdict)}" '
        f'data-section="{html.escape(claim.section)}">{inside}</tr>'
    )


def _html_link(place: str, labels: dict[str, dict[str, Label]]) -> str:
    page, _, name = place.partition("#")
    label = labels.get(page, {}).get(name)
    if label is None:
        return f"<code>{html.escape(place)}</code>"
    target = f"{Path(page).stem}.html#{label.html_id}"
    chapter = next(iter(labels[page].values()))  # the page's own label, with its title
    text = chapter.title if chapter == label else f"{chapter.title} › {label.title}"
    return f'<a href="{target}">{html.escape(text)}</a>'
