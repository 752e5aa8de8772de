"""The CT data can be got in part, stopped and gone on with; what is there is said rightly.

Zenodo is a real HTTP server on this machine (`repository_server`); the Imaging Data Commons is a
stand-in with the client's calls, and, where idc-index is installed, its own client and downloader
against a local object store.
"""

import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from collections import namedtuple
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pandas as pd
import pydicom
import pytest

from nodulebook.cli import main as cli
from nodulebook.core.errors import InputError
from nodulebook.data.cohort import read_nodules, read_scan_table
from nodulebook.download import datasets
from nodulebook.download.datasets import (
    bytes_needed,
    get_lidc,
    get_luna16,
    luna16_bytes_a_subset,
    parse_subsets,
    select_series,
)
from nodulebook.patches.sources.presence import ABSENT_CSV, presence, report_presence
from repository_server import Repository, serving

FIRST, SECOND = "3723295", "4121926"  # the two records
USAGE = namedtuple("USAGE", "total used free")
UIDS = [str(uid) for uid in read_scan_table()["series_uid"][:4]]
NOISE = np.random.default_rng(0).bytes(200_000)  # does not pack
HEADER = """NDims = 3
DimSize = {} 1 1
Offset = 0 0 0
ElementSpacing = 1 1 1
TransformMatrix = 1 0 0 0 1 0 0 0 1
ElementType = MET_CHAR
ElementDataFile = {}.raw
"""


def slice_file(uid: str) -> bytes:
    """A DICOM file of the series, without an image."""
    header = pydicom.Dataset()
    header.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    header.SOPInstanceUID = "1.2.3"
    header.SeriesInstanceUID, header.Modality = uid, "CT"
    header.SeriesDescription = "x" * (80 - len(uid))
    stream = io.BytesIO()
    pydicom.dcmwrite(
        stream, header, implicit_vr=True, little_endian=True, enforce_file_format=False
    )
    return bytes(128) + b"DICM" + stream.getvalue()


SLICE = len(slice_file(UIDS[0]))


def whole(folder: Path) -> list[str]:
    scans = presence(folder).scans
    return scans.loc[scans["present"], "series_uid"].tolist()


def present(folder: Path) -> int:
    return len(whole(folder))


def get_series(folder: Path, series: list[str], **options: Any) -> None:
    """As the command does."""
    get_lidc(folder, series, present=whole(folder), **options)


