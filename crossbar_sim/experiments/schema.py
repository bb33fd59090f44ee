"""Experiment files (TOML): tables, models, and the whole file."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from crossbar_sim.crossbar.configuration import parse_toml, read_text
from crossbar_sim.crossbar.hardware import preset_design
from crossbar_sim.crossbar.layer_designs import (
    Design,
    cautions_of,
    design_from_dict,
    dropped_ranges,
    load_design,
    override,
    with_table,
)
from crossbar_sim.errors import InputError
from crossbar_sim.nn.device import Device
from crossbar_sim.nn.training.augment import Augment
from crossbar_sim.nn.training.losses import check_loss_name
from crossbar_sim.nn.training.settings import Training
from crossbar_sim.robustness.calibration import Calibration
from crossbar_sim.robustness.groups import group_of
from crossbar_sim.robustness.metrics import check_name, is_share
from crossbar_sim.robustness.plans import MOST_CHIP, PROTOCOL, EveryImage, HalfWidth, Plan
from crossbar_sim.validate import as_typed, show, unknown

BUDGETS = ("full", "quick", "cpu")
"""Of a run: the file as it is, and the file with its table [quick] or [cpu] over it."""

_RIVALS = {"chips": "half_width", "half_width": "chips"}
_SEEDS = {"seed": "seeds", "seeds": "seed"}


class _Table(BaseModel):
    """A table of the file; the description of a field says what it must be."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


Table = TypeVar("Table", bound=_Table)
_Text = Annotated[str, Field(pattern=r"\S", description="a text")]


_Seed = Annotated[int, Field(ge=0, le=2**64 - 1, description="an integer from 0 to 2**64 - 1")]
_Limit = Annotated[int, Field(ge=1, le=10**9)]


def _read(cls: type[Table], given: Any, where: str = "", also: Iterable[str] = ()) -> Table:
    """A table of the file, checked.

    Args:
        cls: what it may hold.
        given: what the file has.
        where: its name; "" is the whole file.
        also: keys that are allowed and read elsewhere.

    Raises:
        InputError: naming the key, what was given and what is allowed; an unknown key with the nearest one.
    """
    dot = f"{where}." if where else ""
    keys = {field.alias or name: field for name, field in cls.model_fields.items()}
    _check_keys(is_table(given, where), (*keys, *also), where)
    try:
        return cls.model_validate(given)
    except ValidationError as error:
        key = str(error.errors(include_url=False)[0]["loc"][0])
        described = keys[key].description or "another value"
        problem = f"{dot}{key}={show(given[key])}" if key in given else f"{dot}{key} is missing"
        raise InputError(f"{problem}: expected {described}") from None


def _check_keys(table: Mapping[str, Any], keys: Iterable[str], where: str = "") -> None:
    """Refuse a key that is none of `keys`, naming the nearest."""
    allowed = tuple(keys)
    for key in table:
        if key not in allowed:
            raise InputError(unknown(f"[{where}]: the key" if where else "the key", key, allowed))


@contextmanager
def _within(where: str) -> Iterator[None]:
    """Put where a value stands before what is wrong with it."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}{error}") from None


def is_table(given: Any, where: str) -> dict[str, Any]:
    """`given`, if it is a table."""
    if not isinstance(given, dict):
        raise InputError(f"{where}={show(given)}: expected a table [{where}]")
    return given


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
    """The file's table as a budget has it, without the tables [quick] and [cpu].

    [quick] takes the place of keys of the file. [quick.train] takes the place of settings of every training, and
    [quick.train.NAME] of one; `settings` and `arguments` there are put over those of the training, key by key. [cpu]
    does the same.

    Args:
        table: as read.
        budget: of `BUDGETS`.
        keys: that the file may have.

    Raises:
        InputError: if the file has no such budget, or [quick] or [cpu] has an unknown key.
    """
    if budget not in BUDGETS:
        raise InputError(unknown("the budget", budget, BUDGETS))
    whole = {key: value for key, value in table.items() if key not in BUDGETS}
    changed = {name: _budget(name, table, keys) for name in BUDGETS if name in table}
    if budget == "full":
        return whole
    if budget not in changed:
        raise InputError(
            f"there is no {budget} budget in this file: add a table [{budget}] with what differs in it"
        )
    top, trainings = changed[budget]
    for key in top:
        whole.pop(_RIVALS.get(key, ""), None)
    whole |= top
    if not trainings:
        return whole
    named = is_table(table.get("train", {}), "train")
    if not named:
        raise InputError(f"[{budget}.train] has no effect: the file has no table [train.NAME]")
    common = {key: value for key, value in trainings.items() if key not in named}
    whole["train"] = {
        label: _over(
            _over(is_table(given, f"train.{label}"), common),
            is_table(trainings.get(label, {}), f"{budget}.train.{label}"),
        )
        for label, given in named.items()
    }
    return whole


def _budget(
    budget: str, table: Mapping[str, Any], keys: Iterable[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A budget's keys of the file, and its table of trainings; all checked."""
    top = dict(is_table(table[budget], budget))
    _check_keys(top, [key for key in keys if key not in (*BUDGETS, "models")], budget)
    trainings = is_table(top.pop("train", {}), f"{budget}.train")
    named = is_table(table.get("train", {}), "train")
    for key, value in trainings.items():
        if isinstance(value, dict) and key not in ("settings", "arguments", "augment") and key not in named:
            raise InputError(unknown(f"[{budget}.train]: the training", key, named))
    return top, trainings


