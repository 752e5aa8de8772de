"""Data sources. Each yields the same patches; `open_source` builds a source's store once.

A source module has two functions:

    recipe(data: Path | None) -> dict[str, str]
        What its patches depend on (versions, settings, the identity of the user's data), as
        text. Cheap. Raises InputError where the data is missing or is not what it should be.
    patches(nodules: pandas.DataFrame, data: Path | None) -> Iterator[Patch]
        The patches of the nodules that it has, each once.
"""

from importlib import import_module
from pathlib import Path
from typing import Literal

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.files import exclusive, sha256
from nodulebook.data.cohort import REFERENCE_READERS, read_nodules
from nodulebook.patches.store import PatchStore, read_store, write_store

SOURCES = {
    "phantom": "phantom, rendered from the readers' contours; not CT",
    "lidc_slices": "LIDC-IDRI CT slices, 8 bit",
    "lidc_grey": "LIDC-IDRI CT slices, 8 bit, one grey scale for all",
    "luna16": "LUNA16 CT scans",
    "idc": "LIDC-IDRI CT scans, DICOM",
    "own": "a cohort of the user's",
}
"""The sources' names and what to call each beneath a figure."""

REAL_CT = ("luna16", "idc", "lidc_slices", "lidc_grey")
"""Those that show real CT, the closest to the paper's data first."""

SCAN_SOURCES = ("luna16", "idc")
"""Those that read whole scans; they may hold a part of the nodules and grow (`sources.scans`)."""


def check_source(source: str) -> None:
    """Refuse a source that does not exist.

    Raises:
        InputError: naming the sources there are.
    """
    if source not in SOURCES:
        raise InputError(f"source {source!r} is not one of {', '.join(SOURCES)}")


def open_source(
    source: str,
    data: Path | None = None,
    lesions: Literal["labelled", "all"] = "labelled",
    jobs: int | None = None,
    again: bool = False,
) -> PatchStore:
    """The patches of a source; built on first use, under `data/patches/`.

    Args:
        source: one of `SOURCES`.
        data: the folder or file with the user's data; `NODULEBOOK_DATA` where None.
        lesions: the reference nodules, marked by at least three readers, the labelled ones among
            them; or every lesion that a reader marked, in a store of its own.
        jobs: processes that read scans, in `SCAN_SOURCES`; one a core where None.
        again: in `SCAN_SOURCES`, try again what is not in the store (scans that could not be read).

    Raises:
        InputError: an unknown source, or its data is missing, damaged or not as expected.
    """
    check_source(source)
    module = import_module(f"nodulebook.patches.sources.{source}")
    folder, recipe = _folder_and_recipe(source, data, lesions)
    again = again and source in SCAN_SOURCES
    if not again and (store := _built(folder, recipe)):
        return store
    waiting = f"{source}: another process is building these patches; waiting"
    with exclusive(folder.with_name(f".{folder.name}.lock"), waiting):
        if not again and (store := _built(folder, recipe)):  # by the process that was waited for
            return store
        nodules = read_nodules()
        if lesions != "all":
            nodules = nodules[nodules["readers"] >= REFERENCE_READERS]
        options = {"jobs": jobs} if source in SCAN_SOURCES else {}
        write_store(folder, source, module.patches(nodules, data, **options), nodules, recipe)
        return read_store(folder)


def built_digest(source: str, data: Path | None, lesions: str) -> str | None:
    """The digest of the patches that `open_source` would give without building any, or None."""
    check_source(source)
    try:
        store = _built(*_folder_and_recipe(source, data, lesions))
    except InputError:  # its data is not here
        return None
    return store.digest if store else None


def _folder_and_recipe(source: str, data: Path | None, lesions: str) -> tuple[Path, dict[str, str]]:
    module = import_module(f"nodulebook.patches.sources.{source}")
    recipe = module.recipe(data) | {"nodules_csv": sha256(paths.NODULES_CSV)}
    if lesions == "all":
        return paths.patch_stores() / f"{source}-all", recipe | {"lesions": "all"}
    return paths.patch_stores() / source, recipe


def _built(folder: Path, recipe: dict[str, str]) -> PatchStore | None:
    """The store in a folder, where it is there and depends on the same."""
    if not (folder / "store.json").is_file():
        return None
    store = read_store(folder)
    return store if store.recipe == recipe else None


def closest_store() -> PatchStore:
    """The built store closest to the paper's data whose data is here too, or the phantom's.

    Nothing is built for it but the phantom.
    """
    for source in REAL_CT:
        if (paths.patch_stores() / source / "store.json").is_file():
            try:
                return open_source(source)
            except InputError:
                continue  # its data is no longer here
    return open_source("phantom")
