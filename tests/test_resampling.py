"""Seeds, intervals and permutation tests of estimate_mi, and the estimator objects."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from mi_estimators.estimators import ESTIMATORS, MIEstimator, estimate_mi, resampling
from mi_estimators.estimators.result import Measurement
from mi_estimators.synthetic import TASKS, correlated_gaussian

BRIEF = {"critic": "separable", "critic_options": {"hidden": (8,), "embedding": 4}, "max_steps": 20, "batch_size": 32}


pytestmark = pytest.mark.usefixtures("one_thread")


def independent_pairs(count, n, seed=0):
    generator = np.random.default_rng(seed)
    return [(generator.standard_normal((n, 2)), generator.standard_normal((n, 1))) for _ in range(count)]


@pytest.mark.parametrize(
    "settings",
    [
        {"interval": "standard_error"},
        {"interval": "bootstrap", "n_resamples": 40},
        {"interval": "subsample", "n_resamples": 40},
        {"interval": "blocks", "n_blocks": 6},
    ],
)
@pytest.mark.parametrize("truth", [0.1, 0.8])
def test_intervals_cover_the_truth_of_an_unbiased_estimator(settings, truth):
    task, generator, runs = correlated_gaussian(2, truth), torch.Generator().manual_seed(0), 100
    estimator = MIEstimator("gaussian", level=0.9, **settings)
    found = [estimator.estimate_with_info(*task.sample(150, generator, dtype=torch.float64)) for _ in range(runs)]
    covered = np.mean([e.interval[0] <= truth <= e.interval[1] for e in found])
    # Binomial: 0.9 within three standard errors, and not so wide as to cover always.
    assert 0.81 <= covered <= 0.99
    assert np.mean([e.std for e in found]) == pytest.approx(np.std([e.value for e in found]), rel=0.35)
    assert {e.interval_method for e in found} == {settings["interval"]}


def test_parts_tell_the_error_of_nearest_neighbours_better_than_their_own_terms():
    task, generator = correlated_gaussian(2, 0.5), torch.Generator().manual_seed(1)
    pairs = [task.sample(200, generator, dtype=torch.float64) for _ in range(60)]
    true = np.std([estimate_mi(*pair, estimator="ksg").value for pair in pairs])
    own, by_parts = (
        np.mean([estimate_mi(*pair, estimator="ksg", interval=how, n_resamples=20).std for pair in pairs[:20]])
        for how in ("standard_error", "subsample")
    )
    assert own < by_parts
    assert by_parts == pytest.approx(true, rel=0.3)


def autoregression(n, generator, memory=0.9):
    noise, out = generator.standard_normal((n, 1)), np.zeros((n, 1))
    for i in range(1, n):
        out[i] = memory * out[i - 1] + noise[i]
    return out


def test_series_want_blocks_and_shifts():
    generator = np.random.default_rng(0)
    series = [(autoregression(400, generator), autoregression(400, generator)) for _ in range(50)]
    rejected = {
        null: np.mean(
            [estimate_mi(*pair, estimator="gaussian", n_permutations=19, null=null).p_value <= 0.05 for pair in series]
        )
        for null in ("permute", "shift")
    }
    assert rejected["permute"] > 0.3  # independent series that a permutation calls dependent
    assert rejected["shift"] < 0.18  # binomial: 0.05, and four standard errors
    errors = {
        how: np.mean([estimate_mi(*pair, estimator="gaussian", interval=how).std for pair in series[:10]])
        for how in ("subsample", "blocks")
    }
    assert errors["blocks"] > 1.5 * errors["subsample"]


@pytest.mark.parametrize(("estimator", "options"), [("gaussian", {}), ("infonce", BRIEF)])
def test_p_values_are_uniform_under_independence(estimator, options):
    chosen = MIEstimator(estimator, n_permutations=19, interval=None, **options)
    p_values = np.array([chosen.estimate_with_info(x, y).p_value for x, y in independent_pairs(40, 160)])
    assert set(np.round(p_values * 20)) <= set(range(1, 21))
    # Uniform on 1/20 ... 1: mean 0.525, standard error 0.046 of 40; P(p <= 0.1) is 0.1.
    assert abs(p_values.mean() - 0.525) < 4 * 0.0456
    assert (p_values <= 0.1).sum() <= 12


@pytest.mark.parametrize(("estimator", "null"), [("gaussian", None), ("ksg", "shift"), ("infonce", None)])
def test_dependence_is_found(estimator, null):
    x, y = TASKS["1v1-normal-0.75"].sample(400, seed=0)
    options = {**BRIEF, "max_steps": 100} if estimator == "infonce" else {}
    result = estimate_mi(x, y, estimator=estimator, n_permutations=24, null=null, base="bits", **options)
    assert result.p_value == pytest.approx(1 / 25)
    assert len(result.null) == 24
    assert max(result.null) < result.value
    json.dumps(result.as_dict(), allow_nan=False)


def test_p_value_counts_ties_and_nan_against_the_estimate():
    assert resampling.p_value(1.0, [0.0, 1.0, math.nan, -math.inf]) == pytest.approx(3 / 5)
    assert resampling.p_value(1.0, [0.0] * 99) == pytest.approx(1 / 100)


def test_seeds_are_averaged_and_told():
    x, y = TASKS["1v1-normal-0.75"].sample(500, seed=0)
    result = estimate_mi(x, y, n_seeds=3, interval="seeds", **BRIEF)
    single = estimate_mi(x, y, **BRIEF)
    assert result.seed_values[0] == single.value
    assert len(set(result.seed_values)) == 3
    assert result.value == pytest.approx(np.mean(result.seed_values))
    spread = np.std(result.seed_values, ddof=1) / math.sqrt(3)
    assert result.std == pytest.approx(spread)
    assert result.interval[1] - result.value == pytest.approx(4.302653 * spread, rel=1e-6)  # Student, 2 degrees
    assert result.degrees_of_freedom == 2
    # The error of the pairs does not shrink with the number of seeds, which share them.
    assert estimate_mi(x, y, n_seeds=3, **BRIEF).std > 0.8 * single.std


def test_combined_error_adds_the_spread_over_seeds():
    runs = [Measurement(value, std=0.3) for value in (1.0, 2.0, 3.0)]
    assert resampling.combined(runs).std == pytest.approx(math.sqrt(0.09 + 1 / 3))
    assert resampling.combined([Measurement(1.0), Measurement(2.0)]).std is None


def test_error_from_parts_is_exact_for_a_mean():
    """For the mean of the data, parts of n / m have m times its variance: the estimate is that of the whole."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((600, 1))

    def mean(x, y, seed):
        return Measurement(float(x.mean()))

    values = resampling.parts(mean, x, x, seed=0, n_blocks=4, n_partitions=400)
    error, freedom = resampling.parts_error(values)
    assert values.shape == (400, 4)
    assert values.mean(axis=1) == pytest.approx(np.full(400, x.mean()))
    assert error == pytest.approx(x.std(ddof=1) / math.sqrt(600), rel=0.05)
    assert freedom == 1200
    blocks = resampling.parts(mean, x, x, seed=0, n_blocks=4, n_partitions=None)
    assert blocks[0] == pytest.approx(x.reshape(4, 150).mean(axis=1))


