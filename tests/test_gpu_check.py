"""What make gpu-check measures and how it survives failures, on the CPU; its CUDA-only lines against a stand-in."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu_check, harness
from benchmarks.floor import SCORES, Products
from benchmarks.gpu import device, measure, plan, problems, steps, supervisor, worker
from benchmarks.gpu.device import Device, kernels_of
from benchmarks.gpu.measure import OUT_OF_TIME, Conditions, DeviceLostError
from benchmarks.gpu.plan import BARS, Item
from benchmarks.gpu.progress import Progress
from benchmarks.harness import EAGER, FLOOR, OURS, Budget, Contender, Entry, Params, Row, Tensors
from benchmarks.provenance import ROOT
from benchmarks.suites.common import two_sets

QUICK = Budget(seconds=0.0, rounds=3, min_rounds=2)

# ----------------------------------------------------------------------------------------------------------------- toys


def inner(params: Params, inputs: Tensors) -> Tensors:
    x, y = inputs
    return ((x @ y.T).sum(1),)


def wrong(params: Params, inputs: Tensors) -> Tensors:
    return (1.01 * inner(params, inputs)[0],)


def absent(params: Params, inputs: Tensors) -> Tensors:
    import no_such_library  # type: ignore[import-not-found]

    return (no_such_library.inner(*inputs),)


def out_of_memory(params: Params, inputs: Tensors) -> Tensors:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8 GiB.")


class Fails:
    """Right for so many calls, then an error."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, params: Params, inputs: Tensors) -> Tensors:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("no more")
        return inner(params, inputs)


def toy(*contenders: Contender, n: int = 6, **more: object) -> Item:
    entry = Entry(
        name="toy",
        cases=(),
        quick=(),
        setup=two_sets,
        contenders=contenders,
        reference=inner,
        floor=lambda params: Products(params["n"], params["n"], params["d"], ((SCORES,),), ((SCORES,),)),
    )
    return Item(entry, {"n": n, "d": 3, "dtype": "float32"}, **more)  # type: ignore[arg-type]


class Small(Device):
    """A CPU that says what a GPU would: bytes, kernels, and whether it still works."""

    product_size = 16
    works = True

    def allocated(self) -> int:
        return 100

    def peak(self, function: Callable[[], object]) -> int:
        function()
        return 70

    def launches(self, function: Callable[[], object]) -> device.Launches:
        function()
        return device.Launches(("first", "second"))

    def usable(self) -> bool:
        return self.works


def conditions(**more: object) -> Conditions:
    settings: dict[str, object] = {"device": Small(), "deadline": time.monotonic() + 100, "budget": QUICK}
    return Conditions(**{**settings, **more})  # type: ignore[arg-type]


def rows_of(item: Item, **more: object) -> dict[str, Row]:
    return {row.contender: row for row in measure.measure(item, conditions(**more)).rows}


@pytest.fixture(autouse=True)
def _threads_kept(one_thread: None) -> None:
    """Everything here is small."""


# ------------------------------------------------------------------------------------------------------------- one case


def test_a_case_is_checked_and_timed_with_the_product_beside_it() -> None:
    item = toy(Contender(OURS, inner), Contender(EAGER, inner), launches=True)
    measured = measure.measure(item, conditions())
    rows = {row.contender: row for row in measured.rows}
    assert list(rows) == [OURS, EAGER, FLOOR]
    for name in (OURS, EAGER):
        assert rows[name].error is not None
        assert rows[name].error <= 1e-6
        assert (rows[name].peak_extra_bytes, rows[name].kept_bytes, rows[name].launches) == (70, 0, 2)
    assert all(row.rounds >= QUICK.min_rounds and row.flops == 2 * 6 * 6 * 3 for row in measured.rows)
    assert rows[OURS].ratio_to_ours == rows[FLOOR].ratio_to_floor == 1.0
    assert measured.kernels == {OURS: ("first", "second"), EAGER: ("first", "second")}


def test_the_product_is_scaled_to_the_operations_of_the_entry() -> None:
    class Clock(Small):
        def seconds(self, function: Callable[[], object], calls: int = 1) -> float:
            function()
            return 0.5

    rows = rows_of(toy(Contender(OURS, inner), n=64), device=Clock())
    assert rows[FLOOR].median_s == pytest.approx(0.5 * (2 * 64 * 64 * 3) / (2 * 16**3))
    assert rows[OURS].ratio_to_floor == pytest.approx(0.5 / rows[FLOOR].median_s)
    slow = rows_of(toy(Contender(OURS, inner), n=64), device=Clock(), budget=replace(QUICK, call_s=0.1))
    assert slow[FLOOR].median_s == rows[FLOOR].median_s
    assert "not alternated" in slow[OURS].note
    assert slow[OURS].ratio_to_floor == rows[OURS].ratio_to_floor


