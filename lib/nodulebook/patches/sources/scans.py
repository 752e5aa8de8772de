"""The sources of whole scans, `luna16` and `idc`: patches scan by scan, and resumable.

luna16
    The paper's data, 888 scans of LIDC-IDRI as `.mhd` with `.raw` or `.zraw` (Setio et al. 2017,
    doi 10.1016/j.media.2017.06.015), found by their files' names, SeriesInstanceUIDs. `.mha` and
    NIfTI files named so are read as well.
idc
    The scans as DICOM, as the Imaging Data Commons (Fedorov et al. 2023, doi 10.1148/rg.230180) or
    TCIA give them, found by the SeriesInstanceUID in each file.

Both take all scans or some, in any layout of folders below the one that the user names.

Each scan's patches are kept in a file of their own as soon as they are made, under
`data/patches/.<source>-scans/`. A pass that was stopped goes on there, and a later pass makes only
what is new: scans that were absent, could not be read, or have changed. The store is put together
from these files at the end.

Outlines are in pixels of the scan's own slices and their table position. Where a pixel lies in the
world is the scan's own geometry (`volume.Geometry`), so the same nodule is cut from a `.mhd`
file and of DICOM at the same place.
"""

import hashlib
import json
import re
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk
from filelock import FileLock
from tqdm import tqdm

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.files import write_csv, written_aside
from nodulebook.core.processor import usable_cores
from nodulebook.ct.dicom_files import find_dicom
from nodulebook.ct.find import FoundScan, find_images
from nodulebook.ct.folder import printable
from nodulebook.data.annotations import DATABASE_SHA256, Scan, database_path, read_scans
from nodulebook.data.cohort import LESION_COLUMNS, read_nodules
from nodulebook.patches.cube import LUNG_HU
from nodulebook.patches.sources.placement import ScanResult, scan_patches
from nodulebook.patches.store import Patch

VERSION = "1"
"""Raised with every change that can change a voxel."""

Found = dict[str, FoundScan]

_UID = re.compile(r"[0-9]+(\.[0-9]+)+")


def find_luna16(folder: Path) -> tuple[Found, list[str]]:
    """The scans below a folder, by series; no file is known to be damaged before it is opened."""
    images = find_images(folder)
    return {n: FoundScan(n, images=tuple(images[n])) for n in images if _UID.fullmatch(n)}, []


def find_idc(folder: Path) -> tuple[Found, list[str]]:
    """The CT series below a folder, and the files that cannot be read.

    The first look reads the header of every file, minutes for the whole collection; what each
    folder held is then remembered under `data/patches/`.
    """
    found = find_dicom(folder, index_json=paths.patch_stores() / ".idc-scans" / "folders.json")
    return {n: FoundScan(n, dicom=tuple(files)) for n, files in found.series.items()}, found.damaged


_FIND: dict[str, Callable[[Path], tuple[Found, list[str]]]] = {
    "luna16": find_luna16,
    "idc": find_idc,
}


def data_folder(data: Path | None) -> Path:
    """The folder that the user named: `data`, or `NODULEBOOK_DATA` where None.

    Raises:
        InputError: it is not named, is not there, or is a file.
    """
    folder = paths.user_data_folder() if data is None else Path(data).expanduser()
    if not folder.is_dir():
        raise InputError(
            f"{folder}: "
            + ("is a file; unpack it and name the folder" if folder.exists() else "no such folder")
        )
    return folder.resolve()


def find(source: str, data: Path | None, wanted: Collection[str]) -> Found:
    """Every wanted scan that is in the user's folder, by SeriesInstanceUID.

    Files that cannot be read are named on stderr.
    """
    found, damaged = _FIND[source](data_folder(data))
    for reason in damaged:
        print(f"{source}: left out: {printable(reason)}", file=sys.stderr)
    return {uid: scan for uid, scan in found.items() if uid in wanted}


