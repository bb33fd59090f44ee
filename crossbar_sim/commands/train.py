"""`crossbar-sim train`: a network by one of the methods."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from crossbar_sim.commands.options import (
    PATH,
    DeviceOptions,
    HardwareOptions,
    NetworkOptions,
    ThreadOptions,
    command,
    interval,
    option,
)
from crossbar_sim.errors import InputError
from crossbar_sim.files import check_outputs

if TYPE_CHECKING:
    from crossbar_sim.crossbar.layer_designs import Design
    from crossbar_sim.nn.training.loop import Epoch


@dataclass(frozen=True)
class MethodOptions:
    """A training method with its own settings."""

    HEADING: ClassVar = "Training"

    method: str = option(
        "Training method: erm, dropout, awp, ftna, reram-v, drift-aware, correctnet or neft (docs/methods.md).",
        default="erm",
    )  # fmt: skip
    settings: tuple[str, ...] = option(
        "A setting of the method or of the training, e.g. rate=0.3 or label_smoothing=0.2 (docs/methods.md; may be "
        "repeated).",
        "--set", metavar="NAME=VALUE",
    )  # fmt: skip
    calibrated: bool = option(
        "Train for chips that are calibrated, with drift-aware: digital normalisation by each chip's own statistics "
        "behind every array, and a digital last layer. Evaluate with --calibrate statistics or statistics+readout."
    )


@dataclass(frozen=True)
class RecipeOptions:
    """How weights are trained: settings that all methods share; None leaves the method's own."""

    HEADING: ClassVar = "Training"

    epochs: int | None = option(
        "Number of passes over the training examples.  [default: of the network's recipe, else the method's]"
    )
    batch: int | None = option(
        "Examples per training step.  [default: of the network's recipe, else the method's]"
    )
    lr: float | None = option("Peak learning rate.  [default: of the network's recipe, else the method's]")
    loss: str | None = option(
        "What is minimised: cross-entropy, mse, l1, huber or package.module:function (docs/methods.md).  [default: "
        "cross-entropy, of real targets mse]"
    )
    metric: str | None = option(
        "What validation examples are judged by after every epoch, and by which --patience keeps the best weights: "
        "accuracy, top5, f1, miou, perplexity, cross-entropy, rmse, mae, r2 (docs/metrics.md) or "
        "package.module:function.  [default: accuracy, of real targets rmse]"
    )
    optimiser: str | None = option("Optimiser: adam, sgd or muon.  [default: adam]")
    schedule: Literal["one-cycle", "triangular", "linear", "constant"] | None = option(
        "Learning rate schedule.  [default: one-cycle]"
    )
    weight_decay: float | None = option("Weight decay.  [default: 0]")
    clip_gradient: float | None = option(
        "Clip each component of the gradient to the interval from -VALUE to VALUE.", metavar="VALUE"
    )
    patience: int | None = option(
        "Stop after this many epochs without a better validation accuracy (or --metric). It is measured on the "
        "undisturbed weights, so this does not go with drift-aware."
    )
    crop: int | None = option("Shift training images at random by up to this many pixels, e.g. 4.")
    flip: bool = option("Mirror training images at random.")
    precision: Literal["float32", "bfloat16"] | None = option("Floating-point format.  [default: float32]")
    channels_last: bool = option(
        "Store images with the channels last in memory, which is faster for most convolutional networks."
    )


@dataclass(frozen=True)
class TrainRequest(
    NetworkOptions, HardwareOptions, MethodOptions, RecipeOptions, ThreadOptions, DeviceOptions
):
    """What `train` is to do."""

    sigma: Any = option(
        "Standard deviation of the log-normal drift to train for, or low:high to draw it for each chip of a step.",
        heading="Hardware", type=interval("--sigma", alone=True),
    )  # fmt: skip
    seed: int = option(
        "Random seed of initialisation, shuffling, dropout and training noise.", heading="Training", default=0
    )
    output: str = option(
        "Write the trained network to this file.",
        "--output",
        "-o",
        heading="Output",
        type=PATH,
        required=True,
    )
    checkpoint: str | None = option(
        "Save the state of the training in this file, and resume from it.", heading="Output", type=PATH
    )


