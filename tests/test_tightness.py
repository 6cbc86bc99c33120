import json
import math
import sys

import numpy as np
import pytest
import torch

from mi_estimators import tightness
from mi_estimators.bounds import BOUNDS, Bound
from mi_estimators.tightness import TightnessConfig

TINY = {
    "dim": 3,
    "batch_size": 16,
    "steps_per_level": 12,
    "levels": (0.5, 1.0),
    "hidden": 8,
    "span": 4,
    "threads": 1,
    "bounds": ("infonce", "nwj"),
}


def curve_of(result, bound, seed=0):
    return next(curve for curve in result["curves"] if (curve["bound"], curve["seed"]) == (bound, seed))


@pytest.fixture(scope="module")
def result():
    return tightness.run(TightnessConfig(**TINY))


def test_result_layout(result):
    assert set(result) == {"config", "cap", "levels", "curves", "environment", "seconds"}
    assert result["cap"] == math.log(16)
    assert result["config"]["levels"] == [0.5, 1.0]
    assert [(row["bound"], row["true_mi"]) for row in result["levels"]] == [
        ("infonce", 0.5),
        ("infonce", 1.0),
        ("nwj", 0.5),
        ("nwj", 1.0),
    ]
    for row in result["levels"]:
        part = slice(0, 12) if row["true_mi"] == 0.5 else slice(12, 24)
        curve = curve_of(result, row["bound"])
        tail = np.array(curve["values"][part][-3:])
        assert row["mean"] == pytest.approx(tail.mean())
        assert row["std"] == pytest.approx(tail.std(ddof=1))
        assert row["violations"] == sum(value > row["true_mi"] for value in curve["smoothed"][part])
        assert row["cap"] == (math.log(16) if row["bound"] == "infonce" else None)
        assert (row["steps"], row["non_finite"], row["kind"]) == (12, 0, "lower")
        assert row["seconds"] > 0
    json.dumps(result, allow_nan=False)


def test_smoothing_is_the_adjusted_exponential_mean():
    values = np.random.default_rng(0).standard_normal(50)
    got = tightness.smooth(values.tolist(), 9)
    decay = 1 - 2 / 10
    for t in (0, 1, 7, 49):
        weights = decay ** np.arange(t, -1, -1.0)
        assert got[t] == pytest.approx((weights * values[: t + 1]).sum() / weights.sum())
    assert tightness.smooth([2.0] * 5, 200) == pytest.approx([2.0] * 5)
    assert tightness.smooth([None, 1.0, None, 3.0], 3) == pytest.approx([None, 1.0, 1.0, (0.25 * 1 + 3) / 1.25])


def test_violations_are_counted(monkeypatch):
    # A "bound" that reports 0.7 whatever the scores: above the first level and below the second.
    constant = Bound("constant", lambda s: 0.7 + 0 * s.sum(), "neither", "test", "test")
    monkeypatch.setitem(BOUNDS, "constant", constant)
    rows = tightness.run(TightnessConfig(**{**TINY, "bounds": ("constant",)}))["levels"]
    assert [row["violations"] for row in rows] == [12, 0]
    assert [row["mean"] for row in rows] == pytest.approx([0.7, 0.7])


def test_overflow_is_recorded_and_does_not_stop_the_run(monkeypatch):
    calls = iter(range(1000))
    overflow = Bound(
        "overflow",
        lambda s: BOUNDS["infonce"].value(s) if next(calls) % 3 else s.sum() * 0 - math.inf,
        "lower",
        "test",
        "test",
    )
    monkeypatch.setitem(BOUNDS, "overflow", overflow)
    result = tightness.run(TightnessConfig(**{**TINY, "bounds": ("overflow",)}))
    assert [row["non_finite"] for row in result["levels"]] == [4, 4]
    assert sum(value is None for value in curve_of(result, "overflow")["values"]) == 8
    assert all(row["mean"] is not None for row in result["levels"])
    json.dumps(result, allow_nan=False)


def test_progress_and_threads():
    seen = []
    before = torch.get_num_threads()
    result = tightness.run(TightnessConfig(**TINY), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 48) for done in range(1, 49)]
    assert torch.get_num_threads() == before
    assert result["environment"]["threads"] == 1


def test_reproducible_and_global_random_state_untouched(result):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    again = tightness.run(TightnessConfig(**TINY))
    assert torch.equal(torch.get_rng_state(), before)
    assert again["curves"] == result["curves"]
    other = tightness.run(TightnessConfig(**{**TINY, "seed": 1}))
    assert other["curves"] != result["curves"]


def test_a_bound_does_not_depend_on_its_neighbours(result):
    alone = tightness.run(TightnessConfig(**{**TINY, "bounds": ("nwj",)}))
    assert curve_of(alone, "nwj") == curve_of(result, "nwj")


