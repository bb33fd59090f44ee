"""Sweeps with made-up scores, for tests of pages and figures: no network is run."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from crossbar_sim.crossbar.configuration import to_dict
from crossbar_sim.crossbar.drift import LogNormalDrift
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.robustness.point import Point
from crossbar_sim.robustness.sweep import Sweep
from crossbar_sim.store.records import Task, Trial

SIGMAS = (0.0, 0.3, 0.6, 0.9, 1.2)


def task(label: str, metric: str = "accuracy", seed: int = 0, law: str = "lognormal", **about: Any) -> Task:
    """A task with an identity such as `prepare` makes."""
    design = to_dict(Hardware(drift=LogNormalDrift(0.0)))
    design["drift"] = {"kind": law, "sigma": None}
    identity = {
        "identity": 1, "model": {"sha256": label.encode("utf-8", "backslashreplace").hex()}, "only": None,
        "data": {"fingerprint": "0f" * 32, "images": 1000, "labelled": True}, "hardware": design, "skip": [],
        "seed": seed, "stream": 1, "metric": metric, "images": {"count": 1000, "drawn": False},
    }  # fmt: skip
    clean = 0.0 if metric == "output_error" else 0.97
    return Task(label, identity, clean, {"file": "model.pt", "version": "0.1.0", "data": "mnist", **about})


def trials(place: int, sigmas: Sequence[float], chips: int, metric: str = "accuracy") -> list[Trial]:
    """Scores that fall with sigma, the later models' less; chips keep their luck over sigmas and models."""
    rng = np.random.default_rng(place)
    luck = np.random.default_rng(99).standard_normal(chips)
    made = []
    for sigma in sigmas:
        half = 0.7 + 0.2 * place
        for chip in range(chips):
            noise = 0.03 * sigma * (luck[chip] + 0.3 * rng.standard_normal())
            value = 0.1 + 0.87 / (1 + (sigma / half) ** 4) + noise
            if metric == "output_error":
                value = -(sigma**2) * (1 - 0.1 * place) * math.exp(0.2 * luck[chip])
            else:
                value = round(min(max(value, 0.0), 1.0), 3)
            made.append(Trial(sigma, chip, float(value), 1000))
    return made


def details(place: int) -> dict[str, Any]:
    """Sensitivity and conductances of three layers."""
    names = ("fc1", "fc2", "fc3")
    drops = [
        {"name": n, "drops": [0.02 * (i + 1) + 0.01 * c - 0.005 * place for c in range(3)]}
        for i, n in enumerate(names)
    ]
    edges = [i * 1e-5 for i in range(11)]
    counts = [
        {
            "name": f"{n}.weight",
            "edges": edges,
            "target": [50, 20, 5] + [0] * 7,
            "drifted": list(range(20, 0, -2)),
            "idle": 75,
        }
        for n in names
    ]
    return {
        "sensitivity": {"sigma": 0.6, "chips": [0, 1, 2], "images": 500, "layers": drops},
        "conductances": {"sigma": 0.6, "chip": 0, "layers": counts},
    }


def sweep(
    labels: Sequence[str] = ("erm", "bayesft"),
    sigmas: Sequence[float] = SIGMAS,
    chips: int = 8,
    metric: str = "accuracy",
    known: bool = True,
    **task_arguments: Any,
) -> Sweep:
    """A sweep of these models; later ones hold longer. `known`: with details of the layers."""
    tasks, curves, more = {}, {}, {}
    for place, label in enumerate(labels):
        tasks[label] = task(label, metric, **task_arguments)
        curves[label] = Point.of_trials(label, tasks[label], trials(place, sigmas, chips, metric))
        more[label] = details(place) if known else {}
    return Sweep(tasks, curves, more)
