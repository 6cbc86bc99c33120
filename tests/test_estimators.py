import dataclasses
import json
import math
import warnings

import numpy as np
import pytest
import torch

from mi_estimators.bounds import BOUNDS
from mi_estimators.estimators import ESTIMATORS, MIEstimate, SaturationWarning, estimate_mi, gaussian, neural
from mi_estimators.synthetic import TASKS, correlated_gaussian

# A critic and a step count that a test can afford.
QUICK = {
    "critic": "separable",
    "critic_options": {"hidden": (32,), "embedding": 16},
    "max_steps": 300,
    "min_steps": 100,
}
# The same, where nothing need be learnt.
BRIEF = {**QUICK, "max_steps": 40, "evaluate_every": 20, "evaluation_batch_size": 64}


def data(name="1v1-normal-0.75", n=1000, seed=1):
    return TASKS[name].sample(n, seed=seed)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", [name for name, entry in ESTIMATORS.items() if entry.kind == "continuous"])
def test_every_estimator_on_a_correlated_pair(name):
    x, y = data(n=3000)
    result = estimate_mi(x, y, estimator=name, **(QUICK if name in BOUNDS else {}))
    # Not CLUB: with the true density its expectation is rho^2 / (1 - rho^2), and the mutual information 0.413.
    assert result.value == pytest.approx(0.75**2 / (1 - 0.75**2) if name == "vclub" else 0.413, abs=0.08)
    assert 0 < result.std < (0.15 if name == "vclub" else 0.05)
    assert result.interval[0] < result.value < result.interval[1]
    assert (result.estimator, result.base, result.n, result.saturated) == (name, "nats", 3000, False)
    assert result.seconds > 0
    assert bool(result.curve) == (name in BOUNDS)
    assert float(result) == result.value
    json.dumps(result.as_dict(), allow_nan=False)


@pytest.mark.parametrize("name", ["infonce", "ksg", "gaussian"])
def test_independent_data_give_about_zero(name):
    x, _ = data(n=2000, seed=1)
    _, y = data(n=2000, seed=2)
    assert abs(estimate_mi(x, y, estimator=name, **(QUICK if name in BOUNDS else {})).value) < 0.03


