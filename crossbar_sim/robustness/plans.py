"""Plans: all images on given chips, or as many chips and images as an interval needs."""

import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from numbers import Real
from typing import Any, Protocol, SupportsIndex

from torch import nn

from crossbar_sim.crossbar.layer_designs import at_sigma, design_from_dict, is_deterministic
from crossbar_sim.data.inputs import call
from crossbar_sim.errors import InputError
from crossbar_sim.robustness import two_stage
from crossbar_sim.robustness.evaluator import Job, Subject
from crossbar_sim.robustness.metrics import PER_CENT, described
from crossbar_sim.store.records import Task, Trial

MOST_PILOT, MOST = 100_000, 1e12
"""Chips of a pilot, and anything else, that a plan in a file may ask for."""

PROTOCOL = tuple(round(0.05 * i, 2) for i in range(31))
"""The sigmas of the BayesFT paper's curves: 0 to 1.5 in 31 points."""


MOST_CHIP = 2**32
"""Numbers of chips are below it."""

_WHOLE = ("population", "minimum", "pilot_chips", "pilot_images", "most_chips", "batch")
"""Whole numbers of a `two_stage.Plan`."""


def chip_numbers(chips: SupportsIndex | Iterable[SupportsIndex]) -> tuple[int, ...]:
    """The numbers of chips, from how many there are (0, 1, ...) or from the numbers themselves.

    Raises:
        InputError: if they are not integers in 0 .. 2^32 - 1.
    """
    try:
        if isinstance(chips, Iterable):
            numbers = tuple(map(operator.index, chips))
        else:
            numbers = tuple(range(operator.index(chips)))
    except (TypeError, OverflowError, MemoryError):
        raise InputError(f"chips={chips!r}: expected a number of chips, or their numbers") from None
    if isinstance(chips, bool) or not all(0 <= chip < MOST_CHIP for chip in numbers):
        raise InputError(f"chips={chips!r}: chips are numbered from 0 to {MOST_CHIP - 1}")
    return numbers


class Plan(Protocol):
    """Decides what to measure next, as a pure function of the trials so far."""

    @property
    def chips(self) -> tuple[int, ...] | None:
        """The chips of the sweep; None: as many as it takes."""

    def images(self, subject: Subject) -> Mapping[str, Any]:
        """How images are taken: part of a task's identity."""

    def missing(self, task: Task, sigma: float, trials: tuple[Trial, ...]) -> Job | None:
        """What to measure next at one sigma, given the trials that are there; None: nothing more."""


@dataclass(frozen=True)
class EveryImage:
    """The protocol: these chips, all images."""

    chips: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.chips or len(set(self.chips)) != len(self.chips):
            raise InputError(f"chips={list(self.chips)[:5]}: at least one chip is needed, and none twice")

    def images(self, subject: Subject) -> Mapping[str, Any]:
        """All of them."""
        return {"count": len(subject.reference.x), "drawn": False}

    def missing(self, task: Task, sigma: float, trials: tuple[Trial, ...]) -> Job | None:
        """The chips without a trial."""
        there = {trial.chip for trial in trials}
        left = tuple(chip for chip in self.chips if chip not in there)
        return Job(sigma, left) if left else None


WHOLE_PILOT = 16
"""Chips of a pilot on all images, and the fewest of an interval: with so many, intervals of normal scores that end by
their own width cover 94 to 95 %."""


