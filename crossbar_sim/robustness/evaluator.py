"""One model on chips: preparing it, and the loop over chips that every evaluation goes through."""

import functools
import math
import queue
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from crossbar_sim.crossbar import threads
from crossbar_sim.crossbar.layer_designs import Design, at_sigma, is_deterministic
from crossbar_sim.crossbar.stream import Stream
from crossbar_sim.data import Development
from crossbar_sim.data.inputs import Batch
from crossbar_sim.errors import InputError, silenced_warnings
from crossbar_sim.nn.analog import chips as analog_chips
from crossbar_sim.nn.analog.chips import remap_arrays
from crossbar_sim.nn.analog.conversion import map_traced, patterns, to_analog
from crossbar_sim.nn.analog.copying import copy_module
from crossbar_sim.nn.analog.effects import idle_effects, of_design, read_linearly
from crossbar_sim.nn.analog.fidelity import ensure_equivalent, is_copy
from crossbar_sim.nn.analog.operands import Operands
from crossbar_sim.nn.analog.sequential import SequentialChips
from crossbar_sim.nn.analog.state import CellMaps, Maps
from crossbar_sim.nn.device import CPU, Device, on_device
from crossbar_sim.nn.evaluate import BLOCK, one_thread, outputs, torch_threads_kept
from crossbar_sim.nn.pickling import packed, unpacked
from crossbar_sim.rng import Key
from crossbar_sim.robustness.calibration import Calibration, Calibrator
from crossbar_sim.robustness.detection_score import reference_of
from crossbar_sim.robustness.metrics import Metric, described, find_metric, names_code
from crossbar_sim.robustness.score import Reference, Score, hits, of_operands, of_reference
from crossbar_sim.store.records import Trial
from crossbar_sim.validate import is_whole

# Some images per chip in place of all: drawn by name, stratified by class, with the estimate and its variance.
#
# Cochran, Sampling Techniques (3rd ed., Wiley 1977), ch. 5: stratified random sampling without replacement.


Int64 = NDArray[np.int64]

STREAM = "images of a chip"
"""Below the run's key: the name of the draws. Neither model nor sigma is in it, so models share their images."""

MOST_CLASSES = 50
"""With more classes images are drawn from all alike: two of each of 1000 classes would be 2000 images per chip."""


@dataclass(frozen=True, eq=False)
class Strata:
    """The images of a data set, class by class.

    Args:
        members: (n,) image numbers, those of the first class first, each class in rising order.
        counts: (c,) images of each class that is present; all of them in one "class" if they are not stratified.
        of_image: (n,) place of each image's class in `counts`.
    """

    members: Int64
    counts: Int64
    of_image: Int64

    @classmethod
    def of(cls, labels: ArrayLike | None, n: int) -> "Strata":
        """Group n images by label; without labels, or with more than `MOST_CLASSES`, they are one group.

        Raises:
            InputError: if there is no image, or labels are not n integers.
        """
        if not is_whole(n) or n < 1:
            raise InputError(f"n={n!r}: images are counted by an integer >= 1")
        place = np.zeros(n, np.int64)
        if labels is not None:
            given = np.asarray(labels)
            if given.shape != (n,) or given.dtype.kind not in "iub":
                raise InputError(
                    f"labels of shape {given.shape} and type {given.dtype}: {n} images need ({n},) integers"
                )
            present, inverse = np.unique(given, return_inverse=True)
            if len(present) <= MOST_CLASSES:
                place = inverse.astype(np.int64)
        return cls(np.argsort(place, kind="stable"), np.bincount(place), place)

    @property
    def population(self) -> int:
        """How many images there are."""
        return len(self.members)

    @property
    def minimum(self) -> int:
        """The fewest images of an estimate with a variance: two of each class, or the one that it has."""
        return int(np.minimum(self.counts, 2).sum())


