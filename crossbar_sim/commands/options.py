"""The options of the command line, each declared once: a field of a request, under its heading in `--help`.

A command is a function of one request: a frozen dataclass that inherits the groups of options below and adds its own.
This file imports nothing heavy, so that `--help` answers at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, fields
from types import NoneType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, get_args, get_origin, get_type_hints

import click

from crossbar_sim.errors import InputError
from crossbar_sim.text import parse_json

if TYPE_CHECKING:
    from crossbar_sim.crossbar.cost import Technology
    from crossbar_sim.crossbar.layer_designs import Design
    from crossbar_sim.data import Development
    from crossbar_sim.nn.device import Device
    from crossbar_sim.nn.files.loading import LoadedModel
    from crossbar_sim.robustness.calibration import Calibration
    from crossbar_sim.robustness.examples import Examples

Request = TypeVar("Request")

HEADINGS = (
    "Arguments", "Model", "Circuit", "Measurements", "Hardware", "Data", "Training", "Search", "Statistics",
    "Computation", "Options", "Output",
)  # fmt: skip
"""In the order of `--help`."""

# From the fields of a request to a command with grouped help


def option(text: str, *flags: str, heading: str | None = None, **settings: Any) -> Any:
    """A field of a request that is an option.

    Args:
        text: its help.
        flags: if they are not `--` and the field's name.
        heading: if it is not that of the class.
        settings: further arguments of `click.Option`, beside those that follow from the field's type: `bool` is a flag,
            `Literal` a choice, and a tuple of texts an option that may be repeated.
    """
    return field(kw_only=True, metadata={"help": text, "flags": flags, "heading": heading, **settings})


def argument(metavar: str | None = None, **settings: Any) -> Any:
    """A field of a request that is a positional argument."""
    return field(kw_only=True, metadata={"metavar": metavar, "argument": True, **settings})


def command(
    request: type[Request], name: str | None = None
) -> Callable[[Callable[[Request], None]], click.Command]:
    """Make a click command of a function of one request, named after the function unless a name is given.

    Called without anything it shows its help, if there is an argument or option that it needs.
    """

    def decorate(run: Callable[[Request], None]) -> click.Command:
        parameters = list(_parameters(request))
        return _Command(
            name or run.__name__.replace("_", "-"),
            params=parameters,
            callback=lambda **values: run(request(**values)),
            help=run.__doc__,
            no_args_is_help=any(parameter.required for parameter in parameters),
        )

    return decorate


class _Option(click.Option):
    heading: str


class _Command(click.Command):
    """A command whose options stand under headings in `--help`."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                sections.setdefault(getattr(parameter, "heading", "Help"), []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records, col_max=26)


def _parameters(request: type) -> Iterator[click.Parameter]:
    """Those of the groups in the order in which a class names them, then its own; a heading's options together."""
    hints = get_type_hints(request)
    found = {f.name: f.metadata for f in fields(request)}  # type: ignore[arg-type]
    parameters: dict[str, dict[str, click.Parameter]] = {heading: {} for heading in HEADINGS}
    for owner in _owners(request):
        for name in vars(owner).get("__annotations__", {}):
            if name not in found or any(name in group for group in parameters.values()):
                continue  # one that a subclass declares again stays where it first was
            given = dict(found[name])
            if given.pop("argument", False):
                parameters["Arguments"][name] = click.Argument([name], **given)
                continue
            heading = given.pop("heading") or getattr(owner, "HEADING", "Options")
            flags = given.pop("flags") or (f"--{name.replace('_', '-')}",)
            made = _Option([name, *flags], **{**_follows(hints[name]), "show_default": True, **given})
            made.heading = heading
            parameters[heading][name] = made
    for group in parameters.values():
        yield from group.values()


def _owners(request: type) -> Iterator[type]:
    for base in request.__bases__:
        yield from _owners(base)
    yield request


