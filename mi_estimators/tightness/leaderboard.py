"""What the cells of a benchmark say together: a leaderboard for each task, a ranking over all, and checks."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mi_estimators.console import markdown_table

Result = dict[str, Any]

CLOSE_ABSOLUTE, CLOSE_RELATIVE = 0.05, 0.1
"""A mean over seeds is close to the truth if it is within the larger of 0.05 nats and 10 % of it."""


def is_close(mean: float, truth: float) -> bool:
    """Whether a mean over seeds counts as right."""
    return abs(mean - truth) <= max(CLOSE_ABSOLUTE, CLOSE_RELATIVE * truth)


@dataclass(frozen=True)
class Line:
    """One estimator on one task with one number of pairs, over all seeds.

    Attributes:
        task: name of the task.
        variant: the estimator, with critic and batch size where a benchmark has several.
        kind: what it bounds: ``"lower"``, ``"upper"`` or ``"neither"``.
        n: number of pairs.
        truth: of the task, in nats.
        mean: of the estimates in nats, None where none succeeded.
        spread: their standard deviation over seeds, None with fewer than two.
        succeeded: number of seeds with an estimate.
        failed: number without.
        violations: number of estimates on the wrong side of the truth: above it, for all but an upper bound, by more
            than three of their standard errors (of ``spread``, for estimates that have none).
        above_cap: number of estimates above the largest value that the bound can give.
        seconds: a seed, mean.
        error: why the first that failed did so.
    """

    task: str
    variant: str
    kind: str
    n: int
    truth: float
    mean: float | None
    spread: float | None
    succeeded: int
    failed: int
    violations: int
    above_cap: int
    seconds: float
    error: str | None

    @property
    def error_size(self) -> float:
        """Distance of the mean from the truth; infinite where there is no mean."""
        return math.inf if self.mean is None else abs(self.mean - self.truth)


def lines(results: Sequence[Result]) -> list[Line]:
    """Group results over seeds.

    Args:
        results: what :func:`~mi_estimators.tightness.benchmark.run_benchmark` returned.
    """
    critics = {result["critic"] for result in results} - {None}
    batches = {result["batch_size"] for result in results} - {None}
    groups: dict[tuple[str, str, int], list[Result]] = {}
    for result in results:
        parts = [result["estimator"]]
        if result["critic"] is not None and len(critics) > 1:
            parts.append(result["critic"])
        if result["batch_size"] is not None and len(batches) > 1:
            parts.append(f"K={result['batch_size']}")
        groups.setdefault((result["task"], " ".join(parts), result["n"]), []).append(result)
    return [_line(*key, group) for key, group in groups.items()]


def _line(task: str, variant: str, n: int, group: list[Result]) -> Line:
    good = [result for result in group if result["value"] is not None]
    values = [result["value"] for result in good]
    spread = statistics.stdev(values) if len(values) > 1 else None
    truth, kind = group[0]["truth"], group[0]["kind"]
    violations = 0
    for result in good:
        excess = truth - result["value"] if kind == "upper" else result["value"] - truth
        margin = result["margin"] if result["margin"] is not None else 3 * (spread or 0.0)
        violations += excess > margin + 3 * result["truth_error"]
    return Line(
        task=task,
        variant=variant,
        kind=kind,
        n=n,
        truth=truth,
        mean=statistics.fmean(values) if values else None,
        spread=spread,
        succeeded=len(good),
        failed=len(group) - len(good),
        violations=violations,
        above_cap=sum(result["cap"] is not None and result["value"] > result["cap"] + 1e-6 for result in good),
        seconds=statistics.fmean(result["seconds"] for result in group),
        error=next((result["error"] for result in group if result["error"]), None),
    )


@dataclass(frozen=True)
class Rank:
    """One estimator over all tasks at one number of pairs.

    Attributes:
        variant: the estimator.
        kind: what it bounds.
        rank: its mean place among all by distance from the truth, 1 the best; equal distances share a place.
        close: number of tasks on which its mean is close to the truth (:func:`is_close`).
        tasks: number of tasks.
        median_error: median over tasks of the distance of its mean from the truth, in nats.
        worst_error: the largest.
        violations: number of estimates on the wrong side of the truth.
        estimates: number of estimates.
        seconds: an estimate, mean.
    """

    variant: str
    kind: str
    rank: float
    close: int
    tasks: int
    median_error: float
    worst_error: float
    violations: int
    estimates: int
    seconds: float


def main_n(found: Iterable[Line]) -> int:
    """The number of pairs that the ranking is made at: that of most lines, the largest of those."""
    counts = statistics.multimode(sorted((line.n for line in found), reverse=True))
    return max(counts)


def ranking(found: Sequence[Line], n: int | None = None) -> list[Rank]:
    """Rank estimators over the tasks.

    Args:
        found: lines of a benchmark.
        n: number of pairs; None takes :func:`main_n`.
    """
    n = main_n(found) if n is None else n
    chosen = [line for line in found if line.n == n]
    places: dict[str, list[float]] = {}
    for task in dict.fromkeys(line.task for line in chosen):
        of_task = [line for line in chosen if line.task == task]
        for line in of_task:
            nearer = sum(other.error_size < line.error_size for other in of_task)
            equal = sum(other.error_size == line.error_size for other in of_task)
            places.setdefault(line.variant, []).append(nearer + (equal + 1) / 2)
    ranks = []
    for variant, own_places in places.items():
        own = [line for line in chosen if line.variant == variant]
        ranks.append(
            Rank(
                variant=variant,
                kind=own[0].kind,
                rank=statistics.fmean(own_places),
                close=sum(line.mean is not None and is_close(line.mean, line.truth) for line in own),
                tasks=len(own),
                median_error=statistics.median(line.error_size for line in own),
                worst_error=max(line.error_size for line in own),
                violations=sum(line.violations for line in own),
                estimates=sum(line.succeeded for line in own),
                seconds=statistics.fmean(line.seconds for line in own),
            )
        )
    return sorted(ranks, key=lambda rank: (rank.rank, rank.variant))


@dataclass(frozen=True)
class Check:
    """Something that must hold of every result.

    Attributes:
        claim: what must hold.
        passed: whether it did.
        detail: how many results were looked at, and which broke it.
    """

    claim: str
    passed: bool
    detail: str


def checks(found: Sequence[Line]) -> list[Check]:
    """What must hold whatever the task: caps, and lower bounds below the truth but for noise.

    A lower bound on fresh pairs exceeds the truth by three standard errors about once in 740 estimates at its tightest,
    so one in 200 is let through.

    Args:
        found: lines of a benchmark.
    """
    capped = [line for line in found if line.variant.split()[0].startswith("infonce")]
    lower = [line for line in found if line.kind == "lower"]
    out = [
        _check("InfoNCE never exceeds log K", capped, sum(line.above_cap for line in capped), 0, "above_cap"),
    ]
    estimates = sum(line.succeeded for line in lower)
    out.append(
        _check(
            "Lower bounds on held-out pairs stay below the truth + 3 standard errors",
            lower,
            sum(line.violations for line in lower),
            estimates // 200,
            "violations",
        )
    )
    return out


def _check(claim: str, looked_at: Sequence[Line], broken: int, allowed: int, field: str) -> Check:
    estimates = sum(line.succeeded for line in looked_at)
    where = [f"{line.variant} on {line.task}, n={line.n}" for line in looked_at if getattr(line, field)]
    detail = f"{broken} of {estimates} estimates" + (f": {'; '.join(where[:5])}" if where else "")
    return Check(claim, estimates > 0 and broken <= allowed, detail)


COLUMNS = (
    "task", "estimator", "critic", "batch_size", "n", "seed", "kind", "truth", "value", "std", "margin", "cap",
    "seconds", "error",
)  # fmt: skip


def to_csv(results: Sequence[Result]) -> str:
    """All cells as CSV, a line each."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({column: result[column] for column in COLUMNS} for result in results)
    return out.getvalue()


