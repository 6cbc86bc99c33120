"""The studies: their distributions, the libraries' bandwidths, and what they conclude from cells."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import publish
from benchmarks.studies import (
    cells,
    collapse,
    entropy_peers,
    entropy_table,
    er_study,
    halves,
    robustness,
    tables,
    trainers,
)  # fmt: skip
from benchmarks.studies.distributions import DISTRIBUTIONS
from benchmarks.studies.entropy_peers import loo_entropy

# ---------------------------------------------------------------------------------------------------------------- cells


def test_cells_are_computed_once_and_again_with_other_settings(tmp_path: Path) -> None:
    computed: list[int] = []

    def compute(value: int) -> cells.Cell:
        computed.append(value)
        return {"square": value * value}

    wanted = {"a": {"value": 2}, "b": {"value": 3}}
    assert [cell["square"] for cell in cells.run(tmp_path, wanted, compute)] == [4, 9]
    assert [cell["square"] for cell in cells.run(tmp_path, wanted | {"b": {"value": 5}}, compute)] == [4, 25]
    assert computed == [2, 3, 5]
    (tmp_path / "a.json").write_text("{")
    assert [cell["square"] for cell in cells.run(tmp_path, wanted | {"b": {"value": 5}}, compute)] == [4, 25]
    assert computed == [2, 3, 5, 2]


def test_cells_that_fail_leave_nothing_and_none_is_begun_late(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def fail(value: int) -> cells.Cell:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        cells.run(tmp_path, {"a": {"value": 1}}, fail)
    assert not list(tmp_path.iterdir())
    assert cells.run(tmp_path, {"a": {"value": 1}}, fail, minutes=-1) == []
    assert "1 of 1 cells left" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------------- distributions


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_distributions_integrate_to_one_and_have_their_entropy(name: str) -> None:
    distribution = DISTRIBUTIONS[name]
    d = 2 if distribution.sphere else 1
    if distribution.sphere:
        angle = np.linspace(-math.pi, math.pi, 4001)[:-1]
        grid, step = np.stack([np.cos(angle), np.sin(angle)], 1), 2 * math.pi / 4000
    else:
        grid, step = np.linspace(-400, 400, 800_001)[:, None], 1e-3
    log_density = distribution.log_density(grid)
    density = np.exp(log_density)
    assert abs(density.sum() * step - 1) <= 1e-6
    value, error = distribution.entropy(d)
    assert abs(-(density * log_density).sum() * step - value) <= 1e-5 + 4 * error
    x = distribution.sample(20_000, d, np.random.default_rng(0))
    scores = -distribution.log_density(x)
    assert abs(scores.mean() - value) <= 1e-9 + 4 * error + 4 * scores.std() / math.sqrt(len(x))


# -------------------------------------------------------------------------------------------------------------- entropy


@pytest.mark.parametrize("block", [4, 40])
def test_leave_one_out_entropy_is_the_dense_formula(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entropy_peers, "BLOCK", block)
    generator = np.random.default_rng(0)
    x, factor = generator.standard_normal((15, 3)) + 5, generator.standard_normal((3, 3))
    for covariance in (0.49 * np.eye(3), factor @ factor.T + 0.1 * np.eye(3)):
        difference = x[:, None] - x
        squared = np.einsum("ijk,kl,ijl->ij", difference, np.linalg.inv(covariance), difference)
        kernel = np.exp(-squared / 2) / math.sqrt(np.linalg.det(2 * math.pi * covariance))
        want = -np.log((kernel.sum(1) - kernel.diagonal()) / 14).mean()
        assert abs(loo_entropy(x, covariance) - want) <= 1e-12
        if covariance[0, 1] == 0:
            assert abs(loo_entropy(x, 0.7) - want) <= 1e-12


@pytest.mark.parametrize("d", [2, 5])
def test_libraries_bandwidths(d: int) -> None:
    selection = pytest.importorskip("sklearn.model_selection")
    neighbors = pytest.importorskip("sklearn.neighbors")
    x = np.random.default_rng(0).standard_normal((60, d)) * 3
    grid = entropy_peers._standard_deviation(x) * 60 ** (-1 / (d + 4)) * entropy_peers.GRID
    search = selection.GridSearchCV(neighbors.KernelDensity(), {"bandwidth": grid}, cv=5).fit(x)
    assert entropy_peers.sklearn_cross_validated(x) == pytest.approx(search.best_params_["bandwidth"], rel=1e-12)

    best = entropy_peers.sklearn_leave_one_out(x)
    here = loo_entropy(x, best)
    assert loo_entropy(x, best, torch.float32) == pytest.approx(here, abs=1e-5)
    for other in (0.97, 1.03):
        assert here < loo_entropy(x, other * best)
    assert max(entropy_peers.agreement(x).values()) <= 1e-9


def test_a_cell_and_its_summary() -> None:
    pytest.importorskip("sklearn")
    cell = entropy_table.compute("gaussian", 1, 1000, 0)
    assert cell["methods"]["ours loo"]["bias"] == pytest.approx(0, abs=0.02)
    assert cell["methods"]["ours loo"]["entropy"] == pytest.approx(
        cell["methods"]["scikit-learn leave-one-out"]["entropy"], abs=1e-4
    )
    assert cell["methods"]["scipy scott"]["bias"] == pytest.approx(0, abs=0.02)

    def line(*biases: dict[str, float]) -> dict:
        settings = {"distribution": "gaussian", "d": 2, "n": 1000}
        found = [
            {
                "settings": {**settings, "seed": seed},
                "methods": {m: {"bias": b} for m, b in given.items()} | {"broken": {"note": "no"}},
            }
            for seed, given in enumerate(biases)
        ]
        (made,) = entropy_table.summary(found)
        return made

    made = line({"ours loo": 0.3, "ours scott": 0.0, "scipy scott": -0.2}, {"ours loo": -0.1, "scipy scott": -0.2})
    assert made["bias"] == pytest.approx({"ours loo": 0.1, "ours scott": 0.0, "scipy scott": -0.2})
    assert (made["best"], made["best_peer"], made["met"]) == ("ours loo", "scipy scott", True)
    # The claim is the loo family's: another rule of ours does not help it.
    assert line({"ours loo": 0.3, "ours scott": 0.0, "scipy scott": -0.2})["met"] is False
    assert line({"ours loo": 0.3, "ours loo_full": 0.1, "scipy scott": -0.2})["met"] is True
    assert line({"ours loo": 0.3})["met"] is None
    # A slow rule that ran on one seed is compared on that one.
    slow = line({"ours loo": 0.1, "statsmodels cv_ml": 0.15}, {"ours loo": 0.5})
    assert (slow["best_peer"], slow["best_there"], slow["met"]) == ("statsmodels cv_ml", 0.1, True)
    slow = line({"ours loo": 0.5, "statsmodels cv_ml": 0.35}, {"ours loo": 0.1})
    assert (slow["best_there"], slow["met"]) == (0.5, False)


def test_a_whole_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(entropy_table, "SIZES", {60: 2})
    out = tmp_path / "entropy.json"
    arguments = ["--sizes", "60", "--dims", "1", "2", "--folder", str(tmp_path / "cells"), "--out", str(out)]
    assert entropy_table.main(arguments) == 0
    document = json.loads(out.read_text())
    assert {(line["distribution"], line["d"]) for line in document["lines"]} == {
        (name, d) for name, chosen in DISTRIBUTIONS.items() for d in (1, 2) if not (chosen.sphere and d == 1)
    }
    assert all(line["seeds"] == 2 for line in document["lines"])
    assert out.with_suffix(".png").stat().st_size > 0

    page = tmp_path / "page.md"
    page.write_text("<!-- entropy: bias mixture -->\n<!-- end -->\n<!-- entropy: rules gaussian -->\n<!-- end -->\n")
    publish.main([str(out), str(page)])
    text = page.read_text()
    line = next(line for line in document["lines"] if (line["distribution"], line["d"]) == ("mixture", 2))
    assert f"| 2 | 60 | 2 | {line['entropy']:.4f} ± {line['entropy_error']:.4f} |" in text
    assert f"| {line['best_peer']} | {line['bias'][line['best_peer']]:+.4f} ± " in text
    assert "| rule, n = 60 | d = 1 | d = 2 |" in text
    page.write_text("<!-- entropy: bias cauchy -->\n<!-- end -->\n")
    with pytest.raises(ValueError, match="cauchy"):
        publish.main([str(out), str(page)])


# ------------------------------------------------------------------------------------------------------------------- ER


def er_cell(bandwidth: str, *accuracies: float) -> list[cells.Cell]:
    return [
        {"settings": {"bandwidth": bandwidth}, "probe": {"pixels": 0.9, "before": 0.8, "after": accuracy}}
        for accuracy in accuracies
    ]


def test_each_rule_is_held_against_the_best_fixed_bandwidth() -> None:
    fixed = er_cell("1", 0.90, 0.92) + er_cell("10", 0.95, 0.97)
    assert er_study.summary(fixed)["met"] == {}
    assert er_study.summary(er_cell("loo", 0.94, 0.97))["met"] == {}
    result = er_study.summary(fixed + er_cell("loo", 0.94, 0.97) + er_cell("bgh", 0.94, 0.95))
    assert (result["best_fixed"], result["met"]) == ("10", {"loo": True, "bgh": False})
    assert result["difference"] == pytest.approx({"loo": -0.005, "bgh": -0.015})


def test_a_run_of_the_er_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("lightning_fabric", "kornia", "sklearn", "tensorboard", "matplotlib"):
        pytest.importorskip(module)
    monkeypatch.setattr(er_study, "KAPPAS", (5,))
    threads, out = torch.get_num_threads(), tmp_path / "er.json"
    arguments = ["--steps", "2", "--seeds", "1", "--threads", "1", "--folder", str(tmp_path), "--out", str(out)]
    try:
        assert er_study.main(arguments) == 0
    finally:
        torch.set_num_threads(threads)
    document = json.loads(out.read_text())
    assert set(document["mean"]) == {"loo", "bgh", "5"}
    assert out.with_suffix(".png").stat().st_size > 0
    page = tmp_path / "page.md"
    page.write_text("<!-- er-mnist: accuracy -->\nold\n<!-- end -->\n<!-- er-digits: accuracy -->\nold\n<!-- end -->\n")
    publish.main([str(out), str(page)])
    assert page.read_text().count("old") == 1
    assert f"| loo | {document['mean']['loo']:.4f} |" in page.read_text()


# ------------------------------------------------------------------------------------------------------------- trainers


def test_a_run_of_the_trainers_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    whole = trainers.variants()
    assert {"simclr-native", "simclr-er", "mi-max-native", trainers.UNCENTRED} <= set(whole)
    monkeypatch.setattr(
        trainers, "variants", lambda: {name: whole[name] for name in ("simsiam-native", "mi-max-native")}
    )
    threads, out = torch.get_num_threads(), tmp_path / "trainers.json"
    arguments = ["--steps", "2", "--seeds", "1", "--threads", "1", "--folder", str(tmp_path), "--out", str(out)]
    try:
        assert trainers.main([*arguments, "--only", "simsiam"]) == 0
        assert not out.exists()  # a part of the table is no table
        assert trainers.main(arguments) == 0
    finally:
        torch.set_num_threads(threads)
    rows = json.loads(out.read_text())["rows"]
    assert list(rows) == ["simsiam-native", "mi-max-native"]
    row = rows["mi-max-native"]
    assert row["gain"]["before"] == pytest.approx(row["mean"] - json.loads(
        (tmp_path / "mi-max-native-2-s0.json").read_text())["probe"]["before"])  # fmt: skip
    assert row["met"] is (min(row["gain"].values()) > 0)
    assert out.with_suffix(".png").stat().st_size > 0
    assert "| `simsiam-native` |" in capsys.readouterr().out


def test_seeds_above_the_baselines_are_counted() -> None:
    found = [
        {"settings": {"line": "toy", "seed": seed}, "probe": {"pixels": 0.9, "before": before, "after": after},
         "seconds": seconds, **dict.fromkeys(trainers.TERMS, 1.0)}
        for seed, (before, after, seconds) in enumerate([(0.8, 0.91, 70.0), (0.93, 0.92, 50.0), (0.8, 0.9, 90.0)])
    ]  # fmt: skip
    header, (line,) = tables.trainers({"rows": trainers.summary(found), "cells": found}, "")
    named = dict(zip(header, line, strict=True))
    assert (named["seeds above both"], named["seconds"], named["above pixels"]) == ("1 of 3", "50", "+1.00")


# --------------------------------------------------------------------------------------------------------------- halves


def halves_cell(encoder: str, bound: str, critic: str, target: float, after: float, seed: int = 0) -> dict:
    settings = {"encoder": encoder, "bound": bound, "critic": critic, "target": target, "seed": seed, "steps": 5}
    probe = {"pixels": 0.84, "before": 0.8, "after": after}
    return {"settings": settings, "probe": probe, "infonce": 4.0, bound: 4.0, "cap": 4.85, "seconds": 1.0}


def test_claims_on_halves(tmp_path: Path) -> None:
    assert (len(halves.wanted(5, seeds=2)), len(halves.wanted(5, ["critics"]))) == (20, 6)
    found = [
        halves_cell("mlp", bound, critic, 0.0, after, seed)
        for bound in ("infonce", "nwj")
        for critic, after in (("bilinear", 0.88), ("separable", 0.87), ("concatenated", 0.855))
        for seed in (0, 1)
    ]
    found += [halves_cell("mlp", "infonce", "bilinear", target, 0.85) for target in halves.TARGETS]
    found += [halves_cell("convnet", "infonce", "bilinear", target, 0.9) for target in halves.TARGETS]
    result = halves.summary(found)
    assert set(result["met"].values()) == {True}
    assert len(result["rows"]) == 10
    assert result["rows"][0]["each"] == [0.88, 0.88]
    found[0]["probe"]["after"] = found[1]["probe"]["after"] = 0.859
    met = halves.summary(found)["met"]
    assert [met[claim] for claim in met] == [False, False, True]

    assert list(halves.summary(found[:12])["met"]) == list(met)[:2]
    assert list(halves.summary(found[12:])["met"]) == list(met)[2:]

    page, out = tmp_path / "page.md", tmp_path / "halves.json"
    page.write_text("<!-- halves: probes -->\n<!-- end -->\n<!-- halves: claims -->\n<!-- end -->\n")
    out.write_text(json.dumps({"study": "halves", **result}))
    publish.main([str(out), str(page)])
    assert "| mlp | nwj | separable |  | 0.8700 | 0.8700, 0.8700 | 4.00 | 4.00 |" in page.read_text()
    assert "| ConvNet above MLP at the same bound | yes |" in page.read_text()


# ---------------------------------------------------------------------------------------------------------------- sweep


def test_a_sweep_is_recorded(tmp_path: Path) -> None:
    for module in ("lightning_fabric", "kornia", "sklearn", "tensorboard", "matplotlib"):
        pytest.importorskip(module)
    from mi_estimators.ssl.sweep import SweepCell, SweepConfig, line_of

    grid = {"methods": ["simclr", "dino:objective=native:centering=none"], "batch_sizes": [8, 4], "momenta": [0.9],
            "seeds": 1, "steps": 2}  # fmt: skip
    config = SweepConfig(**{name: tuple(v) if isinstance(v, list) else v for name, v in grid.items()})
    folder = tmp_path / "sweep"
    (folder / "cells").mkdir(parents=True)
    (folder / "settings.json").write_text(json.dumps({"of_a_cell": config.of_a_cell, "grid": grid}))

    def result(cell: SweepCell, place: int) -> dict:
        last = dict.fromkeys(robustness.LAST, 2.0 + place) | {"knn": 0.5}
        probe = {"pixels": 0.9, "before": 0.8, "after": 0.85 - 0.01 * place}
        return {**dataclasses.asdict(cell), "probe": probe, "error": None, "history": [{"step": 2, **last}]}

    for place, cell in enumerate(config.cells()):
        (folder / "cells" / f"{cell.name}.json").write_text(json.dumps(result(cell, place)))
    out = tmp_path / "results.json"
    assert robustness.main([str(folder), "--out", str(out)]) == 0
    document = json.loads(out.read_text())
    assert [row["line"] for row in document["rows"]] == [line_of(c.method, c.objective) for c in config.cells()]
    assert "data_dir" not in document["grid"]
    for path in ("results.md", "results.csv", "results.png", "results-dino.png"):
        assert (tmp_path / path).stat().st_size > 0

    page = tmp_path / "page.md"
    page.write_text("".join(f"<!-- sweep: {what} -->\n<!-- end -->\n" for what in ("robustness", "runs", "plot dino")))
    publish.main([str(out), str(page)])
    assert (tmp_path / "results.md").read_text() in page.read_text()
    assert "| `simclr er` | 4 |  | 82.00 | -8.00 | +2.00 | 5.00 | 5.00 | 5.0 | 5.00 | 50.0 |" in page.read_text()
    assert "(results-dino.png)" in page.read_text()


# ------------------------------------------------------------------------------------------------------------- collapse


def collapse_cell(line: str, seed: int, entropy: float) -> dict:
    end = dict.fromkeys((*collapse.KEPT, "target_entropy", "divergence"), 0.5) | {
        "entropy": entropy,
        "entropy_floor": 0.0,
    }
    history = [{"step": 0, **end, "knn": 0.9}, {"step": 5, **end}]
    settings = {"data": "digits", "line": line, "seed": seed, "steps": 5}
    return {"settings": settings, "probe": {"before": 0.92, "after": 0.9}, "history": history, "seconds": 1.0}


def test_what_collapsed_is_counted_and_published(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    ends = {"native, no centering": 0.01, "native": 2.0, "er": 3.0, "native, no centering, norm in the head": 0.7}
    found = [collapse_cell(line, seed, ends[line]) for seed in (0, 1) for line in collapse.LINES]
    result = collapse.summary(found)
    assert [row["collapsed"] for row in result["rows"]] == [0, 2, 0, 0]
    assert set(result["met"].values()) == {True}
    for place, entropy, missed in ((1, 0.2, 0), (0, math.nan, 1), (2, 0.05, 3)):
        line = list(collapse.LINES)[place]
        changed = [*found[:place], collapse_cell(line, 0, entropy), *found[place + 1 :]]
        assert [not met for met in collapse.summary(changed)["met"].values()].index(True) == missed
    found[2]["history"][-1]["infonce"] = 0.05
    assert list(collapse.summary(found)["met"].values()) == [True, True, True, True, False]
    result = collapse.summary(found)

    out, page = tmp_path / "collapse-digits.json", tmp_path / "page.md"
    out.write_text(json.dumps({"study": "collapse", "plan": {"data": "digits"}, **result}))
    collapse.plot(found, out.with_suffix(".png"))
    whats = ("ends", "claims", "plot")
    page.write_text("".join(f"<!-- collapse-digits: {what} -->\n<!-- end -->\n" for what in whats))
    publish.main([str(out), str(page)])
    text = page.read_text()
    assert "| native, no centering | 2 of 2 | 2 of 2 | 0.01 | 0.00 | 0.50 | 0.50 | 0.50 | 0.5 |" in text
    assert "| with centering none does | yes |" in text
    assert "![Entropies over training](collapse-digits.png)" in text


def test_the_trainings_of_the_study_of_collapse(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("lightning_fabric", "kornia", "sklearn"):
        pytest.importorskip(module)
    monkeypatch.setattr("mi_estimators.ssl.probe.probe_method", lambda *of: 0.5)  # seconds each
    cell = collapse.compute(None, "digits", "native, no centering", seed=0, steps=1)
    assert [row["step"] for row in cell["history"]] == [0, 1]
    last = cell["history"][-1]
    assert last["target_entropy"] <= last["entropy"] + 0.1
    assert last["divergence"] >= 0
    settings = collapse.settings_of("digits", None, "native, no centering, norm in the head", 0, 1)
    assert (settings.options["head_norm"], settings.options["centering"]) == ("batch", "none")
