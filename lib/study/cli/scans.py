"""Commands for a user's own scans: positions, score, evaluate; and release, which makes weights."""

from pathlib import Path

import click

from nodulebook.core.errors import InputError

_PATH = click.Path(path_type=Path)
_scans = click.option("--scans", type=_PATH, help="folder: DICOM, .mhd, .mha, .nii, .nii.gz")


def _numbers(text: str | None, count: int, name: str) -> tuple[float, ...] | None:
    """Numbers separated by commas; one stands for all."""
    if not text:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if name == "--spacing" and len(values) == 1:
        values *= count
    if len(values) != count or not all(abs(value) < 1e5 for value in values):
        raise InputError(f"{name} {text!r}: must be {count} numbers separated by commas")
    return values


@click.command()
@_scans
@click.option("--to", type=_PATH, required=True, help="the CSV file to write")
@click.option("--masks", type=_PATH, help="label images, named as the scans: their parts' centres")
@click.option("--min-readers", type=click.IntRange(1, 4), default=3, show_default=True)
def positions(scans: Path | None, to: Path, masks: Path | None, min_readers: int) -> None:
    """Write a table of positions for `score`: of LIDC-IDRI's nodules, or of label images.

    Without --masks: where LIDC-IDRI's readers marked nodules in the scans of a folder.
    """
    from nodulebook.core.files import write_csv
    from study.own_scans.cubes import positions_of_labels
    from study.own_scans.scans import find_scans, known_positions

    if scans is None and masks is None:
        raise InputError("name the folder of the scans with --scans, or label images with --masks")
    folder = find_scans(scans) if scans is not None else None
    if masks is not None:
        table, left_out = positions_of_labels(masks, folder)
    else:
        assert folder is not None
        table, reasons = known_positions(folder, min_readers)
        left_out = [f"{name}: {reason}" for name, reason in reasons.items()]
    for line in left_out:
        click.echo(f"left out: {line}", err=True)
    write_csv(table, to.expanduser())
    click.echo(f"{len(table)} positions in {table['scan'].nunique()} scans: {to}")


@click.command()
@_scans
@click.option("--positions", type=_PATH, help="CSV: this book's, LUNA16's, LUNA25's, LNDb's, ...")
@click.option("--ras", is_flag=True, help="x and y of the positions are RAS (3D Slicer), not LPS")
@click.option(
    "--cubes", type=_PATH, help="instead of --scans: cubes, a nodule in the middle of each"
)
@click.option("--spacing", help="--cubes, arrays: mm from voxel to voxel, as 1 or 1.25,0.7,0.7")
@click.option("--axes", default="zyx", show_default=True, help="--cubes, arrays: as zyx, xyz, RAS")
@click.option("--hu", help="--cubes, arrays of bytes: the HU of 0 and 255, as -1024,1024")
@click.option("--to", type=_PATH, required=True, help="the folder to write")
@click.option("--profile", help="train on the spot instead: a file of profiles/")
@click.option("--source", help="train on the spot instead: on these patches  [default: phantom]")
@click.option("--run", help="instead: the networks of a run of papermill_runs/ with weights here")
@click.option("--weights", type=_PATH, help="another release than data/weights")
@click.option("--fold", type=click.IntRange(0, 9), help="use this fold's networks for every scan")
@click.option("--train-again", is_flag=True, help="--run: train folds whose weights are not here")
@click.option("--data", default="", help="the training CT data, instead of NODULEBOOK_DATA")
@click.option("--pictures", type=click.IntRange(0), default=100, show_default=True)
def score(
    scans: Path | None,
    positions: Path | None,
    ras: bool,
    cubes: Path | None,
    spacing: str | None,
    axes: str,
    hu: str | None,
    to: Path,
    profile: str | None,
    source: str | None,
    run: str | None,
    weights: Path | None,
    fold: int | None,
    train_again: bool,
    data: str,
    pictures: int,
) -> None:
    """Give positions in your own scans a probability. No clinical use.

    Writes probabilities.csv and index.html, with the released networks: no data and no training
    are needed. A scan of LIDC-IDRI is scored by the fold that held its patient out. Positions that
    cannot be scored are named, and end the command with exit code 2; the others are done.
    """
    for option, text in {"--run": run, "--profile": profile, "--source": source}.items():
        if text == "":  # as from --run "$RUN" without RUN
            raise InputError(f"{option} is empty: name one, or leave it out")
    if run and (profile or source):
        raise InputError("--run names a trained run; leave --profile and --source out")
    here = bool(run or profile or source)
    without_effect = {
        "--weights": (weights and here, "with --run, --profile or --source"),
        "--train-again": (train_again and not run, "without --run"),
        "--data": (data and not here, "without --run, --profile or --source"),
        "--spacing": (spacing and cubes is None, "without --cubes"),
        "--axes": (axes != "zyx" and cubes is None, "without --cubes"),
        "--hu": (hu and cubes is None, "without --cubes"),
        "--ras": (ras and cubes is not None, "with --cubes"),
    }
    for option, (useless, where_not) in without_effect.items():
        if useless:
            raise InputError(f"{option} has no effect {where_not}: leave it out")
    if (scans is None) == (cubes is None) or (cubes is None and positions is None):
        raise InputError("give --scans and --positions, or --cubes")
    from study.own_scans import networks as sources
    from study.own_scans import released, scoring
    from study.own_scans.cubes import read_cubes, with_table
    from study.own_scans.page import LEFT_OUT, PAGE, PROBABILITIES
    from study.own_scans.positions import read_positions
    from study.own_scans.scans import find_scans

    where = Path(data).expanduser().resolve() if data else None
    if cubes is not None:
        mm, limits = _numbers(spacing, 3, "--spacing"), _numbers(hu, 2, "--hu")
        folder, table = read_cubes(cubes, mm, axes, limits)  # type: ignore[arg-type]
        if positions is not None:
            given = read_positions(positions, coordinates=False)
            table = with_table(table, given, positions, click.echo)
    else:
        assert scans is not None and positions is not None
        table, folder = read_positions(positions, ras), find_scans(scans)
    if run:
        networks = sources.networks_of_run(run, fold, where, train_again, click.echo)
    elif profile or source:
        networks = sources.networks_of_profile(
            profile or "quick", source or "phantom", fold, where, click.echo
        )
    else:
        networks = released.networks_of_release(fold, click.echo, weights)
    named = str(positions or cubes)
    scored = scoring.score(folder, table, to, networks, pictures, click.echo, named)
    click.echo(f"{len(scored.table)} positions: {to / PROBABILITIES}")
    click.echo(f"page: {(to / PAGE).resolve()}")
    for line in (*scoring.reasons(scored.left_out), *scored.damaged):
        click.echo(f"left out: {line}", err=True)
    if scored.damaged and not len(scored.left_out):
        raise InputError(f"{scans}: {len(scored.damaged)} files cannot be read (named above)")
    if len(scored.left_out):
        raise InputError(f"{len(scored.left_out)} positions could not be scored: {to / LEFT_OUT}")


