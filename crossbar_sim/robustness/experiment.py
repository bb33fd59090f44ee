"""An experiment as one file: models or how to train them, data, hardware, sigmas, chips, seed (docs/experiments.md)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from crossbar_sim.crossbar.checks import finite, is_whole, show, unknown
from crossbar_sim.crossbar.config import from_dict, load_hardware, parse_toml, read_text
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.overrides import override
from crossbar_sim.crossbar.presets import preset
from crossbar_sim.errors import InputError
from crossbar_sim.nn.training import Training
from crossbar_sim.robustness.plans import EveryImage, HalfWidth, Plan
from crossbar_sim.robustness.score import METRICS

PROTOCOL = tuple(round(0.05 * i, 2) for i in range(31))
"""The sigmas of the BayesFT paper's curves: 0 to 1.5 in 31 points."""


@dataclass(frozen=True)
class ModelFile:
    """A trained model: the path is that of its file, seen from the experiment's folder."""

    path: str
    arch: str | None = None
    arch_arguments: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class ToTrain:
    """A model to be trained.

    Args:
        network: a name of `nn.networks.NETWORKS`.
        arguments: of that network.
        method: a name of `baselines.settings.METHODS`.
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


@dataclass(frozen=True)
class Experiment:
    """What an experiment's file says; see `load_experiment`."""

    name: str
    folder: Path
    title: str
    data: str
    models: Mapping[str, ModelFile | ToTrain]
    hardware: Hardware
    warnings: tuple[str, ...]
    sigmas: tuple[float, ...]
    plan: Plan
    seed: int = 0
    metric: str | None = None
    threshold: float | None = None
    sensitivity_chips: int = 5


_KEYS = (
    "title", "data", "models", "train", "hardware", "sigmas", "chips", "half_width", "seed", "metric", "threshold",
    "sensitivity_chips",
)  # fmt: skip
_MODEL = ("path", "arch", "arch_arguments")
_TRAIN = ("network", "arguments", "method", "settings", "seed", "seeds")
_TRAINING = tuple(f.name for f in fields(Training))


def load_experiment(path: Path) -> Experiment:
    """Read an experiment's TOML file.

    Raises:
        InputError: naming the file, the key, what was given and what is allowed; an unknown key with the nearest one.
    """
    table = parse_toml(read_text(path), str(path))
    try:
        return _experiment(path, table)
    except InputError as error:
        message = str(error)
        raise InputError(message if message.startswith(str(path)) else f"{path}: {message}") from None


def _experiment(path: Path, table: dict[str, Any]) -> Experiment:
    _known(table, _KEYS, "the key")
    text = _taker(table, str, "a text")
    models: dict[str, ModelFile | ToTrain] = {}
    for label, given in _table(table, "models").items():
        entry = {"path": given} if isinstance(given, str) else given
        models[label] = _built(ModelFile, entry, _MODEL, f"models.{label}", ("path",))
    for label, given in _table(table, "train").items():
        for name, one in _to_train(label, given).items():
            if name in models:
                raise InputError(f"{name} is in models and in train: give each model a name of its own")
            models[name] = one
    if not models:
        raise InputError('there is no model: give [models] with NAME = "file.pt", or [train.NAME]')
    if "data" not in table:
        raise InputError("data is missing: give a data set's name, or the path of a file")
    hardware, warnings = _hardware(table.get("hardware", {"preset": "bayesft"}), path.parent)
    metric, threshold = text("metric"), table.get("threshold")
    if metric is not None and metric not in METRICS:
        raise InputError(unknown("metric", metric, METRICS))
    if threshold is not None and not finite(threshold):
        raise InputError(f"threshold={show(threshold)}: expected a score such as 0.9")
    return Experiment(
        name=path.stem,
        folder=path.parent,
        title=text("title") or path.stem,
        data=text("data") or "",
        models=models,
        hardware=hardware,
        warnings=warnings,
        sigmas=_sigmas(table.get("sigmas")),
        plan=_plan(table),
        seed=_whole(table, "seed", 0, 2**64 - 1, 0),
        metric=metric,
        threshold=None if threshold is None else float(threshold),
        sensitivity_chips=_whole(table, "sensitivity_chips", 0, 10_000, 5),
    )


def _plan(table: dict[str, Any]) -> Plan:
    if "half_width" in table:
        if "chips" in table:
            raise InputError("chips and half_width are two budgets: give one of them")
        if not finite(table["half_width"]):
            raise InputError(f"half_width={show(table['half_width'])}: expected a number such as 0.005")
        return HalfWidth(float(table["half_width"]))
    chips = table.get("chips", 20)
    if isinstance(chips, list) and all(is_whole(chip) and chip >= 0 for chip in chips):
        return EveryImage(tuple(chips))
    return EveryImage(tuple(range(_whole({"chips": chips}, "chips", 1, 1_000_000, 20))))


