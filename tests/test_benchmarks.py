"""The benchmark harness on toy operations: what it calls, in which order, and what it concludes. Nothing is timed."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import bars, harness, limits, memory, publish, report, run
from benchmarks.bars import FASTEST, GROUPS, LIBRARY, Bar
from benchmarks.floor import DX, DY, EXP, FLOOR_ROWS, SCORES, Products, row_block_products
from benchmarks.harness import (
    COMPILE,
    EAGER,
    FLOOR,
    OURS,
    TOLERANCE,
    Budget,
    Case,
    Check,
    Contender,
    Entry,
    Params,
    Row,
    State,
    Tensors,
    absolute_error,
    is_library,
)
from benchmarks.limits import History
from benchmarks.suites import SUITES, infonce, sinkhorn
from benchmarks.suites.common import Suite, cases, two_sets

QUICK = Budget(seconds=0.0, rounds=4, min_rounds=2)

# ----------------------------------------------------------------------------------------------------------------- toys


def inner(params: Params, inputs: Tensors) -> Tensors:
    x, y = inputs
    return ((x @ y.T).sum(1),)


def inner_of_sums(params: Params, inputs: Tensors) -> Tensors:
    x, y = inputs
    return (x @ y.sum(0),)


def wrong(params: Params, inputs: Tensors) -> Tensors:
    return (1.01 * inner(params, inputs)[0],)


def right_value_wrong_gradient(params: Params, inputs: Tensors) -> Tensors:
    x, y = inputs
    return (inner(params, (x, y.detach()))[0] + 0 * y.sum(),)


def absent(params: Params, inputs: Tensors) -> Tensors:
    import no_such_library  # type: ignore[import-not-found]

    return (no_such_library.inner(*inputs),)


def allocating(params: Params, inputs: Tensors) -> Tensors:
    return (inputs[0].sum() + torch.ones(16 << 20).sum(),)  # 64 MiB


def widened(state: State) -> State:
    return State(tuple(t.detach().double().requires_grad_() for t in state.inputs), state.cotangents)


def products_of(params: Params) -> Products:
    return Products(params["n"], params["n"], params["d"], forward=((SCORES,),), both=((SCORES,), (SCORES, DX, DY)))


def toy(*contenders: Contender, **more: object) -> Entry:
    fields: dict[str, object] = {
        "name": "toy",
        "cases": (Case({"n": 6, "d": 3}),),
        "quick": (Case({"n": 5, "d": 3}),),
        "setup": two_sets,
        "contenders": contenders,
        "reference": inner,
        "floor": products_of,
    }
    return Entry(**{**fields, **more})  # type: ignore[arg-type]


def measured(entry: Entry, case: Case, mode: str = "both", **more: object) -> dict[str, Row]:
    settings: dict[str, object] = {"threads": 1, "history": History(call_s=10.0)}
    rows = harness.measure(entry, case, mode, QUICK, **{**settings, **more})  # type: ignore[arg-type]
    return {row.contender: row for row in rows}


@pytest.fixture(autouse=True)
def _threads_kept():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def row(
    contender: str, *samples: float, entry: str = "toy", threads: int = 2, mode: str = "both", **fields: object
) -> Row:
    made = Row(entry, {"n": 8, "d": 4, "temperature": 0.1}, mode, contender, threads)
    if samples:
        made.take_times(samples, 1)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


# ----------------------------------------------------------------------------------------------------------------- time


def test_ratio_is_the_median_of_quotients_not_the_quotient_of_medians() -> None:
    # The machine is ten times slower in the second round, for both.
    assert harness.paired_ratio([2.0, 20.0, 2.2], [1.0, 10.0, 1.0]) == pytest.approx(2.0)
    assert harness.paired_ratio([1.0, 30.0, 8.0], [1.0, 10.0, 4.0]) == pytest.approx(2.0)


def test_ratio_pairs_the_rounds_that_both_took_part_in() -> None:
    assert harness.paired_ratio([4.0, 6.0], [2.0, 2.0, 100.0, 100.0]) == pytest.approx(2.5)


def test_contenders_are_called_in_turn() -> None:
    called: list[str] = []
    functions: dict[str, Callable[[], object]] = {name: (lambda name=name: called.append(name)) for name in "abc"}
    samples = harness.alternate(functions, {"a": 1, "b": 2, "c": 1}, Budget(seconds=1e9, rounds=3))
    # One call more, uncounted, where a sample is of several.
    assert "".join(called) == "abbbc" * 3
    assert {name: len(taken) for name, taken in samples.items()} == {"a": 3, "b": 3, "c": 3}


def test_slow_contenders_leave_after_the_first_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"fast": 0.1, "slow": 5.0, "other": 0.1}
    monkeypatch.setattr(harness, "timed", lambda function, calls: function())
    functions: dict[str, Callable[[], object]] = {name: (lambda s=s: s) for name, s in seconds.items()}
    samples = harness.alternate(functions, dict.fromkeys(seconds, 1), Budget(seconds=1.0, rounds=30, min_rounds=3))
    assert len(samples["slow"]) == 3
    # Ten samples of 0.1 s are the budget; rounding may ask for one more.
    assert len(samples["fast"]) == len(samples["other"]) in (10, 11)


def test_nobody_is_timed_without_a_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "timed", lambda function, calls: function())
    functions: dict[str, Callable[[], object]] = {"fast": lambda: 0.1, "slow": lambda: 5.0}
    samples = harness.alternate(functions, {"fast": 1, "slow": 1}, Budget(seconds=1.0, rounds=30, min_rounds=3))
    assert {name: len(taken) for name, taken in samples.items()} == {"fast": 3, "slow": 3}


def test_quartiles() -> None:
    several, single = row(OURS, 1.0, 2.0, 3.0, 4.0, 5.0), row(OURS, 7.0)
    assert (several.q1_s, several.median_s, several.q3_s, several.rounds) == (2.0, 3.0, 4.0, 5)
    assert (single.q1_s, single.median_s, single.q3_s, single.rounds) == (7.0, 7.0, 7.0, 1)


# --------------------------------------------------------------------------------------------------------------- limits


def test_refusal_by_time_grows_as_the_square_of_n() -> None:
    history = History(call_s=10.0)
    assert history.refusal("e", "c", 2, 4096) is None
    history.time("e", "c", 2, 2048, 2.0)
    assert history.refusal("e", "c", 2, 4096) is None  # 8 s
    assert history.refusal("e", "c", 2, 8192) is not None  # 32 s
    assert history.refusal("e", "c", 2, 2048) is None
    for other in (("other", "c", 2), ("e", "other", 2), ("e", "c", 1)):
        assert history.refusal(*other, 8192) is None
    history.time("e", "c", 2, 512, 9.0)  # a smaller size says less, whatever came of it
    assert history.refusal("e", "c", 2, 4096) is None


def test_refusal_by_memory_leaves_half(monkeypatch: pytest.MonkeyPatch) -> None:
    history = History(call_s=1e9)
    history.time("e", "c", 2, 1000, 1.0)
    history.memory("e", "c", 2, 1000, 10**9)
    monkeypatch.setattr(limits, "available_bytes", lambda: 9 * 10**9)
    assert history.refusal("e", "c", 2, 2000) is None
    monkeypatch.setattr(limits, "available_bytes", lambda: 7 * 10**9)
    refusal = history.refusal("e", "c", 2, 2000)
    assert refusal is not None
    assert "4.0 GB" in refusal
    monkeypatch.setattr(limits, "available_bytes", lambda: None)
    assert history.refusal("e", "c", 2, 2000) is None


# ---------------------------------------------------------------------------------------------------------------- floor


def addmm_flops(total: torch.Size, a: torch.Size, b: torch.Size, **_: object) -> int:
    return 2 * a[0] * a[1] * b[1]


def flops_of(function: Callable[[], None]) -> int:
    """Of the products in a call; the counter does not know addmm_ by itself."""
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: addmm_flops}) as counter:
        function()
    return counter.get_total_flops()


@pytest.mark.parametrize("mode", ["forward", "both"])
@pytest.mark.parametrize("n", [FLOOR_ROWS // 2, 2 * FLOOR_ROWS, 2 * FLOOR_ROWS + 7])
def test_floor_takes_the_products_it_says(n: int, mode: str) -> None:
    products = products_of({"n": n, "d": 5})
    function = row_block_products(products, torch.float32, mode)
    assert flops_of(function) == products.flops(mode) == 2 * n * n * 5 * {"forward": 1, "both": 4}[mode]


@pytest.mark.parametrize("mode", ["forward", "both"])
def test_triangle_takes_half(mode: str) -> None:
    n = 8 * FLOOR_ROWS + 3
    both = ((SCORES,), (SCORES, DX, DY))
    halves = Products(n, n, 2, forward=((SCORES,),), both=both, triangle=True)
    assert halves.flops(mode) == n * (n + 1) * 2 * halves.count(mode)
    function = row_block_products(halves, torch.float32, mode)
    # The scores of blocks on the diagonal are taken whole.
    assert halves.flops(mode) <= flops_of(function) <= halves.flops(mode) * (1 + FLOOR_ROWS / n)


def test_floor_takes_exponentials(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    exp = torch.exp
    monkeypatch.setattr(torch, "exp", lambda x, out: taken.append(x.numel()) or exp(x, out=out))
    n = FLOOR_ROWS + 3
    products = Products(n, n, 2, forward=((SCORES, EXP),), both=((SCORES, EXP), (SCORES, EXP, DX)))
    for mode, times in (("forward", 1), ("both", 2)):
        taken.clear()
        row_block_products(products, torch.float32, mode)()
        assert sum(taken) == times * n * n
    assert products.flops("forward") == 2 * n * n * 2
    assert products.text("forward") == "1 product: scores, exponentials"


def test_floor_in_words() -> None:
    assert products_of({"n": 8, "d": 4}).text("both") == "4 products: scores; scores, dx, dy"
    assert products_of({"n": 8, "d": 4}).text("forward") == "1 product: scores"
    assert sinkhorn.passes({"n": 8, "d": 4, "iterations": 3}).text("forward") == "6 products: 6 x scores, exponentials"
    assert infonce.nt_xent_products({"n": 8, "d": 4}).text("both") == "4 half products: scores; scores, dx, dy"
    assert infonce.one_direction_products({"n": 8, "d": 4}).text("both") == "3 products: scores, dx, dy"


def test_floor_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="dz"):
        Products(4, 4, 2, forward=((SCORES,),), both=((SCORES, "dz"),))
    with pytest.raises(ValueError, match="m=5"):
        Products(4, 5, 2, forward=((SCORES,),), both=((SCORES,),), triangle=True)


# ---------------------------------------------------------------------------------------------------------- correctness


def test_relative_error() -> None:
    want = (torch.tensor([1.0, -4.0]), torch.tensor([0.0, torch.inf]))
    assert harness.relative_error(want, want) == 0
    assert harness.relative_error((torch.tensor([1.2, -4.0]), want[1]), want) == pytest.approx(0.05)
    assert harness.relative_error((want[0], torch.tensor([0.5, torch.inf])), want) == 0.5
    assert math.isnan(harness.relative_error((torch.tensor([math.nan, -4.0]), want[1]), want))
    assert harness.relative_error(want[:1], want) == math.inf
    assert harness.relative_error((want[0][:1], want[1]), want) == math.inf
    assert harness.relative_error((want[0], torch.tensor([0.0, 1.0])), want) == math.inf


def test_absolute_error() -> None:
    want = (torch.tensor([1000.0, -2.0, torch.inf]), torch.zeros(2))
    assert harness.absolute_error((torch.tensor([1000.0, -2.25, torch.inf]), torch.zeros(2)), want) == 0.25
    assert math.isnan(harness.absolute_error((torch.tensor([torch.nan, 5.0, torch.inf]), torch.ones(2)), want))
    assert harness.absolute_error((torch.full((3,), -torch.inf), torch.zeros(2)), want) == math.inf


def test_an_entry_may_bring_its_own_check() -> None:
    check = Check(absolute_error, "error in nats", 1e-3)
    rows = measured(toy(Contender(OURS, inner), Contender("wrong", wrong), check=check), Case({"n": 6, "d": 3}))
    assert rows[OURS].median_s is not None
    assert rows["wrong"].median_s is None
    assert rows["wrong"].note.startswith("wrong: error in nats ")
    assert rows["wrong"].note.endswith("at most 1e-03 allowed")


def test_wrong_failing_and_missing_contenders_are_reported_and_not_timed() -> None:
    entry = toy(
        Contender(OURS, inner_of_sums),
        Contender("good", inner),
        Contender("wrong", wrong),
        Contender("wrong gradient", right_value_wrong_gradient),
        Contender("absent", absent),
        Contender("small only", inner, max_n=5, because="it is large"),
        Contender("costly", inner, costly=True),
    )
    rows = measured(entry, Case({"n": 6, "d": 3}), quick=True)
    timed = {name for name, row in rows.items() if row.median_s is not None}
    assert timed == {OURS, "good", FLOOR}
    assert "costly" not in rows
    assert rows["wrong"].note.startswith("wrong: relative error 0.01")
    assert rows["wrong gradient"].note.startswith("wrong")
    assert "no_such_library" in rows["absent"].note
    assert rows["small only"].note == "not run: n <= 5 only, it is large"
    assert rows[OURS].ratio_to_ours == rows[FLOOR].ratio_to_floor == 1
    assert rows[OURS].error is not None
    assert rows[OURS].error <= TOLERANCE[torch.float32]
    assert rows[FLOOR].note == "4 products: scores; scores, dx, dy"
    assert rows["good"].rounds == 2
    assert rows["good"].ratio_to_ours == harness.paired_ratio(rows["good"].samples_s, rows[OURS].samples_s)
    forward = measured(entry, Case({"n": 6, "d": 3}), "forward")
    assert forward["wrong gradient"].median_s is not None
    assert forward["costly"].median_s is not None


def test_prepare_changes_what_a_contender_gets() -> None:
    entry = toy(Contender(OURS, inner), Contender(f"{OURS}, wide", inner, prepare=widened))
    rows = measured(entry, Case({"n": 6, "d": 3, "dtype": "bfloat16"}))
    narrow, wide = rows[OURS].error, rows[f"{OURS}, wide"].error
    assert narrow is not None
    assert wide is not None
    assert wide <= 1e-12 < narrow


def test_slow_call_gives_one_sample_and_refuses_larger_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter((1e-3, 11.0, 1e-3, 1e-3, 1e-3))  # ours, slow, products; ours, products
    monkeypatch.setattr(harness, "once", lambda function: next(seconds))
    history = History(call_s=10.0)
    entry = toy(Contender(OURS, inner), Contender("slow", inner))
    rows = measured(entry, Case({"n": 6, "d": 3}), history=history)
    assert rows["slow"].samples_s == [11.0]
    assert rows["slow"].ratio_to_ours == pytest.approx(11.0 / rows[OURS].median_s)  # outside the rounds
    assert "not alternated" in rows["slow"].note
    assert rows[OURS].rounds == 2
    assert history.refusal("toy", "slow", 1, 7) is not None
    assert history.refusal("toy", OURS, 1, 7) is None
    rows = measured(entry, Case({"n": 7, "d": 3}), history=history)
    assert rows["slow"].note.startswith("not run: 11 s at n=6")
    assert rows[OURS].rounds == 2


def test_a_check_that_takes_long_is_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[int] = []

    def slow(params: Params, inputs: Tensors) -> Tensors:
        called.append(1)
        time.sleep(0.1)
        return inner(params, inputs)

    budget = Budget(seconds=0.0, rounds=3, min_rounds=2, call_s=0.04)
    for costly in (False, True):  # the first call of a costly one is mostly getting ready
        called.clear()
        entry = toy(Contender(OURS, inner), Contender("slow", slow, costly=costly))
        rows = harness.measure(
            entry, Case({"n": 6, "d": 3}), "forward", budget, threads=1, history=History(call_s=10.0)
        )
        (row,) = (row for row in rows if row.contender == "slow")
        assert (len(called) > 1) == costly
        assert len(row.samples_s) == 1
        assert row.samples_s[0] >= 0.1


def test_ours_is_called_however_long_it_takes() -> None:
    history = History(call_s=10.0)
    history.time("toy", OURS, 1, 6, 9.0)
    assert measured(toy(Contender(OURS, inner)), Case({"n": 60, "d": 3}), history=history)[OURS].rounds == 2


def test_memory_of_a_call() -> None:
    entry = toy(Contender(OURS, allocating))
    taken = memory.call_memory(entry, OURS, {"n": 6, "d": 3}, "forward", 1)
    assert 63 << 20 <= taken.peak_extra_bytes < 80 << 20  # the system counts resident pages roughly
    assert taken.seconds > 0


PARENT = """
import os, time
from benchmarks.memory import MemoryProbe
if __name__ == "__main__":
    with MemoryProbe() as probe:
        worker = probe.worker("ours")
        print(worker.submit(os.getpid).result(), flush=True)
        worker.submit(time.sleep, 60).result()
