"""Deploy: one model, one design, many chips, and what is left of the model, with intervals."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import crossbar_sim
from crossbar_sim import __version__
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.layer_designs import Design, LayerDesigns, as_design, design_at, to_dict
from crossbar_sim.data import Development
from crossbar_sim.data.load import to_examples
from crossbar_sim.errors import InputError, warn
from crossbar_sim.files import sha256_of
from crossbar_sim.nn.analog import chips as analog_chips
from crossbar_sim.nn.analog.chips import remap_errors, remap_sentence
from crossbar_sim.nn.analog.effects import layer_effects
from crossbar_sim.nn.analog.multiply_adds import ArrayShare
from crossbar_sim.nn.analog.state import Layer, Maps
from crossbar_sim.nn.detection import detects
from crossbar_sim.nn.device import Device, on_device
from crossbar_sim.nn.evaluate import BLOCK
from crossbar_sim.nn.files.loading import LoadedModel
from crossbar_sim.nn.module_state import left_on
from crossbar_sim.rng import STREAM_VERSION
from crossbar_sim.robustness.calibration import Calibration, Calibrator, calibration_of, stale
from crossbar_sim.robustness.evaluator import ALONE, Details, Evaluator, Subject, layers_on_arrays
from crossbar_sim.robustness.metrics import Metric, described
from crossbar_sim.robustness.plans import EveryImage, chip_numbers
from crossbar_sim.robustness.score import (
    FIELDS,
    NO_DETECTORS,
    Score,
    collect,
    of_places,
    of_scores,
    of_state,
    of_tail,
)
from crossbar_sim.robustness.sensitivity import Countdown, drops, some
from crossbar_sim.robustness.statistics import Percentile, Summary, Yield, percentile, summarise, yield_at
from crossbar_sim.tables import data_frame
from crossbar_sim.validate import finite

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from crossbar_sim.store import ChipFile

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Sensitivity:
    """What one layer costs when it alone is on its arrays: the drop of the main score, over chips.

    Args:
        drop: summary of clean minus drifted score, one value per chip.
        images: how many examples it was measured on.
    """

    drop: Summary
    images: int


@dataclass(frozen=True)
class LayerReport:
    """A layer's line in the report: how it was mapped, the change by each effect, its sensitivity.

    Args:
        hardware: the layer's own design; of a layer that is digital by its design, the default one.
        design: which pattern's design it has and what that is, of a design per layer; None else.
    """

    layer: Layer
    hardware: Hardware
    effects: dict[str, float]
    sensitivity: Sensitivity | None
    design: tuple[str, str] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON: `rows` and `cols` are lists where a layer has several matrices."""
        geometries = self.layer.geometries(self.hardware)
        rows, cols, groups = ([getattr(g, name) for g in geometries] for name in ("rows", "cols", "groups"))
        cells, tiles = sum(g.cells for g in geometries), sum(g.tiles for g in geometries)
        area = tiles * self.hardware.tile[0] * self.hardware.tile[1]
        drop = self.sensitivity.drop if self.sensitivity else None
        return {
            "name": self.layer.name,
            "kind": self.layer.kind,
            "analog": self.layer.analog,
            "reason": self.layer.reason,
            "rows": rows[0] if len(rows) == 1 else rows,
            "cols": cols[0] if len(cols) == 1 else cols,
            "groups": groups[0] if len(groups) == 1 else groups,
            "tiles": tiles,
            "cells": cells,
            "utilisation": cells / area if area else 0.0,
            **(
                {}
                if self.design is None
                else {"design": dict(zip(("pattern", "values"), self.design, strict=True))}
            ),
            "effects": self.effects,
            "sensitivity": None
            if drop is None or self.sensitivity is None
            else {
                "drop": drop.mean,
                "ci95": list(drop.ci95) if drop.ci95 else None,
                "per_chip": list(drop.per_chip),
                "images": self.sensitivity.images,
            },
        }


