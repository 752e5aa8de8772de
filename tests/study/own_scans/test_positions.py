"""Tables of positions: each public layout as a small made file, dialects, and wrong tables."""

import csv
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nodulebook.core.errors import InputError
from study.own_scans.labels import labels_of
from study.own_scans.positions import OURS, read_positions

HEADER = "id,scan,x_mm,y_mm,z_mm\n"

LUNA25 = (
    "PatientID,SeriesInstanceUID,StudyDate,CoordX,CoordY,CoordZ,LesionID,AnnotationID,NoduleID,"
    "label,Age_at_StudyDate,Gender\n"
)
LNDB = "LNDbID,RadID,RadFinding,FindingID,Nodule,x,y,z,DiamEq_Rad,Malignancy\n"
DLCS = "patient-id,nodule_id,ct_nifti_file,coordX,coordY,coordZ,w,h,d,Malignant_lbl\n"
LUNGX = (
    'Scan Number,Nodule Number,"Nodule Center x,y Position*",Nodule Center Image,Final Diagnosis\n'
)


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "p.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


PUBLIC: list[tuple[str, str, str, tuple[float, ...] | None, dict[str, object]]] = [
    (
        "seriesuid,coordX,coordY,coordZ,diameter_mm\n1.2.3,-84.5,1,2,5.5\n",
        "1.2.3", "1", (-84.5, 1, 2), {"diameter_mm": 5.5},
    ),
    (
        "seriesuid,coordX,coordY,coordZ,class\n1.2.3,-84.5,1,2,0\n",
        "1.2.3", "1", (-84.5, 1, 2), {"class": "0"},
    ),
    (
        LUNA25 + "7,1.2.3,20000102,-72.9,-69.9,-91.5,2,7_2_20000102,7_2,1,63,Male\n",
        "1.2.3", "7_2_20000102", (-72.9, -69.9, -91.5), {"patient_id": "7", "label": 1},
    ),
    (
        "AnnotationID,CoordX,CoordY,CoordZ,label\n7_2_20000102,1,2,3,0\n",
        "7_2_20000102", "7_2_20000102", (1, 2, 3), {"label": 0},
    ),
    (
        LNDB + '1,"1,2,3","1,1,1",4,"1,1,1",-44.2,-119.0,-37.5,7.5,3.5\n',
        "LNDb-0001", "4", (-44.2, -119, -37.5), {"rating": 3.5, "diameter_mm": 7.5},
    ),
    (
        LNDB + "12.0,1,2,2,0,1,2,3,3.0,\n",
        "LNDb-0012", "2", (1, 2, 3), {"diameter_mm": 3, "Nodule": "0"},
    ),
    (
        DLCS + "DLCS_0001,DLCS_0001_01,DLCS_0001.nii.gz,-106,-63,-211,4,5,6,1\n",
        "DLCS_0001", "DLCS_0001_01", (-106, -63, -211), {"patient_id": "DLCS_0001", "label": 1},
    ),
    (
        LUNGX + 'LUNGx-CT003,1,"374, 302",146,Primary lung cancer\n',
        "LUNGx-CT003", "1", None,
        {"column_px": 374, "row_px": 302, "slice": 146, "label": 1,
         "patient_id": "LUNGx-CT003"},
    ),
    ("column_px,row_px,slice,scan\n1,2,3,one\n", "one", "1", None, {"slice": 3}),
    ("id,scan,x_mm,y_mm,z_mm,malignancy_mean\na,one.nii.gz,1,2,3,4.25\n",
     "one", "a", (1, 2, 3), {"rating": 4.25}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "scan", "id_", "place", "more"), PUBLIC)
def test_public_tables_are_read_as_they_are(
    tmp_path: Path, text: str, scan: str, id_: str, place: tuple[float, ...] | None, more: dict
) -> None:
    (row,) = read_positions(written(tmp_path, text)).to_dict("records")
    assert (row["scan"], row["id"], row["line"]) == (scan, id_, 2)
    if place is None:
        assert np.isnan([row["x_mm"], row["y_mm"], row["z_mm"]]).all()
    else:
        assert (row["x_mm"], row["y_mm"], row["z_mm"]) == place
    assert {name: row[name] for name in more} == more