def _follows(hint: Any) -> dict[str, Any]:
    """What click needs to know and the type of a field says."""
    if type(None) in get_args(hint):
        (hint,) = (kind for kind in get_args(hint) if kind is not NoneType)
    if get_origin(hint) is Literal:
        return {"type": click.Choice(get_args(hint))}
    if hint is bool:
        return {"is_flag": True}
    if hint == tuple[str, ...]:
        return {"multiple": True}
    return {"type": hint} if hint in (int, float, str) else {}


PATH = click.Path()


class Parsed(click.ParamType):
    """Text that a function turns into a value, or refuses with an InputError."""

    def __init__(self, parse: Callable[[str], Any], metavar: str) -> None:
        self.parse, self.name = parse, metavar

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value."""
        return self.parse(value) if isinstance(value, str) else value


class _Range(click.ParamType):
    """The range of a converter: one of some words, or a number."""

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
            self.fail(f"{value!r} is not a number or one of {', '.join(self.words)}", param, ctx)

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
            more = f"; for several sigmas use: crossbar-sim sweep --sigma {value}" if several else ""
            self.fail(f"{value!r} is not a number such as 0.6{more}", param, ctx)


# Texts of options as values

_MOST_CHIPS = 1_000_000
_MOST_SIGMAS = 10_000


def interval(flag: str, alone: bool = False) -> Parsed:
    """The type of an option such as 0:0.8; where `alone`, of one number too."""

    def parse(text: str) -> Any:
        try:
            numbers = tuple(float(part) for part in text.split(":"))
        except ValueError:
            numbers = ()
        if len(numbers) == 1 and alone and math.isfinite(numbers[0]):
            return numbers[0]
        if len(numbers) != 2 or not all(map(math.isfinite, numbers)):
            raise InputError(
                f"{flag} {text!r}: expected {'a number, or ' if alone else ''}low:high such as 0.2:0.8"
            )
        return numbers

    return Parsed(parse, "SIGMA|LOW:HIGH" if alone else "LOW:HIGH")


def sigma_numbers(text: str) -> tuple[float, ...]:
    """`0:1.5:31` for 31 sigmas from 0 to 1.5, `0,0.3,0.6` for these.

    Raises:
        InputError: if it is neither, a sigma is negative or not a number, there are too many, or one point for two
            ends.
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
            f"--sigma {text!r}: one point cannot be at both ends; give 2 points or more, or a single sigma"
        )
    if not sigmas or len(sigmas) > _MOST_SIGMAS:
        raise InputError(
            f"--sigma {text!r}: expected first:last:points such as 0:1.5:31, or a list such as 0,0.3,0.6, of at "
            f"most {_MOST_SIGMAS} sigmas"
        )
    if not all(0 <= sigma < math.inf for sigma in sigmas):
        raise InputError(f"--sigma {text!r}: expected finite numbers that are not negative")
    return tuple(sorted(set(sigmas)))


def chip_numbers(text: str) -> range:
    """`20` for chips 0 .. 19, `50:100` for chips 50 .. 99.

    Raises:
        InputError: if it is neither, empty, or beyond the numbers of chips.
    """
    first, colon, last = text.partition(":")
    try:
        numbers = range(int(first), int(last)) if colon else range(int(first))
    except ValueError:
        raise InputError(
            f"--chips {text!r}: expected a number of chips such as 20, or a range such as 50:100"
        ) from None
    if numbers.start >= numbers.stop or numbers.start < 0:
        raise InputError(f"--chips {text!r} selects no chip: expected at least 1, or a range such as 50:100")
    if numbers.stop > 2**32 or numbers.stop - numbers.start > _MOST_CHIPS:
        raise InputError(f"--chips {text!r}: at most {_MOST_CHIPS} chips at a time, numbered below {2**32}")
    return numbers


def shape(text: str) -> tuple[int, ...]:
    """`3,32,32` as a tuple.

    Raises:
        InputError: if it is not a list of positive integers.
    """
    try:
        sides = tuple(int(side) for side in text.replace("x", ",").split(","))
    except ValueError:
        sides = (0,)
    if not all(side >= 1 for side in sides) or len(sides) > 8:
        raise InputError(f"--input-shape {text!r}: expected sizes without the batch, such as 3,32,32")
    return sides


