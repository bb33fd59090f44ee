"""Training methods that make a network robust to its hardware: each is a frozen dataclass with `fit`."""

from crossbar_sim.baselines.awp import Awp
from crossbar_sim.baselines.correct_net import CorrectNet
from crossbar_sim.baselines.drift_aware import DriftAware
from crossbar_sim.baselines.dropout import Dropout
from crossbar_sim.baselines.erm import Erm
from crossbar_sim.baselines.ftna import Ftna
from crossbar_sim.baselines.method import Method, Trained
from crossbar_sim.baselines.negative_feedback import NegativeFeedback
from crossbar_sim.baselines.reram_v import ReramV

ALL_METHODS: tuple[type[Method], ...] = (
    Erm, Dropout, Awp, Ftna, ReramV, DriftAware, CorrectNet, NegativeFeedback,
)  # fmt: skip
"""Every method: drives the tests, the command line and the help."""

__all__ = [
    "ALL_METHODS",
    "Awp",
    "CorrectNet",
    "DriftAware",
    "Dropout",
    "Erm",
    "Ftna",
    "Method",
    "NegativeFeedback",
    "ReramV",
    "Trained",
]
