"""Known functions with known noise, and searches of them: shared by the tests and benchmarks/search.py."""

import math
from collections.abc import Callable, Mapping

import numpy as np

from crossbar_sim import Key
from crossbar_sim.crossbar.stream import Stream
from crossbar_sim.search import Space, Study, search
from crossbar_sim.search.surrogate import first_points

Function = Callable[[Mapping[str, float]], float]

BRANIN = Space.of({"x": (-5.0, 10.0), "y": (0.0, 15.0)})
BRANIN_TOP = -0.39788735772973816


def branin(point: Mapping[str, float]) -> float:
    """Minus Branin's function, whose three maxima are BRANIN_TOP."""
    x, y = point["x"], point["y"]
    valley = (y - 5.1 * x * x / (4 * math.pi**2) + 5 * x / math.pi - 6) ** 2
    return -(valley + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10)


HARTMANN = Space.of({f"x{i}": (0.0, 1.0) for i in range(6)})
HARTMANN_TOP = 3.32236801141551
_A = np.array(
    [
        [10, 3, 17, 3.5, 1.7, 8],
        [0.05, 10, 17, 0.1, 8, 14],
        [3, 3.5, 1.7, 10, 17, 8],
        [17, 8, 0.05, 10, 0.1, 14],
    ]
)
_P = np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886], [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650], [4047, 8828, 8732, 5743, 1091, 381],
    ]
) * 1e-4  # fmt: skip


def hartmann6(point: Mapping[str, float]) -> float:
    """Hartmann's function of six variables, whose maximum is HARTMANN_TOP."""
    x = np.array([point[f"x{i}"] for i in range(6)])
    return float(np.array([1.0, 1.2, 3.0, 3.2]) @ np.exp(-(_A * (x - _P) ** 2).sum(1)))


class Noisy:
    """A function whose answers have normal noise of a known deviation."""

    def __init__(self, function: Function, sd: float) -> None:
        self.function, self.sd = function, sd

    def __call__(self, point: Mapping[str, float], key: Key) -> tuple[float, float]:
        noise = float(Stream.of(key.fold("noise"), 0).normals(1)[0])
        return self.function(point) + self.sd * noise, self.sd**2


def by_search(noisy: Noisy, space: Space, trials: int, seed: int, acquisition: str = "lognei") -> float:
    """The true value of the point that a search recommends."""
    found = search(noisy, space, trials, Key(seed), acquisition=acquisition)
    return noisy.function(found.best.point)


def at_random(noisy: Noisy, space: Space, trials: int, seed: int) -> float:
    """The true value of the best of points drawn evenly (Sobol), recommended by the same surrogate: a strong rival."""
    key = Key(seed).fold("random")
    points = [space.point(place) for place in first_points(trials, len(space), key).tolist()]
    with Study(space, key, initial=trials, batch=trials) as study:
        study._proposed = 0, points
        for number, point in study.ask():
            study.tell(number, *noisy(point, key.fold(str(number))))
        return noisy.function(study.best().point)