@click.command()
@_scans
@click.option("--positions", type=_PATH, required=True, help="as for score, with labels")
@click.option("--ras", is_flag=True, help="x and y of the positions are RAS (3D Slicer), not LPS")
@click.option("--to", type=_PATH, required=True, help="the folder of the cohort")
def adopt(scans: Path | None, positions: Path, ras: bool, to: Path) -> None:
    """Make your scans and labels a cohort, with folds by patient, to train on (--source own).

    Positions that cannot be used are named, listed in left_out.csv, and end the command with exit
    code 2; the cohort of the others is written.
    """
    from study.own_scans.adopt import adopt as write
    from study.own_scans.page import LEFT_OUT
    from study.own_scans.positions import read_positions
    from study.own_scans.scans import find_scans
    from study.own_scans.scoring import reasons

    if scans is None:
        raise InputError("name the folder of the scans with --scans")
    table, folder = read_positions(positions, ras), find_scans(scans)
    folds, left_out = write(folder, table, to, click.echo, positions)
    click.echo(f"{len(folds)} nodules of {folds['patient_id'].nunique()} patients: {to}")
    for line in (*reasons(left_out), *folder.damaged):
        click.echo(f"left out: {line}", err=True)
    if folder.damaged and not len(left_out):
        raise InputError(f"{scans}: {len(folder.damaged)} files cannot be read (named above)")
    if len(left_out):
        raise InputError(f"{len(left_out)} positions are not in the cohort: {to / LEFT_OUT}")


@click.command()
@click.option("--scored", type=_PATH, required=True, help="what `score` wrote, or a CSV file")
@click.option("--to", type=_PATH, required=True, help="the folder to write")
@click.option("--labels", type=_PATH, help="CSV with id (and scan) and label or rating")
def evaluate(scored: Path, to: Path, labels: Path | None) -> None:
    """Compare scores with labels: AUC, a ruler's, both together, size-matched pairs, calibration.

    Labels are the column label (0, 1) or rating (1 to 5) of the table that was scored, or --labels.
    """
    from study.own_scans.evaluate import evaluate_scores

    for line in evaluate_scores(scored, to, labels):
        click.echo(line)


@click.command()
@click.option("--run", required=True, help="a run of papermill_runs/ with its weights here")
@click.option("--data", default="", help="the CT data, instead of NODULEBOOK_DATA")
@click.option("--seeds", type=click.IntRange(1), help="pack at most so many of its seeds")
@click.option("--to", type=_PATH, help="the folder to write  [default: data/weights]")
def release(run: str, data: str, seeds: int | None, to: Path | None) -> None:
    """Pack the weights of a run, all folds and seeds, as the released networks (data/weights)."""
    from study.own_scans import released

    where = Path(data).expanduser().resolve() if data else None
    manifest = released.release(run, where, seeds, to, click.echo)
    size = sum(entry.bytes for entry in manifest.files) / 2**20
    click.echo(f"{len(manifest.files)} networks, {size:.1f} MB: {to or released.weights_folder()}")
