"""Options that several commands share, and how they become objects. Imports nothing heavy."""

import math
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import click

from crossbar_sim.errors import InputError
from crossbar_sim.text import parse_json

if TYPE_CHECKING:
    from crossbar_sim.crossbar.hardware import Hardware
    from crossbar_sim.nn.files.loading import LoadedModel


_MOST_CHIPS = 1_000_000
_MOST_SIGMAS = 10_000

F = TypeVar("F", bound=Callable[..., Any])


class _Range(click.ParamType):
    """A converter's range: one of some words, or a number."""

    name = "range"

    def __init__(self, *words: str) -> None:
        self.words = words

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The word, or the number."""
        if value in self.words or isinstance(value, float):
            return value
        try:
            return float(value)
        except ValueError:
            self.fail(f"{value!r} is none of {', '.join(self.words)} and no number", param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """As help shows it."""
        return f"[{'|'.join(self.words)}|NUMBER]"


class _OneSigma(click.ParamType):
    """One sigma; several are a sweep."""

    name = "float"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number."""
        try:
            return float(value)
        except ValueError:
            several = "," in value or ":" in value
            more = f"; several sigmas are a sweep: crossbar-sim sweep --sigma {value}" if several else ""
            self.fail(f"{value!r} is not a number such as 0.6{more}", param, ctx)


_FLAT = {
    "sigma": ("--sigma", float, "Log-normal drift: standard deviation of ln g."),
    "time": ("--time", float, "Seconds since programming, for drift laws with a time."),
    "g_min": ("--g-min", float, "Lowest conductance, in S."),
    "g_max": ("--g-max", float, "Highest conductance, in S."),
    "levels": ("--levels", int, "Conductance levels of a cell."),
    "copies": ("--copies", int, "Parallel cells for each weight."),
    "clip": ("--clip", float, "Percentile of |w| mapped to the end of the window."),
    "scale_per": ("--scale-per", click.Choice(["matrix", "column"]), "One scale per matrix or per column."),
    "programming_sigma": ("--programming-sigma", float, "Programming noise, a fraction of g_max."),
    "stuck_off": ("--stuck-off", float, "Probability that a cell is stuck at g_min."),
    "stuck_on": ("--stuck-on", float, "Probability that a cell is stuck at g_max."),
    "cell_bits": ("--cell-bits", int, "Bits of a cell: slice a weight of --levels over several."),
    "wire_ohm": ("--wire-ohm", float, "Resistance of a wire segment, word and bit lines alike, in ohm."),
    "dac_bits": ("--dac-bits", int, "Bits of the converters that drive the word lines."),
    "dac_range": ("--dac-range", _Range("dynamic", "calibrated"), "Input driven at full scale.  [default: dynamic]"),
    "adc_bits": ("--adc-bits", int, "Bits of the converters that read the bit lines, tile by tile."),
    "adc_range": (
        "--adc-range", _Range("max", "granular", "calibrated"),
        "Current of the largest code, in A at 1 V.  [default: calibrated]",
    ),
    "adc_per": ("--adc-per", click.Choice(["pair", "column"]), "An ADC per differential pair or per column."),
}  # fmt: skip
_PARTS = {
    "drift": ("--drift", "Any drift law, e.g. gamma:sigma=0.3 (see `presets --laws`)."),
    "mapping": ("--mapping", "e.g. offset:g_min=1e-6,g_max=1e-4,levels=16"),
    "programming": ("--programming", "Any programming noise, e.g. constant:sigma=0.05."),
    "read_noise": (
        "--read-noise",
        "Of a cell at each read: a fraction of g_max, or e.g. telegraph:amplitude=0.1.",
    ),
    "wires": ("--wires", "e.g. wires:r_word=1,r_bit=1,inputs=both (docs/wires.md)."),
    "dac": ("--dac", "e.g. dac:bits=8,signed=two-phase,slice_bits=1 (docs/periphery.md)."),
    "adc": ("--adc", "e.g. adc:bits=8,gain_sigma=0.01,share=8 (docs/periphery.md)."),
}
_CHOICES = {
    "drift_per": (
        "--drift-per",
        ["cell", "weight"],
        "What drifts by itself: each cell, or each weight's cells.",
    ),
    "bias": (
        "--bias",
        ["digital", "row", "drifting"],
        "Biases: exact, an extra word line, or cells of their own.",
    ),
    "normalisation": (
        "--normalisation",
        ["digital", "folded", "drifting"],
        "Normalisation's affine parameters.",
    ),
    "other": ("--other", ["digital", "drifting"], "All other learnable parameters."),
}


