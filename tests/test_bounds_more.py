"""Bounds that need more than a matrix of scores, and what each expectation is on Gaussians, where all is known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mi_estimators import bounds, kde_entropy

DIM, MI = 2, 1.0
RHO = math.sqrt(1 - math.exp(-2 * MI / DIM))


def random_scores(k=5, seed=0, scale=2.0):
    return scale * torch.randn(k, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pairs(k, seed):
    """Correlated Gaussian pairs and, independently of the package, log p(y_j | x_i), log p(y_j), their difference."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((k, DIM))
    y = RHO * x + math.sqrt(1 - RHO**2) * rng.standard_normal((k, DIM))
    variance = 1 - RHO**2
    conditional = -0.5 * ((y[None] - RHO * x[:, None]) ** 2 / variance + math.log(2 * math.pi * variance)).sum(-1)
    marginal = -0.5 * (y**2 + math.log(2 * math.pi)).sum(-1)
    return tuple(map(torch.from_numpy, (x, y, conditional, marginal, conditional - marginal[None])))


def mean_and_error(value, k=64, batches=60):
    values = torch.stack([value(*pairs(k, seed)) for seed in range(batches)])
    return values.mean().item(), values.std().item() / math.sqrt(batches)


def i_alpha_oracle(s, log_a, alpha):
    k = len(s)
    joint, marginal = [], []
    for j in range(k):
        for left_out in range(k):
            if left_out == j:
                continue
            candidates = [math.exp(s[i, j]) for i in range(k) if i != left_out]
            joint.append(s[j, j] - math.log(alpha * sum(candidates) / (k - 1) + (1 - alpha) * math.exp(log_a[j])))
        others = [math.exp(s[i, j]) for i in range(k) if i != j]
        below = alpha * sum(others) / (k - 1) + (1 - alpha) * math.exp(log_a[j])
        marginal += [other / below for other in others]
    return 1 + np.mean(joint) - np.mean(marginal)


# ------------------------------------------------------------------------------------------------------------ i_alpha


@pytest.mark.parametrize("alpha", [0.0, 0.01, 0.5, 1.0])
@pytest.mark.parametrize("k", [2, 3, 8])
def test_i_alpha_matches_explicit_sums(alpha, k):
    s, log_a = random_scores(k, seed=k), torch.linspace(-1, 2, k, dtype=torch.float64)
    expected = i_alpha_oracle(s.numpy(), log_a.numpy(), alpha)
    assert bounds.i_alpha(s, log_a, alpha).item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_i_alpha_ends():
    s, log_a = random_scores(6), torch.linspace(-1, 1, 6, dtype=torch.float64)
    torch.testing.assert_close(bounds.i_alpha(s, log_a, 0.0), bounds.tuba(s, log_a))
    # At the other end: InfoNCE of each y among K - 1 candidates x, averaged over which x is left out.
    rows = [
        math.log(5) + s[j, j] - torch.cat([s[:c, j], s[c + 1 :, j]]).logsumexp(0)
        for j in range(6)
        for c in range(6)
        if c != j
    ]
    torch.testing.assert_close(bounds.i_alpha(s, log_a, 1.0), torch.stack(rows).mean())


@given(
    st.integers(2, 7).flatmap(lambda k: arrays(np.float64, (k, k), elements=st.floats(-300, 300))),
    st.floats(1e-3, 1.0),
    st.floats(-20, 20),
)
@settings(max_examples=150, deadline=None)
def test_i_alpha_stays_under_its_cap_and_moves_with_its_baseline(s, alpha, shift):
    k, s = len(s), torch.from_numpy(s)
    value = bounds.i_alpha(s, 0.3, alpha).item()
    assert value <= math.log((k - 1) / alpha) + (alpha < 1) + 1e-9
    assert bounds.i_alpha(s + shift, 0.3 + shift, alpha).item() == pytest.approx(value, rel=1e-9, abs=1e-9)


