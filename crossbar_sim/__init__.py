"""Simulate neural networks on ReRAM crossbars: what a trained network still does on real conductances.

The names below are the device and array level and load no torch; the layers are `crossbar_sim.nn`.
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
    from crossbar_sim.errors import CrossbarWarning, InputError
    from crossbar_sim.rng import Key

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
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return [*_HOME, *(law.__name__ for law in import_module(_LAWS).ALL_DRIFTS), "__version__"]
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name == "nn":
        return import_module("crossbar_sim.nn")
    if name == "draw_curves":  # for Sweep.plot: robustness must not import report
        return import_module("crossbar_sim.report.sweep_figures").draw_curves
    if name[:1].isupper():  # no submodule
        for law in import_module(_LAWS).ALL_DRIFTS:
            if law.__name__ == name:
                return law
    raise AttributeError(f"module 'crossbar_sim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__getattr__("__all__"))