@pytest.mark.parametrize("text", [text for text, *_ in PUBLIC])
def test_public_tables_may_have_gone_through_a_spreadsheet(tmp_path: Path, text: str) -> None:
    """A byte order mark, semicolons and decimal commas change nothing."""
    plain = read_positions(written(tmp_path, text))
    rows = csv.reader(text.splitlines())
    comma = [";".join(re.sub(r"^(-?\d+)\.(\d+)$", r"\1,\2", cell) for cell in row) for row in rows]
    saved = read_positions(written(tmp_path, "\ufeff" + "\r\n".join(comma) + "\r\n"))
    known = [name for name in plain if name in (*OURS, "line")]
    pd.testing.assert_frame_equal(plain[known], saved[known])


@pytest.mark.parametrize(
    "text",
    [
        "x_mm,y_mm,z_mm\n-1.5,2e1,3\n",
        "\ufeffX_MM, y_mm ,z_mm\r\n-1.5,20,3\r\n,,\r\n",
        "sep=;\nx_mm;y_mm;z_mm\n-1,5;20;3\n",
        '"sep=;"\nx_mm;y_mm;z_mm\n-1,5;20,0;3\n',
        "sep=,\nx_mm,y_mm,z_mm\n-1.5,20,3\n",
        "x_mm\ty_mm\tz_mm\n-1,5\t20\t3\n",
        'x_mm,y_mm,z_mm\n"-1,5",20,3\n',
        "x_mm;y_mm;z_mm\n\N{MINUS SIGN}1.5;20;3\n",
        "x_mm,y_mm,z_mm\n-1.5,20,3\n".encode("utf-16"),
        "\n\nx_mm,y_mm,z_mm\n\n-1.5,20,3\n",
    ],
)
def test_dialects_of_spreadsheets_are_understood(tmp_path: Path, text: str | bytes) -> None:
    table = read_positions(written(tmp_path, text))
    assert table[["x_mm", "y_mm", "z_mm"]].to_numpy().tolist() == [[-1.5, 20, 3]]


def test_ids_may_repeat_from_scan_to_scan(tmp_path: Path) -> None:
    table = read_positions(written(tmp_path, HEADER + "1,a,1,2,3\n1,b,1,2,3\n2,a,1,2,3\n"))
    assert table["id"].tolist() == ["1", "1", "2"]


def test_ras_turns_x_and_y(tmp_path: Path) -> None:
    table = read_positions(written(tmp_path, HEADER + "a,one,1,2,3\n"), ras=True)
    assert table[["x_mm", "y_mm", "z_mm"]].to_numpy().tolist() == [[-1, -2, 3]]


def test_findings_without_a_place_are_left_out_and_lines_stay(tmp_path: Path) -> None:
    table = read_positions(written(tmp_path, LNDB + "5,,,3,,,,,2,\n5,1,1,4,1,1,2,3,4,2\n"))
    assert table["line"].tolist() == [3] and table["id"].tolist() == ["4"]


def test_a_label_comes_before_a_rating_and_three_has_none(tmp_path: Path) -> None:
    text = (
        "id,x_mm,y_mm,z_mm,label,rating\na,1,2,3,benign,5\nb,1,2,3,,3\nc,1,2,3,,3.5\nd,1,2,3,1,\n"
    )
    labels = labels_of(read_positions(written(tmp_path, text)))
    assert labels.fillna(-1).tolist() == [0, -1, 1, 1]


@pytest.mark.parametrize(
    "text",
    [
        "x_mm,y_mm,z_mm,rating,malignancy\n1,2,3,4,4.0\n",
        "x_mm,y_mm,z_mm,patient_id,PatientID,rating\n1,2,3,one,,4\n",
        "x_mm,y_mm,z_mm,label,malignant_lbl,rating\n1,2,3,1,1.0,4\n",
        "x_mm,y_mm,z_mm,patient_id,PatientID,rating\n1,2,3,P-07,p7,4\n",
        "x_mm,y_mm,z_mm,malignancy,malignancy_mean\n1,2,3,5;3;4,4\n",  # as in data/nodules.csv
    ],
)
def test_two_columns_that_say_the_same_are_one(tmp_path: Path, text: str) -> None:
    assert read_positions(written(tmp_path, text))["rating"].tolist() == [4]