def recipe(data: Path | None, source: str) -> dict[str, str]:
    """What the patches depend on: the scans there are, by their files' names and sizes.

    Raises:
        InputError: the folder is missing, or holds none of the scans.
    """
    database_path()
    # Every lesion's: a store may hold those of one or two readers, too.
    wanted = set(read_nodules()["series_uid"])
    found = find(source, data, wanted)
    if not found:
        kind = {"luna16": "SeriesInstanceUID.mhd files", "idc": "DICOM series"}[source]
        raise InputError(
            f"{data_folder(data)}: none of the {len(wanted)} scans with a lesion is "
            f"here; the source {source} needs {kind} of LIDC-IDRI in it, in any folders"
        )
    listing = "".join(f"{uid} {scan.identity()}\n" for uid, scan in found.items())
    return {
        "scans": VERSION,
        "data": f"{len(found)} scans sha256 {hashlib.sha256(listing.encode()).hexdigest()}",
        "annotations_sha256": DATABASE_SHA256,
        "outside_hu": str(LUNG_HU),
    }


@dataclass(frozen=True, eq=False)
class _Task:
    """One scan to make patches from."""

    found: FoundScan
    scan: Scan
    rows: list[dict[str, Any]]
    part: Path
    key: str  # what the part depends on


def patches(
    nodules: pd.DataFrame, data: Path | None, source: str, jobs: int | None = None
) -> Iterator[Patch]:
    """The patches of the nodules whose scans are in the folder, those of one series together.

    All scans are read first (in `jobs` processes, one a core where None, a scan at a time in each),
    then the patches come. What is left out is said on stderr and listed in `left_out_csv(source)`.

    Args:
        nodules: `cohort.LESION_COLUMNS` and series_uid.
        data: the folder with the scans; `NODULEBOOK_DATA` where None.
        source: `luna16` or `idc`.
        jobs: processes.

    Raises:
        InputError: the folder is missing, or a process ended unexpectedly.
    """
    folder = paths.patch_stores() / f".{source}-scans"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        tasks = _tasks(source, nodules, data, folder)
        results = _run(source, tasks, jobs)
        _report(source, nodules, results)
        for task in tasks:
            part = _read_part(task)
            yield from part[1] if part else ()


def left_out_csv(source: str) -> Path:
    """Nodules and scans without a patch, or with an incomplete one, and why: one a row."""
    return paths.patch_stores() / f"{source}-left-out.csv"


def _tasks(source: str, nodules: pd.DataFrame, data: Path | None, folder: Path) -> list[_Task]:
    found = find(source, data, set(nodules["series_uid"]))
    scans = {scan.series_uid: scan for scan in read_scans(found)} if found else {}
    tasks = []
    for uid, rows in nodules.groupby("series_uid", sort=False):
        if uid not in found:
            continue
        records: list[dict[str, Any]] = [
            {str(k): v for k, v in row.items() if k in LESION_COLUMNS}
            for row in rows.to_dict("records")
        ]
        key = json.dumps([VERSION, found[str(uid)].identity(), DATABASE_SHA256, records])
        tasks.append(
            _Task(
                found=found[str(uid)],
                scan=scans[str(uid)],
                rows=records,
                part=folder / f"{uid!s}.npz",
                key=hashlib.sha256(key.encode()).hexdigest(),
            )
        )
    return tasks


