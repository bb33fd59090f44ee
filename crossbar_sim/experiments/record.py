"""An experiment's result as one compact JSON text: what was done, and every curve with its error bars."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch

from crossbar_sim import __version__
from crossbar_sim.crossbar.layer_designs import to_dict
from crossbar_sim.data import Splits
from crossbar_sim.errors import InputError
from crossbar_sim.experiments.schema import Experiment
from crossbar_sim.experiments.trainings import PlannedTraining
from crossbar_sim.nn.files.checkpoint import is_checkpoint
from crossbar_sim.rng import STREAM_VERSION
from crossbar_sim.robustness.groups import (
    GroupPoint,
    group_curve,
    group_of,
    group_percentile,
    group_tests,
    groups_of,
)
from crossbar_sim.robustness.metrics import Metric, described
from crossbar_sim.robustness.point import Point
from crossbar_sim.robustness.sweep import Sweep
from crossbar_sim.robustness.validation import Validation

DIGITS = 6
FORMAT = 1


def record_of(
    experiment: Experiment, sweep: Sweep, tried: Splits, planned: Mapping[str, PlannedTraining]
) -> str:
    """The JSON text. The same trials give the same bytes, one curve or point a line.

    Scores are as stored: shares of 1, and an output error is minus itself.
    """
    threshold = experiment.threshold
    stored = None if threshold is None else described(sweep.metric).stored(threshold)
    groups = groups_of(sweep.labels)
    chips = sorted({chip for label in sweep.labels for point in sweep.curve(label) for chip in point.chips})
    content = {
        "format": FORMAT,
        "title": experiment.title,
        "budget": experiment.budget,
        "metric": sweep.metric,
        "threshold": threshold,
        "data": {
            "name": experiment.data if tried.name == experiment.data else tried.name,
            "fingerprint": tried.fingerprint,
            "train": None if tried.train is None else len(tried.train),
            "validation": None if tried.validation is None else len(tried.validation),
            "test": len(tried.test),
            "train_limit": experiment.train_limit,
            "validation_limit": experiment.validation_limit,
            "test_limit": experiment.test_limit,
            "notes": list(tried.notes),
        },
        "hardware": to_dict(experiment.hardware),
        "warnings": list(experiment.warnings),
        **({} if experiment.calibration is None else {"calibration": experiment.calibration.as_dict()}),
        "chips": {"count": len(chips), "first": chips[0], "last": chips[-1], "seed": experiment.seed},
        "seeds": {label: plan.given.seed for label, plan in planned.items()},
        "versions": {
            "crossbar-sim": __version__, "stream": STREAM_VERSION, "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "trainings": {label: _training(plan) for label, plan in planned.items()},
        "models": {
            label: {
                "group": group_of(label, sweep.labels),
                "task": sweep.tasks[label].id,
                "clean": _short(sweep.tasks[label].clean),
                "points": [_short(_point(point, stored, experiment.percentile)) for point in sweep.curve(label)],
            }
            for label in sweep.labels
        },
        "groups": {
            group: {
                "networks": list(members),
                "points": [
                    _short({**_without(p.as_dict(), "group"), **_percentile(sweep, members, p, experiment.percentile)})
                    for p in group_curve(sweep, group, stored)
                ],
            }
            for group, members in groups.items()
        },
        "tests": {
            "reference": experiment.reference,
            "how": "Welch's t over network means; adjusted: Holm over all sigmas and groups; ci95 not corrected",
            "differences": [
                _short(_without(test.as_dict(), "reference")) for test in group_tests(sweep, experiment.reference)
            ],
        },
    }  # fmt: skip
    return compact(content) + "\n"


def _point(point: Point, threshold: float | None, percent: float | None) -> dict[str, Any]:
    low = None if percent is None else point.percentile(percent)
    return {
        "sigma": point.sigma,
        "mean": point.summary.mean,
        "ci95": point.summary.ci95,
        "sd": point.spread,
        "worst": point.summary.min,
        "chips": len(point.chips),
        "images": point.images,
        "yield": None if threshold is None else point.passing(threshold).value,
        **({} if percent is None else {"percentile": None if low is None else low.as_dict()}),
    }


def _percentile(
    sweep: Sweep, members: Sequence[str], at: GroupPoint, percent: float | None
) -> dict[str, Any]:
    """Of a group at one sigma: the mean over its networks, if a percentile is requested."""
    if percent is None:
        return {}
    points = [p for label in members for p in sweep.curve(label) if p.sigma == at.sigma]
    found = group_percentile(points, percent)
    value = None if found is None else {"percent": percent, "value": found[0], "ci95": found[1]}
    return {"percentile": value}


def _training(plan: PlannedTraining) -> dict[str, Any]:
    """What trained a model: as given and as it then was, and what the method found out."""
    method = _plain(plan.method)
    method.pop("hardware", None)  # that of the experiment
    return {
        "network": plan.made.network,
        "arguments": _plain(dict(plan.made.arguments)),
        "method": plan.given.method,
        "settings": method,
        "seed": plan.given.seed,
        "found": _short(_notes(plan)),
    }


def _notes(plan: PlannedTraining) -> Any:
    """The notes of the checkpoint; long lists, as of a search's trials, are left to it."""
    content = torch.load(plan.path, map_location="cpu", weights_only=True)
    if not is_checkpoint(content):
        raise InputError(
            f"{plan.path} is not a checkpoint of crossbar-sim: remove the file, and the network is trained again"
        )
    notes = content.get("notes") or {}
    return {key: value for key, value in notes.items() if len(json.dumps(value, default=str)) <= 500}


def _plain(value: Any) -> Any:
    if isinstance(value, Metric | Validation):
        return repr(value)
    if is_dataclass(value) and not isinstance(value, type):
        later = getattr(value, "later", {})  # fields that came after files were written
        given = {f.name: getattr(value, f.name) for f in fields(value)}
        return {
            name: _plain(each) for name, each in given.items() if name not in later or each != later[name]
        }
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _without(entry: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name != key}


def _short(value: Any) -> Any:
    """Numbers with DIGITS significant digits."""
    if isinstance(value, Mapping):
        return {key: _short(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_short(item) for item in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def compact(value: Any, depth: int = 0) -> str:
    """JSON with a line for every entry down to the points, and each point on one line.

    >>> print(compact({"a": {"points": [{"x": 1}, {"x": 2}]}}))
    {
     "a": {"points": [
       {"x": 1},
       {"x": 2}
      ]}
    }
    """
    if isinstance(value, dict) and depth < 2 and value:
        lines = [
            f"{json.dumps(key, ensure_ascii=False)}: {compact(item, depth + 1)}"
            for key, item in value.items()
        ]
        pad = " " * (depth + 1)
        return "{\n" + ",\n".join(pad + line for line in lines) + "\n" + " " * depth + "}"
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
