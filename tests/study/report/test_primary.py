"""The primary family follows the committed plan, and every page prints the same verdicts."""

from dataclasses import replace
from types import SimpleNamespace

import jupytext
import numpy as np
import pytest
from nbclient import NotebookClient
from sklearn.linear_model import LogisticRegression

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.data.cohort import read_nodules
from nodulebook.data.folds import read_folds
from nodulebook.stats.bootstrap import Interval, label_and_p
from nodulebook.stats.calibration import calibrated, calibration_slope, logit
from nodulebook.stats.paired_tests import holm
from study.report.pooled import complete_runs
from study.report.primary import (
    family_table,
    main_runs,
    of_all,
    primary_family,
    read_plan,
    seeds_of,
    sources,
    texts,
    verdict_word,
)

PAGES = ("index", "chapters/results", "chapters/conclusions", "chapters/auc_on_lidc")
SAME_AUC = (
    {"index": "auc-paper-alone", "chapters/results": "auc-paper-alone",
     "chapters/conclusions": "auc-paper-alone", "chapters/auc_on_lidc": "paper-ours"},
    {"index": "auc-ruler-alone", "chapters/conclusions": "auc-ruler-alone",
     "chapters/auc_on_lidc": "ruler-ours"},
)  # fmt: skip
"""Page and name of the text where pages print one AUC with its interval."""
FALLBACKS = ("paper-lidc_slices", "paper-no-se-lidc_slices", "honest-slices-lidc_slices")
PLANNED = ("paper-usual-lidc_slices", "paper-usual-no-se-lidc_slices",
           "robust-slices-lidc_slices")  # fmt: skip


def _run(skill, seed=0):
    """Predictions of the cohort that follow the label as much as `skill` says."""
    folds = read_folds()
    noise = np.random.default_rng(seed).normal(size=len(folds))
    p = 1 / (1 + np.exp(-(skill * (folds["label"] - 0.5) + noise)))
    return SimpleNamespace(probabilities=folds.assign(p_malignant=p))


def _runs(names, skills=(2, 2, 3)):
    return {name: _run(skill, k) for k, (name, skill) in enumerate(zip(names, skills, strict=True))}


@pytest.mark.parametrize(
    "low, high, p, word",
    [
        (0.01, 0.03, 0.04, "higher"),
        (-0.03, -0.01, 0.04, "lower"),
        (0.01, 0.03, 0.06, "no difference shown"),  # the interval alone is not enough
        (-0.01, 0.03, 0.04, "no difference shown"),  # nor is the test
        (-0.01, 0.03, 0.5, "no difference shown"),
    ],
)
def test_test_and_interval_must_both_say_so(low, high, p, word):
    assert verdict_word(Interval((low + high) / 2, low, high, 100), p) == word


def test_planned_runs_come_before_their_stand_ins():
    runs = _runs(FALLBACKS)
    assert all(one.stand_in for one in primary_family(runs, 50).values())
    runs |= _runs(PLANNED[:1] + PLANNED[2:], skills=(2, 3))
    family = primary_family(runs, 50)
    assert [one.stand_in for one in family.values()] == [False, True, False]
    assert family["gates"].runs == FALLBACKS[:2]  # its second arm is not there yet
    with pytest.raises(InputError, match="gates"):
        primary_family({name: runs[name] for name in runs if "no-se" not in name}, 50)


def test_seeds_are_those_of_the_run_and_of_no_other():
    names = ["a-x", "a-x-seed1", "a-x-seed2", "a-no-se-x", "aa-x", "a-x-seed"]
    runs = {name: SimpleNamespace(probabilities=name) for name in names[:-1]}
    assert seeds_of(runs, "a-x") == ["a-x", "a-x-seed1", "a-x-seed2"]
    runs = _runs(FALLBACKS) | {f"{FALLBACKS[0]}-seed1": _run(2, 9)}
    family = primary_family(runs, 50)
    assert family["paper-adds-to-ruler"].seeds == (2,)
    assert family["gates"].seeds == (2, 1)
    assert texts(family)["seeds-paper-adds-to-ruler"] == "2 seeds"
    assert texts(family)["seeds-gates"] == "2 seeds against one seed"
    many = {"gates": replace(family["gates"], seeds=(11, 11))}
    assert texts(many)["seeds-gates"] == "11 seeds"


