"""The comparison chapter's tables: which rows there are, and that nothing claimed is mixed in."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from made_runs import made_probabilities
from nodulebook.core import paths
from nodulebook.runs.contract import Fold, Run
from nodulebook.stats import metrics
from nodulebook.stats.readers import Expectation
from study.report import comparison as c


def made(name: str, strength: float, n: int = 120, **about) -> Run:
    """A run of `n` nodules of 40 patients; the larger the strength, the better."""
    table = made_probabilities(name, strength, np.arange(n) % 40)
    history = pd.DataFrame({"epoch": [1, 2, 3], "loss": 0.5})
    folds = {
        k: Fold(table, history, {"chosen": {"classifier": "a" if k else "b"}, "n_features": 7}
                | about)
        for k in range(10)
    }  # fmt: skip
    return Run(name, folds, table, ())


@pytest.fixture(scope="module")
def runs():
    names = {
        "diameter": 1.5,
        "features-size-lidc_slices": 1.5,
        "features-all-lidc_slices": 6.0,
        "features-size-phantom": 9.0,
        "rival-b-lidc_slices": 0.2,
        "rival-a-lidc_slices": 1.5,
        "paper-lidc_slices": 2.0,
        "quick-lidc_slices": 1.0,
    }
    return {name: made(name, strength) for name, strength in names.items()}


@pytest.fixture(scope="module")
def nodules():
    rows = ["5;5;4;1", "2;1;2;3", "3;4;5", "1;1;2"] * 5
    return pd.DataFrame(
        {
            "nodule_id": [f"n{k}" for k in range(20)],
            "patient_id": [f"p{k}" for k in range(20)],
            "malignancy": rows,
        }
    )


def test_table_3_has_groups_diameter_and_readers_of_one_source(runs, nodules):
    table = c.features_table(runs, c.reader_rows(nodules, nodules), "lidc_slices")
    assert table["classified by"].tolist() == [
        "size", "all together", "diameter alone", "one reader, labelled nodules",
        "one reader, reference nodules",
    ]  # fmt: skip
    assert table["chosen (folds)"].tolist()[:2] == ["a 9, b 1"] * 2
    assert table["numbers"].tolist() == ["7", "7", "1", "1", "1"]
    best = runs["features-all-lidc_slices"].probabilities
    auc = metrics.roc_auc(best["label"], best["p_malignant"])
    assert table["AUC"].iloc[1].startswith(f"{auc:.3f} (")
    assert table["AUC minus diameter"].tolist()[2:] == ["", "", ""]


def test_a_star_marks_what_stands_many_comparisons(runs, nodules):
    table = c.features_table(runs, c.reader_rows(nodules, nodules), "lidc_slices")
    assert not table["AUC minus diameter"].iloc[0].endswith("*")
    assert table["AUC minus diameter"].iloc[1].endswith(" *")
    one, other = runs["features-all-lidc_slices"], runs["diameter"]
    narrow, wide = (c.difference(one, other, "roc_auc", level) for level in (0.95, 0.99))
    assert wide.low < narrow.low and narrow.high < wide.high
    some = made("paper-lidc_slices", 2.5)
    assert c.with_star(some, other, "roc_auc", 1).endswith(" *")
    assert not c.with_star(some, other, "roc_auc", 1000).endswith("*")


def test_differences_are_of_the_nodules_that_both_have(runs):
    one, other = runs["features-all-lidc_slices"], runs["diameter"]
    fewer = replace(one, probabilities=one.probabilities.iloc[:90])
    got = c.difference(fewer, other, "roc_auc", 0.95).estimate
    part = other.probabilities.iloc[:90]
    wanted = metrics.roc_auc(fewer.probabilities["label"], fewer.probabilities["p_malignant"])
    assert got == pytest.approx(wanted - metrics.roc_auc(part["label"], part["p_malignant"]))


def test_rivals_become_rows_by_themselves(runs, nodules, tmp_path, monkeypatch):
    monkeypatch.setattr(c, "DATA", tmp_path)
    readers = c.reader_rows(nodules, nodules)
    table = c.rivals_table(runs, readers, "lidc_slices")
    assert table["classified by"].tolist()[:4] == ["a", "b", "paper", "diameter alone"]
    assert table["epochs"].tolist()[:3] == ["3", "3", "3"]
    assert table["paper's row"].tolist()[:3] == ["", "", "ours"]
    (tmp_path / "rivals.csv").write_text("profile,row\nrival-a,[29]\n")
    table = c.rivals_table(runs, readers, "lidc_slices")
    assert table["paper's row"].tolist()[:3] == ["[29]", "", "ours"]


def test_the_sentence_on_rivals_says_who_is_above_and_below(runs):
    assert c.rivals_sentence(runs, "lidc_slices").startswith("None of them")
    between = {"laptop-lidc_slices": made("laptop-lidc_slices", 1.5)}
    worse = {"rival-b-lidc_slices": made("rival-b-lidc_slices", 0.0)}
    better = {"rival-a-lidc_slices": made("rival-a-lidc_slices", 5.0)}
    text = c.rivals_sentence(runs | between | worse | better, "lidc_slices")
    auc = c._auc(better["rival-a-lidc_slices"])
    assert text.startswith(
        f"2 of them have been run whole. The highest AUC is that of “a”, {auc:.3f}"
    )
    ours, diameter = text.split("; above diameter alone")
    assert "): a; below it: b" in ours and "): a; below it: b" in diameter


def test_what_the_rivals_are_and_which_have_not_been_run(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(c, "DATA", tmp_path)
    (tmp_path / "rivals.csv").write_text(
        "profile,row,citation,parameters,what_it_is,what_differs\n"
        "rival-a,[29],key2021,1234,a net,its size\nrival-z,[30],key2017,5,other,all\n"
    )
    table = c.rivals_works(runs, "lidc_slices")
    assert table["classified by"].tolist() == ["a", "z (not run whole)"]
    assert table["parameters"].tolist() == ["1,234", "5"]
    assert table["paper's row"].iloc[0] == "[29] {cite:p}`key2021`"


def test_the_sentence_on_features_follows_the_numbers(runs):
    text = c.features_sentence(runs, "lidc_slices")
    assert "row “all together”" in text and "2 comparisons: all together; below it: none" in text
    assert c.features_sentence({}, "lidc_slices") == "No feature group has been run whole yet."
    worse = runs | {"features-size-lidc_slices": made("features-size-lidc_slices", 0.0)}
    assert "below it: size;" in c.features_sentence(worse, "lidc_slices")


def test_fig_9_has_every_row_of_both_tables_the_best_first(runs, nodules):
    rows = c.accuracy_rows(runs, nodules, "lidc_slices")
    assert {(name, kind) for name, kind, _ in rows} == {
        ("size", "hand-crafted features"),
        ("all", "hand-crafted features"),
        ("a", "networks of others"),
        ("b", "networks of others"),
        ("paper", "networks of ours"),
        ("diameter", "readers"),
        ("one reader", "readers"),
    }
    values = [one.estimate for *_, one in rows]
    assert values == sorted(values, reverse=True)


# ---------------------------------------------------------------------------------- the literature


@pytest.fixture(scope="module")
def literature():
    return c.read_literature()


def test_the_committed_literature_is_sound(literature):
    assert set(literature["table"]) == {"3", "4", "-", "later"}
    assert set(literature["metric"]) <= {*c._METRIC, ""}
    assert ((literature["metric"] == "") == (literature["value"] == "")).all()
    value = pd.to_numeric(literature["value"])
    shares = literature["metric"] == "auc"
    assert value[shares].between(0.5, 1).all()
    assert value[~shares].dropna().between(50, 100).all()
    bib = (paths.ROOT / "references.bib").read_text()
    for key in set(literature["citation"]) - {""}:
        assert f"{{{key}," in bib, key
    rows = literature[literature["table"] == "3"].drop_duplicates("row")
    assert rows["rerun_by_name"].str.startswith("features-").all() and len(rows) == 7
    assert literature[literature["table"] == "4"]["row"].nunique() == 6


def test_claims_and_reruns_stay_in_their_columns(literature, runs):
    table = c.claimed_table(literature, runs, "lidc_slices", "3")
    assert set(table["the paper's cells"]) == {"lost"}
    size = table[table["row of the paper"].str.contains("Size")].iloc[0]
    assert size["its authors report"] == "AUC 0.94"
    run = runs["features-size-lidc_slices"].probabilities
    auc = metrics.roc_auc(run["label"], run["p_malignant"])
    right = ((run["p_malignant"] >= 0.5) == run["label"]).mean()
    assert size["re-run, as the row is called"] == f"size: acc. {100 * right:.1f} %, AUC {auc:.3f}"
    texture = table[table["row of the paper"].str.contains("Texture")].iloc[0]
    assert texture["re-run, as the row is called"] == "features-texture: not run whole yet"
    assert texture["re-run, as the work is"] == "none: no such classifier"
    assert texture["its authors report"] == "no number seen"


def test_numbers_of_one_metric_say_what_they_differ_in(literature):
    text = c.reported(literature[literature["work"] == "Xie 2018"])
    assert text == (
        "AUC 0.9665 (rating 3 left out), AUC 0.9445 (rating 3 benign), "
        "AUC 0.8124 (rating 3 malignant)"
    )
    text = c.reported(literature[literature["work"] == "de Carvalho Filho 2017"])
    assert text == "acc. 93.19 %, sens. 92.75 %, spec. 93.33 %"


def test_later_works_are_a_row_each(literature):
    table = c.later_table(literature)
    assert table["work"].is_unique
    assert set(table["work"]) == set(literature["work"][literature["table"] == "later"])


# ------------------------------------------------------------------------ readers and arithmetic


def test_reader_tables_have_a_row_a_statistic(nodules):
    table = c.readers_table(nodules, nodules)
    assert table["one reader"].tolist()[:2] == ["ratings / nodules", "AUC"]
    # 5;5;4;1: all but one leave a mean off 3; 2;1;2;3 and 1;1;2: all; 3;4;5: all.
    assert table.iloc[0, 3] == "70 / 20"
    agreement = c.agreement_table(nodules, nodules)
    assert agreement["nodules"].tolist() == ["10", "20", "20", "20"]


def test_expectations_stand_beside_what_was_seen(nodules):
    accuracies = [Expectation(x, 0.1, 0.6, 0.61, 0.62, 0.0) for x in (0.8, 0.7, 0.9)]
    aucs = [Expectation(0.1, x, 0.1, 0.1, 0.1, 0.0) for x in (0.85, 0.75, 0.95)]
    table = c.expectation_table(accuracies, aucs, nodules)
    assert table["likeliest"].tolist() == ["0.800", "0.850", "0.600", "0.610", "0.620"]
    assert table["lowest"].tolist() == ["0.700", "0.750", "", "", ""]
    assert table["highest"].tolist() == ["0.900", "0.950", "", "", ""]
    assert [bool(cell) for cell in table["seen in the ratings"]] == [False] * 3 + [True] * 2


def test_the_arithmetic_of_the_paper():
    table = c.arithmetic_table("97.08")
    assert table["nodules"].tolist() == ["1,230 (600 + 630)", "1,004 (450 + 554)"]
    assert set(table.iloc[:, 1]) == {"none"} and set(table.iloc[:, 2]) == {"not possible"}
    text = c.arithmetic_sentence("97.08", 0.9664)
    assert "0.9664 is possible" in text and "worse than chance" in text
    assert "needs nothing odd" in c.arithmetic_sentence("97.08", 0.99)
    assert "not possible" in c.arithmetic_sentence("97.08", 0.9)
    assert c.arithmetic_table("97.15").iloc[0, 1] == "1195"


def test_the_figures_show_ours_and_the_best_of_each_other_kind(runs):
    shown = c.best_of_each_kind(runs, "lidc_slices")
    assert {text: run.name for text, run in shown.items()} == {
        "ours, as the paper says": "paper-lidc_slices",
        "hand-crafted features: all together": "features-all-lidc_slices",
        "networks of others: a": "rival-a-lidc_slices",
        "diameter alone": "diameter",
    }


def test_rows_of_a_table_are_of_its_source_and_in_its_order(runs):
    assert list(c.rows_of(runs, "lidc_slices", "3")) == ["size", "all together", "diameter alone"]
    assert list(c.rows_of(runs, "lidc_slices", "4")) == ["a", "b", "paper", "diameter alone"]
    assert list(c.rows_of(runs, "phantom", "4")) == ["diameter alone"]