def test_i_alpha_reaches_its_cap():
    s = torch.full((5, 5), -1e4, dtype=torch.float64).fill_diagonal_(1e4)
    assert bounds.i_alpha(s, 0.0, 0.1).item() == pytest.approx(1 + math.log(4 / 0.1), rel=1e-12)
    assert bounds.BOUNDS["i_alpha"].cap(5) == pytest.approx(1 + math.log(4 / 0.01))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_i_alpha_gradients(alpha):
    s, log_a = random_scores(4).requires_grad_(), torch.linspace(-1, 1, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda s, a: 3 * bounds.i_alpha(s, a, alpha).sin(), (s, log_a))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_extreme_scores_stay_finite(dtype):
    rounding = 1e4 * torch.finfo(dtype).eps
    for positive, negative in ((1e4, -1e4), (-1e4, 1e4), (1e4, 1e4)):
        expected = pytest.approx(positive - negative, abs=4 * rounding)
        s = torch.full((4, 4), negative, dtype=dtype).fill_diagonal_(positive).requires_grad_()
        for alpha in (0.01, 1.0):
            value = bounds.i_alpha(s, 0.0, alpha)
            assert torch.isfinite(value)
            assert torch.isfinite(torch.autograd.grad(value, s)[0]).all()
        log_ratio = torch.full((4,), negative - positive, dtype=dtype)
        assert bounds.flo(s, log_ratio).item() == expected
        assert bounds.mine_step(s)[0].item() == expected
        assert bounds.i_nce_loo(s).item() == expected


# ---------------------------------------------------------------------------------------------------------- FLO, MINE


def test_flo_matches_explicit_sums_and_ignores_a_function_of_x():
    s, t = random_scores(), torch.linspace(-1, 1, 5, dtype=torch.float64)
    terms = [
        t[i] + torch.exp(-t[i]) * torch.stack([torch.exp(s[i, j] - s[i, i]) for j in range(5) if j != i]).mean()
        for i in range(5)
    ]
    torch.testing.assert_close(bounds.flo(s, t), 1 - torch.stack(terms).mean())
    torch.testing.assert_close(bounds.flo(s + 7 * t[:, None], t), bounds.flo(s, t))
    assert torch.autograd.gradcheck(bounds.flo, (s.requires_grad_(), t.requires_grad_()))


def test_flo_at_its_best_second_network_is_infonce_without_its_positive():
    s = random_scores(7)
    best = torch.stack([(s[i] - s[i, i])[torch.arange(7) != i].exp().mean().log() for i in range(7)])
    torch.testing.assert_close(bounds.flo(s, best), bounds.i_nce_loo(s))
    assert bounds.flo(s, best + 0.3) < bounds.flo(s, best)


def test_mine_gradient_is_that_of_the_formula():
    log_partition, average, rate = None, None, 0.2
    for seed in range(4):
        s = random_scores(5, seed=seed).requires_grad_()
        off = ~torch.eye(5, dtype=torch.bool)
        batch = s.detach().exp()[off].mean().item()
        average = batch if average is None else (1 - rate) * average + rate * batch
        value, objective, log_partition = bounds.mine_step(s, log_partition, rate)
        torch.testing.assert_close(value, bounds.dv(s.detach()))
        torch.testing.assert_close(objective.detach(), value)
        assert log_partition.exp().item() == pytest.approx(average, rel=1e-12)
        expected = torch.where(off, -s.detach().exp() / (20 * average), 0.2)
        torch.testing.assert_close(torch.autograd.grad(2.5 * objective, s)[0], 2.5 * expected)
    same = bounds.mine_step(s.detach(), s.new_tensor(math.nan), rate)[2]
    torch.testing.assert_close(same, bounds.mine_step(s.detach(), None, rate)[2])


# ------------------------------------------------------------------------------------------------------ expectations


def test_unbiased_bounds_at_their_optimum_give_the_truth():
    def y_only(y):
        return 0.3 * y.sum(dim=1)

    optima = {
        "flo": lambda x, y, c, m, r: bounds.flo(r, -r.diagonal()),
        "flo, critic off by a function of x": lambda x, y, c, m, r: bounds.flo(r + x.sum(1)[:, None], -r.diagonal()),
        "tuba per y": lambda x, y, c, m, r: bounds.tuba(r + y_only(y), y_only(y)),
        "i_alpha": lambda x, y, c, m, r: bounds.i_alpha(r + y_only(y), y_only(y), 0.0),
        "ba": lambda x, y, c, m, r: bounds.ba(c.diagonal(), DIM * 0.5 * math.log(2 * math.pi * math.e)),
        "doe": lambda x, y, c, m, r: bounds.doe(m, c.diagonal()),
    }
    for name, value in optima.items():
        mean, error = mean_and_error(value)
        assert error < 0.06, name
        assert abs(mean - MI) <= 4 * error, name


