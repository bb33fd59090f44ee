"""Experiment files (TOML): tables, models, and the whole file."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from crossbar_sim.crossbar.configuration import (
    dropped_ranges,
    override,
    parse_toml,
    read_text,
)
from crossbar_sim.crossbar.hardware import Hardware, preset_design
from crossbar_sim.errors import InputError
from crossbar_sim.nn.training.augment import Augment
from crossbar_sim.nn.training.settings import Training
from crossbar_sim.robustness.groups import group_of
from crossbar_sim.robustness.metrics import METRICS, is_share, names_code
from crossbar_sim.robustness.plans import MOST_CHIP, PROTOCOL, EveryImage, HalfWidth, Plan
from crossbar_sim.validate import as_typed, finite, is_whole, show, unknown

# Reading an experiment's tables strictly, and putting a budget's table over them.


BUDGETS = ("full", "quick")
"""Of a run: the file as it is, and the file with its table [quick] over it."""

_RIVALS = {"chips": "half_width", "half_width": "chips"}
_SEEDS = {"seed": "seeds", "seeds": "seed"}


def known(table: Mapping[str, Any], keys: Iterable[str], what: str) -> None:
    """Refuse a key that is none of `keys`, naming the nearest."""
    allowed = tuple(keys)
    for key in table:
        if key not in allowed:
            raise InputError(unknown(what, key, allowed))


def is_table(given: Any, where: str) -> dict[str, Any]:
    """`given`, if it is a table."""
    if not isinstance(given, dict):
        raise InputError(f"{where}={show(given)}: expected a table [{where}]")
    return given


def table_at(table: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The table under `key`, or an empty one."""
    return is_table(table.get(key, {}), key)


def text_at(table: Mapping[str, Any], key: str, prefix: str = "") -> str | None:
    """The text under `key`, which must not be empty; None if it is not there."""
    value = table.get(key)
    if key in table and (not isinstance(value, str) or not value.strip()):
        raise InputError(f"{prefix}{key}={show(value)}: expected a text")
    return value


def whole_at(
    table: Mapping[str, Any], key: str, low: int, high: int, default: int | None, prefix: str = ""
) -> int:
    """The whole number under `key`, in low .. high."""
    value = table.get(key, default)
    if not is_whole(value) or not low <= value <= high:  # type: ignore[operator]  # a whole number by then
        raise InputError(f"{prefix}{key}={show(value)}: expected a whole number from {low} to {high}")
    return int(value)  # type: ignore[arg-type]


def no_nan(value: Any, where: str = "") -> None:
    """Refuse NaN anywhere: TOML can write it, and every comparison with it is false.

    Raises:
        InputError: naming the whole key.
    """
    if isinstance(value, dict):
        for key, item in value.items():
            no_nan(item, f"{where}.{key}" if where else key)
    elif isinstance(value, list):
        for item in value:
            no_nan(item, where)
    elif isinstance(value, float) and math.isnan(value):
        raise InputError(f"{where}=nan: expected a number")


def with_budget(table: Mapping[str, Any], budget: str, keys: Iterable[str]) -> dict[str, Any]:
    """The file's table as a budget has it, without the table [quick].

    [quick] takes the place of keys of the file. [quick.train] takes the place of settings of every training, and
    [quick.train.NAME] of one; `settings` and `arguments` there are put over those of the training, key by key.

    Args:
        table: as read.
        budget: of `BUDGETS`.
        keys: that the file may have.

    Raises:
        InputError: if the file has no such budget, or [quick] has an unknown key.
    """
    if budget not in BUDGETS:
        raise InputError(unknown("the budget", budget, BUDGETS))
    whole = {key: value for key, value in table.items() if key != "quick"}
    if "quick" not in table:
        if budget == "quick":
            raise InputError(
                "there is no quick budget in this file: add a table [quick] with what differs in it"
            )
        return whole
    quick = dict(is_table(table["quick"], "quick"))
    known(quick, [key for key in keys if key not in ("quick", "models")], "the key quick.")
    trainings = is_table(quick.pop("train", {}), "quick.train")
    named = table_at(table, "train")
    for key, value in trainings.items():
        if isinstance(value, dict) and key not in ("settings", "arguments") and key not in named:
            raise InputError(unknown("the training quick.train.", key, named))
    if budget == "full":
        return whole
    for key in quick:
        whole.pop(_RIVALS.get(key, ""), None)
    whole |= quick
    if not trainings:
        return whole
    if not named:
        raise InputError("quick.train has nothing to act on: the file has no table [train.NAME]")
    common = {key: value for key, value in trainings.items() if key not in named}
    whole["train"] = {
        label: _over(_over(is_table(given, f"train.{label}"), common), _own(trainings, label))
        for label, given in named.items()
    }
    return whole


