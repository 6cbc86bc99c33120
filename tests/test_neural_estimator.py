"""Neural estimates: standard errors, scaling of the columns, and the settings of training."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
import torch
from scipy.stats import norm, rankdata

from mi_estimators.bounds import BOUNDS
from mi_estimators.estimators import estimate_mi, neural
from mi_estimators.estimators.scaling import normal_scores
from mi_estimators.synthetic import TASKS, correlated_gaussian
from mi_estimators.variational import Step, VariationalEstimator

BRIEF = {"critic": "separable", "critic_options": {"hidden": (16,), "embedding": 8}, "max_steps": 40}


pytestmark = pytest.mark.usefixtures("one_thread")


class TrueRatio(VariationalEstimator):
    """A bound at the log density ratio of a bivariate normal with correlation 0.75."""

    def forward(self, x, y):
        rho = 0.75
        quadratic = rho**2 * (x.square() + y.square().T) - 2 * rho * x @ y.T
        scores = -0.5 * np.log(1 - rho**2) - quadratic / (2 * (1 - rho**2)) + (1 if self.bound.name == "nwj" else 0)
        return Step(*self.bound.value_and_objective(scores))


@pytest.mark.parametrize("bound", ["infonce", "nwj"])
@pytest.mark.parametrize(("n", "k"), [(100, 128), (150, 50), (320, 40)])
def test_standard_error_is_that_of_repeated_draws(bound, n, k):
    model, generator = TrueRatio(BOUNDS[bound]), torch.Generator().manual_seed(0)
    values, variances = [], []
    for _ in range(100):
        x, y = TASKS["1v1-normal-0.75"].sample(n, generator)
        of_blocks = neural._evaluate(model, x, y, k)[:, 0]
        error, freedom = neural._error(model, x, y, k, of_blocks)
        values.append(of_blocks.mean().item())
        variances.append(error**2)
        assert freedom >= 7
    assert np.sqrt(np.mean(variances)) == pytest.approx(np.std(values), rel=0.25)


def test_evaluation_leaves_the_model_in_training_mode_and_runs_it_in_the_other():
    class Modes(TrueRatio):
        seen = ()

        def forward(self, x, y):
            self.seen += (self.training,)
            return super().forward(x, y)

    model = Modes(BOUNDS["infonce"])
    x, y = TASKS["1v1-normal-0.75"].sample(60, seed=0)
    neural._evaluate(model, x, y, 30)
    assert model.seen == (False, False)
    assert model.training


def test_normal_scores_are_quantiles_of_the_ranks():
    train = np.random.default_rng(0).standard_cauchy((101, 2))
    expected = norm.ppf((rankdata(train, axis=0) - 0.5) / 101)
    assert normal_scores(train, train) == pytest.approx(expected)
    new = np.sort(np.random.default_rng(1).standard_cauchy((500, 2)), axis=0)
    mapped = normal_scores(train, new)
    assert (np.diff(mapped, axis=0) >= 0).all()
    assert mapped.min() == pytest.approx(expected.min())
    tied = np.array([[0.0], [1.0], [1.0], [1.0], [2.0]])
    assert normal_scores(tied, tied)[:, 0] == pytest.approx(norm.ppf([0.1, 0.5, 0.5, 0.5, 0.9]))


def test_ranks_tame_heavy_tails_and_do_not_see_monotone_maps():
    x, y = (t.double().numpy() for t in TASKS["1v1-normal-0.75"].sample(1500, seed=0))
    options = {**BRIEF, "max_steps": 200, "standardize": "rank"}
    plain, mapped = (estimate_mi(a, b, **options).value for a, b in ((x, y), (np.exp(3 * x), np.sinh(y) ** 3)))
    assert mapped == pytest.approx(plain, abs=2e-3)
    assert plain == pytest.approx(0.413, abs=0.1)


def test_scaling_can_be_left_out():
    x, y = TASKS["1v1-normal-0.75"].sample(400, seed=0)
    as_is, scaled = (estimate_mi(x, y, standardize=how, **BRIEF).value for how in (None, "zscore"))
    far, scaled_far = (estimate_mi(1000 * x, y, standardize=how, **BRIEF).value for how in (None, "zscore"))
    assert scaled_far == pytest.approx(scaled, abs=1e-3)
    assert abs(far - as_is) > 0.05


def test_a_time_limit_ends_training():
    x, y = TASKS["1v1-normal-0.75"].sample(400, seed=0)
    start = time.perf_counter()
    result = estimate_mi(x, y, time_limit=0.2, **{**BRIEF, "max_steps": 1_000_000, "min_steps": 1_000_000})
    assert time.perf_counter() - start < 20
    assert len(result.curve) >= 1
    assert result.curve[-1][0] < 1_000_000
    with pytest.raises(ValueError, match="time_limit"):
        estimate_mi(x, y, time_limit=0.0, **BRIEF)


def test_options_of_the_bound():
    x, y = TASKS["1v1-normal-0.75"].sample(400, seed=0)
    loose, tight = (estimate_mi(x, y, estimator="smile", bound_options={"clip": c}, **BRIEF).value for c in (5.0, 0.01))
    assert loose != tight
    with pytest.raises(TypeError, match="bound_options"):
        estimate_mi(x, y, bound_options={"tau": 1.0}, **BRIEF)
    with pytest.raises(ValueError, match="standardize: want one of"):
        estimate_mi(x, y, standardize="ranks", **BRIEF)


def test_kind_of_the_bound_is_told():
    x, y = TASKS["1v1-normal-0.75"].sample(300, seed=0)
    kinds = {name: estimate_mi(x, y, estimator=name, **BRIEF).kind for name in ("infonce", "dv")}
    assert kinds == {"infonce": "lower", "dv": "neither"}
    assert estimate_mi(x, y, estimator="ksg").kind == "neither"


@pytest.mark.parametrize("bound", ["infonce", "doe", "vclub"])
def test_training_that_diverges_names_the_learning_rate(bound):
    x, y = correlated_gaussian(2, 1.0).sample(300, seed=0)
    with pytest.raises(ValueError, match=r"learning_rate: training diverged at step 2.*want less than 1e\+30"):
        estimate_mi(x, y, estimator=bound, learning_rate=1e30, max_steps=9, batch_size=16)


def test_training_that_diverges_later_keeps_the_best_weights(monkeypatch):
    x, y = correlated_gaussian(2, 1.0).sample(400, seed=0)
    settings = {"estimator": "nwj", "batch_size": 16, "evaluate_every": 10}
    steps = itertools.count(1)

    def ascend(objective, optimizer, step=neural.ascend):
        step(objective, optimizer)
        if next(steps) == 35:
            for parameter in optimizer.param_groups[0]["params"]:
                parameter.data.mul_(1e30)

    expected = estimate_mi(x, y, **settings, max_steps=30)
    monkeypatch.setattr(neural, "ascend", ascend)
    with pytest.warns(RuntimeWarning, match="training diverged at step 36; .* until then, of step 30"):
        result = estimate_mi(x, y, **settings, max_steps=100)
    assert (result.value, result.curve) == (expected.value, expected.curve)


@pytest.mark.parametrize("device", ["nowhere", "cuda:9"])
def test_a_device_that_is_not_there_is_named(device):
    x, y = correlated_gaussian(2, 1.0).sample(100, seed=0)
    with pytest.raises(ValueError, match=f"device: cannot use '{device}'"):
        estimate_mi(x, y, batch_size=16, max_steps=1, device=device)