def test_resampling_repeats_from_its_seed_and_leaves_the_global_state():
    x, y = TASKS["1v1-normal-0.75"].sample(100, seed=0)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    settings = {"estimator": "gaussian", "interval": "bootstrap", "n_resamples": 10, "n_permutations": 10}
    first, same, other = (
        dataclasses.replace(estimate_mi(x, y, seed=seed, **settings), seconds=0) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert first == same
    assert first.resamples != other.resamples
    assert first.null != other.null


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"estimator": "ksg", "interval": "bootstrap"}, ValueError, "interval: a bootstrap repeats pairs.*'ksg'"),
        ({"estimator": "infonce", "interval": "bootstrap"}, ValueError, "interval: a bootstrap repeats pairs"),
        ({"estimator": "ksg", "n_seeds": 2}, ValueError, "n_seeds: 'ksg' has nothing random"),
        ({"interval": "seeds"}, ValueError, "n_seeds: want at least 2"),
        ({"interval": "bootstrp"}, ValueError, "interval: want one of.*did you mean 'bootstrap'"),
        ({"null": "shuffle"}, ValueError, "null: want one of"),
        ({"level": 1.0}, ValueError, "level: want a value between 0 and 1"),
        ({"level": math.nan}, ValueError, "level: want"),
        ({"seed": -1}, ValueError, "seed: want an integer >= 0"),
        ({"n_permutations": 1.5}, TypeError, "n_permutations: want an integer"),
        ({"n_blocks": 1}, ValueError, "n_blocks: want an integer >= 2"),
        ({"batchsize": 3}, TypeError, "batchsize: 'infonce' has no such option.*did you mean 'batch_size'"),
        ({"estimator": "info_nce"}, ValueError, "estimator: want one of.*did you mean 'infonce'"),
    ],
)
def test_bad_settings_are_named_before_there_are_data(settings, error, match):
    with pytest.raises(error, match=match):
        MIEstimator(**settings)


