"""The plan of make gpu-check, its bars and its report: what is right, what is counted, what is concluded."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks import bars, harness
from benchmarks.bars import GROUPS, Bar
from benchmarks.gpu import peers, plan, report
from benchmarks.gpu.plan import BARS, ENTRIES, PLAN, Item
from benchmarks.harness import EAGER, FLOOR, OURS, Params, Row, Tensors, is_library


@pytest.fixture(autouse=True)
def _threads_kept(one_thread: None) -> None:
    """Everything here is small."""


def row(contender: str, *samples: float, n: int = 8, entry: str = "toy", **fields: object) -> Row:
    made = Row(entry, {"n": n, "d": 4, "dtype": "bfloat16"}, "both", contender, 1)
    if samples:
        made.take_times(samples, 1)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


# ----------------------------------------------------------------------------------------------------------- the tables


@pytest.mark.parametrize("item", PLAN, ids=lambda item: item.key)
def test_contenders_of_the_plan_are_right_at_a_tiny_size(item: Item) -> None:
    params = {**item.params, "n": 9, "d": 5, **({"iterations": 6} if "iterations" in item.params else {})}
    state = item.entry.setup(params)
    want = harness.truth(item.entry, params, state, item.mode)
    contenders = [c for c in item.contenders if c.wrap is None and not is_library(c.name)]
    assert contenders
    for contender in contenders:
        got = harness.call(item.entry, contender.build(), params, state, item.mode)
        assert item.entry.check.error(got, want) <= item.entry.check.bound(state.inputs[0].dtype)


def test_the_sigmoid_reference_is_the_dense_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan.infonce, "BLOCK", 4)
    x, y = (torch.randn(9, 5, dtype=torch.float64) for _ in range(2))
    u, v = x / x.norm(dim=1, keepdim=True), y / y.norm(dim=1, keepdim=True)
    signed: Tensor = (2 * torch.eye(9, dtype=torch.float64) - 1) * (3.0 * u @ v.T - 2.0)
    want = (1 + (-signed).exp()).log().sum() / 9
    (got,) = plan.sigmoid_reference({"scale": 3.0, "bias": -2.0}, (x, y))
    assert (got - want).abs() <= 1e-13


def test_minimum_of_operations() -> None:
    flops = {item.key.split(" dtype")[0]: item.entry.floor(item.params).flops(item.mode) for item in PLAN}
    n = 32768
    assert flops[f"info_nce n={n} d=256 temperature=0.1"] == 8 * n**2 * 256
    assert flops[f"nt_xent n={n} d=128 temperature=0.1"] == 4 * (2 * n) * (2 * n + 1) * 128
    assert flops["sinkhorn n=10000 d=64 epsilon=0.1 iterations=100"] == 200 * 2 * 10**8 * 64
    assert flops[f"sigmoid loss n={n} d=768 scale=10.0 bias=-10.0"] == 6 * n**2 * 768


@pytest.mark.parametrize("bar", BARS, ids=lambda bar: f"{bar.entry} {bar.case} {bar.number}")
def test_every_bar_is_measured_by_the_plan(bar: Bar) -> None:
    items = [
        i for i in PLAN if i.entry.name == bar.entry and i.mode == bar.mode and bar.where.items() <= i.params.items()
    ]
    assert len(items) == 1
    names = {c.name for c in items[0].contenders} | {FLOOR, *GROUPS}
    assert {bar.over} | ({bar.under} if bar.under else set()) <= names
    assert bar.quantity != "launches" or items[0].launches


def test_the_plan_names_each_case_once() -> None:
    keys = [item.key for item in PLAN]
    assert len(set(keys)) == len(keys)
    assert {item.entry.name for item in PLAN} == {entry.name for entry in ENTRIES}
    assert all(item.contenders[0].name == OURS for item in PLAN if item.entry.name != "sigmoid loss")


@pytest.mark.parametrize(
    "forward",
    [peers.inf_cl, peers.cut_cross_entropy, peers.liger, peers.siglip_kernel, peers.flash_sinkhorn],
    ids=lambda forward: forward.__name__,
)
def test_libraries_are_imported_when_called(forward: Callable[[Params, Tensors], Tensors]) -> None:
    params = {"temperature": 0.1, "scale": 10.0, "bias": -10.0, "epsilon": 0.1, "iterations": 2}
    with pytest.raises(Exception, match=r"No module named|CUDA|cuda|driver|triton"):
        forward(params, (torch.randn(4, 16), torch.randn(4, 16)))


# ----------------------------------------------------------------------------------------------------------------- bars


def judged(bar: Bar, *rows: Row) -> bars.Outcome:
    (outcome,) = bars.evaluate([bar], rows, 1, ())
    return outcome


def test_bars_of_launches_errors_memory_and_single_times() -> None:
    rows = (
        row(OURS, 2.0, launches=8, error=3e-7, peak_extra_bytes=10, kept_bytes=2),
        row(EAGER, 5.0, launches=20, error=2e-7, peak_extra_bytes=1000, kept_bytes=0),
    )
    for bar, measured, met in (
        (Bar("toy", {"n": 8}, OURS, of="launches", at_most=8), 8, True),
        (Bar("toy", {"n": 8}, OURS, of="launches", at_most=7), 8, False),
        (Bar("toy", {"n": 8}, OURS, EAGER, of="error", at_most=2), 1.5, True),
        (Bar("toy", {"n": 8}, OURS, EAGER, of="error", at_most=1.4), 1.5, False),
        (Bar("toy", {"n": 8}, OURS, EAGER, of="memory", at_most=0.01), 0.012, False),
        (Bar("toy", {"n": 8}, OURS, of="time", at_most=3), 2.0, True),
        (Bar("toy", {"n": 8}, EAGER, OURS, at_least=2.5), 2.5, True),
    ):
        outcome = judged(bar, *rows)
        assert outcome.measured == pytest.approx(measured)
        assert outcome.met is met
    untaken = judged(Bar("toy", {"n": 8}, OURS, of="launches", at_most=8), row(OURS, 2.0))
    assert (untaken.met, untaken.reason) == (None, "no launches taken")
    assert judged(Bar("toy", {"n": 8}, OURS, EAGER, of="error", at_most=2), rows[0], row(EAGER, error=0.0)).met is False
    with pytest.raises(ValueError, match="want of one of"):
        Bar("toy", {}, OURS, of="taste", at_most=1)


def test_memory_of_eager_grows_as_the_square_where_it_did_not_fit() -> None:
    taken = row(EAGER, 1.0, n=4, peak_extra_bytes=1000)
    smaller = row(EAGER, 1.0, n=2, peak_extra_bytes=900)
    absent_row = row(EAGER, n=8, note="OutOfMemoryError")
    other = row(EAGER, n=8, entry="other")
    rows = plan.with_memory_of_eager([smaller, taken, row(OURS, n=8), absent_row, other])
    assert [r.peak_extra_bytes for r in rows] == [900, 1000, None, 4000, None]
    assert rows[3].note == "OutOfMemoryError; memory computed: 4 times that of n=4"


def test_the_report_is_plain_and_complete(capsys: pytest.CaptureFixture[str]) -> None:
    ours = row(OURS, 1e-3, 2e-3, 3e-3, flops=8 * 10**9, error=1e-3, launches=7, ratio_to_floor=2.5, ratio_to_ours=1.0)
    assert report.cells(ours)[:6] == (OURS, "2", "1.5 to 2.5", "4.0", "40.0", "1.00")
    report.print_rows([ours, row("lib", note="not installed")])
    report.print_rates({"bfloat16": 700.0})
    report.print_kernels({"case": {OURS: ["kernel"]}})
    outcomes = bars.evaluate(BARS, [ours], 1, ())
    report.print_bars(outcomes, partial=False)
    report.print_steps({"tests": {"status": "passed", "seconds": 1.0, "summary": "3 passed"}})
    printed = capsys.readouterr().out
    assert "left out: lib" in printed
    assert f"bars: 0 of 0 met, {len(BARS)} not measured" in printed
    assert printed.count("not measured") == len(BARS) + 1
    assert "1 launches of ours, case" in printed
