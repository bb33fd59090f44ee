"""Tasks of a sweep: models, data and designs as the results file names them."""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from crossbar_sim import __version__
from crossbar_sim.crossbar.converters import Ranges
from crossbar_sim.crossbar.layer_designs import (
    Design,
    LayerDesigns,
    at_sigma,
    designs_of,
    identity_of,
    readout_effects,
    sources,
)
from crossbar_sim.data.dataset import Development, add_tensor
from crossbar_sim.data.inputs import first_of
from crossbar_sim.nn.analog.chips import analog_state, layers, memory_notes
from crossbar_sim.nn.analog.conversion import SKIPPED, is_adapter
from crossbar_sim.nn.analog.effects import layer_effects
from crossbar_sim.nn.analog.multiply_adds import LITTLE, ArrayShare
from crossbar_sim.nn.analog.state import Layer
from crossbar_sim.nn.device import CPU, Device
from crossbar_sim.nn.evaluate import BLOCK
from crossbar_sim.nn.files.loading import LoadedModel
from crossbar_sim.rng import STREAM_VERSION
from crossbar_sim.robustness.calibration import Calibration, stale
from crossbar_sim.robustness.detection_score import reference_of
from crossbar_sim.robustness.evaluator import Subject, evaluation_mode
from crossbar_sim.robustness.examples import Examples
from crossbar_sim.robustness.metrics import Metric, find_metric
from crossbar_sim.robustness.score import of_places
from crossbar_sim.store.records import Task

# From a model and its examples to a task: its identity, and what a worker needs to measure its chips.


IDENTITY = 1
"""Of the form of a task's identity: raised when a key of it changes its meaning."""


@dataclass(frozen=True, eq=False)
class Model:
    """A model to be swept.

    Args:
        label: what reports call it.
        module: the clean model.
        examples: what it is tried on.
        identity: of the model: the SHA-256 of its file and how that was read, or of its parameters.
        fixed: the one batch size that it accepts, if there is one.
        about: what else a report may show.
        ranges: of the converters in its layers, where they were calibrated for it.
        calibration: a digital correction of each chip, and the data whose training images it is fitted to.
    """

    label: str
    module: nn.Module
    examples: Examples
    identity: Mapping[str, Any]
    fixed: int | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    ranges: Ranges | None = None
    calibration: tuple[Calibration, Development] | None = None


_LATER = ("einsum", "tensordot", "bilinear", "bmm", "baddbmm", "mv", "lstm", "gru", "rnn", "grouped_mm")
"""How operators are called whose products once went through no converters."""


def _converts_more(subject: Subject, analog: nn.Module) -> bool:
    """Whether converters or read noise act on a product on which they did not act in earlier versions."""
    if not readout_effects(subject.hardware):
        return False
    work = () if subject.seen is None else subject.seen.work
    slots = [slot for layer in layers(analog) for slot in layer.matrices]
    spread = any(slot.layout.order == "transposed" for slot in slots)
    return (
        spread
        or bool(analog_state(analog).later)
        or any(one.names and any(kind in one.operator for kind in _LATER) for one in work)
    )


def _leaves_norms(subject: Subject, analog: nn.Module) -> bool:
    """Whether `skip` names a normalisation that would be folded."""
    folded = any(own.normalisation == "folded" for own in designs_of(subject.hardware))
    return folded and any(
        layer.reason == SKIPPED and "norm" in layer.kind.lower() for layer in layers(analog)
    )


def _on_arrays(layer: Layer) -> bool:
    """Whether a layer is an adapter on arrays, where a design per layer names it."""
    return layer.analog and is_adapter(layer.name)


