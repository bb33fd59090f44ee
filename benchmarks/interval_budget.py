"""Claim: to +-0.5 points, sampled images cost 20 times fewer evaluations and 8 times less time than all of them.

    CROSSBAR_SIM_DATA=DIR OMP_NUM_THREADS=1 python benchmarks/interval_budget.py erm.pt dropout50.pt [results.json]

Each model (784-192-32-10, MNIST) at sigma 0.6 and 1.2, on one core: `half_width=0.005` from nothing to the end, with
its pilot, against all test images on as many chips as that interval needs. The time of the latter is its chips times
the time of one full evaluation, measured in the same process between the runs.
"""

import json
import statistics
import sys
from pathlib import Path
from time import perf_counter

import torch
from timing import processor

from crossbar_sim import Hardware
from crossbar_sim.crossbar import threads
from crossbar_sim.data import load_data
from crossbar_sim.nn.files.loading import load_model
from crossbar_sim.robustness import two_stage
from crossbar_sim.robustness.evaluator import Job
from crossbar_sim.robustness.examples import Examples
from crossbar_sim.robustness.plans import HalfWidth, plan_of
from crossbar_sim.robustness.runner import InProcess, run_plan
from crossbar_sim.robustness.tasks import Model, fingerprint, prepare
from crossbar_sim.store.results import Results

HALF, SIGMAS, ROUNDS = 0.005, (0.6, 1.2), 5


def one(path: str, sigma: float) -> dict[str, float]:
    """The figures of one model at one sigma: medians over rounds."""
    test = load_data("mnist").test
    module = load_model(path).module
    examples = Examples(test.x, test.y, {"fingerprint": "mnist", "images": len(test.x), "labelled": True}, ())
    plan = HalfWidth(HALF)
    model = Model("model", module, examples, {"fingerprint": fingerprint(module)})
    task, subject = prepare(model, Hardware.preset("bayesft"), 0, None, None, (), plan.images, 0.6)
    evaluator = subject.evaluator
    evaluator.measure(Job(sigma, (0,), 100))
    times, full = [], []
    for i in range(ROUNDS):
        began = perf_counter()
        evaluator.measure(Job(sigma, tuple(range(10 * i, 10 * i + 10))))
        full.append((perf_counter() - began) / 10)
        with Results.open(":memory:") as results:
            began = perf_counter()
            run_plan([(task, subject)], (sigma,), plan, results, InProcess(results))
            times.append(perf_counter() - began)
            done = plan_of(task).next_step(results.trials(task.id))
    assert isinstance(done, two_stage.Done)
    assert done.reached
    spent, plain, seconds = done.spent, done.plain, statistics.median(times)
    ratios = [done.plain.chips * all_images / ours for all_images, ours in zip(full, times, strict=True)]
    return {
        "mean": done.interval.estimate,
        "half-width": done.interval.half_width,
        "chips": spent.chips,
        "images per chip": done.images,
        "image evaluations": spent.images,
        "plain chips": plain.chips,
        "plain image evaluations": plain.images,
        "fewer evaluations": plain.images / spent.images,
        "seconds": seconds,
        "ms per chip": seconds / spent.chips * 1e3,
        "ms per full evaluation": statistics.median(full) * 1e3,
        "less time": statistics.median(ratios),
    }


def main() -> None:
    threads.set_threads(1)
    torch.set_num_threads(1)
    models = [name for name in sys.argv[1:] if name.endswith(".pt")]
    rows = {f"{Path(name).stem}, sigma {sigma}": one(name, sigma) for name in models for sigma in SIGMAS}
    for name, row in rows.items():
        print(name)
        for what, value in row.items():
            print(f"  {what:<26} {value:12.4g}")
    for target in sys.argv[1 + len(models) :]:
        found = [{"title": "interval budget, +-0.5 points", "processor": processor(), "rows": rows}]
        Path(target).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
