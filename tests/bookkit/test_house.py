"""The house: directions of imports, sizes of files and folders, what a chapter imports."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest

from bookkit.tracing.project import hook, setting
from nodulebook.core import paths

ROOT, LIB = paths.ROOT, paths.ROOT / "lib"
PACKAGES = ("nodulebook", "study", "bookkit")
MODULES = sorted(path for name in PACKAGES for path in (LIB / name).rglob("*.py"))
PAGES = [ROOT / "index.md", *sorted((ROOT / "chapters").glob("*.md"))]
SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))


def lint_imports(lib: Path) -> "subprocess.CompletedProcess[str]":
    program = Path(sys.executable).with_name("lint-imports")
    return subprocess.run(
        [program, "--no-cache", str(lib.parent / "pyproject.toml")],
        cwd=lib, env=os.environ | {"PYTHONPATH": str(lib)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages and their settings, to be broken."""
    root = tmp_path_factory.mktemp("house")
    for name in PACKAGES:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(LIB / name, root / "lib" / name, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", root)
    return root / "lib"


def test_imports_point_down(copy: Path) -> None:
    done = lint_imports(copy)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("nodulebook/core/files.py", "import nodulebook.stats.metrics"),
        ("nodulebook/stats/metrics.py", "from study.report import pooled"),
        ("bookkit/tracing/manifest.py", "from study.report.pooled import METRIC_TEXT"),
        ("nodulebook/patches/store.py", "import keras"),
    ],
)
def test_an_upward_import_breaks_the_contract(copy: Path, module: str, line: str) -> None:
    file = copy / module
    text = file.read_text()
    file.write_text(f"{text}\n\ndef _late() -> None:\n    {line}\n")
    try:
        done = lint_imports(copy)
    finally:
        file.write_text(text)
    assert done.returncode == 1 and "BROKEN" in done.stdout, done.stdout[-3000:]


def test_no_file_is_too_long() -> None:
    long = {
        path.relative_to(LIB).as_posix()
        for path in MODULES
        if len(path.read_text().splitlines()) > 400
    }
    assert not long


def test_no_folder_is_too_full() -> None:
    for folder in {path.parent for path in MODULES}:
        modules = [one for one in folder.glob("*.py") if one.name != "__init__.py"]
        assert len(modules) <= 12, folder


@pytest.mark.parametrize("package", PACKAGES)
def test_the_root_of_a_package_holds_its_face_only(package: str) -> None:
    names = {path.name for path in (LIB / package).iterdir() if path.is_file()}
    assert names <= {"__init__.py", "__main__.py", "py.typed"}


def test_one_place_writes_run_json() -> None:
    """Only the run contract names the file outside of docstrings and messages."""
    named = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and node.value == "run.json":
                named.append(path.relative_to(LIB).as_posix())
    assert named == ["nodulebook/runs/contract.py"]
    writes = re.compile(r"write_json\([^)]*/ RUN\b|write_text\([^)]*run\.json")
    assert [p.name for p in MODULES if writes.search(p.read_text())] == ["contract.py"]


def imported_names(page: Path) -> set[str]:
    """The names that the first code cell of a page takes from our packages."""
    cells = [cell for cell in jupytext.read(page).cells if cell.cell_type == "code"]
    cells = [cell for cell in cells if "parameters" not in cell.metadata.get("tags", [])]
    names = set()
    source = re.sub(r"^[%!].*$", "", cells[0].source, flags=re.M) if cells else ""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGES):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.startswith(PACKAGES)}
    return names


def test_a_chapter_imports_few_names() -> None:
    assert not [page.name for page in PAGES if len(imported_names(page)) > 5]


def test_what_the_study_registers_is_there() -> None:
    for address in (setting("prepare"), *setting("recheck")):
        assert callable(hook(address))


def bound_names(module: Path) -> set[str]:
    """The names that a module of ours binds at its top, and, of a package, its modules."""
    package = module.with_suffix("")
    names = {path.stem for path in package.iterdir()} if package.is_dir() else set()
    file = package / "__init__.py" if package.is_dir() else module
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def assert_imports_exist(source: str) -> None:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGES):
            module = LIB / f"{(node.module or '').replace('.', '/')}.py"
            assert {one.name for one in node.names} <= bound_names(module), node.module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_imports_exists(page: Path) -> None:
    for cell in jupytext.read(page).cells:
        if cell.cell_type == "code" and "import" in cell.source:
            assert_imports_exist(re.sub(r"^\s*[%!].*$", "", cell.source, flags=re.M))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_what_a_benchmark_imports_exists(script: Path) -> None:
    assert_imports_exist(script.read_text())


def test_make_says_what_failed_where_the_environment_cannot_be_made(tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.txt", "requirements-uv.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "taken").write_text("a file, so no folder of this name can be made")
    words = ["make", "env", f"PYTHON={sys.executable}", "VENV=taken/venv"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode != 0 and "taken/venv cannot be made" in said
    assert "apt-get" not in said  # that helps where Python lacks the module