@command(TrainRequest)
def train(request: TrainRequest) -> None:
    """Train a network on a data set, either plainly or with a method that makes it robust to device variations.

    Only training and validation examples are read, never the test examples.

    \b
    Examples:
      crossbar-sim train --network mlp --data mnist --method erm -o erm.pt
      crossbar-sim train --network mlp --data mnist --method drift-aware --sigma 1.0 -o aware.pt
      crossbar-sim train --network lenet5 --data mnist --method dropout --set rate=0.3 --epochs 20 -o net.pt
      crossbar-sim train --network lenet5 --data mnist --from net.pt --method drift-aware --sigma 0.3:0.9 -o tuned.pt
    """
    from crossbar_sim.data import load_data
    from crossbar_sim.experiments.networks import Named, save_network, started, validation_in_words
    from crossbar_sim.experiments.recipes import with_recipe
    from crossbar_sim.nn.detection import detects
    from crossbar_sim.nn.networks import NETWORKS
    from crossbar_sim.report.console import say, say_end, terminal
    from crossbar_sim.rng import Key
    from crossbar_sim.search import BayesFT
    from crossbar_sim.search.by_name import any_method

    check_outputs((request.output, request.checkpoint), (request.hardware_file, request.data, request.start))
    request.set_threads()
    if request.method == BayesFT.kind:
        raise InputError("bayesft is a search: use crossbar-sim search, whose options are its settings")
    settings, hardware, warnings = _settings(request)
    settings, training = with_recipe(request.network, request.method, settings, _training(request))
    method = any_method(request.method, settings, training, hardware)
    splits = load_data(request.data, request.data_dir)
    made = Named.of(request.network, request.network_arguments or {}, splits)
    made.check_method(request.method)
    y = splits.development.train.y
    places = y is not None and y.dim() > 1
    begun = None if request.start is None else started(made, request.start)
    console = terminal()

    def say_epoch(epoch: Epoch) -> None:
        held = validation_in_words(NETWORKS.get(request.network), epoch, places, method.training.metric)
        say(console, f"epoch {epoch.number}: loss {epoch.loss:.4g}{'' if held is None else f', {held}'}")

    say(console, f"{request.method}: {method.citation}", "dim")
    if begun is not None:
        say(console, f"begins with the weights of {begun.origin} (sha256 {begun.sha256[:12]})")
    done = method.fit(
        begun or made,
        splits.development,
        Key(request.seed),
        progress=say_epoch,
        checkpoint=request.checkpoint,
    )
    say_end(console, warnings)
    for name, value in done.notes.items():
        text = json.dumps(value, default=str)
        say(console, f"{name}: {text if len(text) <= 120 else text[:117] + '...'}")
    notes = None if begun is None else {"from": begun.sha256}
    save_network(request.output, done.model, request.data, notes, made)
    arch = f" --arch {request.network}" if ":" in request.network else ""
    then = f"sweep {request.output}" if detects(done.model) else f"deploy {request.output}{arch} --sigma 0.6"
    if settings.get("calibrated"):
        then += " --calibrate statistics"
    say(console, f"wrote {request.output}: crossbar-sim {then}")


def _settings(request: TrainRequest) -> tuple[dict[str, Any], Design | None, tuple[str, ...]]:
    """The method's own settings, the design that it trains for, and what to warn of.

    --sigma is a setting of the methods that have one, and part of the design for the others.
    """
    from crossbar_sim.baselines.drift_aware import DriftAware
    from crossbar_sim.baselines.settings import METHODS, TRAINING, setting
    from crossbar_sim.validate import show

    settings = {name: value for name, value in map(setting, request.settings) if name not in TRAINING}
    if request.calibrated:
        if request.method != DriftAware.kind:
            raise InputError(
                f"--calibrated is for --method drift-aware, whose steps run on chips; {request.method} trains without"
            )
        if settings.setdefault("calibrated", True) is not True:
            raise InputError(
                f"--calibrated and --set calibrated={show(settings['calibrated'])} differ: give one of them"
            )
    kind: Any = METHODS.get(request.method)
    takes_sigma = kind is not None and "sigma" in {f.name for f in fields(kind)}
    sigma, designed = request.sigma, bool(request.design().keys() - {"sigma"})
    if isinstance(sigma, tuple) and request.method != DriftAware.kind:
        raise InputError(
            f"--sigma {_shown(sigma)}: only drift-aware training draws its sigma from a range; give one sigma"
        )
    if sigma is not None and takes_sigma:
        if "sigma" in settings:
            raise InputError(
                f"--sigma {_shown(sigma)} and --set sigma={show(settings['sigma'])} set the same value: give one of "
                "them"
            )
        settings["sigma"] = sigma
    if not designed and (sigma is None or takes_sigma):
        return settings, None, ()
    if isinstance(sigma, tuple):
        request = replace(request, sigma=None)  # each chip of a step has its own
    hardware, warnings = request.hardware()
    if request.method == DriftAware.kind and designed and "sigma" not in settings:
        _require_lognormal(hardware)
    return settings, hardware, warnings


def _shown(sigma: float | tuple[float, float]) -> str:
    return ":".join(f"{each:g}" for each in sigma) if isinstance(sigma, tuple) else f"{sigma:g}"


def _training(request: TrainRequest) -> dict[str, Any]:
    """The fields of `Training` that the options give."""
    from crossbar_sim.experiments.recipes import given_training
    from crossbar_sim.nn.training.augment import Augment

    options = {f.name: getattr(request, f.name) for f in fields(RecipeOptions)}
    if request.device is not None:
        options["device"] = request.chosen_device().name
    options["channels_last"] = options["channels_last"] or None
    crop, flip = options.pop("crop"), options.pop("flip")
    options["augment"] = Augment(crop or 0, flip) if crop is not None or flip else None
    options["clip"] = options.pop("clip_gradient")
    return given_training(options, request.settings)


def _require_lognormal(hardware: Design) -> None:
    """Refuse to train with the method's default sigma for a design without log-normal drift.

    Raises:
        InputError: naming the options that set a sigma, or that use the design alone.
    """
    from crossbar_sim.crossbar.drift import LogNormalDrift
    from crossbar_sim.crossbar.layer_designs import designs_of

    drift = designs_of(hardware)[0].drift
    if not isinstance(drift, LogNormalDrift):
        law = "no drift" if drift is None else f"{drift.kind} drift"
        raise InputError(
            f"the design has {law}: give --sigma to set the drift to train for, or train on the design as it is with "
            "--set sigma=null --set ramp=0 --set temperature=false"
        )
