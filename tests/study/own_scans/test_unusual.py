# ruff: noqa: F811
"""Unusual input: leakage under another name, other units, padding, repeats, odd files."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from click.testing import CliRunner
from test_score import (  # noqa: F401
    BALL,
    FIRST,
    Lab,
    _patches_aside,
    lab,
    quiet,
    score,
    tiny,
    voxels_of,
    write_mhd,
    write_positions,
)

from nodulebook.core.errors import InputError
from study.cli import scans as commands
from study.own_scans import scoring
from study.own_scans.adopt import adopt
from study.own_scans.cubes import read_cubes, with_table
from study.own_scans.evaluate import evaluate_scores
from study.own_scans.positions import read_positions
from study.own_scans.scans import find_scans


@pytest.mark.parametrize("name", ["LIDC-IDRI-0003-s1-n01", "lidc_idri_3", f"{FIRST}-0", "case"])
def test_a_cube_of_a_known_patient_is_not_scored_by_networks_that_learnt_from_it(
    lab: Lab,
    tmp_path: Path,
    name: str,
) -> None:
    z, y, x = (c - 20 + np.arange(41.0) for c in BALL[::-1])
    np.save(tmp_path / f"{name}.npy", voxels_of(z, y, x))
    folder, table = read_cubes(tmp_path / f"{name}.npy", (1.0, 1.0, 1.0))
    if name == "case":  # only the table tells
        rows = write_positions(tmp_path / "t.csv", "case,lidc-idri-3", header="id,patient_id")
        table = with_table(table, read_positions(rows, coordinates=False), rows)
    held_out = 0 if name.startswith(FIRST) else 3
    lab.usable = (5, held_out)
    done = scoring.score(folder, table, tmp_path / "out", lab.networks, report=quiet).table
    assert done["fold"].tolist() == [str(held_out)]
    assert done["patient_in_training"].tolist() == ["no"]


def test_a_scan_of_another_name_is_known_by_the_patient_of_its_table(
    lab: Lab,
    tmp_path: Path,
) -> None:
    for name in ("a", "b"):
        write_mhd(tmp_path / "scans", name)
    rows = write_positions(
        tmp_path / "p.csv", "1,a,12,-7,30,LIDC-IDRI-0003", "2,b,12,-7,30,other",
        header="id,scan,x_mm,y_mm,z_mm,patient_id",
    )  # fmt: skip
    table = score(tmp_path / "scans", rows, tmp_path / "out", lab.networks).table
    assert table["fold"].tolist() == ["3", "0"]
    assert table["patient_in_training"].tolist() == ["no", "unknown"]


def test_lengths_that_are_not_mm_and_padding_are_warnings(
    lab: Lab,
    tmp_path: Path,
) -> None:
    image = sitk.ReadImage(str(write_mhd(tmp_path / "mm")))
    warned = {}
    for name, factor in (("mm", 1.0), ("cm", 0.1), ("wide", 3.0)):
        image.SetSpacing(3 * [factor])
        image.SetOrigin([float(c) - 30 * factor for c in BALL])
        (tmp_path / name).mkdir(exist_ok=True)
        sitk.WriteImage(image, str(tmp_path / name / "one.mhd"))
        rows = write_positions(tmp_path / "p.csv", "a,,{},{},{}".format(*BALL))
        warned[name] = score(tmp_path / name, rows, tmp_path / "out", lab.networks).table
    said = {name: table["warnings"].iloc[0] for name, table in warned.items()}
    assert "in mm?" not in said["mm"] and "in mm?" in said["cm"] and "in mm?" in said["wide"]
    voxels = sitk.GetArrayFromImage(image)
    voxels[:20] = -3024
    padded = sitk.GetImageFromArray(voxels)
    padded.SetOrigin([float(c) - 30 for c in BALL])
    (tmp_path / "padded").mkdir()
    sitk.WriteImage(padded, str(tmp_path / "padded" / "one.mhd"))
    table = score(tmp_path / "padded", rows, tmp_path / "out", lab.networks).table
    assert "padding" in table["warnings"].iloc[0] and "padding" not in said["mm"]


def test_repeated_places_are_said(tmp_path: Path) -> None:
    rows = [f"n{k},s{k // 2},{k // 2},0,0,{k % 3 % 2},0.{k + 1:02d}" for k in range(40)]
    path = write_positions(
        tmp_path / "s.csv", *rows, header="id,scan,x_mm,y_mm,z_mm,label,p_malignant"
    )
    assert any("20 rows" in line for line in evaluate_scores(path, tmp_path / "ev"))
    assert "20 rows" in (tmp_path / "ev" / "index.html").read_text()


def test_patients_in_two_spellings_are_refused(tmp_path: Path) -> None:
    rows = write_positions(
        tmp_path / "p.csv", "1,2,3,p-07", "1,2,3,P7", header="x_mm,y_mm,z_mm,patient_id"
    )
    with pytest.raises(InputError, match=r"p\.csv.*'P7' and 'p-07'"):
        read_positions(rows)


def test_scans_that_count_as_patients_are_said(tmp_path: Path) -> None:
    for k in range(10):
        write_mhd(tmp_path / "scans", f"s{k}")
    rows = [f"s{k % 10},12,-7,{30 + k % 3},{k % 2}" for k in range(20)]
    table = write_positions(tmp_path / "t.csv", *rows, header="scan,x_mm,y_mm,z_mm,label")
    said: list[str] = []
    folds, _ = adopt(
        find_scans(tmp_path / "scans"), read_positions(table), tmp_path / "c", said.append
    )
    assert any("10 scans" in line for line in said) and folds["patient_id"].nunique() == 10


def test_numbers_of_patients_from_a_spreadsheet_are_whole(tmp_path: Path) -> None:
    rows = write_positions(
        tmp_path / "p.csv", "1,2,3,7.0", "1,2,3,7", header="x_mm,y_mm,z_mm,patient_id"
    )
    assert pd.unique(read_positions(rows)["patient_id"]).tolist() == ["7"]


def made_scores(folder: Path, **columns: object) -> Path:
    """Sixty scores of thirty patients that tell the label, without a ruler."""
    label = np.arange(60) % 2
    p = (0.3 + 0.3 * label + 0.1 * np.random.default_rng(0).normal(size=60)).clip(0.01, 0.99)
    table = pd.DataFrame({"id": [f"n{k}" for k in range(60)], "label": label, "p_malignant": p})
    table["patient_id"] = [f"p{k // 2}" for k in range(60)]
    table.assign(**columns).to_csv(folder / "s.csv", index=False)
    return folder / "s.csv"


def evaluated(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "ev" / "evaluation.csv").set_index("measure")


def test_scores_that_a_spreadsheet_wrote_with_decimal_commas_are_read(tmp_path: Path) -> None:
    path = made_scores(tmp_path, diameter_auto_mm=np.linspace(4, 20, 60).round(2))
    evaluate_scores(path, tmp_path / "ev")
    plain = evaluated(tmp_path)
    path.write_text(path.read_text().replace(",", ";").replace(".", ","))
    evaluate_scores(path, tmp_path / "ev")
    pd.testing.assert_frame_equal(plain, evaluated(tmp_path))


def test_nodules_without_a_diameter_are_left_out_of_the_ruler_only(tmp_path: Path) -> None:
    diameter = np.linspace(4, 20, 60).round(2).astype(object)
    diameter[:5] = ""
    said = evaluate_scores(made_scores(tmp_path, diameter_mm=diameter), tmp_path / "ev")
    rows = evaluated(tmp_path)
    assert "5 nodules lack" in said[0]
    assert rows.loc["AUC of the score", "nodules"] == 60
    assert rows.loc["AUC of the ruler", "nodules"] == 55
    assert rows.loc["AUC, score minus ruler", "nodules"] == 55


def test_intervals_over_few_patients_and_slopes_that_are_not_defined_are_not_given(
    tmp_path: Path,
) -> None:
    evaluate_scores(made_scores(tmp_path, patient_id="one"), tmp_path / "ev")
    rows = evaluated(tmp_path)
    assert rows.loc["AUC of the score", "remark"].startswith("fewer than 10 patients")
    assert np.isnan(rows.loc["AUC of the score", "value"])
    evaluate_scores(made_scores(tmp_path, p_malignant=0.5), tmp_path / "ev")
    slope = evaluated(tmp_path).loc["calibration slope"]
    assert np.isnan(slope["value"]) and "not defined" in slope["remark"]
    assert ">nan" not in (tmp_path / "ev" / "index.html").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--scans S --positions P --run mine --weights W", "--weights has no effect with --run"),
        ("--scans S --positions P --profile quick --weights W", "--weights has no effect with"),
        ("--scans S --positions P --train-again", "--train-again has no effect without --run"),
        ("--scans S --positions P --data D", "--data has no effect without"),
        ("--scans S --positions P --spacing 2", "--spacing has no effect without --cubes"),
        ("--scans S --positions P --hu -1024,1024", "--hu has no effect without --cubes"),
        ("--scans S --positions P --axes xyz", "--axes has no effect without --cubes"),
        ("--cubes C --positions P --ras", "--ras has no effect with --cubes"),
        ("--scans S --positions P --run=", "--run is empty"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(
    tmp_path: Path, options: str, message: str
) -> None:
    given = [*options.split(), "--to", str(tmp_path / "out")]
    done = CliRunner().invoke(commands.score, given)
    assert isinstance(done.exception, InputError) and message in str(done.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [{"axes": "xyz"}, {"hu_range": (0.0, 100.0)}])
def test_what_is_said_of_arrays_is_refused_where_there_are_none(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    write_mhd(tmp_path / "cubes", "one")
    with pytest.raises(InputError, match="holds no arrays"):
        read_cubes(tmp_path / "cubes", **options)
