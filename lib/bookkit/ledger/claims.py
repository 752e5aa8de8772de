"""The claims ledger: what the paper says, our verdict on it, and where the book shows why.

`data/claims.yml` is a list; each entry is a `Claim`. Its evidence is a place of the book,
`chapters/<page>.md#<label>`, or a committed table, `data/<file>.csv`. Where the wording itself is
at issue the entry quotes the paper.
"""

import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from IPython.display import HTML
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from bookkit.ledger.labels import Label, all_labels
from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.files import read_yaml

VERDICTS: dict[str, str] = {
    "confirmed": "our computation, or the cited source, agrees",
    "confirmed in part": "it holds once corrected, or for a part of what is said",
    "built so": "a step of the method, built as the passage can be read; this tests nothing",
    "not reproduced": "our computation, or the cited source, says otherwise",
    "impossible as written": "the text contradicts itself, arithmetic or its own sources",
    "not available to us": "the paper prints it in a picture or table cell that our copy lacks",
    "not checkable": "the paper does not print what would decide it, or such data cannot decide it",
    "borrowed": "words or numbers of another work; they say nothing about this paper's network",
}
"""Every verdict and what it means."""

WEIGHTS: dict[str, str] = {
    "headline": "the abstract or the conclusion rests on it",
    "method": "needed to repeat the work",
    "detail": "a fact, figure or citation that the result does not depend on",
    "wording": "a slip of the text; what is meant is clear, or it does not matter",
}
"""Every weight and what it means."""

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
    "data_selection", "patch_extraction", "se_architecture", "training", "grad_cam",
    "explanations", "results", "comparison", "claims",
)  # fmt: skip
"""The pages that show claims; those that only the paper's text decides are in `claims` itself."""

LEDGER = "chapters/claims.md"


def _one_of(known: Iterable[str]) -> AfterValidator:
    def check(value: str) -> str:
        if value not in known:
            raise ValueError(f"must be one of {', '.join(known)}")
        return value

    return AfterValidator(check)


_Text = Annotated[str, Field(min_length=5, max_length=400)]
_Place = Annotated[str, Field(pattern=r"^(chapters/\w+\.md#[a-z0-9-]+|data/\w+\.csv)$")]


class Claim(BaseModel):
    """One entry of the ledger."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    id: str = Field(pattern=r"^C\d{3}$")
    """Never given to another claim."""
    section: Annotated[str, _one_of(SECTIONS)]
    """Of the paper, where it says so first."""
    kind: Literal["statement", "equation", "table", "figure", "contradiction", "citation"]
    weight: Annotated[str, _one_of(WEIGHTS)]
    paraphrase: _Text
    """What the paper says, in our words."""
    quotes: list[_Text] = []
    """The paper's own words; " … " marks what is left out."""
    verdict: Annotated[str, _one_of(VERDICTS)]
    evidence: list[_Place]
    """Where the book shows it, the best place first; empty where the quotations are enough."""
    decision: _Text
    """How we read it, or what we did instead."""
    chapter: Annotated[str, _one_of(CHAPTERS)]
    """The page that lists it."""


def read_claims(path: Path | None = None) -> list[Claim]:
    """Read and check the ledger; `check_evidence` looks for its evidence.

    Raises:
        InputError: not a list of entries, a wrong, missing or unknown field, an id twice, or an
            entry with no evidence other than the ledger's own page; every one is named.
    """
    path = path or paths.CLAIMS_YAML
    entries = read_yaml(path)
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
        if not claim.quotes and all(place.startswith(LEDGER) for place in claim.evidence):
            wrong.append(f"{where}: evidence: needs a place outside {LEDGER}, or a quotation")
        if claim.id in {other.id for other in claims}:
            wrong.append(f"{where}: id: used twice")
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


