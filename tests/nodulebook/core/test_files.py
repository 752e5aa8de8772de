"""Files are whole or absent, and a wrong cell is named."""

import errno
import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from nodulebook.core import files
from nodulebook.core.errors import InputError
from nodulebook.core.files import (
    folder_written_aside,
    read_csv,
    read_json,
    read_yaml,
    replace_folder,
    sha256,
    write_csv,
    write_json,
    written_aside,
)

COLUMNS = {"name": "str", "count": "int", "size_mm": "float"}


class Interrupted(Exception):
    pass


def test_a_file_takes_its_place_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "table.csv"
    with written_aside(path) as aside:
        aside.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert [p.name for p in path.parent.iterdir()] == ["table.csv"]


@pytest.mark.parametrize(("umask", "file", "folder"), [(0o22, 0o644, 0o755), (0o77, 0o600, 0o700)])
def test_modes_are_those_of_the_users_umask(tmp_path, umask, file, folder):
    before = os.umask(umask)
    try:
        with written_aside(tmp_path / "file") as aside:
            aside.write_text("x")
        with folder_written_aside(tmp_path / "folder") as aside:
            write_csv(pd.DataFrame({"a": [1]}), aside / "in.csv")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == file
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == folder
    assert stat.S_IMODE((tmp_path / "folder" / "in.csv").stat().st_mode) == file


