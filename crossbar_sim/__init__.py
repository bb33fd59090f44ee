"""Simulate neural networks on ReRAM crossbars: what a trained network still does on real conductances.

Designs, devices and arrays load no torch. `deploy`, `sweep`, `tradeoff`, `train`, `export`, `to_analog` and
`to_digital` take torch models and are the commands of the same name in Python.
Everything is imported on first use, so that the command line answers at once.
"""
# ruff: noqa: F401, F403 - imported for type checkers

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crossbar_sim.crossbar.array import Array
    from crossbar_sim.crossbar.converters import ADC, DAC, GaussianReadNoise, TelegraphNoise
    from crossbar_sim.crossbar.devices import (
        MeasuredNoise,
        PolynomialNoise,
        ProgrammingModel,
        ProgrammingNoise,
        StuckCells,
        register_programming,
    )
    from crossbar_sim.crossbar.drift import *  # the laws
    from crossbar_sim.crossbar.drift import ALL_DRIFTS, DriftModel, register_drift
    from crossbar_sim.crossbar.hardware import Hardware
    from crossbar_sim.crossbar.layer_designs import LayerDesigns
    from crossbar_sim.crossbar.mapping import ALL_MAPPINGS, Differential, Offset
    from crossbar_sim.crossbar.wires import Wires
    from crossbar_sim.data.load import load_data
    from crossbar_sim.errors import CrossbarWarning, InputError
    from crossbar_sim.experiments.trainings import train_network as train
    from crossbar_sim.nn.analog.conversion import to_analog, to_digital
    from crossbar_sim.nn.files.export import export_model as export
    from crossbar_sim.nn.files.loading import load_model
    from crossbar_sim.rng import Key
    from crossbar_sim.robustness.array_work import cost_of_model as cost
    from crossbar_sim.robustness.benchmark import robustness as sweep
    from crossbar_sim.robustness.deploy import deploy
    from crossbar_sim.robustness.metrics import metric
    from crossbar_sim.robustness.tradeoff import tradeoff
    from crossbar_sim.search.bayesft import BayesFT

_LAWS = "crossbar_sim.crossbar.drift"
_HOMES = {
    "crossbar_sim.crossbar.array": ("Array",),
    "crossbar_sim.crossbar.converters": (
        "ADC",
        "DAC",
        "GaussianReadNoise",
        "TelegraphNoise",
    ),
    "crossbar_sim.crossbar.devices": (
        "MeasuredNoise",
        "PolynomialNoise",
        "ProgrammingModel",
        "ProgrammingNoise",
        "StuckCells",
        "register_programming",
    ),
    _LAWS: ("ALL_DRIFTS", "DriftModel", "register_drift"),
    "crossbar_sim.crossbar.hardware": ("Hardware",),
    "crossbar_sim.crossbar.layer_designs": ("LayerDesigns",),
    "crossbar_sim.crossbar.mapping": (
        "ALL_MAPPINGS",
        "Differential",
        "Offset",
    ),
    "crossbar_sim.crossbar.wires": ("Wires",),
    "crossbar_sim.errors": (
        "CrossbarWarning",
        "InputError",
    ),
    "crossbar_sim.rng": ("Key",),
    "crossbar_sim.data.load": ("load_data",),
    "crossbar_sim.nn.analog.conversion": ("to_analog", "to_digital"),
    "crossbar_sim.nn.files.loading": ("load_model",),
    "crossbar_sim.robustness.deploy": ("deploy",),
    "crossbar_sim.robustness.metrics": ("metric",),
    "crossbar_sim.robustness.tradeoff": ("tradeoff",),
    "crossbar_sim.search.bayesft": ("BayesFT",),
}
_HOME = {name: (home, name) for home, names in _HOMES.items() for name in names} | {
    "cost": ("crossbar_sim.robustness.array_work", "cost_of_model"),
    "export": ("crossbar_sim.nn.files.export", "export_model"),
    "sweep": ("crossbar_sim.robustness.benchmark", "robustness"),
    "train": ("crossbar_sim.experiments.trainings", "train_network"),
}
"""Public name -> its module, and its name there. Those of one word are the commands of the command line."""

_REPORT = {
    "draw_curves": "crossbar_sim.report.sweep_figures",
    "draw_deployment": "crossbar_sim.report.deploy_figure",
    "draw_trade_off": "crossbar_sim.report.tradeoff_figure",
    "notebook_html": "crossbar_sim.report.terminal",
    "notebook_progress": "crossbar_sim.report.console",
}
"""How results of `robustness` show themselves; that room must not import `report`."""

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return [*_HOME, *(law.__name__ for law in import_module(_LAWS).ALL_DRIFTS), "__version__"]
    if name in _HOME:
        module, attribute = _HOME[name]
        return getattr(import_module(module), attribute)
    if name == "nn":
        return import_module("crossbar_sim.nn")
    if name in _REPORT:
        return getattr(import_module(_REPORT[name]), name)
    if name[:1].isupper():  # no submodule
        for law in import_module(_LAWS).ALL_DRIFTS:
            if law.__name__ == name:
                return law
    raise AttributeError(f"module 'crossbar_sim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__getattr__("__all__"))
