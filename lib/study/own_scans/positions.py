"""Tables of positions, as public data sets and spreadsheets write them.

A position is a point in the world, in mm, as DICOM and LUNA16 have it (LPS: x to the patient's
left, y to the back, z to the head). Columns are recognised by name, whatever their case.
"""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nodulebook.core.errors import InputError
from nodulebook.data.patients import check_spelling
from study.own_scans.labels import label_of, value_of

WORLD = ("x_mm", "y_mm", "z_mm")
PIXELS = ("column_px", "row_px", "slice")

MOST_MM = 300.0
"""A lung is not wider: a larger diameter has lost its decimal mark, or is not in mm."""


@dataclass(frozen=True)
class Layout:
    """How one kind of table calls its columns, in lower case: ours -> theirs, the first found."""

    name: str
    columns: dict[str, tuple[str, ...]]
    needs: tuple[str, ...] = WORLD
    scan_pattern: str = "{}"


_Aliases = dict[str, tuple[str, ...]]

_EVERYWHERE: _Aliases = {
    "id": ("id", "nodule_id", "annotationid"),
    "scan": ("scan", "seriesuid", "series_uid", "seriesinstanceuid", "series uid"),
    "patient_id": ("patient_id", "patientid", "patient-id"),
    "label": ("label", "malignant_lbl"),
    "rating": ("malignancy_mean", "malignancy", "rating"),
    "diameter_mm": ("diameter_mm",),
}
_COORD: _Aliases = {axis: (f"coord{axis[0]}",) for axis in WORLD}

LAYOUTS = (
    Layout("this book", _EVERYWHERE | {axis: (axis,) for axis in WORLD}),
    Layout(
        "LNDb",
        _EVERYWHERE
        | {axis: (axis[0],) for axis in WORLD}
        | {"id": ("findingid",), "scan": ("lndbid",), "diameter_mm": ("diameq_rad",)},
        (*WORLD, "scan"),
        "LNDb-{:0>4}",
    ),
    Layout(
        "DLCS",
        _EVERYWHERE | _COORD | {"scan": ("ct_nifti_file", "patient-id")},
        (*WORLD, "scan", "label", "patient_id"),
    ),
    Layout(
        "LUNA16 or LUNA25",
        _EVERYWHERE | _COORD | {"scan": (*_EVERYWHERE["scan"], "annotationid")},
    ),
    Layout(
        "LUNGx",
        _EVERYWHERE
        | {"id": ("nodule number",), "scan": ("series uid", "scan number")}
        | {"slice": ("nodule center image",)}
        | {"place": ("nodule center x,y position*", "nodule center x,y position")}
        | {"patient_id": ("scan number",), "label": ("final diagnosis",)},
        ("place", "slice", "scan"),
    ),
    Layout("pixels", _EVERYWHERE | {name: (name,) for name in PIXELS}, PIXELS),
)  # fmt: skip
"""The kinds of tables, the first that a header fits. DLCS: Duke Lung Cancer Screening; LNDb:
`allNods.csv`, whose Malignancy is the readers' mean rating; LUNGx: pixels and image number."""

OURS = ("id", "scan", *WORLD, *PIXELS, "patient_id", "label", "rating", "diameter_mm")