def test_bad_settings_that_depend_on_the_data():
    x, y = TASKS["1v1-normal-0.75"].sample(20, seed=0)
    with pytest.raises(ValueError, match="null: this estimator holds no pairs out"):
        estimate_mi(x, y, estimator="ksg", null="held_out", n_permutations=3)
    with pytest.raises(ValueError, match="n_permutations: 20 pairs have 19 circular shifts, got 20"):
        estimate_mi(x, y, estimator="ksg", null="shift", n_permutations=20)
    with pytest.raises(ValueError, match="n_blocks: 8 parts of 2 pairs each are too small: k: want"):
        estimate_mi(x, y, estimator="ksg", interval="subsample", n_blocks=8)
    with pytest.raises(ValueError, match="n_blocks: 30 parts of 0 pairs"):
        estimate_mi(x, y, estimator="gaussian", interval="blocks", n_blocks=30)


def test_the_object_and_the_function_agree():
    x, y = TASKS["1v1-normal-0.75"].sample(200, seed=0)
    estimator = MIEstimator("ksg", k=5)
    info = estimator.estimate_with_info(x, y)
    assert isinstance(estimator.estimate(x, y), float)
    assert estimator.estimate(x, y) == info.value == estimate_mi(x, y, estimator="ksg", k=5).value
    assert info.value != estimate_mi(x, y, estimator="ksg").value


def test_parameters_are_those_of_scikit_learn():
    base = pytest.importorskip("sklearn.base")
    estimator = MIEstimator("smile", batch_size=128, n_seeds=2)
    assert repr(estimator) == "MIEstimator('smile', n_seeds=2, batch_size=128)"
    assert repr(eval(repr(estimator))) == repr(estimator)
    assert repr(base.clone(estimator)) == repr(estimator)
    assert estimator.set_params(batch_size=64, seed=3) is estimator
    assert (estimator.options, estimator.seed, estimator.n_seeds) == ({"batch_size": 64}, 3, 2)
    before = estimator.get_params()
    for wrong in ({"estimator": "ksg"}, {"seed": 4, "level": 2.0}, {"k": 3}):
        with pytest.raises((TypeError, ValueError)):
            estimator.set_params(**wrong)
        assert estimator.get_params() == before


def test_clipped_values_and_text():
    x, _ = TASKS["1v1-normal-0.75"].sample(300, seed=1)
    _, y = TASKS["1v1-normal-0.75"].sample(300, seed=2)
    result = estimate_mi(x, y, estimator="gaussian")
    low, high = (dataclasses.replace(result, value=value, cap=2.0) for value in (-0.1, 2.5))
    assert (low.clipped, high.clipped) == (0.0, 2.0)
    assert low.as_dict()["clipped"] == 0.0
    assert low.to("bits").clipped == 0.0
    assert high.to("bits").clipped == pytest.approx(2 / math.log(2))
    assert str(result).startswith(f"{result.value:.4f} nats (gaussian, n = 300, 95 % interval ")


def test_the_table_says_what_each_takes():
    for entry in ESTIMATORS.values():
        assert entry.kind in ("continuous", "discrete", "mixed")
    assert ESTIMATORS["gaussian"].repeats
    assert not ESTIMATORS["ksg"].repeats
    assert not ESTIMATORS["infonce"].repeats
