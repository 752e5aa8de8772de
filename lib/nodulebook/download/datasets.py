"""Getting the CT data, all or in part: LUNA16 from Zenodo, LIDC-IDRI from the Imaging Data Commons.

Both can be stopped at any time; the same command then goes on, and what is whole is left alone.

LUNA16: Setio et al. 2017, doi 10.1016/j.media.2017.06.015. LIDC-IDRI: Armato et al. 2011,
doi 10.1118/1.3528204, CC BY 3.0.
"""

import errno
import logging
import re
import shutil
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import pandas as pd
from tqdm import tqdm

from nodulebook.core.errors import InputError
from nodulebook.core.files import replace_folder
from nodulebook.data.cohort import read_scan_table
from nodulebook.download.transfer import (
    RemoteFile,
    bytes_to_fetch,
    ensure_space,
    fetch,
    in_gb,
    os_errors_named,
    say,
    zenodo_files,
)
from nodulebook.download.unpack import MARKER, is_unpacked, unpack

LUNA16_DOIS = {
    "10.5281/zenodo.3723295": (0, 1, 2, 3, 4, 5, 6),
    "10.5281/zenodo.4121926": (7, 8, 9),
}
"""The two records of LUNA16 and the subsets each holds; the first holds its tables too."""

LUNA16_TABLE = "annotations.csv"
"""LUNA16's own list of its 1,186 nodules, fetched with any subset."""

_BYTES_A_SLICE = 512 * 512 * 2  # every slice of the collection, as 16-bit integers
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG)
_FAILURES_IN_A_ROW = 3  # series; then the network is gone, and 800 more would only take time


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """One process at a time downloads into a folder."""
    with os_errors_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / ".nodulebook.lock", timeout=0)
        try:
            with lock:
                yield
        except filelock.Timeout:
            raise InputError(
                f"{folder}: another process is downloading into this folder; wait for its end"
            ) from None


# --------------------------------------------------------------------------------- LUNA16


def parse_subsets(text: str) -> list[int]:
    """`0,3-5` as [0, 3, 4, 5]; `all` as the ten.

    Raises:
        InputError: something else is in the text.
    """
    if text.strip() == "all":
        return list(range(10))
    wanted: set[int] = set()
    for part in text.split(","):
        found = re.fullmatch(r"\s*([0-9])(?:\s*-\s*([0-9]))?\s*", part)
        if not found or (found[2] and found[2] < found[1]):
            raise InputError(f"--subsets {text}: {part!r} is not a subset; give 0 to 9, 2-5, all")
        wanted |= set(range(int(found[1]), int(found[2] or found[1]) + 1))
    return sorted(wanted)


def luna16_bytes_a_subset() -> int:
    """About what a subset takes once unpacked: a tenth of the 888 scans, from their slices."""
    return int(read_scan_table()["slices"].sum()) * _BYTES_A_SLICE // 10


def bytes_needed(sizes: Sequence[tuple[int, int, int]], keep_zips: bool) -> int:
    """The most disk that is needed at any time beyond what is in use now.

    Args:
        sizes: a subset each, in order: bytes to download, of the zip, and unpacked.
        keep_zips: False where each zip is deleted once it is unpacked.
    """
    used = most = 0
    for to_download, of_zip, unpacked in sizes:
        used += to_download + unpacked
        most = max(most, used)
        if not keep_zips:
            used -= of_zip
    return most


def get_luna16(
    folder: Path,
    subsets: Sequence[int],
    *,
    also: Sequence[str] = (),
    keep_zips: bool = True,
    only_say: bool = False,
) -> None:
    """Download and unpack subsets of LUNA16 as `folder/subset<k>/`; whole ones are left alone.

    A folder `subset<k>` that this command did not make is never touched.

    Args:
        folder: made if absent; holds the zips too.
        subsets: of 0 to 9.
        also: further files of the two records, by name (for example `candidates.csv`); they are
            not unpacked.
        keep_zips: False deletes each zip once its subset is unpacked.
        only_say: say what there is to do and which space it needs, and do nothing.

    Raises:
        InputError: the disk is too small; a file cannot be had, is damaged or unsafe; another
            process works on the folder.
    """
    if only_say:
        with os_errors_named(folder):
            _luna16_plan(folder, subsets, also, keep_zips)
        return
    with _claimed(folder):
        tables, zips = _luna16_plan(folder, subsets, also, keep_zips)
        for file in tables:
            fetch(file, folder)
        for file in zips:
            path = fetch(file, folder)
            unpack(path, folder / path.stem, file.checksum)
            say(f"{path.stem}: unpacked")
            if not keep_zips:
                path.unlink()


