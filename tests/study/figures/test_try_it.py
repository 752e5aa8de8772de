"""The page on which a reader moves rule and threshold, in the browser, against the tables."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, recall_score

from bookkit.checks.browser import show
from bookkit.checks.looks import axe_findings
from browser import opened
from nodulebook.data.cohort import read_nodules
from nodulebook.runs.contract import read_run
from study.figures import try_it
from study.report import label_rules

NAMES = ("paper-lidc_slices", "honest-slices-lidc_slices")
CELLS = """() => Object.fromEntries([...document.querySelectorAll(
  "#try-it-numbers :is([data-n], tbody td)")].map(
    one => [Object.entries(one.dataset)[0].join(" "), one.textContent]))"""


@pytest.fixture(scope="module")
def networks():
    return {name: [label_rules.every_prediction(read_run(name))] for name in NAMES}


def expected(row, networks, cut: float) -> dict[str, str]:
    """The numbers of the table of `auc_on_lidc`, and accuracy and sensitivity by scikit-learn."""
    found = {"n all": f"{row.n:,}", "n kept": f"{row.predicted:,}",
             "auc 2": f"{row.ruler_same.estimate:.3f}"}  # fmt: skip
    labelled = label_rules.labelled_by(row.rule, read_nodules())
    for place, (name, (table,)) in enumerate(networks.items()):
        found[f"auc {place}"] = f"{row.networks[name].estimate:.3f}"
        same = labelled.merge(table[["nodule_id", "p_malignant"]], on="nodule_id")
        for other in networks.values():
            same = same[same["nodule_id"].isin(other[0]["nodule_id"])]
        called = same["p_malignant"] >= cut
        found[f"accuracy {place}"] = f"{100 * accuracy_score(same['label'], called):.1f} %"
        found[f"sensitivity {place}"] = f"{100 * recall_score(same['label'], called):.1f} %"
        found[f"fp {place}"] = f"{int((called & (same['label'] == 0)).sum()):,}"
    return found


def test_each_rule_gives_the_numbers_of_the_tables(networks, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    view = try_it.threshold_page(networks, read_nodules()).data
    page.write_text(
        f"<!doctype html><html lang='en'><title>t</title><main><h1>t</h1>{view}</main></html>"
    )
    assert page.stat().st_size < 3_000_000
    rows = label_rules.rule_rows(networks, read_nodules(), n_draws=2)
    with opened(page) as tab:
        show(tab, page.resolve().as_uri(), 390, "light")
        handle = tab.get_by_role("slider", name="Networks")
        handle.wait_for()
        written = tab.evaluate(CELLS)
        for row in (*rows, next(one for one in rows if one.rule.key == "mean")):
            tab.locator("select").select_option(label=row.rule.text)
            seen, want = tab.evaluate(CELLS), expected(row, networks, 0.5)
            assert {key: seen[key] for key in want} == want, row.rule.key
        assert seen == written
        handle.focus()
        for _ in range(3):  # the keyboard moves the networks' threshold, and not the ruler's
            handle.press("ArrowRight")
        moved, want = tab.evaluate(CELLS), expected(row, networks, 0.53)
        assert {key: moved[key] for key in want} == want != expected(row, networks, 0.5)
        assert moved["tp 2"] == seen["tp 2"]
        assert axe_findings(tab) == []
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390


def test_without_scripts_the_numbers_of_our_rule_are_read(networks, tmp_path: Path) -> None:
    nodules = read_nodules()
    view = str(try_it.threshold_page(networks, nodules).data)
    labels, scores = try_it.scored_nodules(networks, nodules)
    n, rows = try_it.measures(labels["mean"], scores)
    assert f'<b data-n="kept">{n["kept"]:,}</b>' in view
    assert f'<td data-auc="0">{rows[NAMES[0]]["auc"]:.3f}</td>' in view and "<noscript>" in view


def test_a_nodule_counts_only_with_a_label_and_every_score() -> None:
    scores = {"a": np.array([[0.9, 0.2, np.nan, 0.5]]), "ruler": np.array([[9.0, 3.0, 9.0, 9.0]])}
    n, rows = try_it.measures("101-", scores)
    assert n == {"all": 3, "kept": 2, "malignant": 1}
    assert (rows["a"]["tp"], rows["a"]["tn"], rows["ruler"]["auc"]) == (1, 1, 1.0)
