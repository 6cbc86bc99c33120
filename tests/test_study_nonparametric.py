"""The study of the estimators without training, but for the other libraries' part."""

from __future__ import annotations

import math

import pytest

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
    for line in nonparametric_mi.many_dimensions(600, 40, 5.0, 2):
        assert abs(line["value"] - 5.0) <= 4 * line["std"]
        assert math.isnan(line["plug_in"]) == (line["seed"] > 0)
