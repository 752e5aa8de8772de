"""Window, store and sources: a store is whole, or it is refused by the name of its bad file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.data.cohort import read_nodules
from nodulebook.patches import sources
from nodulebook.patches.cube import LUNG_HU, PATCH_SIZE, central_slab, scale_to_unit
from nodulebook.patches.sources import phantom
from nodulebook.patches.store import Patch, read_store, write_store

CUBE = (PATCH_SIZE,) * 3
NODULES = pd.DataFrame(
    {
        "nodule_id": ["a", "b", "c"],
        "patient_id": ["A", "A", "C"],
        "series_uid": ["1.1", "1.1", "1.3"],
        "other": [1, 2, 3],
    }
)


def _patch(name):
    random = np.random.default_rng(ord(name))
    return Patch(
        name, random.integers(-1024, 3071, CUBE).astype(np.int16), random.random(CUBE) < 0.1
    )


def _write(folder, names="abc", recipe=None):
    write_store(folder, "trial", (_patch(n) for n in names), NODULES, recipe or {"version": "1"})


@pytest.fixture
def folder(tmp_path):
    """A store of three patches."""
    _write(tmp_path / "store")
    return tmp_path / "store"


def _files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_window_by_hand():
    out = scale_to_unit(np.array([-1200, 600, -300, -2000, 3071, 0], dtype=np.int16))
    assert out.dtype == np.float32
    assert out.tolist() == [0, 1, 0.5, 0, 1, np.float32(1200) / np.float32(1800)]


def test_window_takes_floats_and_leaves_its_input_alone():
    volume = np.full((2, 2), -300.0)
    assert scale_to_unit(volume).tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert (volume == -300).all()


@given(st.lists(st.integers(-(2**15), 2**15 - 1), min_size=2))
def test_window_keeps_the_order_within_0_and_1(values):
    out = scale_to_unit(np.sort(np.array(values, dtype=np.int16)))
    assert out.min() >= 0 and out.max() <= 1 and (np.diff(out) >= 0).all()


def test_round_trip(folder):
    store = read_store(folder)
    assert store.source == "trial" and store.recipe == {"version": "1"}
    assert store.table.to_dict("list") == NODULES.drop(columns="other").to_dict("list")
    assert store.volumes_hu.dtype == np.int16 and store.masks.dtype == np.bool_
    for row, name in enumerate("abc"):
        assert np.array_equal(store.volumes_hu[row], _patch(name).volume_hu)
        assert np.array_equal(store.masks[row], _patch(name).mask)


def test_table_is_in_the_order_of_the_patches(tmp_path):
    _write(tmp_path / "store", "cab")
    store = read_store(tmp_path / "store")
    assert store.table["nodule_id"].tolist() == ["c", "a", "b"]
    assert store.table["patient_id"].tolist() == ["C", "A", "A"]
    assert np.array_equal(store.volumes_hu[0], _patch("c").volume_hu)


def test_nodules_that_a_source_lacks_are_left_out(tmp_path):
    _write(tmp_path / "store", "ca")
    store = read_store(tmp_path / "store")
    assert store.table["nodule_id"].tolist() == ["c", "a"]
    assert store.volumes_hu.shape == store.masks.shape == (2, *CUBE)
    assert np.array_equal(store.masks[1], _patch("a").mask)
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == [
        "masks.npy",
        "store.json",
        "table.csv",
        "volumes_hu.npy",
    ]


def test_digest_is_of_the_contents(tmp_path):
    for name, order, recipe in (("x", "abc", "1"), ("y", "abc", "2"), ("z", "ab", "1")):
        _write(tmp_path / name, order, {"version": recipe})
    x, y, z = (read_store(tmp_path / name).digest for name in "xyz")
    assert x == y and x != z


def _stops():
    yield _patch("a")
    raise RuntimeError("no more")


def test_source_that_stops_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="no more"):
        write_store(tmp_path / "store", "trial", _stops(), NODULES, {})
    assert list(tmp_path.iterdir()) == []


def test_source_that_stops_leaves_the_older_store(folder):
    before = _files(folder)
    with pytest.raises(RuntimeError, match="no more"):
        write_store(folder, "trial", _stops(), NODULES, {})
    assert _files(folder) == before
    assert list(folder.parent.iterdir()) == [folder]


def test_source_without_any_patch_is_refused(tmp_path):
    with pytest.raises(InputError, match="trial: none of the 3 nodules"):
        _write(tmp_path / "store", "")
    assert list(tmp_path.iterdir()) == []


def test_newer_store_replaces_the_older_one(folder):
    _write(folder, "b")
    assert read_store(folder).table["nodule_id"].tolist() == ["b"]
    assert list(folder.parent.iterdir()) == [folder]


def test_rows_are_in_the_order_asked_for(folder):
    store = read_store(folder)
    rows = store.rows(iter(["c", "a", "c"]))
    assert rows.dtype == np.int64 and rows.tolist() == [2, 0, 2]
    assert store.rows([]).tolist() == []


def test_rows_name_the_unknown_nodule(folder):
    with pytest.raises(InputError, match=r"2 nodules are not in the trial patches.* is x"):
        read_store(folder).rows(["a", "x", "y"])


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-1000])


def _empty(path):
    path.write_bytes(b"")


def _object_array(path):
    np.save(path, np.array([{}, {}, {}], dtype=object), allow_pickle=True)


def _short(path):
    np.save(path, np.load(path)[:2])


def _other_kind(path):
    np.save(path, np.load(path).astype(np.float32))


def _text(path):
    path.write_text("not an array")


@pytest.mark.parametrize("name", ["volumes_hu.npy", "masks.npy"])
@pytest.mark.parametrize(
    "damage", [_truncate, _empty, _object_array, _short, _other_kind, _text, type(None)]
)
def test_damaged_array_is_refused_by_name(folder, name, damage):
    path = folder / name
    if damage is type(None):
        path.unlink()
    else:
        damage(path)
    with pytest.raises(InputError, match=rf"{name}: .*delete "):
        read_store(folder)


def test_archive_in_place_of_an_array_is_refused_by_name(folder):
    np.savez(folder / "masks.npz", np.zeros(3))
    (folder / "masks.npz").rename(folder / "masks.npy")
    with pytest.raises(InputError, match=r"masks\.npy: .*delete "):
        read_store(folder)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nodule_id,patient_id\na,A\n", "series_uid is missing"),
        ("nodule_id,patient_id,series_uid\na,A,1.1\nb,,1.1\nc,C,1.3\n", "line 3: patient_id"),
        ("", "not a readable CSV"),
        (None, "no such file"),
    ],
)
def test_damaged_table_is_refused_by_name(folder, text, why):
    if text is None:
        (folder / "table.csv").unlink()
    else:
        (folder / "table.csv").write_text(text)
    with pytest.raises(InputError, match=rf"table\.csv: .*{why}"):
        read_store(folder)


@pytest.mark.parametrize(
    "text", [None, "", "{", "[]", "{}", '{"source": "trial", "digest": "0"}', '"source"']
)
def test_damaged_store_json_is_refused_by_name(folder, text):
    if text is None:
        (folder / "store.json").unlink()
    else:
        (folder / "store.json").write_text(text)
    with pytest.raises(InputError, match=r"store\.json: "):
        read_store(folder)


def test_unknown_source_names_those_there_are():
    with pytest.raises(InputError, match="'ct' is not one of phantom, lidc_slices"):
        sources.open_source("ct")


@pytest.fixture
def three(tmp_path, monkeypatch):
    """The phantom of three nodules, one of which too few readers marked, in a folder of its own."""
    table = read_nodules()
    few = pd.concat([table[table["readers"] >= 3].head(2), table[table["readers"] < 3].head(1)])
    monkeypatch.setattr(sources, "read_nodules", lambda: few)
    monkeypatch.setenv("NODULEBOOK_PATCHES", str(tmp_path / "patches"))
    return few


def test_store_is_built_for_the_reference_nodules_then_used_again(three, monkeypatch):
    store = sources.open_source("phantom")
    assert store.source == "phantom"
    assert store.table["nodule_id"].tolist() == three["nodule_id"].tolist()[:2]
    monkeypatch.setattr(phantom, "patches", None)  # would fail if it were called
    again = sources.open_source("phantom")
    assert again.digest == store.digest
    assert np.array_equal(again.volumes_hu, store.volumes_hu)


def test_store_is_built_anew_when_the_rendering_changes(three, monkeypatch):
    old = sources.open_source("phantom").digest
    monkeypatch.setattr(phantom, "VERSION", "other")
    new = sources.open_source("phantom")
    assert new.recipe["rendering"] == "other" and new.digest != old


def test_store_is_built_anew_when_the_nodule_table_changes(three, monkeypatch, tmp_path):
    old = sources.open_source("phantom")
    changed = tmp_path / "nodules.csv"
    changed.write_bytes(paths.NODULES_CSV.read_bytes() + b"\n")
    monkeypatch.setattr(paths, "NODULES_CSV", changed)
    new = sources.open_source("phantom")
    assert new.recipe["nodules_csv"] != old.recipe["nodules_csv"]
    assert new.digest == old.digest


def test_damaged_store_is_refused_not_built_over(three, tmp_path):
    sources.open_source("phantom")
    about = tmp_path / "patches" / "phantom" / "store.json"
    about.write_text(json.dumps({"source": "phantom"}))
    with pytest.raises(InputError, match=r"store\.json"):
        sources.open_source("phantom")


def test_a_central_slab_shows_the_same_planes_of_every_patch():
    """A patch of two planes, one of all, one whose planes lie off the slab: by hand."""
    volumes = np.full((3, 32, 32, 32), LUNG_HU, np.int16)
    volumes[0, 15], volumes[0, 16] = 10, 20
    volumes[1] = np.arange(32)[:, None, None]
    volumes[2, 3] = 7
    out = central_slab(volumes, 4)
    assert [int(plane[0, 0]) for plane in out[0, 13:19]] == [LUNG_HU, 10, 10, 20, 20, LUNG_HU]
    assert [int(plane[0, 0]) for plane in out[1, 14:18]] == [14, 15, 16, 17]
    assert (out[2, 14:18] == 7).all()
    assert (out[:, :14] == LUNG_HU).all() and (out[:, 18:] == LUNG_HU).all()
    assert volumes[0, 15, 0, 0] == 10 and volumes[1, 0, 0, 0] == 0  # the input is as it was


def test_a_patch_with_nothing_in_it_has_no_slab():
    with pytest.raises(InputError, match="patch 1"):
        volumes = np.full((2, 32, 32, 32), LUNG_HU, np.int16)
        volumes[0] = 0
        central_slab(volumes, 4)


def test_two_processes_build_a_store_once(tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from nodulebook.patches import sources
folder, name = Path(sys.argv[1]), sys.argv[2]
few, write = sources.read_nodules().query("readers >= 3").head(3), sources.write_store
def written(*given):
    (folder / f"built-by-{name}").touch()
    time.sleep(1)
    write(*given)
sources.read_nodules, sources.write_store = lambda: few, written
(folder / f"ready-{name}").touch()
while len(list(folder.glob("ready-*"))) < 2:
    time.sleep(0.01)
print(len(sources.open_source("phantom").table))
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), name],
            env=os.environ | {"NODULEBOOK_PATCHES": str(tmp_path / "stores")},
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in "ab"
    ]
    ends = [process.communicate(timeout=300)[0].split()[-1] for process in processes]
    assert ends == ["3", "3"]
    assert len(list(tmp_path.glob("built-by-*"))) == 1
    assert sorted(path.name for path in (tmp_path / "stores").iterdir()) == [
        ".phantom.lock",
        "phantom",
    ]