def _tile(text: str) -> tuple[int, int]:
    rows, _, cols = text.lower().partition("x")
    try:
        return int(rows), int(cols or rows)
    except ValueError:
        raise InputError(f"--tile {text!r}: expected rows x columns such as 128x128") from None


def json_object(flag: str, example: str) -> Parsed:
    """The type of an option that takes a JSON object."""

    def parse(text: str) -> dict[str, Any]:
        from crossbar_sim.validate import show

        try:
            value = parse_json(text) if text else {}
        except ValueError as error:
            raise InputError(f"{flag} {show(text)} is not JSON: {error}") from None
        if not isinstance(value, dict):
            raise InputError(f"{flag} {show(text)}: expected an object such as {example}")
        return value

    return Parsed(parse, "JSON")


# Groups of options that commands share


@dataclass(frozen=True)
class ReadOptions:
    """How a model file is read."""

    HEADING: ClassVar = "Model"

    arch: str | None = option(
        "Network of a state_dict or safetensors file: mlp, lenet5, the name of a torchvision model, or "
        "package.module:factory."
    )
    arch_arguments: dict[str, Any] | None = option(
        "Arguments of that network as JSON, e.g. '{\"classes\": 43}'.",
        type=json_object("--arch-arguments", '{"classes": 43}'),
    )
    weights: str | None = option(
        "Which weights to load from a file with several sets: their key (e.g. state_dict_ema) or the prefix of their "
        "names."
    )
    trust_pickle: bool = option("Load a pickled module, which runs any code that the file contains.")

    def read(self, path: str) -> LoadedModel:
        """Load a model file as the options say.

        Raises:
            InputError: if it cannot be loaded.
        """
        from crossbar_sim.nn.files.loading import load_model

        return load_model(path, self.arch, self.arch_arguments or None, self.trust_pickle, self.weights)


@dataclass(frozen=True)
class ModelOptions(ReadOptions):
    """One model file."""

    model: str = argument(type=PATH)


