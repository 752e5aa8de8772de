"""Which scans and nodules of the cohort are in a folder, by the contents of its files."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from nodulebook.core.errors import InputError
from nodulebook.core.files import write_csv
from nodulebook.ct.find import open_image
from nodulebook.data.cohort import REFERENCE_READERS, read_nodules, read_scan_table
from nodulebook.download.transfer import say
from nodulebook.patches.sources.scans import find_idc, find_luna16

ABSENT_CSV = "absent_nodules.csv"
"""Written into the data folder: the lesions of `data/nodules.csv` whose scan is not there."""


@dataclass(frozen=True, eq=False)
class Presence:
    """What of the cohort is in a folder: rows of `data/scans.csv` and `data/nodules.csv`."""

    scans: pd.DataFrame  # all, with the column `present`
    nodules: pd.DataFrame  # all, with the column `present`


def presence(folder: Path) -> Presence:
    """Which scans and nodules of the cohort are in a folder, found as the two sources find them.

    A scan is present as DICOM with all its slices, or as an image file of the right size.
    """
    scans, nodules = read_scan_table(), read_nodules()
    slices = dict(zip(scans["series_uid"], scans["slices"], strict=True))
    series, images = find_idc(folder)[0], find_luna16(folder)[0]
    present = {uid for uid, found in series.items() if len(found.dicom) >= slices.get(uid, 1 << 30)}
    for uid in images.keys() & slices.keys() - present:
        try:
            open_image(images[uid].images[0])
        except InputError as error:
            say(str(error))
        else:
            present.add(uid)
    return Presence(
        scans.assign(present=scans["series_uid"].isin(present)),
        nodules.assign(present=nodules["series_uid"].isin(present)),
    )


def report_presence(folder: Path) -> Presence:
    """Say what of the cohort is in the folder, and list what is absent in its `ABSENT_CSV`.

    Raises:
        InputError: there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    found = presence(folder)
    reference = found.nodules[found.nodules["readers"] >= REFERENCE_READERS]
    for what, table in (
        ("scans", found.scans),
        ("lesions that any reader marked", found.nodules),
        (f"nodules of at least {REFERENCE_READERS} readers", reference),
    ):
        there = int(table["present"].sum())
        say(f"{what}: {there} of {len(table)} are there, {len(table) - there} are absent")
    absent = found.nodules[~found.nodules["present"]]
    try:
        columns = ["nodule_id", "patient_id", "series_uid", "readers"]
        write_csv(absent[columns], folder / ABSENT_CSV)
        say(f"the absent nodules are listed in {folder / ABSENT_CSV}")
    except OSError as error:
        say(f"{folder}: the absent nodules cannot be listed there ({error.strerror})")
    return found