@dataclass(frozen=True, eq=False)
class Deployment:
    """The result of `deploy`.

    Args:
        metric: what the main score is: a built-in metric (with the error as minus itself), or the import path of a
            function (with a minus sign before it where less is better).
        clean, scores: of the clean model and of each chip, in order.
        threshold: of the yield, on the main score (so minus an output error); None: no yield.
        warnings, notes: sentences that the user should read, and may want to know.
        identity: what else decides the numbers: model, data, seed, version.
        judged: how outputs with several places (tokens, pixels) are judged; None: one class or output per example.
        declared: what a user's own metric says of itself: its unit and title.
        work: how many of the multiply-adds run on arrays; None: unknown.
        calibrator: the digital fix that every chip got, and `uncalibrated` the scores without it.
    """

    metric: str
    hardware: Design
    seed: int
    chips: tuple[int, ...]
    clean: Score
    scores: tuple[Score, ...]
    threshold: float | None
    layers: tuple[LayerReport, ...]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    identity: dict[str, Any] = field(default_factory=dict)
    calibrator: Calibrator | None = None
    uncalibrated: tuple[Score, ...] = ()
    judged: dict[str, Any] | None = None
    declared: dict[str, str] = field(default_factory=dict)
    work: ArrayShare | None = None

    @property
    def judge(self) -> Metric:
        """The metric, as reports know it."""
        return described(self.metric, self.declared)

    @property
    def main(self) -> Summary:
        """The main score over chips."""
        return summarise(score.value(self.metric) for score in self.scores)

    @property
    def passing(self) -> Yield | None:
        """The share of chips at or above the threshold."""
        if self.threshold is None:
            return None
        return yield_at((score.value(self.metric) for score in self.scores), self.threshold)

    def percentile(self, percent: float) -> Percentile:
        """The score below which so many per cent of the chips are, as stored; see `statistics.percentile`.

        Raises:
            InputError: if it is not between 0 and 100.
        """
        return percentile((score.value(self.metric) for score in self.scores), percent)

    def __repr__(self) -> str:
        shown, found = self.judge.shown, self.main
        ends: tuple[float, ...] = ()
        if found.ci95 is not None:
            low, high = sorted(map(shown, found.ci95))
            ends = self.judge.cut(low, high, shown(found.mean))
        interval = f" [{ends[0]:.4g}, {ends[1]:.4g}]" if ends else ""
        clean = shown(self.clean.value(self.metric))
        title = self.metric.removeprefix("-")
        return f"Deployment({title} {shown(found.mean):.4g}{interval}, clean {clean:.4g}, {len(self.chips)} chips)"

    def _repr_html_(self) -> str:
        return str(crossbar_sim.notebook_html(self))

    def plot(self, path: str | None = None, ax: "Axes | None" = None) -> "Figure":
        """Scores of the chips and what each layer costs; written where a path (.png, .pdf, .svg) is given.

        Args:
            path: of the file; None: no file.
            ax: axes of a figure of yours, which get the scores alone.
        """
        figure: Figure = crossbar_sim.draw_deployment(self, path, ax=ax)
        return figure

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per chip, in the units of reports: chip, metric, value, clean; uncalibrated where that differs.

        Raises:
            InputError: if pandas is not installed.
        """
        shown = self.judge.shown
        clean = shown(self.clean.value(self.metric))
        rows: list[dict[str, Any]] = [
            {"chip": chip, "metric": self.metric, "value": shown(score.value(self.metric)), "clean": clean}
            for chip, score in zip(self.chips, self.scores, strict=True)
        ]
        for row, score in zip(rows, self.uncalibrated, strict=False):
            row["uncalibrated"] = shown(score.value(self.metric))
        return data_frame(rows)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON has it; no times and no paths, so the same seed gives the same bytes."""
        drifted: dict[str, Any] = {}
        for name in FIELDS:
            values = collect(self.scores, name)
            drifted[name] = summarise(values).as_dict() if values else None
        judge, clean = self.judge, self.clean
        computed = {}
        if clean.custom is not None:
            found = summarise(collect(self.scores, "custom"))
            computed = {self.metric: clean.custom}
            if judge.logarithm:
                computed = {self.metric: judge.shown(judge.sign * clean.custom)}
                drifted[self.metric] = found.mapped(lambda value: judge.shown(judge.sign * value)).as_dict()
                drifted[f"ln {self.metric}"] = found.as_dict()
            else:
                drifted[self.metric] = found.as_dict()
        passing = self.passing
        return {
            "metric": self.metric,
            "clean": {
                "accuracy": self.clean.accuracy,
                **computed,
            },
            "drifted": drifted,
            "yield": {**passing.as_dict(), "threshold": judge.shown(passing.threshold)} if passing else None,
            "layers": [layer.as_dict() for layer in self.layers],
            "hardware": to_dict(self.hardware),
            "seed": self.seed,
            "chips": list(self.chips),
            "stream_version": STREAM_VERSION,
            "warnings": list(self.warnings),
            "notes": list(self.notes),
            **({} if self.judged is None else {"judged": self.judged}),
            **({} if self.work is None or not self.work.digital else {"multiply_adds": self.work.as_dict()}),
            **({} if self.calibrator is None else {"calibration": self._calibration_dict(self.calibrator)}),
            **self.identity,
        }

    @property
    def gain(self) -> Summary | None:
        """By how much calibration betters the main score of each chip, as shown; None without a calibration."""
        if self.calibrator is None:
            return None
        judge, pairs = self.judge, zip(self.scores, self.uncalibrated, strict=True)
        shown = [[judge.shown(score.value(self.metric)) for score in pair] for pair in pairs]
        return summarise(judge.sign * (after - before) for after, before in shown)

    def _calibration_dict(self, calibrator: Calibrator) -> dict[str, Any]:
        without = summarise(score.value(self.metric) for score in self.uncalibrated)
        share, gain = calibrator.share, self.gain
        # absent for calibrations that are older than they are
        more = {} if share is None or gain is None else {"share": share, "gain": gain.as_dict()}
        return {
            **calibrator.calibration.as_dict(),
            **asdict(calibrator.cost),
            **more,
            "without": without.as_dict(),
        }


