"""Tables of cohort and networks: every nodule and every parameter is counted once."""

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from nodulebook.core.settings import NetworkSettings
from nodulebook.data.cohort import label_nodules, read_nodules
from nodulebook.data.folds import read_folds
from nodulebook.model.senet import senet
from study.report.method import diameter_table, layer_table, network_table


def test_diameter_table_by_hand():
    labelled = pd.DataFrame(
        {
            "diameter_mm": [3.0, 4.99, 5.0, 12.0, 29.9, 30.0, 71.0],
            "label": [0, 1, 0, 1, 1, 1, 0],
        }
    )
    assert diameter_table(labelled).to_numpy().tolist() == [
        ["3 to 5", "2", "1", "1"],
        ["5 to 10", "1", "1", "0"],
        ["10 to 15", "1", "0", "1"],
        ["15 to 20", "0", "0", "0"],
        ["20 to 25", "0", "0", "0"],
        ["25 to 30", "1", "0", "1"],
        ["30 and above", "2", "1", "1"],
        ["all", "7", "3", "4"],
    ]
    small = pd.DataFrame({"diameter_mm": [2.9], "label": [1]})
    assert diameter_table(small).to_numpy()[0].tolist() == ["below 3", "1", "0", "1"]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 500), st.integers(0, 1)), min_size=1))
def test_diameter_table_has_every_nodule_once(rows):
    table = diameter_table(pd.DataFrame(rows, columns=["diameter_mm", "label"]))
    counts = table[["nodules", "benign", "malignant"]].astype(int)
    assert counts.iloc[-1]["nodules"] == len(rows)
    assert counts.iloc[-1]["malignant"] == sum(label for _, label in rows)
    assert (counts.iloc[:-1].sum() == counts.iloc[-1]).all()
    assert (counts["benign"] + counts["malignant"] == counts["nodules"]).all()


def test_diameter_table_of_the_cohort():
    labelled = label_nodules(read_nodules())
    total = diameter_table(labelled).iloc[-1]
    assert total["nodules"] == f"{len(labelled):,}" == f"{len(read_folds()):,}"


def test_layer_table_has_every_parameter_once():
    model = senet(
        NetworkSettings(
            filters=[4, 4, 8, 8], modules=[1, 1, 2, 1], input_pooling=2, pool_after=["stage1"]
        )
    )
    table = layer_table(model)
    parameters = table["parameters"].str.replace(",", "").astype(int)
    assert parameters.iloc[:-1].sum() == parameters.iloc[-1] == model.count_params()
    rows = table.set_index("part")
    assert list(rows.index) == [
        "patch",
        "average pooling of the patch",
        "first convolution 3³",
        "stage 1: SE modules",
        "average pooling after stage 1",
        "stage 2: SE modules",
        "stage 3: SE modules",
        "stage 4: SE modules",
        "global average pooling",
        "fully connected",
        "softmax",
        "all",
    ]
    assert rows.loc["first convolution 3³", "parameters"] == str(27 * 4 + 4 * 4)
    assert rows.loc["stage 3: SE modules", "output shape"] == "8 × 8 × 8 × 8"
    assert rows.loc["stage 3: SE modules", "output size"] == "4,096"
    assert rows.loc["fully connected", "parameters"] == str(8 * 2 + 2)
    table = network_table({"tiny": model})
    assert table.to_numpy().tolist() == [
        ["tiny", "1-1-2-1", "8 × 8 × 8 × 8", f"{model.count_params():,}", "0.8 M"]
    ]


def test_multiply_adds_by_hand():
    """First convolution 16^3 x 4 x 27; a module's 1^3, 3^3 and 1^3; the gate; the head."""
    model = senet(
        NetworkSettings(
            filters=[4, 4, 8, 8], modules=[1, 1, 2, 1], input_pooling=2, pool_after=["stage1"]
        )
    )
    rows = layer_table(model).set_index("part")["multiply-adds"].str.replace(",", "").astype(int)
    assert rows["first convolution 3³"] == 16**3 * 4 * 27
    # C = 4, inner 1, reduced 1
    assert rows["stage 1: SE modules"] == 16**3 * (4 + 27 + 4) + 4 + 4
    # C = 8, inner 2, reduced 2; the first module has 4 channels in, and a shortcut
    first = 8**3 * (4 * 2 + 2 * 27 * 2 + 2 * 8 + 4 * 8) + 8 * 2 + 2 * 8
    second = 8**3 * (8 * 2 + 2 * 27 * 2 + 2 * 8) + 8 * 2 + 2 * 8
    assert rows["stage 3: SE modules"] == first + second
    assert rows["fully connected"] == 8 * 2
    assert rows["all"] == rows.iloc[:-1].sum()


def test_pooling_within_the_convolution_does_not_change_its_multiply_adds():
    """What is counted is the convolution at full resolution, not how it is computed."""
    common = {"filters": [4] * 4, "modules": [1] * 4, "pool_after": ["first_convolution", "stage1"]}
    counts = {
        layer_table(senet(NetworkSettings(**common, pool_before_norm=early)))
        .set_index("part")
        .loc["first convolution 3³", "multiply-adds"]
        for early in (False, True)
    }
    assert counts == {f"{32**3 * 4 * 27:,}"}