@dataclass(frozen=True)
class HardwareOptions:
    """A design."""

    HEADING: ClassVar = "Hardware"

    sigma: Any = option(
        "Log-normal drift: standard deviation of the logarithm of each conductance.", type=_OneSigma()
    )

    preset: str | None = option("A published design (see `crossbar-sim presets`).  [default: bayesft]")
    hardware_file: str | None = option("A design file: .toml or .json.", "--hardware", type=PATH)
    drift: str | None = option(
        "Any other drift law, e.g. gamma:sigma=0.3 (see `crossbar-sim presets --laws`), or one of yours as "
        "package.module:Class (docs/extending.md)."
    )
    drift_per: Literal["cell", "weight"] | None = option(
        "Whether each cell drifts independently, or all cells of a weight drift together."
    )
    time: float | None = option("Seconds since programming, for drift laws that depend on time.")
    mapping: str | None = option("Weight mapping, e.g. offset:g_min=1e-6,g_max=1e-4,levels=16.")
    g_min: float | None = option("Lowest conductance, in S.")
    g_max: float | None = option("Highest conductance, in S.")
    levels: int | None = option("Number of conductance levels of a cell.")
    cell_bits: int | None = option(
        "Bits per cell: a weight with --levels levels is sliced over several cells."
    )
    copies: int | None = option("Number of parallel cells for each weight.")
    clip: float | None = option("Percentile of |w| that is mapped to the end of the conductance window.")
    scale_per: Literal["matrix", "column"] | None = option("One weight scale per matrix, or per column.")
    programming: str | None = option("Any programming noise, e.g. constant:sigma=0.05.")
    programming_sigma: float | None = option(
        "Standard deviation of the programming noise, as a fraction of g_max."
    )
    stuck_off: float | None = option("Probability that a cell is stuck at g_min.")
    stuck_on: float | None = option("Probability that a cell is stuck at g_max.")
    read_noise: str | None = option(
        "Noise of each read: its standard deviation as a fraction of g_max, or e.g. telegraph:amplitude=0.1."
    )
    tile: tuple[int, int] | None = option(
        "Rows x columns of a tile, e.g. 128x128.", type=Parsed(_tile, "SIZE"), metavar="ROWSxCOLS"
    )
    wire_ohm: float | None = option("Resistance of one wire segment, on word lines and bit lines, in ohm.")
    wires: str | None = option(
        "Wire resistances in detail, e.g. wires:r_word=1,r_bit=1,inputs=both (docs/wires.md)."
    )
    dac_bits: int | None = option("Resolution of the DACs that drive the word lines, in bits.")
    dac_range: Any = option(
        "Input at full scale of the DACs.  [default: dynamic]", type=_Range("dynamic", "calibrated")
    )
    dac: str | None = option(
        "The DACs in detail, e.g. dac:bits=8,signed=two-phase,slice_bits=1 (docs/periphery.md)."
    )
    adc_bits: int | None = option("Resolution of the ADCs that read the bit lines of each tile, in bits.")
    adc_range: Any = option(
        "Current at full scale of the ADCs, in A at 1 V.  [default: calibrated]",
        type=_Range("max", "granular", "calibrated"),
    )
    adc_per: Literal["pair", "column"] | None = option("One ADC per differential pair, or per column.")
    adc: str | None = option(
        "The ADCs in detail, e.g. adc:bits=8,gain_sigma=0.01,share=8 (docs/periphery.md)."
    )
    bias: Literal["digital", "row", "drifting"] | None = option(
        "Where biases are: exact in digital logic, on an extra word line, or in cells of their own that drift."
    )
    normalisation: Literal["digital", "folded", "drifting"] | None = option(
        "The affine parameters of normalisation layers: exact in digital logic, folded into the weights, or drifting."
    )
    other: Literal["digital", "drifting"] | None = option("All other parameters: exact, or drifting.")
    layer: tuple[str, ...] = option(
        "A design of some layers, e.g. 'stem:digital' or 'blocks.*:adc_bits=6,levels=16' (names or patterns; may be "
        "repeated, the first that matches counts; docs/hardware.md)."
    )

    def design(self) -> dict[str, Any]:
        """The options that are given."""
        values = {f.name: getattr(self, f.name) for f in fields(HardwareOptions)}
        return {name: value for name, value in values.items() if value not in (None, ())}

    def hardware(self) -> tuple[Design, tuple[str, ...]]:
        """The design of preset, file and options (these override), per layer where --layer or the file says so.

        Returns:
            The design, and sentences to warn of.

        Raises:
            InputError: if they contradict each other or hold an impossible value.
        """
        from crossbar_sim.crossbar.configuration import from_text
        from crossbar_sim.crossbar.hardware import preset_design
        from crossbar_sim.crossbar.layer_designs import (
            cautions_of,
            dropped_ranges,
            load_design,
            override,
            with_layers,
        )

        given = self.design()
        texts = given.pop("layer", ())
        name, path = given.pop("preset", ""), given.pop("hardware_file", "")
        with suppress(ValueError):  # a number is Gaussian noise, words are any
            given["read_noise_sigma"] = float(given.get("read_noise", ""))
            del given["read_noise"]
        for part in ("drift", "mapping", "programming", "read_noise", "wires", "dac", "adc"):
            text = given.pop(part, "")
            if text:
                given[part] = from_text(part, text)
        if not path:
            hardware, cautions = with_layers(*preset_design(name or "bayesft", given), texts)
            return hardware, (*cautions, *cautions_of(hardware))
        if name:
            raise InputError(
                "--preset and --hardware both name a design: give one of them, and options that override it"
            )
        loaded, cautions = load_design(path)
        hardware, cautions = with_layers(override(loaded, **given), cautions, texts)
        return hardware, (*cautions, *dropped_ranges(loaded, hardware), *cautions_of(hardware))