"""


def _runs(process: Path) -> bool:
    """Whether a process does more than wait to be reaped."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow  # two processes that import torch
@pytest.mark.skipif(sys.platform != "linux", reason="asks the system to end the workers, which Linux does")
def test_workers_end_when_the_run_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": str(Path(harness.__file__).parents[1])}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        worker = Path("/proc") / parent.stdout.readline().strip()
        assert worker.name.isdigit()
        assert worker.exists()
        parent.terminate()
    deadline = time.monotonic() + 20
    while _runs(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(worker)


# ----------------------------------------------------------------------------------------------------------------- bars


def one(bar: Bar, *rows: Row, threads: int = 2, features: tuple[str, ...] = ()) -> bars.Outcome:
    (outcome,) = bars.evaluate([bar], rows, threads, features)
    return outcome


def test_bar_of_a_ratio() -> None:
    rows = (row(OURS, 1.0, 10.0), row(EAGER, 3.0, 30.0), row(FLOOR, 0.5, 8.0))
    met = one(Bar("toy", {"n": 8}, EAGER, OURS, at_least=3.0), *rows)
    assert (met.measured, met.met) == (pytest.approx(3.0), True)
    assert one(Bar("toy", {"n": 8}, EAGER, OURS, at_least=3.01), *rows).met is False
    assert one(Bar("toy", {"n": 8, "d": 4}, OURS, FLOOR, at_most=1.63), *rows).met is True
    assert one(Bar("toy", {"n": 8, "d": 4}, OURS, FLOOR, at_most=1.62), *rows).met is False


def test_bar_of_the_fastest_peer() -> None:
    rows = (
        row(OURS, 1.0),
        row(f"{OURS}, wide", 1.2),
        row(EAGER, 3.0),
        row(COMPILE, 2.0),
        row("lib", 2.5),
        row(FLOOR, 0.5),
    )
    outcome = one(Bar("toy", {"n": 8}, FASTEST, OURS, at_least=1.5), *rows)
    assert (outcome.measured, outcome.reason) == (2.0, COMPILE)
    outcome = one(Bar("toy", {"n": 8}, LIBRARY, OURS, at_least=1.5), *rows, row(f"{EAGER}, by rows", 1.5))
    assert (outcome.measured, outcome.reason) == (2.5, "lib")


def test_bar_of_memory_counts_what_is_kept() -> None:
    bar = Bar("toy", {"n": 8}, OURS, at_most=300e6)
    assert one(bar, row(OURS, peak_extra_bytes=250_000_000, kept_bytes=40_000_000)).met is True
    assert one(bar, row(OURS, peak_extra_bytes=250_000_000, kept_bytes=60_000_000)).met is False
    assert one(bar, row(OURS, peak_extra_bytes=250_000_000, kept_bytes=-60_000_000)).measured == 250e6
    assert one(bar, row(OURS, note="memory: killed")).reason == "memory: killed"


def test_bar_that_was_not_measured_is_not_met() -> None:
    bar = Bar("toy", {"n": 8}, EAGER, OURS, at_least=1.0)
    both = row(OURS, 1.0), row(EAGER, 3.0)
    for rows in (
        (),
        (row(OURS, 1.0),),
        (row(OURS, note="wrong"), row(EAGER, 3.0)),
        tuple(row(r.contender, 1.0, mode="forward") for r in both),
        tuple(row(r.contender, 1.0, threads=1) for r in both),
        tuple(row(r.contender, 1.0, entry="other") for r in both),
    ):
        outcome = one(bar, *rows)
        assert outcome.met is None
        assert outcome.reason
    assert one(Bar("toy", {"n": 9}, EAGER, OURS, at_least=1.0), *both).met is None
    assert one(bar, row(OURS, 1.0), row(EAGER, math.nan)).met is False


def test_bar_that_needs_a_feature() -> None:
    bar = Bar("toy", {"n": 8}, EAGER, OURS, at_least=1.0, needs="amx")
    rows = (row(OURS, 1.0), row(EAGER, 3.0))
    assert one(bar, *rows).met is None
    assert one(bar, *rows, features=("amx",)).met is True


def test_bar_wants_one_bound() -> None:
    for bounds in ({}, {"at_least": 1.0, "at_most": 2.0}):
        with pytest.raises(ValueError, match="one of at_least and at_most"):
            Bar("toy", {}, EAGER, OURS, **bounds)


# --------------------------------------------------------------------------------------------------------------- suites


@pytest.mark.parametrize("name", SUITES)
def test_every_bar_is_measured_by_a_whole_run(name: str) -> None:
    entries = {entry.name: entry for entry in SUITES[name].entries}
    assert len(entries) == len(SUITES[name].entries)
    for bar in SUITES[name].bars:
        entry = entries[bar.entry]
        (case,) = (
            case
            for case in entry.cases
            if case.threads is None and bar.mode in case.modes and bar.where.items() <= case.params.items()
        )
        if bar.under is None:
            assert case.alone or case.memory
            assert bar.over == OURS
            continue
        assert not case.alone
        names = {contender.name for contender in entry.contenders} | {FLOOR, *GROUPS}
        assert {bar.over, bar.under} <= names


@pytest.mark.parametrize("name", SUITES)
def test_cases_of_an_entry_differ_and_grow(name: str) -> None:
    for entry in SUITES[name].entries:
        assert entry.contenders[0].name == OURS
        keys = [(tuple(case.params.items()), case.threads) for case in entry.cases]
        assert len(set(keys)) == len(keys)
        # A contender that is too slow is known by a smaller n of the same dimension.
        for d in {case.params["d"] for case in entry.cases}:
            sizes = [case.params["n"] for case in entry.cases if case.params["d"] == d and case.threads is None]
            assert sizes == sorted(set(sizes))


ENTRIES = [(name, entry) for name, suite in SUITES.items() for entry in suite.entries]


@pytest.mark.parametrize(("name", "entry"), ENTRIES, ids=[f"{name}: {entry.name}" for name, entry in ENTRIES])
def test_ours_and_eager_are_right_at_a_tiny_size(name: str, entry: Entry) -> None:
    params = {**entry.cases[0].params, "n": 9, "d": 5}
    state = entry.setup(params)
    for mode in ("forward", *(("both",) if state.cotangents else ())):
        want = harness.truth(entry, params, state, mode)
        for contender in entry.contenders:
            if contender.name != OURS and (is_library(contender.name) or contender.wrap is not None):
                continue
            got = harness.call(entry, contender.build(), params, contender.prepared(state), mode)
            assert entry.check.error(got, want) <= entry.check.bound(state.inputs[0].dtype)


@pytest.mark.parametrize("block", [4, 9, 100])
@pytest.mark.parametrize("entry", infonce.ENTRIES[:3], ids=lambda entry: entry.name)
def test_references_by_blocks_are_the_dense_formulas(entry: Entry, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infonce, "BLOCK", block)
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(9, 5, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2))
    temperature = 0.2

    def pick(scores: Tensor, targets: Tensor) -> Tensor:
        return -(scores.exp() / scores.exp().sum(1, keepdim=True)).gather(1, targets[:, None]).log().mean()

    u, v = x / x.norm(dim=1, keepdim=True), y / y.norm(dim=1, keepdim=True)
    own = torch.arange(9)
    z = torch.cat([u, v])
    others = (z @ z.T / temperature).masked_fill(torch.eye(18, dtype=torch.bool), -torch.inf)
    want = {
        "info_nce symmetric": (pick(u @ v.T / temperature, own) + pick(v @ u.T / temperature, own)) / 2,
        "info_nce one direction": pick(u @ v.T / temperature, own),
        "nt_xent": pick(others, torch.cat([own + 9, own])),
    }[entry.name]
    (got,) = entry.reference({"temperature": temperature}, (x, y))
    assert (got - want).abs() <= 1e-13
    for g, w in zip(torch.autograd.grad(got, (x, y)), torch.autograd.grad(want, (x, y)), strict=True):
        assert (g - w).abs().max() <= 1e-13