def test_bad_contenders_are_notes_and_the_others_are_timed() -> None:
    item = toy(
        Contender("wrong", wrong),
        Contender("absent", absent),
        Contender("large", out_of_memory),
        Contender("left out", inner),
        Contender("late", Fails(4)),
        Contender("costly", inner, costly=True),
        Contender(OURS, inner),
    )
    rows = rows_of(item, excluded={"left out": "crashed"}, deadline=time.monotonic() + measure.COMPILE_S / 2)
    notes = {name: row.note for name, row in rows.items() if row.median_s is None}
    assert list(notes) == ["wrong", "absent", "large", "left out", "late", "costly"]
    assert "wrong: relative error" in notes["wrong"]
    assert "No module named 'no_such_library'" in notes["absent"]
    assert notes["large"].startswith("OutOfMemoryError: CUDA out of memory")
    assert notes["left out"] == "crashed"
    assert notes["late"] == "RuntimeError: no more"
    assert notes["costly"] == OUT_OF_TIME
    assert rows[OURS].rounds == rows[FLOOR].rounds >= QUICK.min_rounds


def test_nan_is_wrong() -> None:
    def nan(params: Params, inputs: Tensors) -> Tensors:
        return (math.nan * inner(params, inputs)[0],)

    rows = rows_of(toy(Contender(OURS, nan)))
    assert rows[OURS].median_s is None
    assert rows[OURS].note.startswith("wrong")


def test_a_lost_device_ends_the_case_with_the_name_of_who_lost_it() -> None:
    lost = Small()
    lost.works = False
    with pytest.raises(DeviceLostError) as error:
        rows_of(toy(Contender(OURS, inner), Contender("bad", out_of_memory)), device=lost)
    assert error.value.contender == "bad"


def test_the_largest_case_is_one_call_that_must_be_finite() -> None:
    counted = Fails(1)
    rows = rows_of(toy(Contender(OURS, counted), alone=True))
    assert (list(rows), rows[OURS].rounds, rows[OURS].peak_extra_bytes) == ([OURS], 1, 70)
    assert "no more" in rows_of(toy(Contender(OURS, counted), alone=True))[OURS].note

    def infinite(params: Params, inputs: Tensors) -> Tensors:
        return (inner(params, inputs)[0] / 0,)

    assert rows_of(toy(Contender(OURS, infinite), alone=True))[OURS].note == "wrong: not finite"
    assert rows_of(toy(Contender(OURS, infinite), alone=True), excluded={OURS: "hung"})[OURS].note == "hung"


# -------------------------------------------------------------------------------------------------------------- a whole


def run_worker(path: Path, *items: Item, seconds: float = 100, on: Device | None = None) -> Progress:
    status = worker.work(path, on or Small(), items, time.time() + seconds, QUICK)
    progress = Progress.load(path)
    assert status == (0 if progress.running is None and len(progress.done) == len(items) else worker.START_AGAIN)
    return progress


def test_the_worker_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    first, second = toy(Contender(OURS, inner)), toy(Contender(OURS, inner), n=7)
    progress = run_worker(path, first)
    assert progress.done == [first.key]
    assert set(progress.rates) == {"bfloat16", "float32", "float32 by TF32"}
    samples = progress.rows[0]["samples_s"]
    progress = run_worker(path, first, second)
    assert progress.done == [first.key, second.key]
    assert progress.rows[0]["samples_s"] == samples
    assert [r.params["n"] for r in progress.measured() if r.contender == OURS] == [6, 7]
    json.loads(path.read_text())


