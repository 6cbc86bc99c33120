"""Kernel density estimates with the methods of a scikit-learn density estimator."""

from __future__ import annotations

import importlib
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.entropy.forms import Bandwidth, bandwidth_form
from mi_estimators.entropy.kde import (
    BandwidthChoice,
    check_choice,
    check_points,
    check_weights,
    kde_log_density,
    named_entropy,
    resolve_bandwidth,
)
from mi_estimators.entropy.kernels import KERNELS
from mi_estimators.entropy.sampling import sample_radial, sample_vmf
from mi_estimators.ops.pairwise_lse import accumulated

Array: TypeAlias = NDArray[Any]

SCIKIT_LEARN_NAMES = {"exponential": "laplace", "linear": "triangular"}
"""What scikit-learn calls a kernel -> what it is called here."""


def _as_points(name: str, value: Any, like: Tensor | None = None) -> Tensor:
    """A floating-point matrix of a tensor or of what NumPy reads, the latter in the dtype of ``like``."""
    if not isinstance(value, Tensor):
        array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"{name}: want numbers, got an array of dtype {array.dtype}")
        if array.dtype not in (np.float64, np.float32, np.float16):
            array = array.astype(np.float64)
        # Torch shares the memory; strides that it does not know, and memory that may not be written to, are copied.
        value = torch.from_numpy(np.require(array, requirements=["C", "W"]))
        if like is not None:
            value = value.to(like)
    _checks.floating(name, value)
    _checks.finite(name, value)
    if like is not None:
        _checks.alike(name, value, "the fitted points", like)
    return value