def read_positions(path: Path, ras: bool = False, coordinates: bool = True) -> pd.DataFrame:
    """Read a table of positions: a CSV file, one row per position.

    Cells are separated by commas, semicolons or tabs; numbers may have a decimal comma; a first
    line `sep=;` and a byte order mark are understood. Ids must be unique within a scan.

    Args:
        path: the table, in one of `LAYOUTS`.
        ras: x and y are those of RAS (3D Slicer, NIfTI) and change their sign.
        coordinates: False: a table for cubes or of labels, in which positions may be absent.

    Returns:
        Columns line (in the file), id (the row's number where there is none), scan (or the patient,
        where only that is named; "" where neither is), x_mm, y_mm, z_mm (NaN where given as
        column_px, row_px, slice); where given patient_id, label (1, 0 or NaN), rating (1 to 5 or
        NaN), diameter_mm; and the others as text. Where `coordinates`, rows without any are left
        out.

    Raises:
        InputError: no such file, not CSV, no row, an unknown kind of table, or a wrong cell; the
            message names line and value.
    """
    header, lines, columns = _read_cells(path)
    layout, found = _recognised(path, header, coordinates)
    cells = dict(zip(header, columns, strict=True))
    _check_once(path, found, cells, lines)
    kept = {name: cells[theirs] for name, theirs in found.items()}
    others = {
        name if name not in (*OURS, "line") else f"{name} as given": column
        for name, column in cells.items()
        if name not in found.values()
    }
    table = pd.DataFrame(kept | others, dtype=str)
    table.insert(0, "line", lines)
    if "place" in table:
        table = _split_place(path, table)
    placed = [name for name in (*WORLD, *PIXELS) if name in table]
    if placed and coordinates:
        table = table[(table[placed] != "").any(axis=1)].reset_index(drop=True)
    if table.empty:
        raise InputError(f"{path}: has no position: one row for each, below the columns' names")
    for name in placed:
        table[name] = numbers(path, table, name, "a number, such as -84.3", not coordinates)
    if ras and not set(WORLD) <= set(placed):
        raise InputError(f"{path}: gives places in pixels, which --ras does not apply to")
    if ras:
        table[["x_mm", "y_mm"]] *= -1
    for name in WORLD:
        if name not in table:
            table[name] = np.nan
    if "scan" not in table and (named := _naming_column(table)):
        table["scan"] = table[named]
    # A spreadsheet may write 1 as 1.0. The patient goes first: the scan may be its copy.
    for name in [one for one in ("patient_id", "id", "scan") if one in table]:
        table[name] = table[name].str.replace(r"^(\d+)[.,]0$", r"\1", regex=True)
        cut = table[name].str.fullmatch(r"\d([.,]\d+)?E\+\d+")
        refuse(path, table, cut, "must not be shortened by a spreadsheet: store it as text", name)
    if "scan" in table:
        _check_folders(path, table)
        scan = map(scan_name, table["scan"])
        table["scan"] = [layout.scan_pattern.format(name) if name else "" for name in scan]
    else:
        table["scan"] = ""
    if "id" not in table:
        table["id"] = [str(row + 1) for row in range(len(table))]
    refuse(path, table, table["id"] == "", "id is empty: fill it in, or leave the column out")
    _check_unique(path, table)
    if "patient_id" in table:
        check_spelling(path, table["patient_id"])
    if "label" in table:
        labels = [label_of(cell) for cell in table["label"]]
        bad = pd.Series([one is None for one in labels], table.index)
        refuse(path, table, bad, "must be 0 or 1, benign or malignant, or empty", "label")
        table["label"] = pd.Series(labels, table.index, float)
    if "rating" in table:
        table["rating"] = numbers(path, table, "rating", "a rating from 1 to 5", empty=True)
        bad = ~table["rating"].between(1, 5) & table["rating"].notna()
        why = f"rating is not between 1 and 5; if {found['rating']} is 0 or 1, call it label"
        refuse(path, table, bad, why)
    if "diameter_mm" in table:
        table["diameter_mm"] = numbers(path, table, "diameter_mm", "a diameter in mm", empty=True)
        refuse(path, table, table["diameter_mm"] <= 0, "diameter_mm must be above 0")
        above = table["diameter_mm"] > MOST_MM  # 8.125 may have become 8125
        refuse(path, table, above, f"must be in mm, and at most {MOST_MM:g}", "diameter_mm")
    first = ["line", "id", "scan", *WORLD]
    return table[first + [name for name in table.columns if name not in first]]


def given_columns(path: Path) -> set[str]:
    """Which columns a table itself has, by the names of `OURS`; `read_positions` makes up some.

    A column that names files or series is the scan, whatever it is called; one of patients is not.

    Raises:
        InputError: no such file, or not CSV.
    """
    header, _, columns = _read_cells(path)
    _, found = _recognised(path, header, coordinates=False)
    others = pd.DataFrame(dict(zip(header, columns, strict=True)), dtype=str)
    others = others.drop(columns=list(found.values()))
    named = "scan" not in found and _naming_column(others, (_OF_SCANS, _OF_OTHERS))
    return {*found, *(["scan"] if named else [])}


_ENDING = re.compile(r"\.(mhd|mha|nrrd|npy|npz|nii(\.gz)?)$", re.IGNORECASE)
_PATH = re.compile(r"([/~.]|[a-z]:).*|.*\\.*|.*/", re.IGNORECASE)


def stem(name: str) -> str:
    """The name of a scan that is given as a file or folder, with those that it is in."""
    last = re.split(r"[/\\]", name.rstrip("/\\"))[-1]
    return _ENDING.sub("", last) or name


def scan_name(cell: str) -> str:
    """The stem of a path. A cell such as 2019/17 stays: it may be a PatientID (`Folder.one`)."""
    return stem(cell) if _ENDING.search(cell) or _PATH.fullmatch(cell) else cell


