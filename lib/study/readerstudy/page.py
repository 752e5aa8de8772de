"""The paper's study with readers (its section 3.1.5), as an instrument: page, answers, numbers.

The study that the paper describes matches that of Selvaraju et al. 2017, sections 5.1 and 5.2.
Here are its two parts for nodules, without any answers:

class   one map of a nodule, by one of four techniques; which class is it for? 90 nodule-class
        pairs and four techniques make 360 pictures.
trust   the maps of two networks that both predict the nodule right; which is more reliable,
        from -2 (A clearly) to 2 (B clearly)?

`nodulebook readerstudy` writes one page that needs no server and keeps answers in the browser.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nodulebook.core.errors import InputError
from nodulebook.core.files import read_csv, refuse_rows, written_aside
from nodulebook.stats.bootstrap import Interval, bootstrap_means
from nodulebook.stats.text import interval
from study.figures.pictures import data_uri, plane_picture, side_by_side
from study.figures.plots import planes

TECHNIQUES = {
    "deconvolution": "deconvolution",
    "guided_backpropagation": "guided backpropagation",
    "deconvolution_grad_cam_plus_plus": "deconvolution Grad-CAM++",
    "guided_grad_cam_plus_plus": "guided Grad-CAM++",
}
"""The four of the paper's section 3.1.5."""

CLASSES = ("benign", "malignant")
ALLOWED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "class": (CLASSES, CLASSES),
    "trust": (("A", "B"), ("-2", "-1", "0", "1", "2")),
}
"""Part -> the truths and the answers that it knows."""

TEMPLATE = Path(__file__).with_name("readerstudy.html")

ANSWER_COLUMNS = {
    "study": "str",
    "reader": "str",
    "question": "str",
    "part": "str",
    "method": "str",
    "nodule_id": "str",
    "truth": "str",  # class: the class explained; trust: A or B, the network of higher accuracy
    "answer": "str",  # class: benign or malignant; trust: -2 to 2
}


@dataclass(frozen=True)
class Question:
    """One question, with what the page must not show: method and truth."""

    id: str
    part: str
    method: str
    nodule_id: str
    truth: str
    pictures: list[tuple[str, str]]  # title, data URI


def patch_picture(volume_hu: NDArray[Any], heat: NDArray[Any] | None = None) -> str:
    """Three planes of a (z, y, x) patch in a row, under a map where given; no outline."""
    images, heats = planes(volume_hu), planes(heat) if heat is not None else [None] * 3
    pictures = [plane_picture(i, None, h) for i, h in zip(images, heats, strict=True)]
    return data_uri(side_by_side(pictures))


def class_questions(
    nodule_ids: Sequence[str],
    volumes_hu: NDArray[Any],
    maps: dict[str, NDArray[Any]],
    classes: Sequence[int],
) -> list[Question]:
    """A question for each nodule and technique.

    Args:
        nodule_ids: n names.
        volumes_hu: (n, z, y, x), HU.
        maps: technique -> (n, z, y, x), for the class asked for.
        classes: n classes explained.
    """
    return [
        Question(
            id=f"c-{row:03d}-{number}",
            part="class",
            method=method,
            nodule_id=name,
            truth=CLASSES[classes[row]],
            pictures=[
                ("Patch", patch_picture(volumes_hu[row])),
                ("Explanation", patch_picture(volumes_hu[row], heat[row])),
            ],
        )
        for number, (method, heat) in enumerate(maps.items())
        for row, name in enumerate(nodule_ids)
    ]


def trust_questions(
    nodule_ids: Sequence[str],
    volumes_hu: NDArray[Any],
    maps: tuple[NDArray[Any], NDArray[Any]],
    better: int,
) -> list[Question]:
    """A question for each nodule: the maps of two networks, which is A drawn by chance.

    Args:
        nodule_ids: n names; both networks predict these right.
        volumes_hu: (n, z, y, x), HU.
        maps: of the two networks, (n, z, y, x) each.
        better: 0 or 1, the network of higher accuracy.
    """
    first = np.random.default_rng(0).integers(0, 2, len(nodule_ids))
    return [
        Question(
            id=f"t-{row:03d}",
            part="trust",
            method="guided_grad_cam_plus_plus",
            nodule_id=name,
            truth="A" if first[row] == better else "B",
            pictures=[
                ("Patch", patch_picture(volumes_hu[row])),
                ("A", patch_picture(volumes_hu[row], maps[first[row]][row])),
                ("B", patch_picture(volumes_hu[row], maps[1 - first[row]][row])),
            ],
        )
        for row, name in enumerate(nodule_ids)
    ]