def test_lower_bounds_hold_for_poor_critics_and_baselines():
    poor = {
        "i_alpha": lambda x, y, c, m, r: bounds.i_alpha(0.7 * r + 0.4, 0.5 * y[:, 0], 0.3),
        "i_alpha, baseline off": lambda x, y, c, m, r: bounds.i_alpha(r, 2.0, 0.1),
        "i_alpha at the optimum": lambda x, y, c, m, r: bounds.i_alpha(r, 0.0, 0.5),
        "tuba": lambda x, y, c, m, r: bounds.tuba(1.1 * r, 0.5 * y[:, 0]),
        "flo": lambda x, y, c, m, r: bounds.flo(0.8 * r, 0.3 * x[:, 0]),
        "ba": lambda x, y, c, m, r: bounds.ba(-0.5 * (y**2 + math.log(2 * math.pi)).sum(1), -m.mean()),
    }
    for name, value in poor.items():
        mean, error = mean_and_error(value)
        assert mean <= MI + 3 * error, name


def test_club_has_the_expectation_of_its_closed_form():
    # E_p log p(y|x) - E_q log p(y|x) is rho^2 / (1 - rho^2) per coordinate.
    mean, error = mean_and_error(lambda x, y, c, m, r: bounds.club(c))
    expected = DIM * RHO**2 / (1 - RHO**2)
    assert error < 0.1
    assert abs(mean - expected) <= 4 * error
    assert expected > MI


def test_l1out_with_the_true_density_is_above_the_truth_and_nears_it():
    means = []
    for k in (4, 16, 128):
        mean, error = mean_and_error(lambda x, y, c, m, r: bounds.l1out(c), k=k)
        assert mean >= MI - 3 * error
        means.append(mean)
    assert means[0] > means[1] > means[2]
    assert means[2] == pytest.approx(MI, abs=0.1)


def test_infonce_with_leave_one_out_negatives_is_no_bound():
    mean, error = mean_and_error(lambda x, y, c, m, r: bounds.i_nce_loo(r), k=8)
    assert mean > MI + 3 * error
    mean, error = mean_and_error(lambda x, y, c, m, r: bounds.i_nce_loo(-r), k=8)
    assert mean < -3 * error


def test_contrasts_match_explicit_sums():
    log_q, k = random_scores(6, seed=4), 6
    off = [(i, j) for i in range(k) for j in range(k) if i != j]
    expected = np.mean([log_q[i, i] for i in range(k)]) - np.mean([log_q[i, j] for i, j in off])
    assert bounds.club(log_q).item() == pytest.approx(expected, rel=1e-12)
    ratios = [log_q[j, j].item() - math.log(np.mean([log_q[i, j].exp() for i in range(k) if i != j])) for j in range(k)]
    assert bounds.l1out(log_q).item() == pytest.approx(np.mean(ratios), rel=1e-12)
    assert torch.autograd.gradcheck(bounds.club, log_q.requires_grad_())
    assert torch.autograd.gradcheck(bounds.l1out, log_q)


@given(st.integers(2, 6).flatmap(lambda k: arrays(np.float64, (k, k), elements=st.floats(-200, 200))))
@settings(max_examples=60, deadline=None)
def test_contrasts_ignore_what_depends_on_y_alone(log_q):
    # A change of the units of y adds its Jacobian, the same number for every x.
    log_q, units = torch.from_numpy(log_q), torch.linspace(-3, 8, len(log_q), dtype=torch.float64)
    for bound in (bounds.club, bounds.l1out):
        assert bound(log_q + units).item() == pytest.approx(bound(log_q).item(), abs=1e-9)


def test_er_is_barber_agakov_with_the_entropy_of_a_kernel_density():
    _, y, c, _, _ = pairs(60, 0)
    y = y.clone().requires_grad_()
    value = bounds.er(c.diagonal(), y)
    torch.testing.assert_close(value, kde_entropy(y) + c.diagonal().mean())
    assert torch.autograd.grad(value, y)[0].abs().sum() > 0
    mean, error = mean_and_error(lambda x, y, c, m, r: bounds.er(c.diagonal(), y), k=500, batches=6)
    assert abs(mean - MI) <= 0.1 + 4 * error


# ------------------------------------------------------------------------------------------- candidates one chooses


def test_negatives_of_the_batch_itself_give_the_bounds_of_the_matrix():
    s = random_scores(6)
    negatives = s[~torch.eye(6, dtype=torch.bool)].reshape(6, 5)
    torch.testing.assert_close(bounds.i_nce_with_negatives(s.diagonal(), negatives), bounds.i_nce(s))
    torch.testing.assert_close(bounds.nwj_with_negatives(s.diagonal(), negatives), bounds.nwj(s))
    half = bounds.i_nce_with_negatives(s.diagonal().bfloat16(), negatives.bfloat16())
    assert half.dtype == torch.float32
    inputs = (s.diagonal().clone().requires_grad_(), negatives.clone().requires_grad_())
    for function in (bounds.i_nce_with_negatives, bounds.nwj_with_negatives):
        assert torch.autograd.gradcheck(function, inputs)


