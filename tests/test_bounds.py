import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import logsumexp

from mi_estimators import bounds
from mi_estimators.bounds import BOUNDS, SCORE_BOUNDS
from mi_estimators.critics import CRITICS
from mi_estimators.densities import DENSITIES
from mi_estimators.synthetic import correlated_gaussian

EVERY = pytest.mark.parametrize("bound", list(SCORE_BOUNDS.values()), ids=list(SCORE_BOUNDS))

score_matrices = st.integers(2, 9).flatmap(
    lambda k: arrays(np.float64, (k, k), elements=st.floats(-300, 300, allow_nan=False))
)


def oracle(name, s):
    """Textbook sums over explicit lists of positives and negatives, in float64 NumPy; no shared code."""
    k = len(s)
    positives = [s[i, i] for i in range(k)]
    negatives = np.array([s[i, j] for i in range(k) for j in range(k) if i != j])
    log_mean_exp = logsumexp(negatives) - math.log(len(negatives))
    if name == "infonce":
        return math.log(k) + np.mean([s[i, i] - logsumexp(s[i]) for i in range(k)])
    if name == "infonce_loo":
        rows = [np.delete(s[i], i) for i in range(k)]
        return np.mean([s[i, i] - math.log(np.mean(np.exp(rows[i]))) for i in range(k)])
    if name == "nwj":
        return 1 + np.mean([p - 1 for p in positives]) - np.mean(np.exp(negatives - 1))
    if name == "dv":
        return np.mean(positives) - log_mean_exp
    if name in ("js", "tuba"):
        return 1 + np.mean(positives) - np.mean(np.exp(negatives))
    if name == "smile":
        clipped = np.clip(np.exp(negatives), math.exp(-5), math.exp(5))
        return np.mean(positives) - math.log(np.mean(clipped))
    raise AssertionError(f"no oracle for {name}: write one")


def objective_oracle(name, s):
    k = len(s)
    if name not in ("js", "smile"):
        return oracle(name, s)
    negatives = [s[i, j] for i in range(k) for j in range(k) if i != j]
    return -np.mean(np.logaddexp(0, -np.diag(s))) - np.mean(np.logaddexp(0, negatives))


