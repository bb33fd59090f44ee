"""Several GPUs, where there is none: each worker sees its own first, and the numbers are those of one process."""

import os
import sys
from importlib.util import find_spec
from types import ModuleType

import pytest

from crossbar_sim import Key
from crossbar_sim.nn import seeded
from crossbar_sim.nn.networks import build
from crossbar_sim.robustness import cluster, robustness
from crossbar_sim.robustness.cluster import local_client, processes, visible_gpus

pytestmark = pytest.mark.skipif(
    find_spec("distributed") is None, reason="needs Dask: pip install '.[cluster]'"
)


@pytest.mark.parametrize(
    ("mask", "worker", "seen"),
    [
        (None, 0, "0,1,2"),
        (None, 1, "1,2,0"),
        (None, 4, "1,2,0"),
        ("7,GPU-a,5", 2, "5,7,GPU-a"),
        ("6", 3, "6"),
    ],
)
def test_every_worker_sees_its_own_gpu_first(
    mask: str | None, worker: int, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if mask is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mask)
    assert visible_gpus(worker, 3) == seen


@pytest.mark.parametrize(
    ("workers", "scheduler", "device", "gpus", "found"),
    [
        (None, None, "cuda", 4, 4), (None, None, "auto", 4, 4), (None, None, "cuda:1", 4, None),
        (None, None, "cuda", 1, None), (None, None, None, 4, None), (2, None, "cuda", 4, 2),
        (None, "tcp://head:8786", "cuda", 4, None),
    ],
)  # fmt: skip
def test_one_worker_per_gpu_unless_something_else_is_given(
    workers: int | None,
    scheduler: str | None,
    device: str | None,
    gpus: int,
    found: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, "count", lambda kind: gpus)
    assert processes(workers, scheduler, device) == found


def test_workers_start_with_their_gpus_and_measure_what_one_process_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, "count", lambda kind: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with local_client(3) as client:
        seen = client.run(os.getenv, "CUDA_VISIBLE_DEVICES")
        assert sorted(seen.values()) == ["0,1", "0,1", "1,0"]
    with seeded(Key(0)):
        network = {"mlp": build("mlp", inputs=64, hidden=(8,), classes=10)}
    alone, together = (
        robustness(network, "digits", sigmas=[0.5], chips=5, device="torch:cpu", workers=workers).curve("mlp")
        for workers in (None, 2)
    )
    assert [point.values for point in alone] == [point.values for point in together]
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_the_cluster_of_dask_cuda_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = ModuleType("dask_cuda")
    fake.LocalCUDACluster = lambda **settings: settings  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dask_cuda", fake)
    monkeypatch.setattr(cluster, "count", lambda kind: 2)
    made = cluster._local_cluster(2)
    assert made["n_workers"] == 2
    assert made["threads_per_worker"] == 1