def allocate(class_counts: ArrayLike, m: int) -> Int64:
    """Images to draw of each class: in proportion to the class, at least two, never more than there are.

    What is left over by rounding down goes to the largest remainders, the first class first among equals. An m
    below the minimum (two of each class) is raised to it, one above the population lowered.

    Args:
        class_counts: (c,) images of each class, all >= 1.
        m: how many in all, >= 1.

    Returns:
        (c,) counts that add up to m, so corrected.

    Raises:
        InputError: if there is no class, a class is empty, or m < 1.
    """
    counts = np.asarray(class_counts, np.int64)
    if counts.ndim != 1 or not len(counts) or counts.min() < 1:
        raise InputError(f"class counts {counts.tolist()}: needs one count >= 1 per class")
    if m < 1:
        raise InputError(f"m={m!r}: at least one image is drawn")
    least = np.minimum(counts, 2)
    total = min(max(int(m), int(least.sum())), int(counts.sum()))
    found, free = least.copy(), np.ones(len(counts), bool)
    while free.any():
        rest, images = total - int(found[~free].sum()), int(counts[free].sum())
        # integers throughout: what a class gets must not depend on rounding
        whole, remainder = np.divmod(rest * counts, images)
        short = free & (rest * counts < least * images)
        if short.any():  # these keep their minimum, and the others share what remains
            free &= ~short
            continue
        found[free] = whole[free]
        order = np.argsort(-np.where(free, remainder, -1), kind="stable")
        found[order[: total - int(found.sum())]] += 1
        break
    return found


def draw(strata: Strata, m: int, key: Key, chip: int) -> Int64:
    """The images that a chip is measured on: a function of the strata, m, the key and the chip, and of nothing else.

    Within a class every set of images is equally likely, without replacement (Floyd's algorithm: Bentley and Floyd,
    Communications of the ACM 30:754, 1987), up to the 32 bits of a word: a step's choice among N has a probability
    within N / 2^32 of 1 / N, relatively. Draws for another m are not nested in this one.

    Args:
        strata: the images.
        m: how many; corrected as `allocate` says. All of them for m >= n.
        key: the run's, e.g. Key(seed); `STREAM` is folded into it.
        chip: its number.

    Returns:
        (m,) image numbers, rising.

    Raises:
        InputError: if m < 1 or the chip is not an integer in 0 .. 2^32 - 1.
    """
    tops, spans, offsets = _steps(strata, int(m))
    stream = Stream.of(key.fold(STREAM), chip)
    if len(tops) == strata.population:
        return np.arange(len(tops), dtype=np.int64)
    words = stream.words(len(tops))
    choices = ((words.astype(np.uint64) * spans) >> np.uint64(32)).astype(np.int64) + offsets
    chosen: set[int] = set()
    add = chosen.add
    for choice, top in zip(choices.tolist(), tops, strict=True):
        add(top if choice in chosen else choice)
    found = strata.members[np.fromiter(chosen, np.int64, len(tops))]
    found.sort()
    return found


@functools.lru_cache(maxsize=64)
def _steps(strata: Strata, m: int) -> tuple[list[int], NDArray[np.uint64], Int64]:
    """Floyd's steps, class after class: the last place in `members`, how many to choose from, the first place."""
    counts = allocate(strata.counts, m)
    firsts = np.cumsum(strata.counts) - strata.counts
    spans = np.concatenate([np.arange(n - k + 1, n + 1) for n, k in zip(strata.counts, counts, strict=True)])
    offsets = np.repeat(firsts, counts)
    return (offsets + spans - 1).tolist(), spans.astype(np.uint64), offsets


