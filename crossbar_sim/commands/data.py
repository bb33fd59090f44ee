"""The commands on data sets: which there are, whether they are in order, and how to get them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from crossbar_sim.commands.options import argument, command, data_dir_option, option
from crossbar_sim.errors import InputError
from crossbar_sim.text import visible

if TYPE_CHECKING:
    from torch import Tensor

    from crossbar_sim.data import DetectionSplits, Splits


@click.group(no_args_is_help=True)
def data() -> None:
    """List, check and download data sets.

    \b
    Examples:
      crossbar-sim data list
      crossbar-sim data check digits
      crossbar-sim data fetch mnist
    """


@dataclass(frozen=True)
class ListRequest:
    """What `data list` is to do."""

    data_dir: str | None = data_dir_option()


@command(ListRequest, "list")
def list_sets(request: ListRequest) -> None:
    """List the data sets that can be used by name, and which of them are on this machine.

    \b
    Example:
      crossbar-sim data list --data-dir ~/data
    """
    import os

    from crossbar_sim.data.catalogue import CATALOGUE, DATA_VARIABLE

    folder = request.data_dir or os.environ.get(DATA_VARIABLE)
    rows = [("name", "images", "here", "what it is", "looked for in")]
    for name, about in CATALOGUE.items():
        here = "-"
        if about.find is None:
            here = "yes"
        elif folder:
            try:
                about.find(Path(folder))
                here = "yes"
            except InputError:
                here = "no"
        rows.append((name, about.images, here, about.what, about.layout))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    click.echo(
        f"\nLooked in {visible(str(folder))}."
        if folder
        else f"\nNo folder to look in: give --data-dir or set {DATA_VARIABLE}."
    )
    click.echo("Own data: an .npz or .npy file, or a folder with a folder of images for each class.")


@dataclass(frozen=True)
class CheckRequest:
    """What `data check` is to do."""

    name: str = argument()
    data_dir: str | None = data_dir_option()
    size: str | None = option(
        "Resize images of a folder or of gtsrb to this height and width, e.g. 32 or 32x48.", heading="Data"
    )


@command(CheckRequest)
def check(request: CheckRequest) -> None:
    """Read a data set completely, and show what it contains.

    NAME is a name of `data list`, or the path of an .npz, an .npy or a folder of class folders.

    \b
    Examples:
      crossbar-sim data check mnist --data-dir ~/data
      crossbar-sim data check mine.npz
      crossbar-sim data check photos --size 64
    """
    from crossbar_sim.data import load_data, load_pennfudan
    from crossbar_sim.data.catalogue import CATALOGUE

    name, data_dir, sides = request.name, request.data_dir, _sides(request.size)
    loaded: Splits | DetectionSplits
    if name == "pennfudan" and sides is None:
        loaded = load_pennfudan(None if data_dir is None else Path(data_dir))
        rows = _detection_rows(loaded)
    else:
        loaded = load_data(name, data_dir, size=sides)
        rows = _rows(loaded)
    for label, text in [("name", loaded.name), *rows]:
        click.echo(visible(f"{label:<12} {text}"))
    for note in loaded.notes:
        click.echo(visible(f"{'note':<12} {note}"))
    click.echo(f"{'fingerprint':<12} {loaded.fingerprint}")
    official = CATALOGUE[name].official if name in CATALOGUE else None
    if official is not None and sides is None:
        same = loaded.fingerprint == official
        click.echo(
            f"{'official':<12} {'yes, every value' if same else 'no: other images than the official release'}"
        )


def _sides(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    height, _, width = text.lower().partition("x")
    try:
        return int(height), int(width or height)
    except ValueError:
        raise InputError(
            f"--size {text!r}: expected height and width such as 32x48, or 32 for a square"
        ) from None


def _rows(loaded: "Splits") -> list[tuple[str, str]]:
    """What each split holds, in words."""
    from crossbar_sim.data.inputs import named_of

    rows = []
    for part, split in (("train", loaded.train), ("validation", loaded.validation), ("test", loaded.test)):
        if split is None:
            continue
        held = []
        for name, x in named_of(split.x):
            low, high = x.aminmax()
            called = "" if name == "x" else f"{name} "
            shape = " x ".join(map(str, x.shape[1:]))
            held.append(f"{called}of shape {shape}, values {float(low):.4g} .. {float(high):.4g}")
        text = f"{len(split):,} {'; '.join(held)}, "
        rows.append((part, text + _labels(split.y, loaded.classes)))
    return rows


def _labels(y: "Tensor | None", classes: int | None) -> str:
    if y is None or classes is None:
        return "no labels"
    if y.dim() > 1:
        return f"{classes} classes, {int((y >= 0).sum()):,} labels of shape {tuple(y.shape[1:])} an example"
    counts = y.bincount(minlength=classes)
    least, most = int(counts.min()), int(counts.max())
    return f"{classes} classes, {least:,}{f' to {most:,}' if most > least else ''} of each"


def _detection_rows(loaded: "DetectionSplits") -> list[tuple[str, str]]:
    rows = []
    for part in ("train", "validation", "test"):
        split = getattr(loaded, part)
        heights = [image.shape[1] for image in split.images]
        widths = [image.shape[2] for image in split.images]
        sizes = f"{min(heights)} .. {max(heights)} x {min(widths)} .. {max(widths)} pixels"
        rows.append((part, f"{len(split):,} images of 3 x {sizes}, {split.objects:,} objects"))
    return rows


@dataclass(frozen=True)
class FetchRequest:
    """What `data fetch` is to do."""

    name: str = argument()
    data_dir: str | None = data_dir_option()
    url: str | None = option("Address of a mirror with the official files.", heading="Data")
    sha256: str | None = option("Expected checksum, for a data set without a published one.", heading="Data")


@command(FetchRequest)
def fetch(request: FetchRequest) -> None:
    """Download a data set from its publisher, and check its files.

    Existing files are kept, and an interrupted download is resumed.

    \b
    Examples:
      crossbar-sim data fetch mnist --data-dir ~/data
      crossbar-sim data fetch cifar10 --url https://mirror.example.org/cifar
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from crossbar_sim.data.catalogue import data_folder
    from crossbar_sim.data.fetch import SOURCES, fetch

    name, data_dir = request.name, None if request.data_dir is None else Path(request.data_dir)
    console = Console(stderr=True, markup=False)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        tasks = {}

        def report(file: str, done: int, total: int) -> None:
            if file not in tasks:
                tasks[file] = progress.add_task(visible(file))
            progress.update(tasks[file], completed=min(done, total or done), total=total or None)

        fetched = fetch(name, data_dir, request.url, request.sha256, report)
    where = data_folder(name, data_dir)
    if fetched:
        click.echo(f"{name} is in {visible(str(where))}; its terms: {SOURCES[name].terms}")
    else:
        click.echo(
            f"{name} is there already, in {visible(str(where))}; nothing was fetched (a damaged file: remove it first)"
        )
    click.echo(f"read it all once with: crossbar-sim data check {name}")


for each in (check, fetch, list_sets):
    data.add_command(each)