def subset_zip(k: int, uids: list[str], extra: dict[str, bytes] | None = None) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for uid in uids:
            archive.writestr(f"subset{k}/{uid}.mhd", HEADER.format(len(uid) + len(NOISE), uid))
            archive.writestr(f"subset{k}/{uid}.raw", uid.encode() + NOISE)
        for name, content in (extra or {}).items():
            archive.writestr(name, content)
    return stream.getvalue()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    with serving(monkeypatch) as repository:
        files = (
            (FIRST, "annotations.csv", b"seriesuid,coordX,coordY,coordZ,diameter_mm\n"),
            (FIRST, "candidates.csv", b"seriesuid\n"),
            (FIRST, "subset0.zip", subset_zip(0, UIDS[:2])),
            (FIRST, "subset1.zip", subset_zip(1, UIDS[2:3])),
            (SECOND, "subset7.zip", subset_zip(7, UIDS[3:4])),
        )
        for record, name, content in files:
            repository.add(record, name, content)
        yield repository


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit code of `nodulebook ...`."""
    monkeypatch.setattr(sys, "argv", ["nodulebook", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    code = ended.value.code
    return code if isinstance(code, int) else 0


# ----------------------------------------------------------------------------------- LUNA16


def test_one_subset_gives_a_cohort_and_says_what_is_absent(
    server: Repository, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch
) -> None:
    assert command(monkeypatch, "get", "luna16", "--subsets", "0", "--to", str(tmp_path)) == 0
    assert names(tmp_path) == {"subset0", "subset0.zip", "annotations.csv", ABSENT_CSV}
    for uid in UIDS[:2]:
        assert (tmp_path / "subset0" / f"{uid}.raw").read_bytes() == uid.encode() + NOISE
    said = capsys.readouterr().err
    assert "scans: 2 of 888 are there, 886 are absent" in said
    nodules = read_nodules()
    there = nodules[nodules["series_uid"].isin(UIDS[:2])]
    assert f"lesions that any reader marked: {len(there)} of 2281 are there" in said
    reference = (there["readers"] >= 3).sum()
    assert f"nodules of at least 3 readers: {reference} of 1186 are there" in said
    absent = pd.read_csv(tmp_path / ABSENT_CSV)
    assert sorted([*absent["nodule_id"], *there["nodule_id"]]) == sorted(nodules["nodule_id"])
    # The size is said before the first file is asked for, in the order of the lines.
    lines = said.splitlines()
    assert lines[2].startswith("to download: 0.4 MB; unpacked: about 1.6 MB more; disk needed:")
    assert "checking" not in "".join(lines[:3])
    assert server.asked_for(SECOND) == []


def test_the_same_again_asks_the_network_for_nothing(server: Repository, tmp_path: Path) -> None:
    get_luna16(tmp_path, [0, 7])
    server.asked.clear()
    get_luna16(tmp_path, [0, 7])
    assert server.asked == []
    get_luna16(tmp_path, [0, 1, 7])
    assert {name for name, _ in server.asked} == {FIRST, "subset1.zip"}
    assert present(tmp_path) == 4


def test_zips_can_be_deleted_and_the_subsets_stay_whole(server: Repository, tmp_path: Path) -> None:
    get_luna16(tmp_path, [0, 7], keep_zips=False)
    assert names(tmp_path) == {"subset0", "subset7", "annotations.csv"}
    server.asked.clear()
    get_luna16(tmp_path, [0, 7], keep_zips=False)
    assert server.asked == []


def test_a_lost_file_is_unpacked_again_without_a_download(
    server: Repository, tmp_path: Path
) -> None:
    get_luna16(tmp_path, [0])
    lost = tmp_path / "subset0" / f"{UIDS[0]}.raw"
    lost.unlink()
    get_luna16(tmp_path, [0])
    assert lost.is_file()
    assert len(server.asked_for("subset0.zip")) == 1


def test_a_zip_brought_by_hand_is_checked_and_used(server: Repository, tmp_path: Path) -> None:
    (tmp_path / "subset0.zip").write_bytes(server.records[FIRST]["subset0.zip"].content)
    get_luna16(tmp_path, [0])
    assert server.asked_for("subset0.zip") == []
    assert present(tmp_path) == 2


def test_a_folder_of_the_user_is_left_alone(
    server: Repository, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "subset0").mkdir()
    (tmp_path / "subset0" / "mine.mhd").write_text("mine")
    get_luna16(tmp_path, [0])
    assert names(tmp_path / "subset0") == {"mine.mhd"}
    assert "left as it is (1 .mhd files)" in capsys.readouterr().err
    assert server.asked_for("subset0.zip") == []


def test_further_files_come_by_name(server: Repository, tmp_path: Path) -> None:
    get_luna16(tmp_path, [], also=["candidates.csv"])
    assert names(tmp_path) == {"annotations.csv", "candidates.csv"}
    with pytest.raises(InputError, match=r"nothing\.csv: not among .*annotations\.csv"):
        get_luna16(tmp_path, [], also=["nothing.csv"])


def test_a_dry_run_says_the_sizes_and_writes_nothing(
    server: Repository, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    get_luna16(tmp_path / "new", [0, 7], only_say=True)
    assert not (tmp_path / "new").exists()
    assert "subset7.zip: 0.2 MB, 0.2 MB to download" in capsys.readouterr().err
    assert server.asked_for("subset0.zip") == []


def test_a_small_disk_is_refused_before_any_download(
    server: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: USAGE(10**6, 0, 10**6))
    assert command(monkeypatch, "get", "luna16", "--subsets", "0", "--to", str(tmp_path)) == 2
    assert "needs 2.0 MB, but the disk has 1.0 MB free" in capsys.readouterr().err
    assert names(tmp_path) == set()
    assert server.asked_for("subset0.zip") == []


@pytest.mark.parametrize("harm", ["escaping", "truncated"])
def test_a_bad_archive_leaves_no_folder(server: Repository, tmp_path: Path, harm: str) -> None:
    content = subset_zip(0, UIDS[:1], {"../../evil.txt": b"x"})
    if harm == "truncated":  # and published so: its checksum is right
        content = content[:-100]
    server.add(FIRST, "subset0.zip", content)
    folder = tmp_path / "a" / "b"
    with pytest.raises(InputError, match=r"subset0\.zip: (entry '\.\./\.\./evil|a damaged)"):
        get_luna16(folder, [0])
    assert names(folder) == {"subset0.zip", "annotations.csv"}
    assert names(tmp_path) == {"a"} and names(tmp_path / "a") == {"b"}


def test_a_broken_download_keeps_the_subsets_before_it(server: Repository, tmp_path: Path) -> None:
    stored = server.records[FIRST]["subset1.zip"]
    stored.breaks = [50_000] + [0] * 6
    with pytest.raises(InputError, match=r"subset1\.zip: given up"):
        get_luna16(tmp_path, [0, 1])
    assert names(tmp_path) == {"annotations.csv", "subset0", "subset0.zip", "subset1.zip.part"}
    stored.breaks.clear()
    get_luna16(tmp_path, [0, 1])
    assert server.asked_for("subset1.zip")[-1].startswith("bytes=")
    assert present(tmp_path) == 3


def spawn(folder: Path, **more: Any) -> "subprocess.Popen[str]":
    words = ["get", "luna16", "--subsets", "0", "--to", str(folder)]
    return subprocess.Popen(
        [sys.executable, "-m", "nodulebook", *words], stderr=subprocess.PIPE, text=True, **more
    )


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_killed_process_is_gone_on_with(server: Repository, tmp_path: Path) -> None:
    stored = server.add(FIRST, "subset0.zip", subset_zip(0, UIDS[:2], {"more": NOISE * 20}))
    stored.hold_after = 3_000_000  # more than one block of 1 MiB
    process = spawn(tmp_path)
    assert server.holding.wait(300)
    # A second process does not write into the same file.
    second = spawn(tmp_path)
    assert "another process is downloading into this folder" in second.communicate()[1]
    assert second.returncode == 2
    part = tmp_path / "subset0.zip.part"
    for _ in range(200):
        if part.is_file() and part.stat().st_size > 0:
            break
        server.release.wait(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    server.release.set()
    kept = part.stat().st_size
    assert kept > 0
    get_luna16(tmp_path, [0])
    assert server.asked_for("subset0.zip") == ["", f"bytes={kept}-"]
    assert present(tmp_path) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits")
def test_a_disk_that_fills_up_is_an_error_without_traceback(
    server: Repository, tmp_path: Path
) -> None:
    """A limit on the size of files stands for the full disk: a real failing write."""
    import resource

    limit = (150_000, resource.RLIM_INFINITY)
    process = spawn(tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    said = process.communicate()[1]
    assert process.returncode == 2
    assert "Traceback" not in said
    assert "give the same command again: what has arrived is kept" in said
    assert names(tmp_path) == {"annotations.csv", "subset0.zip.part"}
    get_luna16(tmp_path, [0])
    assert present(tmp_path) == 2


@pytest.mark.parametrize(
    ("text", "subsets"),
    [("0", [0]), ("0,1", [0, 1]), ("7-9", [7, 8, 9]), (" 3 - 4 ,1,1", [1, 3, 4])],
)
def test_subsets_are_read(text: str, subsets: list[int]) -> None:
    assert parse_subsets(text) == subsets
    assert parse_subsets("all") == list(range(10))


@pytest.mark.parametrize("text", ["", "10", "-1", "a", "0,", "4-2", "0;1", "1.5"])
def test_subsets_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--subsets"):
        parse_subsets(text)


def test_the_disk_needed_by_hand() -> None:
    # Two zips of 6 to be downloaded (of the second, 2 are there), unpacked 10 each.
    sizes = [(6, 6, 10), (4, 6, 10)]
    assert bytes_needed(sizes, keep_zips=True) == 6 + 10 + 4 + 10
    # Without the first zip: 16, then 10 + 4 + 10.
    assert bytes_needed(sizes, keep_zips=False) == 24
    # A large first zip is the peak: 20 + 1, then 1 + 1 + 1.
    assert bytes_needed([(20, 20, 1), (1, 1, 1)], keep_zips=False) == 21
    assert bytes_needed([], keep_zips=True) == 0


def test_a_tenth_of_the_888_scans_is_about_12_gb() -> None:
    assert 11.5e9 < luna16_bytes_a_subset() < 12.5e9


# ------------------------------------------------------------------------------ what is there


def test_presence_is_of_whole_scans_by_their_contents(tmp_path: Path) -> None:
    for folder, uid, size in (("subset3", UIDS[0], 9), (".", UIDS[1], 9), ("a/b", UIDS[2], 8)):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / f"{uid}.mhd").write_text(HEADER.format(9, uid))
        (tmp_path / folder / f"{uid}.raw").write_bytes(bytes(size))
    small = read_scan_table().sort_values("slices").head(2)
    # TCIA's own program names a folder by the last digits of the UID.
    folders = [tmp_path / "P" / "01-01-2000-30178" / "3000566.000000-03192", tmp_path / "CT"]
    for uid, slices, folder in zip(small["series_uid"], small["slices"], folders, strict=True):
        folder.mkdir(parents=True)
        for k in range(slices):
            (folder / f"1-{k:03d}").write_bytes(slice_file(uid))
    found = presence(tmp_path)
    whole = {*UIDS[:2], *small["series_uid"]}
    assert set(found.scans.loc[found.scans["present"], "series_uid"]) == whole
    assert set(found.nodules.loc[found.nodules["present"], "series_uid"]) <= whole
    (folders[0] / "1-000").unlink()
    assert present(tmp_path) == 3


def test_series_present_in_another_layout_are_not_downloaded(tmp_path: Path) -> None:
    client = StandIn()
    get_lidc(tmp_path, UIDS[:2], present=[UIDS[0]], client=client)
    assert client.asked == [UIDS[1]]


@pytest.mark.parametrize("error", [ConnectionResetError(104, "reset"), TimeoutError("slow")])
def test_a_broken_connection_costs_one_series(tmp_path: Path, error: OSError) -> None:
    client = StandIn()
    client.raising = {UIDS[0]: error}
    with pytest.raises(InputError, match="1 of 3 series"):
        get_series(tmp_path, UIDS[:3], client=client)
    assert client.asked == UIDS[:3] and present(tmp_path) == 2


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, monkeypatch, capsys) -> None:
    assert command(monkeypatch, "get", "check", "--to", str(tmp_path / "none")) == 2
    assert "none: there is no such folder" in capsys.readouterr().err
    report_presence(tmp_path)
    assert len(pd.read_csv(tmp_path / ABSENT_CSV)) == 2281


# ---------------------------------------------------------------------------------- LIDC-IDRI


class StandIn:
    """`idc_index.IDCClient` as `get_lidc` uses it; series are `slices` files of `SLICE` bytes."""

    def __init__(self) -> None:
        scans = read_scan_table()
        self.index = pd.DataFrame(
            {
                "SeriesInstanceUID": scans["series_uid"],
                "instanceCount": scans["slices"],
                "series_size_MB": scans["slices"] * SLICE / 1e6,
            }
        )
        self.asked: list[str] = []
        self.short: set[str] = set()
        self.raising: dict[str, Exception] = {}

    def download_from_selection(
        self,
        downloadDir: str,
        seriesInstanceUID: list[str],
        dirTemplate: str | None,
        show_progress_bar: bool,
    ) -> None:
        (uid,) = seriesInstanceUID
        self.asked.append(uid)
        slices = int(self.index.set_index("SeriesInstanceUID").loc[uid, "instanceCount"])
        for k in range(slices - (uid in self.short)):
            (Path(downloadDir) / f"{k}.dcm").write_bytes(slice_file(uid))
        if uid in self.raising:
            raise self.raising[uid]


def test_series_come_whole_and_only_once(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    client = StandIn()
    get_series(tmp_path, UIDS[:2], client=client)
    get_series(tmp_path, UIDS[:3], client=client)
    assert client.asked == UIDS[:3]
    assert names(tmp_path) == {"LIDC-IDRI-0001", "LIDC-IDRI-0002", "LIDC-IDRI-0003"}
    assert names(tmp_path / "LIDC-IDRI-0001") == {UIDS[0]}
    said = capsys.readouterr().err
    assert "series: 3 asked for, 2 already there" in said
    assert present(tmp_path) == 3


@pytest.mark.parametrize("how", ["short", "wrong size", "raising"])
def test_a_series_that_fails_is_named_and_the_others_come(tmp_path: Path, how: str) -> None:
    client = StandIn()
    if how == "short":
        client.short = {UIDS[1]}
    elif how == "wrong size":
        client.index.loc[1, "series_size_MB"] += 1e-6
    else:
        client.raising = {UIDS[1]: RuntimeError("no such bucket")}
    with pytest.raises(InputError, match=f"1 of 3 series could not be had; the first: {UIDS[1]}"):
        get_series(tmp_path, UIDS[:3], client=client)
    assert names(tmp_path) == {"LIDC-IDRI-0001", "LIDC-IDRI-0002", "LIDC-IDRI-0003"}
    assert names(tmp_path / "LIDC-IDRI-0002") == set()
    assert present(tmp_path) == 2
    client = StandIn()
    get_series(tmp_path, UIDS[:3], client=client)
    assert client.asked == [UIDS[1]]


def test_a_network_that_is_gone_is_not_asked_888_times(tmp_path: Path) -> None:
    client = StandIn()
    client.short = set(client.index["SeriesInstanceUID"])
    with pytest.raises(InputError, match="3 of 888 series could not be had, stopped early"):
        get_series(tmp_path, select_series(all_888=True), client=client)
    assert len(client.asked) == 3


def test_what_a_killed_process_left_of_a_series_is_cleared(tmp_path: Path) -> None:
    stale = tmp_path / "LIDC-IDRI-0001" / f".{UIDS[0]}.part"
    stale.mkdir(parents=True)
    (stale / "half.dcm").write_bytes(b"x")
    get_series(tmp_path, UIDS[:1], client=StandIn())
    assert names(tmp_path / "LIDC-IDRI-0001") == {UIDS[0]}


def test_a_dry_run_of_all_says_119_gb_or_so(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    client = StandIn()
    get_series(tmp_path / "new", select_series(all_888=True), only_say=True, client=client)
    total = read_scan_table()["slices"].sum() * SLICE / 1e6
    assert f"to download: 888 series, {total:.1f} MB" in capsys.readouterr().err
    assert client.asked == [] and not (tmp_path / "new").exists()


def test_a_disk_too_small_for_the_series_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: USAGE(100, 0, 100))
    client = StandIn()
    with pytest.raises(InputError, match="free"):
        get_series(tmp_path, UIDS[:1], client=client)
    assert client.asked == []


def test_a_full_disk_stops_at_once(tmp_path: Path) -> None:
    client = StandIn()
    client.raising = {UIDS[0]: OSError(28, "No space left on device")}
    with pytest.raises(InputError, match="No space left on device"):
        get_series(tmp_path, UIDS[:2], client=client)
    assert client.asked == UIDS[:1]


def test_series_are_chosen_from_the_888() -> None:
    assert select_series(UIDS[1:2], ["LIDC-IDRI-0001"]) == UIDS[:2]
    assert len(select_series(all_888=True)) == 888
    for wrong in ({"series": ["1.2.3"]}, {"patients": ["LIDC-IDRI-9999"]}, {}):
        with pytest.raises(InputError, match=r"1\.2\.3 is none|9999 is none|nothing to get"):
            select_series(**wrong)


def test_a_series_that_the_index_lacks_is_named(tmp_path: Path) -> None:
    client = StandIn()
    client.index = client.index[1:]
    with pytest.raises(InputError, match=f"series {UIDS[0]} is not in the index"):
        get_series(tmp_path, UIDS[:2], client=client)


def test_without_idc_index_it_is_said_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "idc_index", None)
    words = ["get", "lidc", "--patients", "LIDC-IDRI-0001", "--to", str(tmp_path)]
    assert command(monkeypatch, *words) == 2
    assert "-m pip install idc-index" in capsys.readouterr().err
    assert names(tmp_path) == set()


def test_the_data_folder_of_the_environment_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("NODULEBOOK_DATA", str(tmp_path))
    monkeypatch.setattr(datasets, "open_idc", StandIn)
    assert command(monkeypatch, "get", "lidc", "--series", UIDS[0]) == 0
    assert command(monkeypatch, "get", "check") == 0
    assert capsys.readouterr().err.count("scans: 1 of 888 are there") == 2
    assert os.path.isfile(tmp_path / ABSENT_CSV)


def object_store(objects: dict[str, bytes], refused: set[str]) -> type[BaseHTTPRequestHandler]:
    """A bucket, as far as the client's downloader asks: lists by prefix, and objects."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def _answer(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for key, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(key.replace("_", "-"), value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_GET(self) -> None:
            address = urlsplit(self.path)
            key = address.path.removeprefix("/bucket").removeprefix("/")
            if not key:
                prefix = parse_qs(address.query).get("prefix", [""])[0]
                items = "".join(
                    f"<Contents><Key>{name}</Key><Size>{len(content)}</Size>"
                    "<LastModified>2020-01-01T00:00:00.000Z</LastModified>"
                    "<ETag>&quot;1&quot;</ETag><StorageClass>STANDARD</StorageClass></Contents>"
                    for name, content in objects.items()
                    if name.startswith(prefix)
                )
                body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{items}"
                self._answer(200, f"{body}</ListBucketResult>".encode())
            elif key in refused or key not in objects:
                self._answer(403, b"<Error><Code>AccessDenied</Code></Error>")
            else:
                content = objects[key]
                last = f"bytes 0-{len(content) - 1}/{len(content)}"
                status = 206 if self.headers.get("Range") else 200
                self._answer(status, content, Content_Range=last, ETag='"1"')

        do_HEAD = do_GET

    return Handler


