"""Tables of what the maps were worth: the numbers in them, from explanations made by hand."""

import numpy as np
import pandas as pd
import pytest

from nodulebook.data.folds import read_folds
from nodulebook.explain.faithfulness import JUDGE_MM3
from nodulebook.explain.scores import METHODS, OF_THE_NETWORK, SANITY_COLUMNS, Explanations
from study.report import maps as explained

NODULES = read_folds().head(8)
SMALL = ["grad_cam", "gaussian"]


@pytest.fixture(scope="module")
def run():
    """Eight real nodules; every number of a method is (its place in METHODS) / 10."""
    rows = []
    for row, nodule in enumerate(NODULES.itertuples()):
        for placement in ("centred", "off-centre"):
            for k, method in enumerate(METHODS):
                centred = placement == "centred"
                explained_class = row % 2
                rows.append(
                    {
                        "nodule_id": nodule.nodule_id,
                        "patient_id": nodule.patient_id,
                        "label": nodule.label,
                        "placement": placement,
                        "method": method,
                        "p_malignant": 0.9 * explained_class,
                        "explained": explained_class,
                        "right": int(explained_class == nodule.label),
                        "mask_mm3": 0 if row == 7 else 100,
                        "empty": 0,
                        "pointing": np.nan if row == 7 else float(k % 2),
                        "energy": np.nan if row == 7 else (k if centred else k / 2) / 10,
                        "dice": np.nan if row == 7 else k / 10,
                        "error_mm": np.nan if row == 7 else float(k),
                        "deletion": k / 10 if centred else np.nan,
                        "insertion": k / 10 if centred else np.nan,
                        # grad_cam keeps much for malignant and little for benign; the others the
                        # same for both, enough for the judge to say malignant.
                        "kept_mm3": (
                            (500.0 if explained_class else 100.0) if k == 0 else JUDGE_MM3 + 1
                        ),
                        "kept_other_mm3": (
                            (100.0 if explained_class else 500.0) if k == 0 else JUDGE_MM3 + 1
                        ),
                    }
                )
    methods = [name for name in SANITY_COLUMNS if name in METHODS]
    sanity = pd.DataFrame(
        [
            {"nodule_id": n.nodule_id, "patient_id": n.patient_id, "check": "weights", "step": step}
            | dict.fromkeys(methods, value)
            for n in NODULES.itertuples()
            for step, value in (("logits", 0.5), ("first", -0.25))
        ]
    )
    return explained.ExplainedRun("made", "phantom", Explanations(pd.DataFrame(rows), sanity), (0,))


def test_a_measure_is_its_mean_over_the_nodules_with_an_outline(run):
    table = explained.measure_table(run, "centred").set_index("method")
    assert list(table.index) == list(METHODS.values())
    assert table.loc["Grad-CAM++", "energy inside"] == "0.100 (0.100 to 0.100)"
    assert table.loc["centred Gaussian", "error (mm)"] == "6.0 (6.0 to 6.0)"
    assert "deletion" in table.columns
    assert "deletion" not in explained.measure_table(run, "off-centre").columns
    assert "n = 8 nodules of" in run.caption and "7 of them with an outline" in run.caption
    assert "not CT" in run.caption


def test_areas_under_a_rating_are_not_compared_with_areas_under_a_probability(run):
    run.predicts_rating = True
    columns = explained.measure_table(run, "centred").columns
    assert not {"deletion", "insertion"} & set(columns)
    assert "energy inside" in columns


def test_differences_to_a_rival_are_taken_nodule_by_nodule(run):
    table = explained.against_gaussian(run).set_index("method")
    assert list(table.index) == [METHODS[name] for name in OF_THE_NETWORK]
    assert table.loc["Grad-CAM", "energy inside, centred"] == "−0.600 (−0.600 to −0.600)"
    assert table.loc["Grad-CAM", "energy inside, off-centre"] == "−0.300 (−0.300 to −0.300)"


def test_groups_split_all_nodules(run):
    table = explained.group_table(run, "energy").set_index("nodules")
    counts = table["n"].astype(int)
    assert counts["benign"] + counts["malignant"] == 8
    assert counts["predicted right"] + counts["predicted wrong"] == 8
    assert counts[[name for name in counts.index if "mm" in name]].sum() == 8


def test_the_judge_tells_classes_apart_only_where_the_map_does(run):
    table = explained.discrimination_table(run).set_index("method")
    assert table.loc["Grad-CAM", "first task"].startswith("1.00")
    assert table.loc["Grad-CAM", "second task"].startswith("1.00")
    assert table.loc["Grad-CAM", "AUC of the tissue volume"].startswith("1.00")
    assert table.loc["centred Gaussian", "first task"].startswith("0.50")
    assert table.loc["centred Gaussian", "second task"].startswith("0.50")
    assert table.loc["centred Gaussian", "AUC of the tissue volume"].startswith("0.50")
    assert explained.majority(run) == "0.50"


def test_sanity_by_step(run):
    table = explained.sanity_table(run)
    steps = table["weights randomised in"].tolist()
    assert steps == ["fully connected layer", "and first convolution: all"]
    assert table["Grad-CAM++"].tolist() == ["0.50 (0.50 to 0.50)", "−0.25 (−0.25 to −0.25)"]