def random_scores(k=6, seed=0, scale=2.0):
    return scale * torch.randn(k, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def optimal_scores(task, k, seed, offset=0.0):
    x, y = task.sample(k, seed, dtype=torch.float64)
    pairs_x = x.repeat_interleave(k, dim=0)
    return task.pointwise_mutual_information(pairs_x, y.repeat(k, 1)).reshape(k, k) + offset


@EVERY
@pytest.mark.parametrize("k", [2, 3, 17])
def test_value_and_objective_match_textbook_sums(bound, k):
    s = random_scores(k, seed=k)
    value, objective = bound.value_and_objective(s)
    assert value.item() == pytest.approx(oracle(bound.name, s.numpy()), rel=1e-12, abs=1e-12)
    assert objective.item() == pytest.approx(objective_oracle(bound.name, s.numpy()), rel=1e-12, abs=1e-12)


@EVERY
def test_gradients(bound):
    s = random_scores(5, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(bound.value, s)
    assert torch.autograd.gradgradcheck(bound.value, s)
    assert torch.autograd.gradcheck(lambda t: bound.value_and_objective(t)[1], s)


def test_gradients_reach_the_baseline():
    s = random_scores(4).requires_grad_()
    log_baseline = torch.linspace(-1, 1, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(bounds.tuba, (s, log_baseline))


@given(score_matrices)
@settings(max_examples=200, deadline=None)
def test_infonce_never_exceeds_log_k(s):
    cap = BOUNDS["infonce"].cap(len(s))
    assert cap == math.log(len(s))
    assert bounds.i_nce(torch.from_numpy(s)).item() <= cap + 1e-12
    assert bounds.i_nce(torch.from_numpy(s).float()).item() <= cap + 1e-6


def test_infonce_reaches_log_k():
    # Without this, a function stuck far below its cap would pass the test above.
    assert bounds.i_nce(1e4 * torch.eye(8)).item() == pytest.approx(math.log(8), rel=1e-6)


@given(score_matrices)
@settings(max_examples=200, deadline=None)
def test_dv_is_never_below_nwj(s):
    s = torch.from_numpy(s)
    dv, nwj = bounds.dv(s).item(), bounds.nwj(s).item()
    assert dv >= nwj - 1e-9 * max(1.0, abs(dv))


@given(score_matrices, st.floats(-50, 50))
@settings(max_examples=100, deadline=None)
def test_dv_and_infonce_ignore_a_constant_shift(s, shift):
    s = torch.from_numpy(s)
    for bound in (bounds.dv, bounds.i_nce, bounds.i_nce_loo):
        assert bound(s + shift).item() == pytest.approx(bound(s).item(), abs=1e-9)


def test_infonce_ignores_a_function_of_x_and_not_one_of_y():
    s, shift = random_scores(), torch.linspace(-3, 3, 6, dtype=torch.float64)
    assert bounds.i_nce(s + shift[:, None]).item() == pytest.approx(bounds.i_nce(s).item(), abs=1e-12)
    assert abs(bounds.i_nce(s + shift).item() - bounds.i_nce(s).item()) > 1e-2


def test_nwj_shifted_to_its_best_constant_is_dv():
    s = random_scores(7, seed=1)
    log_mean_exp = s.diagonal().mean() - bounds.dv(s)
    torch.testing.assert_close(bounds.nwj(s - log_mean_exp + 1), bounds.dv(s))
    assert bounds.nwj(s - log_mean_exp + 1.1) < bounds.dv(s)


def test_tuba_baselines():
    s = random_scores(5, seed=2)
    torch.testing.assert_close(bounds.tuba(s, 1.0), bounds.nwj(s))
    torch.testing.assert_close(bounds.js(s), bounds.nwj(s + 1))
    log_baseline = torch.arange(5, dtype=torch.float64)
    torch.testing.assert_close(bounds.tuba(s, log_baseline), bounds.tuba(s - log_baseline[None, :]))


def test_smile_with_a_wide_clip_is_dv():
    s = random_scores(6, seed=5)
    torch.testing.assert_close(bounds.smile(s, clip=100.0), bounds.dv(s))
    assert bounds.smile(s, clip=0.5) != bounds.dv(s)


@pytest.mark.parametrize(("name", "offset"), [("nwj", 1.0), ("dv", 0.0), ("js", 0.0), ("tuba", 0.0), ("smile", 0.0)])
def test_optimal_critic_gives_the_truth(name, offset):
    # At 1 nat the exponentials have a small variance, so that 40 batches of 128 settle to about 0.01.
    task = correlated_gaussian(4, 1.0)
    values = torch.stack([BOUNDS[name].value(optimal_scores(task, 128, seed, offset)) for seed in range(40)])
    error = values.std() / math.sqrt(len(values))
    assert error < 0.02
    assert abs(values.mean() - task.mutual_information) < 4 * error


def test_nwj_of_the_log_density_ratio_loses_one_over_e():
    # Why js() is not nwj(): the two differ by 1/e at the Jensen-Shannon optimum.
    task = correlated_gaussian(4, 1.0)
    values = torch.stack([BOUNDS["nwj"].value(optimal_scores(task, 128, seed)) for seed in range(40)])
    assert values.mean().item() == pytest.approx(task.mutual_information - 1 / math.e, abs=0.05)


def test_infonce_with_the_optimal_critic_approaches_the_truth_from_below():
    task = correlated_gaussian(4, 2.0)
    means = [
        torch.stack([bounds.i_nce(optimal_scores(task, k, seed)) for seed in range(30)]).mean().item()
        for k in (8, 32, 256)
    ]
    assert means[0] < means[1] < means[2] < task.mutual_information + 0.05
    assert means[2] == pytest.approx(task.mutual_information, abs=0.1)
    assert means[0] < math.log(8)


def test_js_objective_is_largest_at_the_log_density_ratio():
    task = correlated_gaussian(2, 1.0)
    scores = optimal_scores(task, 600, seed=0)
    best = bounds.js_objective(scores)
    for other in (scores + 0.5, scores - 0.5, 0.7 * scores, 1.4 * scores):
        assert bounds.js_objective(other) < best


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@EVERY
def test_large_negative_scores_stay_finite(bound, dtype):
    s = torch.full((4, 4), -1e4, dtype=dtype).fill_diagonal_(1e4).requires_grad_()
    value, objective = bound.value_and_objective(s)
    objective.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(s.grad).all()
    expected = {
        "infonce": math.log(4),
        "infonce_loo": 2e4,
        "nwj": 1e4,
        "dv": 2e4,
        "js": 1e4 + 1,
        "tuba": 1e4 + 1,
        "smile": 1e4 + 5,
    }
    assert value.item() == pytest.approx(expected[bound.name], rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_large_positive_scores(dtype):
    s = torch.full((4, 4), 1e4, dtype=dtype).fill_diagonal_(-1e4)
    assert bounds.i_nce(s).item() == pytest.approx(math.log(4) - 2e4 - math.log(3), rel=1e-6)
    assert bounds.dv(s).item() == pytest.approx(-2e4, rel=1e-6)
    assert bounds.js_objective(s).item() == pytest.approx(-2e4, rel=1e-6)
    assert bounds.smile(s).item() == pytest.approx(-1e4 - 5, rel=1e-6)
    assert bounds.nwj(s).item() == -math.inf  # e^9999 has no float; never NaN


def test_nwj_in_float32_near_its_overflow():
    # The mean of exponentials fits although a single exponential, e^89, does not fit float32.
    s = torch.zeros(40, 40)
    s[0, 1] = 90.0
    expected = -math.exp(89.0 - math.log(40 * 39))
    assert bounds.nwj(s).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@EVERY
def test_half_precision_scores_are_reduced_in_float32(bound, dtype):
    s = random_scores(32, seed=9).to(dtype)
    value = bound.value(s)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(oracle(bound.name, s.double().numpy()), rel=1e-4, abs=1e-4)


@EVERY
def test_every_bound_rejects_bad_scores(bound):
    with pytest.raises(ValueError, match=r"scores.*K >= 2"):
        bound.value(torch.zeros(1, 1))
    with pytest.raises(ValueError, match=r"scores.*square"):
        bound.value(torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"scores.*dimensions"):
        bound.value(torch.zeros(3))
    with pytest.raises(TypeError, match="scores"):
        bound.value(torch.zeros(3, 3, dtype=torch.int64))
    with pytest.raises(TypeError, match="scores"):
        bound.value([[0.0, 1.0], [1.0, 0.0]])
    with pytest.raises(ValueError, match=r"scores.*finite"):
        bound.value(torch.tensor([[0.0, math.nan], [1.0, 0.0]]))


def test_other_arguments_are_checked():
    with pytest.raises(ValueError, match="clip"):
        bounds.smile(torch.zeros(3, 3), clip=0.0)
    with pytest.raises(ValueError, match="log_baseline"):
        bounds.tuba(torch.zeros(3, 3), torch.zeros(4))


def test_table():
    assert set(BOUNDS) == {
        *("infonce", "infonce_loo", "nwj", "dv", "mine", "js", "tuba", "tuba_learned", "tuba_gaussian", "i_alpha"),
        *("smile", "flo", "club", "vclub", "l1out", "ba", "doe", "er"),
    }
    assert set(SCORE_BOUNDS) == {"infonce", "infonce_loo", "nwj", "dv", "js", "tuba", "smile"}
    for name, bound in BOUNDS.items():
        assert bound.name == name
        assert bound.kind in ("lower", "upper", "neither")
        assert bound.note
        assert bound.source


@pytest.mark.parametrize("bound", [b for b in SCORE_BOUNDS.values() if b.kind == "lower"], ids=lambda b: b.name)
def test_lower_bounds_hold_in_expectation_for_any_critic(bound):
    # A critic of the wrong scale, with an offset: the average over batches must stay below the truth.
    task = correlated_gaussian(3, 1.0)
    for scale, offset in ((0.5, 0.3), (1.2, -0.2), (1.0, 1.0)):
        values = torch.stack([bound.value(scale * optimal_scores(task, 64, seed) + offset) for seed in range(60)])
        assert values.mean() < task.mutual_information + 3 * values.std() / math.sqrt(len(values))


def test_the_page_names_every_bound():
    page = (Path(__file__).parents[1] / "docs" / "bounds.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1].strip(" `") for line in page.splitlines() if line.startswith("| `")]
    assert set(BOUNDS) | set(CRITICS) | set(DENSITIES) <= set(rows)


def test_a_bound_of_more_than_scores_says_so():
    with pytest.raises(TypeError, match=r"mine: .*variational"):
        BOUNDS["mine"].value_and_objective(torch.zeros(3, 3))
