"""The models of an experiment: files of trained ones, and how others are to be trained."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from crossbar_sim.crossbar.checks import show
from crossbar_sim.errors import InputError
from crossbar_sim.nn.augment import Augment
from crossbar_sim.nn.training import Training
from crossbar_sim.robustness.experiment_tables import is_table, known, table_at, text_at, whole_at

_MODEL = ("path", "arch", "arch_arguments", "weights")
_TRAIN = ("network", "arguments", "method", "settings", "seed", "seeds")
_TRAINING = tuple(f.name for f in fields(Training))
_LARGEST = 2**64 - 1


@dataclass(frozen=True)
class ModelFile:
    """A trained model: the path of its file, seen from the experiment's folder; the rest as for `load_model`."""

    path: str
    arch: str | None = None
    arch_arguments: Mapping[str, Any] | None = None
    weights: str | None = None


@dataclass(frozen=True)
class ToTrain:
    """A model to be trained.

    Args:
        network: a name of `nn.networks.NETWORKS`.
        arguments: of that network.
        method: a name of `baselines.settings.METHODS`, or "bayesft".
        settings: of that method.
        training: fields of `nn.training.Training` that differ from the method's own recipe.
        seed: of initialisation, shuffling, dropout and training noise.
    """

    network: str
    arguments: Mapping[str, Any]
    method: str
    settings: Mapping[str, Any]
    training: Mapping[str, Any]
    seed: int


def read_models(table: Mapping[str, Any]) -> dict[str, ModelFile | ToTrain]:
    """The models of [models] and [train], by label, in the order of the file.

    Raises:
        InputError: naming the key, what was given and what is allowed.
    """
    models: dict[str, ModelFile | ToTrain] = {}
    for label, given in table_at(table, "models").items():
        models[label] = _file(label, {"path": given} if isinstance(given, str) else given)
    for label, given in table_at(table, "train").items():
        for name, one in _to_train(label, given).items():
            if name in models:
                raise InputError(
                    f"{name} is in models and in train, or twice in train: give each a name of its own"
                )
            models[name] = one
    if not models:
        raise InputError('there is no model: give [models] with NAME = "file.pt", or [train.NAME]')
    return models


def _file(label: str, entry: Any) -> ModelFile:
    where = f"models.{label}"
    table = is_table(entry, where)
    known(table, _MODEL, f"the key {where}.")
    path = text_at(table, "path", f"{where}.")
    if path is None:
        raise InputError(f"{where} has no path: it needs the file of a trained model")
    arguments = table.get("arch_arguments")
    if arguments is not None and not isinstance(arguments, dict):
        raise InputError(
            f"{where}.arch_arguments={show(arguments)}: expected a table such as {{ num_classes = 10 }}"
        )
    return ModelFile(
        path, text_at(table, "arch", f"{where}."), arguments, text_at(table, "weights", f"{where}.")
    )


def _to_train(label: str, given: Any) -> dict[str, ToTrain]:
    """What one table [train.LABEL] asks for: one network, or one for each of its seeds."""
    where = f"train.{label}"
    table = {"arguments": {}, "settings": {}, "method": "erm", **is_table(given, where)}
    training = {name: table.pop(name) for name in _TRAINING if name in table}
    known(table, (*_TRAIN, *_TRAINING), f"the key {where}.")
    for name in ("network", "method"):
        if not isinstance(table.get(name), str):
            raise InputError(f"{where}.{name}={show(table.get(name))}: expected a text")
    for name in ("arguments", "settings"):
        is_table(table[name], f"{where}.{name}")
    try:
        if "augment" in training:
            training["augment"] = _augment(training["augment"])
        Training(**training)
    except InputError as error:
        raise InputError(f"{where}.{error}") from None
    return {
        name: ToTrain(
            table["network"], table["arguments"], table["method"], table["settings"], training, seed
        )
        for name, seed in _seeds(label, where, table).items()
    }


def _augment(given: Any) -> Augment:
    table = is_table(given, "augment")
    known(table, [f.name for f in fields(Augment)], "the key augment.")
    return Augment(**table)


def _seeds(label: str, where: str, table: Mapping[str, Any]) -> dict[str, int]:
    """Label -> seed of each network."""
    seeds = table.get("seeds")
    if seeds is None:
        return {label: whole_at(table, "seed", 0, _LARGEST, 0, f"{where}.")}
    if not isinstance(seeds, list) or not seeds or "seed" in table:
        raise InputError(f"{where}.seeds={show(seeds)}: expected a list such as [0, 1, 2], and then no seed")
    numbers = [whole_at({"seeds": seed}, "seeds", 0, _LARGEST, None, f"{where}.") for seed in seeds]
    if len(set(numbers)) != len(numbers):
        raise InputError(
            f"{where}.seeds={show(seeds)}: a seed is there twice, and would give the same network again"
        )
    return {f"{label}, seed {seed}": seed for seed in numbers}
