"""The study of the estimators without training, but for the other libraries' part."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import publish
from benchmarks.studies import nonparametric_mi
from mi_estimators.estimators import gaussian


def test_published_values_are_held_against_draws() -> None:
    lines = {line["what"]: line for line in nonparametric_mi.published(400, 1)}
    assert len(lines["KSG k=3, 5+5"]["ours"]) == 1
    assert lines["KSG k=3, 5+5"]["met"] is False  # it is of 10,000 pairs; so few give far less
    assert lines["CCA, multinormal-dense-5-5-0.5"]["truth"] == pytest.approx(0.5928, abs=1e-4)
    assert lines["CCA, asinh-student-identity-1-1-1"]["published"] == 0.0  # nothing is linear there


def test_agreement_is_exact_but_for_what_is_iterated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    called = []

    def bmi(python: Path, x: np.ndarray, y: np.ndarray, *what: str) -> dict[str, float]:
        called.append(what)
        return {"value": 0.0 if what[0] == "ksg" else gaussian.estimate(x, y, unbiased=False).value + 5e-6}

    other = SimpleNamespace(entropy=lambda *_, **__: 0.0)
    monkeypatch.setitem(sys.modules, "infomeasure", other)
    monkeypatch.setattr(nonparametric_mi, "bmi", bmi)
    monkeypatch.setattr(nonparametric_mi, "infomeasure_ksg", lambda x, y: nonparametric_mi.ours(x, y) + 5e-6)
    lines = nonparametric_mi.agreement(tmp_path, 200)
    assert [line["what"] for line in lines if line["met"]] == [
        f"CCA, {name}" for name in nonparametric_mi.PUBLISHED_BMI
    ]
    assert called == [("ksg", "10", "chebyshev"), ("ksg", "10", "euclidean"), *4 * [("cca",)]]


def test_ratios_are_taken_within_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(nonparametric_mi.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(nonparametric_mi, "infomeasure_ksg", lambda x, y: next(clock) and 0.0)  # takes a tick more
    timed = nonparametric_mi.timing(None, 600, rounds=3, bmi_rounds=1)
    assert timed["seconds"] == {"ours": [1.0] * 3, "infomeasure": [2.0] * 3, "benchmark-mi": []}
    assert timed["ratios"] == {"infomeasure": [2.0] * 3, "benchmark-mi": []}


def test_many_dimensions() -> None:
    lines = nonparametric_mi.many_dimensions(600, 40, 5.0, 2)
    assert [(line["pairs"], line["seed"]) for line in lines] == [(40, 0), (40, 1), (10, 0), (10, 1)]
    for line in lines:
        assert abs(line["value"] - 5.0) <= 4 * line["std"]
        assert all((line[name] is None) == (line["seed"] > 0) for name in ("plug_in", "ledoit_wolf", "oas"))
    assert lines[0]["plug_in"] > 5.5


def test_a_run_fills_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sides = {name: {"ours": 1.0, "theirs": 1.0, "what": name, "with": "other", "met": True} for name in ("KSG", "KL")}
    monkeypatch.setattr(nonparametric_mi, "agreement", lambda python, n: list(sides.values()))
    monkeypatch.setattr(nonparametric_mi, "infomeasure_ksg", lambda x, y: 0.0)
    monkeypatch.setattr(nonparametric_mi, "PUBLISHED_BMI", {})
    threads, out, page = torch.get_num_threads(), tmp_path / "mi.json", tmp_path / "page.md"
    small = ["--n", "300", "--examples-n", "200", "--seeds", "1", "--rounds", "1", "--dim", "20", "--threads", "1"]
    try:
        assert nonparametric_mi.main([*small, "--out", str(out)]) == 0
    finally:
        torch.set_num_threads(threads)
    document = json.loads(out.read_text())
    wanted = re.findall(r"<!-- nonparametric-mi: (\w+) -->", publish.PAGES["nonparametric-mi"].read_text())
    assert {*wanted} == {"machine", *nonparametric_mi.TITLES}
    page.write_text("".join(f"<!-- nonparametric-mi: {name} -->\nold\n<!-- end -->\n" for name in wanted))
    publish.main([str(out), str(page)])
    text = page.read_text()
    assert "old" not in text
    line = next(line for line in document["examples"] if line["estimator"] == "lnc")
    assert f"| normal, 1 + 1 | 200 | 14.000 | lnc | {line['values'][0]:.3f} |" in text
    assert f"| 20 of 20 | 0 | 20 | {document['many_dimensions'][0]['value']:.3f} |" in text