def test_a_table_of_labels_may_have_ratings_and_their_mean(tmp_path: Path) -> None:
    path = written(tmp_path, "nodule_id,malignancy,malignancy_mean\na,5;3;4,4\n")
    assert read_positions(path, coordinates=False)["rating"].tolist() == [4]


def test_ras_does_not_apply_to_pixels(tmp_path: Path) -> None:
    path = written(tmp_path, "column_px,row_px,slice\n1,2,3\n")
    with pytest.raises(InputError, match="pixels, which --ras does not apply to"):
        read_positions(path, ras=True)


def test_columns_that_mean_something_else_do_not_take_our_names(tmp_path: Path) -> None:
    table = read_positions(written(tmp_path, "x_mm,y_mm,z_mm,line,note\n1,2,3,old,b\n"))
    assert table["line"].tolist() == [2] and "b" in table["note"].tolist()
    assert "old" in table.iloc[0].tolist()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("sep=;\n", "is empty"),
        (HEADER, "has no position"),
        (LNDB + "5,,,3,,,,,2,\n", "has no position"),
        ("id,x_mm,y_mm\na,1,2\n", "not a known kind.*id, x_mm, y_mm.*z_mm"),
        ("x,y,z\n1,2,3\n", "not a known kind.*lndbid"),
        ("column_px,row_px\n1,2\n", "not a known kind.*slice"),
        ("coordX,coordY\n1,2\n", "not a known kind.*coordz"),
        ("x_mm,coordX,y_mm,z_mm\n1,1,2,3\n", "leave one"),
        ("x_mm,X_mm,y_mm,z_mm\n1,1,2,3\n", "x_mm occurs twice"),
        ("x_mm,x_mm,y_mm,z_mm\n1,1,2,3\n", "x_mm occurs twice"),
        (
            "x_mm,y_mm,z_mm,rating,Malignancy\n1,2,3,4,2\n",
            "line 2: Malignancy is '2' and rating is '4', but both",
        ),
        ("x_mm,y_mm,z_mm,PatientID,patient_id\n1,2,3,a,b\n", "PatientID is 'b'|patient_id is 'b'"),
        (",,x_mm,y_mm,z_mm\n1,1,1,2,3\n", r"\(without a name\) occurs twice"),
        ("x_mm,y_mm,z_mm,,\n1,2,3,,\n", "without a name"),
        (HEADER + "a,one,1,2,3\nb,one,left,2,3\n", "line 3: x_mm is 'left'"),
        (HEADER + "a,one,1,nan,3\n", "line 2: y_mm is 'nan'"),
        (HEADER + "a,one,1,2,inf\n", "line 2: z_mm is 'inf'"),
        (HEADER + "a,one,1,2,\n", "line 2: z_mm is ''"),
        (HEADER + 'a,one,"1.000,5",2,3\n', "line 2: x_mm is '1.000,5'"),
        (HEADER + 'a,one,"1,000,5",2,3\n', "line 2: x_mm is '1,000,5'"),
        (HEADER + "a,one,1_0,2,3\n", "line 2: x_mm is '1_0'"),
        (HEADER + "a,one,0x1,2,3\n", "line 2: x_mm is '0x1'"),
        (HEADER + "a,one,1 mm,2,3\n", "line 2: x_mm is '1 mm'"),
        (HEADER + "a,one,1,2\n", "line 2: 4 cells"),
        (HEADER + "a,one,1,2,3,4\n", "line 2: 6 cells"),
        ("x_mm;y_mm;z_mm\n1;2\n", "line 2: 2 cells"),
        (HEADER + "a,one,1,2,3\n\nb,one,1,2,3\na,one,4,5,6\n", "line 5: id 'a'.*line 2"),
        (HEADER + ",one,1,2,3\n", "line 2: id is empty"),
        (HEADER + 'a,"1,23457E+12",1,2,3\n', "line 2: scan is '1,23457E.12', .*as text"),
        ("x_mm,y_mm,z_mm,PatientID\n1,2,3,2.02E+11\n", "line 2: patient_id is .*as text"),
        (HEADER + "1E+12,s,1,2,3\n", "line 2: id is '1E.12', .*as text"),
        (HEADER + 'a,"one,1,2,3\n', "not a CSV file"),
        (HEADER.encode() + b"a\xe4,one,1,2,3\n", "UTF-8"),
        (b"PK\x03\x04\x14\x00\x06\x00xl/worksheets", "spreadsheet"),
        (LUNA25 + "7,1.2,3,1,2,3,2,a,b,maybe,63,Male\n", "line 2: label is 'maybe'"),
        (LUNA25 + "7,1.2,3,1,2,3,2,a,b,2,63,Male\n", "line 2: label is '2'"),
        (LUNA25 + "7,1.2,3,1,2,3,2,a,b,0.5,63,Male\n", "line 2: label is '0.5'"),
        (LNDB + "1,1,1,1,1,1,2,3,4,6\n", "line 2: rating is not between"),
        (LNDB + "1,1,1,1,1,1,2,3,4,0\n", "line 2: rating is not between"),
        (LNDB + "1,1,1,1,1,1,2,3,4,high\n", "line 2: rating is 'high'"),
        (LNDB + "1,1,1,1,1,1,2,3,-4,2\n", "line 2: diameter_mm must be above 0"),
        (LNDB + "1,1,1,1,1,1,2,3,8125,2\n", "line 2: diameter_mm is .*8125.*at most 300"),
        (LNDB + "1,1,1,1,1,1,2,3,big,2\n", "line 2: diameter_mm is 'big'"),
        (LUNGX + 'CT001,1,"135; 303",142,Benign nodule\n', "line 2: place is '135; 303'"),
        (LUNGX + "CT001,1,135,142,Benign nodule\n", "line 2: place is '135'"),
        (LUNGX + 'CT001,1,"135, -3",142,Benign nodule\n', "line 2: place"),
        (LUNGX + 'CT001,1,"135, 303",x,Benign nodule\n', "line 2: slice is 'x'"),
        (LUNGX + 'CT001,1,"135, 303",142,Perhaps\n', "line 2: label is 'Perhaps'"),
        (DLCS + "D1,D1_01,D1.nii.gz,1,2,3,4,5,6,yes?\n", "line 2: label is 'yes\\?'"),
    ],
)
def test_wrong_tables_are_refused_by_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(InputError, match=rf"p\.csv.*{message}"):
        read_positions(written(tmp_path, text))


