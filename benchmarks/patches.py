"""How fast and how small patches come out of scans; written to data/patch_speed.csv.

    python benchmarks/patches.py            # some minutes, 3 GB of disk in the folder for
    python benchmarks/patches.py --scans 4  # temporary files; fewer scans, less

One made-up scan of 512 x 512 x 300 voxels, 0.7 x 0.7 x 1.25 mm: a patch by region against
resampling the whole scan with SimpleITK and cutting; what is read from disk. Then whole passes of
the source `luna16` and `idc` over made-up scans of real sizes, with the real annotations.
The files have just been written, so they come from the system's memory, not from the disk.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk

from nodulebook.core import paths
from nodulebook.core.files import write_csv
from nodulebook.ct.metaimage import open_metaimage
from nodulebook.data.annotations import read_scans
from nodulebook.data.cohort import read_nodules
from nodulebook.patches.cube import extract_patch

CENTRE = (150.3, 170.7, 180.2)


def scan_image():
    plane = np.random.default_rng(0).integers(-1000, 400, (512, 512)).astype(np.int16)
    voxels = np.stack([np.roll(plane, 7 * k, 0) for k in range(300)])
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing([0.7, 0.7, 1.25])
    return image


def whole_then_cut(image):
    """Resample the whole scan to 1 mm, then cut 32 voxels out."""
    size = [
        int(np.floor((n - 1) * s)) + 1
        for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)
    ]
    start = [c - 15.5 - np.floor(c - 15.5) for c in CENTRE]
    whole = sitk.Resample(
        image, size, sitk.Transform(), sitk.sitkLinear, start, [1.0] * 3,
        np.eye(3).ravel().tolist(), -860, sitk.sitkInt16,
    )  # fmt: skip
    x, y, z = (int(np.floor(c - 15.5)) for c in CENTRE)
    return sitk.GetArrayViewFromImage(whole)[z : z + 32, y : y + 32, x : x + 32].copy()


def peak_mb(work):
    """Memory that `work` takes at most beyond what is there before (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")

    def value(key):
        (line,) = (
            x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(key)
        )
        return int(line.split()[1]) / 1024

    before = value("VmRSS")
    work()
    return max(0.0, value("VmHWM") - before)


def bytes_read(work):
    def value():
        return int(Path("/proc/self/io").read_text().split()[1])

    before = value()
    work()
    return value() - before


def best_seconds(work, times):
    took = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        took.append(time.perf_counter() - start)
    return min(took), float(np.median(took))


def one_case(case):
    """In a process of its own, so that one's memory is not the other's."""
    image = scan_image()
    work = (
        (lambda: whole_then_cut(image)) if case == "whole" else lambda: extract_patch(image, CENTRE)
    )
    memory = peak_mb(work)
    fastest, median = best_seconds(work, 5 if case == "whole" else 200)
    print(memory, fastest, median)


def in_memory(rows):
    image = scan_image()
    error = np.abs(whole_then_cut(image) - extract_patch(image, CENTRE)).max()
    assert error < 1.01, error  # the other is rounded to whole HU
    results = {}
    for case in ("whole", "region"):
        out = subprocess.run(
            [sys.executable, __file__, "--case", case], capture_output=True, text=True, check=True
        ).stdout
        results[case] = [float(value) for value in out.split()]
    (whole_mb, whole_s, _), (region_mb, region_s, _) = results["whole"], results["region"]
    rows += [
        ("one patch, whole scan resampled and cut", whole_s * 1e3, "ms"),
        ("one patch, its region only", region_s * 1e3, "ms"),
        ("ratio of times", whole_s / region_s, ""),
        ("memory beyond the scan, whole resampled", whole_mb, "MB"),
        ("memory beyond the scan, region only", region_mb, "MB"),
    ]
    return image


def from_disk(rows, image, folder):
    raw, packed = folder / "1.2.mhd", folder / "1.3.mhd"
    sitk.WriteImage(image, str(raw))
    sitk.WriteImage(image, str(packed), True)
    cases = {
        "raw, rows of the patch only": lambda: extract_patch(open_metaimage(raw), CENTRE),
        "raw, whole scan read first": lambda: extract_patch(sitk.ReadImage(str(raw)), CENTRE),
        "zraw, decompressed whole": lambda: extract_patch(open_metaimage(packed), CENTRE),
    }
    for name, work in cases.items():
        rows.append((f"one patch from {name}", best_seconds(work, 5)[0] * 1e3, "ms"))
        rows.append((f"bytes read, {name}", bytes_read(work) / 1e6, "MB"))


def write_scan(scan, row, folder, kind):
    """Noise in lung where the annotations have the scan; as raw, zraw or dicom."""
    z = np.unique(scan.slice_z_mm)
    plane = np.random.default_rng(0).normal(-850, 20, (512, 512)).astype(np.int16)
    voxels = np.stack([np.roll(plane, 7 * k, 0) for k in range(len(z))])
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing([scan.pixel_spacing_mm, scan.pixel_spacing_mm, scan.slice_spacing_mm])
    image.SetOrigin([-170, -180, float(z[0])])
    if kind != "dicom":
        sitk.WriteImage(image, str(folder / f"{scan.series_uid}.mhd"), kind == "zraw")
        return
    series = folder / scan.series_uid
    series.mkdir()
    for k, z_mm in enumerate(z):
        one = image[:, :, k : k + 1]
        for tag, value in {
            "0008|0060": "CT",
            "0008|0018": f"1.2.3.{k}",
            "0020|000e": scan.series_uid,
            "0020|000d": "1.2.4",
            "0020|0032": f"-170\\-180\\{z_mm}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0018|0050": f"{scan.slice_thickness_mm}",
            "0028|1052": "-1024",
            "0028|1053": "1",
        }.items():
            one.SetMetaData(tag, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(series / f"{k:04d}.dcm"))
        writer.Execute(one)


def passes(rows, count, folder, jobs):
    """Whole passes over scans, each in a fresh interpreter, as the command does them."""
    nodules = read_nodules()
    reference = nodules[nodules["readers"] >= 3]
    uids = reference["series_uid"].drop_duplicates().sample(count, random_state=0).tolist()
    scans = {scan.series_uid: scan for scan in read_scans(set(uids))}
    for kind, source in (("raw", "luna16"), ("zraw", "luna16"), ("dicom", "idc")):
        data = folder / kind
        data.mkdir()
        for uid in uids:
            write_scan(scans[uid], None, data, kind)
        command = [sys.executable, "-m", "nodulebook", "patches", "--source", source]
        command += ["--data", str(data), "--jobs", str(jobs), "--allow-missing"]
        environment = os.environ | {"NODULEBOOK_PATCHES": str(folder / f"{kind}-patches")}
        start = time.perf_counter()
        watched = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        largest = 0.0
        while watched.poll() is None:
            largest = max(largest, largest_process_mb(watched.pid))
            time.sleep(0.1)
        assert watched.returncode == 0
        minutes = (time.perf_counter() - start) / 60
        rows += [
            (f"scans a minute, {kind}, {jobs} processes", count / minutes, ""),
            (f"888 scans, {kind}, at this rate", 888 / (count / minutes), "min"),
            (f"largest process, {kind}", largest, "MB"),
        ]
        subprocess.run(["rm", "-rf", str(data)], check=True)


def largest_process_mb(pid):
    """The largest of a process and its children."""
    sizes = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            values = dict(
                line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line
            )
        except OSError:
            continue
        if str(pid) in (values["Pid"], values["PPid"]) and "VmHWM" in values:
            sizes.append(int(values["VmHWM"].split()[0]) / 1024)
    return max(sizes, default=0.0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, default=16, help="for the passes")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        return one_case(given.case)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        from_disk(rows, in_memory(rows), folder)
        passes(rows, given.scans, folder, given.jobs)
    table = pd.DataFrame(rows, columns=["what", "value", "unit"])
    table["value"] = [f"{value:.4g}" for value in table["value"]]
    print(table.to_string(index=False))
    write_csv(table, paths.DATA / "patch_speed.csv")


if __name__ == "__main__":
    main()