def model_of_file(
    label: str, path: str, loaded: LoadedModel, examples: Examples, ways: Mapping[str, Any]
) -> Model:
    """A model that was read from a file, to be swept.

    Args:
        label, path: what to call it, and where it was.
        loaded: what the file held.
        examples: what it is tried on.
        ways: "arch", "arch_arguments", parsed, and "weights": how the file was read, which is part of the identity.
    """
    identity: dict[str, Any] = {
        "sha256": loaded.sha256,
        "arch": ways["arch"],
        "arch_arguments": dict(ways["arch_arguments"]) if ways["arch_arguments"] else None,
    }
    if ways.get("weights") is not None:  # absent else, so that other models keep their identity
        identity["weights"] = ways["weights"]
    about = {
        "file": os.path.basename(os.path.normpath(path)),
        "network": loaded.name,
        "source": loaded.source,
        "parameters": sum(p.numel() for p in loaded.module.parameters()),
        "version": __version__,
        "torch": torch.__version__,
        "loading": list(loaded.notes),
    }
    return Model(label, loaded.module, examples, identity, loaded.batch, about)


def fingerprint(module: nn.Module) -> str:
    """SHA-256 (hex) of a model in memory: its layers as torch prints them, and every parameter and buffer.

    Buffers that a state_dict leaves out (as the code words of `Coded`) count too.

    The code of a forward is not part of it: a model whose code has changed needs another label and
    results file.
    """
    state = hashlib.sha256(repr(module).encode())
    if isinstance(module, torch.fx.GraphModule):
        state.update(module.code.encode())
    kept = module.state_dict()
    left_out = {name: b for name, b in module.named_buffers(remove_duplicate=False) if name not in kept}
    for name, tensor in (*kept.items(), *left_out.items()):
        if isinstance(tensor, Tensor):
            add_tensor(state, f"{name} {tensor.dtype}", tensor)
    return state.hexdigest()


def metric_of(
    module: nn.Module,
    examples: Examples,
    requested: str | Metric | Callable[..., Any] | None,
    fixed: int | None = None,
    axis: int | None = None,
) -> str:
    """What a model will be judged by, found on two of its examples, before the work.

    Args:
        module: the model, trained or not; it is put in evaluation mode.
        examples: what it is tried on.
        requested: the requested metric, or None.
        fixed: the one batch size that it accepts, if there is one.
        axis: of the classes in its outputs, or None.

    Raises:
        InputError: if model, examples and metric do not go together.
    """
    evaluation_mode(module)
    few = slice(fixed or 2)
    y = None if examples.y is None else examples.y[few]
    judge = None if requested is None else find_metric(requested)
    found = reference_of(module, examples.x[few], y, BLOCK, fixed, axis, judge)
    return found.metric(None if judge is None else judge.name)


_OWN_DRIFT = "layer {}: its design sets its drift, which is the same at every sigma of the sweep"


