"""The book and the project's files: what a reader and a newcomer rely on."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import jupytext
import pytest
import yaml
from jupyter_server.services.contents.largefilemanager import LargeFileManager
from jupytext.sync_contentsmanager import build_sync_jupytext_contents_manager_class

from nodulebook.core import paths
from nodulebook.core.files import sha256
from nodulebook.core.settings import FoldParameters
from nodulebook.data.annotations import DATABASE_SHA256
from nodulebook.patches.sources import SOURCES, lidc_slices, phantom, slices_hu
from study.report.pooled import complete_runs

ROOT = paths.ROOT
PAGES = [ROOT / "index.md", *sorted((ROOT / "chapters").glob("*.md"))]
NOTEBOOKS = [page for page in PAGES if page.read_text().startswith("---\njupytext")]


def test_the_top_level_is_as_asked_for() -> None:
    for name in (
        "_config.yml", "_toc.yml", "chapters", "lib", "data", "papermill_runs", "tests",
        "environment.yml",
    ):  # fmt: skip
        assert (ROOT / name).exists(), name


def test_every_page_is_in_the_table_of_contents_once() -> None:
    listed = paths.page_names()
    pages = [str(page.relative_to(ROOT).with_suffix("")) for page in PAGES]
    assert sorted(listed) == sorted(pages)


@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda page: page.name)
def test_papermill_can_run_the_page(page: Path) -> None:
    notebook = jupytext.read(page)
    assert notebook.metadata["kernelspec"]["language"] == "python"
    assert any(cell.cell_type == "code" for cell in notebook.cells)


@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda page: page.name)
def test_saved_in_jupyterlab_a_page_stays_as_it_is(page: Path, tmp_path: Path) -> None:
    """Opened as a notebook through Jupytext's contents manager and saved: the same markdown."""
    shutil.copy(ROOT / "chapters" / "jupytext.toml", tmp_path)
    shutil.copy(page, tmp_path)
    manager = build_sync_jupytext_contents_manager_class(LargeFileManager)(root_dir=str(tmp_path))
    model = manager.get(page.name, type="notebook", content=True)
    manager.save(model, page.name)
    assert (tmp_path / page.name).read_text() == page.read_text()


def test_cells_are_short() -> None:
    for page in NOTEBOOKS:
        for cell in jupytext.read(page).cells:
            if cell.cell_type == "code":
                assert len(cell.source.splitlines()) <= 35, (page.name, cell.source[:80])


@pytest.mark.slow
def test_a_failing_cell_fails_the_build(tmp_path: Path) -> None:
    for name in ("_config.yml", "references.bib"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: index\n")
    front = (ROOT / "index.md").read_text().split("---\n")[1]
    page = "---\n{}---\n# Page\n\n```{{code-cell}} ipython3\n{}\n```\n"
    build = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build"]
    for code, succeeds in (("1 / 0", False), ("1 / 2", True)):
        (tmp_path / "index.md").write_text(page.format(front, code))
        done = subprocess.run(
            [*build, str(tmp_path)], capture_output=True, text=True, timeout=200, check=False
        )
        assert (done.returncode == 0) == succeeds, done.stderr[-2000:]
        assert ("ZeroDivisionError" in done.stderr + done.stdout) != succeeds
    assert "0.5" in (tmp_path / "_build" / "html" / "index.html").read_text()


def locked() -> dict[str, list[str]]:
    """Versions in requirements.txt by lower-case name."""
    versions: dict[str, list[str]] = {}
    for name, version in re.findall(
        r"^([\w.-]+)==([^\s;]+)", (ROOT / "requirements.txt").read_text(), flags=re.M
    ):
        versions.setdefault(name.lower(), []).append(version)
    return versions


def test_the_lock_has_hashes_and_no_addresses() -> None:
    text = (ROOT / "requirements.txt").read_text()
    assert "://" not in text and "index-url" not in text and "find-links" not in text
    blocks = re.split(r"\n(?=[\w.-]+==)", text)
    for block in blocks:
        assert "--hash=sha256:" in block, block.splitlines()[0]


def test_the_lock_holds_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = project["dependencies"] + extras["dev"] + extras["workflow"]
    names = {re.match(r"[\w.-]+", line)[0].lower() for line in wanted}  # type: ignore[index]
    assert names <= set(locked())


def test_the_conda_environment_agrees_with_the_lock() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pinned = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = project["dependencies"] + extras["dev"] + extras["workflow"]
    names = {re.match(r"[\w.-]+", line)[0].lower() for line in wanted}  # type: ignore[index]
    versions = dict(line.split("==") for line in pinned if "==" in line)
    assert set(versions) == names
    for name, version in versions.items():
        assert version in locked()[name], name


def test_no_weights_and_no_voxels_are_committed() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    endings = (".npz", ".npy", ".h5", ".keras", ".dcm", ".mhd", ".raw", ".zraw", ".png", ".zip")
    released = "data/weights/"  # the one released set, small and with a model card
    found = [name for name in listed.stdout.splitlines() if name.endswith(endings)]
    assert not [name for name in found if not name.startswith(released)]


def test_the_committed_runs_are_of_the_present_settings_and_data() -> None:
    """A change of profile, rendering or cohort that is not followed by new runs fails here."""
    nodules_csv = sha256(paths.NODULES_CSV)
    present = {
        "phantom": phantom.recipe(None) | {"nodules_csv": nodules_csv},
        "lidc_slices": {
            "slices": lidc_slices.VERSION,
            "annotations_sha256": DATABASE_SHA256,
            "nodules_csv": nodules_csv,
        },
    }
    exact = {"slices_hu_exact_csv": sha256(slices_hu.EXACT_LINES)}
    present["lidc_exact"] = present["lidc_slices"] | exact
    runs = complete_runs()
    assert {"diameter", "quick-phantom", "quick-lidc_slices"} <= set(runs)
    for run in runs.values():
        for fold in run.folds.values():
            about = fold.run
            if about["source"] == "annotations":
                assert about["data_hash"] == sha256(paths.NODULES_CSV, paths.FOLDS_CSV)
            else:
                made = FoldParameters(profile=about["profile_name"], seed=about["seed"])
                assert about["profile_hash"] == made.settings.hash()
                assert present[about["source"]].items() <= about["data_recipe"].items()


def test_the_parameter_source_takes_every_source() -> None:
    for name in SOURCES:
        assert FoldParameters(source=name).source == name  # type: ignore[arg-type]
