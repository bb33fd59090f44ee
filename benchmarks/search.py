"""The search against random search on known noisy functions, and what asking costs.

    python benchmarks/search.py [--seeds 20] [--trials 20] [--json results.json]

Each of both recommends the trial of the largest posterior mean of the same surrogate; the regret is that of its true
value. The control is a second random search: it must not come near half of the first's regret.
"""

import json
import statistics
import sys
import time
from pathlib import Path

import click
import torch

from crossbar_sim import Key
from crossbar_sim.crossbar import threads
from crossbar_sim.search import Surrogate
from crossbar_sim.search.surrogate import first_points

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from helpers.noisy_functions import (
    BRANIN,
    BRANIN_TOP,
    HARTMANN,
    HARTMANN_TOP,
    Noisy,
    at_random,
    branin,
    by_search,
    hartmann6,
)


def regrets(seeds: int, trials: int) -> list[dict[str, object]]:
    rows = []
    for name, noisy, space, top, budget in (
        ("Hartmann-6, noise 0.1", Noisy(hartmann6, 0.1), HARTMANN, HARTMANN_TOP, trials + 5),
        ("Branin, noise 2", Noisy(branin, 2.0), BRANIN, BRANIN_TOP, trials),
    ):
        for how, once in (
            ("lognei", lambda s: by_search(noisy, space, budget, s)),  # noqa: B023
            ("mean (the paper's)", lambda s: by_search(noisy, space, budget, s, "mean")),  # noqa: B023
            ("random", lambda s: at_random(noisy, space, budget, s)),  # noqa: B023
            ("random again (control)", lambda s: at_random(noisy, space, budget, 1000 + s)),  # noqa: B023
        ):
            found = [top - once(seed) for seed in range(seeds)]
            mean = statistics.mean(found)
            half = 2.09 * statistics.stdev(found) / seeds**0.5 if seeds > 1 else 0.0
            rows.append({"function": name, "search": how, "trials": budget, "regrets": found, "mean": mean})
            median = statistics.median(found)
            print(
                f"{name:<22} {budget:>3} trials  {how:<24} regret {mean:6.3f} +- {half:.3f}, median {median:.3f}",
                flush=True,
            )
    return rows


def asking() -> list[dict[str, object]]:
    rows = []
    for n, d in ((20, 2), (50, 20)):
        x = first_points(n, d, Key(0))
        y = torch.sin(4 * x[:, 0]) - ((x - 0.4) ** 2).sum(1) + 0.1 * first_points(n, 1, Key(1))[:, 0]
        for extra in (False, True):
            spent = []
            for repeat in range(5):
                began = time.process_time()
                Surrogate(x, y, torch.full((n,), 1e-3), extra=extra).propose("lognei", 1, Key(repeat))
                spent.append(time.process_time() - began)
            what = "known and fitted noise" if extra else "known noise"
            print(
                f"asking at {n} trials in {d} dimensions, {what}: {statistics.median(spent):.2f} s of one core"
            )
            rows.append({"trials": n, "dimensions": d, "extra": extra, "seconds": statistics.median(spent)})
    return rows


@click.command()
@click.option("--seeds", default=20)
@click.option("--trials", default=20)
@click.option("--json", "path", type=click.Path())
def main(seeds: int, trials: int, path: str | None) -> None:
    threads.set_threads(1)
    found = {"asking": asking(), "regrets": regrets(seeds, trials)}
    if path is not None:
        Path(path).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
