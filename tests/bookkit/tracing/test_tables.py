"""Tables of the book: valid MyST, whatever a cell holds."""

from dataclasses import replace

import pandas as pd
import pytest
from test_artefacts import _fold

from bookkit.tracing.tables import numbered, pairs, plain, profile_table, record_table
from nodulebook.core.settings import read_profile


def _rows(markdown):
    """The cells of a `table` directive, the heading first, checked for shape."""
    lines = markdown.data.split("\n")
    assert lines[0].startswith(":::{table} ") and lines[1].startswith(":name: ")
    assert lines[2] == "" and lines[-1] == ":::"
    rows = []
    for line in lines[3:-1]:
        assert line.startswith("|") and line.endswith("|")
        cells = line.replace("\\|", "\0")[1:-1].split("|")
        rows.append([cell.strip().replace("\0", "|") for cell in cells])
    assert len({len(row) for row in rows}) == 1
    rule = rows.pop(1)
    assert rule[0] == ":---" and set(rule) <= {":---", "---:"}
    return rows


def test_directive_by_hand():
    table = pd.DataFrame({"run": ["a", "b"], "AUC": ["0.9", "0.8"]})
    assert numbered(table, "What it is.", "tab-x").data == (
        ":::{table} What it is.\n:name: tab-x\n\n"
        "| run | AUC |\n|:---|---:|\n| a | 0.9 |\n| b | 0.8 |\n:::"
    )


def test_columns_of_numbers_are_read_from_the_right():
    table = pd.DataFrame(
        {
            "run": ["1", "2"],
            "AUC": ["0.9 (0.8 to 1.0)", "−0.1"],
            "n": [3, ""],
            "p": ["–", 0.3],
            "why": ["a", "2"],
        }
    )
    assert "|:---|---:|---:|---:|:---|" in numbered(table, "c", "n").data


def test_pipes_and_line_breaks_stay_in_their_cell():
    table = pd.DataFrame({"a|b": ["x|y", "one\ntwo"], "c\nd": ["", "|"]})
    assert _rows(numbered(table, "c", "n")) == [
        ["a|b", "c d"],
        ["x|y", ""],
        ["one two", "|"],
    ]


def test_caption_stays_on_one_line():
    assert numbered(pd.DataFrame({"a": ["1"]}), "one\ntwo", "n").data.startswith(
        ":::{table} one two\n:name: n\n"
    )


def test_whole_numbers_stay_whole_beside_others():
    table = pd.DataFrame({"n": [3], "share": [0.5]})
    assert _rows(numbered(table, "c", "n"))[1] == ["3", "0.5"]


def test_an_interval_and_a_count_stay_on_one_line():
    table = pd.DataFrame(
        {"AUC": ["0.9 (0.8 to 0.95)"], "n": ["9 of 1,010"], "what": ["16 to 18 mm"]}
    )
    cells = _rows(numbered(table, "c", "n"))[1]
    assert cells == ["0.9 (0.8\u00a0to\u00a00.95)", "9\u00a0of\u00a01,010", "16 to 18 mm"]


def test_a_plain_table_has_no_number_and_its_box_has_the_label():
    table = pairs({"n": 3})
    assert plain(table).data == "|  | value |\n|:---|---:|\n| n | 3 |"
    assert plain(table, "The run", "run-a").data.startswith(":::{dropdown} The run\n:name: run-a\n")


@pytest.mark.parametrize("name", ["quick", "paper"])
def test_profile_table_has_every_setting(name):
    profile = read_profile(name)
    rows = dict(_rows(profile_table(profile, name, "tab"))[1:])
    keys = [*type(profile.network).model_fields, *type(profile.training).model_fields]
    assert len(rows) == len(keys) + 1
    assert rows["seed"] == "0"
    assert rows["network: filters"] == ", ".join(str(n) for n in profile.network.filters)
    assert rows["training: epochs"] == str(profile.training.epochs)
    assert rows["training: learning rate"] == str(profile.training.learning_rate)
    assert rows["network: squeeze excitation"] == "True"


def test_empty_list_is_shown_as_none():
    profile = read_profile("quick")
    training = profile.training.model_copy(update={"learning_rate_drops": []})
    shown = profile_table(profile.model_copy(update={"training": training}), "quick", "tab")
    assert dict(_rows(shown)[1:])["training: learning rate drops"] == "none"


def test_record_table():
    fold = _fold()
    about = {
        "profile_hash": "0123456789abcdef",
        "backend": "jax",
        "device": "CPU: AMD EPYC, 1 core",
    }
    fold = replace(fold, run=fold.run | about)
    markdown = record_table(fold, "tab")
    rows = dict(_rows(markdown)[1:])
    assert rows["run, fold, seed"] == "trial, 3, 0"
    assert rows["nodules trained on / tested"] == "20 / 4"
    assert rows["computed with"] == "JAX float32, CPU (AMD EPYC, 1 core)"
    assert rows["profile hash"] == "0123456789ab"
    assert rows["versions"] == "numpy 2" and rows["training time"] == "2 s"
    assert "fold 3 of the run `trial`" in markdown.data


def test_a_folded_table_is_the_same_table_in_a_box():
    table = pd.DataFrame({"a": [1]})
    plain, folded = numbered(table, "c", "n"), numbered(table, "c", "n", folded="Open me")
    assert folded.data == f"::::{{dropdown}} Open me\n{plain.data}\n::::"
