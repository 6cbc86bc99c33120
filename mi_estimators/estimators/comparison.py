"""Several estimators on the same pairs, and what follows from their disagreement."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mi_estimators import _checks
from mi_estimators.console import rich_table
from mi_estimators.estimators import inputs
from mi_estimators.estimators.estimator import MIEstimator
from mi_estimators.estimators.result import MIEstimate, SaturationWarning, student_quantile
from mi_estimators.estimators.table import ESTIMATORS

if TYPE_CHECKING:
    from rich.table import Table

CONTINUOUS = ("gaussian", "ksg", "infonce", "js", "smile")
"""What :func:`compare` runs on continuous variables unless told otherwise: one of each family."""


@dataclass(frozen=True)
class Comparison:
    """Estimates of several estimators on the same pairs.

    Attributes:
        estimates: in the order given.
        failures: name of an estimator that could not run, and why.
        base: unit of everything.
    """

    estimates: tuple[MIEstimate, ...]
    failures: Mapping[str, str]
    base: str

    def __iter__(self) -> Iterator[MIEstimate]:
        return iter(self.estimates)

    def __getitem__(self, name: str) -> MIEstimate:
        """The estimate of an estimator by its name."""
        _checks.choice("estimator", name, [estimate.estimator for estimate in self.estimates])
        return next(estimate for estimate in self.estimates if estimate.estimator == name)

    def lower_limit(self, level: float = 0.95) -> float | None:
        """What the mutual information is at least, by the lower bounds among the estimates, at a confidence level.

        The largest of their one-sided Student limits, each at ``1 - (1 - level) / m`` for m of them (Bonferroni). A
        lower bound on held-out pairs lies below the truth in expectation, whatever its critic, so only the error of its
        mean counts. The limit trusts that mean to be normal, which for bounds with a mean of exponentials (NWJ, JS,
        TUBA, FLO) asks for far more pairs than e^I. None without a lower bound that has a standard error.

        Args:
            level: probability that the limit lies below the truth.
        """
        _checks.positive("level", level)
        bounds = [e for e in self.estimates if e.kind == "lower" and e.std is not None]
        if not bounds:
            return None
        probability = 1 - (1 - level) / len(bounds)
        return max(
            e.value - student_quantile(probability, e.degrees_of_freedom or math.inf) * (e.std or 0.0) for e in bounds
        )

    @property
    def spread(self) -> float:
        """Largest minus smallest clipped value."""
        values = [estimate.clipped for estimate in self.estimates]
        return max(values) - min(values)

    def remarks(self) -> list[str]:
        """What the disagreement suggests, a sentence each. Each compares values beyond both standard errors."""
        by_name = {estimate.estimator: estimate for estimate in self.estimates}
        found = []
        limit = self.lower_limit()
        if limit is not None and limit > 0:
            found.append(
                f"The mutual information is at least {limit:.3f} {self.base} by the lower bounds on held-out pairs "
                "(one-sided, 95 %)."
            )
        saturated = [estimate.estimator for estimate in self.estimates if estimate.saturated]
        if saturated:
            found.append(
                f"{', '.join(saturated)}: at the largest value possible; read it as 'at least', and raise "
                "evaluation_batch_size."
            )
        gaussian = by_name.get("gaussian")
        others = [e for e in self.estimates if e is not gaussian]
        if gaussian is not None and any(_above(e, gaussian) for e in others if e.kind == "lower"):
            found.append(
                "A lower bound lies above gaussian: part of the dependence is not linear, and gaussian misses it."
            )
        bounds = [e for e in self.estimates if e.kind == "lower"]
        neighbours = by_name.get("ksg")
        if neighbours is not None and any(_above(e, neighbours) for e in bounds):
            found.append(
                "A lower bound lies above ksg: nearest neighbours underestimate here, as they do in many dimensions "
                "and where the mutual information is large."
            )
        if neighbours is not None and bounds and all(_above(neighbours, e) for e in bounds):
            found.append(
                "Every trained bound lies below ksg: the critic has not learnt all there is, from too few pairs or "
                "steps; more seeds, a larger max_steps or another critic may close the gap."
            )
        loose = [e.estimator for e in self.estimates if e.estimator in ("dv", "mine", "smile") and bounds]
        loose = [name for name in loose if all(_above(by_name[name], e) for e in bounds)]
        if loose:
            found.append(
                f"{', '.join(loose)}: above every lower bound, and no bound of its own: it may overshoot, or the lower "
                "bounds fall short."
            )
        return found

    def rows(self) -> list[tuple[str, ...]]:
        """Name, value, interval, cap, kind and seconds of each, as text."""
        lines: list[tuple[str, ...]] = []
        for e in self.estimates:
            span = "" if e.interval is None else f"{e.interval[0]:.3f} to {e.interval[1]:.3f}"
            cap = "" if e.cap is None else f"{e.cap:.2f}" + (" (reached)" if e.saturated else "")
            p_value = "" if e.p_value is None else f"{e.p_value:.3g}"
            lines.append((e.estimator, f"{e.value:.3f}", span, p_value, cap, e.kind, f"{e.seconds:.1f}"))
        return lines + [(name, "failed", "", "", "", "", "") for name in self.failures]

    def table(self) -> Table:
        """A Rich table with a line for each estimator.

        Raises:
            ImportError: Rich is not installed.
        """
        return rich_table(f"Mutual information, {self.base}", _HEADERS, self.rows(), left=(0, 5), no_wrap=True)

    def __str__(self) -> str:
        rows = [_HEADERS, *self.rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADERS))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines += [f"{name}: {reason}" for name, reason in self.failures.items()]
        return "\n".join(lines + self.remarks())


_HEADERS = ("estimator", "value", "interval", "p", "cap", "bound", "s")


def _above(one: MIEstimate, other: MIEstimate) -> bool:
    """Whether a value exceeds another by more than twice their joint standard error."""
    return one.value - other.value > 2 * math.hypot(one.std or 0.0, other.std or 0.0)


def configured(
    names: Sequence[str], options: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any]
) -> dict[str, MIEstimator]:
    """The estimators of :func:`compare` with their settings, by name."""
    chosen = {}
    for name in names:
        _checks.choice("estimators", name, ESTIMATORS)
        # What has nothing random gives the same value for every seed.
        of_all = {key: value for key, value in settings.items() if key != "n_seeds" or ESTIMATORS[name].seeded}
        chosen[name] = MIEstimator(name, **{**of_all, **options.get(name, {})})
    for name in options:
        _checks.choice("options", name, chosen)
    return chosen


def compare(
    x: Any,
    y: Any = None,
    estimators: Sequence[str] | None = None,
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    **settings: Any,
) -> Comparison:
    """Run several estimators on the same pairs.

    Estimators disagree because each errs in its own way; where they agree, their errors are likely small. See
    :meth:`Comparison.remarks`.

    Args:
        x: as :func:`mi_estimators.estimate_mi` takes it.
        y: likewise.
        estimators: names in :data:`ESTIMATORS`; None takes :data:`CONTINUOUS`, or where a variable is of integers or
            categories, all estimators of such variables.
        options: further settings of single estimators, by name.
        **settings: settings of :class:`MIEstimator` for all of them: ``base``, ``seed``, ``n_permutations`` ...;
            ``n_seeds`` for those that the seed matters to.

    Returns:
        The estimates. One that cannot run on these data is listed with its reason; saturation is marked in the table
        and gives no warning.

    Raises:
        TypeError: samples that none of the estimators takes; a setting that does not exist.
        ValueError: samples that are no pairs, an unknown estimator, no estimator, or none that can run.
    """
    if y is None:
        x, y = inputs.collected(x)
    a, b = inputs.paired(x, y, "mixed")  # what no estimator could take is an error before any has run
    kind = "discrete" if a.discrete and b.discrete else "mixed"
    of_kind = [name for name, entry in ESTIMATORS.items() if entry.kind == kind]
    default = of_kind if a.discrete or b.discrete else CONTINUOUS
    names = tuple(default if estimators is None else estimators)
    if not names:
        raise ValueError("estimators: want at least one")
    chosen = configured(names, options or {}, settings)
    estimates, failures = [], {}
    for name, estimator in chosen.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SaturationWarning)
            try:
                estimates.append(estimator.estimate_with_info(x, y))
            except (ValueError, TypeError) as error:
                failures[name] = str(error)
    if not estimates:
        raise ValueError(
            "estimators: none can run on these data: " + "; ".join(f"{n}: {r}" for n, r in failures.items())
        )
    return Comparison(tuple(estimates), failures, estimates[0].base)