class KDE:
    r"""A kernel density estimate, with the methods of scikit-learn's ``KernelDensity``.

    Takes NumPy arrays (or what ``numpy.asarray`` takes) and returns them, or takes tensors and returns tensors, which
    carry gradients. scikit-learn is not needed; where it is installed, ``clone``, pipelines and ``GridSearchCV`` accept
    this class. It differs in that every kernel can be sampled and is exact (no ``rtol``, ``atol``, trees), and that the
    bandwidth is chosen by default.

    Args:
        kernel: a name in :data:`~mi_estimators.entropy.kernels.KERNELS`, or scikit-learn's ``"exponential"`` (here
            ``"laplace"``) and ``"linear"`` (``"triangular"``). Bandwidths mean the same there for the kernels of both.
        bandwidth: as for :func:`~mi_estimators.entropy.kde_log_density`, arrays in place of tensors if you like.
            ``"scott"`` and ``"silverman"`` are SciPy's rules, which follow the data's covariance; scikit-learn's of
            these names ignore the scale of the data.

    Attributes:
        bandwidth_: what was given or chosen, after :meth:`fit`: a number, an array or a tensor.
        n_features_in_: the dimension d, after :meth:`fit`.

    Example:
        >>> kde = KDE(bandwidth=0.5).fit([[0.0], [1.0], [2.5]])
        >>> kde.score_samples([[0.5]]).shape, kde.sample(4, random_state=0).shape
        ((1,), (4, 1))
    """

    bandwidth_: float | Tensor | Array
    n_features_in_: int

    def __init__(self, kernel: str = "gaussian", bandwidth: BandwidthChoice | Array = "loo") -> None:
        self.kernel = kernel
        self.bandwidth = bandwidth

    def __repr__(self) -> str:
        return f"KDE(kernel={self.kernel!r}, bandwidth={self.bandwidth!r})"

    def fit(self, X: Any, y: None = None, sample_weight: Any = None) -> KDE:
        """Take the points and choose the bandwidth.

        Args:
            X: the points.
            y: ignored; scikit-learn passes it.
            sample_weight: one weight >= 0 for each point.

        Shape:
            - X: :math:`(M, d)`, sample_weight: :math:`(M,)`.

        Raises:
            TypeError, ValueError: as :func:`~mi_estimators.entropy.kde_log_density`.
        """
        kernel = SCIKIT_LEARN_NAMES.get(self.kernel, self.kernel)
        _checks.choice("kernel", kernel, [*KERNELS, *SCIKIT_LEARN_NAMES])
        bandwidth = torch.as_tensor(self.bandwidth) if isinstance(self.bandwidth, np.ndarray) else self.bandwidth
        if isinstance(bandwidth, (np.integer, np.floating)):
            bandwidth = float(bandwidth)
        check_choice(bandwidth, kernel)
        points = _as_points("X", X)
        check_points("X", points, kernel)
        if isinstance(bandwidth, str) and len(points) < 2:
            raise ValueError(f"X: want at least 2 points for a rule to choose a bandwidth, got {len(points)}")
        weights = None
        if sample_weight is not None:
            weights = sample_weight
            if not isinstance(weights, Tensor):
                weights = torch.as_tensor(np.asarray(weights, dtype=np.float64), device=points.device)
            check_weights(weights, len(points), points, left_out=False, name="sample_weight")
        (wide,) = accumulated(points)
        chosen = resolve_bandwidth(bandwidth, wide, kernel, weights)
        bandwidth_form(chosen, KERNELS[kernel], *points.shape)
        self._kernel, self._points, self._weights, self._bandwidth = kernel, points, weights, chosen
        self._arrays = not isinstance(X, Tensor)
        self.n_features_in_ = points.shape[1]
        self.bandwidth_ = self._shown(chosen)
        return self

    def score_samples(self, X: Any) -> Any:
        """Log-density at each point, in nats.

        Shape:
            - X: :math:`(N, d)`; Output: :math:`(N,)`.

        Raises:
            TypeError, ValueError: as :func:`~mi_estimators.entropy.kde_log_density`, or before :meth:`fit`.
        """
        points = self._fitted()
        query = _as_points("X", X, points)
        logs = kde_log_density(query, points, kernel=self._kernel, bandwidth=self._bandwidth, weights=self._weights)
        return logs if isinstance(X, Tensor) else logs.detach().cpu().numpy()

    def score(self, X: Any, y: None = None) -> Any:
        """The sum of the log-densities, in nats: what ``GridSearchCV`` makes largest."""
        total = self.score_samples(X).sum()
        return total if isinstance(total, Tensor) else float(total)

    def sample(self, n_samples: int = 1, random_state: Any = None) -> Any:
        """Independent draws from the estimated density, exact for every kernel.

        Args:
            n_samples: how many.
            random_state: a seed, ``numpy.random.Generator`` or ``RandomState``; ``None`` draws a new seed.

        Shape:
            - Output: :math:`(n, d)`, in the kind, dtype and device of the fitted points.

        Raises:
            TypeError: ``n_samples`` is no integer.
            ValueError: ``n_samples`` below 1, or before :meth:`fit`.
        """
        points = self._fitted()
        _checks.count("n_samples", n_samples)
        if isinstance(random_state, np.random.RandomState):
            random_state = random_state.randint(2**32, size=4, dtype=np.uint32)
        rng = np.random.default_rng(random_state)
        count, dim = points.shape
        shares = None
        if self._weights is not None:
            shares = self._weights.detach().cpu().double().numpy()
            shares = shares / shares.sum()
        index = rng.choice(count, size=int(n_samples), p=shares)
        centres = points.detach().cpu().double().numpy()[index]
        bandwidth = self._bandwidth
        if isinstance(bandwidth, Tensor):
            bandwidth = bandwidth.detach().cpu().double()
        form = bandwidth_form(bandwidth, KERNELS[self._kernel], count, dim)
        widths = np.asarray(bandwidth, dtype=np.float64)
        if form == "point":
            widths = widths[index]
        if not KERNELS[self._kernel].radial:
            drawn = sample_vmf(centres, np.broadcast_to(widths.reshape(-1), index.shape), rng)
        else:
            noise = sample_radial(self._kernel, len(index), dim, rng)
            drawn = centres + (noise @ np.linalg.cholesky(widths).T if form == "covariance" else noise * widths)
        found = torch.from_numpy(drawn).to(dtype=points.dtype, device=points.device)
        return found.cpu().numpy() if self._arrays else found

    def entropy(self, *, leave_one_out: bool = True, reduction: str = "joe") -> Any:
        """Differential entropy of the fitted points at the fitted bandwidth, in nats.

        Args:
            leave_one_out: leave each point out of its own density.
            reduction: ``"joe"`` or ``"plug_in"``, see :func:`~mi_estimators.entropy.kde_entropy`; ``"split"`` chooses
                a bandwidth for each half, and is asked of that function.

        Raises:
            ValueError: one point under leave-one-out, an unknown reduction, or before :meth:`fit`.
        """
        points = self._fitted()
        _checks.choice("reduction", reduction, ("joe", "plug_in"))
        value = named_entropy(
            "X", points, self._kernel, self._bandwidth, leave_one_out, reduction, "exact", weights=self._weights
        )
        return float(value) if self._arrays else value

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments of the constructor, as scikit-learn asks for them."""
        return {"kernel": self.kernel, "bandwidth": self.bandwidth}

    def set_params(self, **params: Any) -> KDE:
        """Set arguments of the constructor; they count from the next :meth:`fit` on.

        Raises:
            ValueError: an unknown name.
        """
        for name, value in params.items():
            _checks.choice("parameter", name, ("kernel", "bandwidth"))
            setattr(self, name, value)
        return self

    def __sklearn_tags__(self) -> Any:
        # Only scikit-learn calls this, so it is there; it is no dependency.
        utils = importlib.import_module("sklearn.utils")
        return utils.Tags(
            estimator_type="density_estimator",
            target_tags=utils.TargetTags(required=False),
            transformer_tags=None,
            classifier_tags=None,
            regressor_tags=None,
        )

    def _fitted(self) -> Tensor:
        if not hasattr(self, "_points"):
            raise ValueError("KDE: want fit called before this, got an estimate without points")
        return self._points

    def _shown(self, bandwidth: Bandwidth) -> float | Tensor | Array:
        if not isinstance(bandwidth, Tensor) or not self._arrays:
            return bandwidth
        array = bandwidth.detach().cpu().numpy()
        return float(array.reshape(())) if array.size == 1 and array.ndim < 2 else array