def test_files_that_are_no_table_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.csv", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            read_positions(path)


@pytest.mark.parametrize(
    ("column", "cell", "scan"),
    [
        ("SeriesUID", "1.2.3", "1.2.3"),
        ("series_instance_uid", "1.2.3", "1.2.3"),
        ("Series ID", "1.2.3", "1.2.3"),
        ("ScanID", "7", "7"),
        ("Image", "one", "one"),
        ("img_id", "one", "one"),
        ("FileName", "sub/one.nii.gz", "one"),
        ("ct_path", "C:\\ct\\one.mhd", "one"),
        ("uid", "1.2.3", "1.2.3"),
        ("StudyInstanceUID", "1.2.3", "1.2.3"),
        ("patient_id", "P7", "P7"),
        ("Patient Name", "P7", "P7"),
        ("subject", "P7", "P7"),
        ("case number", "12.0", "12"),
        ("Fall", "LIDC-IDRI-0003", "LIDC-IDRI-0003"),  # by its cells
        ("Untersuchung", "1.2.840.113619.2.55.3.1", "1.2.840.113619.2.55.3.1"),
        # These name no scan.
        ("patient_age", "61", ""),
        ("scanner", "GE", ""),
        ("image quality", "good", ""),
        ("volume", "523.6", ""),
        ("path", "adenocarcinoma", ""),
        ("study_date", "2001-01-01", ""),
        ("lobe", "LUL", ""),
    ],
)  # fmt: skip
def test_a_scan_is_named_by_a_column_of_any_name(
    tmp_path: Path, column: str, cell: str, scan: str
) -> None:
    """Or its position would be taken for one in the only scan of the folder."""
    text = f"{column},x_mm,y_mm,z_mm\n{cell},1,2,3\n"
    (row,) = read_positions(written(tmp_path, text)).itertuples()
    assert row.scan == scan


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("benign", 0), ("benign (false positive PET)", 0),
        ("1.00", 1), ("0,00", 0), ("benign, negative for malignancy", 0),
        ("Benign (no evidence of cancer)", 0), ("0,0", 0), ("No", 0),
        ("benign nodule in a patient with colon cancer", 0),
        ("1,0", 1), ("TRUE", 1), ("Malignant", 1), ("metastasis of melanoma", 1),
        ("Primary lung cancer", 1), ("NSCLC (stage IIIa)", 1), ("non small cell carcinoma", 1),
        ("Adenocarcinoma", 1), ("non-small cell lung cancer", 1),
        ("adenocarcinoma, not otherwise specified", 1), ("primary lung cancer", 1),
    ],
)  # fmt: skip
def test_diagnoses_are_labels(tmp_path: Path, text: str, label: int) -> None:
    (tmp_path / "p.csv").write_text(f'x_mm,y_mm,z_mm,label\n1,2,3,"{text}"\n')
    assert read_positions(tmp_path / "p.csv")["label"].tolist() == [label]


