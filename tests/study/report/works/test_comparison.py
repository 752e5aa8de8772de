"""The comparison's rows, literature and ceiling: what is in them, and that nothing is mixed."""

import numpy as np
import pandas as pd
import pytest

from made_runs import made_probabilities
from nodulebook.core import paths
from nodulebook.runs.contract import Fold, Run
from nodulebook.stats import metrics
from nodulebook.stats.mixture import Expectation
from study.report import ceiling, comparison, literature
from study.report.names import title

SOURCE = "lidc_slices"


def made(name: str, strength: float, n: int = 120) -> Run:
    """A run of `n` nodules of 40 patients; the larger the strength, the better."""
    table = made_probabilities(name, strength, np.arange(n) % 40)
    history = pd.DataFrame({"epoch": [1, 2, 3], "loss": 0.5})
    folds = {
        k: Fold(table, history, {"chosen": {"classifier": "a" if k else "b"}, "n_features": 7})
        for k in range(10)
    }
    return Run(name, folds, table, ())


@pytest.fixture(scope="module")
def runs():
    names = {
        "diameter": 1.5,
        "features-size-lidc_slices": 1.5,
        "features-all-lidc_slices": 6.0,
        "features-size-phantom": 9.0,
        "rival-secnn-lidc_slices": 0.2,
        "rival-alexnet3d-lidc_slices": 1.5,
        "recipe-secnn-lidc_slices": 2.5,
        "paper-lidc_slices": 2.0,
        "paper-usual-lidc_slices": 2.2,
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


def test_rows_are_of_one_source_and_in_order(runs):
    assert list(comparison.feature_runs(runs, SOURCE)) == [
        "features-size-lidc_slices", "features-all-lidc_slices",
    ]  # fmt: skip
    assert list(comparison.rival_runs(runs, SOURCE)) == [
        "rival-alexnet3d-lidc_slices", "rival-secnn-lidc_slices",
    ]  # fmt: skip
    assert list(comparison.own_runs(runs, SOURCE)) == [
        "paper-usual-lidc_slices", "paper-lidc_slices",
    ]  # fmt: skip
    assert list(comparison.rival_runs(runs, "phantom")) == []
    assert list(comparison.recipe_runs(runs, SOURCE)) == ["recipe-secnn-lidc_slices"]


def test_a_row_has_title_key_and_pooled_numbers(runs):
    table = comparison.features_table(comparison.feature_runs(runs, SOURCE))
    assert table["classified by"].iloc[1] == ("Features: all together (`features-all-lidc_slices`)")
    assert table["chosen (folds)"].tolist() == ["a 9, b 1"] * 2
    best = runs["features-all-lidc_slices"].probabilities
    auc = metrics.roc_auc(best["label"], best["p_malignant"])
    assert table["AUC"].iloc[1].startswith(f"{auc:.3f} (")
    rivals = comparison.rival_runs(runs, SOURCE)
    networks = comparison.networks_table(rivals, SOURCE, dict(zip(rivals, (1, 2), strict=True)))
    assert networks["epochs"].tolist() == ["3", "3"]
    assert networks["seeds"].tolist() == ["1", "2"]
    for one in (table, networks):
        assert list(one)[:3] == ["classified by", "AUC", "accuracy"]
    rivals = comparison.read_rivals().set_index("profile")["parameters"]
    assert networks["parameters"].iloc[0] == f"{int(rivals['rival-alexnet3d']):,}"


def test_what_a_row_does_not_have_is_a_dash(runs):
    ruler = Run("diameter", {0: Fold(runs["diameter"].probabilities, pd.DataFrame([{}]), {})},
                runs["diameter"].probabilities, ())  # fmt: skip
    features = comparison.features_table({"diameter": ruler})
    assert features[["features", "chosen (folds)"]].iloc[0].tolist() == ["–", "–"]
    networks = comparison.networks_table(
        {"diameter": ruler, "paper-lidc_slices": runs["paper-lidc_slices"]},
        SOURCE,
        {"paper-lidc_slices": 3},
    )
    assert networks["epochs"].tolist() == ["–", "3"]
    assert networks["seeds"].tolist() == ["–", "3"]
    assert networks["parameters"].tolist() == ["–", "–"]


def test_a_work_without_ten_folds_says_so(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "DATA", tmp_path)
    (tmp_path / "rivals.csv").write_text(
        "profile,row,citation,parameters,recipe_profile,recipe_parameters,"
        "what_it_is,what_differs\n"
        "rival-secnn,[20],key2021,1234,recipe-secnn,56789,a net,its size\n"
        "rival-z,[30],key2017,5,,,other,all\n"
    )
    table = comparison.rivals_works(runs, SOURCE)
    assert table["network"].tolist() == ["SE-CNN [20]", "rival-z (no ten folds)"]
    assert table["parameters"].tolist() == ["1,234", "5"]
    assert table["the paper's row"].iloc[0] == "[20] {cite:p}`key2021`"
    assert comparison.parameters() == {
        "rival-secnn": "1,234",
        "rival-z": "5",
        "recipe-secnn": "56,789",
    }


def test_fig_9_has_every_row_of_both_tables_the_best_first(runs, nodules):
    rows = comparison.accuracy_rows(runs, nodules, SOURCE)
    assert {(name, kind) for name, kind, _ in rows} == {
        (title("features-size"), comparison.FEATURES),
        (title("features-all"), comparison.FEATURES),
        (title("rival-alexnet3d"), comparison.RIVALS),
        (title("rival-secnn"), comparison.RIVALS),
        (title("recipe-secnn"), comparison.RIVALS),
        (title("paper"), comparison.OWN),
        (title("paper-usual"), comparison.OWN),
        (title("diameter"), comparison.READERS),
        ("One reader against the others", comparison.READERS),
    }
    values = [one.estimate for *_, one in rows]
    assert values == sorted(values, reverse=True)


def test_the_curves_are_of_ours_and_the_best_of_each_kind(runs):
    shown = comparison.best_of_each_kind(runs, SOURCE)
    assert [run.name for run in shown.values()] == [
        "paper-usual-lidc_slices", "features-all-lidc_slices", "rival-alexnet3d-lidc_slices",
        "diameter",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("run", "text"),
    [
        ("honest-slices-lidc_slices", "Best recipe, three slices"),
        ("paper-usual-no-se-lidc_slices-seed2", "Paper's network, no gates, seed 2"),
        ("paper-phantom", "Paper's network, narrow, on the phantom"),
        ("diameter", "Ruler (readers' diameter)"),
        ("something-else", "something-else"),
    ],
)
def test_titles_of_runs(run, text):
    assert title(run) == text


# ---------------------------------------------------------------------------------- the literature


@pytest.fixture(scope="module")
def works():
    return literature.read_literature()


def test_the_committed_literature_is_sound(works):
    assert {"3", "4", "-", "later"} <= set(works["table"])
    assert set(works["metric"]) <= {*literature._METRIC, ""}
    assert ((works["metric"] == "") == (works["value"] == "")).all()
    value = pd.to_numeric(works["value"])
    shares = works["metric"] == "auc"
    assert value[shares].between(0.5, 1).all()
    assert value[~shares].dropna().between(50, 100).all()
    rows = works[works["table"] == "3"].drop_duplicates("row")
    assert rows["rerun_by_name"].str.startswith("features-").all() and len(rows) == 7
    assert works[works["table"] == "4"]["row"].nunique() == 6


def test_every_work_has_a_reference_entry(works):
    bib = (paths.ROOT / "references.bib").read_text()
    missing = {row.work for row in works.itertuples() if f"{{{row.citation or '-'}," not in bib}
    assert not missing


def test_claims_and_reruns_stay_in_their_columns(works, runs):
    table = literature.claimed_table(works, runs, SOURCE)
    size = table[table["row of the paper"].str.contains("Size")].iloc[0]
    assert list(table)[2].startswith("re-run")
    assert size["its authors report"] == "AUC 0.94"
    run = runs["features-size-lidc_slices"].probabilities
    auc = metrics.roc_auc(run["label"], run["p_malignant"])
    right = ((run["p_malignant"] >= 0.5) == run["label"]).mean()
    assert size["re-run, by the row's name"].endswith(f"acc. {100 * right:.1f} %, AUC {auc:.3f}")
    texture = table[table["row of the paper"].str.contains("Texture")].iloc[0]
    assert "no ten folds" in texture["re-run, by the row's name"]
    assert texture["re-run, by the work's content"].startswith("none")
    assert texture["its authors report"] == "no number seen"


def test_only_our_rule_and_a_split_by_patient_are_comparable_in_part(works):
    said = {row["work"]: literature.comparability(row) for _, row in works.iterrows()}
    assert said["Zhu 2018"] == "in part: other nodules"
    assert said["Hu 2018"] == "no: classifies no nodules"
    assert said["Local-Global 2019"] == "no: label rule, split"
    assert said["Xie 2018"] == "no: label rule, split not seen"


def test_numbers_of_one_metric_say_what_they_differ_in(works):
    assert literature.reported(works[works["work"] == "Xie 2018"]) == (
        "AUC 0.9665 (rating 3 left out), AUC 0.9445 (rating 3 benign), "
        "AUC 0.8124 (rating 3 malignant)"
    )
    text = literature.reported(works[works["work"] == "de Carvalho Filho 2017"])
    assert text == "acc. 93.19 %, sens. 92.75 %, spec. 93.33 %"


def test_literature_table_cites_where_there_is_a_source():
    columns = ["table", "row", "citation", "what_it_is", "data", "metric", "value", "how_seen",
               "rule", "label_rule", "split_unit"]  # fmt: skip
    how = ("", "not seen", "patients")
    given = pd.DataFrame(
        [
            ("3", "[1] A", "key2020", "w", "d", "accuracy_percent", "90", "abstract", *how),
            ("3", "[1] A", "key2020", "w", "d2", "accuracy_percent", "91", "abstract", *how),
            ("4", "[2] B", "", "v", "e", "auc", "0.9", "full", *how),
            ("4", "[3] C", "", "u", "f", "", "", "title", *how),
            ("later", "", "", "t", "g", "auc", "0.99", "read", *how),
        ],
        columns=columns,
    )
    table = literature.literature_table(given)
    assert table["row of the paper"].tolist() == [
        "paper's Table 3: [1] A {cite:p}`key2020`",
        "paper's Table 4: [2] B",
        "paper's Table 4: [3] C",
    ]
    assert table["acc., %"].tolist() == ["90", "", ""]
    assert table["AUC"].tolist() == ["", "0.9", ""]
    assert table["data"].tolist() == ["d", "e", "f"]
    assert list(table)[1:3] == ["acc., %", "AUC"]


def test_other_works_have_one_row_each(works):
    table = literature.later_table(works)
    assert table["work"].is_unique and list(table)[1] == "reported"
    assert len(table) == works["work"][works["table"] == "later"].nunique()


# ------------------------------------------------------------------------ readers and arithmetic


def test_reader_tables_have_one_row_per_statistic(nodules):
    table = ceiling.readers_table(nodules, nodules)
    assert table["one reader against"].tolist()[:2] == ["ratings / nodules", "AUC"]
    # 5;5;4;1: all but one leave a mean off 3; 2;1;2;3 and 1;1;2: all; 3;4;5: all.
    assert table.iloc[0, 3] == "70 / 20"
    agreement = ceiling.agreement_table(nodules, nodules)
    assert agreement["nodules"].tolist() == ["10", "20", "20", "20"]


def test_the_ceiling_is_printed_next_to_the_ratings(nodules):
    accuracies = [Expectation(x, 0.1, 0.6, 0.61, 0.62, 0.0) for x in (0.8, 0.7, 0.9)]
    aucs = [Expectation(0.1, x, 0.1, 0.1, 0.1, 0.0) for x in (0.85, 0.75, 0.95)]
    table = ceiling.expectation_table(accuracies, aucs, nodules)
    assert table["likeliest"].tolist() == ["0.800", "0.850", "0.600", "0.610", "0.620"]
    assert table["lowest"].tolist() == ["0.700", "0.750", "", "", ""]
    assert table["highest"].tolist() == ["0.900", "0.950", "", "", ""]
    assert [bool(cell) for cell in table["seen in the ratings"]] == [False] * 3 + [True] * 2


def test_the_arithmetic_of_the_paper():
    table = ceiling.arithmetic_table("97.08")
    assert table["nodules"].tolist() == ["1,230 (600 + 630)", "1,004 (450 + 554)"]
    assert set(table.iloc[:, 1]) == {"none"} and set(table.iloc[:, 2]) == {"not possible"}
    assert set(table["AUC 0.9664"]) == {"possible"}
    assert set(ceiling.arithmetic_table("97.08", auc=0.9)["AUC 0.9"]) == {"not possible"}
    assert ceiling.arithmetic_table("97.15").iloc[0, 1] == "1195"


def test_an_auc_below_the_calls_needs_only_the_predicted_classes_taken_together():
    """18 + 18 errors of 600 + 630, called positives in an order that is no better than chance:
    one predicted class ranked below chance is enough for 0.9664.
    """
    label = np.repeat([1, 1, 0, 0], [582, 18, 18, 612])
    called = np.repeat([1, 0, 1, 0], [582, 18, 18, 612])
    pairs = {(1, 1): 582 * 18, (0, 0): 18 * 612, (1, 0): 582 * 612}
    within = (0.9664 * 600 * 630 - pairs[1, 0] - 0.5 * pairs[1, 1]) / pairs[0, 0]
    assert 0.34 < within < 0.36  # the AUC among nodules called benign; 0.5 among the others
    auc = (pairs[1, 0] + 0.5 * pairs[1, 1] + within * pairs[0, 0]) / (600 * 630)
    assert auc == pytest.approx(0.9664) and auc < metrics.roc_auc(label, called)