def estimate(scores: ArrayLike, images: Int64 | Sequence[int], strata: Strata) -> tuple[float, float]:
    """A chip's mean score over all images, from those drawn, and the variance of that estimate.

    value = sum over classes of W_c y_c, variance = sum of W_c^2 (1 - m_c / N_c) s_c^2 / m_c with W_c = N_c / N and
    s_c over m_c - 1 (Cochran, ch. 5): both unbiased over the draw. 0 where all images were used.

    Args:
        scores: (m,) score of each image, e.g. right or wrong.
        images: (m,) their numbers, as from `draw`.
        strata: the images drawn from.

    Raises:
        InputError: if shapes differ, a score is not finite, or a class has fewer images than the estimate needs.
    """
    y, chosen = np.asarray(scores, np.float64), np.asarray(images, np.int64)
    if y.ndim != 1 or y.shape != chosen.shape:
        raise InputError(
            f"scores of shape {y.shape} for images of shape {chosen.shape}: one score per image is needed"
        )
    if not np.isfinite(y).all():
        raise InputError("a score of an image is not finite: scores are finite")
    n = strata.population
    if len(y) == n:
        return math.fsum(y) / n, 0.0
    place = strata.of_image[chosen]
    drawn = np.bincount(place, minlength=len(strata.counts))
    if (drawn < np.minimum(strata.counts, 2)).any():
        raise InputError(
            f"images drawn per class: {drawn.tolist()}, but every class needs two (or the one it has)"
        )
    means = np.bincount(place, y, len(drawn)) / drawn
    squares = np.bincount(place, (y - means[place]) ** 2, len(drawn))
    variances = squares / np.maximum(drawn - 1, 1) * (1 - drawn / strata.counts) / drawn
    weighted = strata.counts * means
    return math.fsum(weighted) / n, math.fsum(strata.counts.astype(np.float64) ** 2 * variances) / n**2


# Measuring chips: any model chip by chip, chains of linear layers in a shorter way.


T = TypeVar("T")
V = TypeVar("V")


class Measurer(Protocol):
    """One thread's memory for programmed weights, and how chips are measured with it."""

    size: int
    """Chips that are programmed at a time."""

    def trials(self, hardware: Design, sigma: float, chips: Sequence[int], images: int | None) -> list[Trial]:
        """The trials of at most `size` chips on so many images of each chip's own, or on all (None)."""


@dataclass(frozen=True)
class Details:
    """What is measured on chips beside the scores that a sweep keeps.

    Args:
        sigma: of the drift; None: the design as it is.
        whole: whether the whole model is scored.
        few: the examples for layers alone on their arrays; None: no layer is measured.
        alone: the chips on which each layer is measured alone.
        step: called after every score, with a text that names it; never by two threads at once.
    """

    sigma: float | None = None
    whole: bool = True
    few: Reference | None = None
    alone: Container[int] = ()
    step: Callable[[str], None] = lambda _: None


@dataclass(frozen=True)
class ChipScores:
    """The scores of one chip.

    Args:
        chip: its number.
        score: of the model, calibrated where the subject has a calibrator; None: not measured.
        uncalibrated: of the model without its calibration; None: there is none.
        alone: layer -> score when it alone is on its arrays.
    """

    chip: int
    score: Score | None = None
    uncalibrated: Score | None = None
    alone: dict[str, Score] = field(default_factory=dict)


ALONE = " alone"
"""How the text of a progress line ends while one layer alone is on its arrays."""


