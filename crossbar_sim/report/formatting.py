"""Numbers, names, colours and marks as every report writes them: digits from the interval, shortened names."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crossbar_sim.robustness.metrics import PER_CENT, Metric, described
from crossbar_sim.robustness.statistics import Summary
from crossbar_sim.text import visible

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#7a7a7a")
"""The colour-blind-safe palette of Okabe and Ito, with grey in place of yellow, which white paper hides."""

SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross")
MARKERS = ("o", "s", "^", "D", "v", "P")
"""The same six shapes for Vega and for matplotlib."""

DASHES: tuple[tuple[int, ...], ...] = ((), (6, 2), (2, 2), (8, 2, 2, 2), (4, 4))
"""Lengths of dash and gap; () is a solid line."""

LABEL_SHOWN, LABEL_KEPT = 32, 200
"""Longest name of a model, in characters: in a chart, and in a table."""

HUGE = 1e4
"""Errors of at least this many times the size of the outputs are written with three digits."""

_SIGMAS = {
    "lognormal": "sigma of ln g",
    "gamma": "sigma of the drift factor (a fraction)",
    "normal": "sigma of the drift, a fraction of g",
    "uniform": "sigma of the drift, a fraction of g",
    "laplace": "sigma of the drift, a fraction of g",
    "relaxation": "sigma of the relaxation at 1 s (S)",
}


@dataclass(frozen=True)
class Measure:
    """The name of a metric, its sign (-1: stored negative, an error), and the sentences that it appears in."""

    name: str
    sign: int
    answer: str
    passing: str
    loss: str


MEASURES = {
    "accuracy": Measure(
        "accuracy", 1, "On {chips} the model keeps {mean} of {what} right{ci}, from {clean} clean.",
        "reach", "drop",
    ),
    "agreement": Measure(
        "agreement with the clean model", 1,
        "On {chips} the model gives the same class as the clean model for {mean} of {what}{ci}. "
        "There are no labels: this is agreement with the clean model, not accuracy.",
        "agree on at least", "drop",
    ),
    "output_error": Measure(
        "relative output error", -1,
        "On {chips} the outputs differ from the clean model's by {mean} of their size{ci}. "
        "There are no labels: this is the relative output error, not accuracy.",
        "have an error of at most", "error",
    ),
    "map": Measure(
        "mAP@[.5:.95]", 1, "On {chips} the mean average precision on {what} is {mean}{ci}, from {clean} clean.",
        "reach", "drop",
    ),
    "map50": Measure(
        "mAP@.5", 1, "On {chips} the mean average precision on {what} is {mean}{ci}, from {clean} clean.",
        "reach", "drop",
    ),
}  # fmt: skip


def measure_of(metric: str | Metric) -> Measure:
    """The measure of a metric, by its name or as its tasks describe it."""
    judge = described(metric) if isinstance(metric, str) else metric
    if judge.name in MEASURES:
        return MEASURES[judge.name]
    sign, name = judge.sign, visible(judge.title)
    answer = (
        "On {chips}, " + name.replace("{", "{{").replace("}", "}}") + " is {mean}{ci}, from {clean} clean."
    )
    return Measure(
        name, sign, answer, "reach" if sign > 0 else "are at or below", "drop" if sign > 0 else "increase"
    )


@dataclass(frozen=True)
class Scale:
    """Scores as people read them: an output error is stored with a minus sign and shown as the error.

    Shares are written in per cent and their differences in points; other scores are written as they are, with the unit
    of their metric. Statistics of a perplexity are of its logarithm: differences are in nats.
    """

    measure: Measure
    judge: Metric

    @classmethod
    def of(cls, metric: str | Metric) -> "Scale":
        """The scale of a metric, by its name or as its tasks describe it."""
        judge = described(metric) if isinstance(metric, str) else metric
        return cls(measure_of(judge), judge)

    @property
    def per_cent(self) -> bool:
        """Whether scores are shares of 1, written in per cent."""
        return self.judge.unit == PER_CENT

    @property
    def factor(self) -> float:
        """What figures multiply scores by."""
        return 100.0 if self.per_cent else 1.0

    @property
    def unit(self) -> str:
        """What follows a number, with the space before it: " %", " K", or nothing."""
        return f" {self.judge.unit}" if self.judge.unit else ""

    @property
    def step(self) -> str:
        """The unit of differences: "points", "nats", "K", or nothing."""
        return "points" if self.per_cent else "nats" if self.judge.logarithm else self.judge.unit

    @property
    def steps(self) -> str:
        """The same in brackets, for headings: " (points)", or nothing."""
        return f" ({self.step})" if self.step else ""

    @property
    def axis(self) -> str:
        """The title of an axis of scores: "accuracy (%)", "RMSE (unit of the targets)", "perplexity"."""
        unit = self.judge.axis or self.judge.unit
        return f"{self.name} ({unit})" if unit else self.name

    @property
    def compared(self) -> str:
        """What differences are of: the name of the score, or of its logarithm."""
        return f"ln {self.name}" if self.judge.logarithm else self.name

    @property
    def name(self) -> str:
        """The name of the score."""
        return self.measure.name

    @property
    def more_is_better(self) -> bool:
        """Whether a larger shown score is better."""
        return self.measure.sign > 0

    @property
    def loss(self) -> str:
        """The name of what a layer costs: "drop in accuracy", or the error itself."""
        if self.judge.name == "output_error":
            return self.name
        return f"{'drop' if self.more_is_better else 'increase'} in {self.compared}"

    def shown(self, score: float) -> float:
        """A stored score as it is shown."""
        return self.judge.shown(score)

    def stored(self, value: float) -> float:
        """A score as shown, such as a threshold, as it is stored."""
        return self.judge.stored(value)

    def difference(self, score: float) -> float:
        """A difference of two stored scores as it is shown."""
        return self.measure.sign * score + 0.0  # + 0.0: no minus zero

    def decimals(self, half: float | None, value: float = 1.0) -> int:
        """The decimals of a number known to +- half: two digits of half, or without it four digits of the value."""
        if self.per_cent:
            return decimals(half)
        if half and math.isfinite(half):
            return min(max(1 - math.floor(math.log10(half)), 0), 9)
        size = abs(value)
        return min(max(3 - math.floor(math.log10(size)), 0), 9) if 0 < size < math.inf else 1

    def digits_of(self, summary: Summary) -> int:
        """The decimals that the interval of a mean justifies."""
        return self.decimals((summary.ci95[1] - summary.ci95[0]) / 2 if summary.ci95 else None, summary.mean)

    def fixed(self, value: float, digits: int) -> str:
        """A score, or a difference, with so many decimals, without the unit."""
        if self.per_cent:
            return fixed(value, digits)
        if abs(value) >= 1e7 or not math.isfinite(value):
            return f"{value:.4g}"
        text = f"{value:.{digits}f}"
        return text.lstrip("-") if float(text) == 0 else text

    def number(self, value: float, half: float | None = None) -> str:
        """The same with the decimals that the half-width of its interval justifies."""
        return number(value, half) if self.per_cent else self.fixed(value, self.decimals(half, value))

    def text(self, value: float, half: float | None = None) -> str:
        """The same with the unit."""
        return f"{self.number(value, half)}{self.unit}"

    def span_text(self, low: float, high: float) -> str:
        """Both ends of an interval without the unit: "70.1 to 72.3"."""
        half = (high - low) / 2
        return f"{self.number(low, half)} to {self.number(high, half)}"

    def open_span_text(self, low: float | None, high: float | None, digits: int) -> str:
        """The same of an interval that may lack an end: "70.1 to 72.3", "up to 72.3", "from 70.1", "none"."""
        ends = [None if end is None else self.fixed(end, digits) for end in (low, high)]
        if None not in ends:
            return f"{ends[0]} to {ends[1]}"
        return f"up to {ends[1]}" if ends[1] is not None else "none" if ends[0] is None else f"from {ends[0]}"

    def limit_text(self, limit: float, digits: int) -> str:
        """A threshold, with the unit."""
        return limit_text(limit, digits) if self.per_cent else f"{limit:.6g}{self.unit}"

    def span(self, low: float, high: float) -> tuple[float, float]:
        """The ends of an interval of stored scores in the shown form, the lower end first, cut to possible scores."""
        a, b = self.shown(low), self.shown(high)
        return self.judge.cut(min(a, b), max(a, b), self.shown((low + high) / 2))

    def difference_span(self, low: float, high: float) -> tuple[float, float]:
        """The ends of an interval of a difference of shown scores, cut to what differences of shares can be."""
        return (max(low, -1.0), min(high, 1.0)) if self.judge.share else (low, high)


@dataclass(frozen=True)
class Style:
    """The colour, shape and dashes of one model."""

    colour: str
    shape: str
    marker: str
    dash: tuple[int, ...]

    @classmethod
    def of(cls, place: int) -> "Style":
        """The style of the model at this position. The periods differ: 120 models pass before a style repeats."""
        return cls(
            COLOURS[place % len(COLOURS)],
            SHAPES[place % len(SHAPES)],
            MARKERS[place % len(MARKERS)],
            DASHES[place % len(DASHES)],
        )


@dataclass(frozen=True)
class Names:
    """Names of models for tables and charts; each name occurs once.

    Args:
        whole: label -> the name with control characters escaped, cut only if it is extremely long.
        short: label -> a name that fits into a chart.
    """

    whole: Mapping[str, str]
    short: Mapping[str, str]

    @classmethod
    def of(cls, labels: Sequence[str]) -> "Names":
        """The names of these labels."""
        whole = _numbered(shorten([visible(label) for label in labels], LABEL_KEPT), LABEL_KEPT)
        short = _numbered(shorten(whole, LABEL_SHOWN), LABEL_SHOWN)
        return cls(dict(zip(labels, whole, strict=True)), dict(zip(labels, short, strict=True)))


def _numbered(names: Sequence[str], width: int) -> list[str]:
    """The names, cut where they are too long and numbered where they are empty or equal."""
    seen: set[str] = set()
    found = []
    for i, name in enumerate(names):
        short = name if len(name) <= 2 * width else name[:width] + "…"
        if not short.strip() or short in seen:
            short = f"{short} #{i + 1}"
        seen.add(short)
        found.append(short)
    return found


def decimals(half: float | None) -> int:
    """Decimals of a percentage known to +- half: two digits of half, 0 to 3 decimals; 1 without an interval."""
    if not half:
        return 1
    return min(max(1 - math.floor(math.log10(100 * half)), 0), 3)


def digits_of(summary: Summary) -> int:
    """The decimals that the interval of a mean justifies; one where there is no interval."""
    return decimals((summary.ci95[1] - summary.ci95[0]) / 2 if summary.ci95 else None)


def fixed(share: float, digits: int) -> str:
    """A share in per cent, without the unit; never minus zero."""
    text = f"{100 * share:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text


def number(share: float, half: float | None = None) -> str:
    """A share in per cent with the decimals that the half-width of its interval justifies, without the unit."""
    if abs(share) >= HUGE:
        return f"{100 * share:.3g}"
    return fixed(share, decimals(half))


def percent(share: float, half: float | None = None) -> str:
    """The same with the unit."""
    return f"{number(share, half)} %"


def span_text(low: float, high: float) -> str:
    """Both ends of an interval in per cent without the unit: "70.1 to 72.3"."""
    half = (high - low) / 2
    return f"{number(low, half)} to {number(high, half)}"


def limit_text(limit: float, digits: int) -> str:
    """A threshold in per cent with `digits` decimals, or as many as it needs (up to two)."""
    needed = len(f"{100 * limit:.2f}".rstrip("0").partition(".")[2])
    return f"{fixed(limit, max(digits, needed))} %"


def sigma_text(sigma: float) -> str:
    """A sigma with up to six significant digits."""
    return f"{sigma:.6g}"


def p_text(p: float | None) -> str:
    """A p-value with two significant digits; empty where there is no test."""
    if p is None:
        return ""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def range_text(numbers: Sequence[int]) -> str:
    """Counts in ascending order as text: "20", or "20 to 1,000"."""
    return f"{numbers[0]:,}" if len(numbers) == 1 else f"{numbers[0]:,} to {numbers[-1]:,}"


def counted(count: int, what: str) -> str:
    """`1 chip`, `2,000 chips`, `0 chips`."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def sigma_axis(identities: Sequence[Mapping[str, Any]]) -> str:
    """The title of the axis of sigma: which spread it is, by the drift law of the tasks."""
    laws = {law_of(identity) for identity in identities}
    if len(laws) != 1:
        return "sigma (its meaning differs between the designs)"
    kind, absolute = laws.pop()
    if absolute:
        return "sigma of the drift (S)"
    return _SIGMAS.get(kind, f"sigma of the {visible(kind)} drift")


