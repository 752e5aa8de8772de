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
from nodulebook.runs.contract import Fold
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


@pytest.fixture
def runs(packed: Path, small_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the release's runs, which `release` finds."""
    shutil.copytree(packed.parent / "runs", tmp_path / "runs")
    monkeypatch.setenv("NODULEBOOK_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("NODULEBOOK_PATCHES", str(small_world / "data" / "patches"))
    return tmp_path / "runs" / "tiny-phantom"


def change_run(run: Path, **values: Any) -> None:
    """Write values into run.json of all folds."""
    for path in run.glob("fold-*/run.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | values))


def scored(p: np.ndarray, label: np.ndarray) -> dict[str, dict[int, Fold]]:
    """A run of ten folds with these probabilities."""
    table = pd.DataFrame({"label": label, "p_malignant": p, "fold": np.arange(len(p)) % 10})
    table["nodule_id"] = table.index.astype(str)
    return {"run": {k: Fold(table[table["fold"] == k], table, {}) for k in range(10)}}


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


def test_a_score_is_the_calibrated_mean_over_the_packed_networks(release: Path) -> None:
    path = release / "manifest.json"
    values = json.loads(path.read_text())
    values["calibration"]["all"] = [2.5, 0.3]
    path.write_text(json.dumps(values))
    networks = released.networks_of_release(report=quiet, folder=release)
    volumes = np.random.default_rng(0).random((2, 32, 32, 32), dtype=np.float32)
    whole, manifest = networks.get(ALL), released.read_manifest(release)
    each = []
    for entry in manifest.files:
        put_weights(whole.model, read_weights(release / entry.file, whole.model))
        each.append(whole.model.predict(volumes[..., None], verbose=0)[:, 1])
    slope, intercept = manifest.calibration["all"]
    mean = np.mean(each, axis=0)
    expected = 1 / (1 + (mean / (1 - mean)) ** -slope * np.exp(-intercept))
    assert whole.predict(volumes) == pytest.approx(expected, abs=1e-5)
    assert calibrated(mean, (1.0, 0.0)) is mean


LABEL = np.arange(200) // 10 % 2
NOISE = np.random.default_rng(0).normal(size=200)


def test_calibration_of_a_fold_does_not_see_its_nodules(packed: Path) -> None:
    assert set(released.read_manifest(packed).calibration) == {*map(str, range(10)), "all"}
    p = 1 / (1 + np.exp(-(LABEL - 0.5 + NOISE) / 2))
    lines = released._calibration(scored(p, LABEL), pytest.fail)
    assert all(0.5 < slope < 10 for slope, _ in lines.values()) and len(set(lines.values())) == 11
    p[3::10] = 0.1
    others = released._calibration(scored(p, LABEL), pytest.fail)
    assert [name for name in lines if lines[name] == others[name]] == ["3"]


@pytest.mark.parametrize(
    ("logits", "label", "why"),
    [
        ((0.5 - LABEL + NOISE) / 2, LABEL, "the fitted slope is -"),  # turned round
        ((LABEL - 0.5 + NOISE) / 1000, LABEL, "and at most 10"),  # almost the same for all
        (LABEL * 4.0 + np.abs(NOISE), LABEL, "do not overlap"),
        (-LABEL * 4.0 - np.abs(NOISE), LABEL, "do not overlap"),
        (np.full(200, -0.4), LABEL, "do not overlap"),
        (NOISE, np.zeros(200, int), "one label only"),
    ],
)
def test_scores_that_no_line_calibrates_are_kept_and_that_is_said(
    logits: np.ndarray, label: np.ndarray, why: str
) -> None:
    said: list[str] = []
    lines = released._calibration(scored(1 / (1 + np.exp(-logits)), label), said.append)
    assert set(lines.values()) == {(1.0, 0.0)} and len(lines) == len(said) == 11
    assert all(why in line and "as the networks give them" in line for line in said)
    assert said[4].startswith("calibration of fold 4: ") and "mean of all folds" in said[10]


def test_only_the_fold_without_a_line_keeps_its_scores() -> None:
    p = 1 / (1 + np.exp(-(LABEL * 6.0 - 3 + np.clip(NOISE, -2, 2))))
    p[7::10] = 1 / (1 + np.exp(-NOISE[7::10]))  # the only nodules that overlap
    said: list[str] = []
    lines = released._calibration(scored(p, LABEL), said.append)
    assert [name for name, line in lines.items() if line == (1.0, 0.0)] == ["7"]
    assert len(said) == 1 and "fold 7" in said[0]


def test_without_shifts_in_training_no_limit_is_warned_about(release: Path) -> None:
    path = release / "manifest.json"
    values = json.loads(path.read_text())
    assert values["max_shift_mm"] is None
    for written, read in ((None, None), (0.0, None), (4.0, 4.0)):  # 0.0: an older release's
        path.write_text(json.dumps(values | {"max_shift_mm": written}))
        assert released.networks_of_release(report=quiet, folder=release).max_shift_mm == read


def test_a_release_is_found_in_the_home_folder(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(packed.parent))
    home = Path("~", packed.name)
    assert released.read_manifest(home).run == "tiny-phantom"
    networks = released.networks_of_release(report=quiet, folder=home)
    assert networks.get(0).members


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


def test_a_folder_with_another_programs_manifest_is_not_replaced(
    release: Path, tmp_path: Path
) -> None:
    other = tmp_path / "extension"
    other.mkdir()
    for text in ('{"manifest_version": 3, "name": "mine"}', "[]", "{"):
        (other / "manifest.json").write_text(text)
        with pytest.raises(InputError, match=r"manifest\.json: is not the manifest of a release"):
            released.release("tiny-phantom", folder=other, report=quiet)
        assert (other / "manifest.json").read_text() == text
    (release / "fold-0-seed-99.npz").write_text("mine")  # which the manifest does not name
    with pytest.raises(InputError, match=r"other files \(fold-0-seed-99\.npz\)"):
        released.release("tiny-phantom", folder=release, report=quiet)


def test_a_link_to_a_folder_and_the_folder_one_is_in_can_be_named(
    runs: Path, release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, empty = tmp_path / "link", tmp_path / "empty"
    link.symlink_to(release)
    empty.mkdir()
    monkeypatch.chdir(empty)
    before = (release / "manifest.json").stat().st_ino
    for to in (link, Path(".")):
        released.release("tiny-phantom", folder=to, report=quiet)
    assert link.is_symlink() and (release / "manifest.json").stat().st_ino != before
    released.read_manifest(empty)
    assert {p.name for p in tmp_path.iterdir()} == {"runs", "weights", "link", "empty"}


def test_a_run_of_other_data_is_not_packed(runs: Path, tmp_path: Path) -> None:
    change_run(runs, data_hash="0" * 64)
    with pytest.raises(
        InputError,
        match=r"'tiny-phantom', fold 0: made with other patches.*data have changed.*again",
    ):
        released.release("tiny-phantom", folder=tmp_path / "w", report=quiet)
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("change", ["removed", "moved"])
def test_a_run_whose_cohort_has_lost_or_moved_a_patient_is_not_packed(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    folds = read_folds()
    tested = pd.read_csv(runs / "fold-4" / "probabilities.csv")["patient_id"].iloc[0]
    here = folds["patient_id"] == tested
    now = folds[~here] if change == "removed" else folds.assign(fold=folds["fold"].mask(here, 5))
    change_run(runs, source="own")
    monkeypatch.setattr(released, "read_folds", lambda: now)
    monkeypatch.setattr(paths, "OWN_COHORT", tmp_path / "mine")
    with pytest.raises(
        InputError, match=r"'tiny-phantom', fold 4: .*NODULEBOOK_COHORT \(.*mine\).*trained on"
    ):
        released.release("tiny-phantom", folder=tmp_path / "w", report=quiet)
    assert not (tmp_path / "w").exists()


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
