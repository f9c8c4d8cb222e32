"""Targets on a cluster: the numbers of one process, and a worker that is lost takes nothing with it."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest
from joblib import parallel_config

from nextlens.probes.banded_ridge import BandedRidgeCV
from nextlens.probes.ridge_cv import RidgeCV

distributed = pytest.importorskip("distributed", reason="the extra nextlens[cluster] is not installed")
pytestmark = [
    pytest.mark.filterwarnings("ignore:of .* targets .* chose the least penalty"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

ALPHAS = np.logspace(0, 4, 5)


@pytest.fixture(scope="module")
def client():
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, memory_limit=0) as cluster,
        distributed.Client(cluster) as connected,
    ):
        yield connected


def rows(targets=60):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((90, 12))
    return X, X @ rng.standard_normal((12, targets)) + 4 * rng.standard_normal((90, targets))


def same(there, here):
    np.testing.assert_array_equal(there.alpha_, here.alpha_)
    np.testing.assert_allclose(there.coef_, here.coef_, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(there.cv_score_, here.cv_score_, atol=1e-12)


def test_a_cluster_gives_the_numbers_of_one_process(client, tmp_path):
    X, Y = rows()
    np.save(tmp_path / "responses.npy", Y)
    here = RidgeCV(ALPHAS, cv=3).fit(X, Y)
    with parallel_config(backend="dask", wait_for_workers_timeout=60):
        there = RidgeCV(ALPHAS, cv=3).fit(X, np.load(tmp_path / "responses.npy", mmap_mode="r"))
    same(there, here)
    bands = [slice(0, 5), slice(5, 12)]
    here = BandedRidgeCV(bands, ALPHAS, cv=3, candidates=3, refinements=2).fit(X, Y)
    with parallel_config(backend="dask", wait_for_workers_timeout=60):
        there = BandedRidgeCV(bands, ALPHAS, cv=3, candidates=3, refinements=2).fit(X, Y)
    same(there, here)
    np.testing.assert_array_equal(there.gamma_, here.gamma_)


def test_a_lost_worker_is_survived(client):
    """One worker is killed while it has blocks; they are done by the other, and by the one that takes its place."""
    X, Y = rows(targets=120)
    here = RidgeCV(ALPHAS, cv=3, search="grid").fit(X, Y)
    lost = []

    def kill() -> None:
        deadline = time.monotonic() + 30
        while not lost and time.monotonic() < deadline:
            busy = [worker for worker, tasks in client.processing().items() if len(tasks)]
            pids = client.run(os.getpid, workers=busy[:1]) if busy else {}
            for worker, pid in pids.items():
                os.kill(pid, signal.SIGKILL)
                lost.append(worker)

    killer = threading.Thread(target=kill)
    killer.start()
    with parallel_config(backend="dask", wait_for_workers_timeout=60):
        there = RidgeCV(ALPHAS, cv=3, search="grid", memory=least_memory(X, Y)).fit(X, Y)
    killer.join()
    assert len(lost) == 1
    assert there.block_size_ < 20
    same(there, here)


def least_memory(X, Y):
    """So little that there are many blocks."""
    with pytest.raises(ValueError, match="give at least") as refused:
        RidgeCV(ALPHAS, cv=3, search="grid", memory=1).fit(X, Y)
    return float(str(refused.value).rpartition("give at least ")[2].partition(",")[0]) * 1.001 + 1e4