def sigmas_option(default: str) -> Any:
    """Several sigmas."""
    return option(
        "Drift strengths: first:last:points or a list, e.g. 0:1.5:31 or 0,0.3,0.6.",
        type=Parsed(sigma_numbers, "SIGMAS"),
        default=default,
    )


@dataclass(frozen=True)
class SigmasOptions(HardwareOptions):
    """A design at several sigmas."""

    sigma: tuple[float, ...] = sigmas_option("0:1.5:31")

    def design(self) -> dict[str, Any]:
        """The options that are given, without the sigmas."""
        return {name: value for name, value in super().design().items() if name != "sigma"}


@dataclass(frozen=True)
class LayerOptions:
    """Which layers are on arrays."""

    HEADING: ClassVar = "Hardware"

    only: tuple[str, ...] = option("Put only these layers on arrays (names or patterns; may be repeated).")
    skip: tuple[str, ...] = option("Leave these layers digital (names or patterns; may be repeated).")


def data_dir_option() -> Any:
    """Where data sets are."""
    return option("Folder with data sets.  [default: $CROSSBAR_SIM_DATA]", heading="Data", type=PATH)


@dataclass(frozen=True)
class DataOptions:
    """Examples for a trained model, or the shape of random ones."""

    HEADING: ClassVar = "Data"

    data: str | None = option(
        "Name or path of a data set (see `crossbar-sim data list`).  [default: the one named in the model file]"
    )
    data_dir: str | None = data_dir_option()
    input_shape: tuple[int, ...] | None = option(
        "Shape of one input, e.g. 3,32,32, to use random inputs instead of data.", type=Parsed(shape, "SHAPE")
    )


@dataclass(frozen=True)
class NetworkOptions:
    """A network that is built by its name, and the data that it is trained on."""

    HEADING: ClassVar = "Model"

    network: str = option(
        "Network: mlp, lenet5, ... (docs/networks.md), or one of yours as package.module:factory.",
        required=True,
    )
    network_arguments: dict[str, Any] | None = option(
        "Its arguments as JSON, e.g. '{\"hidden\": [64, 32]}'.",
        type=json_object("--network-arguments", '{"hidden": [64, 32]}'),
    )
    start: str | None = option(
        "Begin with the weights in this model file, in place of random ones.", "--from", type=PATH
    )
    data: str = option(
        "Name or path of a data set (see `crossbar-sim data list`).", heading="Data", required=True
    )
    data_dir: str | None = data_dir_option()


@dataclass(frozen=True)
class SeedOptions:
    """All randomness."""

    HEADING: ClassVar = "Statistics"

    seed: int = option("Random seed.", default=0)


@dataclass(frozen=True)
class ThreadOptions:
    """Threads."""

    HEADING: ClassVar = "Computation"

    threads: int | None = option("Number of CPU threads; results do not depend on it.")

    def set_threads(self) -> None:
        """Use so many threads.

        Raises:
            InputError: if there are none.
        """
        if self.threads is not None:
            from crossbar_sim.crossbar import threads as pool

            pool.set_threads(self.threads)


@dataclass(frozen=True)
class MemoryOptions:
    """Memory for the weights of a chip."""

    HEADING: ClassVar = "Computation"

    memory: float | None = option(
        "GiB for the weights of a chip. If they take more, the largest arrays are programmed for each use, which takes "
        "longer; results do not depend on it.  [default: half of what is free]"
    )

    def set_memory(self) -> None:
        """Let the weights of a chip take so much.

        Raises:
            InputError: if it is negative.
        """
        if self.memory is not None:
            from crossbar_sim.memory import set_room

            set_room(self.memory)


@dataclass(frozen=True)
class DeviceOptions:
    """Where the work is done."""

    HEADING: ClassVar = "Computation"

    device: str | None = option(
        "Where to compute: cpu, cuda, cuda:1, xpu, mps, or auto, a GPU if there is one; cuda+tf32 multiplies in TF32 "
        "(docs/gpu.md).  [default: cpu]"
    )

    def chosen_device(self) -> Device:
        """The device.

        Raises:
            InputError: if it is not there.
        """
        from crossbar_sim.nn.device import Device

        return Device.of(self.device, "--device")


