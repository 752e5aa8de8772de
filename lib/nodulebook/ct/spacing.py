"""How regularly the slices of a scan are spaced, judged in mm over the whole stack."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

UNEVEN_MM = 0.1
"""Slices are evenly spaced where no distance between neighbours deviates by more.

The 888 scans of LUNA16, by the slice positions in the annotation database: one has a larger
deviation (LIDC-IDRI-0123, 0.75 mm), in the others it is below 2 % of the spacing.
"""

WIDEST_STEP_MM = 2.5
"""Missing slices leave a gap where the step is wider: LUNA16's limit for the slices themselves."""


@dataclass(frozen=True)
class SpacingCheck:
    """How evenly a scan's slices lie. Lengths in mm."""

    slices: int
    spacing_mm: float  # the usual distance of neighbours; nan for a single slice
    largest_deviation_mm: float  # of a distance between neighbours from it
    missing: tuple[float, ...]  # positions along the third axis at which slices seem to be missing

    @property
    def even(self) -> bool:
        """Whether no distance deviates by more than `UNEVEN_MM`."""
        return self.largest_deviation_mm <= UNEVEN_MM


def check_spacing(positions_mm: NDArray[np.float64]) -> SpacingCheck:
    """Look for uneven spacing and missing slices (paper 3.1.1); positions increase.

    The usual distance is that of the closest neighbours where a quarter of all lie as close, else
    the median. About a whole number of it is taken for missing slices; any other deviation is
    uneven spacing.
    """
    steps = np.diff(positions_mm)
    if not len(steps):
        return SpacingCheck(len(positions_mm), math.nan, 0.0, ())
    close = steps[steps <= 1.25 * steps.min() + 1e-9]
    spacing = float(np.median(close if 4 * len(close) >= len(steps) else steps))
    missing: list[float] = []
    for low, high in pairwise(positions_mm.tolist()):
        count = round((high - low) / spacing)
        if count >= 2 and abs((high - low) - count * spacing) <= UNEVEN_MM * count:
            missing += [low + k * spacing for k in range(1, count)]
    return SpacingCheck(
        slices=len(positions_mm),
        spacing_mm=spacing,
        largest_deviation_mm=float(np.abs(steps - spacing).max()),
        missing=tuple(missing),
    )


def first_gap(positions_mm: NDArray[np.float64], first: int, count: int) -> int | None:
    """The first of `count` slices above which others are missing, so many that the step is wide."""
    steps = np.diff(positions_mm)
    if not len(steps):
        return None
    wide = steps > max(1.5 * check_spacing(positions_mm).spacing_mm, WIDEST_STEP_MM + 0.01)
    gaps = np.flatnonzero(wide[first : first + count - 1])
    return first + int(gaps[0]) if len(gaps) else None


def missing_notes(
    positions_mm: NDArray[np.float64], thickness_mm: float, numbers: Sequence[int]
) -> list[str]:
    """Signs of absent slices in a DICOM series, for its user.

    Positions increase; SliceThickness is nan, and an InstanceNumber -1, where it is not known.
    """
    check = check_spacing(positions_mm)
    if check.missing:
        return [f"{len(check.missing)} slices of the scan seem to be missing"]
    if not check.even:
        return [f"slices unevenly spaced, by up to {check.largest_deviation_mm:.2f} mm"]
    known = np.asarray(numbers) != -1
    counted = np.abs(np.diff(numbers))[known[1:] & known[:-1]]
    skipped = bool(len(counted)) and bool(counted.min() > 1)
    by = f"their InstanceNumber counts by {counted.min()}" if skipped else ""
    if np.isnan(thickness_mm) and skipped:
        return [f"{by}: slices between them may be missing, and SliceThickness does not say"]
    if check.spacing_mm > (1.1 if skipped else 1.5) * thickness_mm:
        return [
            f"slices {check.spacing_mm:g} mm apart, but {thickness_mm:g} mm thick"
            f"{' and ' if skipped else ''}{by}: those between them seem to be missing"
        ]
    return []


def judge(
    positions_mm: NDArray[np.float64], thickness_mm: float, due: int, max_thickness_mm: float
) -> tuple[SpacingCheck, int, str]:
    """Judge a scan by the paper's rules (its 3.1.1): thick, missing or unevenly spaced slices.

    Args:
        positions_mm: of its slices, increasing.
        thickness_mm: of its thickest slice.
        due: how many slices the annotated scan has.
        max_thickness_mm: the limit.

    Returns:
        How its slices lie, how many are missing, and "kept" or why the scan is rejected.
    """
    check = check_spacing(positions_mm)
    missing = max(len(check.missing), due - check.slices)
    reasons = []
    if not thickness_mm <= max_thickness_mm:
        reasons.append(f"slices of {thickness_mm:g} mm, the limit is {max_thickness_mm:g} mm")
    if missing:
        reasons.append(f"{missing} slices missing")
    if not check.even and not check.missing:
        reasons.append(f"uneven spacing, by up to {check.largest_deviation_mm:.2f} mm")
    return check, missing, "; ".join(reasons) or "kept"