def test_the_real_client_and_downloader_do_what_the_stand_in_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    idc = pytest.importorskip("idc_index.index", reason="idc-index is optional")
    scans = read_scan_table().set_index("series_uid").loc[UIDS[:2]]
    objects = {
        f"store-{row}/{k}.dcm": slice_file(UIDS[row])
        for row, slices in enumerate(scans["slices"])
        for k in range(slices)
    }
    refused = {"store-1/5.dcm"}
    table = pd.DataFrame(
        {
            "collection_id": "lidc_idri",
            "PatientID": list(scans["patient_id"]),
            "SeriesInstanceUID": UIDS[:2],
            "StudyInstanceUID": "1.2",
            "Modality": "CT",
            "instanceCount": list(scans["slices"]),
            "series_size_MB": list(scans["slices"] * SLICE / 1e6),
            "aws_bucket": "bucket",
            "crdc_series_uuid": ["store-0", "store-1"],
            "series_aws_url": ["s3://bucket/store-0/*", "s3://bucket/store-1/*"],
        }
    )
    table.to_parquet(tmp_path / "index.parquet")
    monkeypatch.setattr(
        idc.idc_index_data, "IDC_INDEX_PARQUET_FILEPATH", tmp_path / "index.parquet"
    )
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    store = ThreadingHTTPServer(("127.0.0.1", 0), object_store(objects, refused))
    thread = threading.Thread(target=store.serve_forever, args=(0.01,))
    thread.start()
    try:
        monkeypatch.setattr(idc, "aws_endpoint_url", f"http://127.0.0.1:{store.server_port}")
        with pytest.raises(InputError, match=f"1 of 2 series could not be had; .*{UIDS[1]}"):
            get_series(tmp_path / "to", UIDS[:2])
        assert present(tmp_path / "to") == 1
        refused.clear()
        get_series(tmp_path / "to", UIDS[:2])
    finally:
        store.shutdown()
        store.server_close()
        thread.join()
    assert present(tmp_path / "to") == 2
    series = tmp_path / "to" / "LIDC-IDRI-0002" / UIDS[1]
    assert (series / "5.dcm").read_bytes() == slice_file(UIDS[1])
