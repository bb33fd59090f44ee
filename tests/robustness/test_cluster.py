"""Dask workers that are not there, are lost, or hear Ctrl-C: one sentence, and what was measured is kept."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import pytest

from crossbar_sim import InputError, Key
from crossbar_sim.nn import seeded
from crossbar_sim.nn.files.checkpoint import save_checkpoint
from crossbar_sim.nn.networks import build
from crossbar_sim.robustness import cluster as dask_futures
from crossbar_sim.robustness import cluster as module
from crossbar_sim.robustness import robustness
from crossbar_sim.robustness.cluster import cluster, local_client
from crossbar_sim.search.space import Space
from crossbar_sim.search.study import search
from crossbar_sim.store.results import Results

pytestmark = pytest.mark.skipif(
    find_spec("distributed") is None, reason="needs Dask: pip install '.[cluster]'"
)
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
ARGUMENTS = {"inputs": 64, "hidden": (8,), "classes": 10}


def net(seed: int = 0):
    with seeded(Key(seed)):
        return build("mlp", **ARGUMENTS)


def scheduler(workers: int):
    from distributed import LocalCluster

    # threads of this process: what is tested is that they go away
    return LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=False, dashboard_address=None, silence_logs=50
    )


def test_a_scheduler_without_workers_is_not_waited_for_for_ever(monkeypatch):
    monkeypatch.setattr(dask_futures, "WAIT", 0.5)
    told = []
    with (
        scheduler(0) as local,
        pytest.raises(
            InputError, match=r"has no worker, and none came within 0.5 s: start some with dask worker"
        ),
        cluster(None, local.scheduler_address, lambda done, total, what: told.append(what)),
    ):
        pass
    assert told == [f"waiting for a worker of {local.scheduler_address}"]


def test_workers_that_all_go_are_not_waited_for_for_ever(monkeypatch):
    monkeypatch.setattr(dask_futures, "WAIT", 0.5)
    monkeypatch.setattr(dask_futures, "CHECK", 0.1)
    with scheduler(1) as local:

        def lose(done, total, what):
            local.scale(0)

        with pytest.raises(InputError, match=r"all workers of .* are lost"):
            robustness(
                {"a": net()},
                "digits",
                sigmas=[0.1, 0.2],
                chips=3000,
                scheduler=local.scheduler_address,
                progress=lose,
            )


def test_a_scheduler_that_is_lost_is_one_sentence_and_what_was_measured_is_kept(tmp_path, caplog):
    with scheduler(1) as local:
        address, path = local.scheduler_address, tmp_path / "runs.db"

        def lose(done, total, what):
            if what.startswith("a,"):
                local.close()

        with pytest.raises(InputError, match=r"the Dask scheduler at .* is lost: what was measured is kept"):
            robustness(
                {"a": net()},
                "digits",
                sigmas=[0.1, 0.2],
                chips=3000,
                results=path,
                scheduler=address,
                progress=lose,
            )
    with Results.open(path) as results:
        assert results.trials(results.tasks()[0].id)
    assert not [record for record in caplog.records if record.name == "distributed.client"]


def test_a_search_whose_scheduler_is_lost_is_one_sentence_and_goes_on_to_the_same_end(tmp_path):
    space, study = Space.of({"x": (0, 1)}), tmp_path / "study.db"
    told = []
    with scheduler(1) as local:

        def lose(trial, study):
            told.append(trial.number)
            if len(told) == 3:
                local.close()

        with pytest.raises(InputError, match=r"is lost: the trials that are done are kept in the study file"):
            search(
                slow, space, 8, Key(0), study=study, batch=2, scheduler=local.scheduler_address, progress=lose
            )
    assert len(told) == 3
    resumed = search(slow, space, 8, Key(0), study=study, batch=2)
    whole = search(slow, space, 8, Key(0), batch=2)
    assert [trial.point for trial in resumed.trials] == [trial.point for trial in whole.trials]


def slow(point, key):
    time.sleep(0.05)
    return -((point["x"] - 0.3) ** 2)


def test_what_a_trial_raises_is_not_taken_for_a_lost_scheduler():
    def broken(point, key):
        raise OSError("of the objective's own")

    with scheduler(1) as local, pytest.raises(OSError, match="of the objective's own"):
        search(broken, Space.of({"x": (0, 1)}), 2, Key(0), batch=2, scheduler=local.scheduler_address)


def test_what_a_block_raises_is_not_taken_for_a_lost_scheduler(monkeypatch):
    """The negative control of the sentence above."""

    def broken(subject, job):
        raise OSError("of the model's own")

    monkeypatch.setattr(module, "measure", broken)
    with scheduler(1) as local, pytest.raises(OSError, match="of the model's own"):
        robustness({"a": net()}, "digits", sigmas=[0.1], chips=2, scheduler=local.scheduler_address)


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="Ctrl-C reaches workers on this system")
def test_ctrl_c_stops_a_sweep_on_workers_without_a_word_of_theirs(tmp_path):
    model, results = tmp_path / "model.pt", tmp_path / "runs.db"
    save_checkpoint(model, net(), "mlp", ARGUMENTS, "digits")
    command = [
        sys.executable, "-m", "crossbar_sim", "sweep", str(model), "--chips", "3000", "--workers", "1",
        "--results", str(results),
    ]  # fmt: skip
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # a shell's background job ignores it
    )
    try:
        until = time.monotonic() + 90
        while child.poll() is None and time.monotonic() < until and not _written(results):
            time.sleep(0.1)
        assert child.poll() is None, child.communicate()
        os.killpg(child.pid, signal.SIGINT)  # to all of them, as a terminal does
        _, err = child.communicate(timeout=60)
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
    assert err.strip() == "stopped"
    assert child.returncode == 130


def test_a_script_without_a_guard_is_told_so(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from crossbar_sim.robustness import robustness\n"
        "from crossbar_sim.nn.networks import build\n"
        f"network = build('mlp', **{ARGUMENTS!r})\n"
        "robustness({'a': network}, 'digits', sigmas=[0.1], chips=1, workers=1)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=ENVIRONMENT, timeout=300
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "could not be started" in last
    assert 'if __name__ == "__main__":' in last
    assert "bootstrapping" not in done.stderr


def _written(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        with Results.open(path, readonly=True) as results:
            return any(results.trials(task.id) for task in results.tasks())
    except InputError:  # being made
        return False


class SlowCluster:
    """Stands in for a `LocalCluster` whose processes take their time."""

    seen: ClassVar[list[str]] = []

    def __init__(self, **_: object) -> None:
        self.seen.append("starts")
        time.sleep(0.6)

    def __enter__(self) -> "SlowCluster":
        self.seen.append("runs")
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(0.3)
        self.seen.append("closed")


@pytest.mark.parametrize("after", [0.2, 0.55, 0.75])
def test_ctrl_c_while_workers_start_closes_them(monkeypatch, after):
    """Whatever is interrupted, the workers are not: they are started and closed in a thread of their own."""
    import distributed

    monkeypatch.setattr(SlowCluster, "seen", [])
    monkeypatch.setattr(distributed, "LocalCluster", SlowCluster)
    monkeypatch.setattr(distributed, "Client", lambda local: nullcontext("client"))
    timer = threading.Timer(after, signal.raise_signal, [signal.SIGINT])
    # a shell starts a background job with the signal ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt), local_client(2):
            time.sleep(5)
    finally:
        signal.signal(signal.SIGINT, before)
    assert SlowCluster.seen == ["starts", "runs", "closed"]


def test_workers_that_cannot_be_started_are_one_sentence(monkeypatch):
    import distributed

    def fails(**_: object) -> None:
        raise RuntimeError("no processes left")

    monkeypatch.setattr(distributed, "LocalCluster", fails)
    with (
        pytest.raises(InputError, match=r"2 Dask workers could not be started \(no processes left\)"),
        local_client(2),
    ):
        pass
