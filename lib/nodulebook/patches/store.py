"""Patch stores: the patches of a source on disk.

Every data source (`nodulebook.patches.sources`) fills the same store, so that nothing
downstream depends on where the voxels came from.
"""

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from nodulebook.core.errors import InputError
from nodulebook.core.files import (
    folder_written_aside,
    read_csv,
    read_json,
    sha256,
    write_csv,
    write_json,
)
from nodulebook.patches.cube import PATCH_SIZE

REMAKE = "make it again; delete a patch store whole"


@dataclass(frozen=True, eq=False)
class Patch:
    """One nodule's cube, (32, 32, 32) zyx of 1 mm voxels; the volume may have a margin."""

    nodule_id: str
    volume_hu: NDArray[np.int16]  # (32, 32 + 2 margin, 32 + 2 margin)
    mask: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class PatchStore:
    """A source's patches on disk, in the order of `table`'s rows."""

    source: str
    volumes_hu: NDArray[np.int16]  # (n, 32, 32 + 2 margin, 32 + 2 margin) zyx
    masks: NDArray[np.bool_]  # (n, 32, 32, 32) zyx; the readers' consensus
    table: pd.DataFrame  # nodule_id, patient_id, series_uid
    digest: str  # SHA-256 over volumes, masks and table
    recipe: dict[str, str]

    @property
    def margin(self) -> int:
        """Voxels that the volumes have beyond the patch on each side, in the axial plane."""
        return (int(self.volumes_hu.shape[-1]) - PATCH_SIZE) // 2

    def rows(self, nodule_ids: Iterable[str]) -> NDArray[np.int64]:
        """Row numbers of the nodules, in the order asked for; InputError where one is not here."""
        position = {name: row for row, name in enumerate(self.table["nodule_id"])}
        wanted = list(nodule_ids)
        absent = [name for name in wanted if name not in position]
        if absent:
            raise InputError(
                f"{len(absent)} nodules are not in the {self.source} patches, "
                f"the first is {absent[0]}"
            )
        return np.array([position[name] for name in wanted], dtype=np.int64)


def write_store(
    folder: Path,
    source: str,
    patches: Iterator[Patch],
    nodules: pd.DataFrame,
    recipe: dict[str, str],
    margin: int = 0,
) -> None:
    """Write a source's patches as a store; nothing is left behind if it is interrupted.

    Args:
        folder: the store's folder; an older one is replaced at the end.
        source: the source's name.
        patches: at most one per row of `nodules`, in any order.
        nodules: columns nodule_id, patient_id, series_uid; the nodules that may come.
        recipe: what the patches depend on, as text; a store is used again while it is equal.
        margin: voxels that the volumes have beyond the patch on each side, in the axial plane.
    """
    with folder_written_aside(folder) as aside:
        wanted = nodules.set_index("nodule_id")
        shape = (len(nodules), PATCH_SIZE, PATCH_SIZE, PATCH_SIZE)
        wide = (*shape[:2], PATCH_SIZE + 2 * margin, PATCH_SIZE + 2 * margin)
        volumes = _new_array(aside / "volumes_hu.npy", np.int16, wide)
        masks = _new_array(aside / "masks.npy", np.bool_, shape)
        names: list[str] = []
        # Shown from the second on: a source that reads scans first has a bar of its own.
        named = {"desc": f"{source}: patches", "total": len(nodules), "position": 0}
        for patch in tqdm(patches, **named, delay=1, mininterval=5):
            volumes[len(names)], masks[len(names)] = patch.volume_hu, patch.mask
            names.append(patch.nodule_id)
        if not names:
            raise InputError(f"source {source}: none of the {len(nodules)} nodules was found")
        volumes.flush()
        masks.flush()
        del volumes, masks
        if len(names) < len(nodules):
            for name in ("volumes_hu.npy", "masks.npy"):
                full = np.load(aside / name, mmap_mode="r")
                np.save(aside / f"short-{name}", full[: len(names)])
                del full
                shutil.move(aside / f"short-{name}", aside / name)
        table = wanted.loc[names, ["patient_id", "series_uid"]].reset_index()
        write_csv(table, aside / "table.csv")
        digest = sha256(*(aside / name for name in ("volumes_hu.npy", "masks.npy", "table.csv")))
        about = {"source": source, "digest": digest, "recipe": recipe}
        write_json(about | ({"margin": margin} if margin else {}), aside / "store.json")


def _new_array(path: Path, kind: Any, shape: tuple[int, ...]) -> Any:
    """A new .npy file as an array in memory, its place on the disk already taken.

    On a full disk, writing to an array whose place is not taken ends the process with SIGBUS.
    """
    array = np.lib.format.open_memmap(path, "w+", kind, shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
                    raise  # other errors: this kind of disk cannot say beforehand
    return array


def read_store(folder: Path) -> PatchStore:
    """Open a store (its arrays stay on disk until used).

    Raises:
        InputError: a file of it is missing or does not fit the others.
    """
    about = read_json(folder / "store.json")
    if not isinstance(about, dict) or not {"source", "digest", "recipe"} <= set(about):
        raise InputError(
            f"{folder / 'store.json'}: source, digest or recipe is missing; delete {folder}"
        )
    table = read_csv(
        folder / "table.csv", {"nodule_id": "str", "patient_id": "str", "series_uid": "str"}
    )
    cube = (len(table), PATCH_SIZE, PATCH_SIZE, PATCH_SIZE)
    edge = PATCH_SIZE + 2 * int(about.get("margin", 0))
    volumes = read_array(folder / "volumes_hu.npy", np.int16, (*cube[:2], edge, edge))
    masks = read_array(folder / "masks.npy", np.bool_, cube)
    return PatchStore(
        source=about["source"],
        volumes_hu=volumes,
        masks=masks,
        table=table,
        digest=about["digest"],
        recipe=about["recipe"],
    )


def read_array(path: Path, kind: Any, shape: tuple[int, ...]) -> Any:
    """A .npy file as an array on disk; unlike `np.load`, this takes no other file and no pickle.

    Raises:
        InputError: it is missing, damaged, or of another number type or shape.
    """
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); {REMAKE}") from None
    if (array.dtype, array.shape) != (np.dtype(kind), shape):
        raise InputError(
            f"{path}: {array.dtype} of shape {array.shape}, but the table next to it needs "
            f"{np.dtype(kind)} of shape {shape}; {REMAKE}"
        )
    return array
