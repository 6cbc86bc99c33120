"""Settings of the benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mi_estimators import _checks, synthetic
from mi_estimators.critics import CRITICS
from mi_estimators.estimators import ESTIMATORS
from mi_estimators.tightness.tasks import IMAGE_TASKS, find_task

PROFILES: dict[str, dict[str, Any]] = {
    "quick": {
        "tasks": synthetic.PROFILES["quick"],
        "estimators": ("infonce", "nwj", "smile", "ksg", "gaussian", "histogram"),
        "n": (2000,),
        "seeds": 2,
        "max_steps": 600,
    },
    "standard": {
        "tasks": synthetic.PROFILES["standard"],
        "estimators": (
            "infonce", "nwj", "mine", "smile", "ksg", "kl3h", "kde", "gaussian", "histogram", "latent",
        ),
        "n": (10_000,),
        "seeds": 2,
        "max_steps": 2000,
        "evaluation_batch_size": 128,
        "convergence_tasks": ("1v1-normal-0.75", "multinormal-sparse-5-5-2-2.0", "asinh-student-identity-1-1-1"),
        "convergence_n": (300, 1000, 3000),
    },
    "full": {
        "tasks": synthetic.PROFILES["full"],
        "estimators": tuple(ESTIMATORS),
        "critics": ("concatenated", "separable", "bilinear"),
        "n": (300, 1000, 3000, 10_000),
        "batch_sizes": (64, 256),
        "seeds": 10,
        "max_steps": 5000,
    },
}  # fmt: skip
"""Settings by name: a minute or two, about 25 minutes, days; all on two cores."""


@dataclass(frozen=True)
class BenchmarkConfig:
    """Settings of the benchmark: a grid of tasks, estimators, critics, numbers of pairs, batch sizes and seeds.

    Attributes:
        tasks: names in :data:`mi_estimators.synthetic.TASKS`, or of pictures of an image set, such as
            ``mnist-channel-2-0.02`` (see :func:`mi_estimators.synthetic.load_task`).
        estimators: names in :data:`mi_estimators.estimators.ESTIMATORS`. Those that do not take a task's kind of
            variables are left out there.
        critics: names in :data:`mi_estimators.critics.CRITICS`, for the estimators that train one.
        n: numbers of pairs.
        batch_sizes: pairs per training step, for trained estimators.
        seeds: number of repetitions. Seed s draws other pairs than seed s + 1, and the same for every estimator.
        seed: the first seed.
        convergence_tasks: tasks to measure at ``convergence_n`` as well.
        convergence_n: further numbers of pairs, for those.
        max_steps: most training steps of an estimator; early stopping may end before.
        evaluation_batch_size: pairs per block on which a trained bound is reported; InfoNCE stays below its log.
        data_dir: folder of the official files of the image sets; with it a profile also runs tasks of MNIST's classes
            through a binary symmetric channel.
    """

    tasks: tuple[str, ...]
    estimators: tuple[str, ...]
    critics: tuple[str, ...] = ("concatenated",)
    n: tuple[int, ...] = (10_000,)
    batch_sizes: tuple[int, ...] = (64,)
    seeds: int = 3
    seed: int = 0
    convergence_tasks: tuple[str, ...] = ()
    convergence_n: tuple[int, ...] = ()
    max_steps: int = 2000
    evaluation_batch_size: int = 256
    data_dir: str | None = None

    def __post_init__(self) -> None:
        for name, known in (
            ("tasks", synthetic.TASKS),
            ("estimators", ESTIMATORS),
            ("critics", CRITICS),
            ("convergence_tasks", synthetic.TASKS),
        ):
            chosen = getattr(self, name)
            if not chosen and not name.startswith("convergence"):
                raise ValueError(f"{name}: want at least one")
            if len(set(chosen)) < len(chosen):
                raise ValueError(f"{name}: want each once, got {chosen}")
            for item in chosen:
                if known is not synthetic.TASKS:
                    _checks.choice(name, item, known)
                    continue
                try:
                    find_task(item, self.data_dir)
                except synthetic.UnknownTask:
                    _checks.choice(name, item, known)
        for name in ("n", "batch_sizes", "convergence_n", "seeds", "seed", "max_steps", "evaluation_batch_size"):
            value = getattr(self, name)
            values, least = (value if isinstance(value, tuple) else (value,)), 0 if name == "seed" else 1
            if name in ("batch_sizes", "evaluation_batch_size"):
                least = 2
            if not values and name != "convergence_n":
                raise ValueError(f"{name}: want at least one")
            for item in values:
                if isinstance(item, bool) or not isinstance(item, int):
                    raise TypeError(f"{name}: want an integer, got {item!r}")
                if item < least:
                    raise ValueError(f"{name}: want at least {least}, got {item}")
        if bool(self.convergence_tasks) != bool(self.convergence_n):
            raise ValueError("convergence_n: want it together with convergence_tasks")

    @classmethod
    def profile(cls, name: str, **changes: Any) -> BenchmarkConfig:
        """The settings of :data:`PROFILES`, some of them changed.

        Args:
            name: of the profile.
            **changes: fields to set otherwise.

        Raises:
            ValueError: there is no such profile.
        """
        _checks.choice("profile", name, PROFILES)
        settings = {**PROFILES[name], **changes}
        if "tasks" not in changes and changes.get("data_dir") is not None:
            settings["tasks"] = (*settings["tasks"], *IMAGE_TASKS)
        if "tasks" in changes and "convergence_tasks" not in changes and settings.get("convergence_tasks"):
            kept = tuple(task for task in settings["convergence_tasks"] if task in settings["tasks"])
            settings["convergence_tasks"] = kept
            if not kept:
                settings["convergence_n"] = ()
        return cls(**settings)

    @property
    def of_a_cell(self) -> dict[str, Any]:
        """The settings that every cell depends on beside its place in the grid."""
        return {"max_steps": self.max_steps, "evaluation_batch_size": self.evaluation_batch_size}
