"""Does the search find more than chance does, and does the test see when it does not?"""

import statistics
import subprocess
import sys

import pytest
from helpers.noisy_functions import (
    BRANIN_TOP,
    HARTMANN,
    HARTMANN_TOP,
    Noisy,
    at_random,
    branin,
    by_search,
    hartmann6,
)

from crossbar_sim import Key
from crossbar_sim.search import Space, Study, Trial, search

TRIALS, SEEDS = 25, 3
"""benchmarks/search.py has 20 seeds; these are its first."""


def test_the_functions_are_the_known_ones():
    assert abs(branin({"x": 3.14159265, "y": 2.275}) - BRANIN_TOP) < 1e-6
    top = dict(zip(HARTMANN.names, (0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573), strict=True))
    assert abs(hartmann6(top) - HARTMANN_TOP) < 1e-4


def test_it_beats_random_search_by_a_factor_and_the_control_does_not():
    """Hartmann-6 with noise 0.1: the regret of the recommended point is at most half of random search's."""
    noisy = Noisy(hartmann6, 0.1)

    def regret(once, first: int) -> float:
        seeds = range(first, first + SEEDS)
        return statistics.mean(HARTMANN_TOP - once(noisy, HARTMANN, TRIALS, seed) for seed in seeds)

    chance = regret(at_random, 0)
    assert regret(by_search, 0) <= 0.5 * chance
    # The control: another random search is not better by that much.
    assert regret(at_random, 1000) > 0.5 * chance


def test_workers_change_nothing():
    def objective(point: dict[str, float], key: Key) -> tuple[float, float]:
        return -((point["x"] - 0.4) ** 2) + 1e-3 * (key.integer() % 100), 1e-4

    space = Space.of({"x": (0.0, 1.0)})
    here = search(objective, space, 8, Key(0), batch=2)
    assert search(objective, space, 8, Key(0), batch=2, workers=2) == here


def test_a_search_killed_within_a_batch_goes_on_to_the_same_end(tmp_path):
    class Killed(Exception):
        pass

    def objective(point: dict[str, float], key: Key) -> tuple[float, float]:
        return -((point["x"] - 0.3) ** 2), 1e-6

    def stop(trial: Trial, study: Study) -> None:
        if trial.number == 5:
            raise Killed

    space, settings = Space.of({"x": (0.0, 1.0)}), {"batch": 4, "initial": 4}
    whole = search(objective, space, 6, Key(0), **settings)
    assert len(whole.trials) == 8  # whole batches
    path = tmp_path / "study.db"
    for trials in (5, 6):  # what is asked for may be there already: its batch is not
        path.unlink(missing_ok=True)
        with pytest.raises(Killed):
            search(objective, space, trials, Key(0), study=path, progress=stop, **settings)
        resumed = search(objective, space, trials, Key(0), study=path, **settings)
        assert [(t.number, t.point, t.value) for t in resumed.trials] == [
            (t.number, t.point, t.value) for t in whole.trials
        ]


def test_importing_it_loads_no_botorch():
    code = "import sys, crossbar_sim.search; assert not {'botorch', 'gpytorch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_botorch_it_says_what_to_install(tmp_path):
    code = (
        "import sys; sys.modules['botorch'] = None\n"
        "from crossbar_sim import InputError, Key\n"
        "from crossbar_sim.search import Space, search\n"
        "try: search(lambda p, k: 0.0, Space.of({'x': (0, 1)}), 3, Key(0), study='study.db')\n"
        'except InputError as error: assert "[search]" in str(error)\n'
        "else: raise AssertionError\n"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=tmp_path, env={"PYTHONPATH": ":".join(sys.path)}
    )
    assert not list(tmp_path.iterdir())
