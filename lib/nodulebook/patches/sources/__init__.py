"""Data sources. Each yields the same patches; `open_source` builds a source's store once.

A source's module has two functions (where several share a module, they take the source's name):

    recipe(data: Path | None) -> dict[str, str]
        What its patches depend on (versions, settings, the identity of the user's data), as
        text. Cheap. Raises InputError where the data is missing or is not what it should be.
    patches(nodules: pandas.DataFrame, data: Path | None) -> Iterator[Patch]
        The patches of the nodules that it has, each once.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.files import exclusive, sha256
from nodulebook.core.settings import TrainingSettings
from nodulebook.data.cohort import REFERENCE_READERS, read_nodules
from nodulebook.patches.sources import lidc_slices, own, phantom, scans
from nodulebook.patches.store import PatchStore, read_store, write_store

SOURCES = {
    "phantom": "phantom, rendered from the readers' contours; not CT",
    "lidc_slices": "8-bit CT slices from LIDC-IDRI",
    "lidc_exact": "8-bit CT slices from LIDC-IDRI, with exact Hounsfield units where known",
    "lidc_grey": "8-bit CT slices from LIDC-IDRI, with one grey scale for all",
    "luna16": "LUNA16 CT scans",
    "idc": "LIDC-IDRI CT scans in DICOM format",
    "own": "a cohort of the user's",
}
"""The sources' names and what to call each beneath a figure."""

REAL_CT = ("luna16", "idc", "lidc_slices", "lidc_exact", "lidc_grey")
"""Those that show real CT, the closest to the paper's data first."""

SLICE_SOURCES = ("lidc_slices", "lidc_exact", "lidc_grey")
"""Those that read LIDC-IDRI-slices; they can cut patches with a margin."""

SCAN_SOURCES = ("luna16", "idc")
"""Those that read whole scans; they may hold a part of the nodules and grow (`sources.scans`)."""


def check_source(source: str) -> None:
    """Refuse a source that does not exist; InputError names those there are."""
    if source not in SOURCES:
        raise InputError(f"source {source!r} is not one of {', '.join(SOURCES)}")


def _functions(source: str) -> tuple[Callable[..., dict[str, str]], Callable[..., Any]]:
    """The source's `recipe` and `patches`."""
    if source in SLICE_SOURCES or source in SCAN_SOURCES:
        module = lidc_slices if source in SLICE_SOURCES else scans
        return partial(module.recipe, source=source), partial(module.patches, source=source)
    module = phantom if source == "phantom" else own
    return module.recipe, module.patches


def open_source(
    source: str,
    data: Path | None = None,
    lesions: Literal["labelled", "all"] = "labelled",
    jobs: int | None = None,
    again: bool = False,
    margin: int = 0,
) -> PatchStore:
    """The patches of a source; built on first use, under `data/patches/`.

    Args:
        source: one of `SOURCES`.
        data: the folder or file with the user's data; `NODULEBOOK_DATA` where None.
        lesions: the reference nodules, marked by at least three readers, the labelled ones among
            them; or every lesion that a reader marked, in a store of its own.
        jobs: processes that read scans, in `SCAN_SOURCES`; one a core where None.
        again: in `SCAN_SOURCES`, try again what is not in the store (scans that could not be read).
        margin: voxels beyond the patch on each side, in the axial plane; in `SLICE_SOURCES`.

    Raises:
        InputError: an unknown source, one that has no margin, or its data is missing, damaged or
            not as expected.
    """
    check_source(source)
    if margin and source not in SLICE_SOURCES:
        raise InputError(
            f"source {source!r} cuts patches without a margin, which random shifts need: take one "
            f"of {', '.join(SLICE_SOURCES)}, or a profile with shift_mm 0"
        )
    folder, recipe = _folder_and_recipe(source, data, lesions, margin)
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
        if margin:
            options["margin"] = margin
        found = _functions(source)[1](nodules, data, **options)
        write_store(folder, source, found, nodules, recipe, margin)
        return read_store(folder)


def built_digest(source: str, data: Path | None, lesions: str, margin: int = 0) -> str | None:
    """The digest of the patches that `open_source` would give without building any, or None."""
    check_source(source)
    try:
        store = _built(*_folder_and_recipe(source, data, lesions, margin))
    except InputError:  # its data is not here
        return None
    return store.digest if store else None


def _folder_and_recipe(
    source: str, data: Path | None, lesions: str, margin: int
) -> tuple[Path, dict[str, str]]:
    recipe = _functions(source)[0](data) | {"nodules_csv": sha256(paths.NODULES_CSV)}
    name = source
    if lesions == "all":
        name, recipe = f"{name}-all", recipe | {"lesions": "all"}
    if margin:
        name, recipe = f"{name}-margin", recipe | {"margin": str(margin)}
    return paths.patch_stores() / name, recipe


def _built(folder: Path, recipe: dict[str, str]) -> PatchStore | None:
    """The store in a folder, where it is there and depends on the same."""
    if not (folder / "store.json").is_file():
        return None
    store = read_store(folder)
    return store if store.recipe == recipe else None


def open_for_training(source: str, data: Path | None, settings: TrainingSettings) -> PatchStore:
    """The patches that a recipe is trained on: its lesions, with the margin that it needs."""
    return open_source(source, data, settings.lesions, margin=settings.margin)


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
