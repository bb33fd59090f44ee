"""DACs that drive an array, ADCs that read it, and read noise (docs/periphery.md).

`bits=None` is a converter of infinite resolution; 0 bits are refused. `DAC` and `ADC` are designs, `Ranges` their
ranges for each layer, and `mismatch` draws the gain and offset of each ADC of a chip.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from crossbar_sim.crossbar.kernels import f32, inlined, kernel
from crossbar_sim.crossbar.stream import Float32, Stream
from crossbar_sim.errors import InputError
from crossbar_sim.rng import Key
from crossbar_sim.validate import SINGLE, check_inputs, finite, number, require, show, unknown, whole

_MOST_BITS = 24
"""Single precision resolves no finer codes."""


def _bits(owner: Any, low: int = 1, why: str = "") -> None:
    if owner.bits is not None:
        rule = f"a converter has {low} .. {_MOST_BITS} bits{why}, or None for an ideal one"
        whole(owner, "bits", rule, low, _MOST_BITS)


def _range(owner: Any, words: tuple[str, ...], unit: str) -> None:
    """Keep `range` as one of the words or a positive float, or refuse it."""
    value = owner.range
    if isinstance(value, str):
        require(
            value in words, f"range={show(value)} must be one of {', '.join(words)}, or a number in {unit}"
        )
        return
    allowed = finite(value) and 1 / SINGLE <= value <= SINGLE
    require(allowed, f"range={show(value)}: expected {', '.join(words)}, or a number in {unit} above 0")
    object.__setattr__(owner, "range", float(value))


@dataclass(frozen=True)
class DAC:
    """Inputs to word-line voltages: Eq. (18) to (20) of docs/periphery.md.

    Args:
        bits: of an input, its sign included where it is driven in one phase; None: ideal resolution.
        range: the input that is driven at full scale, larger ones are clipped. A number, in units of the
            input; "dynamic", the largest |x| of each input (a vector, or an image before a convolution), found
            for every product, which the digital side divides by and multiplies back; "calibrated", a
            percentile of |x| over calibration data, one for each layer.
        signed: "sign-magnitude" drives either polarity in one read; "two-phase" drives the positive inputs in
            one read and the negative ones in another, and subtracts digitally.
        slice_bits: how many bits of the magnitude are driven at a time, least significant first; None: all.
        percentile: of |x|, for the calibrated range.

    Raises:
        InputError: naming the field, what was given and what is allowed.
    """

    bits: int | None = None
    range: Literal["dynamic", "calibrated"] | float = "dynamic"
    signed: Literal["sign-magnitude", "two-phase"] = "sign-magnitude"
    slice_bits: int | None = None
    percentile: float = 100.0

    kind: ClassVar[str] = "dac"

    def __post_init__(self) -> None:
        signs = ("sign-magnitude", "two-phase")
        require(
            isinstance(self.signed, str) and self.signed in signs,
            f"signed={show(self.signed)} must be one of {', '.join(signs)}",
        )
        one = self.signed == "sign-magnitude"
        _bits(self, 2 if one else 1, " (one is the sign)" if one else "")
        _range(self, ("dynamic", "calibrated"), "units of the input")
        number(self, "percentile", "a percentile lies above 0 and not above 100", high=100, above=0)
        if self.slice_bits is not None:
            require(
                self.bits is not None, f"slice_bits={show(self.slice_bits)} has no bits to slice: bits=None"
            )
            rule = f"slices of the {self.magnitude_bits} bits of the magnitude have 1 .. {self.magnitude_bits} of them"
            whole(self, "slice_bits", rule, 1, self.magnitude_bits)

    @property
    def magnitude_bits(self) -> int:
        """Bits of |x|; 0 for an ideal converter."""
        if self.bits is None:
            return 0
        return self.bits - (self.signed == "sign-magnitude")

    @property
    def top(self) -> int:
        """L of Eq. (18), the code of the full scale: 2^magnitude_bits - 1."""
        return 2**self.magnitude_bits - 1

    @property
    def slices(self) -> int:
        """Reads of one phase."""
        return 1 if self.slice_bits is None else -(-self.magnitude_bits // self.slice_bits)

    @property
    def base(self) -> float:
        """2^slice_bits: neighbouring slices count for this much more; 2 without slices."""
        return 2.0 if self.slice_bits is None else 2.0**self.slice_bits

    @property
    def phases(self) -> int:
        """2 where signs take reads of their own."""
        return 2 if self.signed == "two-phase" else 1

    @property
    def full_scale(self) -> int:
        """C of Eq. (20): the largest code that one read drives; 1 V stands for it."""
        if self.bits is None:
            return 1
        return self.top if self.slice_bits is None else 2**self.slice_bits - 1


@dataclass(frozen=True)
class ADC:
    """Bit-line currents to codes, tile by tile: Eq. (21) to (23) of docs/periphery.md.

    Args:
        bits: of a code, its sign included where the current has one; None: ideal resolution (with mismatch: steps of
            range / 2^20, clipped at 16 times the range).
        range: the current of the largest code, larger ones are clipped; A at 1 V of full-scale input. A number;
            "max", the largest current that the tile can give; "granular", so that a step is the current of
            one level at one input code (ISAAC's choice: exact if the bits suffice); "calibrated", a
            percentile of |i| over calibration data, one for each layer and weight slice.
        per: one converter for each differential "pair" (or bit line and reference), after an analog
            subtraction, or one for each "column", subtracted digitally.
        percentile: of |i|, for the calibrated range.
        share: neighbouring columns of a tile that one converter reads one after another, with one gain and offset.
        gain_sigma: spread of the converters' gain around 1.
        offset_sigma: spread of the converters' offset, a fraction of the range.
        encoding: None, or "flip", ISAAC's: a column of a tile whose conductances sum to more than half of the largest
            sum is stored as its complement, which the digital side undoes, so that its current needs one bit less.
            Needs per="column".

    Raises:
        InputError: naming the field, what was given and what is allowed.
    """

    bits: int | None = None
    range: Literal["max", "granular", "calibrated"] | float = "calibrated"
    per: Literal["pair", "column"] = "pair"
    percentile: float = 99.99
    share: int = 1
    gain_sigma: float = 0.0
    offset_sigma: float = 0.0
    encoding: Literal["flip"] | None = None

    kind: ClassVar[str] = "adc"

    def __post_init__(self) -> None:
        ways = ("pair", "column")
        require(
            isinstance(self.per, str) and self.per in ways,
            f"per={show(self.per)} must be one of {', '.join(ways)}",
        )
        _bits(self)
        require(
            self.encoding in (None, "flip"),
            f"encoding={show(self.encoding)} must be 'flip', or None for none",
        )
        require(
            self.encoding is None or self.per == "column",
            "encoding='flip' stores the complement of a column, and per='pair' reads differences: give per='column'",
        )
        _range(self, ("max", "granular", "calibrated"), "A at 1 V")
        number(self, "percentile", "a percentile lies above 0 and not above 100", high=100, above=0)
        whole(self, "share", "a converter serves 1 .. 1048576 columns", 1, 2**20)
        for name in ("gain_sigma", "offset_sigma"):
            number(self, name, "a spread must be in 0 .. 1 (of the gain, or of the range)", 0, 1)

    def signed(self, dac: DAC | None) -> bool:
        """Whether currents, and so codes, have a sign: differences have, and inputs of either sign in one read."""
        return self.per == "pair" or dac is None or dac.signed == "sign-magnitude"

    def top(self, dac: DAC | None) -> int:
        """The largest code: 2^(bits-1) - 1 with a sign (and its negative the least), else 2^bits - 1."""
        assert self.bits is not None
        return 2 ** (self.bits - self.signed(dac)) - 1

    def codes(self, dac: DAC | None) -> int:
        """How many codes there are."""
        return 2 * self.top(dac) + 1 if self.signed(dac) else self.top(dac) + 1


# Converter ranges of each layer, chosen by a calibration (docs/periphery.md, "Calibration").


_KEYS = ("input", "output")


@dataclass(frozen=True)
class LayerRange:
    """Converter ranges of one array.

    Args:
        input: full scale of its DACs, in units of the input; None: not calibrated.
        output: full scale of its ADCs in A at 1 V, one for each weight slice, least significant first; empty: not
            calibrated.
    """

    input: float | None = None
    output: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        values = (*(() if self.input is None else (self.input,)), *self.output)
        for value in values:
            allowed = finite(value) and 1 / SINGLE <= value <= SINGLE
            require(allowed, f"a range of {show(value)}: expected a number in 1e-30 .. 1e30")
        if self.input is not None:
            object.__setattr__(self, "input", float(self.input))
        object.__setattr__(self, "output", tuple(float(v) for v in self.output))


@dataclass(frozen=True)
class Ranges:
    """Converter ranges of every array, by the name of its weight (`fc1.weight`)."""

    layers: tuple[tuple[str, LayerRange], ...] = ()

    kind: ClassVar[str] = "ranges"

    def __post_init__(self) -> None:
        names = [name for name, _ in self.layers]
        require(len(set(names)) == len(names), "ranges name an array twice")

    @classmethod
    def of(cls, layers: Iterable[tuple[str, LayerRange]] | Mapping[str, LayerRange]) -> "Ranges":
        """Sorted by name, so that equal ranges are equal."""
        items = layers.items() if isinstance(layers, Mapping) else layers
        return cls(tuple(sorted(items, key=lambda item: item[0])))

    def get(self, name: str) -> LayerRange | None:
        """The ranges of an array, None where it was not calibrated."""
        return dict(self.layers).get(name)

    def table(self) -> dict[str, Any]:
        """The table that files hold: {name: {input, output}}; ranges that are not calibrated are left out."""
        return {
            name: ({} if layer.input is None else {"input": layer.input})
            | ({"output": list(layer.output)} if layer.output else {})
            for name, layer in self.layers
        }

    @classmethod
    def from_table(cls, table: object) -> "Ranges":
        """The inverse of `table`.

        Raises:
            InputError: naming the key, what was given and what is allowed.
        """
        require(isinstance(table, dict), f"ranges={show(table)}: expected a table of arrays' names")
        assert isinstance(table, dict)
        layers = {}
        for name, entry in table.items():
            where = f"ranges.{name}"
            require(isinstance(entry, dict), f"{where}={show(entry)}: expected a table with input and output")
            for key in entry:
                require(key in _KEYS, unknown("the key", f"{where}.{key}", [f"{where}.{k}" for k in _KEYS]))
            output = entry.get("output", [])
            require(
                isinstance(output, list), f"{where}.output={show(output)}: expected a list of numbers in A"
            )
            layers[str(name)] = LayerRange(entry.get("input"), tuple(output))
        return cls.of(layers)


# DACs: Eq. (18) to (20) of docs/periphery.md.


NOTHING = np.float32(1 / SINGLE)
"""Inputs up to this magnitude are driven as 0: their codes would exceed single precision."""


class DrivenInputs(NamedTuple):
    """The word-line voltages of one product.

    Args:
        codes: word-line voltages in units of 1 V / full_scale, shape (reads, b, ...).
        weights: what each of them counts for, (reads,).
        full_scale: the code that is driven at 1 V; 1 without a DAC.
        unit: units of the input per code, (b,) or (1,).
    """

    codes: Float32
    weights: Float32
    full_scale: float
    unit: Float32


def drive(x: Float32, dac: DAC | None, calibrated: LayerRange | None, name: str) -> DrivenInputs:
    """Eq. (18) to (20).

    Args:
        x: inputs (b, ...), C-contiguous.
        dac: None: the inputs themselves, one unit is one volt.
        calibrated: the layer's ranges, needed where the DAC's range is "calibrated".
        name: of the array, for errors.

    Raises:
        InputError: if the range was not calibrated, or the inputs hold NaN or infinite values.
    """
    if dac is None:  # the product checks its inputs
        return DrivenInputs(x[None], np.ones(1, np.float32), 1.0, np.ones(1, np.float32))
    check_inputs(x)  # clipped codes would hide it
    top = 1.0 if dac.bits is None else float(dac.top)
    largest = full_scale_inputs(x, dac, calibrated, name)
    unit = largest / np.float32(top)
    reads = dac.phases * dac.slices
    codes = np.empty((reads, *x.shape), np.float32)
    flat = _flat(x)
    split = codes.reshape(reads, *flat.shape)
    _codes(flat, largest, f32(top), dac.bits is not None, dac.phases, f32(dac.base), split)
    weights = np.outer([1.0, -1.0][: dac.phases], dac.base ** np.arange(dac.slices))
    return DrivenInputs(codes, weights.reshape(-1).astype(np.float32), float(dac.full_scale), unit)


@inlined
def _code(x: Any, full: Any, top: Any, rounded: Any) -> Any:
    """Eq. (18), in double precision, where a value half-way between two codes is exactly half-way."""
    if rounded:
        return f32(min(max(np.rint(np.float64(x) * np.float64(top) / np.float64(full)), -top), top))
    return min(max(f32(x * f32(top / full)), -top), top)


@kernel
def _codes(x: Any, largest: Any, top: Any, rounded: Any, phases: Any, base: Any, out: Any) -> None:
    """Eq. (18) to (20): out (phases slices, b, m) holds the digits of each phase, least significant first."""
    slices = out.shape[0] // phases
    for b in range(x.shape[0]):
        full = largest[b] if largest.size > 1 else largest[0]
        if phases == 1 and slices == 1:
            for i in range(x.shape[1]):
                out[0, b, i] = _code(x[b, i], full, top, rounded)
            continue
        for i in range(x.shape[1]):
            code = _code(x[b, i], full, top, rounded)
            for phase in range(phases):
                sign = f32(1.0) if phase == 0 else f32(-1.0)
                left = f32(sign * code) if phases == 2 else code
                left = max(left, f32(0.0)) if phases == 2 else left
                if slices == 1:
                    out[phase, b, i] = left
                    continue
                negative = left < f32(0.0)
                left = abs(left)
                for k in range(slices):
                    rest = f32(np.floor(f32(left / base)))
                    digit = f32(left - f32(rest * base))
                    out[phase * slices + k, b, i] = -digit if negative else digit
                    left = rest


def _flat(x: Float32) -> Float32:
    """The axes (b, ...) of the inputs as (b, size), also for b = 0."""
    return x.reshape(len(x), math.prod(x.shape[1:]))


def full_scale_inputs(x: Float32, dac: DAC, calibrated: LayerRange | None, name: str) -> Float32:
    """The input driven at full scale: (b,) where each example has its own, else (1,)."""
    fixed = fixed_range(dac, calibrated, name)
    if fixed is not None:
        return np.array([fixed], np.float32)
    flat = _flat(x)
    largest = np.maximum(flat.max(axis=1, initial=0), -flat.min(axis=1, initial=0))
    return np.where(largest > NOTHING, largest, np.float32(1))


def fixed_range(dac: DAC, calibrated: LayerRange | None, name: str) -> float | None:
    """The input driven at full scale; None where each example has its own.

    Raises:
        InputError: if the range is to be calibrated and was not.
    """
    if dac.range == "dynamic":
        return None
    if dac.range != "calibrated":
        return float(dac.range)
    if calibrated is None or calibrated.input is None:
        raise InputError(not_calibrated(name, "dac"))
    return calibrated.input


def not_calibrated(name: str, part: str) -> str:
    """The error message for a range that has not been calibrated."""
    return (
        f"{name}: {part}.range='calibrated' needs ranges from data: run `crossbar-sim calibrate`, call "
        f"nn.calibrate_ranges(model, hardware, x), or give {part}.range as a number"
    )


# Mismatch: gain and offset of each ADC, which are properties of the chip.


def mismatch(
    adc: ADC,
    key: Key,
    chip: int,
    shape: tuple[int, int, int],
    first_column: int = 0,
    reference: int | None = None,
) -> tuple[Float32, Float32]:
    """Eq. (23): gain around 1 and offset (a fraction of the range) of every read, row tile and column.

    A converter is named by the array, the chip, the read, the row tile and its place; columns that share it have
    the same values. Streams: key.fold("adc gain") and key.fold("adc offset"), the read as the plane, the row tile as
    the event, the converter's place as the cell.

    Args:
        adc: the design.
        key, chip: the array's name and the sample.
        shape: (reads, row tiles, columns).
        first_column: of these columns among all of the array's.
        reference: the number of the last of them, where it is a reference column that all groups share.
    """
    gain, offset = np.ones(shape, np.float32), np.zeros(shape, np.float32)
    reads, tiles, columns = shape
    first = first_column // adc.share
    numbers = first_column + np.arange(columns)
    if reference is not None:
        numbers[-1] = reference
    places = numbers // adc.share
    aligned = first // 256 * 256
    n = int(places[-1]) + 1 - aligned if columns else 0
    for sigma, name, base, out in (
        (adc.gain_sigma, "adc gain", 1.0, gain), (adc.offset_sigma, "adc offset", 0.0, offset),
    ):  # fmt: skip
        for r in range(reads if sigma else 0):
            for t in range(tiles):
                z = Stream.of(key.fold(name), chip, r, t).normals(n, aligned)
                out[r, t] = np.float32(base) + np.float32(sigma) * z[places - aligned]
    return gain, offset


# Read noise, drawn at every read: Eq. (24) to (27) of docs/periphery.md.
#
# Cells are not drawn one by one. The current of a bit line is a sum over its cells, so one normal number of the summed
# variance, sum_r v_r^2 var(g_rc), replaces them: exact for Gaussian cells, and the limit of many two-state cells.


@dataclass(frozen=True)
class GaussianReadNoise:
    """Every cell reads g + sigma x z, with x = g_max or the cell's own g and z fresh at each read.

    Args:
        sigma: standard deviation, a fraction of what `of` says.
        of: "g_max", the same for all cells (an instrument's or a trap's absolute noise); "g", a fraction of the
            cell's own conductance.

    Raises:
        InputError: unless sigma is in 0 .. 100.
    """

    sigma: float
    of: Literal["g_max", "g"] = "g_max"

    kind: ClassVar[str] = "gaussian"

    def __post_init__(self) -> None:
        number(self, "sigma", f"sigma, a fraction of {show(self.of)}, must be in 0 .. 100", 0, 100)
        require(
            isinstance(self.of, str) and self.of in ("g_max", "g"), f"of={show(self.of)} must be g_max or g"
        )

    def variance(self, g: Float32, g_max: float) -> Float32:
        """Eq. (25): of each cell's conductance, in S^2, the shape of g."""
        base = np.full_like(g, g_max) if self.of == "g_max" else g
        spread = np.float32(self.sigma) * base
        return spread * spread

    def mean(self, g: Float32) -> Float32:
        """Mean conductance of each cell, in S."""
        return g


@dataclass(frozen=True)
class TelegraphNoise:
    """Random telegraph noise: a cell conducts g, or g (1 - amplitude) while its trap is occupied.

    A trap is occupied with probability `occupancy` at each read, independently of the read before: the time
    between reads is longer than its switching times.

    Args:
        amplitude: relative drop of the conductance, 0 .. 1.
        occupancy: share of the time in the lower state, 0 .. 1.

    Raises:
        InputError: unless both lie in 0 .. 1.
    """

    amplitude: float
    occupancy: float = 0.5

    kind: ClassVar[str] = "telegraph"

    def __post_init__(self) -> None:
        number(self, "amplitude", "the relative drop of a conductance must be in 0 .. 1", 0, 1)
        number(self, "occupancy", "a fraction of the time must be in 0 .. 1", 0, 1)

    def variance(self, g: Float32, g_max: float) -> Float32:
        """Eq. (27): a^2 p (1 - p) g^2 of each cell, in S^2."""
        factor = self.amplitude**2 * self.occupancy * (1 - self.occupancy)
        return np.float32(factor) * g * g

    def mean(self, g: Float32) -> Float32:
        """Eq. (26): g (1 - a p), the mean conductance of each cell, in S."""
        return g * np.float32(1 - self.amplitude * self.occupancy)
