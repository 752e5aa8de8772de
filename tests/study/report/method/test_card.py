"""The model card's table of results."""

import pandas as pd

from nodulebook.core import paths
from study.experiments.shifts import SHIFTS
from study.report.method import card


def test_each_distance_off_the_middle_has_a_row_and_so_has_the_middle(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "runs_folder", lambda: tmp_path)
    table = pd.DataFrame(
        {
            "nodule_id": ["a", "b"],
            "patient_id": ["p", "q"],
            "label": [0, 1],
            "diameter_mm": [5.0, 9.0],
        }
    )
    assert card._shifted("some", table) == {}
    columns = {f"p_{y}_{x}": [0.1, 0.9 - 0.1 * abs(y + x)] for y, x in card.POSITIONS}
    (tmp_path / "some").mkdir()
    moved = pd.DataFrame({"nodule_id": ["a", "b"], "fold": [0, 1], **columns})
    moved.to_csv(tmp_path / "some" / SHIFTS, index=False)
    parts = card._shifted("some", table)
    millimetres = sorted({max(abs(y), abs(x)) for y, x in card.POSITIONS})
    assert list(parts) == [f"all, one view, {mm} mm off the middle" for mm in millimetres]
    middle, near, *_ = parts.values()
    assert len(middle) == 2 and len(near) == 8
    assert near.query("nodule_id == 'b'")["p_malignant"].round(6).tolist() == [0.8] * 4
