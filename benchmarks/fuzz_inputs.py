"""Damaged inputs by the hundred: none may end in a traceback, hang, or give a wrong voxel.

    NODULEBOOK_DATA=... python benchmarks/fuzz_inputs.py [--seed 0]

A ball of 6 mm radius is drawn into 24 slices of a real DICOM series, and written as `.mhd`. Then
one file at a time is cut, or has bytes flipped or swapped: 500 DICOM files, 200 `.mhd` headers, 200
tables of positions. An input must be refused by name (InputError), or show the ball within 0.5 mm
of where it was drawn; a changed header that still describes a scan must be read as SimpleITK reads
it.
"""

import argparse
import collections
import os
import shutil
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk

from nodulebook.core.errors import InputError
from nodulebook.ct.dicom import read_dicom_series
from nodulebook.ct.dicom_files import find_dicom
from nodulebook.ct.find import find_scans
from nodulebook.patches.cube import extract_patch
from study.own_scans.positions import read_positions

LIMIT_S = 30
RADIUS_MM = 6.0
Damage = Callable[[bytes, np.random.Generator], bytes]


def cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: rng.integers(0, len(data))]


def flipped(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.integers(1, 9)):
        changed[rng.integers(0, len(data))] ^= 1 << int(rng.integers(0, 8))
    return bytes(changed)


def swapped(data: bytes, rng: np.random.Generator) -> bytes:
    size = int(rng.integers(1, 64))
    if len(data) < 2 * size + 1:
        return data[::-1]
    a, b = sorted(int(i) for i in rng.integers(0, len(data) - size, 2))
    if b < a + size:
        return data[:a] + data[a : a + size][::-1] + data[a + size :]
    return (
        data[:a] + data[b : b + size] + data[a + size : b] + data[a : a + size] + data[b + size :]
    )


def in_head(damage: Damage, size: int = 2500) -> Damage:
    """The damage within the first bytes, where a DICOM file has its header."""
    return lambda data, rng: damage(data[:size], rng) + data[size:]


def a_digit(data: bytes, rng: np.random.Generator) -> bytes:
    digits = [i for i, byte in enumerate(data) if 48 <= byte < 58]
    at = digits[rng.integers(0, len(digits))] if digits else 0
    return data[:at] + b"%d" % rng.integers(0, 10) + data[at + 1 :]


def a_line(data: bytes, rng: np.random.Generator) -> bytes:
    lines = data.split(b"\n")
    at = int(rng.integers(0, len(lines)))
    return b"\n".join(lines[:at] + [lines[at]] * int(rng.choice([0, 2])) + lines[at + 1 :])


def ball_off_mm(scan: object, centre: np.ndarray) -> float:
    """How far from its place a scan shows the ball."""
    patch = extract_patch(scan, centre)
    z, y, x = np.nonzero(patch > -400)
    if not len(z):
        return np.inf
    middle = np.array([x.mean(), y.mean(), z.mean()]) - (patch.shape[0] - 1) / 2
    return float(np.linalg.norm(middle))


def prepared(data: Path, folder: Path) -> np.ndarray:
    """24 real slices with a ball as DICOM in folder/dicom, and as folder/mhd; the ball's centre."""
    series = max(find_dicom(data).series.items(), key=lambda item: len(item[1]))
    slices = read_dicom_series(series[1], series[0]).slices[:24]
    one = slices[12]
    centre = one.position_xyz_mm + np.array([one.spacing_xy_mm * 200], float) @ one.orientation
    centre = centre.ravel() + np.array([0.2, -0.3, 0.4])
    rng = np.random.default_rng(0)
    stack = []
    (folder / "dicom").mkdir(parents=True)
    for k, s in enumerate(slices):
        header = pydicom.dcmread(s.path)
        columns, rows = np.meshgrid(*[np.arange(n) for n in s.size_xy])
        at = np.stack([columns, rows], -1) * s.spacing_xy_mm @ s.orientation + s.position_xyz_mm
        hu = np.where(np.linalg.norm(at - centre, axis=-1) < RADIUS_MM, 40, -850)
        hu = np.rint(hu + rng.normal(0, 15, hu.shape))
        stack.append(hu.astype(np.int16)[150:250, 150:250])
        header.PixelData = np.rint((hu - s.intercept) / s.slope).astype("<i2").tobytes()
        header.save_as(folder / "dicom" / f"{k:03d}.dcm")
    image = sitk.GetImageFromArray(np.array(stack))
    spacing_z = np.linalg.norm(slices[1].position_xyz_mm - slices[0].position_xyz_mm)
    image.SetSpacing((*one.spacing_xy_mm.tolist(), float(spacing_z)))
    corner = slices[0].position_xyz_mm + (one.spacing_xy_mm * 150) @ one.orientation
    image.SetOrigin(corner.tolist())
    (folder / "mhd").mkdir()
    sitk.WriteImage(image, str(folder / "mhd" / "scan.mhd"))
    return centre