def hardware_options(points: str | None = None) -> Callable[[F], F]:
    """The options that describe a design; `build_hardware` takes them.

    Args:
        points: --sigma is a range with this default, for `sigma_numbers`, and no part of the design.
    """
    return lambda command: _hardware_options(command, points)


def _hardware_options(command: F, points: str | None) -> F:
    for name, (flag, choices, text) in reversed(_CHOICES.items()):
        command = click.option(flag, name, type=click.Choice(choices), help=text)(command)
    for name, (flag, kind, text) in reversed(_FLAT.items()):
        if points is not None and name == "sigma":
            text = "The points: first:last:points or a list, e.g. 0:1.5:31 or 0,0.3,0.6."
            command = click.option(flag, name, help=text, default=points, show_default=True)(command)
        else:
            shown = _OneSigma() if name == "sigma" else kind
            command = click.option(flag, name, type=shown, help=text)(command)
    command = click.option("--tile", help="Rows x columns of a tile, e.g. 128x128.")(command)
    for name, (flag, text) in reversed(_PARTS.items()):
        command = click.option(flag, name, help=text)(command)
    command = click.option(
        "--hardware", "hardware_file", type=click.Path(), help="A design: .toml or .json."
    )(command)
    return click.option("--preset", help="A published design (see `presets`).  [default: bayesft]")(command)


def model_options(command: F) -> F:
    """The options that say how to read a model file; `read_model` takes them."""
    command = click.option(
        "--trust-pickle", is_flag=True, help="Load a pickled module, running whatever code it holds."
    )(command)
    command = click.option(
        "--weights",
        help="Which weights of a file that holds several: its key (state_dict_ema), or how their names begin.",
    )(command)
    command = click.option(
        "--arch-arguments", help="Arguments of that network as JSON, e.g. '{\"classes\": 43}'."
    )(command)
    return click.option(
        "--arch", help="Network of a state_dict: mlp, lenet5, a torchvision name, or package.module:factory."
    )(command)