def law_of(identity: Mapping[str, Any]) -> tuple[str, bool]:
    """(kind of the drift law, whether its sigma is in siemens) of a task."""
    hardware = identity.get("hardware")
    drift = hardware.get("drift") if isinstance(hardware, Mapping) else None
    kind = str(drift.get("kind")) if isinstance(drift, Mapping) else "lognormal"
    return kind, kind.endswith("_shift")


def shorten(names: Sequence[str], width: int) -> list[str]:
    """Names longer than `width` with the middle of their long parts left out, so that layer numbers stay.

    A name that would become equal to another one is not shortened.
    """
    longest = max((len(part) for name in names for part in name.split(".")), default=0)
    cut = list(names)
    for limit in range(longest, 4, -1):
        if max(map(len, cut), default=0) <= width:
            break
        parts = ((name, name.split(".")) for name in names)
        cut = [n if len(n) <= width else ".".join(_middle(p, limit) for p in ps) for n, ps in parts]
    cut = [_middle(name, width) for name in cut]
    return [short if cut.count(short) == 1 else name for short, name in zip(cut, names, strict=True)]


def fit(names: Sequence[str], width: int) -> list[str]:
    """Names of at most `width` characters; those that `shorten` does not shorten are cut and numbered."""
    cut = shorten(names, width)
    short = [name if len(name) <= width else _middle(name, width) for name in cut]
    return [name if short.count(name) == 1 else f"{name} #{i + 1}" for i, name in enumerate(short)]


def _middle(text: str, width: int) -> str:
    head = (width - 1) // 2
    return text if len(text) <= width else text[:head] + "…" + text[len(text) - (width - 1 - head) :]


def metric_prefix(value: float, unit: str) -> str:
    """Three digits with a prefix: `1.56 pJ`."""
    for factor, prefix in ((1.0, ""), (1e-3, "m"), (1e-6, "u"), (1e-9, "n"), (1e-12, "p")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def cut_words(scale: Scale) -> str:
    """ "cut at 0 and 100 %" """
    ends = [
        scale.limit_text(end, 0).removesuffix(scale.unit) for end in scale.judge.bounds if math.isfinite(end)
    ]
    return f"cut at {' and '.join(ends)}{scale.unit}"


def few_digits(scale: Scale, digits: int) -> int:
    """The decimals of a table: two at most of per cent."""
    return min(digits, 2) if scale.per_cent else digits