def outcome(look: Callable[[], str]) -> str:
    def too_long(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(LIMIT_S)
    try:
        return look()
    except InputError as error:
        return "refused" if len(str(error)) > 20 and "\n" not in str(error) else "FAULT: no message"
    except TimeoutError:
        return f"FAULT: {LIMIT_S} s"
    except Exception:
        return "FAULT: " + traceback.format_exc().strip().replace("\n", " | ")[-700:]
    finally:
        signal.alarm(0)


def scored(folder: Path, centre: np.ndarray) -> str:
    found = find_scans(folder)
    off = ball_off_mm(found.one("").open(), centre)
    named = " and named" if found.damaged else ""
    return f"read, the ball in its place{named}" if off <= 0.5 else f"FAULT: ball {off:.2f} mm off"


def as_simpleitk(folder: Path, centre: np.ndarray) -> str:
    ours = extract_patch(find_scans(folder).one("").open(), centre)
    try:
        theirs = extract_patch(sitk.ReadImage(str(folder / "scan.mhd")), centre)
    except (RuntimeError, InputError):
        return scored(folder, centre)
    same = np.abs(ours - theirs).max() <= 0.5
    return "read as SimpleITK reads it" if same else "FAULT: not as SimpleITK reads it"


def table_read(path: Path, rows: dict[bytes, tuple[float, ...]]) -> str:
    table = read_positions(path)
    lines = path.read_bytes().splitlines()
    for row in table.itertuples():
        here = (row.x_mm, row.y_mm, row.z_mm)
        if not np.isfinite(here).all():
            return "FAULT: not finite"
        line = lines[row.line - 1] if row.line <= len(lines) else b""
        if line in rows and not np.allclose(here, rows[line]):
            return f"FAULT: {line!r} read as {here}"
    return "read"


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--share", type=float, default=1.0, help="of 500, 200, 200 inputs")
    given = options.parse_args()
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(given.seed)
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    start = time.monotonic()

    def count(kind: str, look: Callable[[], str], damaged: Path) -> None:
        result = outcome(look)
        counts[kind][result] += 1
        if result.startswith("FAULT"):
            kept = Path(tempfile.gettempdir()) / f"fuzz-{kind}-{sum(counts[kind].values())}"
            shutil.copy(damaged, kept)
            print(kind, kept, result, flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        centre = prepared(Path(os.environ["NODULEBOOK_DATA"]) / "lidc-dicom", folder)
        assert scored(folder / "dicom", centre).startswith("read")
        assert as_simpleitk(folder / "mhd", centre).startswith("read")
        files = sorted((folder / "dicom").iterdir())
        kinds: list[Damage] = [cut, flipped, swapped, in_head(cut), in_head(flipped)]
        kinds += [in_head(swapped), in_head(a_digit)]
        for k in range(int(500 * given.share)):
            path = files[rng.integers(4, 20)]
            whole = path.read_bytes()
            path.write_bytes(kinds[k % len(kinds)](whole, rng))
            count("dicom", lambda: scored(folder / "dicom", centre), path)
            path.write_bytes(whole)
        header = folder / "mhd" / "scan.mhd"
        whole = header.read_bytes()
        kinds = [cut, flipped, swapped, a_digit, a_line]
        for k in range(int(200 * given.share)):
            header.write_bytes(kinds[k % len(kinds)](whole, rng))
            count("mhd", lambda: as_simpleitk(folder / "mhd", centre), header)
        table = folder / "positions.csv"
        places = [tuple(rng.uniform(-200, 200, 3).round(1).tolist()) for _ in range(20)]
        lines = [f"n{k},scan,{x},{y},{z}".encode() for k, (x, y, z) in enumerate(places)]
        whole = b"id,scan,x_mm,y_mm,z_mm\n" + b"\n".join(lines) + b"\n"
        known = dict(zip(lines, places, strict=True))
        for k in range(int(200 * given.share)):
            table.write_bytes(kinds[k % len(kinds)](whole, rng))
            count("csv", lambda: table_read(table, known), table)
    for kind, results in counts.items():
        print(f"{kind}: {sum(results.values())}")
        for result, number in results.most_common():
            print(f"  {number:4d} {result[:300]}")
    print(f"seed {given.seed}, {time.monotonic() - start:.0f} s")
    faults = sum(n for c in counts.values() for r, n in c.items() if r.startswith("FAULT"))
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    main()
