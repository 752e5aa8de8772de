"""What `adopt` must not do unsaid: delete runs or tables, split a patient, lose nodules."""

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from test_score import BALL, _patches_aside, quiet, write_mhd, write_positions  # noqa: F401

from nodulebook.core.errors import InputError
from nodulebook.ct.dicom_files import TWO_PATIENTS
from nodulebook.data.cohort import read_own_nodules
from study.cli import scans as commands
from study.own_scans import scoring
from study.own_scans.adopt import adopt
from study.own_scans.positions import read_positions
from study.own_scans.scans import Folder, find_scans

HEADER = "id,scan,x_mm,y_mm,z_mm,label"


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve scans, s0 to s11, each with the ball and the dot."""
    folder = tmp_path_factory.mktemp("made") / "scans"
    first = write_mhd(folder, "s0")
    voxels = first.with_suffix(".raw").read_bytes()
    for k in range(1, 12):
        (folder / f"s{k}.raw").write_bytes(voxels)
        text = first.read_text().replace("s0.raw", f"s{k}.raw")
        (folder / f"s{k}.mhd").write_text(text)
    return folder


def two_each(path: Path, *more: str, header: str = "", scans: int = 12) -> Path:
    """A table of two nodules per scan, a (benign) and b (malignant); `more`: cells of each row."""
    x, y, z = BALL
    rows = [f"{'ab'[k % 2]},s{k // 2},{x + k % 2},{y},{z},{k % 2}" for k in range(2 * scans)]
    ends = [f",{cell}" for cell in more] or [""] * len(rows)
    lines = [row + end for row, end in zip(rows, ends, strict=True)]
    return write_positions(path, *lines, header=HEADER + (f",{header}" if header else ""))


def adopted(scans: Path, table: Path, to: Path, said: list[str] | None = None) -> pd.DataFrame:
    report = [].append if said is None else said.append
    return adopt(find_scans(scans), read_positions(table), to, report, table)[0]


# ------------------------------------------------------------------------------ what is replaced


def test_a_cohort_with_trained_runs_is_not_replaced(scans: Path, tmp_path: Path) -> None:
    table, to = two_each(tmp_path / "t.csv"), tmp_path / "cohort"
    adopted(scans, table, to)
    trained = to / "runs" / "laptop-own" / "fold-0" / "probabilities.csv"
    trained.parent.mkdir(parents=True)
    trained.write_text("hours of training")
    with pytest.raises(InputError, match=r"cohort: holds runs/laptop-own.*new folder"):
        adopted(scans, table, to)
    assert trained.read_text() == "hours of training"


def test_a_cohort_without_runs_is_replaced_and_that_is_said(scans: Path, tmp_path: Path) -> None:
    to = tmp_path / "cohort"
    adopted(scans, two_each(tmp_path / "t.csv"), to)
    (to / "runs" / ".locks").mkdir(parents=True)
    (to / "runs" / ".locks" / "laptop-own-fold-0.lock").touch()  # a training that never began
    (to / "patches" / "own").mkdir(parents=True)
    (to / "patches" / "own" / "store.json").write_text("{}")
    said: list[str] = []
    adopted(scans, two_each(tmp_path / "t.csv", scans=11), to, said)
    assert len(pd.read_csv(to / "nodules.csv")) == 22
    assert any("cohort" in line and "replaced" in line for line in said)


@pytest.mark.parametrize("place", ["nodules.csv", "runs/nodules.csv"])
def test_the_table_of_positions_is_not_in_the_folder_that_is_replaced(
    scans: Path, tmp_path: Path, place: str
) -> None:
    to = tmp_path / "cohort"
    (to / "runs").mkdir(parents=True)
    table = two_each(to / place)
    before = table.read_text()
    with pytest.raises(InputError, match=rf"{place}: is inside .*cohort.*--to"):
        adopted(scans, table, to)
    assert table.read_text() == before


def test_the_scans_are_not_in_the_folder_that_is_replaced(scans: Path, tmp_path: Path) -> None:
    (tmp_path / "cohort").mkdir()
    (tmp_path / "cohort" / "patches").symlink_to(scans)
    inside = tmp_path / "cohort" / "patches"
    with pytest.raises(InputError, match=r"patches/s0.*did not write"):
        adopted(inside, two_each(tmp_path / "t.csv"), tmp_path / "cohort")
    moved = scans.parent
    with pytest.raises(InputError, match=r"scans: is inside .*--to"):
        adopted(scans, two_each(tmp_path / "t.csv"), moved)
    assert (scans / "s0.raw").is_file()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nodules.csv", "nodule_id,patient_id,label,histology\na,p,1,adenocarcinoma\n"),
        ("folds.csv", "nodule_id,patient_id,label,fold\na,p,1,0\n"),
        ("patches/mine.npy", "cubes"),
    ],
)
def test_files_of_another_make_are_not_replaced(
    scans: Path, tmp_path: Path, name: str, text: str
) -> None:
    mine = tmp_path / "cohort" / name
    mine.parent.mkdir(parents=True)
    mine.write_text(text)
    with pytest.raises(InputError, match=r"cohort.*new folder"):
        adopted(scans, two_each(tmp_path / "t.csv"), tmp_path / "cohort")
    assert mine.read_text() == text


# ----------------------------------------------------------------------------------- whose it is


def split_scans(folds: pd.DataFrame) -> int:
    """How many scans have nodules in two folds."""
    scan = folds["nodule_id"].str.split().str[0]
    return int((folds.groupby(scan)["fold"].nunique() > 1).sum())


def test_a_patient_in_the_first_row_of_a_scan_only_is_that_of_all_its_rows(
    scans: Path, tmp_path: Path
) -> None:
    cells = [f"P{k // 2}" if k % 2 == 0 else "" for k in range(24)]  # as merged cells are exported
    table = two_each(tmp_path / "t.csv", *cells, header="patient_id")
    folds = adopted(scans, table, tmp_path / "cohort")
    assert split_scans(folds) == 0 and folds["patient_id"].nunique() == 12
    assert folds["patient_id"].tolist() == [f"P{k // 2}" for k in range(24)]


def test_a_row_without_a_label_tells_whose_the_scan_is(scans: Path, tmp_path: Path) -> None:
    table = two_each(tmp_path / "t.csv", *[""] * 24, header="patient_id")
    x, y, z = BALL
    first = [f"c,s{k},{x},{y},{z},,{'P0' if k < 2 else f'P{k}'}" for k in range(12)]
    table.write_text(table.read_text() + "\n".join(first) + "\n")
    folds = adopted(scans, table, tmp_path / "cohort")
    assert folds["patient_id"].nunique() == 11
    assert folds[folds["patient_id"] == "P0"]["fold"].nunique() == 1


def test_two_patients_of_one_scan_are_refused_with_their_lines(scans: Path, tmp_path: Path) -> None:
    cells = [f"P{k // 2}" for k in range(24)]
    cells[7] = "P5"
    table = two_each(tmp_path / "t.csv", *cells, header="patient_id")
    with pytest.raises(InputError, match=r"t\.csv: line 9: .*'P5', but 'P3' in line 8 .*\(s3\)"):
        adopted(scans, table, tmp_path / "cohort")


def files_say(folder: Folder, **patients: str) -> Folder:
    """The folder, its files naming patients as DICOM does."""
    return replace(folder, given_patients={**folder.given_patients, **patients})


def test_two_scans_of_a_patient_by_their_files_stay_together(scans: Path, tmp_path: Path) -> None:
    folder = files_say(find_scans(scans), s0="4711", s1="4711", s2="x", s3="x")
    cells = [f"P{k // 2}" if k // 2 not in (1, 3) else "" for k in range(24)]
    table = two_each(tmp_path / "t.csv", *cells, header="patient_id")
    folds, _ = adopt(folder, read_positions(table), tmp_path / "cohort", quiet)
    whose = folds.groupby(folds["nodule_id"].str.split().str[0])["patient_id"].first()
    assert whose["s1"] == whose["s0"] == "P0" and whose["s3"] == "P2"


def test_files_that_name_one_patient_for_several_leave_none_to_chance(
    scans: Path, tmp_path: Path
) -> None:
    folder = files_say(find_scans(scans), **{f"s{k}": "ANON" for k in range(12)})
    cells = [f"P{k // 2}" for k in range(24)]
    table = two_each(tmp_path / "t.csv", *cells, header="patient_id")
    said: list[str] = []
    adopt(folder, read_positions(table), tmp_path / "cohort", said.append)
    assert any("ANON" in line for line in said)
    cells[10] = cells[11] = ""
    table = two_each(tmp_path / "t.csv", *cells, header="patient_id")
    with pytest.raises(InputError, match=r"t\.csv: line 12: patient_id is empty.*'ANON'.*P0, P1"):
        adopt(folder, read_positions(table), tmp_path / "cohort", quiet, table)


def test_a_scan_whose_files_name_several_patients_is_not_a_patient_called_several(
    scans: Path, tmp_path: Path
) -> None:
    folder = files_say(find_scans(scans), s4=TWO_PATIENTS)
    table = two_each(tmp_path / "t.csv")
    folds, left_out = adopt(folder, read_positions(table), tmp_path / "cohort", quiet)
    assert len(folds) == 22 and left_out["scan"].tolist() == ["s4", "s4"]
    assert left_out["reason"].str.contains("several patients").all()


def test_a_nodule_under_two_names_of_its_scan_is_refused(scans: Path, tmp_path: Path) -> None:
    folder = files_say(find_scans(scans), s4="4711")
    table = two_each(tmp_path / "t.csv")
    x, y, z = BALL
    table.write_text(table.read_text() + f"a,4711,{x},{y},{z},0\n")
    with pytest.raises(InputError, match=r"t\.csv: line 26: nodule 's4 a'.* line 10"):
        adopt(folder, read_positions(table), tmp_path / "cohort", quiet, table)


# ------------------------------------------------------------------------------------ diameters


def test_a_gap_among_the_diameters_is_filled_by_the_automatic_ruler_and_said(
    scans: Path, tmp_path: Path
) -> None:
    cells = [str(7 + k) for k in range(24)]
    cells[1] = cells[4] = ""
    said: list[str] = []
    table = two_each(tmp_path / "t.csv", *cells, header="diameter_mm")
    adopted(scans, table, tmp_path / "cohort", said)
    found = read_own_nodules(tmp_path / "cohort" / "nodules.csv")["diameter_mm"]
    given = pd.to_numeric(pd.Series(cells))
    assert (found[given.notna()] == given.dropna()).all()
    assert found[given.isna()].between(8, 13).all()  # of the ball, 10 mm
    assert any("lines 3, 6" in line and "automatic ruler" in line for line in said)


def test_diameters_that_no_ruler_gives_are_named(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = iter([float("nan"), 9.0])
    monkeypatch.setattr(scoring, "automatic_diameter_mm", lambda hu: next(measured, 9.0))
    said: list[str] = []
    adopted(scans, two_each(tmp_path / "t.csv"), tmp_path / "cohort", said)
    assert "diameter_mm" not in pd.read_csv(tmp_path / "cohort" / "nodules.csv")
    assert any("no diameter_mm: the automatic" in line for line in said)
    assert any("a diameter in line 2, so nodules.csv has none" in line for line in said)
    adopted(scans, two_each(tmp_path / "t.csv"), tmp_path / "cohort")  # it is known again as ours
    assert "diameter_mm" in pd.read_csv(tmp_path / "cohort" / "nodules.csv")


# -------------------------------------------------------------------------- what is lost, or rare


def command(scans: Path, table: Path, to: Path) -> Result:
    given = ["--scans", str(scans), "--positions", str(table), "--to", str(to)]
    return CliRunner().invoke(commands.adopt, given)


def test_lost_positions_are_listed_and_end_the_command_with_an_error(
    scans: Path, tmp_path: Path
) -> None:
    table, to = two_each(tmp_path / "t.csv"), tmp_path / "cohort"
    whole = command(scans, table, to)
    assert whole.exception is None and not (to / "left_out.csv").exists()
    more = "far,s1,500,0,0,1\nlost,s99,1,2,3,0\nfar2,s1,600,0,0,\n"
    table.write_text(table.read_text() + more)
    done = command(scans, table, to)
    assert isinstance(done.exception, InputError)
    assert "2 positions" in str(done.exception) and "left_out.csv" in str(done.exception)
    left_out = pd.read_csv(to / "left_out.csv")
    assert left_out["line"].tolist() == [26, 27] and left_out["id"].tolist() == ["far", "lost"]
    assert len(pd.read_csv(to / "folds.csv")) == 24
    assert "but no s99" in done.output and "not in the cohort: 1" in done.output
    assert command(scans, two_each(table), to).exception is None  # replaced, with its left_out.csv


def test_files_that_cannot_be_read_end_the_command_with_an_error(
    scans: Path, tmp_path: Path
) -> None:
    shutil.copytree(scans, tmp_path / "scans")
    (tmp_path / "scans" / "cut.mhd").write_text("ObjectType = Image\n")
    done = command(tmp_path / "scans", two_each(tmp_path / "t.csv"), tmp_path / "cohort")
    assert isinstance(done.exception, InputError) and "1 files cannot be read" in str(
        done.exception
    )
    assert len(pd.read_csv(tmp_path / "cohort" / "folds.csv")) == 24


def relabelled(table: Path, *malignant: int) -> Path:
    """The same table, in which just these rows are malignant."""
    header, *rows = table.read_text().splitlines()
    cells = [row.split(",") for row in rows]
    ends = [
        ",".join([*cell[:5], str(int(k in malignant)), *cell[6:]]) for k, cell in enumerate(cells)
    ]
    return write_positions(table, *ends, header=header)


def test_a_cohort_of_one_label_is_refused(scans: Path, tmp_path: Path) -> None:
    table = relabelled(two_each(tmp_path / "t.csv"))
    with pytest.raises(InputError, match="all 24 nodules are benign: training needs"):
        adopted(scans, table, tmp_path / "cohort")
    assert not (tmp_path / "cohort").exists()


def test_malignant_nodules_of_one_patient_only_are_refused(scans: Path, tmp_path: Path) -> None:
    table = relabelled(two_each(tmp_path / "t.csv"), 6, 7)
    with pytest.raises(InputError, match=r"all malignant nodules.*s3.*train on none"):
        adopted(scans, table, tmp_path / "cohort")


def test_folds_without_a_malignant_nodule_are_said(
    scans: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    table, said = relabelled(two_each(tmp_path / "t.csv"), 1, 5, 9), list[str]()
    folds = adopted(scans, table, tmp_path / "cohort", said)
    assert (folds.groupby("fold")["label"].sum() > 0).sum() == 3
    assert any("3 nodules are malignant, and 7 of 10 folds" in line for line in said)
    assert any("fewer than 10, evaluate computes no AUC" in line for line in said)
    assert not [one for one in recwarn if "populated" in str(one.message)]


def test_one_patient_for_all_scans_is_told_in_the_words_of_the_user(
    scans: Path, tmp_path: Path
) -> None:
    folder = files_say(find_scans(scans), **{f"s{k}": "ANON" for k in range(12)})
    table = read_positions(two_each(tmp_path / "t.csv"))
    with pytest.raises(
        InputError, match=r"patients for 10 folds.*: 1 \(ANON\).*column patient_id"
    ) as told:
        adopt(folder, table, tmp_path / "cohort", quiet)
    assert "n_folds" not in str(told.value)
    few = read_positions(two_each(tmp_path / "few.csv").rename(tmp_path / "f.csv"))
    few = few[few["id"].eq("a") ^ (few.index % 4 > 1)]  # six of each label
    with pytest.raises(InputError, match="6 nodules are benign and 6 malignant, but 10 folds"):
        adopt(find_scans(scans), few, tmp_path / "cohort", quiet)


def test_where_every_position_is_lost_the_reasons_are_said(scans: Path, tmp_path: Path) -> None:
    table = two_each(tmp_path / "t.csv")
    table.write_text(table.read_text().replace(",30.0,", ",3000.0,"))
    with pytest.raises(InputError, match=r"no position with a label can be used.*lies outside"):
        adopted(scans, table, tmp_path / "cohort")


def test_a_position_beside_any_tissue_is_said(scans: Path, tmp_path: Path) -> None:
    table, said = two_each(tmp_path / "t.csv"), list[str]()
    x, y, z = BALL
    table.write_text(table.read_text() + f"off,s3,{x - 12},{y},{z},1\n")
    adopted(scans, table, tmp_path / "cohort", said)
    assert any("warning: line 26: nothing denser than lung" in line for line in said)
