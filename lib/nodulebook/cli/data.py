"""Commands that make tables and patches from the data."""

from pathlib import Path

import click

from nodulebook.cli.options import DATA_OPTION
from nodulebook.core import paths
from nodulebook.core.errors import InputError


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=paths.DATA, show_default=True)
def cohort(folder: Path) -> None:
    """Write scans.csv, nodules.csv and folds.csv from the readers' annotations."""
    from nodulebook.data.folds import write_cohort

    write_cohort(folder)
    click.echo(f"written: {folder}")


@click.command()
@click.option("--source", default="phantom", show_default=True)
@DATA_OPTION
@click.option("--jobs", type=click.IntRange(min=1), help="luna16, idc: processes; one a core")
@click.option("--allow-missing", is_flag=True, help="luna16, idc: some scans may be left out")
def patches(source: str, data: Path | None, jobs: int | None, allow_missing: bool) -> None:
    """Build a source's patch store, or add to it what is missing.

    luna16 and idc read the scans below --data, finished ones once. Scans that are not there or
    cannot be read are named, and end the command with exit code 2 unless --allow-missing.
    """
    import pandas as pd

    from nodulebook.patches.sources import SCAN_SOURCES, open_source
    from nodulebook.patches.sources.scans import left_out_csv

    store = open_source(source, data, jobs=jobs, again=True)
    click.echo(f"{len(store.table)} patches: {paths.patch_stores() / source}")
    if source in SCAN_SOURCES:
        left_out = pd.read_csv(left_out_csv(source))
        if len(left_out) and not allow_missing:
            raise InputError(
                f"{left_out['nodule_id'].ne('(scan)').sum()} nodules have no patch "
                f"and {left_out['nodule_id'].eq('(scan)').sum()} scans are incomplete or "
                f"unreadable: see {left_out_csv(source)}; get the scans and run this again, or "
                "take the store as it is with --allow-missing"
            )


@click.command()
@click.option("--source", default="lidc_slices", show_default=True)
@DATA_OPTION
@click.option(
    "--table",
    type=click.Path(path_type=Path),
    default=paths.DATA / "automatic_ruler.csv",
    show_default=True,
)
def ruler(source: str, data: Path | None, table: Path) -> None:
    """Measure the nodules' diameters from the voxels alone, without the readers' outlines."""
    from nodulebook.core.files import write_csv
    from nodulebook.patches.ruler import automatic_diameters
    from nodulebook.patches.sources import open_source

    store = open_source(source, data)
    measured = automatic_diameters(store)
    write_csv(measured, table)
    click.echo(f"{len(measured)} of {len(store.table)} nodules measured: {table}")


@click.command()
@click.option("--source", type=click.Choice(["luna16", "idc"]), required=True)
@DATA_OPTION
@click.option(
    "--max-thickness", type=float, default=2.5, show_default=True, help="mm; the paper says 3"
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="write the table here, one row per scan"
)
def scans(source: str, data: Path | None, max_thickness: float, out: Path | None) -> None:
    """Check the scans' files against the paper's rules: thickness, even spacing, no gaps."""
    from nodulebook.core.files import write_csv
    from nodulebook.patches.sources.scan_rules import check_scans

    table = check_scans(source, data, max_thickness)
    if out:
        write_csv(table, out)
    bad = table[table["verdict"] != "kept"]
    for row in bad.itertuples():
        click.echo(f"{row.series_uid}: {row.verdict}")
    click.echo(f"{len(table)} scans: {len(table) - len(bad)} kept, {len(bad)} not")
