"""Whose values the checks of arguments look at."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import mi_estimators as mi
from mi_estimators import _checks, value_checks

BAD = torch.tensor([[1.0, 2.0], [torch.nan, 1.0], [0.5, 0.1]])
GOOD = torch.tensor([[1.0, 2.0], [3.0, 1.0], [0.5, 0.1]])


@pytest.fixture(autouse=True)
def _default() -> Iterator[None]:
    yield
    assert _checks._mode == "cpu"


def test_off_looks_nowhere_and_ends_with_its_block() -> None:
    with pytest.raises(ValueError, match="x: want finite values, got 1 NaN"):
        mi.info_nce(BAD, GOOD)
    with value_checks("off"):
        assert mi.info_nce(BAD, GOOD).isnan()
        assert mi.pairwise_lse(BAD, GOOD).isnan().any()
        with pytest.raises(ValueError, match="temperature"):  # a Python number
            mi.info_nce(GOOD, GOOD, temperature=-1.0)
        with pytest.raises(ValueError, match="y: want the shape of x"):
            mi.info_nce(GOOD, GOOD[:2])
    with pytest.raises(ValueError, match="x: want finite values, got 1 NaN"):
        mi.pairwise_lse(BAD, GOOD)


def test_as_a_call_it_lasts() -> None:
    value_checks("off")
    try:
        assert mi.kde_entropy(BAD, bandwidth=1.0).isnan()
        with value_checks("always"), pytest.raises(ValueError, match="x: want finite"):
            mi.kde_entropy(BAD, bandwidth=1.0)
        assert mi.kde_entropy(BAD, bandwidth=1.0).isnan()
    finally:
        value_checks("cpu")


def test_an_error_in_the_block_ends_it_too() -> None:
    with pytest.raises(RuntimeError), value_checks("off"):
        raise RuntimeError


def test_unknown_modes_are_refused_and_change_nothing() -> None:
    with pytest.raises(ValueError, match=r"mode: want one of .*'always'.* got 'allways' \(did you mean 'always'\?\)"):
        value_checks("allways")


class OnCuda(torch.Tensor):
    """Says of itself what a plain tensor on a GPU does."""

    device = torch.device("cuda", 0)  # type: ignore[assignment]
    is_cuda = True  # type: ignore[assignment]


def test_a_gpu_is_waited_for_on_request_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_checks, "_is_plain", lambda value: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)  # a build for the CPU lacks it
    there = BAD.as_subclass(OnCuda)
    assert not _checks.concrete(there)
    assert not _checks.at_hand(there)
    with value_checks("always"):
        assert _checks.concrete(there)
        assert not _checks.at_hand(there)
        with pytest.raises(ValueError, match="keys: want finite values, got 1 NaN or infinite in"):
            _checks.finite("keys", there)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        assert not _checks.concrete(there)
    with value_checks("off"):
        assert not _checks.concrete(there)


def test_what_has_no_values_is_never_looked_at() -> None:
    with value_checks("always"):
        assert mi.pairwise_lse(torch.empty(3, 2, device="meta")).shape == (3,)
        assert torch.func.vmap(lambda x: mi.pairwise_lse(x))(torch.stack([GOOD, BAD])).isnan().any()


def test_results_do_not_depend_on_the_mode() -> None:
    """Also those that are only there where values are at hand."""
    z1, z2 = torch.nn.functional.normalize(torch.randn(2, 8, 4), dim=2)
    found = []
    for mode in ("cpu", "always", "off"):
        with value_checks(mode):
            found.append(mi.er_bound(z1, z2, bandwidth=10.0, reconstruction_bandwidth=5.0, leave_one_out=False))
    assert found[0].cap is not None
    assert found[0].cap == found[1].cap == found[2].cap
    assert found[0].value == found[1].value == found[2].value