def _own(design: Design, layer: Layer) -> Hardware:
    """The design of a layer; the default one for a layer that is digital by its design."""
    found = design_at(design, layer.name)
    return found if found is not None else design.base if isinstance(design, LayerDesigns) else design


def deploy(
    model: nn.Module,
    x: Any,
    y: Any = None,
    hardware: Design | str | os.PathLike[str] | Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    chips: int | Iterable[int] = 20,
    threshold: float | None = None,
    metric: str | Callable[[Tensor, Tensor], Any] | None = None,
    only: Iterable[str] | None = None,
    skip: Iterable[str] = (),
    sensitivity_chips: int = 5,
    sensitivity_images: int = 1000,
    maps: Maps | None = None,
    remap: bool = False,
    calibration: tuple[Calibration, Development] | None = None,
    calibrate: str | Calibration | None = None,
    calibration_data: Any = None,
    block: int = BLOCK,
    fixed: int | None = None,
    class_axis: int | None = None,
    device: str | torch.device | Device | None = None,
    identity: dict[str, Any] | None = None,
    notes: tuple[str, ...] = (),
    warnings: tuple[str, ...] = (),
    progress: Progress | None = None,
) -> Deployment:
    """Evaluate a trained model on simulated chips.

    The report's warnings are also issued as `CrossbarWarning`s.

    Args:
        model: clean; it is left in evaluation mode.
        x, y: examples (n, ...) and labels (n,) (or one per token or pixel, -100 where none is judged), or None to
            compare with the clean model alone. x may also hold both: a `Split`, a torch Dataset or DataLoader, a
            dictionary, a data set's name or path (see `data.load.to_examples`).
        hardware: the design, a preset's name or a hardware file; None: the preset "bayesft". Also a design per layer:
            `LayerDesigns`, or a mapping such as {"stem": "digital", "head": {"copies": 4}, "*": Hardware(...)}.
        seed, chips: which chips: a seed, and how many or their numbers.
        threshold: of the yield: the least score, or the largest error, that a chip passes with; None: for shares the
            clean score less 0.05, for other built-in metrics see docs/metrics.md, else none.
        metric: what chips are judged by: a name of `metrics.METRICS`, such as "accuracy", "perplexity" or "rmse"; None:
            accuracy, agreement or output_error, the first that labels and outputs allow, and rmse for real targets.
            Outputs (n, c, ...) with c > 1 are taken for scores of classes: without targets, for several outputs that
            are not (regression, an autoencoder) use "output_error". Also a function of outputs and targets, its import
            path "package.module:function", or a torchmetrics metric (docs/extending.md).
        only, skip: see `to_analog`.
        sensitivity_chips, sensitivity_images: how many chips and examples the per-layer sensitivity is
            measured on (0 chips: not at all).
        maps: conductances from a file instead of simulated ones.
        remap: place each matrix by its chip's stuck cells (docs/devices.md, "Fault-aware mapping").
        calibration: a digital correction for each chip, and the data whose training images it is fitted to; per-layer
            sensitivity stays without it.
        calibrate, calibration_data: the same for short, such as calibrate="lora:rank=4" (see `Calibration`), and data
            for it: `Development`, {"train": ..., "validation": ...}, or a data set's name or path; None: the training
            images of a data set that x names.
        block, fixed: see `nn.evaluate.outputs`.
        class_axis: of the model's outputs (n, ...), where the classes lie, -1 for the last; None: found from labels,
            operations and shapes (docs/model.md), or refused.
        device: where to compute: "cpu", "cuda", "cuda:1", "auto", ... (docs/gpu.md); None: where the model is.
        identity: what else decides the numbers, for the report: model, data, version.
        notes, warnings: sentences for the report that are known already.
        progress: called with (done, total, what) along the way; None: a line in notebooks, nothing elsewhere.

    Raises:
        InputError: if model, data and hardware do not go together.
    """
    if isinstance(y, Design):
        raise InputError(
            "y is a Hardware: the arguments are model, x, y, hardware; for data with labels in x give hardware="
        )
    if not isinstance(model, nn.Module):
        kind = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise InputError(f"model is {kind}: expected a torch.nn.Module (an instance)")
    hardware = as_design(hardware)
    if calibrate is not None and calibration is not None:
        raise InputError("calibration and calibrate are two calibrations: give one of them")
    calibration = calibration or calibration_of(calibrate, calibration_data, x)
    if isinstance(x, Tensor) and len(x) == 0:
        raise InputError("the data hold no example")
    examples = to_examples(x, y, "x")
    x, y, notes = examples.x, examples.y, (*notes, *examples.notes)
    numbers = EveryImage(chip_numbers(chips)).chips
    if sensitivity_chips < 0 or sensitivity_images < 1:
        raise InputError(
            f"sensitivity_chips={sensitivity_chips}, sensitivity_images={sensitivity_images}: expected 0 "
            "chips (no sensitivity) or more, and at least one image"
        )
    progress = progress or crossbar_sim.notebook_progress()
    if threshold is not None and not finite(threshold):
        raise InputError(f"threshold={threshold!r}: expected a score such as 0.9")
    if detects(model):
        raise InputError(NO_DETECTORS)
    with on_device(device, model) as where:
        subject, analog = Subject.prepared(
            model, hardware, x, y,
            chip=numbers[0], seed=seed, metric=metric, only=only, skip=skip,
            maps=maps, remap=remap, block=block, fixed=fixed, axis=class_axis,
            device=where,
        )  # fmt: skip
        reference, judge = subject.reference, subject.metric
        known = described(judge, None if reference.function is None else reference.function.about)
        if threshold is not None:
            known.check_threshold(threshold)
        alone = numbers[:sensitivity_chips]
        countdown = Countdown(len(alone) * len(layers_on_arrays(analog)))
        total, done = 1 + len(numbers) + countdown.total, 0

        def step(what: str) -> None:
            nonlocal done
            done += 1
            if what.endswith(ALONE):
                what = countdown(what)
            else:
                countdown.skip()
            if progress is not None:
                progress(done, total, what)

        step("clean model")
        clean = reference.clean_score()
        few = reference.part(some(len(reference.x), sensitivity_images, seed))
        effects = layer_effects(analog, few.x, fixed)
        notes = (*notes, *of_state(left_on(model)), *of_places(reference))
        limited = analog_chips.memory_notes(analog)
        found_out = subject.cautions(analog, effects, metric)
        if calibration is None or "statistics" not in calibration[0].parts:
            found_out += stale(model, analog, reference.x, fixed)
        if remap:
            errors = remap_errors(analog)
            identity = {**(identity or {}), "remap": {"chip": numbers[0], "layers": errors}}
            sentence, helped = remap_sentence(analog, errors)
            notes, found_out = ((*notes, sentence), found_out) if helped else (notes, [*found_out, sentence])
        if calibration is not None:
            calibrator = subject.calibrate(analog, *calibration)
            notes = (*notes, *calibrator.notes)
            found_out += calibrator.overlap(reference.x)
        notes = (*notes, *analog_chips.memory_notes(analog, limited))
        if where.tensors:
            notes = (*notes, f"computed on {where.described}", *subject.rounding())
        evaluator, details = Evaluator(subject, analog), Details(few=few, alone=alone, step=step)
        measured = [
            chip
            for block in evaluator.in_blocks(numbers, lambda some: evaluator.details(some, details))
            for chip in block
        ]
        scores = tuple(chip.score for chip in measured if chip.score is not None)
        plain = tuple(chip.uncalibrated for chip in measured if chip.uncalibrated is not None)
        losses = drops(measured, few, judge)
        layers = tuple(
            LayerReport(
                layer, _own(hardware, layer), effects.get(layer.name, {}),
                Sensitivity(summarise(losses[layer.name]), len(few.x)) if layer.name in losses else None,
                hardware.chosen(layer.name) if isinstance(hardware, LayerDesigns) else None,
            )
            for layer in analog_chips.layers(analog)
        )  # fmt: skip
        if threshold is not None:
            threshold = known.stored(threshold)
        elif known.share and known.sign > 0:
            threshold = max(round(clean.value(judge) - 0.05, 3), 0.0)
        elif known.easing is not None:
            threshold = known.stored(known.easing(known.shown(clean.value(judge))))
        found_out += [*of_scores(scores, numbers), *of_tail(scores, judge)]
        warn(found_out)
        return Deployment(
            judge, hardware, seed, numbers, clean, scores, threshold, layers,
            (*warnings, *found_out), tuple(notes), identity or {},
            subject.calibrator, plain, reference.about(),
            {} if reference.function is None else reference.function.about,
            work=None if subject.seen is None else ArrayShare.of(analog_chips.layers(analog), subject.seen.work),
        )  # fmt: skip


def identity_of(loaded: LoadedModel, data: dict[str, Any], chip: "ChipFile | None" = None) -> dict[str, Any]:
    """What decides the numbers beside design and seed, for the report.

    Args:
        loaded: the model, with where it was read from.
        data: the identity of the examples.
        chip: the file whose conductances are used instead of simulated ones, or None.
    """
    parameters = sum(p.numel() for p in loaded.module.parameters())
    used = None if chip is None else {"sha256": sha256_of(chip.path), "chip": chip.chip, "seed": chip.seed}
    return {
        "model": {
            "name": loaded.name, "source": loaded.source, "sha256": loaded.sha256, "parameters": parameters
        },
        "data": data,
        "conductances": used,
        "version": __version__,
    }  # fmt: skip
