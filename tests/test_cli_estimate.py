"""``mi-estimators estimate``: files, columns, what is printed, and what is said of wrong input."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from mi_estimators import cli
from mi_estimators.commands.data_files import read_variables
from mi_estimators.estimators import estimate_mi
from mi_estimators.synthetic import TASKS

for module in ("typer", "rich"):
    pytest.importorskip(module)

X, Y = (t.double().numpy() for t in TASKS["multinormal-dense-2-2-0.5"].sample(200, seed=0))
VALUE = estimate_mi(X, Y, estimator="gaussian").value


@pytest.fixture
def invoke(tmp_path, monkeypatch):
    """Run the command in a folder with the same pairs in every kind of file."""
    from typer.testing import CliRunner

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    np.savez("data.npz", x=X, y0=Y[:, 0], y1=Y[:, 1], cube=np.zeros((2, 2, 2)), short=Y[:3, 0])
    group = np.where(Y[:, 0] > 0, "up", "down")
    count = np.arange(200) % 3
    numbers = np.concatenate([X, Y], axis=1).tolist()
    lines = [",".join(map(str, [*row, e, f])) for row, e, f in zip(numbers, group, count, strict=True)]
    Path("data.csv").write_text("\n".join(["x a,x b,y1,y2,group,count", *lines]) + "\n")
    Path("data.tsv").write_text(Path("data.csv").read_text().replace(",", "\t"))
    app, runner = cli.build_app(), CliRunner()

    def run(*arguments: str):
        result = runner.invoke(app, ["estimate", *arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.mark.parametrize(
    "arguments",
    [
        ("data.npz", "--y", "y0,y1"),
        ("data.npz", "--y", "y?"),
        ("data.npz", "--x", "x", "--y", "y0:y1"),
        ("data.csv", "--x", "x*", "--y", "y1,y2"),
        ("data.csv", "--x", "x a:x b", "--y", "y1:y2"),
        ("data.tsv", "--x", "x b, x a", "--y", "y*"),
    ],
)
def test_the_same_columns_of_any_file_give_the_same_value(invoke, arguments):
    result = invoke(*arguments, "--estimator", "gaussian", "--json")
    assert result.exit_code == 0, result.output
    stored = json.loads(result.output)
    assert stored["value"] == pytest.approx(VALUE, abs=1e-12)
    assert (stored["n"], stored["base"], stored["estimator"]) == (200, "nats", "gaussian")
    assert stored["clipped"] == stored["value"]


def test_parquet(invoke):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {"a": X[:, 0], "b": X[:, 1], "c": Y[:, 0], "d": Y[:, 1], "label": ["u", "v"] * 100}
    parquet.write_table(arrow.table(columns), "data.parquet")
    result = invoke("data.parquet", "--x", "a,b", "--y", "c:d", "--estimator", "gaussian", "--json")
    assert json.loads(result.output)["value"] == pytest.approx(VALUE, abs=1e-12)
    text = invoke("data.parquet", "--x", "a", "--y", "label", "--estimator", "gaussian")
    assert (text.exit_code, "error: --y: want numbers" in text.output) == (2, True)
    Path("broken.parquet").write_bytes(b"PAR1")
    assert "error: DATA: broken.parquet is not a Parquet file" in invoke("broken.parquet").output


def test_a_missing_library_is_named(invoke, monkeypatch):
    Path("data.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    result = invoke("data.parquet", "--x", "a", "--y", "b")
    assert result.exit_code == 1
    assert 'pip install "mi-estimators[data]"' in result.output


def test_a_table_with_what_the_interval_covers(invoke):
    arguments = ["data.csv", "--x", "x*", "--y", "y*", "--estimator", "gaussian", "--permutations", "9"]
    result = invoke(*arguments, "--interval", "bootstrap", "--resamples", "10", "--level", "0.9", "--base", "bits")
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    for words in (f"{VALUE / math.log(2):.4f}", "90 % interval", "which covers", "0.1, from 9 permutations"):
        assert words in text


def test_a_neural_estimate_with_a_picture(invoke):
    pytest.importorskip("matplotlib")
    options = ["-o", "max_steps=20", "-o", "critic=separable", "-o", "batch_size=32", "--seeds", "2"]
    result = invoke("data.npz", "--y", "y?", *options, "--permutations", "3", "--plot", "a.png")
    assert result.exit_code == 0, result.output
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")
    assert "a.png" in result.output
    assert "training steps" in result.output
    assert not list(Path().glob(".*"))


def test_several_estimators(invoke):
    arguments = ["data.csv", "--x", "x*", "--y", "y*", "--estimator", "gaussian, ksg"]
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    assert f"{VALUE:.3f}" in result.output
    assert "ksg" in result.output
    stored, other = (json.loads(invoke(*arguments, *more, "--json").output) for more in ((), ("-o", "ksg.k=9")))
    assert [entry["estimator"] for entry in stored] == ["gaussian", "ksg"]
    assert other[0]["value"] == stored[0]["value"]
    assert other[1]["value"] != stored[1]["value"]
    assert "error: --option: want one of" in invoke(*arguments, "-o", "kgs.k=9").output
    assert "error: --option: k: 'gaussian' has no such option" in invoke(*arguments, "-o", "k=9").output


def test_numbers_and_categories_follow_the_kind_of_estimator(invoke):
    chosen = {"x": "count", "y": "group"}
    for kind in ("discrete", "mixed"):
        found = read_variables(Path("data.csv"), chosen, kind)
        assert found["x"].dtype.kind == "i"
        assert set(found["y"][:, 0]) == {"up", "down"}
    assert read_variables(Path("data.csv"), {"x": "count"}, "continuous")["x"].dtype == np.float64
    assert read_variables(Path("data.csv"), {"x": "x*"}, "mixed")["x"].dtype == np.float64
    with pytest.raises(TypeError, match="x: want columns of one kind, got decimal numbers in 'x a' and categories"):
        read_variables(Path("data.csv"), {"x": "x a,count"}, "mixed")


def test_cells_that_are_missing_or_quoted(invoke):
    Path("odd.csv").write_text('\ufeffa;"b;c"\n1.5;2\n;3\n\n2.5;NA\n', encoding="utf-8")
    found = read_variables(Path("odd.csv"), {"x": "a", "y": "b;c"}, "continuous")
    assert np.array_equal(found["x"], [[1.5], [math.nan], [2.5]], equal_nan=True)
    assert np.array_equal(found["y"], [[2.0], [3.0], [math.nan]], equal_nan=True)
    result = invoke("odd.csv", "--x", "a", "--y", "b;c", "--estimator", "gaussian")
    assert "error: --x: want finite values, got 1 NaN" in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("data.csv", "--x", "z*"), "error: --x: no 'z*' in data.csv, which has 'x a', 'x b'"),
        (("data.npz", "--y", "cube"), "error: --y: want arrays of shape [n] or [n, d], got (2, 2, 2) for 'cube'"),
        (("data.npz", "--y", "y0,short"), "error: --y: want arrays of one length, got [3, 200]"),
        (("data.npz", "--y", "short"), "error: --y: want as many samples as x (200), got 3"),
        (("data.csv", "--x", "group", "--y", "y1"), "error: --x: want numbers for an estimator of continuous"),
        (("nothing.csv",), "error: DATA: no file nothing.csv"),
        (("data.xlsx",), "error: DATA: want one of .npz, .csv, .tsv, .parquet, got 'data.xlsx'"),
        (("data.csv", "--estimator", "kgs"), "error: --estimator: want one of"),
        (("data.csv", "--seeds", "2", "--estimator", "ksg"), "error: --seeds: 'ksg' has nothing random"),
        (("data.csv", "-o", "kk=3", "--estimator", "ksg"), "error: --option: kk: 'ksg' has no such option"),
        (("data.csv", "-o", "k"), "error: --option: want NAME=VALUE or ESTIMATOR.NAME=VALUE, got 'k'"),
        (("data.csv", "--permutations", "-1"), "error: --permutations: want an integer >= 0"),
        (("data.csv", "--interval", "bootstrap", "--estimator", "ksg"), "error: --interval: a bootstrap repeats pairs"),
        (("data.csv", "--plot", "a.bmp"), "error: --plot: want a file .png, .pdf or .svg, got 'a.bmp'"),
        (("data.csv", "--plot", "no/a.png"), "error: --plot: no folder no"),
        (("data.csv", "--plot", "a.png", "--estimator", "ksg,gaussian"), "error: --plot: shows one estimator, got 2"),
        (("bare.csv",), "error: DATA: want a first line of column names in bare.csv, got '1,2'"),
        (("ragged.csv", "--x", "a", "--y", "b"), "error: DATA: want 2 cells in line 3 of ragged.csv"),
        (("empty.csv", "--x", "a", "--y", "b"), "error: DATA: empty.csv has no rows below"),
        (("pickle.npz",), "error: DATA: pickle.npz is not a file of numpy.savez"),
    ],
)
def test_wrong_input_is_named_and_writes_nothing(invoke, arguments, words):
    Path("bare.csv").write_text("1,2\n3,4\n")
    Path("ragged.csv").write_text("a,b\n1,2\n3\n")
    Path("empty.csv").write_text("a,b\n")
    Path("pickle.npz").write_bytes(b"not an archive")
    before = sorted(Path().iterdir())
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())
    assert sorted(Path().iterdir()) == before
