"""One model on chips: what a worker does, wherever it runs."""

import functools
import queue
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from crossbar_sim.crossbar import threads
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.overrides import alike, at_sigma
from crossbar_sim.nn.chain import Chain
from crossbar_sim.nn.convert import to_analog
from crossbar_sim.nn.copying import copy_module
from crossbar_sim.nn.evaluate import one_thread, outputs, torch_threads_kept
from crossbar_sim.nn.faithful import faithful, is_copy
from crossbar_sim.nn.operands import mapped
from crossbar_sim.nn.sending import packed, unpacked
from crossbar_sim.nn.unmapped import Operands
from crossbar_sim.robustness.drawn_images import Strata
from crossbar_sim.robustness.measuring import AnyModel, Measurer, OfChain
from crossbar_sim.robustness.score import Reference
from crossbar_sim.store.records import Trial

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
    """A clean model, its examples and its design: all that measuring a chip needs. It can be pickled.

    Args:
        module: in evaluation mode.
        hardware: the design; its drift takes the sigma of each job.
        reference: the examples, and the clean model's outputs for them.
        metric: what chips are judged by.
        seed: of all chips.
        only, skip: see `to_analog`.
        seen: what the module's forward does with its parameters; see `nn.operands`.
    """

    module: nn.Module
    hardware: Hardware
    reference: Reference
    metric: str
    seed: int
    only: tuple[str, ...] | None = None
    skip: tuple[str, ...] = ()
    seen: Operands | None = None

    def analog(self, hardware: Hardware) -> nn.Module:
        """The model on a design, chip 0: checked to be the clean model where the hardware is ideal.

        Raises:
            InputError: if no analog model is.
        """
        made = to_analog(self.module, hardware, self.seed, 0, self.only, self.skip, self.seen)
        return faithful(made, self.module, self.reference.x, self.reference.few, self.reference.fixed)

    def look(self, hardware: Hardware) -> nn.Module:
        """As `analog`, and `seen` is found by running the forward.

        Raises:
            InputError: if no analog model is the clean one.
        """
        reference = self.reference
        analog, self.seen = mapped(
            self.module,
            hardware,
            reference.x,
            self.seed,
            0,
            self.only,
            self.skip,
            reference.few,
            reference.fixed,
        )
        return analog

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
        return Strata.of(None if classes is None else classes.numpy(), len(reference.x))

    def __getstate__(self) -> dict[str, Any]:
        """Without the evaluator: each process makes its own.

        Raises:
            InputError: if the model cannot be pickled.
        """
        own = {k: v for k, v in self.__dict__.items() if k not in ("evaluator", "strata")}
        return {**own, "module": packed(self.module)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """In another process.

        Raises:
            InputError: if the model's own code is not there.
        """
        self.__dict__.update({**state, "module": unpacked(state["module"])})


class Evaluator:
    """Measures chips of one subject: on each thread some at a time, with memory of its own for their weights."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        measurers = _measurers(subject)
        self.size, self.count = measurers[0].size, len(measurers)
        self.free: queue.SimpleQueue[Measurer] = queue.SimpleQueue()
        for measurer in measurers:
            self.free.put(measurer)

    def measure(self, job: Job) -> list[Trial]:
        """The trials of the job's chips, in their order; the same bits for any number of threads.

        Raises:
            InputError: if a chip's score does not exist.
        """
        hardware = at_sigma(self.subject.hardware, job.sigma)
        once = alike(hardware) and job.images is None
        chips = job.chips[:1] if once else job.chips
        size = max(1, min(self.size, -(-len(chips) // self.count)))  # no thread without work
        groups = [chips[part] for part in threads.chunks(len(chips), size)]
        found: list[list[Trial]] = [[] for _ in groups]

        def one(i: int) -> None:
            measurer = self.free.get()
            try:
                found[i] = measurer.trials(hardware, job.sigma, groups[i], job.images)
            finally:
                self.free.put(measurer)

        with torch_threads_kept():
            if self.count > 1:
                threads.run(one, range(len(groups)))
            else:
                for i in range(len(groups)):
                    one(i)
        trials = [trial for group in found for trial in group]
        return [_again(trials[0], chip) for chip in job.chips] if once else trials


def _measurers(subject: Subject) -> list[Measurer]:
    """One for each thread, sharing the clean parameters; one alone where its threads share the images."""
    hardware = at_sigma(subject.hardware, 0.0)
    analog = subject.analog(hardware)
    parameters = list(subject.module.parameters())
    small = sum(p.numel() for p in parameters) < LARGE and is_copy(analog)
    count = threads.threads() if small and all(p.device.type == "cpu" for p in parameters) else 1
    chain = _chain(subject, analog, hardware) if small else None
    if chain is not None:
        return [OfChain(subject, each) for each in (chain, *(chain.twin() for _ in range(1, count)))]
    memo = {id(p): p for p in analog.parameters()}
    copies = [analog, *(copy_module(analog, dict(memo)) for _ in range(1, count))]
    return [AnyModel(subject, each) for each in copies]


def _chain(subject: Subject, analog: nn.Module, hardware: Hardware) -> Chain | None:
    """The model as a chain, if it is one and gives what its own forward gives, to the bit."""
    reference = subject.reference
    one = reference.classes and reference.predicted.dim() == 1 and reference.judged is None
    if subject.metric == "output_error" or not one or reference.fixed is not None:
        return None
    # on a copy of its own: to look for a chain traces the forward, which may leave things on the model
    traced = to_analog(subject.module, hardware, subject.seed, 0, subject.only, subject.skip, subject.seen)
    chain = Chain.of(traced)
    if chain is None or not chain.takes(reference.x):
        return None
    few = reference.x[:CHECKED]
    chain.program(hardware, (0,))
    with torch_threads_kept(), torch.inference_mode():
        one_thread()
        ours = chain(0, few)
    (theirs,) = outputs(analog, few, CHECKED)
    return chain if torch.equal(ours, theirs) else None


def _again(trial: Trial, chip: int) -> Trial:
    """The same for another chip of a design in which nothing is random."""
    seconds = trial.seconds if chip == trial.chip else 0.0
    return Trial(trial.sigma, chip, trial.value, trial.images, trial.variance, seconds)