def _sigmas(given: Any) -> tuple[float, ...]:
    """A list, or {from, to, points}; None: the paper's 31."""
    if given is None:
        return PROTOCOL
    if isinstance(given, dict):
        _known(given, ("from", "to", "points"), "the key sigmas.")
        points = _whole(given, "points", 2, 10_000, None)
        first, last = given.get("from", 0.0), given.get("to")
        if finite(first) and finite(last):
            return tuple(round(first + (last - first) * i / (points - 1), 12) for i in range(points))
    if isinstance(given, list) and given and all(finite(sigma) for sigma in given):
        return tuple(float(sigma) for sigma in given)
    raise InputError(
        f"sigmas={show(given)}: expected a list such as [0, 0.3, 0.6], or {{from = 0, to = 1.5, points = 31}}"
    )


def _hardware(given: Any, folder: Path) -> tuple[Hardware, tuple[str, ...]]:
    """A preset with overrides, the path of a hardware file, or a whole design; the sigma of its drift is swept."""
    if isinstance(given, str):
        return load_hardware(folder / given), ()
    table = _is_table(given, "hardware")
    if "preset" in table:
        flat = {key: value for key, value in table.items() if key != "preset"}
        chosen = preset(table["preset"]).with_(**flat)
        return chosen.hardware, chosen.warnings()
    if "file" in table:
        flat = {key: value for key, value in table.items() if key != "file"}
        return override(load_hardware(folder / str(table["file"])), **flat), ()
    return from_dict(table), ()


def _to_train(label: str, given: Any) -> dict[str, ToTrain]:
    """What one table [train.LABEL] asks for: one network, or one for each of its seeds."""
    where = f"train.{label}"
    table = {"arguments": {}, "settings": {}, "method": "erm", **_is_table(given, where)}
    training = {name: table.pop(name) for name in _TRAINING if name in table}
    _known(table, (*_TRAIN, *_TRAINING), f"the key {where}.")
    for name in ("network", "method"):
        if not isinstance(table.get(name), str):
            raise InputError(f"{where}.{name}={show(table.get(name))}: expected a text")
    for name in ("arguments", "settings"):
        _is_table(table[name], f"{where}.{name}")
    try:
        Training(**training)
    except InputError as error:
        raise InputError(f"{where}.{error}") from None
    seeds = table.get("seeds")
    if seeds is None:
        several = {label: _whole(table, "seed", 0, 2**64 - 1, 0, f"{where}.")}
    elif not isinstance(seeds, list) or not seeds or "seed" in table:
        raise InputError(f"{where}.seeds={show(seeds)}: expected a list such as [0, 1, 2], and then no seed")
    else:
        whole = [_whole({"seeds": s}, "seeds", 0, 2**64 - 1, None, f"{where}.") for s in seeds]
        several = {f"{label}, seed {seed}": seed for seed in whole}
    return {
        name: ToTrain(
            table["network"], table["arguments"], table["method"], table["settings"], training, seed
        )
        for name, seed in several.items()
    }


def _built(kind: type, entry: Any, keys: tuple[str, ...], where: str, needed: tuple[str, ...]) -> Any:
    table = _is_table(entry, where)
    _known(table, keys, f"the key {where}.")
    for name in needed:
        if name not in table:
            raise InputError(f"{where} has no {name}: it needs {', '.join(needed)}")
    for name in ("path", "arch", "network", "method"):
        if name in table and not isinstance(table[name], str):
            raise InputError(f"{where}.{name}={show(table[name])}: expected a text")
    return kind(**table)


def _known(table: Mapping[str, Any], keys: tuple[str, ...], what: str) -> None:
    for key in table:
        if key not in keys:
            raise InputError(unknown(what, key, keys))


def _is_table(given: Any, where: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise InputError(f"{where}={show(given)}: expected a table [{where}]")
    return given


def _table(table: dict[str, Any], key: str) -> dict[str, Any]:
    return _is_table(table.get(key, {}), key)


def _taker(table: dict[str, Any], kind: type, words: str) -> Callable[[str], Any]:
    def take(key: str) -> Any:
        if key in table and not isinstance(table[key], kind):
            raise InputError(f"{key}={show(table[key])}: expected {words}")
        return table.get(key)

    return take


def _whole(
    table: Mapping[str, Any], key: str, low: int, high: int, default: int | None, prefix: str = ""
) -> int:
    value = table.get(key, default)
    if not is_whole(value) or not low <= value <= high:
        raise InputError(f"{prefix}{key}={show(value)}: expected a whole number from {low} to {high}")
    return int(value)
