"""The examples of docs/adapters.md run, and the losses have the values of the packages they replace.

The packages' formulas are written out here, on whole matrices; where a package is installed, it is asked as well.
"""

from __future__ import annotations

import math
import re
import sys
import types
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mi_estimators.losses import ClipLoss, InfoNCE, LabelNTXent, NTXent, SupCon

DOUBLE = torch.float64
PAGE = Path(__file__).parent.parent / "docs" / "adapters.md"
BLOCKS = [
    pytest.param(code, id=f"line {text.count(chr(10)) + 1}")
    for text, code in (
        (PAGE.read_text()[: match.start()], match.group(1))
        for match in re.finditer(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    )
]


class _LightningModule(nn.Module):
    """What the page uses of Lightning, where that is not installed."""

    def log(self, name: str, value: Tensor) -> None:
        assert torch.isfinite(value), name


@pytest.mark.parametrize("code", BLOCKS)
def test_the_page_runs(code, monkeypatch):
    try:
        import lightning  # noqa: F401
    except ImportError:
        stand_in = types.ModuleType("lightning")
        stand_in.LightningModule = _LightningModule
        monkeypatch.setitem(sys.modules, "lightning", stand_in)
    names: dict[str, object] = {"__name__": "page"}
    exec(compile(code, str(PAGE), "exec"), names)
    assert isinstance(names["loss"], Tensor)
    assert torch.isfinite(names["loss"])
    assert names["loss"].requires_grad


def test_the_page_has_an_example_of_every_loss():
    page = "".join(block.values[0] for block in BLOCKS)
    for name in ("NTXent(", "InfoNCE(", "ClipLoss(", "SupCon(", "LabelNTXent(", "lightning.LightningModule"):
        assert name in page


# ----------------------------------------------------------------------------------------------------------- formulas


def unit(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, dtype=DOUBLE), dim=1)


def same(got: Tensor, want: Tensor, *leaves: Tensor) -> None:
    """Equal values, and equal gradients under another function of the loss."""
    torch.testing.assert_close(got, want)
    ours = torch.autograd.grad(got.square().sum(), leaves, retain_graph=True)
    theirs = torch.autograd.grad(want.square().sum(), leaves, retain_graph=True)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def lightly_nt_xent(z0: Tensor, z1: Tensor, temperature: float) -> Tensor:
    """Two blocks of logits for each view: the other view with the positive, and the own view without its diagonal."""
    z0, z1 = F.normalize(z0, dim=1), F.normalize(z1, dim=1)
    n = len(z0)
    off_diagonal = ~torch.eye(n, dtype=torch.bool)
    rows = [
        torch.cat([a @ b.T, (a @ a.T)[off_diagonal].view(n, n - 1)], dim=1) / temperature
        for a, b in ((z0, z1), (z1, z0))
    ]
    return F.cross_entropy(torch.cat(rows), torch.arange(n).repeat(2))


def lightly_with_bank(queries: Tensor, keys: Tensor, bank: Tensor, temperature: float) -> Tensor:
    queries, keys = F.normalize(queries, dim=1), F.normalize(keys, dim=1)
    logits = torch.cat([(queries * keys).sum(1, keepdim=True), queries @ bank.T], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(queries), dtype=torch.int64))


@pytest.mark.parametrize("temperature", [0.5, 0.05])
def test_lightly_nt_xent(temperature):
    z0, z1 = (torch.randn(13, 5, dtype=DOUBLE, requires_grad=True) for _ in range(2))
    same(NTXent(temperature, 0, False)(z0, z1), lightly_nt_xent(z0, z1, temperature), z0, z1)
    same(NTXent(temperature, gather_distributed=True)(z0, z1), lightly_nt_xent(z0, z1, temperature), z0, z1)


def test_lightly_memory_bank():
    loss = NTXent(0.2, (12, 5)).double()
    bank = F.normalize(loss.memory_bank.entries, dim=1)  # once more, in float64
    loss.memory_bank.entries.copy_(bank)
    for step in range(5):
        queries, keys = (torch.randn(4, 5, dtype=DOUBLE, requires_grad=True) for _ in range(2))
        same(loss(queries, keys), lightly_with_bank(queries, keys, bank, 0.2), queries, keys)
        place = 4 * step % 12
        bank[place : place + 4] = F.normalize(keys.detach(), dim=1)
        torch.testing.assert_close(loss.memory_bank.entries, bank)