KILLED = """
import os, signal, sys
from pathlib import Path
from nodulebook.core import files
with files.folder_written_aside(Path(sys.argv[1])) as aside:
    (aside / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_cleared_by_the_next(tmp_path):
    path = tmp_path / "store"
    subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert len(list(tmp_path.iterdir())) == 1  # it left something
    with folder_written_aside(path) as aside:
        (aside / "fresh").write_text("new")
        with folder_written_aside(path) as other:  # of a living process: left alone
            (other / "other").write_text("x")
        assert (aside / "fresh").exists()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("killed_before", [1, 2, 3])
def test_replacing_a_folder_survives_a_kill_at_any_point(tmp_path, monkeypatch, killed_before):
    """Before the first rename, the second, or the removal of the old: one is always whole."""
    source, target = tmp_path / "source", tmp_path / "target"
    for folder, text in ((source, "new"), (target, "old")):
        folder.mkdir()
        (folder / "file").write_text(text)
    steps = []

    def step(do):
        def stepped(*given, **options):
            if do is os_replace or Path(given[0]).exists():
                steps.append(given)
                if len(steps) == killed_before:
                    raise Interrupted
            return do(*given, **options)

        return stepped

    os_replace = os.replace
    monkeypatch.setattr(files.os, "replace", step(os.replace))
    monkeypatch.setattr(files.shutil, "rmtree", step(shutil.rmtree))
    with pytest.raises(Interrupted):
        replace_folder(source, target)
    monkeypatch.undo()
    whole = {p.name: (p / "file").read_text() for p in tmp_path.iterdir() if (p / "file").exists()}
    assert whole.get("target") or {"old", "new"} <= set(whole.values())
    if source.exists():  # the next call
        replace_folder(source, target)
    assert (target / "file").read_text() == "new"


def test_a_link_in_a_folders_place_is_replaced_and_leaves_nothing(tmp_path):
    linked, target, old = tmp_path / "linked", tmp_path / "target", tmp_path / ".target.old"
    linked.mkdir()
    (linked / "file").write_text("linked")
    for to in (linked, tmp_path / "nowhere"):
        for place in (target, old):  # `old`: as an earlier version left it
            shutil.rmtree(place, ignore_errors=True)
            place.symlink_to(to)
        (tmp_path / "source").mkdir()
        replace_folder(tmp_path / "source", target)
        assert target.is_dir() and not target.is_symlink()
        assert {p.name for p in tmp_path.iterdir()} == {"linked", "target"}
        assert (linked / "file").read_text() == "linked"


def test_a_full_disk_names_its_folder(tmp_path):
    with pytest.raises(OSError) as full, written_aside(tmp_path / "file"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(tmp_path) in str(full.value)


def test_yaml_reads_numbers_as_people_write_them(tmp_path):
    (tmp_path / "a.yaml").write_text("a: 1e-3\nb: 5E2\nc: 1.0e-3\nd: 1e\ne: e3\nf: 12e03\n")
    read = read_yaml(tmp_path / "a.yaml")
    assert read == {"a": 0.001, "b": 500.0, "c": 0.001, "d": "1e", "e": "e3", "f": 12000.0}


def test_an_interrupted_file_leaves_the_old_one_and_nothing_else(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(Interrupted), written_aside(path) as aside:
        aside.write_text("half")
        raise Interrupted
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_does_not_take_the_place_of_a_folder(tmp_path):
    with pytest.raises(InputError, match="is a folder"), written_aside(tmp_path):
        raise AssertionError("nothing is computed for it")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_folder_leaves_the_old_one_and_nothing_else(tmp_path):
    path = tmp_path / "store"
    path.mkdir()
    (path / "kept").write_text("old")
    with pytest.raises(Interrupted), folder_written_aside(path) as aside:
        (aside / "other").write_text("half")
        raise Interrupted
    assert [p.name for p in path.iterdir()] == ["kept"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_replaces_the_whole_old_one(tmp_path):
    path = tmp_path / "store"
    path.mkdir()
    (path / "stale").write_text("old")
    with folder_written_aside(path) as aside:
        (aside / "fresh").write_text("new")
    assert [p.name for p in path.iterdir()] == ["fresh"]
    assert list(tmp_path.iterdir()) == [path]


def test_csv_bytes_do_not_depend_on_the_platform(tmp_path):
    write_csv(pd.DataFrame({"a": [1, 2], "b": [0.1, 1e-9]}), tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_bytes() == b"a,b\n1,0.1\n2,1e-09\n"


@settings(max_examples=30)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_floats_come_back_to_the_bit(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    write_csv(pd.DataFrame({"x": values}), path)
    np.testing.assert_array_equal(read_csv(path, {"x": "float"})["x"], values)


def test_a_good_csv_is_read_with_its_types(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("name,count,size_mm,more\nNA,3,2,007\n")
    table = read_csv(path, COLUMNS)
    assert table.iloc[0].to_dict() == {"name": "NA", "count": 3, "size_mm": 2.0, "more": "007"}
    assert table["count"].dtype.kind == "i"
    assert table["size_mm"].dtype.kind == "f"


@pytest.mark.parametrize(
    ("row", "column", "value"),
    [
        ("a,three,1.5", "count", "three"),
        ("a,1.5,1.5", "count", "1.5"),
        ("a,,1.5", "count", ""),
        ("a,nan,1.5", "count", "nan"),
        ("a,1,nan", "size_mm", "nan"),
        ("a,1,NaN", "size_mm", "NaN"),
        ("a,1,inf", "size_mm", "inf"),
        ("a,1,-inf", "size_mm", "-inf"),
        ("a,1,1e999", "size_mm", "1e999"),
        ("a,1,", "size_mm", ""),
        ("a,1,big", "size_mm", "big"),
        (" ,1,1.5", "name", " "),
    ],
)
def test_a_wrong_cell_is_named_with_its_line(tmp_path, row, column, value):
    path = tmp_path / "t.csv"
    path.write_text(f"name,count,size_mm\nok,1,1.0\n{row}\nok,2,2.0\n")
    with pytest.raises(InputError) as error:
        read_csv(path, COLUMNS)
    assert f"{path}: line 3: {column} is {value!r}" in str(error.value)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "not a readable CSV"),
        (b"name,count\na,1\n", "column size_mm is missing"),
        (b"count\n1\n", "column name, size_mm is missing"),
        (b"name,count,size_mm\na,1,1.0,9,9,9\nb,1\n\xff", "not a readable CSV"),
        (b'name,count,size_mm\n"a,1,1.0\n', "not a readable CSV"),
    ],
)
def test_a_file_that_is_no_such_table_is_named(tmp_path, content, part):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_csv(path, COLUMNS)
    assert str(path) in str(error.value)
    assert part in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    for read in (lambda path: read_csv(path, COLUMNS), read_json):
        with pytest.raises(InputError, match=r"absent\.file: there is no such file"):
            read(tmp_path / "absent.file")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
def test_a_broken_json_file_is_named(tmp_path, content):
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"run\.json: not a JSON file"):
        read_json(path)


def test_json_comes_back_and_refuses_what_json_has_not(tmp_path):
    path = tmp_path / "run.json"
    write_json({"auc": 0.5, "name": "é"}, path)
    assert read_json(path) == {"auc": 0.5, "name": "é"}
    with pytest.raises(ValueError):
        write_json({"auc": float("nan")}, path)
    assert read_json(path) == {"auc": 0.5, "name": "é"}


def test_sha256_is_of_the_contents_in_order(tmp_path):
    (tmp_path / "a").write_bytes(b"ab")
    (tmp_path / "b").write_bytes(b"c")
    # NIST's example: SHA-256("abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(tmp_path / "a", tmp_path / "b") == known
    assert sha256(tmp_path / "b", tmp_path / "a") != known


def test_a_process_that_waits_for_a_lock_leaves_the_output_alone(tmp_path, capsys):
    """Two pages of the book may wait for one another; what they print is shown."""
    path, held, inside = tmp_path / ".fold-0.lock", threading.Event(), threading.Event()

    def other():
        with FileLock(path):
            held.set()
            assert not inside.wait(0.3)

    thread = threading.Thread(target=other)
    thread.start()
    held.wait()
    with files.exclusive(path, "waiting for the other"):
        inside.set()
    thread.join()
    assert capsys.readouterr() == ("", "waiting for the other\n")
