"""Sweeps of the trainers: the grid, resumption, the table of robustness."""

from __future__ import annotations

import json

import pytest
import torch

from mi_estimators.ssl import SweepConfig, run_sweep
from mi_estimators.ssl.sweep import method_of
from mi_estimators.ssl.sweep_report import robustness, save_sweep, sweep_as_rich, training_plot

for module in ("lightning_fabric", "kornia", "sklearn", "tensorboard", "rich", "matplotlib"):
    pytest.importorskip(module)


@pytest.fixture(autouse=True)
def quick_runs(monkeypatch):
    """Probes and evaluations take longer than the four steps of a run."""
    monkeypatch.setattr("mi_estimators.ssl.heldout.BATCHES", 1)
    monkeypatch.setattr("mi_estimators.ssl.loop.probe_method", lambda *_: 0.75)
    monkeypatch.setattr("mi_estimators.ssl.loop.probe_pixels", lambda *_: 0.5)


UNCENTRED = "dino:objective=native:centering=none"


def test_the_grid_changes_one_thing_at_a_time():
    config = SweepConfig(methods=("simclr", "byol", UNCENTRED), batch_sizes=(64, 16), momenta=(0.9, 0.5), seeds=2)
    cells = config.cells()
    assert [cell.seed for cell in cells] == [0] * 13 + [1] * 13
    of_byol = [(c.objective, c.batch_size, c.momentum) for c in cells if c.method == "byol" and c.seed == 0]
    assert of_byol == [
        (objective, *setting) for objective in ("native", "er") for setting in ((64, 0.9), (16, 0.9), (64, 0.5))
    ]
    assert {(c.objective, c.batch_size, c.momentum) for c in cells if c.method == "simclr"} == {
        ("native", 64, None), ("native", 16, None), ("er", 64, None), ("er", 16, None)
    }  # fmt: skip
    assert {c.objective for c in cells if c.method == UNCENTRED} == {None}
    assert len({cell.name for cell in cells}) == len(cells)


def test_a_method_that_sets_its_momentum_has_that_one():
    config = SweepConfig(methods=("byol:momentum=0.5",), objectives=("er",), batch_sizes=(64, 16), seeds=1)
    cells = config.cells()
    assert [(cell.batch_size, cell.momentum) for cell in cells] == [(64, None), (16, None)]
    assert {config.of_run(cell, "run").options["momentum"] for cell in cells} == {0.5}


def test_runs_see_as_many_images_whatever_their_batch():
    config = SweepConfig(batch_sizes=(64, 16, 256), steps=100, seeds=1)
    seen = {c.batch_size * (config.of_run(c, "run").steps or 0) for c in config.cells()}
    assert seen == {6400}


def test_settings_of_a_method():
    assert method_of("dino") == ("dino", {})
    assert method_of("dino:centering=none:outputs=32:teacher_temperature=0.1") == (
        "dino", {"centering": "none", "outputs": 32, "teacher_temperature": 0.1}
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"methods": ()}, ValueError, "methods: want at least one"),
        ({"methods": ("simclrr",)}, ValueError, "methods: want one of .*did you mean 'simclr'"),
        ({"methods": ("dino:centring=none",)}, ValueError, "methods: no setting of dino; .*did you mean 'centering'"),
        ({"methods": ("dino:outputs=many",)}, ValueError, "methods: want outputs=int for dino, got 'outputs=many'"),
        ({"methods": ("dino:centering=off",)}, ValueError, "centering: want one of"),
        ({"objectives": ("best",)}, ValueError, "objectives: want one of"),
        ({"batch_sizes": (64, 64)}, ValueError, "batch_sizes: want each once, got 64, 64"),
        ({"batch_sizes": (1,)}, ValueError, "batch_sizes: want an integer >= 2"),
        ({"momenta": (1.5,)}, ValueError, "momentum: want"),
        ({"seeds": 0}, ValueError, "seeds: want an integer >= 1"),
        ({"steps": 0}, ValueError, "steps: want an integer >= 1"),
        ({"data": "digit"}, ValueError, "data: want one of"),
    ],
)
def test_bad_settings_are_named_before_anything_runs(change, error, match):
    with pytest.raises(error, match=match):
        SweepConfig(**{"methods": ("dino",), **change})


