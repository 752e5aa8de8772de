"""The label that a cell of a table says, as a number or in words."""

import math
import re

import pandas as pd

from nodulebook.data.patients import spelling

_CANCERS = {
    "malignant", "malignancy", "cancer", "carcinoma", "adenocarcinoma", "carcinoid", "metastasis",
    "metastases", "metastatic", "sarcoma", "lymphoma", "melanoma", "mesothelioma", "nsclc", "sclc",
}  # fmt: skip
_NEUTRAL = {
    "primary", "secondary", "lung", "pulmonary", "bronchial", "bronchogenic", "nodule", "tumor",
    "tumour", "lesion", "squamous", "adenosquamous", "small", "non-small", "large", "cell", "of",
    "the", "in", "situ", "with", "from", "and", "invasive", "minimally", "mucinous",
    "non-mucinous", "lepidic", "acinar", "papillary", "solid", "poorly", "moderately", "well",
    "differentiated", "neuroendocrine", "stage", "grade", "typical", "atypical", "right", "left",
    "upper", "middle", "lower", "lobe", "colon", "colorectal", "breast", "renal", "thyroid",
    "prostate", "hepatocellular", "pancreatic", "nos", "proven", "confirmed", "histologically",
}  # fmt: skip
"""Words that may occur with them; any other could reverse the diagnosis or leave it open."""

_STAGE = re.compile(r"i{1,3}[abc]?|iv[abc]?")
_OPEN = re.compile(
    r"[?/]|\b(or|vs|versus|not|(un|im)?(likely|certain|clear|prob\w*|poss\w*)|susp\w*|exclu\w*"
    r"|ruled out|rejected)\b"
)
_DENIED = re.compile(r"\b(no|without|negative for|history of|patients? with)\b[^,;:.>]*")
"""With what follows: of a benign nodule, this tells of no cancer in it."""


def label_of(text: str) -> float | None:
    """1, 0, NaN where a cell says that there is no label, or None where it is no label.

    Words that begin with "benign" are benign, unless they also find a cancer ("benign biopsy,
    carcinoma at resection"); words that name a cancer are malignant if nothing else is among them.
    So "no cancer", "cancer unlikely" and "history of cancer" are no label.
    """
    said = text.strip().casefold()
    if said in {"", "nan", "na", "unknown"}:
        return math.nan
    if re.fullmatch(r"0([.,]0+)?|false|no", said):
        return 0.0
    if re.fullmatch(r"1([.,]0+)?|true|yes", said):
        return 1.0
    if said.startswith("benign"):
        cancers = _CANCERS.intersection(re.findall(r"[a-z]+", _DENIED.sub(" ", said)))
        return None if cancers or _OPEN.search(said) else 0.0
    said = re.sub(r"\bnot otherwise specified\b", "nos", said)
    said = re.sub(r"\bnon[- ]small[- ]cell\b", "non-small cell", said)
    if not re.fullmatch(r"[a-z]+(-[a-z]+)*([ ,;:.()]+[a-z]+(-[a-z]+)*)*[.)]?", said):
        return None
    words = re.findall(r"[a-z]+(?:-[a-z]+)*", said)
    known = all(word in _CANCERS | _NEUTRAL or _STAGE.fullmatch(word) for word in words)
    return 1.0 if known and _CANCERS.intersection(words) else None


def value_of(name: str, cell: str) -> str:
    """A cell of a column, in the form in which it is compared: 1 and 1.0 are the same."""
    if name == "label":
        return str(label_of(cell))
    if name == "patient_id":
        return spelling(cell)
    try:
        return str(float(cell.replace(",", ".")))
    except ValueError:
        return cell


def labels_of(table: pd.DataFrame) -> "pd.Series[float]":
    """1, 0 or NaN (none) per row: the label, else the rating's side of 3 (3 itself has none)."""
    label = pd.Series(math.nan, table.index)
    if "rating" in table:
        rating = pd.to_numeric(table["rating"], errors="coerce")
        label = (rating > 3).astype(float).where(rating.notna() & (rating != 3))
    if "label" in table:
        label = pd.to_numeric(table["label"], errors="coerce").fillna(label)
    return label


def by_rating(table: pd.DataFrame) -> str:
    """How many rows of a table with labels have none and take that of their rating; "" if none."""
    without = table["label"].isna() if "label" in table else pd.Series(False, table.index)
    rated = int((without & labels_of(table).notna()).sum())
    if not rated or without.all():
        return ""
    return f"{rated} nodules without a label take that of their rating"