def _over(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A training's table with changes: seed and seeds replace each other, settings and arguments are merged."""
    changed = dict(table)
    for key, value in changes.items():
        changed.pop(_SEEDS.get(key, ""), None)
        merged = key in ("settings", "arguments") and isinstance(value, dict)
        changed[key] = {**is_table(changed.get(key, {}), key), **value} if merged else value
    return changed


# The models of an experiment: files of trained ones, and how others are to be trained.


class ModelFile(_Table):
    """A trained model: the path of its file, seen from the experiment's folder; the rest as for `load_model`."""

    path: _Text = Field(description="the file of a trained model")
    arch: _Text | None = Field(None, description="a text")
    arch_arguments: dict[str, Any] | None = Field(None, description="a table such as { num_classes = 10 }")
    weights: _Text | None = Field(None, description="a text")


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
        start: what its weights begin with: the label of another model of the file, or a path seen from its folder.
    """

    network: str
    arguments: Mapping[str, Any]
    method: str
    settings: Mapping[str, Any]
    training: Mapping[str, Any]
    seed: int
    start: str | None = None


_TRAINING = tuple(f.name for f in fields(Training))


class _Train(_Table):
    """A table [train.NAME], without the fields of `Training`."""

    network: _Text
    method: _Text = "erm"
    arguments: dict[str, Any] = Field({}, description="a table")
    settings: dict[str, Any] = Field({}, description="a table")
    start: _Text | None = Field(None, alias="from", description="the name of another model, or a file")
    seed: _Seed = 0
    seeds: Annotated[list[_Seed], Field(min_length=1)] | None = Field(
        None, description="a list of different integers from 0 on, such as [0, 1, 2]"
    )

    def by_seed(self, label: str) -> dict[str, int]:
        """Label -> seed of each network."""
        return {label: self.seed} if self.seeds is None else {f"{label}, seed {n}": n for n in self.seeds}


def _read_models(models: Mapping[str, Any], trainings: Mapping[str, Any]) -> dict[str, ModelFile | ToTrain]:
    """The models of [models] and [train], by label, in the order of the file.

    Raises:
        InputError: naming the key, what was given and what is allowed.
    """
    found: dict[str, ModelFile | ToTrain] = {}
    for label, given in models.items():
        found[label] = _read(
            ModelFile, {"path": given} if isinstance(given, str) else given, f"models.{label}"
        )
    for label, given in trainings.items():
        for name, one in _to_train(label, given).items():
            if name in found:
                raise InputError(
                    f"{name} is in models and in train, or twice in train: give each a name of its own"
                )
            found[name] = one
    if not found:
        raise InputError('there is no model: give [models] with NAME = "file.pt", or [train.NAME]')
    return found


def _to_train(label: str, given: Any) -> dict[str, ToTrain]:
    """The trainings of one table [train.LABEL]: one network, or one for each of its seeds."""
    where = f"train.{label}"
    table = _read(_Train, given, where, _TRAINING)
    if table.seeds is not None and "seed" in given:
        raise InputError(f"{where}: seed and seeds exclude each other: give one of them")
    if table.seeds is not None and len(set(table.seeds)) < len(table.seeds):
        raise InputError(
            f"{where}.seeds={show(table.seeds)}: a seed is there twice, which would train the same network again"
        )
    training = {name: given[name] for name in _TRAINING if name in given}
    if "augment" in training:
        training["augment"] = Augment.of(
            is_table(training["augment"], f"{where}.augment"), f"{where}.augment"
        )
    with _within(f"{where}."):
        if "loss" in training:  # of code that is named here nothing is imported yet
            check_loss_name(training["loss"])
        if "metric" in training:
            check_name(training["metric"])
        Training(**{name: value for name, value in training.items() if name not in ("loss", "metric")})
    return {
        name: ToTrain(
            table.network, table.arguments, table.method, table.settings, training, seed, table.start
        )
        for name, seed in table.by_seed(label).items()
    }


# An experiment as one file: models or how to train them, data, hardware, sigmas, chips, seed (docs/experiments.md).


__all__ = ["PROTOCOL", "Experiment", "ModelFile", "ToTrain", "load_experiment"]


@dataclass(frozen=True)
class Experiment:
    """What an experiment's file says; see `load_experiment`.

    Args:
        name: of what is written: the file's, with "-quick" or "-cpu" at that budget.
        folder: of the file.
        title: with the budget in it where the file has several.
        budget: of `BUDGETS`.
        data: a data set's name, or a path seen from the folder.
        models: by label.
        hardware, warnings: the design, and what it leaves out.
        sigmas, plan, seed, metric, threshold, sensitivity_chips: of the sweep.
        percentile: of the chips' scores, in tables beside the mean; None: none.
        reference: the group of networks that the others are tested against.
        train_limit, validation_limit, test_limit: how many examples of each are used; None: all.
        boundaries: sigmas at which decision boundaries are drawn, for data of two features; None: not drawn.
        calibration: a digital correction of every chip, fitted to training images; None: none.
        device: where networks are trained, unless their own table says it, and chips are computed; None: the CPU.
    """

    name: str
    folder: Path
    title: str
    budget: str
    data: str
    models: Mapping[str, ModelFile | ToTrain]
    hardware: Design
    warnings: tuple[str, ...]
    sigmas: tuple[float, ...]
    plan: Plan
    reference: str
    seed: int = 0
    metric: str | None = None
    threshold: float | None = None
    percentile: float | None = None
    sensitivity_chips: int = 5
    train_limit: int | None = None
    validation_limit: int | None = None
    test_limit: int | None = None
    boundaries: tuple[float, ...] | None = None
    calibration: Calibration | None = None
    device: str | None = None


_SIGMAS = "a list such as [0, 0.3, 0.6], or {from = 0, to = 1.5, points = 31}"


class _Range(_Table):
    """Sigmas at equal distances."""

    start: float = Field(0.0, alias="from", description="a finite number")
    to: float = Field(description="a finite number")
    points: int = Field(ge=2, le=10_000, description="an integer from 2 to 10000")


class _File(_Table):
    """All keys of an experiment's file."""

    title: _Text | None = Field(None, description="a text")
    data: str = Field(pattern=r"\S", description="the name of a data set, or the path of a file")
    models: dict[str, Any] = Field({}, description="a table [models]")
    train: dict[str, Any] = Field({}, description="a table [train]")
    hardware: Any = {"preset": "bayesft"}
    layers: dict[str, Any] = Field({}, description='tables such as [layers."blocks.*"]')
    sigmas: list[float] | dict[str, Any] = Field(list(PROTOCOL), min_length=1, description=_SIGMAS)
    chips: Annotated[int, Field(ge=1, le=1_000_000)] | list[Annotated[int, Field(ge=0, lt=MOST_CHIP)]] = (
        Field(20, description=f"a number of chips, or a list of their numbers from 0 to {MOST_CHIP - 1}")
    )
    half_width: float | None = Field(None, description="a number such as 0.005")
    seed: _Seed = 0
    metric: _Text | None = Field(None, description="a text")
    threshold: float | None = Field(None, ge=0, description="a score in 0 .. 1, such as 0.9 for 90 %")
    percentile: float | None = Field(None, gt=0, lt=100, description="a number between 0 and 100, such as 5")
    sensitivity_chips: int = Field(5, ge=0, le=10_000, description="an integer from 0 to 10000")
    calibrate: _Text | None = Field(None, description="a text such as 'lora:rank=4' or 'statistics+readout'")
    calibration_images: int | None = Field(None, ge=2, le=10**9, description="an integer >= 2")
    reference: _Text | None = Field(None, description="a text")
    device: _Text | None = Field(None, description="a text such as 'cuda'")
    train_limit: _Limit | None = Field(None, description="a positive integer")
    validation_limit: _Limit | None = Field(None, description="a positive integer")
    test_limit: _Limit | None = Field(None, description="a positive integer")
    boundaries: list[float] | dict[str, Any] | None = Field(None, min_length=1, description=_SIGMAS)
    quick: dict[str, Any] = Field({}, description="a table [quick]")
    cpu: dict[str, Any] = Field({}, description="a table [cpu]")


_KEYS = tuple(_File.model_fields)


def load_experiment(
    path: Path, budget: str = "full", trust_code: bool = False, device: str | None = None
) -> Experiment:
    """Read an experiment's TOML file.

    Args:
        path: of the file.
        budget: "full", or "quick" or "cpu": with the file's table of that name over it.
        trust_code: whether the design may name a drift law or programming noise by its import path.
        device: in place of the one in the file, which this machine need not have.

    Raises:
        InputError: naming the file, the key, what was given and what is allowed; an unknown key with the nearest one.
    """
    table = parse_toml(read_text(path), str(path))
    try:
        return _experiment(path, table, budget, trust_code, device)
    except InputError as error:
        message = str(error)
        raise InputError(message if message.startswith(str(path)) else f"{path}: {message}") from None


def _experiment(
    path: Path, given: dict[str, Any], budget: str, trust_code: bool, device: str | None
) -> Experiment:
    _check_keys(given, _KEYS)
    no_nan(given)
    table = with_budget(given, budget, _KEYS)
    file = _read(_File, table)
    models = _read_models(file.models, file.train)
    hardware, warnings = _hardware(file.hardware, file.layers, path.parent, trust_code)
    if file.metric is not None:
        check_name(file.metric)
    if (file.threshold or 0) > 1 and (file.metric is None or is_share(file.metric)):
        expected = _File.model_fields["threshold"].description
        raise InputError(f"threshold={show(file.threshold)}: expected {expected}")
    if file.half_width is not None and "chips" in table:
        raise InputError("chips and half_width exclude each other: give one of them")
    chips = tuple(file.chips if isinstance(file.chips, list) else range(file.chips))
    groups = list(dict.fromkeys(group_of(label, models) for label in models))
    if file.reference is not None and file.reference not in groups:
        raise InputError(unknown("reference", file.reference, groups))
    title, device = file.title or path.stem, device or file.device
    return Experiment(
        name=path.stem if budget == "full" else f"{path.stem}-{budget}",
        folder=path.parent,
        title=f"{title} ({budget} budget)" if {"quick", "cpu"} & given.keys() else title,
        budget=budget,
        data=file.data,
        models=models,
        hardware=hardware,
        warnings=warnings,
        sigmas=_sigmas(file.sigmas, "sigmas"),
        plan=EveryImage(chips) if file.half_width is None else HalfWidth(file.half_width),
        reference=file.reference or groups[0],
        seed=file.seed,
        metric=file.metric,
        threshold=file.threshold,
        percentile=file.percentile,
        sensitivity_chips=file.sensitivity_chips,
        train_limit=file.train_limit,
        validation_limit=file.validation_limit,
        test_limit=file.test_limit,
        boundaries=None if file.boundaries is None else _sigmas(file.boundaries, "boundaries"),
        calibration=_calibration(file.calibrate, file.calibration_images),
        device=None if device is None else Device.of(device).name,
    )


def _calibration(kind: str | None, images: int | None) -> Calibration | None:
    if kind is None:
        if images is not None:
            raise InputError('calibration_images has no effect without calibrate: give calibrate = "readout"')
        return None
    with _within("calibrate: "):
        return Calibration(kind) if images is None else Calibration(kind, images)


def _sigmas(given: list[float] | dict[str, Any], key: str) -> tuple[float, ...]:
    """A list, or {from, to, points}."""
    if isinstance(given, list):
        return tuple(given)
    table = _read(_Range, given, key)
    first, last, steps = table.start, table.to, table.points - 1
    return tuple(as_typed(first + (last - first) * i / steps) for i in range(steps + 1))


def _hardware(
    given: Any, layers: dict[str, Any], folder: Path, trust_code: bool
) -> tuple[Design, tuple[str, ...]]:
    """A preset with overrides, the path of a hardware file, or a whole design; the sigma of its drift is swept.

    With designs of layers, which come before those of a hardware file.
    """
    hardware, cautions = _design(given, folder, trust_code)
    if layers:
        before = hardware
        hardware, more = with_table(hardware, layers, trust_code)
        cautions = (*cautions, *more, *dropped_ranges(before, hardware))
    return hardware, (*cautions, *cautions_of(hardware))


def _design(given: Any, folder: Path, trust_code: bool) -> tuple[Design, tuple[str, ...]]:
    if isinstance(given, str):
        return load_design(folder / given, trust_code)
    table = is_table(given, "hardware")
    if "preset" in table:
        flat = {key: value for key, value in table.items() if key != "preset"}
        return preset_design(table["preset"], flat)
    if "file" in table:
        flat = {key: value for key, value in table.items() if key != "file"}
        loaded, cautions = load_design(folder / str(table["file"]), trust_code)
        hardware = override(loaded, **flat)
        return hardware, (*cautions, *dropped_ranges(loaded, hardware))
    return design_from_dict(table, trust_code=trust_code)