# --------------------------------------------------------------------------------------------------------------- report


def test_ratio_lines() -> None:
    rows = [
        row(OURS, 0.5, ratio_to_ours=1.0, ratio_to_floor=1.1, peak_extra_bytes=2_500_000),
        row(EAGER, 2.0, ratio_to_ours=4.0),
        row(COMPILE, 1.0, ratio_to_ours=2.0),
        row("lib", 0.75, ratio_to_ours=1.5),
        row(FLOOR, 0.45, ratio_to_ours=0.9),
    ]
    (line,) = report.ratio_lines(rows)
    assert line == ("toy", "n=8 d=4 temperature=0.1", "both", "2", "500", "4.00", "2.00", "1.50", "lib", "1.10", "2.5")


def test_left_out_contenders_are_listed_once() -> None:
    rows = [row(OURS, 1.0), row("lib", note="not installed"), row("lib", note="not installed"), row("slow", 2.0)]
    assert list(report.left_out(rows)) == [("lib", "not installed")]
    assert len(report.left_out(rows)["lib", "not installed"]) == 2


def test_a_run_writes_rows_bars_and_what_they_belong_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = toy(
        Contender(OURS, inner_of_sums),
        Contender("lib", inner),
        Contender("absent", absent),
        cases=(*cases((6, 3), (12, 3)), *cases((6, 3), threads=1), *cases((6, 3), threads=2)),
    )
    bar = Bar("toy", {"n": 6, "d": 3}, "lib", OURS, at_least=1e-9)
    monkeypatch.setattr(run, "SUITES", {"core": Suite((entry,), (bar,), ("torch", "no-such-package"))})
    monkeypatch.setattr(run, "FULL", QUICK)
    path = tmp_path / "out.json"
    assert run.main(["--suite", "core", "--threads", "2", "--out", str(path)]) == 0
    assert not path.with_suffix(".unfinished.json").exists()
    document = json.loads(path.read_text())
    assert {"date", "commit", "dirty", "threads", "machine", "versions", "mi_estimators", "settings"} <= set(document)
    assert {"cpu", "cores", "memory_bytes", "system", "torch_cpu_capability", "features"} <= set(document["machine"])
    assert document["versions"]["no-such-package"] is None
    assert document["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert document["settings"]["budget"]["rounds"] == QUICK.rounds
    taken = [(r["contender"], r["params"]["n"], r["threads"]) for r in document["rows"]]
    # The case of two threads is the run's own.
    assert taken == [(name, n, t) for n, t in ((6, 2), (12, 2), (6, 1)) for name in (OURS, "lib", "absent", FLOOR)]
    assert all(len(r["samples_s"]) == r["rounds"] for r in document["rows"])
    (judged,) = document["bars"]
    assert judged["met"] is True
    assert judged["measured"] == document["rows"][1]["ratio_to_ours"]
    assert judged["bar"]["at_least"] == 1e-9


def test_a_killed_run_leaves_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "SUITES", {"core": Suite((toy(Contender(OURS, inner), cases=cases((6, 3), (12, 3))),))})
    monkeypatch.setattr(run, "FULL", QUICK)
    measure = harness.measure

    def killed(entry: Entry, case: Case, *arguments: object, **more: object) -> list[Row]:
        if case.params["n"] == 12:
            raise KeyboardInterrupt
        return measure(entry, case, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(harness, "measure", killed)
    with pytest.raises(KeyboardInterrupt):
        run.main(["--threads", "1", "--out", str(tmp_path / "out.json")])
    assert [path.name for path in tmp_path.iterdir()] == ["out.unfinished.json"]
    document = json.loads((tmp_path / "out.unfinished.json").read_text())
    assert [(r["contender"], r["params"]["n"]) for r in document["rows"]] == [(OURS, 6), (FLOOR, 6)]


def test_a_run_in_which_ours_is_wrong_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "SUITES", {"core": Suite((toy(Contender(OURS, wrong), Contender("lib", inner)),))})
    assert run.main(["--quick", "--threads", "1", "--out", str(tmp_path / "out.json")]) == 1
    assert run.main(["--only", "nothing", "--threads", "1"]) == 2