def test_neural_estimate_with_default_settings():
    # Measured on ten seeds: 0.50 to 0.58 at a truth of 0.593; the rest is the critic's, from 3,000 training pairs.
    task = TASKS["multinormal-dense-5-5-0.5"]
    result = estimate_mi(*task.sample(5000, seed=2), max_steps=400, seed=2)
    assert 0.46 < result.value < task.mutual_information + 3 * result.std
    assert result.cap == math.log(1000 // 3)


def test_gaussian_closed_form():
    x, y = (t.double().numpy() for t in data("multinormal-dense-5-5-0.5", n=400))
    rho = gaussian.canonical_correlations(x, y)
    covariance = np.cov(np.concatenate([x, y], axis=1).T)
    sign_and_log = [np.linalg.slogdet(c)[1] for c in (covariance[:5, :5], covariance[5:, 5:], covariance)]
    plug_in = (sign_and_log[0] + sign_and_log[1] - sign_and_log[2]) / 2
    assert -0.5 * np.log1p(-(rho**2)).sum() == pytest.approx(plug_in, abs=1e-12)
    assert gaussian.estimate(x, y, unbiased=False).value == pytest.approx(plug_in, abs=1e-12)


def test_gaussian_estimate_is_unbiased_and_its_standard_error_true():
    task = correlated_gaussian(3, 0.5)
    generator = torch.Generator().manual_seed(0)
    draws = [task.sample(60, generator, dtype=torch.float64) for _ in range(2000)]
    pairs = [(x.numpy(), y.numpy()) for x, y in draws]
    measured = [gaussian.estimate(x, y) for x, y in pairs]
    values = np.array([m.value for m in measured])
    error = values.std() / math.sqrt(len(values))
    assert abs(values.mean() - 0.5) < 4 * error
    plug_in = np.array([gaussian.estimate(x, y, unbiased=False).value for x, y in pairs])
    assert plug_in.mean() - 0.5 > 10 * error  # the bias that is removed: 0.08 here
    assert np.mean([m.std for m in measured]) == pytest.approx(values.std(), rel=0.15)


def test_gaussian_survives_scale_and_offset():
    x, y = (t.double().numpy() for t in data("multinormal-dense-5-5-0.5", n=400))
    shifted = gaussian.estimate(1e-6 * x + 1e3, 1e6 * y - 1e9)
    assert shifted.value == pytest.approx(gaussian.estimate(x, y).value, abs=1e-5)


def test_seeds_and_global_random_state():
    x, y = data()
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - the state that must not move
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, same, other = (estimate_mi(x, y, seed=seed, **BRIEF) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002
    assert dataclasses.replace(first, seconds=0) == dataclasses.replace(same, seconds=0)
    assert first.value != other.value


def test_numpy_torch_and_one_dimensional_inputs_agree():
    x, y = data()
    values = {
        estimate_mi(a, b, **BRIEF).value
        for a, b in ((x, y), (x.numpy(), y.numpy()), (x[:, 0], y[:, 0]), (x.double(), y.numpy()), (x[:, 0].tolist(), y))
    }
    assert len(values) == 1


def test_inputs_are_left_alone():
    x, y = data()
    copies = x.clone(), y.clone()
    estimate_mi(x, y, **BRIEF)
    assert torch.equal(x, copies[0])
    assert torch.equal(y, copies[1])


def test_bits():
    x, y = data()
    nats, bits = (estimate_mi(x, y, base=base, **BRIEF) for base in ("nats", "bits"))
    assert bits.base == "bits"
    factor = 1 / math.log(2)
    for got, expected in (
        (bits.value, nats.value),
        (bits.std, nats.std),
        (bits.cap, nats.cap),
        (bits.interval[1], nats.interval[1]),
        (bits.curve[-1][1], nats.curve[-1][1]),
    ):
        assert got == pytest.approx(expected * factor)
    assert bits.curve[-1][0] == nats.curve[-1][0]
    assert dataclasses.replace(bits.to("nats"), seconds=0).value == pytest.approx(nats.value)


def test_saturation_warns_once_and_is_flagged():
    # 30 coordinates that nearly agree: every x finds its y, so InfoNCE sits at log K.
    x, y = correlated_gaussian(30, 60.0).sample(1000, seed=0)
    options = {"critic": "inner_product", "evaluation_batch_size": 16, "batch_size": 16}
    with pytest.warns(SaturationWarning, match="infonce") as record:
        result = estimate_mi(x, y, **options)
    assert len(record) == 1
    assert record[0].filename == __file__
    assert result.saturated
    assert 0.95 * result.cap <= result.value <= result.cap == math.log(200 // 12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not estimate_mi(x, y, estimator="gaussian").saturated


def test_reported_value_is_held_out():
    # 150 training pairs of independent data and a critic that can memorise them: the training value soars.
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((250, 10)), generator.standard_normal((250, 10))
    result = estimate_mi(x, y, batch_size=50, max_steps=400, min_steps=400, learning_rate=3e-3)
    assert result.value < 0.15
    assert result.curve[-1][1] < -0.5  # so overfitted is the last critic on the validation pairs


def test_early_stopping_waits_for_min_steps_and_then_for_patience():
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((500, 5)), generator.standard_normal((500, 5))
    options = {"evaluate_every": 10, "patience": 2, "learning_rate": 1e-2, "max_steps": 1000, "critic": "separable"}
    for min_steps in (10, 200):
        last = neural.estimate(x, y, bound="infonce", min_steps=min_steps, **options).curve[-1][0]
        assert min_steps < last + 1 <= 1000  # nothing to learn: it stops, and not before it may
        if min_steps == 10:
            assert last < 200
    full = neural.estimate(x, y, bound="infonce", min_steps=55, **{**options, "max_steps": 55})
    assert [step for step, _ in full.curve] == [10, 20, 30, 40, 50, 55]


def test_a_critic_without_parameters_is_evaluated():
    x, y = correlated_gaussian(4, 2.0).sample(600, seed=0)
    result = estimate_mi(x, y, critic="inner_product", batch_size=32)
    assert result.curve == ()
    assert 0 < result.value < 2.0


def test_wild_data_do_not_break_training():
    generator = np.random.default_rng(0)
    x = generator.standard_cauchy((600, 2))
    y = x + generator.standard_cauchy((600, 2))
    for name in ("infonce", "nwj"):
        result = estimate_mi(x, y, estimator=name, learning_rate=0.1, **{**QUICK, "max_steps": 100})
        assert not math.isnan(result.value)


def test_scale_and_offset_do_not_matter_to_a_neural_estimate():
    x, y = (t.double().numpy() for t in data())
    assert estimate_mi(1e8 + 1e-3 * x, 1e6 * y, **QUICK).value == pytest.approx(
        estimate_mi(x, y, **QUICK).value, abs=1e-2
    )


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"y": np.zeros((99, 1)) + np.arange(99.0)[:, None]}, ValueError, "y: want as many samples as x"),
        ({"x": np.arange(100)}, TypeError, "x: want floating-point"),
        ({"x": torch.arange(100)}, TypeError, "x: want floating-point"),
        ({"x": np.full((100, 1), np.nan)}, ValueError, "x: want finite"),
        ({"x": np.ones((100, 2))}, ValueError, "x: column 0 is constant"),
        ({"x": np.zeros((100, 0))}, ValueError, "x: want at least one"),
        ({"x": np.zeros((100, 2, 2))}, ValueError, r"x: want shape \[n\]"),
        ({"x": np.float64(3.0)}, ValueError, r"x: want shape \[n\]"),
        ({"estimator": "minee"}, ValueError, "estimator: want one of"),
        ({"base": "dits"}, ValueError, "base: want one of"),
        ({"critic": "mlp"}, ValueError, "critic: want one of"),
        ({"batch_size": 1}, ValueError, "batch_size: want an integer >= 2"),
        ({"batch_size": 2.0}, TypeError, "batch_size: want an integer"),
        ({"evaluation_batch_size": 1}, ValueError, "evaluation_batch_size"),
        ({"max_steps": 0}, ValueError, "max_steps"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate"),
        ({"validation_fraction": 0.5, "test_fraction": 0.5}, ValueError, "test_fraction"),
        ({"batch_size": 90}, ValueError, "want at least 90 training pairs"),
        ({"no_such_option": 1}, TypeError, "no_such_option"),
        ({"estimator": "ksg", "k": 0}, ValueError, "k: want an integer from"),
        ({"estimator": "ksg", "k": 100}, ValueError, "k: want an integer from"),
        ({"estimator": "ksg", "k": 3.0}, TypeError, "k: want an integer"),
        ({"estimator": "ksg", "x": np.repeat([0.0, 1.0], 50), "y": np.repeat([0.0, 1.0], 50)}, ValueError, "repeated"),
    ],
)
def test_bad_input_is_named(change, error, match):
    x, y = data(n=100)
    arguments = {"x": x, "y": y, "batch_size": 16, **change}
    if arguments.get("estimator") == "ksg":
        del arguments["batch_size"]
    with pytest.raises(error, match=match):
        estimate_mi(arguments.pop("x"), arguments.pop("y"), **arguments)


def test_gaussian_rejects_degenerate_data():
    x, y = (t.double().numpy() for t in data("multinormal-dense-5-5-0.5", n=100))
    with pytest.raises(ValueError, match="want at least dim_x"):
        estimate_mi(x[:11], y[:11], estimator="gaussian")
    with pytest.raises(ValueError, match="linearly independent"):
        estimate_mi(np.concatenate([x, x[:, :1]], axis=1), y, estimator="gaussian")
    with pytest.raises(ValueError, match="infinite"):
        estimate_mi(x, x, estimator="gaussian")


def test_tables():
    assert {name for name, bound in BOUNDS.items() if not bound.requires} <= set(ESTIMATORS)
    for name, entry in ESTIMATORS.items():
        assert entry.name == name
        assert entry.note
        assert entry.source
    assert MIEstimate.__dataclass_params__.frozen