def test_the_worker_leaves_out_who_lost_the_device(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    lost = Small()
    lost.works = False
    items = toy(Contender(OURS, inner)), toy(Contender("bad", out_of_memory), Contender(OURS, inner), n=7)
    progress = run_worker(path, *items, on=lost)
    assert progress.done == [items[0].key]
    assert "lost the device" in progress.excluded[items[1].key]["bad"]
    progress = run_worker(path, *items)
    rows = {row.contender: row for row in progress.measured() if row.params["n"] == 7}
    assert "lost the device" in rows["bad"].note
    assert rows[OURS].median_s is not None


def test_a_case_without_time_or_inputs_has_rows_that_say_so(tmp_path: Path) -> None:
    item = toy(Contender(OURS, inner), Contender(EAGER, inner))
    progress = run_worker(tmp_path / "late.json", item, seconds=worker.LEAST_S / 2)
    assert [(row.contender, row.note) for row in progress.measured()] == [(OURS, OUT_OF_TIME), (EAGER, OUT_OF_TIME)]

    def broken(params: Params) -> harness.State:
        raise ValueError("no inputs")

    bad = replace(item, entry=replace(item.entry, setup=broken))
    progress = run_worker(tmp_path / "bad.json", bad, toy(Contender(OURS, inner), n=7))
    assert [row.note for row in progress.measured()][:2] == ["ValueError: no inputs"] * 2
    assert progress.measured()[2].median_s is not None


def test_the_largest_case_is_begun_where_the_smaller_ones_rate_says_so(tmp_path: Path) -> None:
    small, large = toy(Contender(OURS, inner)), toy(Contender(OURS, inner), n=60, alone=True)
    progress = run_worker(tmp_path / "alone.json", large)
    assert "no smaller case" in progress.measured()[0].note
    progress = run_worker(tmp_path / "both.json", small, large)
    assert progress.measured()[-1].median_s is not None
    slow = Row("toy", dict(small.params), "both", OURS, 1, flops=216)
    slow.take_times([7.0], 1)
    assert plan.expected_seconds(large, [slow]) == pytest.approx(700.0)
    progress = Progress(tmp_path / "slow.json", rates={"float32": 1.0}, rows=[slow.as_dict()])
    assert "would take 700 s" in worker.not_begun(large, progress, conditions())


# ------------------------------------------------------------------------------------------------------------ a process

# Writes what a worker writes, without its imports.
SCRIPT = """
import json, os, sys, time
path = sys.argv[1]
state = json.load(open(path)) if os.path.exists(path) else {}
excluded = state.setdefault("excluded", {}).setdefault("case", {})
def save(running, **more):
    with open(path + ".part", "w") as file:
        json.dump({**state, "running": running, **more}, file)
    os.replace(path + ".part", path)
for name in ("ours", "crashes", "hangs", "loses"):
    if name in excluded:
        continue
    save({"case": "case", "contender": name, "since": time.time()})
    if name == "crashes":
        print("about to crash", flush=True)
        os.abort()
    if name == "hangs":
        time.sleep(60)
    if name == "loses":
        excluded[name] = "lost the device"
        save(None)
        os._exit(75)
save(None, done=["case"])
"""


def test_what_crashes_or_hangs_is_left_out_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    start = time.monotonic()
    command = [sys.executable, "-c", SCRIPT, str(path)]
    ended, output = supervisor.supervise(command, path, seconds=60, contender_s=1.5)
    assert ended, output
    assert time.monotonic() - start < 50
    progress = Progress.load(path)
    assert progress.done == ["case"]
    why = progress.excluded["case"]
    assert why == {
        "crashes": "ended the process: status -6",
        "hangs": "stopped: took more than 1.5 s",
        "loses": "lost the device",
    }
    assert "about to crash" in output


ONE_AFTER_ANOTHER = """
import json, os, sys, time
for step in range(8):
    with open(sys.argv[1] + ".part", "w") as file:
        json.dump({"running": {"case": "c", "contender": str(step), "since": time.time()} if step % 2 else None}, file)
    os.replace(sys.argv[1] + ".part", sys.argv[1])
    time.sleep(0.3)
"""


def test_time_between_cases_is_not_that_of_a_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "IDLE_S", 1.5)
    path = tmp_path / "progress.json"
    ended, output = supervisor.supervise(
        [sys.executable, "-c", ONE_AFTER_ANOTHER, str(path)], path, 60, contender_s=1.5
    )
    assert ended, output