def open_clip_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    logits = scale * image @ text.T
    labels = torch.arange(len(image))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def test_open_clip():
    image, text = (unit(13, 5).requires_grad_() for _ in range(2))
    scale = torch.tensor(2.5, dtype=DOUBLE, requires_grad=True)
    want = open_clip_loss(image, text, scale.exp())
    loss = ClipLoss(local_loss=False, gather_with_grad=False, cache_labels=True, rank=0, world_size=1)
    same(loss(image, text, scale.exp()), want, image, text, scale)
    same(loss(image, text, scale.exp(), output_dict=True)["contrastive_loss"], want, image, text, scale)
    same(loss(image, text, scale.exp(), logit_bias=torch.tensor(-10.0)), want, image, text, scale)
    same(InfoNCE(normalize=False)(image, text, scale.exp()), want, image, text, scale)
    torch.testing.assert_close(InfoNCE()(image, text, scale.exp()), want)
    # Features are taken as they come.
    same(loss(3 * image, text, scale.exp()), open_clip_loss(3 * image, text, scale.exp()), image, text, scale)


def metric_learning_nt_xent(z: Tensor, labels: list[int], temperature: float) -> Tensor:
    """One term for each ordered pair of equal labels, over it and the points of other labels."""
    z = F.normalize(z, dim=1)
    terms = [z.new_zeros(()) * z.sum()]
    for i, label in enumerate(labels):
        negatives = [torch.exp(z[i] @ z[k] / temperature) for k, other in enumerate(labels) if other != label]
        for p, other in enumerate(labels):
            if p != i and other == label:
                positive = torch.exp(z[i] @ z[p] / temperature)
                terms.append(-torch.log(positive / (positive + sum(negatives))))
    return sum(terms) / max(len(terms) - 1, 1)


def metric_learning_sup_con(z: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """The mean over points with a positive of the mean over positives, over all other points."""
    z = F.normalize(z, dim=1)
    logits = (z @ z.T / temperature).masked_fill(torch.eye(len(z), dtype=torch.bool), -math.inf)
    log_probability = logits - logits.logsumexp(dim=1, keepdim=True)
    positives = (labels[:, None] == labels) & ~torch.eye(len(z), dtype=torch.bool)
    counts = positives.sum(dim=1)
    means = log_probability.masked_fill(~positives, 0).sum(dim=1)[counts > 0] / counts[counts > 0]
    return -means.mean()


@settings(max_examples=30, deadline=None)
@given(labels=st.lists(st.integers(-2, 3), min_size=1, max_size=12), seed=st.integers(0, 100))
def test_metric_learning_nt_xent(labels, seed):
    z = torch.randn(len(labels), 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    same(LabelNTXent(0.3)(z, torch.tensor(labels)), metric_learning_nt_xent(z, labels, 0.3), z)


def test_metric_learning_sup_con():
    z = torch.randn(15, 4, dtype=DOUBLE, requires_grad=True)
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 3, 3, 3, 3, 4, 5, 0, 1, 1])  # 2, 4 and 5 occur once
    same(SupCon(0.2)(z, labels), metric_learning_sup_con(z, labels, 0.2), z)


# ---------------------------------------------------------------------------------------------- the packages themselves


def test_against_lightly():
    lightly = pytest.importorskip("lightly.loss")
    z0, z1 = (torch.randn(16, 8, dtype=DOUBLE, requires_grad=True) for _ in range(2))
    same(NTXent(0.3, 0, False)(z0, z1), lightly.NTXentLoss(0.3, 0, False)(z0, z1), z0, z1)
    theirs, ours = lightly.NTXentLoss(0.3, (32, 8)).double(), NTXent(0.3, (32, 8)).double()
    theirs.memory_bank.bank.copy_(F.normalize(theirs.memory_bank.bank, dim=1))
    ours.memory_bank.entries.copy_(theirs.memory_bank.bank)
    for _ in range(5):
        q, k = (torch.randn(16, 8, dtype=DOUBLE, requires_grad=True) for _ in range(2))
        same(ours(q, k), theirs(q, k), q, k)


def test_against_open_clip():
    open_clip = pytest.importorskip("open_clip")
    image, text = (unit(16, 8).requires_grad_() for _ in range(2))
    scale = torch.tensor(12.0, dtype=DOUBLE, requires_grad=True)
    same(ClipLoss()(image, text, scale), open_clip.ClipLoss()(image, text, scale), image, text, scale)


def test_against_pytorch_metric_learning():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = pytest.importorskip("pytorch_metric_learning.losses")
    z = torch.randn(16, 8, dtype=DOUBLE, requires_grad=True)
    labels = torch.arange(16) % 5
    same(LabelNTXent(0.3)(z, labels), theirs.NTXentLoss(0.3)(z, labels), z)
    same(SupCon(0.3)(z, labels), theirs.SupConLoss(0.3)(z, labels), z)