class AnyModel:
    """Chip by chip, by the model's own forward."""

    size = 1

    def __init__(self, subject: "Subject", analog: nn.Module) -> None:
        self.subject, self.analog, self.key = subject, analog, Key(subject.seed)
        self.design = analog_chips.analog_state(analog)
        self.design.frozen = True  # its clean values do not change: they are read once

    def trials(self, hardware: Design, sigma: float, chips: Sequence[int], images: int | None) -> list[Trial]:
        """See `Measurer`.

        Raises:
            InputError: if a chip's score does not exist.
        """
        return [self._trial(hardware, sigma, chip, images) for chip in chips]

    def details(self, hardware: Design, chip: int, details: Details, lock: Lock) -> ChipScores:
        """One chip in detail.

        Raises:
            InputError: if a score does not exist.
        """
        self._program(hardware, chip)
        subject, score, plain = self.subject, None, None
        alone: dict[str, Score] = {}

        def measured(score: Score, what: str) -> Score:
            _check(score.value(subject.metric), subject.metric, details.sigma, chip)
            with lock:
                details.step(what)
            return score

        if details.whole:
            score = subject.reference.score(self.analog)
            if subject.calibrator is not None:
                plain = score
                _check(plain.value(subject.metric), subject.metric, details.sigma, chip)
                with subject.calibrator.fitted(self.analog) as calibrated:
                    score = subject.reference.score(calibrated)
            measured(score, f"chip {chip}")
        if details.few is not None and chip in details.alone:
            for name in layers_on_arrays(self.analog):
                with analog_chips.only_layers(self.analog, [name]):
                    alone[name] = measured(details.few.score(self.analog), f"chip {chip}, {name}{ALONE}")
        return ChipScores(chip, score, plain, alone)

    def _program(self, hardware: Design, chip: int) -> None:
        """Program the arrays of this chip, before its examples are run."""
        self.design.set_hardware(hardware)  # differs in its drift alone
        self.design.set_chip(chip)
        analog_chips.program(self.analog)

    def _trial(self, hardware: Design, sigma: float, chip: int, images: int | None) -> Trial:
        began = time.perf_counter()
        self._program(hardware, chip)
        subject, reference = self.subject, self.subject.reference
        calibrator = subject.calibrator
        with nullcontext(self.analog) if calibrator is None else calibrator.fitted(self.analog) as model:
            # on all examples, numbers of the whole data set need no estimate
            if images is None or (images >= len(reference.x) and not described(subject.metric).mean):
                value, variance = reference.score(model).value(subject.metric), 0.0
            else:
                drawn = draw(subject.strata, images, self.key, chip)
                right = reference.right(model, torch.from_numpy(drawn), subject.metric)
                value, variance = estimate(right, drawn, subject.strata)
        _check(value, subject.metric, sigma, chip)
        seconds = time.perf_counter() - began
        return Trial(sigma, chip, value, images or len(reference.x), variance, seconds)


def _check(value: float, metric: str, sigma: float | None, chip: int) -> None:
    """Refuse a score that is not defined.

    Raises:
        InputError: naming the chip.
    """
    if not math.isfinite(value):
        where = f"chip {chip}" if sigma is None else f"sigma {sigma:g}, chip {chip}"
        if described(metric).computed or names_code(metric):
            raise InputError(f"{where}: metric {metric} gives {value}, and a score is finite")
        raise InputError(
            f"{where}: the outputs are not finite, so an output error does not exist: lower sigma"
        )


def layers_on_arrays(analog: nn.Module) -> list[str]:
    """The names of the layers of an analog model that have parameters on arrays or that drift."""
    return [layer.name for layer in analog_chips.layers(analog) if layer.slots]


class OfChain:
    """A few chips of a `SequentialChips` at a time, for accuracy and agreement."""

    def __init__(self, subject: "Subject", chain: SequentialChips) -> None:
        self.subject, self.chain, self.key, self.size = subject, chain, Key(subject.seed), chain.size
        reference = subject.reference
        labels = reference.y if subject.metric == "accuracy" else reference.predicted
        assert labels is not None
        assert isinstance(reference.x, Tensor)  # chains accept nothing else
        self.labels, self.x = labels, reference.x
        self.pixels = reference.x.flatten(1).numpy()
        self.parts = threads.chunks(len(reference.x), reference.block)
        self.gathered = np.empty_like(self.pixels[: reference.block])

    def trials(self, hardware: Design, sigma: float, chips: Sequence[int], images: int | None) -> list[Trial]:
        """See `Measurer`."""
        began = time.perf_counter()
        one_thread()
        self.chain.program(hardware, chips)
        with torch.inference_mode():
            if images is None:
                found = [(share, 0.0) for share in self._shares(len(chips))]
            else:
                found = [self._estimate(place, chip, images) for place, chip in enumerate(chips)]
        seconds = (time.perf_counter() - began) / len(chips)
        n = images or len(self.subject.reference.x)
        return [
            Trial(sigma, c, value, n, variance, seconds)
            for c, (value, variance) in zip(chips, found, strict=True)
        ]

    def _shares(self, count: int) -> list[float]:
        """Of the chips at places 0 .. count - 1, compared together: calling a comparison costs more than making it."""
        rights = torch.zeros(count, dtype=torch.int64)
        for part in self.parts:
            x, labels = self.x[part], self.labels[part]
            y = torch.stack([self.chain(place, x) for place in range(count)])
            found = hits(y.flatten(0, 1), labels.expand(count, -1).reshape(-1))
            rights += found.view(count, len(x)).sum(1)
        return [right / len(self.x) for right in rights.tolist()]

    def _estimate(self, place: int, chip: int, images: int) -> tuple[float, float]:
        strata = self.subject.strata
        drawn = draw(strata, images, self.key, chip)
        parts = threads.chunks(len(drawn), len(self.gathered))
        right = torch.cat([self._hits(place, drawn[part]) for part in parts])
        return estimate(right.numpy(), drawn, strata)

    def _hits(self, place: int, images: NDArray[np.int64]) -> Tensor:
        # NumPy gathers rows twice as fast as torch, and memory that is used again is in the cache.
        x = self.pixels.take(images, 0, self.gathered[: len(images)], "clip")
        return hits(self.chain(place, torch.from_numpy(x)), self.labels[torch.from_numpy(images)])


