"""The study of the estimators without training, but for the other libraries' part."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from benchmarks import publish
from benchmarks.studies import nonparametric_mi


def test_published_values_are_held_against_draws() -> None:
    lines = {line["what"]: line for line in nonparametric_mi.published(400, 1)}
    assert len(lines["KSG k=3, 5+5"]["ours"]) == 1
    assert lines["KSG k=3, 5+5"]["met"] is False  # it is of 10,000 pairs; so few give far less
    assert lines["CCA, multinormal-dense-5-5-0.5"]["truth"] == pytest.approx(0.5928, abs=1e-4)


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
