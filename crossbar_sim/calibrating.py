"""What the command calibrate does, and how deploy and sweep calibrate converters on the fly."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.table import Table

from crossbar_sim.crossbar import threads as pool
from crossbar_sim.crossbar.config import to_json, to_toml
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.data import Splits, load_data
from crossbar_sim.errors import InputError
from crossbar_sim.files import check_outputs, write_json, write_text
from crossbar_sim.nn.inputs import inputs_for
from crossbar_sim.nn.loading import LoadedModel
from crossbar_sim.nn.range_calibration import RangeReport, calibrate_ranges, needs_calibration
from crossbar_sim.nn.seeding import permutation
from crossbar_sim.rng import Key
from crossbar_sim.robustness.examples import RANDOM, find_examples
from crossbar_sim.robustness.wording import say, terminal
from crossbar_sim.text import visible

IMAGES = 512
"""Examples that converters are calibrated on."""


def run_calibrate(
    loaded: LoadedModel,
    hardware: Hardware,
    warnings: tuple[str, ...],
    *,
    inputs: tuple[str | None, ...],
    output: str,
    data: str | None,
    data_dir: str | None,
    images: int,
    input_shape: tuple[int, ...] | None,
    chip: int | None,
    seed: int,
    only: tuple[str, ...],
    skip: tuple[str, ...],
    json_path: str | None,
    threads: int | None,
) -> None:
    """Choose converter ranges, say how well they fit, and write the design with them.

    Raises:
        InputError: for anything that cannot be used; outputs are checked before the long work.
    """
    check_outputs((output, json_path), inputs, stream=json_path)
    if not output.lower().endswith((".toml", ".json")):
        raise InputError(f"{output}: a hardware file ends in .toml or .json")
    if threads is not None:
        pool.set_threads(threads)
    x, told = calibration_inputs(loaded, data, data_dir, images, input_shape, seed)
    loaded.module.eval()
    calibrated, reports = calibrate_ranges(
        loaded.module, hardware, x, only=only or None, skip=skip, seed=seed, chip=chip, fixed=loaded.batch
    )
    write_text(
        output, to_toml(calibrated) if output.lower().endswith(".toml") else to_json(calibrated) + "\n"
    )
    console = terminal(stderr=json_path == "-")
    write_json(json_path, {"data": told, "arrays": [asdict(r) for r in reports]})
    for warning in warnings:
        say(console, f"warning: {warning}", "yellow")
    say(console, f"converters calibrated on {told}")
    console.print(_table(reports))
    if not any(part is not None and part.range == "calibrated" for part in (hardware.dac, hardware.adc)):
        say(
            console,
            "warning: no converter of this design has the range 'calibrated': these are its own ranges, and nothing "
            "was chosen; give --adc-range calibrated or --dac-range calibrated",
            "yellow",
        )
    for sentence in cautions(reports):
        say(console, f"warning: {sentence}", "yellow")
    say(console, f"wrote {output}")


def calibrated_for(
    loaded: LoadedModel,
    hardware: Hardware,
    *,
    data: str | None,
    data_dir: str | None,
    input_shape: tuple[int, ...] | None,
    seed: int,
    only: tuple[str, ...],
    skip: tuple[str, ...],
    own: str | None = None,
) -> tuple[Hardware, tuple[str, ...]]:
    """The design itself where no range is to be calibrated, else with ranges, and sentences for the report."""
    if not needs_calibration(hardware):
        if own is not None:
            raise InputError(
                "--calibration-data has nothing to act on: no converter has the range 'calibrated'"
            )
        return hardware, ()
    if own is None:
        x, told = calibration_inputs(loaded, data, data_dir, IMAGES, input_shape, seed)
    else:
        x, told = chosen_inputs(loaded, own, data_dir, IMAGES, seed)
    loaded.module.eval()
    calibrated, reports = calibrate_ranges(
        loaded.module, hardware, x, only=only or None, skip=skip, seed=seed, fixed=loaded.batch
    )
    worst = max((r.output_clipped or 0.0 for r in reports), default=0.0)
    used = [r.output_used for r in reports if r.output_used is not None]
    codes = f", {min(used):.0f} to {max(used):.0f} % of the codes used" if used else ""
    return calibrated, (
        f"converter ranges were calibrated on {told}: up to {worst:.2g} % of the conversions clipped{codes} "
        "(crossbar-sim calibrate says more, and keeps them)",
    )


def calibration_inputs(
    loaded: LoadedModel,
    data: str | None,
    data_dir: str | None,
    images: int,
    input_shape: tuple[int, ...] | None,
    seed: int,
) -> tuple[Any, str]:
    """Inputs (n, ...) that no score is reported on, and what they are, in words.

    Training examples drawn by the seed; without data, random inputs.

    Raises:
        InputError: if the data have test examples alone.
    """
    if images < 1:
        raise InputError(f"--images {images}: at least one example is needed")
    name = data or loaded.data
    if name is None or input_shape is not None:
        found = find_examples(loaded, data, data_dir, min(images, RANDOM), input_shape, seed + 1)
        return found.x, f"{len(found.x)} random inputs"
    splits: Splits = load_data(name, data_dir)
    split = splits.train or splits.validation
    if split is None:
        raise InputError(
            f"{splits.name} has test examples alone, and converters are not calibrated on those that scores are "
            "reported on: add x_train (and y_train) to the .npz, give deploy and sweep other "
            "examples with --calibration-data FILE, or set a range such as --adc-range max"
        )
    chosen = permutation(len(split.x), Key(seed).fold("converter images"))[:images].sort().values
    which = "training" if splits.train is not None else "validation"
    return split.x[chosen], f"{len(chosen)} {which} examples of {splits.name}"


def chosen_inputs(
    loaded: LoadedModel, own: str, data_dir: str | None, images: int, seed: int
) -> tuple[Any, str]:
    """Inputs of data that the user names for calibration alone: of its training split, or all that there is."""
    splits: Splits = load_data(own, data_dir)
    split = splits.train or splits.test
    chosen = permutation(len(split.x), Key(seed).fold("converter images"))[:images].sort().values
    x, _ = inputs_for(loaded.module, split.x[chosen])
    return x, f"{len(chosen)} examples of {splits.name}"


def cautions(reports: tuple[RangeReport, ...]) -> Iterator[str]:
    """What is wrong with ranges."""
    for r in reports:
        for what, clipped in (("inputs", r.input_clipped), ("conversions", r.output_clipped)):
            if clipped is not None and clipped > 1:
                yield f"{r.name}: {clipped:.3g} % of the {what} are clipped: give a wider range or percentile"
        if r.output_used is not None and r.output_used < 5:
            yield (
                f"{r.name}: {r.output_used:.2g} % of the ADC's codes came up: its range is far too wide, calibrate it "
                "or give a smaller one"
            )


def _table(reports: tuple[RangeReport, ...]) -> Table:
    table = Table(box=None, header_style="bold")
    for name in ("array", "DAC range", "clipped %", "used %", "ADC range uA", "clipped %", "used %"):
        table.add_column(name, justify="left" if name == "array" else "right")
    for r in reports:
        table.add_row(
            visible(r.name), "-" if r.input is None else f"{r.input:.4g}", _percent(r.input_clipped),
            _percent(r.input_used), _amperes(r.output),
            _percent(r.output_clipped), _percent(r.output_used),
        )  # fmt: skip
    return table


def _amperes(output: tuple[float, ...]) -> str:
    """In uA, for each weight slice; once where all are the same."""
    shown = [f"{full * 1e6:.4g}" for full in output]
    return " ".join(shown[:1] if len(set(shown)) == 1 else shown) or "-"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
