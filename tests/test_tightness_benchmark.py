"""The benchmark: cells, resuming, refusals, and what is made of the results."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from mi_estimators import synthetic, tightness
from mi_estimators.estimators import ESTIMATORS, estimate_mi
from mi_estimators.synthetic import TASKS
from mi_estimators.tightness import BenchmarkConfig, run_benchmark, save_report
from mi_estimators.tightness.cells import Cell, cells, run_cell
from mi_estimators.tightness.leaderboard import checks, is_close, lines, main_n, markdown, ranking

TINY = {
    "tasks": ("1v1-normal-0.75", "multinormal-dense-2-2-0.5"),
    "estimators": ("ksg", "gaussian"),
    "n": (60,),
    "seeds": 2,
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    out = tmp_path_factory.mktemp("benchmark") / "out"
    config = BenchmarkConfig(
        **{**TINY, "estimators": ("infonce", "ksg", "gaussian")},
        batch_sizes=(16,),
        max_steps=20,
        evaluation_batch_size=8,
        convergence_tasks=("1v1-normal-0.75",),
        convergence_n=(40,),
    )
    return out, config, run_benchmark(config, out)


def test_every_cell_has_its_file_and_its_value_is_that_of_estimate_mi(results):
    out, config, found = results
    grid = cells(config)
    assert len(grid) == len(found) == 3 * 2 * 2 + 3 * 2
    assert sorted(path.name for path in (out / "cells").iterdir()) == sorted(f"{cell.name}.json" for cell in grid)
    for cell, result in zip(grid, found, strict=True):
        assert json.loads((out / "cells" / f"{cell.name}.json").read_text()) == result
        task = TASKS[cell.task]
        assert result["truth"] == task.mutual_information
        assert (result["error"], result["seconds"] > 0) == (None, True)
        x, y = task.sample(cell.n, seed=cell.seed, dtype=torch.float64)
        if cell.estimator == "ksg":
            assert result["value"] == estimate_mi(x, y, estimator="ksg").value
        if cell.estimator == "infonce":
            assert (cell.critic, cell.batch_size, result["kind"]) == ("concatenated", 16, "lower")
            assert result["value"] <= result["cap"]
            assert result["margin"] >= 3 * result["std"] > 0
        else:
            assert (cell.critic, cell.batch_size) == (None, None)


def test_a_second_run_computes_nothing_and_a_larger_grid_only_what_is_new(results, monkeypatch):
    out, config, found = results
    ran = []
    monkeypatch.setattr(
        "mi_estimators.tightness.benchmark.run_cell",
        lambda cell, **_: ran.append(cell) or run_cell(cell, config.of_a_cell),
    )
    assert run_benchmark(config, out) == found
    assert not ran
    larger = BenchmarkConfig(**{**TINY, "seeds": 3}, max_steps=20, evaluation_batch_size=8)
    assert len(run_benchmark(larger, out)) == 12
    assert {cell.seed for cell in ran} == {2}


def test_a_folder_with_other_settings_or_other_files_is_left_alone(results, tmp_path):
    out, config, _ = results
    before = {path: path.read_bytes() for path in out.rglob("*.json")}
    with pytest.raises(ValueError, match="max_steps: 20 there, 30 here"):
        run_benchmark(BenchmarkConfig(**TINY, max_steps=30, evaluation_batch_size=8), out)
    assert {path: path.read_bytes() for path in out.rglob("*.json")} == before
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        run_benchmark(config, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(NotADirectoryError, match="is not a folder"):
        run_benchmark(config, tmp_path / "thesis.tex")


def test_a_damaged_cell_is_named(tmp_path):
    config = BenchmarkConfig(**{**TINY, "tasks": ("1v1-normal-0.75",), "estimators": ("gaussian",), "seeds": 1})
    run_benchmark(config, tmp_path / "out")
    [path] = (tmp_path / "out" / "cells").iterdir()
    path.write_text("{")
    with pytest.raises(ValueError, match=f"{re.escape(str(path))} is damaged"):
        run_benchmark(config, tmp_path / "out")
    path.write_text('{"task": "another"}')
    with pytest.raises(ValueError, match="the result of another cell"):
        run_benchmark(config, tmp_path / "out")


def test_a_run_that_was_killed_goes_on(tmp_path):
    script = (
        "import sys, time\n"
        "from mi_estimators.tightness import BenchmarkConfig, run_benchmark\n"
        f"config = BenchmarkConfig(**{TINY!r})\n"
        "run_benchmark(config, sys.argv[1], progress=lambda done, total: done < 3 or time.sleep(600))\n"
    )
    out = tmp_path / "out"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", script, str(out)], env=environment)
    try:
        deadline = time.monotonic() + 120
        while len(list(out.glob("cells/*.json"))) < 3:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("cells/*.json")}
    assert len(kept) == 3
    seen = []
    found = run_benchmark(BenchmarkConfig(**TINY), out, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 8) for done in range(3, 9)]
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    assert [result["value"] for result in found] == [
        result["value"] for result in run_benchmark(BenchmarkConfig(**TINY), tmp_path / "whole")
    ]


def test_in_processes_the_values_are_the_same(tmp_path):
    pytest.importorskip("joblib")
    config = BenchmarkConfig(**TINY)
    one, two = run_benchmark(config, tmp_path / "one"), run_benchmark(config, tmp_path / "two", jobs=2)
    for a, b in zip(one, two, strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}


def test_on_the_cluster_of_dask_the_values_are_the_same(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    dask = pytest.importorskip("dask")
    from mi_estimators.tightness import benchmark

    def noted(cell, **given):
        return run_cell(cell, **given) | {"elsewhere": threading.current_thread() is not threading.main_thread()}

    monkeypatch.setattr(benchmark, "run_cell", noted)
    config, seen = BenchmarkConfig(**TINY), []
    before = torch.get_num_threads()  # workers that are threads, as here alone, set it for each other
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        dask.config.set({"scheduler-address": cluster.scheduler_address}),
    ):
        found = run_benchmark(
            config, tmp_path / "dask", backend="dask", progress=lambda done, total: seen.append((done, total))
        )
    torch.set_num_threads(before)
    assert seen == [(done, 8) for done in range(9)]
    for a, b in zip(found, run_benchmark(config, tmp_path / "here"), strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0, "elsewhere": True}
    assert json.loads((tmp_path / "dask" / "cells" / f"{cells(config)[0].name}.json").read_text()) == found[0]


@pytest.mark.parametrize(("backend", "package"), [("dask", "distributed"), ("ray", "ray"), ("loky", "joblib")])
def test_a_missing_backend_is_named(tmp_path, monkeypatch, backend, package):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find_spec(name))
    with pytest.raises(ImportError, match=f"backend: '{backend}' needs the package {package}: pip install"):
        run_benchmark(BenchmarkConfig(**TINY), tmp_path / "out", jobs=2, backend=backend)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"tasks": ()}, ValueError, "tasks: want at least one"),
        ({"tasks": ("nope",)}, ValueError, "tasks: want one of"),
        ({"estimators": ("ksg", "ksg")}, ValueError, "estimators: want each once"),
        ({"critics": ("nope",)}, ValueError, "critics"),
        ({"n": (0,)}, ValueError, "n: want at least 1"),
        ({"n": (1.5,)}, TypeError, "n: want an integer"),
        ({"seeds": 0}, ValueError, "seeds"),
        ({"batch_sizes": (1,)}, ValueError, "batch_sizes: want at least 2"),
        ({"convergence_n": (10,)}, ValueError, "convergence_n: want it together"),
    ],
)
def test_bad_settings_are_named(change, error, match):
    with pytest.raises(error, match=match):
        BenchmarkConfig(**{**TINY, **change})
    with pytest.raises(ValueError, match=r"jobs: want an integer >= 1"):
        run_benchmark(BenchmarkConfig(**TINY), "never", jobs=0)


@pytest.mark.parametrize("name", tightness.PROFILES)
def test_profiles(name):
    config = BenchmarkConfig.profile(name, seeds=1)
    assert config.tasks == synthetic.PROFILES[name]
    grid = cells(config)
    names = [cell.name for cell in grid]
    assert len(set(names)) == len(names) > 20
    for cell in grid:
        kinds = {TASKS[cell.task].kind_x, TASKS[cell.task].kind_y}
        kind = ESTIMATORS[cell.estimator].kind
        assert kind == "mixed" or kinds == {kind}
    kept = BenchmarkConfig.profile(name, tasks=("1v1-normal-0.75",), seeds=1)
    assert {cell.task for cell in cells(kept)} == {"1v1-normal-0.75"}


def test_an_estimator_that_fails_is_a_result_and_not_the_end(monkeypatch):
    too_few = run_cell(Cell("1v1-normal-0.75", "infonce", "concatenated", 64, 20, 0), {"max_steps": 5})
    assert too_few["value"] is None
    assert "ValueError: x: want at least 64 training pairs" in too_few["error"]
    json.dumps(too_few, allow_nan=False)


def test_the_critic_of_images_takes_their_shape_from_the_task():
    settings = {"max_steps": 1}
    image = run_cell(Cell("image-blob-16-1nats", "infonce", "conv", 4, 18, 0), settings)
    assert image["error"] is None
    other = run_cell(Cell("1v1-normal-0.75", "infonce", "conv", 4, 18, 0), settings)
    assert other["error"] == "ValueError: critic: 'conv' scores images, and the variables of '1v1-normal-0.75' are none"


def result(task, estimator, value, *, truth=1.0, kind="neither", margin=0.3, cap=None, seed=0, n=100, truth_error=0.0):
    return {
        "task": task, "estimator": estimator, "critic": None, "batch_size": None, "n": n, "seed": seed, "truth": truth,
        "truth_error": truth_error, "kind": kind, "value": value, "std": None, "margin": margin, "cap": cap,
        "error": None if value is not None else "it failed", "seconds": 2.0,
    }  # fmt: skip


def test_lines_count_violations_by_kind_of_bound():
    low = [result("a", "low", value, kind="lower", seed=seed) for seed, value in enumerate((1.2, 1.4))]
    up = [result("a", "up", value, kind="upper", seed=seed) for seed, value in enumerate((0.8, 0.5))]
    none = [result("a", "none", value, margin=None, seed=seed) for seed, value in enumerate((None, 5.0))]
    found = lines([*low, *up, *none, result("b", "low", 1.4, kind="lower", truth_error=0.1)])
    by_name = {(line.task, line.variant): line for line in found}
    low, up, none = (by_name["a", name] for name in ("low", "up", "none"))
    assert (low.violations, up.violations, none.violations) == (1, 1, 1)
    assert by_name["b", "low"].violations == 0  # within three standard errors of the truth itself
    assert low.mean == pytest.approx(1.3)
    assert low.spread == pytest.approx(0.2 / math.sqrt(2))
    assert (none.succeeded, none.failed, none.mean, none.error) == (1, 1, 5.0, "it failed")


def test_ranking_and_markdown():
    rows = [("a", "x", 1.01), ("a", "y", 1.5), ("a", "z", None), ("b", "x", 1.2), ("b", "y", 1.01), ("b", "z", 0.8)]
    found = lines([result(*row) for row in rows] + [result("a", "x", 1.0, n=10)])
    assert main_n(found) == 100
    x, y, z = sorted(ranking(found), key=lambda rank: rank.variant)
    assert (x.rank, y.rank, z.rank) == (1.75, 1.5, 2.75)  # x and z tie on b
    assert (x.close, y.close, z.close) == (1, 1, 0)
    assert x.median_error == pytest.approx(0.105)
    assert z.worst_error == math.inf
    assert is_close(0.04, 0.0)
    assert not is_close(0.06, 0.0)
    assert is_close(2.19, 2.0)
    text = markdown(found)
    assert "| `a` | 1.000 | 1.500▲ | **1.010** | failed |" in text
    assert "| `a` | z | 100 | it failed |" in text


def test_checks_find_what_must_not_be():
    good = [result("a", "infonce", 0.9, kind="lower", cap=1.0)]
    assert [check.passed for check in checks(lines(good))] == [True, True]
    assert [check.passed for check in checks(lines([result("a", "infonce", 1.1, kind="lower", cap=1.0)]))] == [
        False,
        True,
    ]
    assert [check.passed for check in checks(lines([result("a", "infonce", 1.4, kind="lower", cap=2.0)]))] == [
        True,
        False,
    ]
    assert not any(check.passed for check in checks(lines([result("a", "ksg", 1.0)])))  # nothing was looked at


def test_report(results, tmp_path):
    pytest.importorskip("matplotlib")
    _, _, found = results
    paths = {path.name: path for path in save_report(found, tmp_path, environment={"torch": "<2>"})}
    pictures = [name for name in paths if name.endswith(".png")]
    assert set(pictures) == {f"{name}.png" for name in tightness.PLOTS}
    assert {path.name for path in tmp_path.iterdir()} == set(paths)
    with paths["results.csv"].open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["value"]) for row in rows] == [result["value"] for result in found]
    page = paths["report.html"].read_text()
    assert "torch &lt;2&gt;" in page
    assert page.count("data:image/png;base64,") == len(pictures)
    assert not re.findall(r'(?:src|href)="(?!data:)', page)  # it stands alone
    assert "log K" in paths["leaderboard.md"].read_text()
    with pytest.raises(ValueError, match="results: want at least one"):
        save_report([], tmp_path)


def test_report_without_matplotlib(results, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.warns(UserWarning, match=r"mi-estimators\[plots\]"):
        paths = save_report(results[2], tmp_path)
    assert not [path for path in paths if path.suffix == ".png"]
    assert "<img" not in Path(paths[-1]).read_text()


def test_consistency_study():
    out = tightness.STUDIES["consistency"].run(bounds=("infonce", "nwj"), steps=8, hidden=8, batch_size=16, threads=1)
    json.dumps(out, allow_nan=False)
    assert len(out["rows"]) == 2 * 5
    for row in out["rows"]:
        assert row["truths"][0] / row["truths"][1] == pytest.approx(row["should_be"])
        assert row["ratio"] == row["estimates"][0] / row["estimates"][1]


@pytest.mark.parametrize(("rows", "images"), [((8,), 1), ((4, 2), 1), ((4, 4), 2)])
def test_the_information_of_the_rows_is_that_of_their_covariance(rows, images):
    from mi_estimators.tightness.consistency import gaussian_images, seen_rows

    task = seen_rows(gaussian_images(0.3), *rows, copies=images)
    x, y = task.sample(60_000, dtype=torch.float64)
    assert (x.shape[1], y.shape[1]) == (task.dim_x, task.dim_y)
    # Copies make both covariances singular: leave out the columns that repeat others.
    keep = [(v[:, : rows[0] * 2] if index else v[:, :16]) if images == 1 else v for index, v in enumerate((x, y))]
    assert estimate_mi(*keep, estimator="gaussian").value == pytest.approx(task.mutual_information, abs=0.02)
    if images == 1 and len(rows) > 1:
        assert torch.equal(y[:, 8:], y[:, :4])
        assert torch.equal(x[:, :16], x[:, 16:])


def test_negatives_study():
    from mi_estimators.tightness.negatives import TRUTH, task

    for iid, off_diagonal in ((True, 0.0), (False, -0.25)):
        batches = [task(iid=iid).sample(64, seed, dtype=torch.float64) for seed in range(3000)]
        x, y = (torch.stack([batch[side] for batch in batches]).squeeze(-1) for side in (0, 1))
        joint = torch.corrcoef(torch.stack([x[:, 0], y[:, 0]]))[0, 1]
        product = torch.corrcoef(torch.stack([x[:, 0], y[:, 1]]))[0, 1]
        assert abs(joint - 0.2) <= 0.06
        assert abs(product - off_diagonal) <= 0.06
    assert pytest.approx(-0.5 * math.log(1 - 0.2**2)) == TRUTH
    out = tightness.STUDIES["negatives"].run(steps=8, batch_size=16, seeds=2, threads=1)
    json.dumps(out, allow_nan=False)
    assert [(row["bound"], row["negatives"]) for row in out["rows"]] == [
        ("infonce", "iid"), ("nwj", "iid"), ("infonce", "shared"), ("nwj", "shared"),
    ]  # fmt: skip
