"""Many runs of the trainers: methods and objectives at several batch sizes, momenta of the teacher, and seeds."""

from __future__ import annotations

import dataclasses
import json
import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mi_estimators import _checks
from mi_estimators._cells import run_cells
from mi_estimators._parallel import single_threaded
from mi_estimators.image_sets import load
from mi_estimators.ssl.config import TrainConfig, method_options, preset_of
from mi_estimators.ssl.encoders import MLP
from mi_estimators.ssl.loop import resume, train
from mi_estimators.ssl.method import OBJECTIVES, Method, Setting
from mi_estimators.ssl.methods import METHODS

EVALUATIONS = 10
"""Held-out evaluations of a run, beside that before the first step."""
LARGE = 10_000
"""Images that a method is made for where only its settings are looked at."""


@dataclass(frozen=True)
class SweepConfig:
    """The grid of a sweep and what its runs have in common.

    From the base (the first batch size and the first momentum) one thing is changed at a time, as in the table of
    robustness of arXiv 2307.10907: the batch size, or the momentum of methods with a teacher. All runs of a method see
    as many images as that of the base batch size does in ``steps`` steps.

    Attributes:
        methods: keys of :data:`METHODS`, each with settings of its own if need be, as in
            ``dino:objective=native:centering=none``.
        objectives: ``native``, ``er`` or both; methods without the choice, or that have made it, have one line.
        batch_sizes: images a step; the first is the base.
        momenta: of the teacher, in methods that have one and do not set it themselves, as in ``byol:momentum=0.9``; the
            first is the base.
        seeds: runs of each.
        seed: the first seed.
        data: image set.
        data_dir: folder of the data files, where the set needs one.
        view: how an image becomes a pair; the method's preset if not given.
        encoder: encoder.
        steps: optimizer steps at the base batch size; the method's preset if not given.
        lr: learning rate of Adam; the method's preset if not given.
    """

    methods: tuple[str, ...] = ("simclr", "byol", "dino", "dino:objective=native:centering=none")
    objectives: tuple[str, ...] = OBJECTIVES
    batch_sizes: tuple[int, ...] = (256, 64)
    momenta: tuple[float, ...] = (0.99, 0.8)
    seeds: int = 3
    seed: int = 0
    data: str = "digits"
    data_dir: str | None = None
    view: str | None = None
    encoder: str = "mlp"
    steps: int | None = None
    lr: float | None = None

    def __post_init__(self) -> None:
        for name in ("methods", "objectives", "batch_sizes", "momenta"):
            values = getattr(self, name)
            if not values:
                raise ValueError(f"{name}: want at least one")
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: want each once, got {', '.join(map(str, values))}")
        for objective in self.objectives:
            _checks.choice("objectives", objective, OBJECTIVES)
        _checks.count("seeds", self.seeds)
        if self.steps is not None:
            _checks.count("steps", self.steps)
        for batch_size in self.batch_sizes:
            _checks.count("batch_sizes", batch_size, 2)
        self._check_runs()

    def _check_runs(self) -> None:
        """Look at the settings of every run before the first begins: those of methods by making each of them once."""
        seen = set()
        with torch.random.fork_rng():
            for cell in self.cells():
                settings = self.of_run(cell, "run").resolved()
                of_method = (settings.method, repr(settings.options))
                if of_method not in seen:
                    make: Callable[..., Method] = METHODS[settings.method]
                    make(Setting(lambda view: MLP((1, 4, 4)), size=LARGE), **settings.options)
                    seen.add(of_method)

    def cells(self) -> list[SweepCell]:
        """The runs: seeds outermost, so that a sweep cut short has compared all there is."""
        return [
            SweepCell(method, objective, batch_size, momentum, seed)
            for seed in range(self.seed, self.seed + self.seeds)
            for method in self.methods
            for objective in self._objectives(method)
            for batch_size, momentum in self._settings(method)
        ]

    def of_run(self, cell: SweepCell, out: str) -> TrainConfig:
        """The settings of one run."""
        name, options = method_of(cell.method)
        if cell.objective is not None:
            options["objective"] = cell.objective
        if cell.momentum is not None:
            options["momentum"] = cell.momentum
        steps = self.steps or preset_of(METHODS[name], self.data).steps
        steps = max(1, round(steps * self.batch_sizes[0] / cell.batch_size))
        return TrainConfig(
            name, out=out, data=self.data, data_dir=self.data_dir, view=self.view, encoder=self.encoder, steps=steps,
            batch_size=cell.batch_size, lr=self.lr, seed=cell.seed, eval_every=max(1, steps // EVALUATIONS),
            options=options,
        )  # fmt: skip

    @property
    def of_a_cell(self) -> dict[str, Any]:
        """What a run's result depends on beside its cell."""
        shared = {name: getattr(self, name) for name in ("data", "view", "encoder", "steps", "lr")}
        return {**shared, "base_batch_size": self.batch_sizes[0]}

    def _objectives(self, method: str) -> Iterable[str | None]:
        name, options = method_of(method)
        open_choice = "objective" in method_options(METHODS[name]) and "objective" not in options
        return self.objectives if open_choice else (None,)

    def _settings(self, method: str) -> list[tuple[int, float | None]]:
        name, options = method_of(method)
        taught = METHODS[name].has_teacher and "momentum" not in options
        base = self.momenta[0] if taught else None
        batches = [(batch_size, base) for batch_size in self.batch_sizes]
        return batches + [(self.batch_sizes[0], momentum) for momentum in self.momenta[1:] if taught]


@dataclass(frozen=True)
class SweepCell:
    """One run of a sweep."""

    method: str
    objective: str | None
    batch_size: int
    momentum: float | None
    seed: int

    @property
    def name(self) -> str:
        """A name for its files."""
        momentum = "" if self.momentum is None else f"--m{self.momentum:g}"
        return re.sub(
            r"[^\w.\-]", "_", f"{line_of(self.method, self.objective)}--k{self.batch_size}{momentum}--s{self.seed}"
        )


def line_of(method: str, objective: str | None) -> str:
    """The line of a table that a method and its objective stand in."""
    return method if objective is None else f"{method} {objective}"


def method_of(text: str) -> tuple[str, dict[str, Any]]:
    """Name and settings in ``NAME:SETTING=VALUE:...``; values have the type of the setting's default.

    Raises:
        ValueError: an unknown method or setting, with the nearest that is known; or no value for it.
    """
    name, *settings = text.split(":")
    if name not in METHODS:
        raise ValueError(f"methods: {_checks.unknown(name, METHODS)}")
    accepted = method_options(METHODS[name])
    options: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if key not in accepted:
            raise ValueError(f"methods: no setting of {name}; {_checks.unknown(key, accepted)}")
        kind = type(accepted[key].default)
        try:
            options[key] = {"true": True, "false": False}[value.lower()] if kind is bool else kind(value)
        except (ValueError, KeyError) as error:
            raise ValueError(f"methods: want {key}={kind.__name__} for {name}, got {setting!r}") from error
        if not equals:
            raise ValueError(f"methods: want {key}=VALUE for {name}, got {setting!r}")
    return name, options


def run_sweep(
    config: SweepConfig,
    out: str | Path,
    *,
    jobs: int = 1,
    backend: str = "loky",
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Run what the folder does not hold yet, and return the results of all runs.

    Each run trains in a folder of its own under ``out/runs``, on one thread; one that was killed goes on from its
    checkpoint. What is kept of it is written to ``out/cells``, whole or not at all.

    Args:
        config: the grid.
        out: folder of the sweep; created if missing.
        jobs: runs at the same time; -1 for as many as there are cores.
        backend: ``"loky"``, ``"dask"`` or ``"ray"``, as in
            :func:`~mi_estimators.tightness.run_benchmark`. A cluster's workers need to see ``out``.
        progress: called with the number of runs done and the total.

    Returns:
        For each run its cell's fields, ``probe``, ``history`` (held-out rows), and ``error``: what stopped a training
        that did not stay finite, or None.

    Raises:
        ValueError: a setting is wrong, or the folder holds a sweep with other settings.
        FileNotFoundError: a data file is missing.
        Interrupted: SIGTERM or SIGINT arrived; the same call goes on later.
    """
    folder = Path(out)
    images = len(load(config.data, config.data_dir).train)
    if max(config.batch_sizes) > images:
        raise ValueError(f"batch_sizes: want at most the {images} training images, got {max(config.batch_sizes)}")
    return run_cells(
        config.cells(),
        partial(_run, config=config, folder=folder / "runs"),
        folder,
        of_a_cell=config.of_a_cell,
        grid=dataclasses.asdict(config),
        jobs=jobs,
        backend=backend,
        progress=progress,
    )


def _run(cell: SweepCell, config: SweepConfig, folder: Path) -> dict[str, Any]:
    out = folder / cell.name
    settings = config.of_run(cell, str(out))
    result: dict[str, Any] = {**asdict(cell), "probe": None, "history": [], "error": None}
    with single_threaded(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bounds at their ends: the table says where they end
        try:
            if (out / "checkpoint.pt").exists():
                done = resume(out, data_dir=config.data_dir)
            else:
                done = train(settings, overwrite=True)
        except FloatingPointError as error:
            rows = (out / "metrics.jsonl").read_text().splitlines() if (out / "metrics.jsonl").exists() else []
            return result | {"error": str(error), "history": [json.loads(row) for row in rows]}
    return result | {"probe": done["probe"], "history": done["history"]}