def write_page(
    path: Path, questions: Sequence[Question], name: str, about: str, seed: int = 0
) -> None:
    """One static page with the questions in a mixed order, the same for every reader.

    Args:
        name: the study's name, in every row of the answers.
        about: what is shown and where it comes from; at the top of the page.
    """
    if not questions:
        raise InputError("a reader study needs at least one question")
    order = np.random.default_rng(seed).permutation(len(questions))
    study = {
        "name": name,
        "about": about,
        "questions": [asdict(questions[k]) for k in order],
    }
    # "<" is written as JSON's own escape: no text can end the script element.
    text = json.dumps(study).replace("<", "\\u003c")
    with written_aside(path) as aside:
        page = TEMPLATE.read_text(encoding="utf-8").replace("/*STUDY*/", text)
        aside.write_text(page, encoding="utf-8")


def read_answers(files: Sequence[Path]) -> pd.DataFrame:
    """The answers of all readers.

    Raises:
        InputError: no file, one that the page did not write, files of different studies, or a
            reader who answers a question twice; the message names file, row and value.
    """
    if not files:
        raise InputError("there are no answers: name the CSV files that readers exported")
    answers = pd.DataFrame()
    for path in files:
        table = read_csv(path, ANSWER_COLUMNS)
        if table.empty:
            raise InputError(f"{path}: holds no answers")
        allowed = table["part"].map(ALLOWED)
        due = f"but must be one of {', '.join(ALLOWED)}"
        refuse_rows(path, table, "part", allowed.isna(), due)
        for k, name in enumerate(("truth", "answer")):
            known = [one[k] for one in allowed]
            bad = [value not in may for value, may in zip(table[name], known, strict=True)]
            due = "but must be one of " + "; ".join(f"{p}: {', '.join(one[k])}"
                                                    for p, one in ALLOWED.items())  # fmt: skip
            refuse_rows(path, table, name, bad, due)
        answers = pd.concat([answers, table], ignore_index=True)
        new = answers.iloc[-len(table) :]
        other = new["study"] != answers["study"].iloc[0]
        refuse_rows(path, new, "study", other, f"but {files[0]} has {answers['study'].iloc[0]!r}")
        twice = answers.duplicated(["reader", "question"]).iloc[-len(table) :]
        refuse_rows(path, new, "question", twice, "answered by this reader twice")
    return answers[list(ANSWER_COLUMNS)]


def class_percentages(answers: pd.DataFrame) -> dict[str, Interval]:
    """Share of right answers by technique, 0 to 1, intervals by drawing nodules."""
    part = answers[answers["part"] == "class"]
    right = (part["answer"] == part["truth"]).astype(float)
    return {
        method: bootstrap_means(pd.DataFrame({"right": right[rows]}), part["nodule_id"][rows])[
            "right"
        ]
        for method in TECHNIQUES
        if (rows := part["method"] == method).any()
    }


def trust_score(answers: pd.DataFrame) -> Interval | None:
    """Mean score of the network of higher accuracy, -2 to 2, with interval; None: not asked."""
    part = answers[answers["part"] == "trust"]
    if part.empty:
        return None
    score = part["answer"].to_numpy(float) * np.where(part["truth"] == "B", 1, -1)
    return bootstrap_means(pd.DataFrame({"score": score}), part["nodule_id"])["score"]


def answer_table(answers: pd.DataFrame) -> pd.DataFrame:
    """The paper's percentages from answers, one row per technique, and the trust score below."""
    part = answers[answers["part"] == "class"]
    parts = [
        (TECHNIQUES[method], part[part["method"] == method], f"{_percent(value)} % right")
        for method, value in class_percentages(answers).items()
    ]
    trust = trust_score(answers)
    if trust is not None:
        asked = answers[answers["part"] == "trust"]
        name = "trust in the network of higher accuracy"
        parts.append((name, asked, f"{interval(trust, 2)}, of −2 to 2"))
    return pd.DataFrame(
        [
            {
                "technique": name,
                "readers": str(given["reader"].nunique()),
                "answers": str(len(given)),
                "result": result,
            }
            for name, given, result in parts
        ]
    )


def _percent(share: Interval) -> str:
    low, high = 100 * share.low, 100 * share.high
    return interval(Interval(100 * share.estimate, low, high, share.n_draws), 1)
