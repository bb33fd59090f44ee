"""Sweeps that are killed, share a file, or lose workers: nothing is lost, and the table is the undisturbed one's."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from crossbar_sim import InputError
from crossbar_sim.robustness.cluster import cluster

ROOT = Path(__file__).parents[2]


def faults(*arguments: str) -> dict:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "faults.py"), *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked, which this system does not do")
def test_kills_and_company_cost_nothing():
    report = faults("--kills", "12", "--writers", "2")
    assert report["complete"]
    assert report["equal"]
    assert report["writers_equal"]
    assert report["in_mid_run"] > 0, "no kill came in the middle of a run"


@pytest.mark.skipif(find_spec("distributed") is None, reason="needs Dask: pip install '.[cluster]'")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the script forks")
def test_workers_that_die_cost_nothing():
    report = faults("--kills", "0", "--writers", "0", "--workers", "2")
    assert report["workers_killed"] >= 1
    assert report["workers_equal"]
    assert report["complete"]


@pytest.mark.skipif(find_spec("distributed") is None, reason="needs Dask: pip install '.[cluster]'")
def test_a_scheduler_that_does_not_answer_is_one_sentence(monkeypatch):
    monkeypatch.setattr("crossbar_sim.robustness.cluster.PATIENCE", "1s")
    with (
        pytest.raises(InputError, match=r"no Dask scheduler can be reached at tcp://127\.0\.0\.1:9"),
        cluster(None, "tcp://127.0.0.1:9"),
    ):
        pass
    with (
        pytest.raises(InputError, match="no Dask scheduler can be reached at nonsense"),
        cluster(None, "nonsense://x"),
    ):
        pass
