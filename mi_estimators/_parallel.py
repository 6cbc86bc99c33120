"""Independent cells at the same time: processes of this machine, or a cluster of Dask or Ray."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from mi_estimators import _checks, _extras

BACKENDS = {"loky": "joblib", "dask": "distributed", "ray": "ray"}
"""Where cells run, by the package that each needs: processes of this machine, or a cluster."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def check_jobs(jobs: int, backend: str) -> None:
    """Check that so many jobs can run there.

    Raises:
        ValueError: ``jobs`` is neither at least 1 nor -1, or the backend unknown.
        ImportError: the backend's package is missing.
    """
    _checks.choice("backend", backend, BACKENDS)
    if jobs != -1:
        _checks.count("jobs", jobs)
    if importlib.util.find_spec(BACKENDS[backend]) is None and (backend != "loky" or jobs != 1):
        extra = "train" if backend == "loky" else "cluster"
        hint = f'pip install "mi-estimators[{extra}]"' if backend != "ray" else "pip install ray"
        raise ImportError(f"backend: {backend!r} needs the package {BACKENDS[backend]}: {hint}")


def results_of(
    function: Callable[[Item], Result], items: Sequence[Item], *, jobs: int = 1, backend: str = "loky"
) -> Iterator[Result]:
    """Results of a function, in the order in which they come.

    Args:
        function: of one item; whatever it returns must say which item it is of.
        items: what to compute.
        jobs: items at the same time; -1 for as many as there are cores.
        backend: name in :data:`BACKENDS`: ``"loky"`` for processes of this machine; ``"dask"`` and ``"ray"`` take the
            cluster that their package is connected to (Dask's configuration or ``DASK_SCHEDULER_ADDRESS``, and
            ``RAY_ADDRESS``, may name one), with all its workers, or start ``jobs`` workers here.
    """
    if not items:
        return
    if jobs == 1 and backend == "loky":
        yield from map(function, items)
        return
    joblib = _extras.require("joblib", "train")
    with contextlib.ExitStack() as stack:
        if backend == "dask":
            _connect_dask(jobs, stack)
        elif backend == "ray":
            _extras.require("ray.util.joblib", "cluster").register_ray()
        stack.enter_context(joblib.parallel_config(backend=backend, n_jobs=jobs))
        # Ray's backend cannot hand out results as they come: there a kill loses a group of cells.
        group = 8 * max(1, joblib.effective_n_jobs(jobs)) if backend == "ray" else len(items)
        for start in range(0, len(items), group):
            parallel = joblib.Parallel(batch_size=1, return_as="list" if backend == "ray" else "generator_unordered")
            yield from parallel(joblib.delayed(function)(item) for item in items[start : start + group])


def _connect_dask(jobs: int, stack: contextlib.ExitStack) -> None:
    """A client of Dask: the connected one, or one of the configured scheduler, or one of workers started here."""
    distributed = _extras.require("distributed", "cluster")
    try:
        distributed.get_client()
    except ValueError:  # none is connected
        if _extras.require("dask.config", "cluster").get("scheduler-address", None):
            stack.enter_context(distributed.Client())
        else:
            cluster = distributed.LocalCluster(
                n_workers=None if jobs == -1 else jobs,
                threads_per_worker=1,
                dashboard_address=None,
                silence_logs=logging.ERROR,  # a worker that is slow to leave is no news
            )
            stack.enter_context(cluster)
            stack.enter_context(distributed.Client(cluster))


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """One thread for PyTorch's operations; afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
