"""What the command train does, between options and printing."""

import json
import os
from dataclasses import fields
from typing import Any

from rich.console import Console
from torch import nn

from crossbar_sim.baselines.settings import METHODS, method_of, setting
from crossbar_sim.crossbar import threads as pool
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.data import load_data
from crossbar_sim.errors import InputError
from crossbar_sim.files import check_outputs
from crossbar_sim.nn.checkpoint import save_checkpoint
from crossbar_sim.nn.networks import NETWORKS, build
from crossbar_sim.nn.train import Epoch
from crossbar_sim.rng import Key
from crossbar_sim.robustness.wording import say


def run_train(
    hardware: Hardware | None,
    warnings: tuple[str, ...],
    *,
    sigma: float | None,
    designed: bool,
    inputs: tuple[str | None, ...],
    network: str,
    network_arguments: str | None,
    data: str,
    data_dir: str | None,
    method: str,
    settings: tuple[str, ...],
    seed: int,
    checkpoint: str | None,
    threads: int | None,
    output: str,
    **training: Any,
) -> None:
    """Train, say how well it went on the validation examples, save; see `crossbar-sim train --help`.

    Args:
        hardware: the design, if the command names one.
        sigma: what --sigma gave: also a setting of methods that have a sigma.
        designed: whether anything but --sigma describes the design.
        training: settings that all methods share; None where not given.

    Raises:
        InputError: for anything that cannot be used; outputs are checked before the long work.
    """
    check_outputs((output, checkpoint), (*inputs, data))
    if threads is not None:
        pool.set_threads(threads)
    own = dict(map(setting, settings))
    kind = METHODS.get(method)
    takes = {f.name for f in fields(kind)} if kind is not None else set()  # type: ignore[arg-type]
    if sigma is not None and "sigma" in takes:
        own.setdefault("sigma", sigma)
    given = {name: value for name, value in training.items() if value is not None}
    needs = designed or (sigma is not None and "sigma" not in takes)
    way = method_of(method, own, given, hardware if needs else None)
    arguments = parsed_arguments(network_arguments)
    development = load_data(data, data_dir).development
    console = Console(highlight=False)

    def tell(epoch: Epoch) -> None:
        score = epoch.validation_accuracy
        held = "" if score is None else f", {score:.1%} of the validation examples right"
        say(console, f"epoch {epoch.number}: loss {epoch.loss:.4g}{held}")

    say(console, f"{method}: {way.citation}", "dim")
    done = way.fit(
        lambda: build(network, **arguments), development, Key(seed), progress=tell, checkpoint=checkpoint
    )
    for warning in warnings if needs else ():
        say(console, f"warning: {warning}", "yellow")
    for name, value in done.notes.items():
        text = json.dumps(value, default=str)
        say(console, f"{name}: {text if len(text) <= 120 else text[:117] + '...'}")
    save_network(output, done.model, data)
    say(console, f"wrote {output}: crossbar-sim deploy {output} --sigma 0.6")


def save_network(path: str | os.PathLike[str], model: nn.Module, data: str) -> None:
    """Save a network of ours under the name and arguments that rebuild it.

    Raises:
        InputError: if it is none of ours.
    """
    name = next((known for known, made in NETWORKS.items() if type(model) is made), None)
    arguments: Any = getattr(model, "arguments", None)
    if name is None or arguments is None:
        raise InputError(f"{type(model).__name__} is no network of ours: save it with torch.export")
    save_checkpoint(path, model, name, arguments, data)


def parsed_arguments(text: str | None) -> dict[str, Any]:
    """--network-arguments as a dictionary.

    Raises:
        InputError: if it is no JSON object.
    """
    try:
        arguments = json.loads(text) if text else {}
    except ValueError as error:
        raise InputError(f"--network-arguments is no JSON: {error}") from error
    if not isinstance(arguments, dict):
        raise InputError(f'--network-arguments {text!r}: expected an object such as {{"hidden": [64, 32]}}')
    return arguments
