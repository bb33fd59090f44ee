"""Converters at the edge of an array: what a DAC drives and what an ADC reads (docs/periphery.md).

`bits=None` is a converter of endless resolution; 0 bits is none at all and refused. A converter's design is
here, its ranges for a layer are `Ranges`, and the gain and offset that one ADC has on one chip are drawn in
mismatch.py.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from crossbar_sim.crossbar.checks import SINGLE, finite, number, require, show, whole

_MOST_BITS = 24
"""Single precision holds no finer code."""


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
            anew for every product, which the digital side divides by and multiplies back; "calibrated", a
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
            number(self, name, "a spread lies in 0 .. 1 (of the gain, or of the range)", 0, 1)

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