def _luna16_plan(
    folder: Path, subsets: Sequence[int], also: Sequence[str], keep_zips: bool
) -> tuple[list[RemoteFile], list[RemoteFile]]:
    """The tables and zips still to be had; says what they need, and checks the disk."""
    names = [f"subset{k}.zip" for k in subsets if not _is_there(folder / f"subset{k}")]
    others = [name for name in (LUNA16_TABLE, *also) if not (folder / name).is_file()]
    files: dict[str, RemoteFile] = {}
    for doi, holds in LUNA16_DOIS.items():
        if any(f"subset{k}.zip" in names for k in holds) or not files.keys() >= set(others):
            files |= zenodo_files(doi)
    for name in names + others:
        if name not in files:
            raise InputError(
                f"{name}: not among the files of doi {' and '.join(LUNA16_DOIS)}: "
                f"{', '.join(sorted(files))}"
            )
    tables, zips = [files[name] for name in others], [files[name] for name in names]
    # CT packs to about a half, never to a quarter.
    unpacked = [min(luna16_bytes_a_subset(), 4 * file.size) for file in zips]
    left = [bytes_to_fetch(file, folder) for file in zips]
    small = sum(bytes_to_fetch(file, folder) for file in tables)
    needed = small + bytes_needed(
        [(to_do, file.size, more) for to_do, file, more in zip(left, zips, unpacked, strict=True)],
        keep_zips,
    )
    for file in tables + zips:
        say(f"{file.name}: {in_gb(file.size)}, {in_gb(bytes_to_fetch(file, folder))} to download")
    say(
        f"to download: {in_gb(small + sum(left))}; unpacked: about {in_gb(sum(unpacked))} "
        f"more; disk needed: about {in_gb(needed)}"
    )
    ensure_space(folder, needed, "this")
    return tables, zips


def _is_there(folder: Path) -> bool:
    """Whether a subset's folder is whole, or somebody else's."""
    if is_unpacked(folder):
        say(f"{folder.name}: already there, whole")
        return True
    if folder.exists() and not (folder / MARKER).exists():
        say(
            f"{folder}: not made by this command, left as it is "
            f"({len(list(folder.glob('*.mhd')))} .mhd files); rename it to have it downloaded"
        )
        return True
    return False


# ------------------------------------------------------------------------------ LIDC-IDRI


def select_series(
    series: Sequence[str] = (), patients: Sequence[str] = (), all_888: bool = False
) -> list[str]:
    """SeriesInstanceUIDs among the 888 scans of `data/scans.csv`, in its order.

    Raises:
        InputError: nothing is asked for, or a series or patient is not in the table.
    """
    scans = read_scan_table()
    for what, asked, known in (
        ("series", series, scans["series_uid"]),
        ("patient", patients, scans["patient_id"]),
    ):
        strange = sorted(set(asked) - set(known))
        if strange:
            raise InputError(
                f"{what} {strange[0]} is none of the 888 scans of data/scans.csv "
                f"({len(strange)} such in all)"
            )
    chosen = scans["series_uid"].isin(series) | scans["patient_id"].isin(patients) | all_888
    if not chosen.any():
        raise InputError("nothing to get: give --series, --patients or --all-888")
    return [str(uid) for uid in scans.loc[chosen, "series_uid"]]


def open_idc() -> Any:
    """The client of the Imaging Data Commons, `idc_index.IDCClient`.

    Raises:
        InputError: the optional package idc-index is not installed, or does not start.
    """
    try:
        from idc_index import IDCClient
    except ImportError:
        raise InputError(
            "the Imaging Data Commons is read by the package idc-index, which is not installed: "
            f"{sys.executable} -m pip install idc-index (400 MB; the extra `idc` of this project)"
        ) from None
    # It sets up logging for the whole process on import, and tells of every series.
    logging.getLogger("idc_index").setLevel(logging.ERROR)
    say("reading the index of the Imaging Data Commons (some seconds, 2 GB of memory)")
    try:
        return IDCClient()
    except OSError as error:
        raise InputError(f"idc-index does not start: {error}; install it again") from None