def shared_latent(batches, k, shared, seed=0):
    """Experiment 6 of arXiv 1907.13625: x and y are the coordinates of Z + noise, Z drawn once a batch or for each."""
    rng = np.random.default_rng(seed)
    z = rng.multivariate_normal([0, 0], [[1, -0.5], [-0.5, 1]], size=(batches, 1 if shared else k))
    both = z + rng.multivariate_normal([0, 0], [[1, 0.9], [0.9, 1]], size=(batches, k))
    return torch.from_numpy(both[..., 0]), torch.from_numpy(both[..., 1])


def test_negatives_that_share_a_latent_break_both_bounds_and_independent_ones_restore_them():
    truth = -0.5 * math.log(1 - 0.2**2)  # x and y have variance 2 and covariance 0.4

    def scores(x, y):
        return 0.4 * x[..., None] * y[..., None, :] - 0.3

    def mean(values):
        return values.mean().item(), values.std().item() / math.sqrt(len(values))

    dependent = scores(*shared_latent(200, 32, shared=True))
    independent = scores(*shared_latent(200, 32, shared=False))
    for bound in (bounds.i_nce, bounds.nwj):
        low, error = mean(torch.stack([bound(s) for s in independent]))
        assert low <= truth + 3 * error
    high, error = mean(torch.stack([bounds.i_nce(s) for s in dependent]))
    assert high > truth + 5 * error
    # Candidates from other batches, one each: the dependence within a batch then does no harm.
    x, y = shared_latent(200, 32, shared=True)
    positives = (0.4 * x * y - 0.3)[:, 0]
    candidates = torch.stack([y.roll(-shift, dims=0)[:, 0] for shift in range(1, 32)], dim=1)
    negatives = 0.4 * x[:, :1] * candidates - 0.3
    values = positives - torch.logaddexp(positives, negatives.logsumexp(1)) + math.log(32)
    low, error = mean(values)
    assert low <= truth + 3 * error
    assert bounds.i_nce_with_negatives(positives, negatives).item() == pytest.approx(low, abs=1e-12)


# ------------------------------------------------------------------------------------------------------ bad arguments


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda s: bounds.i_alpha(s, alpha=1.5), ValueError, "alpha"),
        (lambda s: bounds.i_alpha(s, alpha=math.nan), ValueError, "alpha"),
        (lambda s: bounds.i_alpha(s, torch.zeros(3)), ValueError, "log_baseline: want a number or shape"),
        (lambda s: bounds.tuba(s, "1"), TypeError, "log_baseline"),
        (lambda s: bounds.tuba(s, math.nan), ValueError, "log_baseline: want a finite"),
        (lambda s: bounds.tuba(s, torch.full((4,), math.nan)), ValueError, "log_baseline: want finite"),
        (lambda s: bounds.flo(s, torch.zeros(3)), ValueError, r"log_partition: want shape \(4,\)"),
        (lambda s: bounds.flo(s, 0.0), TypeError, "log_partition"),
        (lambda s: bounds.mine_step(s, rate=0.0), ValueError, "rate"),
        (lambda s: bounds.mine_step(s, torch.zeros(2)), ValueError, "log_partition"),
        (lambda s: bounds.mine_step(s, 0.5), TypeError, "log_partition"),
        (lambda s: bounds.club(s[:3]), ValueError, "log_conditional: want a square"),
        (lambda s: bounds.l1out(s.long()), TypeError, "log_conditional"),
        (lambda s: bounds.ba(s, 1.0), ValueError, "log_conditional: want 1 dim"),
        (lambda s: bounds.ba(s[0], math.inf), ValueError, "entropy"),
        (lambda s: bounds.ba(s[0], "knn"), TypeError, "entropy"),
        (lambda s: bounds.ba(s[0], s[1]), ValueError, "entropy"),
        (lambda s: bounds.doe(s[0], s[0, :2]), ValueError, "log_conditional: want the shape of log_marginal"),
        (lambda s: bounds.er(s[0], s[:3]), ValueError, "y: want one row"),
        (lambda s: bounds.i_nce_with_negatives(s[0], s[:3]), ValueError, "negatives: want one row"),
        (lambda s: bounds.i_nce_with_negatives(s, s), ValueError, "positives: want 1 dim"),
        (lambda s: bounds.nwj_with_negatives(s[0], s / 0), ValueError, "negatives: want finite"),
    ],
)
def test_bad_arguments_are_named(call, error, match):
    with pytest.raises(error, match=match):
        call(torch.zeros(4, 4))
