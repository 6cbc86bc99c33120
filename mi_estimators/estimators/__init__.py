"""Estimates of mutual information from samples.

:func:`estimate_mi` in one call, :class:`MIEstimator` as an object, :func:`compare` for several at once, and the table
:data:`ESTIMATORS` of what there is.
"""

from __future__ import annotations

from typing import Any

from mi_estimators.estimators.comparison import Comparison, compare
from mi_estimators.estimators.estimator import MIEstimator
from mi_estimators.estimators.figure import plot
from mi_estimators.estimators.result import MIEstimate, SaturationWarning
from mi_estimators.estimators.table import ESTIMATORS, Estimator


def estimate_mi(
    x: Any, y: Any = None, *, estimator: str = "infonce", base: str = "nats", seed: int = 0, **options: Any
) -> MIEstimate:
    """Estimate the mutual information of paired samples: :class:`MIEstimator` in one call.

    Args:
        x: n samples of the first variable: a tensor, what ``numpy.asarray`` takes, a pandas Series or DataFrame. Or,
            without y, a DataLoader, a Dataset or another iterable of batches ``(x, y)``.
        y: the n paired samples of the second.
        estimator: name in :data:`ESTIMATORS`.
        base: unit of the result, ``"nats"`` or ``"bits"``.
        seed: of everything random; the global random state is not touched.
        **options: settings of :class:`MIEstimator` (``n_seeds``, ``interval``, ``n_permutations`` ...) and keyword
            arguments of the method: :func:`mi_estimators.estimators.neural.estimate` for a trained bound,
            :func:`mi_estimators.estimators.ksg.estimate`, :func:`mi_estimators.estimators.gaussian.estimate`. A neural
            estimator trains on the device of ``x`` if that is a tensor and ``device`` is not given.

    Shape:
        - x: ``[n]`` or ``[n, dim_x]``; y: ``[n]`` or ``[n, dim_y]``. Any floating dtype for a continuous variable;
          integers, booleans, strings or categories for a discrete one.

    Raises:
        TypeError: samples of a dtype that the estimator does not take; an option that it does not have.
        ValueError: a wrong shape, numbers of samples that differ, a missing or infinite value, a constant column, too
            few samples, an unknown estimator or base, an option out of range.

    Warns:
        SaturationWarning: the value is within 5 % of the largest the estimator could give.
    """
    chosen = MIEstimator(estimator, base=base, seed=seed, **options)
    return chosen._estimate(x, y, stacklevel=4)


__all__ = [
    "ESTIMATORS",
    "Comparison",
    "Estimator",
    "MIEstimate",
    "MIEstimator",
    "SaturationWarning",
    "compare",
    "estimate_mi",
    "plot",
]
