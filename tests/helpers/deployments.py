"""A deployment with invented scores and layers."""

from typing import Any

from crossbar_sim.crossbar.drift import LogNormalDrift
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.nn.analog.matrices import Layout
from crossbar_sim.nn.analog.state import ArraySlot, Layer
from crossbar_sim.robustness.deploy import Deployment, LayerReport, Sensitivity
from crossbar_sim.robustness.score import Score
from crossbar_sim.robustness.statistics import summarise

HARDWARE = Hardware(drift=LogNormalDrift(0.6), drift_per="weight")
SCORES = (0.91,) * 13 + (0.93,) + (0.62,) * 5 + (0.6,)


def report(
    name: str, drops: tuple[float, ...] = (0.1, 0.12, 0.14), shape: tuple[int, ...] = (64, 48)
) -> LayerReport:
    slot = ArraySlot(f"{name}.weight", name, Layout(shape, "out_in"), "weight")
    layer = Layer(name, "Linear", True, "on arrays", (slot,))
    sensitivity = Sensitivity(summarise(drops), 450) if drops else None
    return LayerReport(layer, HARDWARE, {"drift": 0.597}, sensitivity)


def digital(name: str, reason: str = "an affine normalisation") -> LayerReport:
    return LayerReport(Layer(name, "BatchNorm2d", False, reason), HARDWARE, {}, None)


def deployment(**changes: Any) -> Deployment:
    chosen: dict[str, Any] = {
        "metric": "accuracy",
        "hardware": HARDWARE,
        "seed": 0,
        "chips": tuple(range(20)),
        "clean": Score(0.981, 1.0, 0.0),
        "scores": tuple(Score(s, s + 0.01, 1 - s) for s in SCORES),
        "threshold": 0.9,
        "layers": (report("fc1"), digital("norm"), report("fc2", (0.02, 0.021, 0.022), (10, 64))),
        "identity": {"data": {"name": "digits"}},
    }
    return Deployment(**(chosen | changes))
