"""How models, metrics and sigmas look, alike on the page and in figures for papers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crossbar_sim.report.wording import MEASURES, Measure, decimals, fixed, shorten, visible
from crossbar_sim.robustness.sweep import Sweep

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#7a7a7a")
"""Okabe and Ito's palette for all kinds of colour vision, its yellow replaced by grey: this is white paper."""

SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross")
MARKERS = ("o", "s", "^", "D", "v", "P")
"""The same six for Vega and for matplotlib."""

DASHES: tuple[tuple[int, ...], ...] = ((), (6, 2), (2, 2), (8, 2, 2, 2), (4, 4))
"""Lengths of ink and gap; () is a whole line."""

LABEL_SHOWN = 32
"""Characters of a model's name in a chart; tables have up to LABEL_KEPT."""

LABEL_KEPT = 200

HUGE = 1e4
"""Errors of so many times the outputs' size are given with three digits."""

_SIGMAS = {
    "lognormal": "sigma of ln g",
    "gamma": "sigma of the drift factor (a fraction)",
    "normal": "sigma of the drift, a fraction of g",
    "uniform": "sigma of the drift, a fraction of g",
    "laplace": "sigma of the drift, a fraction of g",
    "relaxation": "sigma of the relaxation at 1 s (S)",
}


@dataclass(frozen=True)
class Style:
    """One model's marks: told apart by colour, by shape and by dashes."""

    colour: str
    shape: str
    marker: str
    dash: tuple[int, ...]

    @classmethod
    def of(cls, place: int) -> "Style":
        """The style of the model in this place. Periods differ: 120 models pass before one comes again."""
        return cls(
            COLOURS[place % len(COLOURS)],
            SHAPES[place % len(SHAPES)],
            MARKERS[place % len(MARKERS)],
            DASHES[place % len(DASHES)],
        )


@dataclass(frozen=True)
class Names:
    """What models are called where: every name of `whole` and `short` is there once.

    Args:
        whole: label -> with control characters written out, cut only if it is absurdly long.
        short: label -> fit for a chart.
    """

    whole: Mapping[str, str]
    short: Mapping[str, str]

    @classmethod
    def of(cls, labels: Sequence[str]) -> "Names":
        """The names of these labels."""
        whole = _apart(shorten([visible(label) for label in labels], LABEL_KEPT), LABEL_KEPT)
        short = _apart(shorten(whole, LABEL_SHOWN), LABEL_SHOWN)
        return cls(dict(zip(labels, whole, strict=True)), dict(zip(labels, short, strict=True)))


def _apart(names: Sequence[str], width: int) -> list[str]:
    """Names that would be long or the same, cut and numbered."""
    seen: set[str] = set()
    found = []
    for i, name in enumerate(names):
        short = name if len(name) <= 2 * width else name[:width] + "…"
        if not short.strip() or short in seen:
            short = f"{short} #{i + 1}"
        seen.add(short)
        found.append(short)
    return found


@dataclass(frozen=True)
class Scale:
    """Scores as people read them: an output error is stored as minus itself and shown as the error."""

    measure: Measure

    @classmethod
    def of(cls, metric: str) -> "Scale":
        """That of a metric; one that is not known yet is shown as it is."""
        known = Measure(visible(metric), 1, "", "reach", "drop")
        return cls(MEASURES.get(metric, known))

    @property
    def name(self) -> str:
        """What the score is called."""
        return self.measure.name

    @property
    def more_is_better(self) -> bool:
        """Whether the shown score is better when it is larger."""
        return self.measure.sign > 0

    def shown(self, score: float) -> float:
        """A score, or a difference of scores, as it is shown; the same turns it back."""
        return self.measure.sign * score + 0.0  # + 0.0: no minus zero

    def span(self, low: float, high: float) -> tuple[float, float]:
        """An interval of scores as it is shown, its lower end first."""
        a, b = self.shown(low), self.shown(high)
        return (a, b) if a <= b else (b, a)


def number(share: float, half: float | None = None) -> str:
    """A share in per cent with the decimals that its interval leaves sensible, without the unit."""
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


def sigma_text(sigma: float) -> str:
    """A sigma as short as it can be without rounding what people type."""
    return f"{sigma:.6g}"


def sigma_axis(sweep: Sweep) -> str:
    """What the swept sigma is the spread of, by the designs' drift law."""
    laws = {law_of(task.identity) for task in sweep.tasks.values()}
    if len(laws) != 1:
        return "sigma (of what, see each design)"
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
