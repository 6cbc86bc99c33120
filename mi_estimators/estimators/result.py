"""What an estimator returns."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from mi_estimators import _checks

BASES = {"nats": 1.0, "bits": 1 / math.log(2)}
"""Units of information, each in how many of them one nat is."""

SATURATION = 0.95
"""An estimate above this fraction of its cap is flagged as saturated."""


class SaturationWarning(UserWarning):
    """An estimate sits at the largest value its bound can give, so the mutual information may be far larger."""


@dataclass(frozen=True)
class MIEstimate:
    """An estimate of mutual information, in the unit named by ``base``.

    Attributes:
        value: the estimate, the mean over seeds where there are several. For neural estimators, on pairs seen neither
            in training nor in early stopping; it is reported as it comes out, so a lower bound on independent data may
            be slightly negative.
        std: standard error of ``value`` behind ``interval``, or None where one is not available.
        degrees_of_freedom: of that error where it comes from few values; None takes the normal distribution.
        interval: confidence interval; what it covers is said by ``interval_method``. None covers the bias of the
            estimator: of a bound, its distance from the truth.
        cap: the largest value the estimator could have given, or None.
        curve: validation values over training as (step, value), of the first seed; empty for estimators that do not
            train.
        saturated: whether ``value`` is within 5 % of ``cap``.
        estimator: name in :data:`mi_estimators.estimators.ESTIMATORS`.
        base: ``"nats"`` or ``"bits"``.
        n: number of pairs given.
        seconds: wall time.
        kind: ``"lower"``, ``"upper"`` or ``"neither"``: what the expectation of ``value`` is to the truth.
        level: confidence level of ``interval``.
        interval_method: how the interval was made: see :data:`mi_estimators.estimators.resampling.INTERVALS`.
        seed_values: the value of each seed.
        resamples: the values behind a resampled interval.
        p_value: of the permutation test of independence, or None.
        null: its values under independence.
    """

    value: float
    std: float | None
    interval: tuple[float, float] | None
    cap: float | None
    curve: tuple[tuple[int, float], ...]
    saturated: bool
    estimator: str
    base: str
    n: int
    seconds: float
    degrees_of_freedom: float | None = None
    kind: str = "neither"
    level: float = 0.95
    interval_method: str | None = None
    seed_values: tuple[float, ...] = ()
    resamples: tuple[float, ...] = ()
    p_value: float | None = None
    null: tuple[float, ...] = ()

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        text = f"{self.value:.4f} {self.base} ({self.estimator}, n = {self.n}"
        if self.interval is not None:
            text += f", {100 * self.level:g} % interval {self.interval[0]:.4f} to {self.interval[1]:.4f}"
        if self.p_value is not None:
            text += f", p = {self.p_value:.3g}"
        return text + (", saturated)" if self.saturated else ")")

    @property
    def clipped(self) -> float:
        """``value`` brought between 0 and ``cap``, where a mutual information and this estimator's values lie."""
        return max(0.0, self.value if self.cap is None else min(self.value, self.cap))

    def to(self, base: str) -> MIEstimate:
        """The same estimate in another unit, ``"nats"`` or ``"bits"``."""
        _checks.choice("base", base, BASES)
        factor = BASES[base] / BASES[self.base]

        def scaled(values: tuple[float, ...]) -> tuple[float, ...]:
            return tuple(value * factor for value in values)

        return replace(
            self,
            value=self.value * factor,
            std=None if self.std is None else self.std * factor,
            interval=None if self.interval is None else (self.interval[0] * factor, self.interval[1] * factor),
            cap=None if self.cap is None else self.cap * factor,
            curve=tuple((step, value * factor) for step, value in self.curve),
            seed_values=scaled(self.seed_values),
            resamples=scaled(self.resamples),
            null=scaled(self.null),
            base=base,
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionary, ready for JSON where every value is finite; with ``clipped``."""
        return {**asdict(self), "clipped": self.clipped}


@dataclass(frozen=True)
class Measurement:
    """What an estimation method hands back, in nats, before it is dressed as an :class:`MIEstimate`.

    Attributes:
        value: the estimate.
        std: its standard error, or None.
        degrees_of_freedom: of that standard error: infinite unless it comes from a few blocks.
        cap: the largest possible value, or None.
        curve: validation values over training.
        kind: ``"lower"``, ``"upper"`` or ``"neither"``: what the expectation of the value is to the truth.
        permuted: ``seed -> value`` with the y of held-out pairs permuted, for the same trained critic; None where
            nothing is held out.
    """

    value: float
    std: float | None = None
    degrees_of_freedom: float = math.inf
    cap: float | None = None
    curve: tuple[tuple[int, float], ...] = ()
    kind: str = "neither"
    permuted: Callable[[int], float] | None = None

    def interval(self, level: float = 0.95) -> tuple[float, float] | None:
        """Two-sided Student confidence interval."""
        if self.std is None:
            return None
        margin = student_quantile((1 + level) / 2, self.degrees_of_freedom) * self.std
        return self.value - margin, self.value + margin

    @property
    def saturated(self) -> bool:
        """Whether the value is within 5 % of the cap."""
        return self.cap is not None and self.value >= SATURATION * self.cap


def student_quantile(probability: float, degrees_of_freedom: float) -> float:
    """Quantile of Student's distribution; of the normal one for infinitely many degrees of freedom."""
    # Not at the top: SciPy's modules would take most of the time of `import mi_estimators`.
    from scipy.special import stdtrit

    return float(stdtrit(degrees_of_freedom, probability))


def warn_if_saturated(estimate: MIEstimate, stacklevel: int) -> None:
    """Warn, once, that an estimate sits at its cap."""
    if estimate.saturated:
        warnings.warn(
            f"{estimate.estimator}: {estimate.value:.3f} {estimate.base} is within 5 % of the largest value this "
            f"estimator can give at its evaluation batch size ({estimate.cap:.3f}); the mutual information may be far "
            "larger. Raise batch_size and evaluation_batch_size, or use a bound without a cap.",
            SaturationWarning,
            stacklevel=stacklevel,
        )