def split_options(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Take the hardware's options out of a command's: (hardware's, the rest)."""
    names = {*_FLAT, *_CHOICES, *_PARTS, "tile", "hardware_file", "preset"}
    return {k: v for k, v in options.items() if k in names}, {
        k: v for k, v in options.items() if k not in names
    }


def build_hardware(options: dict[str, Any]) -> tuple["Hardware", tuple[str, ...]]:
    """The design that preset, file and flags describe, flags last; and what to warn of.

    Raises:
        InputError: if they contradict each other or hold an impossible value.
    """
    from crossbar_sim.crossbar.configuration import dropped_ranges, from_text, override
    from crossbar_sim.crossbar.hardware import Hardware, preset_design

    given = {name: options[name] for name in (*_FLAT, *_CHOICES) if options.get(name) is not None}
    if options.get("tile"):
        given["tile"] = _tile(options["tile"])
    texts = {part: options[part] for part in _PARTS if options.get(part)}
    with suppress(ValueError):  # a number is Gaussian noise, words are any
        given["read_noise_sigma"] = float(texts.get("read_noise", ""))
        del texts["read_noise"]
    given |= {part: from_text(part, text) for part, text in texts.items()}
    if options.get("hardware_file"):
        if options.get("preset"):
            raise InputError(
                "--preset and --hardware both name a design: give one, and flags that override it"
            )
        loaded = Hardware.load(options["hardware_file"])
        hardware = override(loaded, **given)
        return hardware, (*dropped_ranges(loaded, hardware), *hardware.mapping.cautions)
    hardware, cautions = preset_design(options.get("preset") or "bayesft", given)
    return hardware, (*cautions, *hardware.mapping.cautions)


def _tile(text: str) -> tuple[int, int]:
    rows, _, cols = text.lower().partition("x")
    try:
        return int(rows), int(cols or rows)
    except ValueError:
        raise InputError(f"--tile {text!r}: expected rows x columns such as 128x128") from None


def model_ways(options: dict[str, Any]) -> dict[str, Any]:
    """Take what `model_options` adds out of a command's options, for `read_model`."""
    return {name: options.pop(name) for name in ("arch", "arch_arguments", "trust_pickle", "weights")}


def read_model(
    path: str,
    arch: str | None,
    arch_arguments: str | None,
    trust_pickle: bool,
    weights: str | None = None,
) -> "LoadedModel":
    """Load a model file as the options say.

    Raises:
        InputError: if it cannot be.
    """
    from crossbar_sim.nn.files.loading import load_model

    return load_model(path, arch, parsed_arch_arguments(arch_arguments), trust_pickle, weights)


def parsed_arch_arguments(arch_arguments: str | None) -> dict[str, Any] | None:
    """--arch-arguments as an object, however its JSON is written; None where there are none.

    Raises:
        InputError: if it is no JSON object.
    """
    try:
        arguments = parse_json(arch_arguments) if arch_arguments else None
    except ValueError as error:
        raise InputError(f"--arch-arguments is no JSON: {error}") from error
    if arguments is not None and not isinstance(arguments, dict):
        raise InputError(f'--arch-arguments {arch_arguments!r}: expected an object such as {{"classes": 43}}')
    return arguments or None


def sigma_numbers(text: str) -> tuple[float, ...]:
    """`0:1.5:31` for 31 sigmas from 0 to 1.5, `0,0.3,0.6` for these.

    Raises:
        InputError: if it is neither, a sigma is below 0 or no number, there are too many, or one point for two ends.
    """
    from crossbar_sim.validate import as_typed

    parts, alone = text.split(":"), False
    try:
        if len(parts) == 3:
            first, last, points = float(parts[0]), float(parts[1]), int(parts[2])
            steps = max(points - 1, 1)
            # 0:1.5:31 names the same 0.15 as a list does
            sigmas = [
                as_typed(first + (last - first) * i / steps) for i in range(min(points, _MOST_SIGMAS + 1))
            ]
            alone = points == 1 and first != last
        else:
            sigmas = [float(part) for part in text.split(",")]
    except ValueError:
        sigmas = []
    if alone:
        raise InputError(
            f"--sigma {text!r}: one point is not at both ends; ask for 2 or more, or name the one sigma"
        )
    if not sigmas or len(sigmas) > _MOST_SIGMAS:
        raise InputError(
            f"--sigma {text!r}: expected first:last:points such as 0:1.5:31, or a list such as 0,0.3,0.6, of at "
            f"most {_MOST_SIGMAS} sigmas"
        )
    if not all(0 <= sigma < math.inf for sigma in sigmas):
        raise InputError(f"--sigma {text!r}: a sigma is a finite number from 0 on")
    return tuple(sorted(set(sigmas)))


def chip_numbers(text: str | None) -> range | None:
    """`20` for chips 0 .. 19, `50:100` for chips 50 .. 99, None for None.

    Raises:
        InputError: if it is neither, empty, or beyond the numbers of chips.
    """
    if text is None:
        return None
    first, colon, last = text.partition(":")
    try:
        numbers = range(int(first), int(last)) if colon else range(int(first))
    except ValueError:
        raise InputError(
            f"--chips {text!r}: expected a count such as 20, or a range such as 50:100"
        ) from None
    if numbers.start >= numbers.stop or numbers.start < 0:
        raise InputError(
            f"--chips {text!r} names no chip: expected a count from 1 on, or a range such as 50:100"
        )
    if numbers.stop > 2**32 or numbers.stop - numbers.start > _MOST_CHIPS:
        raise InputError(f"--chips {text!r}: at most {_MOST_CHIPS} chips at a time, numbered below {2**32}")
    return numbers


def shape(text: str | None) -> tuple[int, ...] | None:
    """`3,32,32` as a tuple.

    Raises:
        InputError: if it is no list of positive whole numbers.
    """
    if text is None:
        return None
    try:
        sides = tuple(int(side) for side in text.replace("x", ",").split(","))
    except ValueError:
        sides = (0,)
    if not all(side >= 1 for side in sides) or len(sides) > 8:
        raise InputError(f"--input-shape {text!r}: expected sizes without the batch, such as 3,32,32")
    return sides
