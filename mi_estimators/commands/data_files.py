"""Variables out of files: ``.npz`` by names of arrays, ``.csv``, ``.tsv`` and ``.parquet`` by names of columns."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from fnmatch import fnmatchcase
from operator import itemgetter
from pathlib import Path

import numpy as np

from mi_estimators import _extras
from mi_estimators.estimators.table import Kind

_MISSING = {"", "na", "nan", "n/a", "null", "none"}


def read_variables(path: Path, selections: dict[str, str], kind: Kind) -> dict[str, np.ndarray]:
    """Read the named variables of a file as estimators of a kind take them.

    Args:
        path: the file.
        selections: name of a variable and which columns (or arrays) make it: names, ranges ``first:last`` in the order
            of the file, and patterns with ``*`` and ``?``, separated by commas. A name in full goes before a pattern.
        kind: numbers become float64 for ``"continuous"``; for ``"mixed"`` whole numbers stay integers, and so
            categories.

    Returns:
        Arrays ``[n]`` or ``[n, d]`` by name of variable.

    Raises:
        ImportError: a Parquet file, and pyarrow is not installed.
        OSError: the file cannot be read.
        TypeError: text where the estimator wants numbers, columns of different kinds in one variable.
        ValueError: an unknown kind of file, no such column, rows or arrays of different lengths.
    """
    readers = {".npz": _read_npz, ".csv": _read_text, ".tsv": _read_text, ".parquet": _read_parquet}
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise ValueError(f"DATA: want one of {', '.join(readers)}, got {path.name!r}")
    if not path.is_file():
        raise FileNotFoundError(f"DATA: no file {path}")
    return readers[suffix](path, selections, kind)


def select(name: str, text: str, columns: Sequence[str], path: Path) -> list[str]:
    """The columns that a selection names, each once, in the order named."""
    chosen: dict[str, None] = {}
    for item in (item.strip() for item in text.split(",")):
        first, colon, last = (part.strip() for part in item.partition(":"))
        if item in columns:
            found = [item]
        elif colon and first in columns and last in columns:
            found = list(columns[columns.index(first) : columns.index(last) + 1])
        else:
            found = [column for column in columns if fnmatchcase(column, item)]
        if not found:
            raise ValueError(f"{name}: no {item!r} in {path.name}, which has {_shown(columns)}")
        chosen.update(dict.fromkeys(found))
    return list(chosen)


def _shown(columns: Sequence[str]) -> str:
    names = ", ".join(map(repr, columns[:20]))
    return names + (f" and {len(columns) - 20} more" if len(columns) > 20 else "")


def _read_npz(path: Path, selections: dict[str, str], kind: Kind) -> dict[str, np.ndarray]:
    try:
        archive = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise ValueError(f"DATA: {path} is not a file of numpy.savez") from error
    with archive:
        variables = {}
        for name, text in selections.items():
            arrays = {key: archive[key] for key in select(name, text, list(archive), path)}
            for key, array in arrays.items():
                if array.ndim not in (1, 2):
                    raise ValueError(f"{name}: want arrays of shape [n] or [n, d], got {array.shape} for {key!r}")
            lengths = {len(array) for array in arrays.values()}
            if len(lengths) > 1:
                raise ValueError(f"{name}: want arrays of one length, got {sorted(lengths)}")
            split = {key: array.reshape(len(array), -1).T for key, array in arrays.items()}
            columns = {f"{key}[{i}]": column for key, array in split.items() for i, column in enumerate(array)}
            variables[name] = _joined(name, columns, kind)
    return variables


def _read_text(path: Path, selections: dict[str, str], kind: Kind) -> dict[str, np.ndarray]:
    """By the csv module alone, so that a column is read the same way whatever is installed."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        header_line = file.readline()
        delimiter = max("\t;,", key=header_line.count)
        file.seek(0)
        reader = csv.reader(file, delimiter=delimiter)
        header = [cell.strip() for cell in next(reader, [])]
        if not header or all(_is_number(cell) for cell in header):
            raise ValueError(f"DATA: want a first line of column names in {path}, got {header_line.strip()[:80]!r}")
        chosen = {name: select(name, text, header, path) for name, text in selections.items()}
        wanted = list(dict.fromkeys(column for columns in chosen.values() for column in columns))
        pick = itemgetter(*(header.index(column) for column in wanted))
        rows = []
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise ValueError(
                    f"DATA: want {len(header)} cells in line {reader.line_num} of {path.name}, as in the first; got "
                    f"{len(row)}"
                )
            rows.append(pick(row))
    if not rows:
        raise ValueError(f"DATA: {path} has no rows below its column names")
    by_column = [rows] if len(wanted) == 1 else zip(*rows, strict=True)
    parsed = {name: _parsed(np.array(cells, dtype=object)) for name, cells in zip(wanted, by_column, strict=True)}
    return {name: _joined(name, {key: parsed[key] for key in keys}, kind) for name, keys in chosen.items()}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _parsed(cells: np.ndarray) -> np.ndarray:
    """Cells of text as integers or floats where all that are not missing read as such, else as text."""
    missing = np.array([cell.strip().lower() in _MISSING for cell in cells])
    known = cells[~missing].astype(str)
    for dtype in (np.int64, np.float64):
        try:
            numbers = known.astype(dtype)
        except (ValueError, OverflowError):
            continue
        if not missing.any():
            return numbers
        full = np.full(len(cells), np.nan)
        full[~missing] = numbers
        return full
    cells[missing] = None
    return cells


def _read_parquet(path: Path, selections: dict[str, str], kind: Kind) -> dict[str, np.ndarray]:
    parquet = _extras.require("pyarrow.parquet", "data")
    invalid = _extras.require("pyarrow", "data").ArrowInvalid
    try:
        columns = parquet.read_schema(path).names
        chosen = {name: select(name, text, columns, path) for name, text in selections.items()}
        wanted = list(dict.fromkeys(column for names in chosen.values() for column in names))
        table = parquet.read_table(path, columns=wanted)
    except invalid as error:
        raise ValueError(f"DATA: {path} is not a Parquet file: {error}") from error
    parsed = {column: table.column(column).to_numpy(zero_copy_only=False) for column in wanted}
    return {name: _joined(name, {key: parsed[key] for key in keys}, kind) for name, keys in chosen.items()}


def _joined(name: str, columns: dict[str, np.ndarray], kind: Kind) -> np.ndarray:
    """Columns of one variable side by side, with dtypes that the kind of estimator takes."""
    text = [key for key, column in columns.items() if column.dtype.kind not in "fiub"]
    if kind == "continuous":
        if text:
            raise TypeError(f"{name}: want numbers for an estimator of continuous variables, got others in {text[0]!r}")
        return np.stack([column.astype(np.float64) for column in columns.values()], axis=1)
    decimal = [key for key, column in columns.items() if column.dtype.kind == "f"]
    if kind == "mixed" and decimal and len(decimal) < len(columns):
        raise TypeError(f"{name}: want columns of one kind, got decimal numbers in {decimal[0]!r} and categories")
    if not text:
        return np.stack(list(columns.values()), axis=1)
    stacked = np.empty((len(columns[text[0]]), len(columns)), dtype=object)
    for index, column in enumerate(columns.values()):
        stacked[:, index] = column
    return stacked