def _own(trainings: Mapping[str, Any], label: str) -> dict[str, Any]:
    return is_table(trainings.get(label, {}), f"quick.train.{label}")


def _over(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A training's table with changes: seed and seeds replace each other, settings and arguments are merged."""
    changed = dict(table)
    for key, value in changes.items():
        changed.pop(_SEEDS.get(key, ""), None)
        merged = key in ("settings", "arguments") and isinstance(value, dict)
        changed[key] = {**is_table(changed.get(key, {}), key), **value} if merged else value
    return changed


# The models of an experiment: files of trained ones, and how others are to be trained.


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


# An experiment as one file: models or how to train them, data, hardware, sigmas, chips, seed (docs/experiments.md).


__all__ = ["PROTOCOL", "Experiment", "ModelFile", "ToTrain", "load_experiment"]


@dataclass(frozen=True)
class Experiment:
    """What an experiment's file says; see `load_experiment`.

    Args:
        name: of what is written: the file's, with "-quick" at the quick budget.
        folder: of the file.
        title: with the budget in it where the file has two.
        budget: "full" or "quick".
        data: a data set's name, or a path seen from the folder.
        models: by label.
        hardware, warnings: the design, and what it leaves out.
        sigmas, plan, seed, metric, threshold, sensitivity_chips: of the sweep.
        reference: the group of networks that the others are tested against.
        train_limit, validation_limit, test_limit: how many examples of each are used; None: all.
        boundaries: sigmas at which decision boundaries are drawn, for data of two features; None: not asked for.
    """

    name: str
    folder: Path
    title: str
    budget: str
    data: str
    models: Mapping[str, ModelFile | ToTrain]
    hardware: Hardware
    warnings: tuple[str, ...]
    sigmas: tuple[float, ...]
    plan: Plan
    reference: str
    seed: int = 0
    metric: str | None = None
    threshold: float | None = None
    sensitivity_chips: int = 5
    train_limit: int | None = None
    validation_limit: int | None = None
    test_limit: int | None = None
    boundaries: tuple[float, ...] | None = None


_KEYS = (
    "title", "data", "models", "train", "hardware", "sigmas", "chips", "half_width", "seed", "metric", "threshold",
    "sensitivity_chips", "reference", "train_limit", "validation_limit", "test_limit", "boundaries", "quick",
)  # fmt: skip
_MOST = 10**9


def load_experiment(path: Path, budget: str = "full", trust_code: bool = False) -> Experiment:
    """Read an experiment's TOML file.

    Args:
        path: of the file.
        budget: "full", or "quick": with the file's table [quick] over it.
        trust_code: whether the design may name a drift law or programming noise by its import path.

    Raises:
        InputError: naming the file, the key, what was given and what is allowed; an unknown key with the nearest one.
    """
    table = parse_toml(read_text(path), str(path))
    try:
        return _experiment(path, table, budget, trust_code)
    except InputError as error:
        message = str(error)
        raise InputError(message if message.startswith(str(path)) else f"{path}: {message}") from None


def _experiment(path: Path, given: dict[str, Any], budget: str, trust_code: bool) -> Experiment:
    known(given, _KEYS, "the key")
    no_nan(given)
    table = with_budget(given, budget, _KEYS)
    models = read_models(table)
    if "data" not in table:
        raise InputError("data is missing: give a data set's name, or the path of a file")
    hardware, warnings = _hardware(table.get("hardware", {"preset": "bayesft"}), path.parent, trust_code)
    metric = text_at(table, "metric")
    if metric is not None and metric not in METRICS and not names_code(metric):
        raise InputError(unknown("metric", metric, METRICS))
    title = text_at(table, "title") or path.stem
    limits = {
        key: None if table.get(key) is None else whole_at(table, key, 1, _MOST, None)
        for key in ("train_limit", "validation_limit", "test_limit")
    }
    return Experiment(
        name=path.stem if budget == "full" else f"{path.stem}-{budget}",
        folder=path.parent,
        title=f"{title} ({budget} budget)" if "quick" in given else title,
        budget=budget,
        data=text_at(table, "data") or "",
        models=models,
        hardware=hardware,
        warnings=warnings,
        sigmas=_sigmas(table.get("sigmas")),
        plan=_plan(table),
        reference=_reference(table, models),
        seed=whole_at(table, "seed", 0, 2**64 - 1, 0),
        metric=metric,
        threshold=_threshold(table, metric),
        sensitivity_chips=whole_at(table, "sensitivity_chips", 0, 10_000, 5),
        **limits,
        boundaries=_sigmas(table["boundaries"], "boundaries") if "boundaries" in table else None,
    )


def _reference(table: Mapping[str, Any], models: Mapping[str, object]) -> str:
    """The group that is named, or the first."""
    groups = list(dict.fromkeys(group_of(label, models) for label in models))
    named = text_at(table, "reference")
    if named is not None and named not in groups:
        raise InputError(unknown("reference", named, groups))
    return named or groups[0]


def _threshold(table: Mapping[str, Any], metric: str | None) -> float | None:
    given = table.get("threshold")
    if given is None:
        return None
    if not finite(given) or given < 0 or (given > 1 and (metric is None or is_share(metric))):
        raise InputError(f"threshold={show(given)}: expected a score in 0 .. 1, such as 0.9 for 90 %")
    return float(given)


def _plan(table: dict[str, Any]) -> Plan:
    if "half_width" in table:
        if "chips" in table:
            raise InputError("chips and half_width are two budgets: give one of them")
        if not finite(table["half_width"]):
            raise InputError(f"half_width={show(table['half_width'])}: expected a number such as 0.005")
        return HalfWidth(float(table["half_width"]))
    chips = table.get("chips", 20)
    if isinstance(chips, list):
        if not all(is_whole(chip) and 0 <= chip < MOST_CHIP for chip in chips):
            raise InputError(
                f"chips={show(chips)}: chips are numbered from 0 to {MOST_CHIP - 1}; give such numbers, or a count"
            )
        return EveryImage(tuple(chips))
    return EveryImage(tuple(range(whole_at({"chips": chips}, "chips", 1, 1_000_000, 20))))


def _sigmas(given: Any, key: str = "sigmas") -> tuple[float, ...]:
    """A list, or {from, to, points}; None: the paper's 31."""
    if given is None:
        return PROTOCOL
    if isinstance(given, dict):
        known(given, ("from", "to", "points"), f"the key {key}.")
        points = whole_at(given, "points", 2, 10_000, None)
        first, last = given.get("from", 0.0), given.get("to")
        if finite(first) and finite(last):
            return tuple(as_typed(first + (last - first) * i / (points - 1)) for i in range(points))
    if isinstance(given, list) and given and all(finite(sigma) for sigma in given):
        return tuple(float(sigma) for sigma in given)
    raise InputError(
        f"{key}={show(given)}: expected a list such as [0, 0.3, 0.6], or {{from = 0, to = 1.5, points = 31}}"
    )


def _hardware(given: Any, folder: Path, trust_code: bool) -> tuple[Hardware, tuple[str, ...]]:
    """A preset with overrides, the path of a hardware file, or a whole design; the sigma of its drift is swept."""
    hardware, cautions = _design(given, folder, trust_code)
    return hardware, (*cautions, *hardware.mapping.cautions)


def _design(given: Any, folder: Path, trust_code: bool) -> tuple[Hardware, tuple[str, ...]]:
    if isinstance(given, str):
        return Hardware.load(folder / given, trust_code), ()
    table = is_table(given, "hardware")
    if "preset" in table:
        flat = {key: value for key, value in table.items() if key != "preset"}
        return preset_design(table["preset"], flat)
    if "file" in table:
        flat = {key: value for key, value in table.items() if key != "file"}
        loaded = Hardware.load(folder / str(table["file"]), trust_code)
        hardware = override(loaded, **flat)
        return hardware, dropped_ranges(loaded, hardware)
    return Hardware.from_dict(table, trust_code=trust_code), ()
