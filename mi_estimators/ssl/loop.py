"""The training loop: one for all methods. It owns data, devices, checkpoints, probes and logs; a method owns its loss.

Every draw of randomness is seeded by what it is for and by its step, never by what was drawn before it. The state of a
run is then its weights, its optimizer and the number of its step, and a resumed run repeats, bit for bit, the one that
was never stopped.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from mi_estimators import _checks
from mi_estimators._files import remove_partial, write_json
from mi_estimators.image_sets import ImageSet, load
from mi_estimators.ssl import checkpoint
from mi_estimators.ssl.config import CHANGEABLE, TrainConfig
from mi_estimators.ssl.heldout import evaluate, warn_at_the_ends, warn_of_collapse
from mi_estimators.ssl.logs import RunLog
from mi_estimators.ssl.probe import probe_method, probe_pixels
from mi_estimators.ssl.stopping import Interrupted, stop_signals
from mi_estimators.ssl.trainer import Trainer

Progress = Callable[[int, int, Mapping[str, float]], None]


def train(config: TrainConfig, *, overwrite: bool = False, progress: Progress | None = None) -> dict[str, Any]:
    """Train a method from the start.

    Writes into ``config.out``: ``config.json``; ``metrics.jsonl``, ``metrics.csv`` and ``tensorboard/`` with a row per
    evaluation; ``checkpoint.pt``; and at the end ``results.json``. Every file but TensorBoard's is written atomically.

    Args:
        config: the settings.
        overwrite: remove a run that ``config.out`` already holds.
        progress: called with steps done, steps in all and the newest row, after each step; in several processes by
            the first.

    Returns:
        What ``results.json`` holds: ``config``, ``probe`` (test accuracy of ``pixels``, of the representation
        ``before`` and ``after`` training), ``heldout`` (the last row of bounds, in nats) and ``history`` (all rows).

    Raises:
        ValueError: a setting is wrong, or a data file damaged.
        FileNotFoundError: a data file is missing.
        FileExistsError: ``config.out`` holds a run and ``overwrite`` is false.
        FloatingPointError: the loss, or a held-out bound, is not finite; the last checkpoint stays.
        Interrupted: SIGTERM or SIGINT arrived.
    """
    config = config.resolved()
    data = load(config.data, config.data_dir)
    run = _Run(config, data)
    if run.trainer.rank == 0:
        _prepare(run, overwrite)
    return run.go(progress)


def _prepare(run: _Run, overwrite: bool) -> None:
    """Make the folder of a new run, once everything that can be wrong has been looked at."""
    folder = run.folder
    held = [folder / name for name in _FILES if (folder / name).exists()]
    if held and not overwrite:
        raise FileExistsError(
            f"out: {folder} already holds a run ({held[0].name}); resume it, overwrite it, or choose another"
        )
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"out: {folder} is not a folder")
    run.measure_start()  # before an old run is removed or a file written: what is wrong shows here
    for path in (*held, *(folder / name for name in _OF_THE_PROBE if (folder / name).exists())):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    folder.mkdir(parents=True, exist_ok=True)


def resume(out: str | Path, *, progress: Progress | None = None, **changes: Any) -> dict[str, Any]:
    """Continue a stopped or killed run from its checkpoint, bit for bit as if it had never stopped.

    That holds on the same kind of machine, with the same number of threads and the same versions; with another number
    of steps, where no schedule follows the progress of the training.

    Args:
        out: the run's folder.
        progress: as in :func:`train`.
        **changes: settings to change; of those that differ from the run's, only how far to go, when to evaluate and
            save, where the data are, accelerator and devices may; on another number of devices no longer bit for bit.

    Returns:
        As :func:`train`.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: the checkpoint is damaged, a change is not allowed, or the data is not that of the run.
    """
    state = checkpoint.load(Path(out) / "checkpoint.pt")
    stored = TrainConfig(**state["config"])
    changes = {name: value for name, value in changes.items() if value is not None}
    options = changes.pop("options", {})
    for name, value in {**options, **changes}.items():
        if name not in options and not hasattr(stored, name):
            raise ValueError(f"{name}: no setting of a run; {_checks.unknown(name, CHANGEABLE)}")
        old = stored.options.get(name) if name in options else getattr(stored, name)
        if value != old and name not in CHANGEABLE:
            raise ValueError(f"{name}: the run in {out} has {old!r}, which cannot become {value!r} when it is resumed")
    config = dataclasses.replace(stored, **changes, out=str(out)).resolved()
    assert config.steps is not None
    if config.steps < state["step"]:
        raise ValueError(f"steps: the run in {out} is already at step {state['step']}, got {config.steps}")
    data = load(config.data, config.data_dir)
    if data.digest != state["data_digest"]:
        raise ValueError(f"data_dir: the {config.data} images there are not those the run in {out} was started on")
    return _Run(config, data, state).go(progress)


_FILES = ("config.json", "checkpoint.pt", "results.json", "metrics.jsonl", "metrics.csv", "tensorboard")
_OF_THE_PROBE = ("probe.json", "tsne.png", "umap.png")  # of a run that is overwritten they would say nothing of the new


class _Run:
    """A run in progress: what trains, its record, and what a checkpoint holds of both."""

    def __init__(self, config: TrainConfig, data: ImageSet, state: dict[str, Any] | None = None) -> None:
        self.config, self.digest = config, data.digest
        self.folder = Path(config.out)
        self.trainer = Trainer(config, data)
        self.method, self.optimizer = self.trainer.method, self.trainer.optimizer
        self.data, self.view, self.steps = self.trainer.data, self.trainer.view, self.trainer.steps

        self.step = 0
        self.saved = time.monotonic()  # when the checkpoint was written
        self.rows: list[dict[str, float]] = []
        self.probe: dict[str, float] = {}
        self.sums: dict[str, float] = {}  # of the training terms since the last row
        if state is not None:
            checkpoint.restore(self.method, state, self.folder / "checkpoint.pt")
            self.optimizer.load_state_dict(state["optimizer"])
            self.trainer.loss_scale = state.get("loss_scale", {})
            self.step, self.rows, self.probe, self.sums = (state[name] for name in ("step", "rows", "probe", "sums"))

    def save(self) -> None:
        for name, tensor in self.method.named_parameters():  # a buffer may say by NaN that it is not set yet
            if not bool(torch.isfinite(tensor).all()):
                raise FloatingPointError(f"step {self.step}: {name} is not finite; {self._last_checkpoint()}")
        state = {
            "config": {**dataclasses.asdict(self.config), "options": dict(self.config.options)},
            "data_digest": self.digest,
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "loss_scale": self.trainer.loss_scale,
            **{name: getattr(self, name) for name in ("step", "rows", "probe", "sums")},
        }
        checkpoint.save(self.folder / "checkpoint.pt", state)
        self.saved = time.monotonic()

    def measure_start(self) -> None:
        """The probes and the row of step 0."""
        with torch.random.fork_rng():
            self.probe = {
                "pixels": probe_pixels(self.data, self.view),
                "before": probe_method(self.method, self.data, self.view),
            }
            self.rows.append({"step": 0, **self._evaluate()})

    def go(self, progress: Progress | None) -> dict[str, Any]:
        """Train to the end; every process takes the steps, and the first one writes."""
        first = self.trainer.rank == 0
        with torch.random.fork_rng(), stop_signals() as stop:
            log = self._open_record() if first else None
            try:
                while self.step < self.steps:
                    self._train_step()
                    last = self.step == self.steps
                    if log is not None:
                        self._record_step(log, progress)
                    stopped = self.trainer.any(bool(stop))
                    if log is not None and (last or stopped or self._checkpoint_is_due()):
                        self.save()
                    if stopped and not last:
                        name = stop[0] if stop else "a signal to another process"
                        raise Interrupted(
                            f"{name}: stopped at step {self.step} of {self.steps}; resume the run in {self.folder}"
                        )
                return self.trainer.of_the_first({} if log is None else self._finish(log))
            finally:
                if log is not None:
                    log.close()

    def _open_record(self) -> RunLog:
        (self.folder / "results.json").unlink(missing_ok=True)  # of a shorter run that is now resumed
        remove_partial(self.folder)
        write_json(self.folder / "config.json", dataclasses.asdict(self.config), indent=2)
        if self.step == 0:
            self.save()
        return RunLog(self.folder, self.rows)

    def _record_step(self, log: RunLog, progress: Progress | None) -> None:
        if self.step == self.steps or self.step % self.config.eval_every == 0:
            self._log_row(log)
        if progress is not None:
            progress(self.step, self.steps, self.rows[-1])

    def _checkpoint_is_due(self) -> bool:
        overdue = time.monotonic() - self.saved >= 60 * self.config.checkpoint_minutes
        return overdue or self.step % self.config.checkpoint_every == 0

    def _finish(self, log: RunLog) -> dict[str, Any]:
        after = probe_method(self.method, self.data, self.view)
        log.scalars({f"probe/{name}": value for name, value in self.probe.items()}, 0)
        log.scalars({"probe/after": after}, self.step)
        results = {
            "config": dataclasses.asdict(self.config),
            "probe": {**self.probe, "after": after},
            "heldout": self.rows[-1],
            "history": self.rows,
        }
        write_json(self.folder / "results.json", results, indent=2)
        return results

    def _train_step(self) -> None:
        try:
            values = self.trainer.step(self.step)
        except FloatingPointError as error:
            raise FloatingPointError(f"step {self.step + 1}: {error}; {self._last_checkpoint()}") from error
        self.step += 1
        for name, value in {**values, "count": 1.0}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def _log_row(self, log: RunLog) -> None:
        count = self.sums.pop("count")
        try:
            found = self._evaluate()
        except ValueError as error:  # as in a step: what is not finite is named where it is looked at
            raise FloatingPointError(f"step {self.step}, held-out: {error}; {self._last_checkpoint()}") from error
        row = {"step": self.step, **{name: total / count for name, total in self.sums.items()}, **found}
        self.sums = {}
        self.rows.append(row)
        log.add(row)
        warn_at_the_ends(row, self.step)
        warn_of_collapse(row, self.step)

    def _evaluate(self) -> dict[str, float]:
        found = evaluate(
            self.method, self.data.train, self.data.test, self.view, self.trainer.candidates, self.config.seed
        )
        bad = [f"{name} is {value}" for name, value in found.items() if not math.isfinite(value)]
        if bad:
            raise FloatingPointError(f"step {self.step}, held-out: {' and '.join(bad)}; {self._last_checkpoint()}")
        return found

    def _last_checkpoint(self) -> str:
        path = self.folder / "checkpoint.pt"
        return f"the last checkpoint is {path}" if path.exists() else "no checkpoint was written"