@dataclass(frozen=True)
class ClusterOptions(ThreadOptions):
    """Processes, on this machine or others."""

    workers: int | None = option(
        "Number of worker processes on this machine (Dask), instead of threads.  [default: none; sweep, "
        "tradeoff and run take one per GPU with --device cuda]"
    )
    scheduler: str | None = option("Address of a Dask cluster, e.g. tcp://head:8786.")

    def processes(self, device: str | None) -> int | None:
        """Number of worker processes: as given, else one per GPU where there are several and `device` names none."""
        from crossbar_sim.robustness.cluster import processes

        return processes(self.workers, self.scheduler, device)


@dataclass(frozen=True)
class JsonOptions:
    """The result as JSON."""

    HEADING: ClassVar = "Output"

    json_path: str | None = option(
        "Write the result as JSON to this file (- for standard output).", "--json", type=PATH
    )


@dataclass(frozen=True)
class EvaluationOptions(LayerOptions, DataOptions, SeedOptions, ThreadOptions, MemoryOptions, JsonOptions):
    """Models are evaluated on examples, on several chips."""

    HEADING: ClassVar = "Statistics"

    images: int | None = option("Use only this many examples, drawn at random with --seed.", heading="Data")
    chips: range | None = option(
        "Number of chips, or a range such as 50:100.  [default: 20]", type=Parsed(chip_numbers, "CHIPS")
    )
    metric: str | None = option(
        "How chips are scored: accuracy, top5, f1, miou, perplexity, cross-entropy, rmse, mae, r2, agreement, "
        "output_error (docs/metrics.md), or a function of yours as package.module:function (docs/extending.md).  "
        "[default: accuracy, agreement or output_error, the first that labels and outputs allow; rmse for real targets]"
    )
    class_axis: int | None = option(
        "Axis of the classes in the model's outputs; -1 is the last one.  [default: found automatically]"
    )

    def examples(self, loaded: LoadedModel) -> Examples:
        """What a model is evaluated on."""
        from crossbar_sim.robustness.examples import find_examples
        from crossbar_sim.robustness.metrics import built_in

        found = find_examples(loaded, self.data, self.data_dir, self.images, self.input_shape, self.seed)
        judge = built_in(self.metric)
        if judge is not None and judge.targets == "classes" and found.identity["fingerprint"] is None:
            raise InputError(
                f"--metric {self.metric} needs labels or text, and random inputs have none: give --data mine.npz"
            )
        return found

    def calibrated(
        self, loaded: LoadedModel, hardware: Design, calibration_data: str | None = None
    ) -> tuple[Design, tuple[str, ...]]:
        """The design, its converter ranges calibrated where it says so, and sentences for the report."""
        from crossbar_sim.robustness.range_data import calibrated_for

        return calibrated_for(
            loaded, hardware,
            data=self.data, data_dir=self.data_dir, input_shape=self.input_shape, seed=self.seed,
            only=self.only, skip=self.skip, own=calibration_data,
        )  # fmt: skip


def _calibration(text: str) -> str:
    from crossbar_sim.robustness.calibration import Calibration

    return Calibration(text).kind


