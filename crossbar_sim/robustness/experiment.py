"""An experiment as one file: models or how to train them, data, hardware, sigmas, chips, seed (docs/experiments.md)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossbar_sim.crossbar.checks import as_typed, finite, is_whole, show, unknown
from crossbar_sim.crossbar.config import from_dict, load_hardware, parse_toml, read_text
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.overrides import dropped_ranges, override
from crossbar_sim.crossbar.presets import preset
from crossbar_sim.errors import InputError
from crossbar_sim.robustness.experiment_models import ModelFile, ToTrain, read_models
from crossbar_sim.robustness.experiment_tables import (
    is_table,
    known,
    no_nan,
    text_at,
    whole_at,
    with_budget,
)
from crossbar_sim.robustness.groups import group_of
from crossbar_sim.robustness.plans import MOST_CHIP, EveryImage, HalfWidth, Plan
from crossbar_sim.robustness.score import DETECTION_METRICS, METRICS

__all__ = ["PROTOCOL", "Experiment", "ModelFile", "ToTrain", "load_experiment"]

PROTOCOL = tuple(round(0.05 * i, 2) for i in range(31))
"""The sigmas of the BayesFT paper's curves: 0 to 1.5 in 31 points."""


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


def load_experiment(path: Path, budget: str = "full") -> Experiment:
    """Read an experiment's TOML file.

    Args:
        path: of the file.
        budget: "full", or "quick": with the file's table [quick] over it.

    Raises:
        InputError: naming the file, the key, what was given and what is allowed; an unknown key with the nearest one.
    """
    table = parse_toml(read_text(path), str(path))
    try:
        return _experiment(path, table, budget)
    except InputError as error:
        message = str(error)
        raise InputError(message if message.startswith(str(path)) else f"{path}: {message}") from None


def _experiment(path: Path, given: dict[str, Any], budget: str) -> Experiment:
    known(given, _KEYS, "the key")
    no_nan(given)
    table = with_budget(given, budget, _KEYS)
    models = read_models(table)
    if "data" not in table:
        raise InputError("data is missing: give a data set's name, or the path of a file")
    hardware, warnings = _hardware(table.get("hardware", {"preset": "bayesft"}), path.parent)
    metric = text_at(table, "metric")
    if metric is not None and metric not in (*METRICS, *DETECTION_METRICS):
        raise InputError(unknown("metric", metric, (*METRICS, *DETECTION_METRICS)))
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
    if not finite(given) or given < 0 or (given > 1 and metric != "output_error"):
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


def _hardware(given: Any, folder: Path) -> tuple[Hardware, tuple[str, ...]]:
    """A preset with overrides, the path of a hardware file, or a whole design; the sigma of its drift is swept."""
    hardware, cautions = _design(given, folder)
    return hardware, (*cautions, *hardware.mapping.cautions)


def _design(given: Any, folder: Path) -> tuple[Hardware, tuple[str, ...]]:
    if isinstance(given, str):
        return load_hardware(folder / given), ()
    table = is_table(given, "hardware")
    if "preset" in table:
        flat = {key: value for key, value in table.items() if key != "preset"}
        chosen = preset(table["preset"]).with_(**flat)
        return chosen.hardware, chosen.warnings()
    if "file" in table:
        flat = {key: value for key, value in table.items() if key != "file"}
        loaded = load_hardware(folder / str(table["file"]))
        hardware = override(loaded, **flat)
        return hardware, dropped_ranges(loaded, hardware)
    return from_dict(table), ()
