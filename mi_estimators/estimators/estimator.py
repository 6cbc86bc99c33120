"""An estimator of mutual information as an object."""

from __future__ import annotations

import difflib
import inspect
import math
import time
from functools import partial
from typing import Any

import numpy as np

from mi_estimators import _checks
from mi_estimators.estimators import inputs, resampling
from mi_estimators.estimators.result import BASES, Measurement, MIEstimate, warn_if_saturated
from mi_estimators.estimators.table import ESTIMATORS


class MIEstimator:
    """An estimator from :data:`ESTIMATORS` with its settings: samples in, mutual information out.

    It keeps nothing of the data. ``get_params`` and ``set_params`` are scikit-learn's, whose ``clone`` copies it.

    Args:
        estimator: name in :data:`ESTIMATORS`.
        base: unit of the result, ``"nats"`` or ``"bits"``.
        seed: of everything random, >= 0; the global random state is not touched.
        n_seeds: number of runs, with ``seed`` and numbers derived from it; the value is their mean.
        interval: how to make the confidence interval, a name in
            :data:`mi_estimators.estimators.resampling.INTERVALS`, which says what each covers; or None.
        level: its confidence level.
        n_resamples: bootstrap samples, or for ``"subsample"`` parts in all, rounded up to whole partitions.
        n_blocks: parts of a partition; None takes 2 for ``"subsample"``, since nearest neighbours need large parts for
            the variance to fall as 1 / n, and 10 for ``"blocks"``.
        n_permutations: values under independence for the p-value; 0 for no test. The p-value is at least
            ``1 / (n_permutations + 1)``.
        null: how to make them, a name in :data:`mi_estimators.estimators.resampling.NULLS`; None takes ``"held_out"``
            where the estimator holds pairs out, else ``"permute"``. With several seeds the test is that of the first.
        **options: keyword arguments of the method.

    Raises:
        TypeError: an option that the estimator does not have, or of the wrong type.
        ValueError: an unknown name, or a setting out of range.
    """

    def __init__(
        self,
        estimator: str = "infonce",
        *,
        base: str = "nats",
        seed: int = 0,
        n_seeds: int = 1,
        interval: str | None = "standard_error",
        level: float = 0.95,
        n_resamples: int = 100,
        n_blocks: int | None = None,
        n_permutations: int = 0,
        null: str | None = None,
        **options: Any,
    ) -> None:
        _checks.choice("estimator", estimator, ESTIMATORS)
        _checks.choice("base", base, BASES)
        entry = ESTIMATORS[estimator]
        _checks.count("seed", seed, 0)
        _checks.count("n_seeds", n_seeds)
        _checks.count("n_resamples", n_resamples, 2)
        _checks.count("n_permutations", n_permutations, 0)
        if n_blocks is not None:
            _checks.count("n_blocks", n_blocks, 2)
        if interval is not None:
            _checks.choice("interval", interval, resampling.INTERVALS)
        if null is not None:
            _checks.choice("null", null, resampling.NULLS)
        _checks.positive("level", level)
        if not level < 1:
            raise ValueError(f"level: want a value between 0 and 1, got {level!r}")
        if n_seeds > 1 and not entry.seeded:
            raise ValueError(f"n_seeds: {estimator!r} has nothing random, so every seed gives the same value; want 1")
        if interval == "seeds" and n_seeds < 2:
            raise ValueError("n_seeds: want at least 2 for an interval over seeds, got 1")
        if interval == "bootstrap" and not entry.repeats:
            raise ValueError(
                f"interval: a bootstrap repeats pairs, which spoils {estimator!r} (neighbours at distance zero, or the "
                'same pair in training and test); want "subsample" or "standard_error"'
            )
        self._accepted = _keywords(estimator)
        for name in options:
            if name not in self._accepted:
                near = difflib.get_close_matches(name, self._accepted, n=1)
                guess = f" (did you mean {near[0]!r}?)" if near else ""
                raise TypeError(f"{name}: {estimator!r} has no such option{guess}; it has {sorted(self._accepted)}")
        self.estimator = estimator
        self.base = base
        self.seed = seed
        self.n_seeds = n_seeds
        self.interval = interval
        self.level = level
        self.n_resamples = n_resamples
        self.n_blocks = n_blocks
        self.n_permutations = n_permutations
        self.null = null
        self.options = options

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self)).parameters
        changed = [
            f"{name}={value!r}"
            for name, value in self.get_params().items()
            if name != "estimator" and (name not in defaults or value != defaults[name].default)
        ]
        return f"{type(self).__name__}({', '.join([repr(self.estimator), *changed])})"

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The settings, options of the method among them.

        Args:
            deep: without effect; scikit-learn gives it.
        """
        names = [name for name, p in inspect.signature(type(self)).parameters.items() if p.kind != p.VAR_KEYWORD]
        return {**{name: getattr(self, name) for name in names}, **self.options}

    def set_params(self, **settings: Any) -> MIEstimator:
        """Change settings, and return the estimator itself. On an error nothing is changed."""
        vars(self).update(vars(type(self)(**{**self.get_params(), **settings})))
        return self

    def estimate(self, x: Any, y: Any = None) -> float:
        """The value alone, in ``base``; see :meth:`estimate_with_info`."""
        return self._estimate(x, y, stacklevel=4).value

    def estimate_with_info(self, x: Any, y: Any = None) -> MIEstimate:
        """Estimate the mutual information of paired samples.

        Args:
            x: n samples of the first variable: a tensor, what ``numpy.asarray`` takes, a pandas Series or DataFrame.
                Or, without y, a DataLoader, a Dataset or another iterable of batches ``(x, y)``, read to its end.
            y: the n paired samples of the second.

        Shape:
            - x: ``[n]`` or ``[n, dim_x]``; y: ``[n]`` or ``[n, dim_y]``. Any floating dtype for a continuous variable;
              integers, booleans, strings or categories for a discrete one.

        Raises:
            TypeError: samples of a dtype that the estimator does not take.
            ValueError: a wrong shape, numbers of samples that differ, a missing or infinite value, a constant column,
                too few samples, an option out of range.

        Warns:
            SaturationWarning: the value is within 5 % of the largest the estimator could give.
        """
        return self._estimate(x, y, stacklevel=4)

    def _estimate(self, x: Any, y: Any, *, stacklevel: int) -> MIEstimate:
        start = time.perf_counter()
        entry = ESTIMATORS[self.estimator]
        a, b = inputs.paired(x, y, entry.kind)
        options = dict(self.options)
        for name, known in (
            ("device", a.device or b.device),
            ("discrete_x", a.discrete),
            ("discrete_y", b.discrete),
        ):
            if known is not None and name in self._accepted:
                options.setdefault(name, known)

        def measure(x: Any, y: Any, seed: int) -> Measurement:
            return entry.method(x, y, seed=seed, **options)

        runs = [measure(a.values, b.values, seed) for seed in resampling.seeds(self.seed, self.n_seeds)]
        measured = resampling.combined(runs)
        std, freedom, resamples = self._error(measure, measured, a.values, b.values, [run.value for run in runs])
        null: list[float] = []
        if self.n_permutations:
            kind = self.null or ("permute" if measured.permuted is None else "held_out")
            null = resampling.independent(
                measure, runs[0], a.values, b.values, kind=kind, count=self.n_permutations, seed=self.seed
            )
        result = MIEstimate(
            value=measured.value,
            std=std,
            interval=None if std is None else resampling.interval(measured.value, std, freedom, self.level),
            cap=measured.cap,
            curve=measured.curve,
            saturated=measured.saturated,
            estimator=self.estimator,
            base="nats",
            n=len(a.values),
            seconds=time.perf_counter() - start,
            degrees_of_freedom=freedom if std is not None and math.isfinite(freedom) else None,
            kind=measured.kind,
            level=self.level,
            interval_method=None if std is None else self.interval,
            seed_values=tuple(run.value for run in runs),
            resamples=tuple(resamples),
            p_value=resampling.p_value(runs[0].value, null) if null else None,
            null=tuple(null),
        ).to(self.base)
        warn_if_saturated(result, stacklevel)
        return result

    def _error(
        self, measure: resampling.Measure, measured: Measurement, x: Any, y: Any, by_seed: list[float]
    ) -> tuple[float | None, float, list[float]]:
        """Standard error by the chosen method, its degrees of freedom, and the values behind it."""
        if self.interval == "seeds":
            return *resampling.seed_error(by_seed), by_seed
        if self.interval == "bootstrap":
            values = resampling.bootstrap(measure, x, y, seed=self.seed, n_resamples=self.n_resamples)
            return float(np.std(values, ddof=1)), math.inf, values
        if self.interval in ("subsample", "blocks"):
            n_blocks = self.n_blocks or (10 if self.interval == "blocks" else 2)
            count = None if self.interval == "blocks" else math.ceil(self.n_resamples / n_blocks)
            table = resampling.parts(measure, x, y, seed=self.seed, n_blocks=n_blocks, n_partitions=count)
            return *resampling.parts_error(table), table.ravel().tolist()
        return (measured.std if self.interval else None), measured.degrees_of_freedom, []


def _keywords(estimator: str) -> set[str]:
    """The options of an estimator's method."""
    method = ESTIMATORS[estimator].method
    taken = {"seed", *(method.keywords if isinstance(method, partial) else ())}
    return {p.name for p in inspect.signature(method).parameters.values() if p.kind == p.KEYWORD_ONLY} - taken
