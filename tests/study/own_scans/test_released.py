"""The released networks: packed, checked, chosen by patient, read without pickle."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_score import FIRST, THIRD, write_mhd, write_positions

from conftest import TINY
from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.settings import check_fold_parameters
from nodulebook.data.folds import read_folds
from nodulebook.runs.weights import put_weights, read_weights, save_weights
from study.experiments.folds import run_fold_without_notebook
from study.own_scans import released, scoring
from study.own_scans.networks import ALL, calibrated
from study.own_scans.positions import read_positions
from study.own_scans.scans import find_scans


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def packed(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of one run of ten folds, each trained for an epoch on a phantom of balls."""
    folder = tmp_path_factory.mktemp("release")
    shutil.copytree(small_world / "profiles", folder / "profiles")
    (folder / "profiles" / "tiny.yaml").write_text(TINY.replace("epochs: 10", "epochs: 1"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "PROFILES", folder / "profiles")
        patch.setenv("NODULEBOOK_RUNS", str(folder / "runs"))
        patch.setenv("NODULEBOOK_PATCHES", str(small_world / "data" / "patches"))
        for k in range(10):
            run_fold_without_notebook(check_fold_parameters({"fold": k, "profile": "tiny"}))
        manifest = released.release("tiny-phantom", folder=folder / "weights", report=quiet)
    assert [entry.fold for entry in manifest.files] == list(range(10))
    assert all((entry.largest_difference or 0) < 0.02 for entry in manifest.files)
    return folder / "weights"


@pytest.fixture
def release(packed: Path, tmp_path: Path) -> Path:
    shutil.copytree(packed, tmp_path / "weights")
    return tmp_path / "weights"


def test_the_fold_that_held_a_patient_out_answers_and_all_folds_for_others(
    packed: Path, tmp_path: Path
) -> None:
    networks = released.networks_of_release(report=quiet, folder=packed)
    folds = read_folds()
    for patient, fold in zip(folds["patient_id"], folds["fold"], strict=True):
        assert networks.fold_for(patient) == fold
    assert networks.fold_for("") == ALL and networks.fold_for("LIDC-IDRI-9999") == ALL
    for name in (FIRST, THIRD, "else"):
        write_mhd(tmp_path / "scans", name)
    rows = write_positions(tmp_path / "p.csv", *(f"{n},{n},12,-7,30" for n in ("else", THIRD)))
    found = find_scans(tmp_path / "scans")
    table = scoring.score(found, read_positions(rows), tmp_path / "o", networks, report=quiet).table
    assert table["fold"].tolist() == ["all", "3"]
    assert table["patient_in_training"].tolist() == ["unknown", "no"]


def test_a_score_is_the_calibrated_mean_over_the_packed_networks(packed: Path) -> None:
    networks = released.networks_of_release(report=quiet, folder=packed)
    volumes = np.random.default_rng(0).random((2, 32, 32, 32), dtype=np.float32)
    whole, manifest = networks.get(ALL), released.read_manifest(packed)
    each = []
    for entry in manifest.files:
        put_weights(whole.model, read_weights(packed / entry.file, whole.model))
        each.append(whole.model.predict(volumes[..., None], verbose=0)[:, 1])
    slope, intercept = manifest.calibration["all"]
    mean = np.mean(each, axis=0)
    expected = 1 / (1 + (mean / (1 - mean)) ** -slope * np.exp(-intercept))
    assert whole.predict(volumes) == pytest.approx(expected, abs=1e-5)
    assert calibrated(mean, (1.0, 0.0)) is mean


def test_calibration_of_a_fold_does_not_see_its_nodules(packed: Path) -> None:
    lines = released.read_manifest(packed).calibration
    assert set(lines) == {*map(str, range(10)), "all"}
    assert len(set(lines.values())) > 1  # each fold's line is of the other folds


def test_weights_survive_half_precision_and_refuse_another_network(
    packed: Path, tmp_path: Path
) -> None:
    model = released.networks_of_release(report=quiet, folder=packed).get(0).model
    save_weights(tmp_path / "w.npz", model)
    stored = read_weights(tmp_path / "w.npz", model)
    for variable in model.variables:
        value = np.asarray(variable.value)
        assert stored[variable.path] == pytest.approx(value, rel=1e-3, abs=1e-7)
    with np.load(tmp_path / "w.npz", allow_pickle=False) as arrays:
        held = dict(arrays)
    name = next(iter(held))
    for wrong in (
        {k: v for k, v in held.items() if k != name},
        held | {"more": np.zeros(3)},
        held | {name: np.zeros((2, 2))},
        held | {name: np.full_like(held[name], np.nan)},
        held | {name: np.array([{"a": 1}], object)},
    ):
        np.savez(tmp_path / "x.npz", **wrong)
        with pytest.raises(InputError, match=r"x\.npz"):
            read_weights(tmp_path / "x.npz", model)
    for junk in (b"", b"PK\x03\x04", b"not a zip"):
        (tmp_path / "x.npz").write_bytes(junk)
        with pytest.raises(InputError, match=r"x\.npz"):
            read_weights(tmp_path / "x.npz", model)
    model.variables[0].assign(np.full(model.variables[0].shape, 1e6, np.float32))
    with pytest.raises(InputError, match="half precision"):
        save_weights(tmp_path / "y.npz", model)


def test_a_changed_file_is_refused_before_it_is_read(release: Path) -> None:
    file = release / "fold-4-seed-3.npz"
    whole = file.read_bytes()
    for changed in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1])):
        file.write_bytes(changed)
        with pytest.raises(InputError, match=r"fold-4-seed-3\.npz: is not the file"):
            released.read_manifest(release)
    file.unlink()
    with pytest.raises(InputError, match="is missing"):
        released.read_manifest(release)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"files": []}, "files"),
        ({"profile_hash": "0"}, "disagree"),
        ({"licence": None}, "licence"),
        ({"extra": 1}, "extra"),
        ({"calibration": {"0": [1]}}, "calibration"),
        ({"path": "../../etc/passwd"}, "file"),
        ({"path": "/etc/passwd"}, "file"),
        ({"bytes": -1}, "bytes"),
        ({"sha256": "abc"}, "sha256"),
    ],
)
def test_wrong_manifests_are_refused(release: Path, change: dict[str, Any], message: str) -> None:
    path = release / "manifest.json"
    values = json.loads(path.read_text())
    if "path" in change:
        values["files"][0]["file"] = change["path"]
    elif change.keys() & {"bytes", "sha256"}:
        values["files"][0] |= change
    else:
        values |= change
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match=rf"manifest\.json.*{message}"):
        released.networks_of_release(folder=release)