@dataclass(frozen=True)
class HalfWidth:
    """The interval budget: until the mean of every point is known to +- half (docs/statistics.md).

    Each chip gets images of its own where the score is a mean over images, and all of them where it is a number of the
    whole data set (perplexity, mean IoU, RMSE). Of a perplexity, half is of its natural logarithm: 0.02 is 2 %.
    """

    half: float
    chips: None = None

    def __post_init__(self) -> None:
        if not isinstance(self.half, Real) or isinstance(self.half, bool) or not 0 < self.half < math.inf:
            raise InputError(f"half_width={self.half!r}: a half-width is finite and > 0, e.g. 0.005")

    def check_metric(self, metric: str) -> None:
        """Refuse a half-width that a metric cannot have.

        Raises:
            InputError: of a share, from 0.5 on.
        """
        if self.half >= 0.5 and described(metric).unit == PER_CENT:
            raise InputError(
                f"half_width={self.half!r}: a half-width of shares lies between 0 and 0.5; 0.005 is half a point"
            )

    def images(self, subject: Subject) -> Mapping[str, Any]:
        """All that the plan of a task follows from.

        Raises:
            InputError: see `check_metric`.
        """
        self.check_metric(subject.metric)
        strata = subject.strata
        cost = chip_cost(subject)
        if subject.reference.estimable(subject.metric):
            plan = two_stage.Plan(self.half, strata.population, strata.minimum, cost)
        else:
            count = strata.population
            plan = two_stage.Plan(self.half, count, count, cost, pilot_chips=WHOLE_PILOT, pilot_images=count)
        settings = {name: value for name, value in asdict(plan).items() if not name.startswith("_")}
        return {"count": strata.population, "drawn": True, **settings}

    def missing(self, task: Task, sigma: float, trials: tuple[Trial, ...]) -> Job | None:
        """The next round of chips; one chip on all images where all chips are the same."""
        if exact(task, sigma):
            whole = [t for t in trials if t.images == task.identity["images"]["count"]]
            return None if whole else Job(sigma, tuple(range(plan_of(task).pilot_chips)))
        step = plan_of(task).next_step(trials)
        return None if isinstance(step, two_stage.Done) else Job(sigma, step.chips, step.images)


def plan_of(task: Task) -> two_stage.Plan:
    """The plan that a task of drawn images follows, from its identity alone.

    Raises:
        InputError: if the identity, which comes from a file, does not describe one.
    """
    known = task.identity["images"]
    settings = {name: value for name, value in known.items() if name not in ("count", "drawn")}
    try:
        plan = two_stage.Plan(**settings)
        whole = [operator.index(getattr(plan, name)) for name in _WHOLE]
    except (TypeError, InputError, ArithmeticError) as error:
        raise InputError(
            f"the identity of task {task.label!r} ({task.id[:12]}) has images that no plan can be made of: {error}"
        ) from None
    if (
        plan.population != known["count"]
        or plan.pilot_chips > MOST_PILOT
        or max(*whole, plan.chip_cost) > MOST
    ):
        raise InputError(
            f"the identity of task {task.label!r} ({task.id[:12]}) has a plan {settings}: expected are a population of "
            f"all {known['count']} images, at most {MOST_PILOT} pilot_chips, and nothing above {MOST:g}"
        )
    return plan


def exact(task: Task, sigma: float) -> bool:
    """Whether nothing is random at this sigma, as at sigma 0 if drift is the only effect: all chips are the same.

    Raises:
        InputError: if the identity, which comes from a file, does not describe a design.
    """
    try:
        design = dict(task.identity["hardware"])
        design["drift"] = {**design["drift"], "sigma": sigma}
        return is_deterministic(at_sigma(design_from_dict(design)[0], sigma))
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # an InputError is a ValueError
        raise InputError(
            f"the identity of task {task.label!r} ({task.id[:12]}) has a hardware that is not a design: {error}"
        ) from None


CELLS, FLOPS, CHIP = 1e9, 1e11, 3e-4
"""Nominal rates: weights drawn per second, operations per second, seconds that a chip takes beside its weights."""


def chip_cost(subject: Subject) -> float:
    """The cost of programming a chip, in evaluations of one image: estimated, to two digits.

    A stopwatch would give another number, and so another plan, on every machine. Costs are flat around the
    optimum: a factor of 2 in this number costs a few per cent.
    """
    weights = sum(parameter.numel() for parameter in subject.module.parameters())
    seconds = CHIP + weights / CELLS
    cost = seconds / max(operations(subject.module, subject) / FLOPS, 1e-9)
    digits = 1 - math.floor(math.log10(cost))
    return round(cost, digits)


def operations(module: nn.Module, subject: Subject) -> int:
    """Floating-point operations of one image; of a linear layer with as many weights where torch cannot count."""
    from torch.utils.flop_counter import FlopCounterMode

    weights = sum(parameter.numel() for parameter in module.parameters())
    try:
        counter = FlopCounterMode(display=False)
        with counter:
            call(module, subject.reference.x[: subject.reference.fixed or 1])
        return max(counter.get_total_flops() // (subject.reference.fixed or 1), 2 * min(weights, 1))
    except Exception:  # of the user's own code, or of the counter's
        return 2 * weights