def _run(source: str, tasks: Sequence[_Task], jobs: int | None) -> dict[str, ScanResult]:
    """Make what is not there yet; the results of all scans by series."""
    results: dict[str, ScanResult] = {}
    todo = []
    for task in tasks:
        part = _read_part(task)
        if part is None:
            todo.append(task)
        else:
            results[task.scan.series_uid] = part[0]
    if not todo:
        return results
    title = f"{source}: scans"
    progress = partial(tqdm, total=len(todo), desc=title, mininterval=5, position=0)
    jobs = min(jobs or usable_cores(), len(todo))
    if jobs <= 1 or len(todo) < 4:  # starting processes takes longer than a few scans
        return results | {task.scan.series_uid: make_scan(task) for task in progress(todo)}
    # Not forked: the notebook that asks may hold threads of TensorFlow.
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"))
    try:
        for future in progress(as_completed([pool.submit(make_scan, task) for task in todo])):
            results[future.result().series_uid] = future.result()
    except BrokenProcessPool:
        left = [task.scan.series_uid for task in todo if task.scan.series_uid not in results]
        raise InputError(
            f"source {source}: a process ended while it read a scan (out of memory?), one of the "
            f"{len(left)} still to do, near {left[0]}; run again, or with --jobs 1: "
            "finished scans are kept"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
    return results


def _report(source: str, nodules: pd.DataFrame, results: dict[str, ScanResult]) -> None:
    rows = []
    for uid, name in zip(nodules["series_uid"], nodules["nodule_id"], strict=True):
        if uid not in results:
            rows.append((uid, name, "its scan is not in the data folder"))
        elif name in results[uid].left_out:
            rows.append((uid, name, results[uid].left_out[name]))
    absent = set(nodules["series_uid"]) - results.keys()
    rows += [(uid, "(scan)", one.problem) for uid, one in sorted(results.items()) if one.problem]
    table = pd.DataFrame(rows, columns=["series_uid", "nodule_id", "reason"])
    write_csv(table, left_out_csv(source))
    said = table[~table["series_uid"].isin(absent)]
    if absent:
        print(
            f"{source}: {len(absent)} of {nodules['series_uid'].nunique()} scans are not in the "
            f"data folder, with {nodules['series_uid'].isin(absent).sum()} nodules "
            f"(listed in {left_out_csv(source)})",
            file=sys.stderr,
        )
    for uid, result in sorted(results.items()):
        if result.note:
            print(f"  {uid}: {result.note}", file=sys.stderr)
    for row in said.itertuples():
        print(f"  {row.series_uid}: {row.nodule_id}: {row.reason}", file=sys.stderr)


def make_scan(task: _Task) -> ScanResult:
    """Make and keep the patches of one scan; what is wrong with it becomes its `problem`.

    A scan that cannot be read at all leaves no file, so the next pass tries it again.
    """
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # the processes share the cores
    uid = task.scan.series_uid
    names = [row["nodule_id"] for row in task.rows]
    try:
        made, result = scan_patches(task.found.open(), task.scan, task.rows)
    except InputError as error:
        return ScanResult(uid, [], dict.fromkeys(names, "its scan cannot be read"), str(error))
    except Exception as error:  # one odd scan must not cost the other 887
        reason = f"unexpected {type(error).__name__}: {error}"
        return ScanResult(uid, [], dict.fromkeys(names, "its scan cannot be read"), reason)
    _write_part(task, result, made)
    return result


def _write_part(task: _Task, result: ScanResult, made: Sequence[Patch]) -> None:
    about = asdict(result) | {"key": task.key}
    cube = (len(made), 32, 32, 32)
    with written_aside(task.part) as aside, aside.open("wb") as file:
        np.savez(
            file,
            about=np.frombuffer(json.dumps(about).encode(), np.uint8),
            volumes_hu=np.array([p.volume_hu for p in made], np.int16).reshape(cube),
            masks=np.array([p.mask for p in made], bool).reshape(cube),
        )


def _read_part(task: _Task) -> tuple[ScanResult, list[Patch]] | None:
    """What an earlier pass kept of a scan; None where there is nothing that can be used again."""
    try:
        with np.load(task.part, allow_pickle=False) as part:
            about = json.loads(part["about"].tobytes())
            if about.pop("key") != task.key:
                return None
            volumes, masks = part["volumes_hu"], part["masks"]
        result = ScanResult(**{"series_uid": task.scan.series_uid} | about)
        made = [Patch(n, v, m) for n, v, m in zip(result.made, volumes, masks, strict=True)]
    except Exception:  # missing or damaged: made again
        return None
    return result, made
