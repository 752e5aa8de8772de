"""Own scans: files in any layout and positions in, a table and a page out; nothing wrong goes by.

Scans are made up. Tests at the end read `lidc-dicom` in `NODULEBOOK_DATA`, and are skipped where it
is absent.
"""

import csv
import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom import dcmread
from test_dicom_kinds import edit
from test_scan_sources import made_up
from test_volumes import lidc_dicom, real_dicom, write_series

from browser import opened
from conftest import TINY
from nodulebook.cli import main as cli
from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.settings import Profile, TrainingSettings
from nodulebook.ct.find import FoundScan
from nodulebook.ct.metaimage import open_metaimage
from nodulebook.ct.volume import Volume
from nodulebook.data.annotations import read_scans
from nodulebook.data.cohort import read_nodules
from nodulebook.patches.cube import LUNG_HU, extract_patch
from study.own_scans import networks as sources
from study.own_scans import page, released, scoring
from study.own_scans.cubes import positions_of_labels, read_cubes
from study.own_scans.networks import Network, Networks
from study.own_scans.page import COLUMNS, peak_text
from study.own_scans.positions import read_positions
from study.own_scans.scans import check_inside, find_scans, known_positions

FIRST = "1.3.6.1.4.1.14519.5.2.1.6279.6001.179049373636438705059720603192"  # LIDC-IDRI-0001
THIRD = "1.3.6.1.4.1.14519.5.2.1.6279.6001.170706757615202213033480003264"  # LIDC-IDRI-0003
BALL = (12.0, -7.0, 30.0)  # x, y, z in mm of every made-up scan's ball
DOT = (22.0, -2.0, 39.0)  # 10 mm to the left of it, 5 to the back, 9 to the head


@pytest.fixture(autouse=True)
def _patches_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODULEBOOK_PATCHES", str(tmp_path / "patches"))


