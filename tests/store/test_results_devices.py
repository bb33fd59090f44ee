"""One task computed on several devices: its scores may differ by a stated number of examples, and no more."""

from pathlib import Path

import pytest

from crossbar_sim.errors import InputError
from crossbar_sim.robustness.metrics import METRICS
from crossbar_sim.robustness.sweep import Sweep
from crossbar_sim.store.records import Task, Trial, apart
from crossbar_sim.store.results import Results, merge

GPU = "cuda: Some GPU"


def task(metric: str = "accuracy", clean: float = 0.9) -> Task:
    return Task("m", {"metric": metric, "images": {"count": 1000, "drawn": False}}, clean)


def write(path: Path, value: float, devices: tuple[str, ...] = (), of: Task | None = None) -> str:
    of = of or task()
    with Results.open(path) as results:
        results.add_task(of, devices)
        results.add(of.id, [Trial(0.5, 0, value, 1000)])
        results.set_detail(of.id, "sensitivity sigma=0.5 chips=1", {"images": 1000, "drops": [1.0 - value]})
    return str(path)


def test_shares_count_examples_and_errors_count_by_their_size() -> None:
    assert apart(0.5, 10_000, "accuracy") * 10_000 == pytest.approx(11.5)
    assert apart(-20.0, 10_000, "output_error") == pytest.approx(0.02)
    for name, metric in METRICS.items():  # one entry of the registry has one rule
        assert (apart(0.0, 100, name) > 0) == metric.share


@pytest.mark.parametrize(
    ("first", "second", "devices", "fine"),
    [
        (0.700, 0.702, (GPU,), True),  # two examples of 1000
        (0.700, 0.703, (GPU,), False),
        (0.700, 0.701, (), False),  # both by the kernels of the CPU: equal to the bit
        (0.700, 0.700, (), True),
        (0.700, 0.702, ("torch:cpu",), True),
    ],
)
def test_merged(tmp_path: Path, first: float, second: float, devices: tuple[str, ...], fine: bool) -> None:
    a, b = write(tmp_path / "a.db", first), write(tmp_path / "b.db", second, devices)
    for sources in ((a, b), (b, a)):
        out = tmp_path / f"{Path(sources[0]).stem}.out.db"
        if not fine:
            with pytest.raises(InputError, match=r"accuracy is .* and now .*nothing was written") as raised:
                merge(sources, out)
            assert ("0.1 % of them" in str(raised.value)) == bool(devices)
            assert not out.exists()
            continue
        report = merge(sources, out)
        assert (report.tasks, report.trials) == (1, 1)
        with Results.open(out, readonly=True) as results:
            (trial,) = results.trials(task().id)
            assert trial.value == (first if sources[0] == a else second), "the first file's is kept"
            assert results.devices(task().id) == (("cpu", *devices) if devices else ())
            assert merge([out, *sources], tmp_path / f"{out.stem}.again.db").new_trials == 1


def test_a_file_of_the_cpu_alone_says_nothing_of_devices(tmp_path: Path) -> None:
    write(tmp_path / "a.db", 0.7)
    with Results.open(tmp_path / "a.db", readonly=True) as results:
        assert results.devices(task().id) == ()
        assert not any("computed on" in str(t.about) for t in Sweep.read(results).tasks.values())


def test_going_on_elsewhere_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "a.db", 0.7)
    other = task(clean=0.901)
    with Results.open(path) as results:
        results.add_task(other, (GPU,))
        results.add(other.id, [Trial(0.5, 1, 0.6, 1000)])
        (told,) = Sweep.read(results).tasks.values()
        assert told.about["notes"][0].startswith(f"computed on cpu and {GPU}; a chip's score may differ")
        with pytest.raises(InputError, match=r"clean score 0\.9 and now 0\.91; a chip's score may differ"):
            results.add_task(task(clean=0.91), (GPU,))


@pytest.mark.parametrize(
    ("name", "one", "other", "of", "fine"),
    [
        # a layer that does next to nothing: its drop is what rounding leaves of two scores
        ("drops", {"images": 1000, "drops": [1e-7]}, {"images": 1000, "drops": [3e-7]}, task("rmse", -0.5), True),
        ("drops", {"images": 1000, "drops": [0.1]}, {"images": 1000, "drops": [0.102]}, task("rmse", -0.5), False),
        ("drops", {"images": 1000, "drops": [0.1]}, {"images": 1000, "drops": [0.105]}, task(), True),
        ("drops", {"images": 1000, "drops": [0.1]}, {"images": 1000, "drops": [0.106]}, task(), False),
        ("edges", {"sigma": 0.5, "edges": [0.0, 1e-4]}, {"sigma": 0.5, "edges": [0.0, 2e-4]}, task(), False),
    ],
)  # fmt: skip
def test_details_differ_by_their_scores_alone(
    tmp_path: Path, name: str, one: object, other: object, of: Task, fine: bool
) -> None:
    with Results.open(tmp_path / "a.db") as results:
        results.add_task(of, (GPU,))
        results.set_detail(of.id, name, one)
        if fine:
            results.set_detail(of.id, name, other)
            return
        with pytest.raises(InputError, match="and now"):
            results.set_detail(of.id, name, other)
