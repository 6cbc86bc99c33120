"""The page of the tightness results, from small runs of everything that it is made of."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from benchmarks import tightness_results
from benchmarks.studies import staircase_speed
from mi_estimators import tightness
from mi_estimators.tightness import BenchmarkConfig, TightnessConfig, leaderboard
from mi_estimators.tightness.leaderboard import Line


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the recording commands write, each as small as it can be."""
    config = BenchmarkConfig(tasks=("1v1-normal-0.75",), estimators=("ksg", "gaussian"), n=(50, 60), seeds=2)
    tightness.save_report(tightness.run_benchmark(config, tmp_path / "standard"), tmp_path / "standard")
    tiny = {"hidden": 4, "batch_size": 8, "dim": 2, "steps_per_level": 6, "bounds": ("infonce", "dv"), "threads": 1}
    for critic in ("separable", "concatenated"):
        tightness.save(tightness.run(TightnessConfig.preset("bits", critic=critic, **tiny)), tmp_path / critic)
    for name, settings in (("negatives", {"seeds": 1}), ("consistency", {"hidden": 4, "bounds": ("infonce",)})):
        study = tightness.STUDIES[name].run(steps=4, batch_size=8, threads=1, **settings)
        tightness.write_json(tmp_path / f"{name}.json", study)
    for name, value in (("HIDDEN", 4), ("BATCH", 8), ("EMBEDDING", 3)):
        monkeypatch.setattr(staircase_speed, name, value)
    before = torch.get_num_threads()
    try:
        staircase_speed.main(["--rounds", "2", "--steps", "1", "--threads", "1", "--out", str(tmp_path / "speed.json")])
    finally:
        torch.set_num_threads(before)
    return tmp_path


def test_the_page_takes_every_kind_of_run(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    folder, page, guide = tmp_path / "results", tmp_path / "page.md", tmp_path / "guide.md"
    monkeypatch.setattr(tightness_results, "FOLDER", folder)
    monkeypatch.setattr(tightness_results, "PAGE", page)
    monkeypatch.setattr(tightness_results, "GUIDE", guide)
    guide.write_text("before\n<!-- leaderboard -->\nstale\n<!-- end -->\nafter\n")
    tightness_results.main([
        "--leaderboard", str(runs / "standard"), "--negatives", str(runs / "negatives.json"),
        "--staircase", str(runs / "separable"), "--staircase", str(runs / "concatenated"),
        "--consistency", str(runs / "consistency.json"), "--speed", str(runs / "speed.json"),
    ])  # fmt: skip
    text = page.read_text()
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings == [
        "Leaderboard", "Staircase, separable critic", "Staircase, concatenated critic", "Consistency", "Negatives",
        "Speed of the staircase",
    ]  # fmt: skip
    for picture in re.findall(r"\]\(\.\./benchmarks/results/tightness/(.+?)\)", text):
        assert (folder / picture).stat().st_size > 0
    assert "None" not in text
    assert (folder / "leaderboard.md").read_text() == (runs / "standard" / "leaderboard.md").read_text()
    assert "stale" not in guide.read_text()
    assert guide.read_text().endswith("<!-- end -->\nafter\n")
    assert "| up to 3 columns, normal | 1 |" in guide.read_text()
    published = "1.24, 2.31, 3.08, 3.59, 3.88"
    assert text.count(published) == 1
    speed = json.loads((folder / "staircase-speed.json").read_text())
    assert set(speed["seconds_per_step"]) == {"joint", "separable"}
    assert "| joint | ours, bfloat16 |" in text
    for row in json.loads((folder / "consistency.json").read_text())["rows"]:
        assert f"| {row['bound']} | {row['test']} |" in text


def test_recorded_cells_give_the_recorded_leaderboard() -> None:
    lines = tightness_results.recorded(tightness_results.FOLDER / "results.csv")
    assert leaderboard.markdown(lines) == (tightness_results.FOLDER / "leaderboard.md").read_text()
    rows = tightness_results.beside_benchmark_mi(lines)[-1].splitlines()[2:]
    assert len(rows) == 4
    assert all(row.endswith("| yes |") for row in rows)
    settings = re.search(r"blocks of (\d+) test pairs", tightness_results.PAGE.read_text())
    assert settings is not None
    for part in tightness_results.by_kind_of_data(lines, int(settings[1])):
        assert part in tightness_results.GUIDE.read_text()
    assert "\n".join(rows) in tightness_results.PAGE.read_text()


def test_a_figure_of_benchmark_mi_that_is_not_reached_is_marked() -> None:
    line = {"kind": "neither", "n": 10_000, "truth": 0.593, "spread": None, "succeeded": 1, "failed": 0,
            "violations": 0, "above_cap": 0, "seconds": 1.0, "error": None}  # fmt: skip
    own = [Line(task="multinormal-dense-5-5-0.5", variant="ksg", mean=mean, **line) for mean in (0.602, 0.604)]
    yes, no = (tightness_results.beside_benchmark_mi([one])[-1] for one in own)
    assert "| ksg 0.602 | yes |" in yes
    assert "| ksg 0.604 | **no** |" in no
    assert tightness_results.beside_benchmark_mi([]) == []
