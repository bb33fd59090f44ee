"""Results files of every release are read for ever: the numbers, the curves and the page."""

from pathlib import Path

import pytest
from helpers.make_sweep_example import make

from crossbar_sim.report import page_text
from crossbar_sim.robustness import Sweep
from crossbar_sim.store.results import Results

KEPT = sorted((Path(__file__).parents[1] / "data").glob("v*/sweep.db"))


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.parent.name)
def test_a_kept_sweep_is_read(path):
    with Results.open(path, readonly=True) as results:
        sweep = Sweep.read(results)
    assert sweep.labels == ("first", "second, µ", "drawn")
    assert [point.sigma for point in sweep.curve("first")] == [0.0, 0.5]
    assert sweep.curve("first")[1].chips == (0, 1, 2)
    assert sweep.curve("drawn")[1].done.reached
    assert set(sweep.details["first"]) == {"sensitivity", "conductances"}
    assert "second, µ" in page_text(sweep)


def test_the_present_code_still_makes_the_same_numbers(tmp_path):
    """A change of any published number is to be meant: it raises the stream's version, or the task's identity."""

    def trials(path):
        with Results.open(path, readonly=True) as results:
            return {
                (task.label, task.id): [(t.place, round(t.value, 2)) for t in results.trials(task.id)]
                for task in results.tasks()
            }

    assert trials(make(tmp_path / "now.db")) == trials(KEPT[-1])