def cell_text(line: Line | None) -> str:
    """The mean over seeds: bold where close to the truth, with a triangle for each violation."""
    if line is None:
        return ""
    if line.mean is None:
        return "failed"
    text = f"{line.mean:.3f}"
    return (f"**{text}**" if is_close(line.mean, line.truth) else text) + "▲" * line.violations


def by_task(found: Sequence[Line], n: int) -> tuple[list[str], list[tuple[str, float, list[Line | None]]]]:
    """Variants in the order of the ranking; and of each task its name, its truth and the line of each variant."""
    variants = [rank.variant for rank in ranking(found, n)]
    at_n = {(line.task, line.variant): line for line in found if line.n == n}
    grouped = []
    for task in dict.fromkeys(task for task, _ in at_n):
        own = [at_n.get((task, variant)) for variant in variants]
        grouped.append((task, next(line.truth for line in own if line is not None), own))
    return variants, grouped


def task_table(found: Sequence[Line], n: int) -> tuple[list[str], list[list[str]]]:
    """Header and rows: a row a task, a column an estimator."""
    variants, grouped = by_task(found, n)
    rows = [[f"`{task}`", f"{truth:.3f}", *map(cell_text, own)] for task, truth, own in grouped]
    return ["task", "truth", *variants], rows


def ranking_table(ranks: Sequence[Rank]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the ranking."""
    header = ["estimator", "bound", "mean rank", "close", "median error", "worst error", "violations", "seconds"]
    rows = [
        [
            rank.variant,
            rank.kind,
            f"{rank.rank:.2f}",
            f"{rank.close} / {rank.tasks}",
            f"{rank.median_error:.3f}",
            "failed" if math.isinf(rank.worst_error) else f"{rank.worst_error:.3f}",
            f"{rank.violations} / {rank.estimates}",
            f"{rank.seconds:.1f}",
        ]
        for rank in ranks
    ]
    return header, rows


LEGEND = (
    f"Means over seeds, in nats. Bold: within {CLOSE_ABSOLUTE} nats or {CLOSE_RELATIVE:.0%} of the truth. ▲: a seed "
    "whose estimate lies on the wrong side of the truth (above it; for an upper bound below it) by more than three "
    "standard errors."
)


def markdown(found: Sequence[Line]) -> str:
    """The leaderboard: checks, ranking, and a table for each number of pairs."""
    n = main_n(found)
    parts = ["# Leaderboard\n", "## Checks\n", markdown_table(("claim", "holds", "seen"), _check_rows(found))]
    parts += [f"## Ranking at n = {n}\n", markdown_table(*ranking_table(ranking(found, n)))]
    for size in sorted({line.n for line in found}, key=lambda value: (value != n, value)):
        parts += [f"## Tasks at n = {size}\n", f"{LEGEND}\n", markdown_table(*task_table(found, size))]
    failed = [line for line in found if line.failed]
    if failed:
        rows = [(f"`{line.task}`", line.variant, str(line.n), str(line.error)) for line in failed]
        parts += ["## Without an estimate\n", markdown_table(("task", "estimator", "n", "reason"), rows)]
    return "\n".join(parts)


def _check_rows(found: Sequence[Line]) -> list[tuple[str, str, str]]:
    return [(check.claim, "yes" if check.passed else "**no**", check.detail) for check in checks(found)]