SECONDS = 1.0
"""About how long a block of chips takes: what an interrupt can cost."""

LARGE = 20_000_000
"""Parameters beyond which threads share one model, image by image, rather than take a chip each."""

CHECKED = 32
"""Images on which a chain is compared with the model's own forward before it is used."""


@dataclass(frozen=True)
class Job:
    """A block of chips at one sigma; `images` of each chip's own, or None: all of them."""

    sigma: float
    chips: tuple[int, ...]
    images: int | None = None


@dataclass(eq=False)
class Subject:
    """A clean model, its examples and its design: all data for measuring a chip. It can be pickled.

    Args:
        module: in evaluation mode.
        hardware: the design, or a design per layer; its drift takes the sigma of each job.
        reference: the examples, and the clean model's outputs for them.
        metric: what chips are judged by.
        seed: of all chips.
        only, skip: see `to_analog`.
        seen: what the module's forward does with its parameters; see `nn.analog.operands`.
        maps: conductances from a file instead of simulated ones.
        remap: whether each matrix is placed by its chip's stuck cells.
        calibrator: fits a digital correction to each chip.
        device: where chips are computed.
    """

    module: nn.Module
    hardware: Design
    reference: Reference
    metric: str
    seed: int
    only: tuple[str, ...] | None = None
    skip: tuple[str, ...] = ()
    seen: Operands | None = None
    maps: Maps | None = None
    remap: bool = False
    calibrator: Calibrator | None = None
    device: Device = CPU

    @classmethod
    def prepared(
        cls,
        module: nn.Module,
        hardware: Design,
        x: Batch,
        y: Tensor | None,
        *,
        sigma: float | None = None,
        chip: int = 0,
        seed: int = 0,
        metric: str | Metric | Callable[[Tensor, Tensor], Any] | None = None,
        only: Iterable[str] | None = None,
        skip: Iterable[str] = (),
        maps: Maps | None = None,
        remap: bool = False,
        block: int = BLOCK,
        fixed: int | None = None,
        axis: int | None = None,
        device: Device = CPU,
    ) -> tuple["Subject", nn.Module]:
        """Prepare a model for chips: every evaluation begins here.

        The clean model runs once on the examples. The analog model is checked to be the clean one where the hardware
        is ideal, and its forward is watched for which weights it multiplies with its inputs.

        Args:
            module: clean; it is put in evaluation mode.
            hardware: the design.
            x, y: examples (n, ...) and labels, or None.
            sigma: of the drift of the analog model that is returned; None: the design as it is.
            chip: that the analog model is on.
            seed, only, skip, maps, remap: see the class.
            metric: a name, import path or function, see `find_metric`; None: the first that labels and outputs allow.
            block, fixed, axis: see `Reference`.
            device: see the class; the module lies there.

        Returns:
            The subject, and the analog model.

        Raises:
            InputError: if model, examples, design and metric do not go together.
        """
        if len(x) == 0:
            raise InputError("the data hold no example")
        function = None if metric is None else find_metric(metric)
        evaluation_mode(module)
        design = hardware if sigma is None else at_sigma(hardware, sigma)
        names, left_out = None if only is None else patterns(only), patterns(skip)

        def mapped(seen: Operands | None) -> nn.Module:
            return _mapped(module, design, seed, chip, names, left_out, seen, maps, remap, device)

        with silenced_warnings():  # what it would warn of is among the cautions of a report
            first = mapped(None)  # refuses a design before the model runs
            reference = reference_of(module, x, y, block, fixed, axis, function)

            def make(seen: Operands | None) -> nn.Module:
                analog = first if seen is None else mapped(seen)
                return ensure_equivalent(analog, module, reference.x, reference.few, fixed)

            analog, seen = map_traced(make, reference.x, fixed)
        chosen = reference.metric(None if function is None else function.name)
        if function is None and reference.numbers is not None:
            reference = replace(reference, function=find_metric(chosen))
        reference.check_metric(chosen)
        subject = cls(
            module, hardware, reference, chosen, seed, names, left_out, seen, maps, remap, device=device
        )
        return subject, analog

    def analog(self, hardware: Design) -> nn.Module:
        """The model on a design, chip 0: checked to be the clean model where the hardware is ideal.

        Raises:
            InputError: if no analog model is.
        """
        way = self.only, self.skip, self.seen, self.maps, self.remap, self.device
        made = _mapped(self.module, hardware, self.seed, 0, *way)
        return ensure_equivalent(
            made, self.module, self.reference.x, self.reference.few, self.reference.fixed
        )

    def calibrate(self, analog: nn.Module, calibration: Calibration, development: Development) -> Calibrator:
        """Correct every chip from now on.

        Args:
            analog: the analog model, on some chip.
            calibration: how.
            development: whose training images are drawn from, by the seed of the chips.

        Raises:
            InputError: as `Calibrator.of`.
        """
        reference = self.reference
        axis = reference.axis if reference.classes else None
        self.calibrator = Calibrator.of(analog, calibration, development, self.seed, reference.fixed, axis)
        return self.calibrator

    def cautions(
        self, analog: nn.Module, effects: dict[str, dict[str, float]], requested: object
    ) -> list[str]:
        """What a report should warn of: effects that were requested and do not act, scores that say little.

        Args:
            analog: the analog model, on some chip.
            effects: of `layer_effects`, on that chip.
            requested: the metric that the user requested, if any.
        """
        design, layers = analog_chips.analog_state(analog), analog_chips.layers(analog)
        found = [
            *of_reference(self.reference, self.metric, requested),
            *of_operands(layers, self.seen),
        ]
        if self.maps is None:
            found += of_design(design.hardware, layers)
            found += idle_effects(effects, design.hardware, design.chip)
            found += read_linearly(analog, effects)
        elif isinstance(self.maps, CellMaps):
            found += [*self.maps.cautions, *read_linearly(analog, effects)]
        return found

    def rounding(self) -> Iterator[str]:
        """A sentence on what products in TF32 change of the clean model's outputs, if the device has them."""
        if not self.device.tf32:
            return
        with self.device.arithmetic():
            found = self.reference.on(self.device).score(self.module)
        parts = [] if found.agreement is None else [f"{1 - found.agreement:.2%} of its decisions"]
        parts += (
            [] if found.output_error is None else [f"its outputs by {found.output_error:.1e} of their size"]
        )
        yield f"products are in TF32, which changes of the clean model {' and '.join(parts) or 'the boxes'}"

    @functools.cached_property
    def evaluator(self) -> "Evaluator":
        """Made once per process, when first needed."""
        return Evaluator(self)

    @functools.cached_property
    def strata(self) -> Strata:
        """The examples by class, or by the clean model's class where there are no labels."""
        reference = self.reference
        classes = reference.y
        if classes is None and reference.classes:
            classes = reference.predicted
        if (
            classes is not None and classes.dim() > 1
        ):  # an example of many tokens or pixels is of no one class
            classes = None
        return Strata.of(None if classes is None else classes.cpu().numpy(), len(reference.x))

    def __getstate__(self) -> dict[str, Any]:
        """Without the evaluator: each process makes its own.

        Raises:
            InputError: if the model cannot be pickled.
        """
        own = {k: v for k, v in self.__dict__.items() if k not in ("evaluator", "strata")}
        with on_device(CPU, self.module):  # the receiver may have other devices
            return {**own, "module": packed(self.module)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """In another process.

        Raises:
            InputError: if the model's own code is not there.
        """
        self.__dict__.update({**state, "module": unpacked(state["module"])})


class _PerThread(Generic[T]):
    """One measurer for each thread that measures chips, and the loop over chips."""

    def __init__(self, made: Sequence[T], size: int, blocks: int) -> None:
        self.size, self.count, self.blocks = size, len(made), blocks
        self.free: queue.SimpleQueue[T] = queue.SimpleQueue()
        for measurer in made:
            self.free.put(measurer)

    def run(self, chips: Sequence[int], measure: Callable[[T, Sequence[int]], list[V]]) -> list[V]:
        """What `measure` gives for the chips, in their order; the same for any number of threads."""
        size = max(1, min(self.size, -(-len(chips) // self.count)))  # no thread without work
        groups = [chips[part] for part in threads.chunks(len(chips), size)]
        found: list[list[V]] = [[] for _ in groups]

        def one(i: int) -> None:
            measurer = self.free.get()
            try:
                found[i] = measure(measurer, groups[i])
            finally:
                self.free.put(measurer)

        with torch_threads_kept():
            # with few chips, threads share the blocks of examples of one chip after the other
            if self.count > 1 and len(groups) >= min(self.count, self.blocks):
                threads.run(one, range(len(groups)))
            else:
                for i in range(len(groups)):
                    one(i)
        return [each for group in found for each in group]


class Evaluator:
    """Measures chips of one subject: on each thread some at a time, with memory of its own for their weights.

    Args:
        subject: what is measured.
        analog: its analog model, if there is one already.
    """

    def __init__(self, subject: Subject, analog: nn.Module | None = None) -> None:
        device = subject.device
        if device.where.type != "cpu":  # a worker has received it on the CPU
            device.put(subject.module)
            subject = replace(subject, reference=subject.reference.on(device))
        self.subject = subject
        self.analog = subject.analog(at_sigma(subject.hardware, 0.0)) if analog is None else analog
        parameters = list(subject.module.parameters())
        self.small = sum(p.numel() for p in parameters) < LARGE and is_copy(self.analog)
        alone = not self.small or subject.maps is not None or any(p.device.type != "cpu" for p in parameters)
        self.count = 1 if alone else threads.threads()
        self.block = threads.threads()

    @functools.cached_property
    def measurers(self) -> _PerThread[Any]:
        """What trials are measured by: chains where the model is one, else models."""
        chain = (
            _chain(self.subject, self.analog, at_sigma(self.subject.hardware, 0.0)) if self.small else None
        )
        if chain is None:
            return self.models
        made = [
            OfChain(self.subject, each)
            for each in (chain, *(chain.for_thread() for _ in range(1, self.count)))
        ]
        return _PerThread(made, chain.size, 1)

    @functools.cached_property
    def models(self) -> _PerThread[AnyModel]:
        """Copies of the analog model that share the clean parameters; one alone where threads share the images."""
        memo = {id(p): p for p in self.analog.parameters()}
        copies = [self.analog, *(copy_module(self.analog, dict(memo)) for _ in range(1, self.count))]
        reference = self.subject.reference
        blocks = len(threads.chunks(len(reference.x), reference.fixed or reference.block))
        return _PerThread([AnyModel(self.subject, each) for each in copies], 1, blocks)

    def measure(self, job: Job) -> list[Trial]:
        """The trials of the job's chips, in their order; the same bits for any number of threads.

        Raises:
            InputError: if a chip's score does not exist.
        """
        hardware = at_sigma(self.subject.hardware, job.sigma)
        once = is_deterministic(hardware) and job.images is None
        with self.subject.device.arithmetic():
            found = self.measurers.run(
                job.chips[:1] if once else job.chips,
                lambda measurer, chips: measurer.trials(hardware, job.sigma, chips, job.images),
            )
        if not once:
            return found
        (first,) = found
        return [first, *(replace(first, chip=chip, seconds=0.0) for chip in job.chips[1:])]

    def details(self, chips: Sequence[int], details: Details) -> list[ChipScores]:
        """The scores of chips in detail, in their order; the same bits for any number of threads.

        Raises:
            InputError: if a chip's score does not exist.
        """
        hardware, lock = self.subject.hardware, Lock()
        if details.few is not None:
            details = replace(details, few=details.few.on(self.subject.device))
        if details.sigma is not None:
            hardware = at_sigma(hardware, details.sigma)
        with self.subject.device.arithmetic():
            return self.models.run(
                chips, lambda model, some: [model.details(hardware, chip, details, lock) for chip in some]
            )

    def in_blocks(
        self,
        chips: Sequence[int],
        measure: Callable[[tuple[int, ...]], V],
        missing: Callable[[list[int]], list[int]] = list,
    ) -> Iterator[V]:
        """What `measure` gives for chips, block by block: an interrupt costs one block.

        Args:
            chips: their numbers.
            measure: called with each block.
            missing: which of the chips that are left are still to be measured; called after every block.
        """
        left = list(chips)
        while left:
            n = self.block
            some, left = left[:n], left[n:]
            began = time.perf_counter()
            yield measure(tuple(some))
            if len(some) == n:
                self.block = _grown(n, time.perf_counter() - began)
            left = missing(left)


def _grown(n: int, seconds: float) -> int:
    """A block size whose time is nearer to SECONDS, at most doubled, a multiple of the threads."""
    wanted = min(n * SECONDS / max(seconds, 1e-6), 2 * n, 4096)
    return max(threads.threads(), int(wanted) // threads.threads() * threads.threads())


def evaluation_mode(module: nn.Module) -> None:
    """Switch off dropout, and let batch normalisation use its running statistics."""
    with suppress(NotImplementedError):  # an exported graph has one mode
        module.eval()


def _mapped(
    module: nn.Module,
    hardware: Design,
    seed: int,
    chip: int,
    only: Sequence[str] | None,
    skip: Sequence[str],
    seen: Operands | None,
    maps: Maps | None,
    remap: bool,
    device: Device,
) -> nn.Module:
    """The analog model, with conductances from a file, or remapped, where that is requested."""
    analog = to_analog(module, hardware, seed, chip, only, skip, seen)
    analog_chips.analog_state(analog).tensors = device.tensors
    if maps is not None:
        analog_chips.analog_state(analog).set_maps(maps)
    if remap:
        remap_arrays(analog)
    analog_chips.fit_memory(analog)
    return analog


def _chain(subject: Subject, analog: nn.Module, hardware: Design) -> SequentialChips | None:
    """The model as a chain, if it is one and its outputs equal those of its own forward bit for bit."""
    reference = subject.reference
    one = reference.classes and reference.predicted.dim() == 1 and reference.judged is None
    if subject.metric not in ("accuracy", "agreement") or not one or reference.fixed is not None:
        return None
    if subject.calibrator is not None or subject.device.tensors:
        return None
    # on a copy of its own: to look for a chain traces the forward, which may leave things on the model
    traced = to_analog(subject.module, hardware, subject.seed, 0, subject.only, subject.skip, subject.seen)
    chain = SequentialChips.of(traced)
    if chain is None or not chain.accepts(reference.x):
        return None
    few = reference.x[:CHECKED]
    assert isinstance(few, Tensor)  # as accepted
    chain.program(hardware, (0,))
    with torch_threads_kept(), torch.inference_mode():
        one_thread()
        fast = chain(0, few)
    (plain,) = outputs(analog, few, CHECKED)
    return chain if torch.equal(fast, plain) else None