def test_a_process_that_cannot_begin_is_not_started_for_ever(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('no driver'); raise SystemExit(3)"]
    ended, output = supervisor.supervise(command, tmp_path / "progress.json", seconds=60)
    assert not ended
    assert output.count("no driver") == 1


def test_the_run_ends_in_time(tmp_path: Path) -> None:
    start = time.monotonic()
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    ended, output = supervisor.supervise(command, tmp_path / "progress.json", seconds=0.5)
    assert not ended
    assert "stopped after" in output
    assert time.monotonic() - start < 10


def test_steps_are_stopped_and_what_runs_beside_them_too() -> None:
    start = time.monotonic()
    sleeping = [sys.executable, "-c", "import time; time.sleep(60)"]
    with steps.beside([sleeping, sleeping], patience=0.1):
        step = steps.run_step("nap", sleeping, limit=0.5)
    assert step["status"] == "stopped"
    assert time.monotonic() - start < 10
    assert steps.run_step("fine", [sys.executable, "-c", "print('said')"], limit=20)["output"] == "said\n"


# ------------------------------------------------------------------------------------------------------- the CUDA lines


def event(name: str, start: int, *, on_gpu: bool, annotation: bool = False) -> SimpleNamespace:
    kinds = torch.autograd.DeviceType
    return SimpleNamespace(
        name=name,
        time_range=SimpleNamespace(start=start),
        device_type=kinds.CUDA if on_gpu else kinds.CPU,
        is_user_annotation=annotation,
    )


def test_kernels_are_counted_without_copies_fills_and_annotations() -> None:
    launch = event("cudaLaunchKernel", 0, on_gpu=False)
    events = [
        event("second", 5, on_gpu=True),
        event("first", 2, on_gpu=True),
        event("Memcpy DtoD", 3, on_gpu=True),
        event("Memset (Device)", 4, on_gpu=True),
        event("region", 1, on_gpu=True, annotation=True),
        launch,
        event("aten::mm", 0, on_gpu=False),
    ]
    assert kernels_of(events) == ("first", "second")
    assert kernels_of([launch, launch, events[-1]]) == ("cudaLaunchKernel",) * 2
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        torch.ones(3).sum()
    assert seen.events()
    assert kernels_of(seen.events()) == ()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A stand-in for torch.cuda that notes what it is asked for."""
    noted: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            noted.append("event")

        def synchronize(self) -> None:
            noted.append("wait")

        def elapsed_time(self, other: Event) -> float:
            return 3.0

    allocated = iter((50, 57))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: noted.append("synchronize"))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: next(allocated))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: noted.append("reset"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 90)
    return noted


def stand_in(calls: list[str]) -> device.Cuda:
    made = device.Cuda.__new__(device.Cuda)
    made._flush = SimpleNamespace(zero_=lambda: calls.append("flush"))  # type: ignore[assignment]
    return made


def test_a_sample_flushes_the_cache_and_lies_between_two_events(calls: list[str]) -> None:
    seconds = stand_in(calls).seconds(lambda: calls.append("call"), 2)
    assert calls == ["flush", "event", "call", "event", "wait"] * 2
    assert seconds == pytest.approx(3e-3)


def test_the_peak_is_what_a_call_adds(calls: list[str]) -> None:
    assert stand_in(calls).peak(lambda: calls.append("call")) == 40
    assert calls == ["synchronize", "reset", "call", "synchronize"]


def test_a_profiler_that_fails_is_a_reason(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise RuntimeError("CUPTI: not permitted")

    monkeypatch.setattr(torch.profiler, "profile", refuse)
    counted = stand_in(calls).launches(lambda: None)
    assert counted.names is None
    assert "CUPTI: not permitted" in counted.why


# -------------------------------------------------------------------------------------------------------------- command


def test_the_problems_of_the_sanitizer_run(capsys: pytest.CaptureFixture[str]) -> None:
    problems.small_problems("cpu")
    assert capsys.readouterr().out == problems.DONE + "\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="would measure this machine's GPU")
def test_the_command_of_gpu_check_starts_and_says_that_there_is_no_gpu() -> None:
    make = ["make", "--no-print-directory", "-n", "gpu-check"]  # under "make test" it would announce its folder
    commands = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    module = commands.splitlines()[-1].split(" -m ")[1].split()
    done = subprocess.run([sys.executable, "-m", *module], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "no NVIDIA GPU" in done.stdout


def test_a_whole_check_writes_what_it_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a CPU in the place of the GPU, a plan of one case, and the steps' processes replaced."""
    item = toy(Contender(OURS, inner), Contender(EAGER, inner))
    monkeypatch.setattr(plan, "PLAN", (item,))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    about = {"gpu": {"name": "No GPU"}, "mi_estimators": {"cuda_kernels": True}}
    monkeypatch.setattr(gpu_check, "machine", lambda commit: {**about, "commit": commit})

    def worked(command: list[str], path: Path, seconds: float) -> tuple[bool, str]:
        assert "--out" in command
        return worker.work(path, Small(), [item], time.time() + 50, QUICK) == 0, "said"

    monkeypatch.setattr(supervisor, "supervise", worked)
    passed = {"status": "passed", "seconds": 1.0, "summary": "3 passed", "output": ""}
    monkeypatch.setattr(steps, "run_tests", lambda: passed)
    monkeypatch.setattr(steps, "run_sanitizers", lambda seconds: {"memcheck": passed})
    path = tmp_path / "out.json"
    assert gpu_check.main(["--out", str(path), "--commit", "abc"]) == 0
    document = json.loads(path.read_text())
    assert list(document["steps"]) == ["tests", "benchmarks", "memcheck"]
    assert document["steps"]["benchmarks"]["summary"] == "1 of 1 cases"
    assert document["commit"] == "abc"
    assert [r["contender"] for r in document["benchmarks"]["rows"]] == [OURS, EAGER, FLOOR]
    assert len(document["benchmarks"]["bars"]) == len(BARS)
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"]

    item = toy(Contender(OURS, wrong))
    assert gpu_check.main(["--out", str(path), "--steps", "benchmarks"]) == 1
    assert "wrong" in json.loads(path.read_text())["steps"]["benchmarks"]["summary"]
    assert worker.compile_all(Small(), [toy(Contender("lib", inner), Contender("absent", absent))]) == 0
