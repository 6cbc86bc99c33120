"""How the entropy of an encoder's output moves over training."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.entropy.kde import BandwidthChoice, check_choice, check_points
from mi_estimators.entropy.kernels import KERNELS, log_sphere_area
from mi_estimators.entropy.streaming import EntropyEstimate, estimate_kde_entropy
from mi_estimators.ops.pairwise_lse import accumulated

_COLUMNS = ("steps", "entropy", "standard_error", "bandwidth")


class EntropyProfile:
    r"""Records the entropy of embeddings over training steps, as arrays to plot.

    Give it each batch of embeddings. It keeps rows, without their graph, until it has ``points`` of them, estimates
    their entropy (leave-one-out), and starts over: the bias of the estimate depends on how many points there are, so
    every entry is of as many. Embeddings that have collapsed to one point, or for which a rule is to choose a bandwidth
    though a column is constant, are recorded as ``-inf``, with bandwidth 0. The training's random numbers are not
    touched.

    Args:
        kernel: see :func:`~mi_estimators.entropy.kde_log_density`; ``"vmf"`` for embeddings on the sphere.
        bandwidth: see :func:`~mi_estimators.entropy.kde_log_density`. A
            :class:`~mi_estimators.entropy.bandwidth.BandwidthState` starts each search where the last one ended.
        points: rows of an entry; ``None`` makes an entry of every call's rows.
        every: steps from the start of one entry to that of the next, at least; batches between are passed over.
        normalize: scale rows to length 1 first.

    Example:
        >>> profile = EntropyProfile("vmf", points=64, normalize=True)
        >>> for step in range(10):
        ...     recorded = profile.record(step, torch.randn(16, 8))  # the encoder's output
        >>> profile.steps.tolist(), bool((profile.entropy <= profile.ceiling + 0.1).all())
        ([3, 7], True)
    """

    def __init__(
        self,
        kernel: str = "gaussian",
        bandwidth: BandwidthChoice = "loo",
        *,
        points: int | None = 2048,
        every: int = 1,
        normalize: bool = False,
    ) -> None:
        _checks.choice("kernel", kernel, KERNELS)
        check_choice(bandwidth, kernel)
        if points is not None:
            _checks.count("points", points, 2)
        _checks.count("every", every)
        self._kernel = kernel
        self._bandwidth = bandwidth
        self._points = points
        self._every = every
        self._normalize = normalize
        self._ceiling: float | None = None
        self._entries: list[tuple[int, float, float, float]] = []
        self._rows: list[Tensor] = []
        self._start = -math.inf  # rows of earlier steps are passed over

    def __len__(self) -> int:
        return len(self._entries)

    def _column(self, index: int) -> NDArray[Any]:
        return np.array([entry[index] for entry in self._entries], dtype=np.float64 if index else np.int64)

    @property
    def steps(self) -> NDArray[np.int64]:
        """The step at which each entry was complete."""
        return self._column(0)

    @property
    def entropy(self) -> NDArray[np.float64]:
        """Entropies, in nats."""
        return self._column(1)

    @property
    def standard_error(self) -> NDArray[np.float64]:
        """Their standard errors, see :class:`~mi_estimators.entropy.EntropyEstimate`."""
        return self._column(2)

    @property
    def bandwidth(self) -> NDArray[np.float64]:
        """The bandwidth of each entry; of one that is no number, the number of the same volume."""
        return self._column(3)

    @property
    def ceiling(self) -> float | None:
        """With kernel ``"vmf"``, the entropy of the uniform density on the sphere, the largest there is; else None."""
        return self._ceiling

    def record(self, step: int, embeddings: Tensor) -> EntropyEstimate | None:
        """Take a batch; returns the estimate where this call completed an entry.

        Args:
            step: the training step, for the plot.
            embeddings: the batch. With more rows than the entry still wants, some are drawn.

        Shape:
            - embeddings: :math:`(K, d)`.

        Raises:
            TypeError, ValueError: no floating-point matrix, NaN or infinite values, a width that changed, rows that are
                not of length 1 for ``"vmf"`` without ``normalize``.
        """
        _checks.floating("embeddings", embeddings)
        _checks.finite("embeddings", embeddings)
        if self._points is None and len(embeddings) < 2:
            raise ValueError(f"embeddings: want at least 2 rows, got {_checks.describe(embeddings)}")
        if step < self._start:
            return None
        if not self._rows:
            self._start = step
        (rows,) = accumulated(embeddings.detach())
        if self._normalize:
            rows = F.normalize(rows, dim=1)
        check_points("embeddings", rows, self._kernel)
        if self._rows and rows.shape[1] != self._rows[0].shape[1]:
            raise ValueError(
                f"embeddings: want the width of those before ({self._rows[0].shape[1]}), got "
                f"{_checks.describe(embeddings)}"
            )
        held = sum(len(kept) for kept in self._rows)
        if self._points is not None and held + len(rows) > self._points:
            generator = torch.Generator().manual_seed(len(self))
            rows = rows[torch.randperm(len(rows), generator=generator)[: self._points - held].to(rows.device)]
        self._rows.append(rows.clone())  # training may write over its batch
        if self._points is not None and held + len(rows) < self._points:
            return None
        points = torch.cat(self._rows)
        self._rows = []
        self._start += self._every
        if not KERNELS[self._kernel].radial:
            self._ceiling = log_sphere_area(points.shape[1])
        constant = (points == points[0]).all(dim=0)
        chosen = isinstance(self._bandwidth, str) or (
            callable(self._bandwidth) and not isinstance(self._bandwidth, Tensor)
        )
        if bool(constant.all()) or (chosen and KERNELS[self._kernel].radial and bool(constant.any())):
            estimate = EntropyEstimate(-math.inf, 0.0, len(points), len(points), 0.0)
        else:
            estimate = estimate_kde_entropy(points, kernel=self._kernel, bandwidth=self._bandwidth)
        self._entries.append((int(step), estimate.value, estimate.standard_error, estimate.bandwidth))
        return estimate

    def as_dict(self) -> dict[str, list[float]]:
        """Lists by name, ready for JSON or a table."""
        return {name: getattr(self, name).tolist() for name in _COLUMNS}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs to go on recording."""
        return {
            "entries": list(self._entries),
            "rows": list(self._rows),
            "start": self._start,
            "ceiling": self._ceiling,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._entries = [tuple(entry) for entry in state["entries"]]
        self._rows, self._start, self._ceiling = list(state["rows"]), state["start"], state["ceiling"]


def entropy_profile(batches: Iterable[tuple[int, Tensor]], **options: Any) -> EntropyProfile:
    """The profile of pairs (step, embeddings); options as of :class:`EntropyProfile`."""
    profile = EntropyProfile(**options)
    for step, embeddings in batches:
        profile.record(step, embeddings)
    return profile