def _read_cells(path: Path) -> tuple[list[str], list[int], list[list[str]]]:
    """The first line's cells, the other lines' numbers, and their cells column by column."""
    try:
        raw = path.expanduser().read_bytes()
        if raw.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
            raise InputError(f"{path}: a spreadsheet and not a CSV file; save it as CSV in UTF-8")
        utf16 = raw[:2] in (b"\xff\xfe", b"\xfe\xff")
        text = raw.decode("utf-16" if utf16 else "utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a CSV file in UTF-8 ({error}); save it as UTF-8") from None
    lines = list(io.StringIO(text, newline=""))  # by line ends alone: U+2028 may be in a cell
    said = re.fullmatch(r'"?sep=(.)"?\s*', lines[0], flags=re.IGNORECASE) if lines else None
    start = next((k for k, line in enumerate(lines) if k >= bool(said) and line.strip()), None)
    if start is None:
        raise InputError(f"{path}: is empty; the columns {', '.join(WORLD)} are needed")
    separator = said[1] if said else max(",;\t", key=lines[start].count)
    header: list[str] = []
    numbers: list[int] = []
    columns: list[list[str]] = []
    try:
        reader = csv.reader(lines[start:], delimiter=separator, strict=True)
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if not header:
                header = [cell.strip() for cell in row]
                columns = [[] for _ in header]
                continue
            if len(row) != len(header):
                raise InputError(
                    f"{path}: line {start + reader.line_num}: {len(row)} cells, but the first "
                    f"line names {len(header)} columns"
                )
            numbers.append(start + reader.line_num)
            for column, cell in zip(columns, row, strict=True):
                column.append(cell.strip())
    except csv.Error as error:
        raise InputError(f"{path}: not a CSV file ({error})") from None
    return header, numbers, columns


def _recognised(
    path: Path, header: Sequence[str], coordinates: bool
) -> tuple[Layout, dict[str, str]]:
    """The table's layout, and which of its columns is which of ours (ours -> theirs)."""
    given = {cell.lower(): cell for cell in header}
    lower = [cell.lower() for cell in header]
    if len(given) < len(header):
        again = next(cell for cell in header if lower.count(cell.lower()) > 1)
        raise InputError(f"{path}: column {again or '(without a name)'} occurs twice")
    for axis in WORLD:
        if axis in given and f"coord{axis[0]}" in given:
            raise InputError(f"{path}: {axis} and coord{axis[0].upper()} are both there: leave one")
    for layout in LAYOUTS:
        found = {
            name: next(given[one] for one in theirs if one in given)
            for name, theirs in layout.columns.items()
            if any(one in given for one in theirs)
        }
        if found.keys() >= set(layout.needs):
            return layout, found
    if not coordinates:
        known = {n: [t for t in theirs if t in given] for n, theirs in _EVERYWHERE.items()}
        return LAYOUTS[0], {name: given[theirs[0]] for name, theirs in known.items() if theirs}
    kinds = "; ".join(f"{one.name}: {', '.join(_wanted(one))}" for one in LAYOUTS)
    raise InputError(
        f"{path}: not a known kind of table; its columns are {', '.join(header)}. Wanted are, by "
        f"kind of table, {kinds}"
    )


def _check_once(
    path: Path, found: dict[str, str], cells: dict[str, list[str]], lines: list[int]
) -> None:
    """Raise an InputError where two columns give one measure, and a line has two values of it."""
    for name in ("label", "rating", "patient_id", "diameter_mm"):
        mine = found.get(name, "")
        # Beside a mean rating, "malignancy" may be the ratings that it is the mean of.
        if not mine or mine.lower() == "malignancy_mean":
            continue
        for other in [one for one in cells if one != mine and one.lower() in _EVERYWHERE[name]]:
            for line, *both in zip(lines, cells[mine], cells[other], strict=True):
                if all(both) and len({value_of(name, cell) for cell in both}) > 1:
                    raise InputError(
                        f"{path}: line {line}: {mine} is {both[0]!r} and {other} is {both[1]!r}, "
                        f"but both columns are the {name}: leave one out"
                    )


def _wanted(layout: Layout) -> list[str]:
    return ["/".join(layout.columns[name]) for name in layout.needs]


_OF_SCANS = ("scan", "series", "image", "img", "file", "volume", "nii", "nifti", "dicom")
_OF_PATIENTS = ("patient", "subject", "case", "person", "participant", "pid", "mrn")
_OF_OTHERS = ("uid", "study", "exam", "examination", "accession", "path", "ct")
_ENTITIES = (_OF_SCANS, _OF_PATIENTS, _OF_OTHERS)
_OF_NAMES = {"id", "uid", "name", "instance", "number", "no", "nr", "key", "code", "path"}
_NAMES_A_SCAN = re.compile(
    r"\d+(\.\d+){6,}|.*[/\\].*|.*\.(dcm|mhd|mha|nrrd|nii|nii\.gz)|LIDC-IDRI-\d+", re.IGNORECASE
)
"""Cells that name a scan, series or patient whatever their column is called: UIDs, files."""