@dataclass(frozen=True)
class CalibrationOptions(EvaluationOptions):
    """A digital correction of each chip."""

    calibrate: str | None = option(
        "Correct each chip digitally, with a fit to training images that are run on it (docs/methods.md): readout, "
        "affine, both, statistics, lora:rank=4, dora:rank=4, vera:rank=64; several with +.",
        heading="Hardware", type=Parsed(_calibration, "KIND"), metavar="KIND",
    )  # fmt: skip
    calibration_images: int | None = option(
        "Number of training images for --calibrate.  [default: 500]", heading="Hardware"
    )
    calibration_data: str | None = option(
        "Data on which converter ranges are calibrated.  [default: the training split of --data]",
        heading="Data",
    )

    def calibration(self, loaded: LoadedModel) -> tuple[Calibration, Development] | None:
        """The correction, with the data whose training images it is fitted to.

        Raises:
            InputError: if there are none, or images without a calibration.
        """
        from crossbar_sim.data import load_data
        from crossbar_sim.robustness.calibration import Calibration

        if self.calibrate is None:
            if self.calibration_images is not None:
                raise InputError(
                    "--calibration-images has no effect without --calibrate: give --calibrate readout"
                )
            return None
        data = self.data or loaded.data
        if data is None:
            raise InputError("--calibrate fits each chip to training images: give --data")
        images: Any = {} if self.calibration_images is None else {"images": self.calibration_images}
        return Calibration(self.calibrate, **images), load_data(data, self.data_dir).development


def percentile_option() -> Any:
    """A percentile of the chips' scores."""
    return option(
        "Also give the score that all but this percentage of the chips reach, e.g. 5, with its 95 % interval "
        "(docs/statistics.md).",
        heading="Statistics",
        type=Parsed(_percent, "PERCENT"),
    )


def _percent(text: str) -> float:
    from crossbar_sim.robustness.statistics import check_percent
    from crossbar_sim.validate import show

    try:
        return check_percent(float(text))
    except (ValueError, InputError):
        raise InputError(
            f"--percentile {show(text)}: expected a number between 0 and 100, such as 5"
        ) from None


@dataclass(frozen=True)
class SweepOptions(CalibrationOptions, ClusterOptions):
    """Many points, whose trials are kept in a file."""

    half_width: float | None = option(
        "Instead of a fixed number of chips: evaluate until the 95 % confidence interval of every mean is at most "
        "+- this (0.005 is half a percentage point).",
        heading="Statistics",
    )
    results: str | None = option(
        "Store all results in this file (SQLite); run again to resume, or to add models, sigmas, combinations or "
        "chips.",
        heading="Output", type=PATH,
    )  # fmt: skip

    def check_budget(self) -> None:
        """Refuse, before the work, options that exclude each other.

        Raises:
            InputError: if there are two budgets, workers that cannot be, or a results file without a name.
        """
        from crossbar_sim.robustness.cluster import check_cluster
        from crossbar_sim.store.results import MEMORY

        if self.chips is not None and self.half_width is not None:
            raise InputError(
                "--chips and --half-width exclude each other: give --chips for a fixed number of chips and all images, "
                "or --half-width for as many chips and images as this precision needs"
            )
        if self.results in ("", MEMORY):
            raise InputError(
                f"--results {self.results!r}: name a file; without --results they are kept in memory"
            )
        check_cluster(self.workers, self.scheduler)


@dataclass(frozen=True)
class TechnologyOptions:
    """The figures of components."""

    HEADING: ClassVar = "Hardware"

    technology: str | None = option(
        "Source of the component figures: isaac, prime, or a .toml file of yours (docs/cost.md).  [default: that of "
        "the preset, else isaac]"
    )
    node_nm: float | None = option("Process node of ADCs whose figures come from the ADC survey, in nm.")
    cycle_ns: float | None = option("Time of one array read, in ns.  [default: 100]")

    def chosen_technology(self, preset: str | None) -> Technology:
        """The figures, with those that options replace.

        Raises:
            InputError: if there are none, or a value is out of range.
        """
        from crossbar_sim.crossbar import cost as costs

        known = costs.technology_names()
        chosen = costs.technology(self.technology or (preset if preset in known else "isaac"))
        for flag, value, key, rule in (
            ("--node-nm", self.node_nm, "node", "5 .. 500 nm"),
            ("--cycle-ns", self.cycle_ns, "cycle", "0.1 .. 1e6 ns"),
        ):
            if value is None:
                continue
            low, high = (5, 500) if key == "node" else (0.1, 1e6)
            if not low <= value <= high:
                raise InputError(f"{flag} {value:g}: expected {rule}")
            chosen = chosen.replaced(key, value * 1e-9, f"given with {flag}")
        return chosen
