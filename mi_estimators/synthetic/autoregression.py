"""Vector autoregressions: Gaussian time series whose mutual information and transfer entropy are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.synthetic.gaussian import gaussian_mutual_information, gaussian_task
from mi_estimators.synthetic.task import Task

_SOURCE = "Barnett, Barrett and Seth 2009 (PRL 103, 238701)"

Variable = tuple[int, int]
"""(component, time): a component of the series at a time, counted from any origin."""


class VectorAutoregression:
    """``z_t = A_1 z_(t-1) + ... + A_p z_(t-p) + e_t`` with Gaussian noise e_t, in its stationary state.

    Args:
        coefficients: ``[p, d, d]``, or ``[d, d]`` for p = 1; all roots inside the unit circle.
        noise: covariance of e_t, ``[d, d]``, positive definite; None for the identity.

    Raises:
        ValueError: shapes do not fit, the noise is no covariance, or the series is not stationary.

    Source:
        Lütkepohl 2005, New Introduction to Multiple Time Series Analysis, sec. 2.1.
    """

    def __init__(self, coefficients: np.ndarray, noise: np.ndarray | None = None) -> None:
        lags = np.asarray(coefficients, dtype=np.float64)
        lags = lags[None] if lags.ndim == 2 else lags
        if lags.ndim != 3 or lags.shape[1] != lags.shape[2] or lags.size == 0 or not np.isfinite(lags).all():
            raise ValueError(f"coefficients: want finite values of shape [p, d, d], got shape {lags.shape}")
        self.order, self.dim = lags.shape[:2]
        sigma = np.eye(self.dim) if noise is None else np.asarray(noise, dtype=np.float64)
        if sigma.shape != (self.dim, self.dim):
            raise ValueError(f"noise: want shape {(self.dim, self.dim)}, got {sigma.shape}")
        if not np.allclose(sigma, sigma.T) or not np.linalg.eigvalsh(sigma)[0] > 0:
            raise ValueError("noise: want a symmetric, positive definite matrix")
        size = self.order * self.dim
        companion = np.eye(size, k=-self.dim)
        companion[: self.dim] = np.concatenate(list(lags), axis=1)
        radius = np.abs(np.linalg.eigvals(companion)).max()
        if not radius < 1:
            raise ValueError(f"coefficients: want a stationary series, got a root of modulus {radius:.4g}")
        self._companion, self._noise_factor = companion, np.linalg.cholesky(sigma)
        shock = np.zeros((size, size))
        shock[: self.dim, : self.dim] = sigma
        # vec(S) = (F x F) vec(S) + vec(Q): small systems, so the Kronecker product is the plainest way.
        stationary = np.linalg.solve(np.eye(size * size) - np.kron(companion, companion), shock.ravel())
        self._stationary = stationary.reshape(size, size)

    def autocovariance(self, lag: int) -> np.ndarray:
        """``E[z_t z_(t - lag)^T]``, ``[d, d]``."""
        power = np.linalg.matrix_power(self._companion, abs(lag))
        block = (power @ self._stationary)[: self.dim, : self.dim]
        return block if lag >= 0 else block.T

    def covariance(self, variables: Sequence[Variable]) -> np.ndarray:
        """Covariance of components at given times, ``[len(variables), len(variables)]``.

        Raises:
            ValueError: a component does not exist.
        """
        for component, _ in variables:
            if not 0 <= component < self.dim:
                raise ValueError(f"variables: want components from 0 to {self.dim - 1}, got {component}")
        return np.array([[self.autocovariance(s - t)[a, b] for b, t in variables] for a, s in variables])

    def mutual_information(self, first: Sequence[Variable], second: Sequence[Variable]) -> float:
        """I between two sets of components at given times, in nats.

        Raises:
            ValueError: a component does not exist, or a variable stands in both sets.
        """
        return gaussian_mutual_information(self.covariance([*first, *second]), len(first))

    def transfer_entropy(self, source: Sequence[int], target: Sequence[int], history: int = 1) -> float:
        """``I(target_t ; source's past | target's past)`` in nats, the pasts being the last ``history`` values.

        Args:
            source: components that inform.
            target: components that are informed.
            history: number of past values, >= 1. The transfer entropy of the whole past is its limit.

        Raises:
            ValueError: ``history`` is smaller than 1, or a component does not exist or stands in both.

        Source:
            Schreiber 2000 (PRL 85, 461); for Gaussian variables Barnett, Barrett and Seth 2009 (PRL 103, 238701).
        """
        now, theirs, own = self._past(source, target, history)
        return max(0.0, self.mutual_information(now, [*theirs, *own]) - self.mutual_information(now, own))

    def transfer_tasks(
        self, name: str, source: Sequence[int], target: Sequence[int], history: int = 1
    ) -> tuple[Task, Task]:
        """The two tasks whose mutual informations differ by the transfer entropy; pairs are i.i.d. windows.

        Returns:
            The pasts of source and target against the target's next value, named ``name`` with ``joint`` for ``*``;
            and the target's past alone against it, with ``own``.

        Args:
            name: of the tasks, with a ``*`` in it.
            source: components that inform.
            target: components that are informed.
            history: number of past values, >= 1.

        Raises:
            ValueError: as :meth:`transfer_entropy`.
        """
        now, theirs, own = self._past(source, target, history)
        tasks = [
            gaussian_task(name.replace("*", label), self.covariance([*past, *now]), len(past), source=_SOURCE)
            for label, past in (("joint", [*theirs, *own]), ("own", own))
        ]
        return tasks[0], tasks[1]

    def _past(
        self, source: Sequence[int], target: Sequence[int], history: int
    ) -> tuple[list[Variable], list[Variable], list[Variable]]:
        _checks.count("history", history)
        if not source or not target or set(source) & set(target):
            raise ValueError(f"source, target: want components, none of them in both, got {source} and {target}")
        times = range(-1, -history - 1, -1)
        theirs, own = ([(k, t) for k in components for t in times] for components in (source, target))
        return [(k, 0) for k in target], theirs, own

    def sample(self, n: int, seed: int | torch.Generator = 0) -> Tensor:
        """One path of n consecutive values, started in the stationary state; ``[n, d]``, float64.

        Args:
            n: number of values, >= 1.
            seed: an integer, or a CPU generator, which is advanced.

        Raises:
            ValueError: ``n`` is smaller than 1.
        """
        _checks.count("n", n)
        generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
        size = len(self._companion)
        start = torch.randn(size, generator=generator, dtype=torch.float64).numpy()
        state = np.linalg.cholesky(self._stationary) @ start
        noise = torch.randn(n, self.dim, generator=generator, dtype=torch.float64).numpy() @ self._noise_factor.T
        path = np.empty((n, self.dim))
        for t in range(n):
            state = self._companion @ state
            state[: self.dim] += noise[t]
            path[t] = state[: self.dim]
        return torch.from_numpy(path)


def windows(series: Tensor, history: int) -> tuple[Tensor, Tensor]:
    """Each value of a series and the ones before it: ``next [n - history, d]``, ``past [n - history, d, history]``.

    The last index of ``past`` counts back from the value just before.

    Args:
        series: ``[n, d]``.
        history: number of past values, from 1 to ``n - 1``.

    Raises:
        ValueError: ``history`` is out of range.
    """
    _checks.floating("series", series)
    if not 1 <= history < len(series):
        raise ValueError(f"history: want between 1 and {len(series) - 1}, got {history}")
    return series[history:], series.unfold(0, history, 1)[:-1].flip(-1)


def coupled_autoregression(own: tuple[float, float] = (0.5, 0.5), coupling: float = 1.0) -> VectorAutoregression:
    """Two series, x that drives y: ``x_t = a x_(t-1) + e_t`` and ``y_t = b y_(t-1) + c x_(t-1) + f_t``.

    Args:
        own: the coefficients a and b, inside (-1, 1).
        coupling: the coefficient c.

    Raises:
        ValueError: the series is not stationary.

    Source:
        Barnett, Barrett and Seth 2009 (PRL 103, 238701).
    """
    return VectorAutoregression(np.array([[own[0], 0.0], [coupling, own[1]]]))