def _naming_column(table: pd.DataFrame, kinds: Sequence[Sequence[str]] = _ENTITIES) -> str:
    """The column that names scans, or else patients, under a name that no layout has; else "".

    A folder of one scan needs no such column. But where there is one, a position must not be taken
    for another scan's: `FoundFolder.one` finds the scan by it, or says that it is not there.
    """

    def words(header: str) -> list[str]:
        split = re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", header).lower()
        glued = re.sub(r"\b([a-z]{3,}?)(uid|id|name)\b", r"\1 \2", split)
        return re.findall("[a-z]+", glued)

    def is_name(header: str, entities: Sequence[str]) -> bool:
        found = words(header)
        numeric = pd.to_numeric(table[header], errors="coerce").notna().all()
        return (
            any(word in entities for word in found)
            and all(word in _OF_NAMES or any(word in kind for kind in _ENTITIES) for word in found)
            # A volume, or a path, may be a size or a diagnosis.
            and not (found == ["volume"] and numeric)
            and not (found == ["path"] and not table[header].str.fullmatch(_NAMES_A_SCAN).any())
        )

    headers = [name for name in table.columns if name not in (*OURS, "line")]
    for entities in kinds:
        if entities == _OF_PATIENTS and "patient_id" in table:
            return "patient_id"
        for header in headers:
            if is_name(header, entities):
                return header
    return next((h for h in headers if table[h].str.fullmatch(_NAMES_A_SCAN).all()), "")


def _split_place(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """LUNGx's cell "135, 303": column and row in pixels."""
    found = table["place"].str.extract(r"^(\d+(?:\.\d+)?)\s*,\s*(\d+(?:\.\d+)?)$")
    bad = found[0].isna() & (table["place"] != "")
    refuse(path, table, bad, "the centre must be two pixel numbers, such as '135, 303'", "place")
    return table.drop(columns="place").assign(column_px=found[0], row_px=found[1]).fillna("")


def numbers(
    path: Path, table: pd.DataFrame, name: str, what: str, empty: bool = False
) -> NDArray[np.float64]:
    """A column as numbers; the decimal mark is a point or a comma, the minus any usual one."""
    text = table[name].str.replace("\N{MINUS SIGN}", "-")
    plain = text.str.replace(",", ".").where(~text.str.contains(".", regex=False), text)
    number = pd.to_numeric(plain.where(~plain.str.contains("_")), errors="coerce").astype(float)
    bad = ~number.abs().lt(np.inf) & ~((text == "") & empty)
    refuse(path, table, bad, f"must be {what}", name)
    return np.asarray(number, np.float64)


def refuse(
    path: Path, table: pd.DataFrame, bad: "pd.Series[bool]", why: str, name: str = ""
) -> None:
    """Raise for the first row that is bad."""
    if bad.any():
        row = int(bad.to_numpy().argmax())
        value = f"{name} is {table[name].iloc[row]!r}, but " if name else ""
        raise InputError(f"{path}: line {table['line'].iloc[row]}: {value}{why}")


def _check_folders(path: Path, table: pd.DataFrame) -> None:
    """Files of one name in two folders would be one scan: a/ct.nii.gz and b/ct.nii.gz."""
    first: dict[str, str] = {}
    for cell in table["scan"]:
        folder = re.split(r"[/\\]", cell.rstrip("/\\"))[:-1]
        if folder and scan_name(cell) != cell:
            other = first.setdefault(scan_name(cell), cell)
            if re.split(r"[/\\]", other.rstrip("/\\"))[:-1] != folder:
                why = f"would be the same scan as {other!r}: give each scan a name of its own"
                refuse(path, table, table["scan"] == cell, why, "scan")


def _check_unique(path: Path, table: pd.DataFrame) -> None:
    """Nodules are often numbered within a scan: an id may come again in another one."""
    twice = table[table.duplicated(["scan", "id"], keep=False)]
    if len(twice):
        name = twice["id"].iloc[0]
        one, other = twice[(twice["id"] == name) & (twice["scan"] == twice["scan"].iloc[0])][
            "line"
        ].iloc[:2]
        raise InputError(f"{path}: line {other}: id {name!r} of this scan is that of line {one}")