@pytest.mark.parametrize(
    "text",
    [
        "no cancer", "non-cancer", "noncancerous", "Not cancer", "no evidence of malignancy",
        "cancer ruled out", "Malignancy excluded", "malignant: no", "cancer-free", "cancer?",
        "suspicious for cancer", "possibly malignant", "history of cancer", "benign or malignant",
        "negative for carcinoma", "nodule", "carcinoma unlikely", "carcinoma: absent", "cancer (-)",
        "r/o carcinoma", "no_cancer", "prior carcinoma, now granuloma", "malignant: false",
        "malignant: 0", "malignancy: none", "precancerous", "benign/malignant", "benign unlikely",
        "benign biopsy, adenocarcinoma at resection", "benign; malignant in 2020",
        "benign excluded", "benign > carcinoma in situ", "benign, no change, then cancer",
        "carcinoembryonic antigen normal", "cancer screening, negative", "not malignant",
    ],
)  # fmt: skip
def test_a_diagnosis_that_is_denied_or_open_is_no_label(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.csv").write_text(f'x_mm,y_mm,z_mm,label\n1,2,3,"{text}"\n')
    with pytest.raises(InputError, match="line 2: label is"):
        read_positions(tmp_path / "p.csv")


def test_a_cell_may_hold_a_line_separator_of_unicode(tmp_path: Path) -> None:
    text = "x_mm,y_mm,z_mm,note\n1,2,3,a\u2028b\n4,5,6,c\n"
    (tmp_path / "p.csv").write_text(text, encoding="utf-8")
    assert read_positions(tmp_path / "p.csv")["note"].tolist() == ["a\u2028b", "c"]


def test_files_of_one_name_in_two_folders_are_refused(tmp_path: Path) -> None:
    rows = "a/ct.nii.gz,1,2,3\nb/ct.nii.gz,1,2,3\n"
    (tmp_path / "p.csv").write_text(f"scan,x_mm,y_mm,z_mm\n{rows}")
    with pytest.raises(InputError, match=r"line 3: scan is 'b/ct\.nii\.gz'.*a/ct"):
        read_positions(tmp_path / "p.csv")


@pytest.mark.parametrize(
    ("cell", "scan"),
    [
        ("export/CT001/", "CT001"), ("/data/a/CT001.nii.gz", "CT001"), ("C:\\x\\CT001", "CT001"),
        ("./CT001", "CT001"), ("CT001.mhd", "CT001"), ("2019/17", "2019/17"), ("/", "/"),
    ],
)  # fmt: skip
def test_a_path_names_its_scan_and_a_patient_may_have_a_slash(
    tmp_path: Path, cell: str, scan: str
) -> None:
    (tmp_path / "p.csv").write_text(f"scan,x_mm,y_mm,z_mm\n{cell},1,2,3\n")
    assert read_positions(tmp_path / "p.csv")["scan"].tolist() == [scan]