def test_the_family_is_corrected_together():
    family = primary_family(_runs(FALLBACKS), 50)
    assert list(family) == [entry["id"] for entry in read_plan()["primary"]]
    wanted = holm([one.result.by_fold.p_value for one in family.values()])
    assert [one.p_holm for one in family.values()] == pytest.approx(wanted)
    table = family_table(family)
    assert table["verdict"].tolist() == [one.verdict for one in family.values()]
    assert set(sources(family)) == set(texts(family))


def test_a_skilled_network_adds_to_the_ruler_and_a_guess_does_not():
    runs = _runs(FALLBACKS, skills=(0, 0, 6))
    family = primary_family(runs, 500)
    assert family["best-recipe-adds-to-ruler"].verdict == "higher"
    assert family["paper-adds-to-ruler"].verdict == "no difference shown"


def test_a_count_says_of_how_many_where_predictions_lack():
    assert (of_all(1009, 1010), of_all(1010, 1010)) == ("1,009 of 1,010", "1,010")


def test_the_plan_is_of_the_committed_cohort():
    mm = read_nodules().set_index("nodule_id")["diameter_mm"]
    assert (mm.reindex(read_folds()["nodule_id"]) > 0).all()


def test_no_page_types_a_verdict():
    """Each page takes the words from the family: it glues them and writes none itself."""
    for page in PAGES:
        text = (paths.ROOT / f"{page}.md").read_text()
        assert "primary.primary_family(runs)" in text, page
        prose = text.split("## What limits")[0]
        assert "verdict: higher" not in prose and "verdict: no difference" not in prose, page
        for key in ("paper-adds-to-ruler", "gates", "best-recipe-adds-to-ruler"):
            if page != "chapters/auc_on_lidc":
                assert f"{{glue:text}}`verdict-{key}`" in text, (page, key)


def test_the_calibrated_slope_of_every_main_run_is_near_1():
    for name, tables in main_runs(complete_runs(compared=True)).items():
        label, p = label_and_p(tables[0])
        model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=5000).fit(logit(p)[:, None], label)
        whole = np.ones((1, len(p)))
        assert calibration_slope(label, p, whole)[0] == pytest.approx(model.coef_[0, 0], rel=1e-4)
        after = calibration_slope(*label_and_p(calibrated(tables[0])), whole)[0]
        assert 0.8 < after < 1.25, name


@pytest.mark.slow
def test_verdicts_and_aucs_are_equal_across_pages():
    keys = ("verdict", "auc-paper-adds", "auc-gates", "auc-best-recipe", "p-")
    printed = {}
    for page in PAGES:
        notebook = jupytext.read(paths.ROOT / f"{page}.md")
        where = {"metadata": {"path": str((paths.ROOT / page).parent)}}
        NotebookClient(notebook, timeout=600, resources=where).execute()
        outputs = [one for cell in notebook.cells for one in cell.get("outputs", [])]
        named = [(one.get("metadata", {}).get("scrapbook", {}).get("name"), one) for one in outputs]
        printed[page] = {
            name: one["data"].get("application/papermill.record/text/plain")
            for name, one in named
            if name
        }
    primary = [
        {name: text for name, text in texts_.items() if name.startswith(keys)}
        for texts_ in printed.values()
    ]
    assert primary[0] and all(one == primary[0] for one in primary), primary
    assert "verdict-gates" in primary[0]
    for names in SAME_AUC:
        found = {page: printed[page][name] for page, name in names.items()}
        assert len(set(found.values())) == 1, found