def test_without_a_release_the_way_out_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--profile"):
        released.networks_of_release(folder=tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"manifest\.json"):
        released.networks_of_release(folder=tmp_path)


def test_a_run_that_lacks_a_fold_or_weights_is_not_packed(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(packed.parent / "runs", tmp_path / "runs")
    monkeypatch.setenv("NODULEBOOK_RUNS", str(tmp_path / "runs"))
    run = tmp_path / "runs" / "tiny-phantom"
    with pytest.raises(InputError):
        released.release("other", folder=tmp_path / "w", report=quiet)
    shutil.move(run / "fold-9", tmp_path / "fold-9")
    with pytest.raises(InputError, match="fold 9 is missing"):
        released.release("tiny-phantom", folder=tmp_path / "w", report=quiet)
    assert not (tmp_path / "w").exists()


def test_a_folder_of_other_files_is_not_replaced(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds other files \(mine\.txt\)"):
        released.release("tiny-phantom", folder=tmp_path, report=quiet)
    assert (tmp_path / "mine.txt").read_text() == "mine"
    with pytest.raises(InputError, match="fold 0 is missing"):  # an older release may be replaced
        released.release("absent", folder=packed, report=quiet)


def test_an_own_cohorts_weights_are_not_said_to_be_of_lidc(packed: Path) -> None:
    assert "LIDC" not in released.licence_of("own")
    assert released.read_manifest(packed).licence == released.licence_of("phantom")
    assert "CC BY" in released.licence_of("lidc_exact")


def test_the_committed_release_is_whole_and_small() -> None:
    folder = released.weights_folder()
    if not (folder / "manifest.json").is_file():
        pytest.skip("no release is committed")
    manifest = released.read_manifest(folder)
    names = {path.name for path in folder.iterdir()}
    assert names == {"manifest.json", *(entry.file for entry in manifest.files)}
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 12 * 2**20
    assert {entry.fold for entry in manifest.files} == set(range(10))
    folds = read_folds()
    held = {k: set(rows["patient_id"]) for k, rows in folds.groupby("fold")}
    assert {int(k): set(v) for k, v in manifest.held_out.items()} == held
    assert pd.Series(manifest.patients).is_unique