def check_evidence(claims: Sequence[Claim], root: Path | None = None) -> None:
    """Check that the evidence of every claim exists.

    Raises:
        InputError: names each claim whose page, label or table does not exist.
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


def verdict_counts(claims: Sequence[Claim], by: Literal["weight", "section"]) -> pd.DataFrame:
    """How many claims have which verdict: a row per weight or section, a column per verdict."""
    given = pd.DataFrame([(c.verdict, getattr(c, by)) for c in claims], columns=["verdict", by])
    rows = list(WEIGHTS if by == "weight" else SECTIONS)
    counts = pd.crosstab(given[by], given["verdict"])
    return counts.reindex(index=rows, columns=list(VERDICTS), fill_value=0)


def verdict_table(claims: Sequence[Claim]) -> pd.DataFrame:
    """Every verdict, how many claims of each weight have it, and what it means, as text."""
    counts = verdict_counts(claims, "weight").T.assign(all=lambda table: table.sum(axis=1))
    return counts.astype(str).assign(meaning=pd.Series(VERDICTS)).reset_index()


def count_texts(claims: Sequence[Claim]) -> dict[str, str]:
    """Numbers of claims, for glue: `claims-all`, `claims-<verdict>`, `claims-headline`,
    `claims-headline-<verdict>` and so on for each weight (spaces become hyphens).
    """
    table = verdict_table(claims).set_index("verdict")[[*WEIGHTS, "all"]].astype(int)
    table.loc["all"] = table.sum()
    counts = {}
    for weight in table:
        for verdict, number in table[weight].items():
            parts = [str(part) for part in (weight, verdict) if part != "all"] or ["all"]
            counts["-".join(["claims", *parts]).replace(" ", "-")] = str(number)
    return counts


def claims_of(chapter: str, claims: Sequence[Claim] | None = None) -> pd.DataFrame:
    """The claims that a chapter lists, as cells of MyST text for `tables.numbered`.

    Args:
        chapter: a name of `CHAPTERS`.

    Raises:
        InputError: no such chapter, or one that lists no claim.
    """
    shown = [c for c in (read_claims() if claims is None else claims) if c.chapter == chapter]
    if not shown:
        raise InputError(f"no claim has the chapter {chapter!r}; known: {', '.join(CHAPTERS)}")
    labels = _places()
    rows = [
        {
            "claim": claim.id,
            "the paper": _myst(claim.paraphrase),
            "verdict": claim.verdict,
            "our reading": _myst(claim.decision),
            "section": claim.section,
            "shown at": ", ".join(
                labels[place].myst if place in labels else f"`{place}`" for place in claim.evidence
            )
            or "the quotation in {ref}`claims-ledger`",
        }
        for claim in shown
    ]
    return pd.DataFrame(rows)


def _places() -> dict[str, Label]:
    """Every label of the book, by `chapters/<page>.md#<label>`."""
    pages = all_labels().items()
    return {f"{page}#{name}": label for page, known in pages for name, label in known.items()}


def _myst(text: str) -> str:
    """Text that MyST shows as it is; `tables` sees to "|"."""
    return re.sub(r"([\\`*_{}\[\]<>$#~])", r"\\\1", text)


def ledger_html(claims: Sequence[Claim]) -> HTML:
    """All claims as a table with a search field and three filters; needs no server.

    Without scripts the table is complete and the fields are hidden. Links lead to the pages in
    the folder of `claims.html`.

    """
    labels = _places()
    sections = {s: s if s == text else f"{s} {text}" for s, text in SECTIONS.items()}
    parts = {
        "VERDICTS": _options({v: v for v in VERDICTS}),
        "WEIGHTS": _options({w: w for w in WEIGHTS}),
        "SECTIONS": _options(sections),
        "ROWS": "\n".join(_row(claim, sections[claim.section], labels) for claim in claims),
    }
    page = Path(__file__).with_name("claims.html").read_text(encoding="utf-8")
    return HTML(  # type: ignore[no-untyped-call]
        re.sub(r"<!--([A-Z]+)-->", lambda found: parts[found[1]], page)
    )


def _options(values: dict[str, str]) -> str:
    return "".join(
        f'<option value="{html.escape(value)}">{html.escape(text)}</option>'
        for value, text in values.items()
    )


def _row(claim: Claim, section: str, labels: dict[str, Label]) -> str:
    esc = html.escape
    small = "".join(f" <small>{esc(t)}</small>" for t in (claim.kind, claim.weight, section))
    quotes = "".join(f"<q>{esc(quote)}</q>" for quote in claim.quotes)
    cells = {
        "Claim": f'<a href="#{claim.id}">{claim.id}</a>{small}',
        "The paper": esc(claim.paraphrase) + quotes,
        "Verdict": f"<span>{esc(claim.verdict)}</span>",
        "Our reading": esc(claim.decision),
        "Shown at": "; ".join(_html_link(place, labels) for place in claim.evidence)
        or "the quotation in this row",
    }
    inside = "".join(f'<td role="cell" data-is="{k}">{text}</td>' for k, text in cells.items())
    data = " ".join(
        f'data-{k}="{esc(getattr(claim, k))}"' for k in ("verdict", "weight", "section")
    )
    return f'<tr role="row" id="{claim.id}" {data}>{inside}</tr>'


def _html_link(place: str, labels: dict[str, Label]) -> str:
    if place not in labels:
        return f"<code>{html.escape(place)}</code>"
    page, label = place.partition("#")[0], labels[place]
    chapter = next(one for where, one in labels.items() if where.startswith(f"{page}#"))
    text = chapter.title if chapter == label else f"{chapter.title} › {label.title}"
    # The build puts the number in the place of the label's words (`bookkit.sphinx.numbered`).
    kind = "" if label.kind == "section" else 'class="numbered" '
    return f'<a {kind}href="{Path(page).stem}.html#{label.html_id}">{html.escape(text)}</a>'