def prepare(
    model: Model,
    hardware: Design,
    seed: int,
    metric: str | Callable[..., Any] | None,
    only: tuple[str, ...] | None,
    skip: tuple[str, ...],
    images: Callable[[Subject], Mapping[str, Any]],
    sigma: float,
    axis: int | None = None,
    device: Device = CPU,
) -> tuple[Task, Subject]:
    """The task of a model on a design, and its subject; the clean model runs once.

    Args:
        model: with its examples.
        hardware: the design; the sigma of its drift law is what is swept and has no place in the identity.
        seed: of all chips.
        metric: the requested metric, or None.
        only, skip: see `to_analog`.
        images: how they are taken: of a plan.
        sigma: at which effects that do not act are looked for; not part of the identity.
        axis: of the classes in the model's outputs; None: found as `Reference.of` does.
        device: where the model is, and chips are computed; no part of the identity.

    Raises:
        InputError: if model, examples, design and metric do not go together.
    """
    if model.ranges is not None:
        hardware = replace(hardware, ranges=model.ranges)
    examples = model.examples
    subject, analog = Subject.prepared(
        model.module, hardware, examples.x, examples.y,
        sigma=sigma, seed=seed, metric=metric, only=only, skip=skip, fixed=model.fixed, axis=axis, device=device,
    )  # fmt: skip
    reference, chosen = subject.reference, subject.metric
    corrected: dict[str, Any] = {}
    limited = memory_notes(analog)
    if model.calibration is not None:
        how, development = model.calibration
        calibrator = subject.calibrate(analog, how, development)
        corrected = {"calibration": {**calibrator.identity, "data": development.fingerprint}}
    effects = layer_effects(
        analog, reference.x, reference.fixed
    )  # which shows products through converters too
    design = identity_of(at_sigma(hardware, 0.0))
    design["drift"] = {**design["drift"], "sigma": None}
    own: tuple[str, ...] = ()
    if isinstance(hardware, LayerDesigns):
        design["layers"], own = identity_of(hardware)["layers"], hardware.own_drift  # without the swept sigma
    identity = {
        "identity": IDENTITY,
        "model": dict(model.identity),
        "data": {key: examples.identity.get(key) for key in ("fingerprint", "images", "labelled")}
        # random inputs follow from the seed and their shape
        | ({} if examples.identity.get("fingerprint") else {"shape": list(first_of(examples.x).shape[1:])}),
        "hardware": design,
        **sources(hardware),
        "only": None if only is None else sorted(only),
        "skip": sorted(skip),
        "seed": seed,
        "stream": STREAM_VERSION,
        "metric": chosen,
        **({} if reference.function is None else reference.function.identity),
        "images": dict(images(subject)),
        **corrected,
        # where it is the second, as for all networks with one class per example, it is left out
        **({} if reference.axis in (None, 1) else {"class_axis": reference.axis}),
        **({"next_token": True} if reference.shifted else {}),
        # absent where only products are converted that always were, so that such tasks keep their identity
        **({"converted": "every product"} if _converts_more(subject, analog) else {}),
        **({"products": "tf32"} if device.tf32 else {}),
        **({"unfolded": True} if _leaves_norms(subject, analog) else {}),
        **(
            {"bias_rows": "in parts"}
            if any(s.in_parts for layer in layers(analog) for s in layer.slots)
            else {}
        ),
        **({"adapters": "on arrays"} if only is None and any(map(_on_arrays, layers(analog))) else {}),
        **({"tied": "told apart"} if subject.seen is not None and subject.seen.apart else {}),
    }
    judged = reference.about()
    calibrated = (
        []
        if subject.calibrator is None
        else [f"every chip was calibrated: {subject.calibrator}", *subject.calibrator.notes]
    )
    share = None if subject.seen is None else ArrayShare.of(layers(analog), subject.seen.work)
    about = {
        "data": examples.identity.get("name"),
        "notes": [
            *examples.notes,
            *of_places(reference),
            *(_OWN_DRIFT.format(pattern) for pattern in own),
            *calibrated,
            *memory_notes(analog, limited),
            *subject.rounding(),
            # a small share is a warning instead
            *([share.sentence] if share and share.sentence and share.share >= LITTLE else []),
        ],
        "warnings": _warnings(subject, analog, effects, sigma, metric),
        **({} if share is None else {"multiply_adds": share.as_dict()}),
        **({} if judged is None else {"judged": judged}),
        **(
            {}
            if reference.function is None or not reference.function.about
            else {"metric": reference.function.about}
        ),
        **model.about,
    }
    return Task(model.label, identity, reference.clean_score().value(chosen), about), subject


def _warnings(
    subject: Subject, analog: nn.Module, effects: dict[str, dict[str, float]], sigma: float, metric: object
) -> list[str]:
    """What the report should warn of, found on chip 0."""
    found = subject.cautions(analog, effects, metric)
    if sigma == 0:  # then no drift was requested
        found = [sentence for sentence in found if not sentence.startswith("drift ")]
    calibrator, reference = subject.calibrator, subject.reference
    if calibrator is None or calibrator.statistics is None:
        found += stale(subject.module, analog, reference.x, reference.fixed)
    if calibrator is not None:
        found += calibrator.overlap(reference.x)
    return found