def voxels_of(z_mm: NDArray, y_mm: NDArray, x_mm: NDArray) -> NDArray[np.int16]:
    """Lung with a ball and a dot, sampled where it is asked for."""
    z, y, x = np.meshgrid(z_mm, y_mm, x_mm, indexing="ij")

    def within(centre: tuple[float, float, float], mm: float) -> NDArray[np.bool_]:
        return (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2 <= mm**2

    noise = np.random.default_rng(0).normal(0, 20, z.shape)
    hu = LUNG_HU + noise
    hu[within(BALL, 5)] = 40
    hu[within(DOT, 2)] = 400
    return hu.astype(np.int16)


def write_mhd(folder: Path, name: str = "one", spacing: float = 1.0, flipped: bool = False) -> Path:
    """Around the ball, 60 mm along each axis; flipped: stored from left to right, back to front."""
    folder.mkdir(parents=True, exist_ok=True)
    n = round(60 / spacing)
    x, y, z = (c - 30 + spacing * np.arange(n) for c in BALL)
    if flipped:
        x, y = x[::-1], y[::-1]
    image = sitk.GetImageFromArray(voxels_of(z, y, x))
    image.SetSpacing(3 * [spacing])
    image.SetOrigin([float(x[0]), float(y[0]), float(z[0])])
    image.SetDirection([-1, 0, 0, 0, -1, 0, 0, 0, 1] if flipped else np.eye(3).ravel().tolist())
    path = folder / f"{name}.mhd"
    sitk.WriteImage(image, str(path))
    return path


def write_dicom(folder: Path, uid: str = "1.2.3") -> None:
    """The same world as DICOM, from x -20, y -30 on."""
    z = 10 + 1.25 * np.arange(33)
    x, y = -20 + 0.7 * np.arange(90), -30 + 0.7 * np.arange(80)
    write_series(folder, voxels_of(z, y, x), uid, z_mm=z, pixel_mm=(0.7, 0.7))


def write_positions(path: Path, *rows: str, header: str = "id,scan,x_mm,y_mm,z_mm") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@dataclass(frozen=True, eq=False)
class Spy(Network):
    """A network that keeps what it is shown."""

    shown: list[NDArray[np.float32]] = field(default_factory=list)

    def predict(self, volumes: NDArray[np.float32]) -> NDArray[np.float64]:
        self.shown.append(volumes)
        return super().predict(volumes)

    @property
    def patches_hu(self) -> NDArray[np.float32]:
        return np.concatenate(self.shown) * 1800 - 1200


@pytest.fixture(scope="module")
def tiny() -> tuple[object, Profile]:
    """A small network with random weights."""
    from nodulebook.model.train import build_model

    network = {"filters": [4, 4, 4, 4], "modules": [1, 1, 1, 1], "input_pooling": 2}
    profile = Profile.model_validate(
        {"description": "-", "network": network, "training": {"epochs": 1, "learning_rate": 0.1}}
    )
    return build_model(profile), profile


@dataclass
class Lab:
    """Networks of every fold that share a model; those that were asked for are spies."""

    model: object
    profile: Profile
    usable: tuple[int, ...] = tuple(range(10))
    source: str = "phantom"
    patients: frozenset[str] = frozenset()
    spies: dict[int, Spy] = field(default_factory=dict)

    @property
    def networks(self) -> Networks:
        def load(fold: int) -> Network:
            given = (self.model, self.profile, "made", fold, self.source, self.patients)
            self.spies[fold] = Spy(*given)
            return self.spies[fold]

        return Networks(load, self.usable, sources.held_out_folds())


@pytest.fixture
def lab(tiny: tuple[object, Profile]) -> Lab:
    return Lab(*tiny)


def quiet(line: str) -> None:
    pass


def score(
    scans: Path, rows: Path, out: Path, networks: Networks, pictures: int = 100, report=quiet
) -> scoring.Scored:
    table = read_positions(rows)
    return scoring.score(find_scans(scans), table, out, networks, pictures, report, str(rows))


# ----------------------------------------------------------------------- positions and patches


@pytest.mark.parametrize("kind", ["mhd", "fine mhd", "flipped mhd", "dicom"])
def test_a_patch_is_centred_on_its_position_and_runs_left_back_up(
    lab: Lab, tmp_path: Path, kind: str
) -> None:
    if kind == "dicom":
        write_dicom(tmp_path / "scans" / "any" / "layout")
    else:
        fine = 0.6 if kind == "fine mhd" else 1.0
        write_mhd(tmp_path / "scans", spacing=fine, flipped=kind == "flipped mhd")
    rows = write_positions(tmp_path / "p.csv", "{},{},{}".format(*BALL), header="x_mm,y_mm,z_mm")
    score(tmp_path / "scans", rows, tmp_path / "out", lab.networks, report=quiet)
    (patch,) = lab.spies[0].patches_hu
    dot = np.argwhere(patch > 250).mean(axis=0)
    ball = np.argwhere((patch > -400) & (patch < 200))
    ball = ball[np.linalg.norm(ball - dot, axis=1) > 4].mean(axis=0)
    assert np.abs(ball - 15.5).max() < 0.35
    # zyx: 9 mm to the head, 5 to the back, 10 to the left
    assert np.abs(dot - (15.5 + np.array([9, 5, 10]))).max() < 0.7


def test_the_table_has_each_position_in_order_with_what_was_given(lab: Lab, tmp_path: Path) -> None:
    write_mhd(tmp_path / "scans", "one")
    write_dicom(tmp_path / "scans" / "d")
    rows = write_positions(
        tmp_path / "p.csv",
        "1.2.3,12,-7,30,mine",
        "one,12,-7,30,",
        'one.mhd,10,-7,31,"a, b"',
        header="seriesuid,coordX,coordY,coordZ,note",
    )
    scored = score(tmp_path / "scans", rows, tmp_path / "out", lab.networks, report=quiet)
    with (tmp_path / "out" / "probabilities.csv").open() as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == [*COLUMNS, "note"]
    assert [row["id"] for row in table] == ["1", "2", "3"]
    assert [row["scan"] for row in table] == ["1.2.3", "one", "one"]
    assert [row["note"] for row in table] == ["mine", "", "a, b"]
    assert [float(row["x_mm"]) for row in table] == [12, 12, 10]
    assert all(row["trained_on"].startswith("phantom") for row in table)
    assert all("says nothing about CT" in row["warnings"] for row in table)
    assert {row["run"] for row in table} == {"made"} and {row["fold"] for row in table} == {"0"}
    # Of the network itself, and of the row's own patch: in the order that the scans were read in.
    p = lab.model.predict(np.concatenate(lab.spies[0].shown)[..., None], verbose=0)[:, 1]
    assert [float(row["p_malignant"]) for row in table] == pytest.approx(p, abs=2e-6)
    assert len(scored.left_out) == 0 and not (tmp_path / "out" / "left_out.csv").exists()


def test_a_scan_is_scored_by_the_fold_that_never_saw_its_patient(lab: Lab, tmp_path: Path) -> None:
    for name in (FIRST, THIRD, "else"):
        write_mhd(tmp_path / "scans", name)
    rows = write_positions(
        tmp_path / "p.csv", *(f"{n},{n},12,-7,30" for n in ("else", THIRD, FIRST))
    )
    lab.patients = frozenset({"LIDC-IDRI-0009"})
    out = tmp_path / "out"
    table = score(tmp_path / "scans", rows, out, lab.networks, report=quiet).table
    assert table["fold"].tolist() == [
        "0",
        "3",
        "0",
    ]  # data/folds.csv: 0001 in fold 0, 0003 in fold 3
    assert table["patient_in_training"].tolist() == ["unknown", "no", "no"]
    # Only fold 1 is there, and it has learnt from 0003.
    lab.usable, lab.patients = (1,), frozenset({"LIDC-IDRI-0003"})
    table = score(tmp_path / "scans", rows, out, lab.networks, report=quiet).table
    assert table["fold"].tolist() == ["1", "1", "1"]
    assert table["patient_in_training"].tolist() == ["unknown", "yes", "no"]
    seen = table["warnings"].str.contains("was trained on this patient")
    assert seen.tolist() == [False, True, False]


def test_patients_of_an_own_cohort_are_recognised(lab: Lab, tmp_path: Path) -> None:
    """Networks that were trained on a user's cohort know its patients as `adopt` names them."""
    for name in ("a", "s9", "new"):
        write_mhd(tmp_path / "scans", name)
    write_dicom(tmp_path / "scans" / "dicom", "1.2.4")
    for path in (tmp_path / "scans" / "dicom").iterdir():
        edit(path, PatientID="P3")
    rows = write_positions(
        tmp_path / "p.csv", *(f"{n},{n},12,-7,30,{p}" for n, p in
        (("a", "P7"), ("1.2.4", ""), ("s9", ""), ("new", "P99"))),
        header="id,scan,x_mm,y_mm,z_mm,patient_id",
    )  # fmt: skip
    lab.patients = frozenset({"P3", "P7", "s9"})
    own = Networks(lab.networks.load, (0, 2, 4), {"P7": 4, "P3": 2, "s9": 5})
    table = score(tmp_path / "scans", rows, tmp_path / "out", own, pictures=0).table
    assert table["fold"].tolist() == ["4", "2", "0", "0"]
    assert table["patient_in_training"].tolist() == ["yes", "yes", "yes", "unknown"]


def test_a_patient_is_asked_of_the_fold_that_held_them_out() -> None:
    held_out = sources.held_out_folds()
    networks = Networks(lambda k: None, range(10), held_out)  # type: ignore[arg-type,return-value]
    assert networks.fold_for("LIDC-IDRI-0003") == held_out["LIDC-IDRI-0003"] == 3
    assert networks.fold_for("") == 0
    assert Networks(networks.load, (5,), held_out).fold_for("LIDC-IDRI-0003") == 5


def test_what_a_patch_lacks_is_a_warning(lab: Lab, tmp_path: Path) -> None:
    write_mhd(tmp_path / "scans")
    rows = write_positions(tmp_path / "p.csv", "mid,,12,-7,30", "low,,12,-7,4", "air,,30,-20,20")
    lab.source = "luna16"
    table = score(tmp_path / "scans", rows, tmp_path / "out", lab.networks, report=quiet).table
    warnings = table.set_index("id")["warnings"]
    assert warnings["mid"] == ""
    # From z 4 down 16 mm; the scan begins at z 0, its first voxel at -0.5: 11.5 of 32 planes.
    assert "34% of the patch lies beyond the scan" in warnings["low"]
    assert "is a nodule there" in warnings["air"] and "hardly any lung" not in warnings["air"]


def test_numbers_that_are_no_hu_are_a_warning(lab: Lab, tmp_path: Path) -> None:
    path = write_mhd(tmp_path / "scans")
    sitk.WriteImage(sitk.ReadImage(str(path)) + 1024, str(path))
    rows = write_positions(tmp_path / "p.csv", "a,,12,-7,30")
    table = score(tmp_path / "scans", rows, tmp_path / "out", lab.networks, report=quiet).table
    assert "are these HU?" in table["warnings"].iloc[0]


def test_thick_slices_are_a_warning_and_a_gap_in_the_patch_is_refused(
    lab: Lab, tmp_path: Path
) -> None:
    z = np.delete(np.arange(0, 145, 5.0), 3)
    x, y = -20 + 0.7 * np.arange(90), -30 + 0.7 * np.arange(80)
    write_series(tmp_path / "s", voxels_of(z, y, x), z_mm=z, pixel_mm=(0.7, 0.7))
    rows = write_positions(tmp_path / "p.csv", "a,,12,-7,100", "b,,12,-7,30")
    scored = score(tmp_path / "s", rows, tmp_path / "out", lab.networks, report=quiet)
    assert scored.table["id"].tolist() == ["a"] and scored.left_out["id"].tolist() == ["b"]
    assert "between z 10 and 20 mm" in scored.left_out["reason"].iloc[0]
    assert "slices 5 mm apart" in scored.table["warnings"].iloc[0]
    assert "1 slices of the scan seem to be missing" in scored.table["warnings"].iloc[0]


def test_a_network_of_the_slab_is_shown_the_slab(lab: Lab, tmp_path: Path) -> None:
    training = TrainingSettings(epochs=1, learning_rate=0.1, central_slab_mm=4)
    lab.profile = lab.profile.model_copy(update={"training": training})
    write_mhd(tmp_path / "scans")
    rows = write_positions(tmp_path / "p.csv", "a,,12,-7,30")
    score(tmp_path / "scans", rows, tmp_path / "out", lab.networks, report=quiet)
    (patch,) = lab.spies[0].patches_hu
    there = (np.abs(patch - LUNG_HU) > 0.01).any(axis=(1, 2))
    assert np.flatnonzero(there).tolist() == [14, 15, 16, 17]


# ------------------------------------------------------------------------------ what is wrong


def test_what_cannot_be_scored_is_named_and_the_rest_is_done(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scans = tmp_path / "scans"
    write_mhd(scans, "one")
    raw = write_mhd(scans, "broken").with_suffix(".raw")
    raw.write_bytes(raw.read_bytes()[:1000])
    write_mhd(scans / "a", "twice")
    write_dicom(scans / "b", "1.2.9")
    write_mhd(scans / "b", "1.2.9")
    rows = write_positions(
        tmp_path / "p.csv",
        "good,one,12,-7,30",
        "far,one,200,-7,30",
        "ras,one,-25,20,30",
        "lost,other,12,-7,30",
        "bad,broken,12,-7,30",
        "both,1.2.9,12,-7,30",
        "which,,12,-7,30",
    )
    monkeypatch.setattr(released, "networks_of_release", lambda *given: lab.networks)
    out = tmp_path / "out"
    given = ["score", "--scans", str(scans), "--positions", str(rows), "--to", str(out)]
    monkeypatch.setattr(sys, "argv", ["nodulebook", *given])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "6 positions could not be scored" in said and scoring.ABSENT in said
    left_out = pd.read_csv(out / "left_out.csv").set_index("id")
    assert left_out["line"].tolist() == [3, 4, 5, 6, 7, 8]
    reasons = left_out["reason"]
    assert "spans x -18.5 to 41.5, y -37.5 to 22.5, z -0.5 to 59.5 mm" in reasons["far"]
    assert "RAS" not in reasons["far"] and "RAS" in reasons["ras"]
    assert reasons["lost"] == scoring.ABSENT
    assert "broken.raw: 1,000 bytes" in reasons["bad"]
    assert "there twice" in reasons["both"]
    assert "names no scan" in reasons["which"] and "column scan" in reasons["which"]
    assert pd.read_csv(out / "probabilities.csv")["id"].tolist() == ["good"]
    assert "broken.raw: 1,000 bytes" in (out / "index.html").read_text()


def test_reasons_are_said_once() -> None:
    left_out = pd.DataFrame({"line": range(2, 20), "reason": 6 * ["a"] + [*"bcdefghijklm"]})
    said = scoring.reasons(left_out)
    assert said[:2] == ["line 2 and 5 more: a", "line 8: b"]
    assert len(said) == 11 and said[-1] == "and 3 more reasons"
    assert scoring.reasons(left_out.head(0)) == []


def test_a_scan_that_fails_oddly_does_not_cost_the_others(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mhd(tmp_path / "scans", "one")
    write_mhd(tmp_path / "scans", "two")

    def odd(scan: FoundScan) -> Volume:
        if scan.name == "one":
            raise MemoryError("too large")
        return open_metaimage(scan.images[0])

    monkeypatch.setattr(FoundScan, "open", odd)
    rows = write_positions(tmp_path / "p.csv", "a,one,12,-7,30", "b,two,12,-7,30")
    scored = score(tmp_path / "scans", rows, tmp_path / "out", lab.networks, report=quiet)
    assert scored.table["id"].tolist() == ["b"]
    assert "unexpected MemoryError: too large" in scored.left_out["reason"].iloc[0]


def test_where_nothing_can_be_scored_nothing_is_trained_or_written(tmp_path: Path) -> None:
    write_mhd(tmp_path / "scans")
    rows = write_positions(tmp_path / "p.csv", "far,one,999,0,0")
    networks = Networks(lambda k: pytest.fail("a network was asked for"), range(10), {})
    with pytest.raises(InputError, match=r"line 2: .*lies outside"):
        score(tmp_path / "scans", rows, tmp_path / "out", networks, report=quiet)
    assert not (tmp_path / "out").exists()


def test_folders_are_checked(lab: Lab, tmp_path: Path) -> None:
    rows = write_positions(tmp_path / "p.csv", "a,,12,-7,30")
    for folder, message in (
        (tmp_path / "absent", "no such folder"),
        (rows, "is a file"),
        (tmp_path, "must hold CT"),
    ):
        with pytest.raises(InputError, match=message):
            find_scans(folder)
    write_mhd(tmp_path / "scans")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("-")
    for to, message in ((tmp_path / "mine", "holds other files"), (rows, "is a file")):
        with pytest.raises(InputError, match=message):
            score(tmp_path / "scans", rows, to, lab.networks, report=quiet)
    assert (tmp_path / "mine" / "thesis.txt").is_file()
    for _ in range(2):  # its own folder it replaces
        score(tmp_path / "scans", rows, tmp_path / "out", lab.networks, report=quiet)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"probabilities.csv", "index.html"}


def test_series_that_are_not_ct_do_not_count(tmp_path: Path) -> None:
    import pydicom

    write_dicom(tmp_path / "ct", "1.2.3")
    for path in write_series(tmp_path / "seg", np.zeros((1, 4, 4), np.int16), "1.2.4"):
        header = pydicom.dcmread(path)
        header.Modality = "SEG"
        header.save_as(path)
    folder = find_scans(tmp_path)
    assert folder.one("").name == "1.2.3"
    with pytest.raises(InputError, match=r"1\.2\.4 is SEG"):
        folder.one("1.2.4")


def test_runs_without_weights_and_unknown_names_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODULEBOOK_RUNS", str(tmp_path / "runs"))
    (tmp_path / "runs" / "mine" / "fold-2").mkdir(parents=True)
    with pytest.raises(InputError, match="'other' is not one of mine"):
        sources.networks_of_run("other")
    with pytest.raises(InputError, match="--train-again"):
        sources.networks_of_run("mine")
    assert sources.networks_of_run("mine", train_again=True).usable == [2]
    with pytest.raises(InputError, match="fold 3 has no weights"):
        sources.networks_of_run("mine", fold=3)
    assert sources.networks_of_profile(fold=3).usable == (3,)
    with pytest.raises(InputError, match="source"):
        sources.networks_of_profile(source="mri")
    with pytest.raises(InputError, match="'huge' is not one of"):
        sources.networks_of_profile("huge")


# ------------------------------------------------------------------------------------- the page


def test_the_page_shows_every_position_and_needs_nothing_else(lab: Lab, tmp_path: Path) -> None:
    write_mhd(tmp_path / "scans")
    odd = "<script>alert(1)</script>"
    rows = write_positions(
        tmp_path / "p.csv",
        f"{odd},one,12,-7,30",
        "b,one,10,-7,30",
        "c,one,14,-7,30",
        "d,one,99,0,0",
    )
    out = tmp_path / "out"
    score(tmp_path / "scans", rows, out, lab.networks, pictures=2, report=quiet)
    with opened(out / "index.html") as tab:
        assert tab.evaluate("document.querySelectorAll('article').length") == 2
        assert tab.evaluate("document.querySelectorAll('tbody tr').length") == 3
        assert "1 further positions" in tab.evaluate("document.body.innerText")
        assert tab.evaluate("document.scripts.length") == 0
        assert tab.evaluate("document.querySelector('article h3').innerText").startswith(odd)
        images = "[...document.images]"
        assert tab.evaluate(f"{images}.length") == 4
        assert tab.evaluate(f"{images}.every(i => i.naturalWidth == 588 && i.alt.length > 20)")
        assert tab.evaluate(f"new Set({images}.map(i => i.src)).size") == 4
        assert tab.evaluate("performance.getEntriesByType('resource').length") == 0
        links = "[...document.querySelectorAll('td a, th a')].map(a => a.getAttribute('href'))"
        targets = f"{links}.every(h => document.getElementById(h.slice(1)))"
        assert tab.evaluate(f"{links}.length") == 2 and tab.evaluate(targets)
        text = tab.evaluate("document.body.innerText")
        assert "No clinical use" in text and "says nothing about CT" in text
        assert "(2 cells along each axis, 16 mm each" in text
        assert "line 5" in text.lower() and "lies outside the scan" in text
        wide = "document.documentElement.scrollWidth"
        tab.set_viewport_size({"width": 390, "height": 800})
        assert tab.evaluate(wide) <= 390


def test_a_map_is_described_from_the_position() -> None:
    heat = np.zeros((32, 32, 32), np.float32)
    assert peak_text(heat) == "nothing in the patch supports it"
    heat[25, 10, 16] = 1  # zyx: 9.5 mm up, 5.5 to the front, 0.5 to the left
    assert peak_text(heat) == (
        "highest 0 mm to the left, 6 mm to the front, 10 mm up of the position"
    )
    assert peak_text(np.ones((4, 4, 4), np.float32)) == "highest at the position"


# -------------------------------------------------------------------------- LIDC-IDRI's nodules


def test_the_known_nodules_of_a_scan_are_where_its_voxels_are(tmp_path: Path) -> None:
    nodules = read_nodules().set_index("nodule_id")
    row = nodules.loc["LIDC-IDRI-0001-s1-n00"]
    (scan,) = read_scans({FIRST})
    sitk.WriteImage(made_up(scan, row), str(tmp_path / f"{FIRST}.mhd"))
    write_mhd(tmp_path, "mine")
    table, left_out = known_positions(find_scans(tmp_path))
    assert table["id"].tolist() == ["LIDC-IDRI-0001-s1-n00"] and not left_out
    assert table["readers"].tolist() == [4]
    volume = open_metaimage(tmp_path / f"{FIRST}.mhd")
    size = volume.geometry.size_xyz
    bright = np.argwhere(volume.region_hu((0, 0, 0), size) == 50).mean(axis=0)[::-1]
    world = volume.geometry.to_world(bright)
    assert np.abs(table[["x_mm", "y_mm", "z_mm"]].to_numpy()[0] - world).max() < 0.7


def test_a_folder_without_lidc_has_no_known_positions(tmp_path: Path) -> None:
    write_mhd(tmp_path, "mine")
    with pytest.raises(InputError, match="none of its 1 scans is of LIDC-IDRI"):
        known_positions(find_scans(tmp_path))


def test_inside_is_up_to_the_outer_voxels_edge(tmp_path: Path) -> None:
    geometry = open_metaimage(
        write_mhd(tmp_path)
    ).geometry  # x -18 to 41, its first voxel from -18.5
    check_inside(geometry, np.array([-18.4, -7, 30]))
    with pytest.raises(InputError, match="lies outside"):
        check_inside(geometry, np.array([-18.6, -7, 30]))


# ------------------------------------------------------------------------- the commands, whole


def test_the_command_trains_on_the_spot_and_scores(
    small_world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(small_world / "profiles", tmp_path / "profiles")
    (tmp_path / "profiles" / "short.yaml").write_text(TINY.replace("epochs: 10", "epochs: 1"))
    monkeypatch.setattr(paths, "PROFILES", tmp_path / "profiles")
    monkeypatch.setenv("NODULEBOOK_PATCHES", str(small_world / "data" / "patches"))
    monkeypatch.setenv("NODULEBOOK_RUNS", str(tmp_path / "runs"))
    write_dicom(tmp_path / "scans", FIRST)
    rows = write_positions(tmp_path / "p.csv", "12,-7,30", header="x_mm,y_mm,z_mm")
    given = ["score", "--scans", str(tmp_path / "scans"), "--positions", str(rows)]
    given += ["--to", str(tmp_path / "out"), "--profile", "short", "--pictures", "0"]
    monkeypatch.setattr(sys, "argv", ["nodulebook", *given])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert ended.value.code == 0, said.err
    assert "fold 0 epoch 1/1" in said.out
    (row,) = pd.read_csv(tmp_path / "out" / "probabilities.csv").to_dict("records")
    assert 0 < row["p_malignant"] < 1 and (row["run"], row["fold"]) == ("short-phantom", 0)
    assert row["patient_in_training"] == "no"
    # Kept where git does not look, to be taken the next time.
    assert (tmp_path / "runs" / ".models" / "short-phantom-fold-0.npz").is_file()


@real_dicom
def test_on_real_dicom_the_position_is_in_the_nodule(lab: Lab, tmp_path: Path) -> None:
    folder = find_scans(lidc_dicom())
    table, left_out = known_positions(folder)
    assert table["id"].tolist() == [
        f"LIDC-IDRI-{name}" for name in ("0001-s1-n00", "0003-s1-n01", "0013-s1-n01", "0013-s1-n02")
    ]
    assert set(left_out) == {"LIDC-IDRI-0003-s1-n02", "LIDC-IDRI-0003-s1-n03"}
    table.to_csv(tmp_path / "p.csv", index=False)
    scored = score(lidc_dicom(), tmp_path / "p.csv", tmp_path / "out", lab.networks, report=quiet)
    assert scored.table["fold"].tolist() == ["0", "3", "7", "7"]
    assert scored.table["rating"].tolist() == [4.75, 4.25, 3.25, 4.75]
    for fold in (0, 3):
        (patch,) = lab.spies[fold].patches_hu
        assert np.median(patch[13:19, 13:19, 13:19]) > -100
        assert np.median(patch) < np.median(patch[13:19, 13:19, 13:19]) - 50
    assert folder.scans[FIRST].patient_id == "LIDC-IDRI-0001"


def test_a_table_of_all_candidates_gives_a_page_that_a_browser_can_open(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "LISTED", 50)
    write_mhd(tmp_path / "scans")
    here = [f"one,{12 + k / 1000:.3f},-7,30" for k in range(60)]
    away = [f"1.3.6.1.4.1.14519.5.2.1.6279.6001.{k % 888:030d},1,2,3" for k in range(20_000)]
    rows = write_positions(
        tmp_path / "p.csv", *away, *here, header="seriesuid,coordX,coordY,coordZ"
    )
    out = tmp_path / "out"
    scored = score(tmp_path / "scans", rows, out, lab.networks, pictures=0)
    assert (len(scored.table), len(scored.left_out)) == (60, 20_000)
    text = (out / "index.html").read_text()
    assert text.count("<tr>") == 51 and len(text) < 100_000
    assert "60 positions" in text and "20,000 positions" in text
    assert len(pd.read_csv(out / "left_out.csv")) == 20_000
    assert (out / "left_out.csv").stat().st_size < 150 * 20_000


def test_output_is_as_private_as_the_umask_says(lab: Lab, tmp_path: Path) -> None:
    write_mhd(tmp_path / "scans")
    rows = write_positions(tmp_path / "p.csv", "a,,12,-7,30")
    before = os.umask(0o077)
    try:
        score(tmp_path / "scans", rows, tmp_path / "out", lab.networks)
    finally:
        os.umask(before)
    paths_written = [tmp_path / "out", *(tmp_path / "out").iterdir()]
    assert all(path.stat().st_mode & 0o077 == 0 for path in paths_written)


def test_a_position_far_from_the_tissue_is_said_where_the_shift_is_beyond_the_training(
    lab: Lab, tmp_path: Path
) -> None:
    write_mhd(tmp_path / "scans")
    networks = lab.networks
    networks.max_shift_mm = 3.0
    rows = write_positions(tmp_path / "p.csv", "near,,14,-7,30", "far,,18,-7,30", "up,,12,-7,35")
    table = score(tmp_path / "scans", rows, tmp_path / "out", networks).table.set_index("id")
    said = table["warnings"].str.contains("beside the centre of the tissue")
    assert said.to_dict() == {"near": False, "far": True, "up": False}
    assert table["diameter_auto_mm"]["near"] == pytest.approx(10, abs=2.5)


def test_pixels_and_slice_numbers_are_places(lab: Lab, tmp_path: Path) -> None:
    """The ball by its pixel: of an image file by the stored slice, of DICOM by InstanceNumber."""
    write_mhd(tmp_path / "scans")
    volume = find_scans(tmp_path / "scans").one("one").open()
    column, row, index = volume.geometry.to_index(np.array(BALL))
    header = "id,scan,column_px,row_px,slice"
    rows = write_positions(tmp_path / "p.csv", f"a,one,{column},{row},{index + 1}", header=header)
    table = score(tmp_path / "scans", rows, tmp_path / "out", lab.networks).table
    assert table[["x_mm", "y_mm", "z_mm"]].to_numpy()[0] == pytest.approx(BALL, abs=0.01)
    write_dicom(tmp_path / "dicom", "1.2.3")
    import pydicom

    folder = find_scans(tmp_path / "dicom")
    volume = folder.one("1.2.3").open()
    column, row, index = volume.geometry.to_index(np.array(BALL))
    files = sorted(
        (tmp_path / "dicom").iterdir(),
        key=lambda p: -float(pydicom.dcmread(p).ImagePositionPatient[2]),
    )
    for number, path in enumerate(files, start=101):  # from the head down, as scanners count
        header_of = pydicom.dcmread(path)
        header_of.InstanceNumber, header_of.PatientID = number, "LUNGx-CT001"
        header_of.save_as(path)
    number = 101 + len(files) - 1 - round(index)
    lungx = 'Scan Number,Nodule Number,"Nodule Center x,y Position*",Nodule Center Image'
    rows = write_positions(
        tmp_path / "q.csv",
        f'LUNGx-CT001,1,"{round(column)}, {round(row)}",{number}',
        f'LUNGx-CT001,2,"{round(column)}, {round(row)}",7',
        header=lungx,
    )
    scored = score(tmp_path / "dicom", rows, tmp_path / "out2", lab.networks)
    world = scored.table[["x_mm", "y_mm", "z_mm"]].to_numpy()[0]
    assert np.abs(world - BALL).max() < 0.65
    assert scored.table["scan"].tolist() == ["1.2.3"] and scored.left_out["id"].tolist() == ["2"]


@real_dicom
def test_nifti_metaimage_cubes_and_label_images_give_the_same_scores(
    lab: Lab, tmp_path: Path
) -> None:
    folder = find_scans(lidc_dicom())
    table, _ = known_positions(folder)
    rows = tmp_path / "p.csv"
    table.to_csv(rows, index=False)
    (tmp_path / "cubes").mkdir()
    voxels: list[tuple[object, ...]] = []
    for name, scan in folder.scans.items():
        volume = scan.open()
        geometry = volume.geometry
        hu = volume.region_hu((0, 0, 0), geometry.size_xyz)
        image = sitk.GetImageFromArray(hu.astype(np.int16))
        mask = np.zeros(hu.shape, np.uint8)
        for row in table[table["scan"] == name].itertuples():
            world = np.array([row.x_mm, row.y_mm, row.z_mm])
            cube = extract_patch(volume, world, size=40)
            np.save(tmp_path / "cubes" / f"{row.id}.npy", cube.transpose(2, 1, 0))
            x, y, z = np.rint(geometry.to_index(world)).astype(int)
            mask[z, y - 2 : y + 3, x - 1 : x + 2] = 1  # its middle is the voxel's centre
            voxels.append((row.id, name, *geometry.to_world(np.array([x, y, z])).round(2)))
        for part, ending, to in (
            (image, "mha", "mha"),
            (image, "nii.gz", "nii"),
            (sitk.GetImageFromArray(mask), "nii", "masks"),
        ):
            part.SetOrigin(geometry.origin_xyz_mm.tolist())
            part.SetSpacing(geometry.spacing_xyz_mm.tolist())
            part.SetDirection(geometry.direction.ravel().tolist())
            (tmp_path / to).mkdir(exist_ok=True)
            sitk.WriteImage(part, str(tmp_path / to / f"{name}.{ending}"))
    first = score(lidc_dicom(), rows, tmp_path / "o0", lab.networks).table
    for kind in ("mha", "nii"):
        other = score(tmp_path / kind, rows, tmp_path / f"o-{kind}", lab.networks).table
        assert np.abs(other["p_malignant"] - first["p_malignant"]).max() < 1e-3
        assert (other["fold"] == first["fold"]).all()
    cubes, centres = read_cubes(tmp_path / "cubes", (1.0, 1.0, 1.0), "xyz")
    lab.usable = (0,)
    whole = score(lidc_dicom(), rows, tmp_path / "o1", lab.networks).table
    of_cubes = scoring.score(cubes, centres, tmp_path / "o2", lab.networks, report=quiet).table
    inside = whole["id"] != "LIDC-IDRI-0003-s1-n01"  # its cube was filled beyond the scan
    away = of_cubes.set_index("id")["p_malignant"] - whole.set_index("id")["p_malignant"]
    assert np.abs(away[inside.to_numpy()]).max() < 1e-3
    centres = pd.DataFrame(voxels, columns=["id", "scan", "x_mm", "y_mm", "z_mm"])
    marked, left_out = positions_of_labels(tmp_path / "masks", folder)
    assert len(marked) == 4 and not left_out
    places = ["scan", "z_mm", "x_mm", "y_mm", "p_malignant"]
    drawn, typed = (
        scoring.score(folder, one.assign(line=1), tmp_path / "o3", lab.networks, report=quiet)
        .table[places].sort_values(places, ignore_index=True)
        for one in (marked, centres)
    )  # fmt: skip
    pd.testing.assert_frame_equal(drawn, typed, rtol=0, atol=1e-3)


def numbered(folder: Path) -> tuple[np.ndarray, list[Path]]:
    """A DICOM series whose slices are numbered from 1; the ball's column, row and number."""
    write_dicom(folder, "1.2.3")
    volume = find_scans(folder).one("1.2.3").open()
    files = sorted(folder.iterdir(), key=lambda p: float(dcmread(p).ImagePositionPatient[2]))
    for number, path in enumerate(files, start=1):
        edit(path, InstanceNumber=number)
    return volume.geometry.to_index(np.array(BALL)) + np.array([0, 0, 1]), files


@pytest.mark.parametrize("kind", ["DERIVED", "MIP"])
def test_a_slice_number_is_that_of_the_scan_not_of_an_image_left_out(
    lab: Lab, tmp_path: Path, kind: str
) -> None:
    (column, row, number), files = numbered(tmp_path / "s")
    for k, of in enumerate((3, 20)):
        extra = tmp_path / "s" / f"z{k}.dcm"
        shutil.copy(files[of], extra)
        place = [-20, -30, float(dcmread(extra).ImagePositionPatient[2]) + 0.6]
        edit(
            extra, ImageType=["DERIVED", "SECONDARY", kind], InstanceNumber=round(number),
            SOPInstanceUID=f"1.2.3.{k}", ImagePositionPatient=place,
        )  # fmt: skip
    header = "id,scan,column_px,row_px,slice"
    cells = f"a,1.2.3,{column},{row},{round(number)}"
    rows = write_positions(tmp_path / "p.csv", cells, header=header)
    table = score(tmp_path / "s", rows, tmp_path / "out", lab.networks).table
    assert np.abs(table[["x_mm", "y_mm", "z_mm"]].to_numpy()[0] - BALL).max() < 0.65


@pytest.mark.parametrize("number", [5, None])
def test_slice_numbers_that_are_not_one_each_are_refused(
    lab: Lab, tmp_path: Path, number: int | None
) -> None:
    (column, row, _), files = numbered(tmp_path / "s")
    edit(files[7], InstanceNumber=number)
    header = "id,scan,column_px,row_px,slice"
    rows = write_positions(tmp_path / "p.csv", f"a,1.2.3,{column},{row},5", header=header)
    with pytest.raises(InputError, match="InstanceNumber"):
        score(tmp_path / "s", rows, tmp_path / "out", lab.networks)


def test_whose_scan_it_is_is_told_by_files_and_not_where_they_disagree(tmp_path: Path) -> None:
    write_mhd(tmp_path / "a", "LIDC-IDRI-0003")
    write_dicom(tmp_path / "b" / "two", "1.2.4")
    for k, path in enumerate(sorted((tmp_path / "b" / "two").iterdir())):
        edit(path, PatientID="LIDC-IDRI-0001" if k % 2 else "P7")
    write_dicom(tmp_path / "c", "1.2.5")
    for path in (tmp_path / "c").iterdir():
        edit(path, PatientID="LIDC-IDRI-1")
    found = find_scans(tmp_path)
    patients = {name: scan.patient_id for name, scan in found.scans.items()}
    assert patients == {"LIDC-IDRI-0003": "LIDC-IDRI-0003", "1.2.4": "", "1.2.5": "LIDC-IDRI-0001"}
    # A table may spell the patient otherwise than the files.
    assert found.one("lidc_idri_0001").name == found.one("LIDC-IDRI-1").name == "1.2.5"


def test_a_folder_above_does_not_make_the_patient(tmp_path: Path) -> None:
    """LUNA16's 888 scans, or a second copy, are often in a folder that is called like a patient."""
    for root in ("LIDC-IDRI-888", "LIDC-IDRI_2"):
        write_mhd(tmp_path / root / "LIDC-IDRI-0888", "LIDC-IDRI-0003")
        write_mhd(tmp_path / root / "LIDC-IDRI-888", "hospital7")
        write_mhd(tmp_path / root / "LIDC-IDRI-0005", "ct")
        for at in (tmp_path / root, tmp_path):
            found = {name: scan.patient_id for name, scan in find_scans(at).scans.items()}
            assert found == {
                "LIDC-IDRI-0003": "LIDC-IDRI-0003",  # the file's name comes before the folder's
                "hospital7": "",
                "ct": "LIDC-IDRI-0005",
            }
        inner = write_mhd(tmp_path / root / "lidc_idri_0007_CT" / "series", "ct2").parent
        for at in (inner, tmp_path / root):
            assert find_scans(at).scans["ct2"].patient_id == "LIDC-IDRI-0007"
        own = find_scans(tmp_path / root / "LIDC-IDRI-0005")
        assert own.scans["ct"].patient_id == "LIDC-IDRI-0005"
        shutil.rmtree(tmp_path / root)


def test_names_with_slashes_are_the_patients_or_else_paths(lab: Lab, tmp_path: Path) -> None:
    write_dicom(tmp_path / "scans" / "a", "1.2.4")
    for path in (tmp_path / "scans" / "a").iterdir():
        edit(path, PatientID="2019/17")
    found = find_scans(tmp_path / "scans")
    assert found.one("2019/17").name == found.one("export/1.2.4").name == "1.2.4"
    rows = write_positions(
        tmp_path / "p.csv", "a,x/1.2.4,12,-7,30", "b,y/1.2.4,12,-7,30", "c,2019/17,12,-7,30"
    )
    scored = score(tmp_path / "scans", rows, tmp_path / "out", lab.networks, report=quiet)
    assert scored.table["id"].tolist() == ["c"]  # two paths cannot both be the scan
    assert scored.left_out["id"].tolist() == ["a", "b"]


def test_a_patient_of_several_scans_is_not_called_absent(lab: Lab, tmp_path: Path) -> None:
    for uid in ("1.2.4", "1.2.5"):
        write_dicom(tmp_path / "scans" / uid, uid)
        for path in (tmp_path / "scans" / uid).iterdir():
            edit(path, PatientID="P7")
    rows = write_positions(tmp_path / "p.csv", "a,P7,12,-7,30")
    with pytest.raises(InputError, match=r"'P7' has 2 scans: say which .*1\.2\.4.*1\.2\.5"):
        score(tmp_path / "scans", rows, tmp_path / "out", lab.networks)


def test_columns_that_are_called_like_results_are_kept_under_another_name(
    lab: Lab, tmp_path: Path
) -> None:
    write_mhd(tmp_path / "scans")
    header = "id,x_mm,y_mm,z_mm,Fold,run,Warnings,run as given,label"
    rows = write_positions(tmp_path / "p.csv", "a,12,-7,30,7,mine,w,r,1", header=header)
    score(tmp_path / "scans", rows, tmp_path / "out", lab.networks, report=quiet)
    written = pd.read_csv(tmp_path / "out" / "probabilities.csv").iloc[0]
    given = {"Fold as given": 7, "run as given again": "mine", "run as given": "r"}
    assert written[[*given]].to_dict() == given and written["Warnings as given"] == "w"
    again = read_positions(tmp_path / "out" / "probabilities.csv")
    scored = scoring.score(find_scans(tmp_path / "scans"), again, tmp_path / "2", lab.networks)
    assert len({name.lower() for name in scored.table}) == len(scored.table.columns)


def test_a_position_of_another_scan_or_patient_is_not_scored_in_the_only_one(
    lab: Lab, tmp_path: Path
) -> None:
    write_mhd(tmp_path / "scans")
    for header in ("Series,x_mm,y_mm,z_mm", "PatientID,x_mm,y_mm,z_mm"):
        rows = write_positions(tmp_path / "p.csv", "two,12,-7,30", header=header)
        with pytest.raises(InputError, match=scoring.ABSENT):
            score(tmp_path / "scans", rows, tmp_path / "out", lab.networks, report=quiet)


def test_a_line_without_a_scan_is_not_scored_where_others_name_one(
    lab: Lab, tmp_path: Path
) -> None:
    """In a folder of one scan, too: the line may belong to the one that is absent."""
    write_mhd(tmp_path / "scans", "one")
    rows = write_positions(tmp_path / "p.csv", "a,one,12,-7,30", "b,,12,-7,30")
    scored = score(tmp_path / "scans", rows, tmp_path / "out", lab.networks, report=quiet)
    assert scored.table["id"].tolist() == ["a"]
    assert scored.left_out["reason"].tolist() == [scoring.UNNAMED]
    rows = write_positions(tmp_path / "p.csv", "b,,12,-7,30")
    scored = score(tmp_path / "scans", rows, tmp_path / "all", lab.networks, report=quiet)
    assert scored.table["id"].tolist() == ["b"]


def test_broken_image_files_cost_no_good_scan(lab: Lab, tmp_path: Path) -> None:
    write_mhd(tmp_path / "scans")
    (tmp_path / "scans" / "zero.mhd").touch()
    (tmp_path / "scans" / "cut.nii.gz").write_bytes(b"\x1f\x8b")
    rows = write_positions(tmp_path / "p.csv", "a,12,-7,30", header="id,x_mm,y_mm,z_mm")
    scored = score(tmp_path / "scans", rows, tmp_path / "out", lab.networks, report=quiet)
    assert len(scored.table) == 1
    named = sorted(Path(text.split(":")[0]).name for text in scored.damaged)
    assert named == ["cut.nii.gz", "zero.mhd"]
