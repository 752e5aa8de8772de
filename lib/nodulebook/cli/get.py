"""Commands that download the CT data, and that tell which of it is there."""

from pathlib import Path

import click


@click.group()
def get() -> None:
    """Get the CT data, all or in part; a stopped download goes on with the same command."""


_to = click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="NODULEBOOK_DATA",
    required=True,
    help="the data folder; NODULEBOOK_DATA where not given",
)

_only_say = click.option(
    "--dry-run", "only_say", is_flag=True, help="say sizes and disk space; download nothing"
)


@get.command()
@click.option("--subsets", required=True, help="0 to 9: 0,1 or 2-5; or all (12 GB each, about)")
@click.option("--also", multiple=True, help="a further file of the records, as candidates.csv")
@click.option("--delete-zips", is_flag=True, help="delete each zip once its subset is unpacked")
@_to
@_only_say
def luna16(
    subsets: str, also: tuple[str, ...], delete_zips: bool, folder: Path, only_say: bool
) -> None:
    """Subsets of LUNA16 from Zenodo (doi 10.5281/zenodo.3723295 and 10.5281/zenodo.4121926)."""
    from nodulebook.download.datasets import get_luna16, parse_subsets
    from nodulebook.patches.sources.presence import report_presence

    folder, wanted = folder.expanduser(), parse_subsets(subsets)
    get_luna16(folder, wanted, also=also, keep_zips=not delete_zips, only_say=only_say)
    if not only_say:
        report_presence(folder)


@get.command()
@click.option("--series", multiple=True, help="a SeriesInstanceUID; may be given again")
@click.option("--patients", default="", help="as LIDC-IDRI-0001,LIDC-IDRI-0003")
@click.option("--all-888", is_flag=True, help="the scans of LUNA16, 120 GB")
@_to
@_only_say
def lidc(
    series: tuple[str, ...], patients: str, all_888: bool, folder: Path, only_say: bool
) -> None:
    """Series of LIDC-IDRI as DICOM from the Imaging Data Commons (needs the extra `idc`)."""
    from nodulebook.download.datasets import get_lidc, select_series
    from nodulebook.patches.sources.presence import presence, report_presence

    named = [name.strip() for name in patients.split(",") if name.strip()]
    folder, wanted = folder.expanduser(), select_series(series, named, all_888)
    scans = presence(folder).scans
    present = list(scans.loc[scans["present"], "series_uid"])
    get_lidc(folder, wanted, present=present, only_say=only_say)
    if not only_say:
        report_presence(folder)


@get.command()
def mobilenet() -> None:
    """ImageNet weights of MobileNetV2, for the profiles that start from them (needs PyTorch)."""
    from nodulebook.model.pretrained import fetch_weights

    click.echo(f"the weights: {fetch_weights()}")


@get.command()
@_to
def check(folder: Path) -> None:
    """Say which scans and nodules of the cohort are in a folder; list those that are not."""
    from nodulebook.patches.sources.presence import report_presence

    report_presence(folder.expanduser())