def test_publish_fills_the_tables_of_a_page(tmp_path: Path) -> None:
    rows = [
        row(OURS, 0.5, ratio_to_ours=1.0, peak_extra_bytes=2_500_000),
        row(EAGER, 2.0, ratio_to_ours=4.0, peak_extra_bytes=90_000_000),
        row(FLOOR, 0.45),
    ]
    outcomes = bars.evaluate([Bar("toy", {"n": 8}, EAGER, OURS, at_least=3.0)], rows, 2, ())
    document = json.loads(json.dumps(run.document({}, {}, rows, outcomes)))
    results = publish.Results(tmp_path / "results" / "toy.json", document)
    page = tmp_path / "docs" / "page.md"
    text = "".join(
        f"Before.\n\n<!-- run: {what} -->\nold\n<!-- end -->\n" for what in ("ratios toy", "memory toy", "bars", "plot")
    )
    got = publish.filled(text, results, page)
    assert "old" not in got
    assert got.count("Before.") == 4
    assert "| n=8 d=4 temperature=0.1 | both | 2 | 500 | 4.00 |" in got
    assert "| N | d | ours | torch eager |\n| --- | --- | --- | --- |\n| 8 | 4 | 2.5 | 90.0 |\n" in got
    assert "| toy | n=8 | both | torch eager / ours | >= 3.00 | 4.00 | yes |" in got
    assert "(../results/toy.png)" in got
    assert publish.filled(got, results, page) == got
    other = "<!-- entropy: machine -->\nof another kind\n<!-- end -->"
    assert publish.filled(other, results, page) == other
    contenders = publish.filled("<!-- run: contenders toy -->\n<!-- end -->", results, page)
    assert "| n=8 d=4 temperature=0.1 | torch eager | 2000 | 4.00 |  |  |" in contenders
    for what in ("ratios other", "table toy"):
        with pytest.raises(ValueError, match=what.split()[-1]):
            publish.filled(f"<!-- run: {what} -->\n<!-- end -->", results, page)