def get_lidc(
    folder: Path,
    series: Sequence[str],
    *,
    present: Collection[str],
    only_say: bool = False,
    client: Any = None,
) -> None:
    """Download series of LIDC-IDRI as `folder/<patient>/<series_uid>/*.dcm`.

    A series takes its place when it has as many files, and as many bytes, as the index lists. One
    that cannot be had is named, the others are got first.

    Args:
        folder: made if absent.
        series: SeriesInstanceUIDs, as from `select_series`.
        present: those that are in the folder, in whatever layout (`sources.presence`).
        only_say: say what there is to do and which space it needs, and do nothing.
        client: an `idc_index.IDCClient`; made if None and needed.

    Raises:
        InputError: idc-index is not installed; the disk is too small; a series is not in the
            index or could not be had; another process works on the folder.
    """
    scans = read_scan_table()
    left = [uid for uid in dict.fromkeys(series) if uid not in present]
    say(f"series: {len(series)} asked for, {len(series) - len(left)} already there")
    if left:
        client = client or open_idc()
        table = _idc_table(client, left)
        total = int(table["bytes"].sum())
        say(f"to download: {len(left)} series, {in_gb(total)}")
        with os_errors_named(folder):
            ensure_space(folder, total, "this")
        if not only_say:
            with _claimed(folder):
                patients = dict(zip(scans["series_uid"], scans["patient_id"], strict=True))
                _get_each(client, table, patients, folder)


def _idc_table(client: Any, series: Sequence[str]) -> pd.DataFrame:
    """Files and bytes of each series by the client's index, in the order asked for."""
    index = client.index
    found = index[index["SeriesInstanceUID"].isin(series)].set_index("SeriesInstanceUID")
    absent = [uid for uid in series if uid not in found.index]
    if absent:
        raise InputError(
            f"series {absent[0]} is not in the index of the Imaging Data Commons "
            f"({len(absent)} such in all); is idc-index very old?"
        )
    found = found.loc[list(series)]
    # Millions of bytes with six decimals: whole bytes.
    return pd.DataFrame(
        {
            "files": found["instanceCount"].astype(int),
            "bytes": (found["series_size_MB"].astype(float) * 1e6).round().astype("int64"),
        }
    )


def _get_each(client: Any, table: pd.DataFrame, patients: dict[str, str], folder: Path) -> None:
    failed: list[str] = []  # what went wrong, a series each
    in_a_row = 0
    with tqdm(total=int(table["bytes"].sum()), unit="B", unit_scale=True, disable=None) as bar:
        for number, (uid, files, size) in enumerate(table.itertuples(name=None), start=1):
            reason = _get_series(client, uid, files, size, folder / patients[uid] / uid)
            bar.update(size)
            if reason is None:
                in_a_row = 0
                say(f"{number} of {len(table)}: {patients[uid]} {uid}, {in_gb(size)}")
                continue
            failed.append(f"{uid}: {reason}")
            in_a_row += 1
            say(f"{number} of {len(table)}: {patients[uid]} {uid}: NOT got: {reason}")
            if in_a_row == _FAILURES_IN_A_ROW:
                break
    if failed:
        stopped = ", stopped early" if in_a_row == _FAILURES_IN_A_ROW else ""
        raise InputError(
            f"{folder}: {len(failed)} of {len(table)} series could not be had{stopped}; the first: "
            f"{failed[0]}. What is whole is kept: give the same command again"
        )


def _get_series(client: Any, uid: str, files: int, size: int, target: Path) -> str | None:
    """Download one series; what went wrong, or None."""
    aside = target.with_name(f".{uid}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        # The client reports what fails to its log only: the files are counted afterwards.
        client.download_from_selection(
            downloadDir=str(aside),
            seriesInstanceUID=[uid],
            dirTemplate=None,
            show_progress_bar=False,
        )
        got = [path for path in aside.iterdir() if path.suffix == ".dcm"]
        got_size = sum(path.stat().st_size for path in got)
        if (len(got), got_size) != (files, size):
            return f"{len(got)} of {files} files, {got_size} of {size} bytes came"
        replace_folder(aside, target)
        return None
    except Exception as error:  # the client's own, of many kinds; of the network, mostly OSError
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            raise  # no other series will do better
        return f"{type(error).__name__}: {error}"
    finally:
        shutil.rmtree(aside, ignore_errors=True)
