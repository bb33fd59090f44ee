"""Search: Bayesian optimisation of dropout rates and other settings by a network's score on chips.

BoTorch (pip install '.[search]' in a clone) is imported when a search begins, not here.
"""

from crossbar_sim.search.bayesft import BayesFT
from crossbar_sim.search.space import Dimension, Space
from crossbar_sim.search.study import Best, SearchResult, Study, search
from crossbar_sim.search.study_file import Trial
from crossbar_sim.search.surrogate import Surrogate
from crossbar_sim.search.trial import DriftedScore, ScoreSample

Found, Measured, Tried = SearchResult, ScoreSample, Trial  # their names up to version 0.1

__all__ = [
    "BayesFT",
    "Best",
    "Dimension",
    "DriftedScore",
    "Found",
    "Measured",
    "ScoreSample",
    "SearchResult",
    "Space",
    "Study",
    "Surrogate",
    "Trial",
    "Tried",
    "search",
]