@pytest.mark.parametrize("critic", ["inner_product", "bilinear", "separable", "concatenated"])
@pytest.mark.parametrize("cubic", [False, True])
def test_every_critic_and_the_cubic_task_run(critic, cubic):
    result = tightness.run(TightnessConfig(**{**TINY, "critic": critic, "cubic": cubic, "steps_per_level": 3}))
    assert all(len(curve["values"]) == 6 for curve in result["curves"])


def test_cubic_changes_the_data(result):
    assert tightness.run(TightnessConfig(**TINY, cubic=True))["curves"] != result["curves"]


def test_the_staircase_is_climbed():
    config = TightnessConfig(
        bounds=("infonce", "nwj", "dv", "smile"),
        critic="bilinear",
        dim=5,
        levels=(1.0, 2.0, 5.0),
        steps_per_level=250,
        learning_rate=2e-2,
        threads=1,
    )
    levels = tightness.run(config)["levels"]
    mean = {(row["bound"], row["true_mi"]): row["mean"] for row in levels}
    # x^T W y is not the optimal critic of a Gaussian pair (that has squares too), so each stays below its truth.
    for bound in ("infonce", "nwj", "dv"):
        assert 0.4 < mean[bound, 1.0] < 1.0
        assert mean[bound, 1.0] + 0.2 < mean[bound, 2.0] < 2.0
    assert mean["infonce", 2.0] < mean["infonce", 5.0] < math.log(64)


def test_save_writes_whole_files(result, tmp_path):
    pytest.importorskip("matplotlib")
    target = tmp_path / "a" / "b"
    written = tightness.save(result, target)
    assert written == [target / "results.json", target / "staircase.png"]
    assert sorted(target.iterdir()) == sorted(written)  # no partial file left
    assert json.loads(written[0].read_text()) == result
    assert written[1].read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    tightness.save(result, target)  # again, over the old ones


def test_a_failed_write_leaves_the_old_file(result, tmp_path):
    pytest.importorskip("matplotlib")
    tightness.save(result, tmp_path)
    before = (tmp_path / "results.json").read_bytes()
    with pytest.raises(ValueError, match="JSON compliant"):
        tightness.save({**result, "seconds": math.nan}, tmp_path)
    assert (tmp_path / "results.json").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_without_matplotlib_the_numbers_are_saved_and_the_extra_named(result, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.warns(UserWarning, match=r"mi-estimators\[plots\]"):
        assert tightness.save(result, tmp_path) == [tmp_path / "results.json"]


def test_plot_shows_every_curve_the_truth_and_the_cap(result):
    pytest.importorskip("matplotlib")
    figure = tightness.plot(result)
    assert len(figure.axes) == 2
    for axis, curve in zip(figure.axes, result["curves"], strict=True):
        raw, smoothed, cap = axis.lines
        np.testing.assert_array_equal(raw.get_ydata(), curve["values"])
        np.testing.assert_array_equal(smoothed.get_ydata(), curve["smoothed"])
        assert set(cap.get_ydata()) == {math.log(16)}
        assert list(axis.patches[0].get_data().values) == [0.5, 1.0]
        assert curve["bound"] in axis.get_title()
    assert "nats" in figure.get_supylabel()


def test_table(result):
    console = pytest.importorskip("rich.console").Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(tightness.table(result))
    text = console.export_text()
    for row in result["levels"]:
        assert f"{row['mean']:.2f}" in text
    assert "infonce" in text
    assert f"{math.log(16):.2f}" in text


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"bounds": ()}, ValueError, "bounds"),
        ({"bounds": ("infonce", "nope")}, ValueError, "bounds: want one of"),
        ({"bounds": ("nwj", "nwj")}, ValueError, "bounds: want each once"),
        ({"critic": "nope"}, ValueError, "critic"),
        ({"critic": "conv"}, ValueError, "critic: 'conv' scores images"),
        ({"dim": 0}, ValueError, "dim"),
        ({"batch_size": 1}, ValueError, "batch_size"),
        ({"steps_per_level": 1.5}, TypeError, "steps_per_level"),
        ({"levels": ()}, ValueError, "levels"),
        ({"levels": (2.0, 1.0)}, ValueError, "levels: want increasing"),
        ({"levels": (1.0, math.nan)}, ValueError, "levels"),
        ({"learning_rate": -1.0}, ValueError, "learning_rate"),
        ({"span": 0}, ValueError, "span"),
        ({"threads": 0}, ValueError, "threads"),
    ],
)
def test_bad_settings_are_named(change, error, match):
    with pytest.raises(error, match=match):
        TightnessConfig(**{**TINY, **change})


def test_short_settings():
    short = TightnessConfig.preset("short", seed=7, cubic=True)
    assert (short.seed, short.cubic, short.batch_size) == (7, True, 64)
    assert len(short.bounds) == 4
    assert len(short.levels) == 5
    assert short.steps_per_level * len(short.levels) * len(short.bounds) <= 6000
