"""Maps of single columns that leave mutual information as it is, learned on the training pairs."""

from __future__ import annotations

import numpy as np


def zscores(train: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Zero mean and unit variance per column, as measured on ``train`` ``[m, d]``, applied to ``values`` ``[n, d]``."""
    return (values - train.mean(axis=0)) / train.std(axis=0)


def normal_scores(train: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Normal quantiles of the empirical distribution of ``train`` ``[m, d]`` at ``values`` ``[n, d]``, per column.

    Between values of ``train`` the distribution is interpolated; beyond its ends it is constant, so values there become
    equal. Mutual information can only fall by that (data processing).

    Source:
        The nonparanormal transform: Liu, Lafferty and Wasserman 2009 (arXiv 0903.0649), sec. 4.
    """
    # Not at the top: SciPy's modules would take most of the time of `import mi_estimators`.
    from scipy.special import ndtri

    columns = []
    for known, column in zip(train.T, values.T, strict=True):
        support, counts = np.unique(known, return_counts=True)
        levels = (np.cumsum(counts) - counts / 2) / len(known)
        columns.append(ndtri(np.interp(column, support, levels)))
    return np.stack(columns, axis=1)


SCALINGS = {"zscore": zscores, "rank": normal_scores}
"""Names of the option ``standardize``."""


def scaled(name: str, values: np.ndarray, train: np.ndarray, how: str | None) -> np.ndarray:
    """Apply a scaling by name, or none.

    Args:
        name: of the variable, for an error.
        values: ``[n, d]`` float64.
        train: indices of the training rows.
        how: key of :data:`SCALINGS`, or None.

    Raises:
        ValueError: a column is constant over the training rows.
    """
    if how is None:
        return values
    known = values[train]
    constant = np.flatnonzero(np.ptp(known, axis=0) == 0)
    if constant.size:
        raise ValueError(f"{name}: column {constant[0]} is constant over the training pairs")
    return SCALINGS[how](known, values)