def test_data_and_batch_sizes_are_looked_at_before_anything_runs(tmp_path):
    with pytest.raises(ValueError, match="batch_sizes: want at most the 1198 training images, got 5000"):
        run_sweep(SweepConfig(methods=("simclr",), batch_sizes=(64, 5000)), tmp_path / "sweep")
    with pytest.raises(FileNotFoundError, match="data_dir: no folder"):
        run_sweep(SweepConfig(methods=("simclr",), data="mnist", data_dir="nowhere"), tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


TINY = {"methods": ("simclr", UNCENTRED), "objectives": ("er",), "batch_sizes": (64, 32), "momenta": (0.9,),
        "seeds": 1, "steps": 4}  # fmt: skip


def test_a_sweep_killed_in_a_run_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    from mi_estimators.ssl import sweep

    config = SweepConfig(**TINY)
    whole = run_sweep(config, tmp_path / "whole")
    assert [(r["method"], r["batch_size"], r["error"]) for r in whole] == [
        ("simclr", 64, None), ("simclr", 32, None), (UNCENTRED, 64, None), (UNCENTRED, 32, None)
    ]  # fmt: skip
    assert [row["step"] for row in whole[0]["history"]] == [0, 1, 2, 3, 4]

    real = sweep.train

    def die_in_the_second(settings, **options):
        def look(done, total, row):
            if settings.batch_size == 32 and done == 3:
                raise KeyboardInterrupt

        return real(settings, **options, progress=look)

    monkeypatch.setattr(sweep, "train", die_in_the_second)
    monkeypatch.setattr(
        SweepConfig, "of_run", lambda self, cell, out, of=SweepConfig.of_run: _checkpointed(of(self, cell, out))
    )
    with pytest.raises(KeyboardInterrupt):
        run_sweep(config, tmp_path / "killed")
    monkeypatch.setattr(sweep, "train", real)
    ran = []
    resume = sweep.resume
    monkeypatch.setattr(sweep, "resume", lambda out, **options: ran.append(out.name) or resume(out, **options))
    assert run_sweep(config, tmp_path / "killed") == whole
    assert ran == ["simclr_er--k32--s0"]
    with pytest.raises(ValueError, match="steps: 4 there, 5 here"):
        run_sweep(SweepConfig(**{**TINY, "steps": 5}), tmp_path / "killed")

    assert {path.name for path in save_sweep(whole, tmp_path)} == {"robustness.md", "robustness.csv", "training.png"}
    table = (tmp_path / "robustness.md").read_text().splitlines()
    assert table[0].startswith("| run | accuracy | above pixels | entropy | drop at K = 32 | failed |")
    assert table[2].startswith("| simclr er | ")
    assert table[3].startswith(f"| {UNCENTRED} | ")
    assert sweep_as_rich(whole).row_count == 2


def _checkpointed(settings):
    import dataclasses

    return dataclasses.replace(settings, checkpoint_every=2)


def result(seed, after, *, batch_size=64, momentum=0.9, error=None):
    return {
        "method": "byol", "objective": "er", "batch_size": batch_size, "momentum": momentum, "seed": seed,
        "probe": None if error else {"after": after, "before": 0.5, "pixels": 0.6},
        "history": [{"step": step, "entropy": seed + step, "reconstruction": 0.0, "infonce": 0.0} for step in (0, 1)],
        "error": error,
    }  # fmt: skip


def test_drops_are_of_the_seeds_that_both_have():
    results = [result(0, 0.9), result(1, 0.8), result(0, 0.7, batch_size=16), result(1, 0.7, batch_size=16),
               result(0, 0.6, momentum=0.5), result(1, 0, momentum=0.5, error="step 3: loss is nan")]  # fmt: skip
    (line,) = robustness(results)
    assert (line["line"], line["runs"], line["failed"]) == ("byol er", 6, 1)
    assert line["accuracy"] == pytest.approx(0.85)
    assert line["deviation"] == pytest.approx(0.1 / 2**0.5)
    assert line["above_pixels"] == pytest.approx(0.25)
    assert line["entropy"] == pytest.approx(1.5)
    assert line["drops"]["K = 16"] == pytest.approx((0.15, 0.05))
    assert line["drops"]["m = 0.5"] == (pytest.approx(0.3), None)


def test_curves_are_means_over_seeds_against_images_seen():
    figure = training_plot([result(0, 0.9), result(1, 0.8)])
    (curve,) = figure.axes[0].lines
    assert curve.get_xdata().tolist() == [0.0, 0.064]
    assert curve.get_ydata().tolist() == [0.5, 1.5]


def test_a_training_that_does_not_stay_finite_is_one_result_of_many(tmp_path, monkeypatch):
    from mi_estimators.ssl.methods.simclr import SimCLR

    step, calls = SimCLR.step, []

    def break_in_training(self, views, index):
        terms = step(self, views, index)
        if index is not None and len(calls) < 3:
            calls.append(1)
            return {**terms, "loss": terms["loss"] * torch.nan} if len(calls) == 3 else terms
        return terms

    monkeypatch.setattr(SimCLR, "step", break_in_training)
    first, second = run_sweep(SweepConfig(**{**TINY, "methods": ("simclr",)}), tmp_path)
    assert "step 3: loss is nan" in first["error"]
    assert first["probe"] is None
    assert [row["step"] for row in first["history"]] == [0, 1, 2]
    assert second["error"] is None
    json.dumps([first, second], allow_nan=False)
    assert robustness([first, second])[0]["accuracy"] is None
    save_sweep([first, second], tmp_path)
