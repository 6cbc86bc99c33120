"""Several estimators on the same pairs, and the pictures of estimates."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from mi_estimators.estimators import Comparison, MIEstimate, compare, estimate_mi, plot
from mi_estimators.synthetic import TASKS, correlated_gaussian

BRIEF = {"critic": "separable", "max_steps": 100, "min_steps": 50}


pytestmark = pytest.mark.usefixtures("one_thread")


def estimate(name, value, std=0.01, kind="neither", **changes):
    interval = (value - 2 * std, value + 2 * std)
    return MIEstimate(value, std, interval, None, (), False, name, "nats", 100, 0.1, kind=kind, **changes)


def of(*estimates):
    return Comparison(estimates, {}, "nats")


def test_estimators_side_by_side():
    x, y = TASKS["1v1-normal-0.75"].sample(600, seed=0)
    found = compare(x, y, ("gaussian", "ksg", "infonce"), base="bits", n_permutations=9, options={"infonce": BRIEF})
    assert [e.estimator for e in found] == ["gaussian", "ksg", "infonce"]
    assert found["ksg"].value == estimate_mi(x, y, estimator="ksg", base="bits").value
    assert found.base == found["ksg"].base == "bits"
    values = [e.clipped for e in found]
    assert found.spread == max(values) - min(values)
    text = str(found)
    assert text.splitlines()[0].split() == ["estimator", "value", "interval", "p", "cap", "bound", "s"]
    assert f"ksg        {found['ksg'].value:.3f}" in text
    assert 0 < found.lower_limit() < found["infonce"].value
    assert f"at least {found.lower_limit():.3f} bits" in text
    with pytest.raises(ValueError, match="estimator: want one of"):
        found["smile"]


def test_seeds_go_to_those_that_they_matter_to():
    x, y = TASKS["1v1-normal-0.75"].sample(300, seed=0)
    found = compare(x, y, ("ksg", "infonce"), n_seeds=2, options={"infonce": {**BRIEF, "max_steps": 20}})
    assert [len(e.seed_values) for e in found] == [1, 2]


def test_a_table_of_rich():
    pytest.importorskip("rich")
    table = of(estimate("gaussian", 1.0), estimate("infonce", 1.2, kind="lower")).table()
    assert table.row_count == 2


def test_one_that_cannot_run_does_not_stop_the_others():
    x, y = TASKS["1v1-normal-0.75"].sample(40, seed=0)
    found = compare(x, y, ("gaussian", "infonce"))
    assert [e.estimator for e in found] == ["gaussian"]
    assert "want at least 64 training pairs" in found.failures["infonce"]
    assert "infonce: x: want at least 64" in str(found)
    with pytest.raises(ValueError, match="estimators: none can run on these data: infonce: x: want at least 64"):
        compare(x, y, ("infonce",))


def test_what_is_wrong_with_all_of_them_is_said_once():
    x, y = TASKS["1v1-normal-0.75"].sample(40, seed=0)
    with pytest.raises(ValueError, match=r"^x: want finite"):
        compare(x * math.nan, y)
    with pytest.raises(ValueError, match="estimators: want one of"):
        compare(x, y, ("ksgg",))
    with pytest.raises(ValueError, match="estimators: want at least one"):
        compare(x, y, ())
    with pytest.raises(ValueError, match="options: want one of"):
        compare(x, y, ("ksg",), options={"gaussian": {}})
    with pytest.raises(TypeError, match="kk: 'ksg' has no such option"):
        compare(x, y, ("ksg",), kk=3)


def test_the_lower_limit_is_a_confidence_limit():
    # One-sided, at 1 - 0.05 / 2 each.
    found = of(
        estimate("infonce", 1.0, 0.1, "lower"),
        estimate("nwj", 1.3, 0.3, "lower", degrees_of_freedom=4),
        estimate("smile", 9.0),
    )
    assert found.lower_limit() == pytest.approx(max(1.0 - 1.959964 * 0.1, 1.3 - 2.776445 * 0.3), abs=1e-6)
    assert of(estimate("smile", 1.0)).lower_limit() is None


def test_remarks_follow_from_the_values():
    def remarks(*estimates):
        return " ".join(of(*estimates).remarks())

    bound = estimate("infonce", 1.0, kind="lower")
    assert "at least 0.98" in remarks(bound)
    assert "not linear" in remarks(estimate("gaussian", 0.5), bound)
    assert "not linear" not in remarks(estimate("gaussian", 0.99), bound)
    assert "nearest neighbours underestimate" in remarks(estimate("ksg", 0.5), bound)
    assert "the critic has not learnt all" in remarks(estimate("ksg", 1.5), bound)
    assert "smile: above every lower bound" in remarks(estimate("smile", 1.5), bound)
    assert "smile" not in remarks(estimate("smile", 1.01), bound)
    assert "infonce: at the largest value" in remarks(dataclasses.replace(bound, saturated=True))
    assert remarks(estimate("gaussian", 1.0)) == ""


def test_the_lower_limit_holds_on_data():
    task = correlated_gaussian(2, 0.6)
    for seed in range(2):
        x, y = task.sample(1000, seed=seed)
        found = compare(x, y, ("infonce", "js"), **BRIEF)
        assert 0.1 < found.lower_limit() < 0.6


@pytest.mark.parametrize(
    "settings",
    [
        {"estimator": "gaussian"},
        {"estimator": "gaussian", "n_permutations": 12, "interval": "bootstrap", "n_resamples": 12},
        {"estimator": "infonce", "n_permutations": 3, "n_seeds": 2, "evaluate_every": 20, **BRIEF},
    ],
)
def test_pictures(settings, tmp_path):
    pytest.importorskip("matplotlib")
    x, y = TASKS["1v1-normal-0.75"].sample(300, seed=0)
    result = estimate_mi(x, y, **settings)
    figure = plot(result)
    panels = [axis.get_title() for axis in figure.axes]
    assert len(panels) == max(1, bool(result.curve) + bool(result.null) + bool(result.resamples or len(panels) == 3))
    if result.curve:
        drawn = figure.axes[0].lines[0].get_xydata()
        assert np.allclose(drawn, result.curve)
        assert "beyond the axis" in figure.legends[0].texts[-1].get_text()
    if result.null:
        assert any(f"p = {result.p_value:.3g}" in title for title in panels)
    figure.savefig(tmp_path / "a.png")
    # Values that overflowed are left out, and counted.
    overflow = (-math.inf,) * 20
    wild = dataclasses.replace(result, value=-math.inf, interval=overflow[:2], null=overflow, p_value=1.0)
    assert any("20 not finite" in axis.get_title() for axis in plot(wild).axes)
