"""Files that are whole or absent."""

import json
import os
import stat

import pytest

from mi_estimators import _files


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    _files.write_text(path, "old\r\n")

    def fail() -> None:
        with _files.replacing(path) as partial:
            partial.write_text("ne")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_bytes() == b"old\r\n"
    assert list(tmp_path.iterdir()) == [path]


def test_files_have_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    _files.write_json(tmp_path / "file", {})
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_json_is_refused_where_it_has_no_form(tmp_path):
    _files.write_json(tmp_path / "a.json", {"a": [1, None]}, indent=2)
    with pytest.raises(ValueError, match="not JSON compliant"):
        _files.write_json(tmp_path / "a.json", {"a": float("nan")})
    assert _files.read_json(tmp_path / "a.json") == json.loads((tmp_path / "a.json").read_text()) == {"a": [1, None]}


def test_damaged_json_is_named(tmp_path):
    (tmp_path / "a.json").write_text('{"a":')
    with pytest.raises(ValueError, match=r"out: .*a\.json is damaged"):
        _files.read_json(tmp_path / "a.json")


def test_what_killed_processes_left_is_removed(tmp_path):
    (tmp_path / "kept").write_text("")
    with _files.replacing(tmp_path / "file") as partial:
        partial.write_text("half")
        left = tmp_path / partial.name.replace(str(os.getpid()), "1")
        left.write_text("half")
    _files.remove_partial(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "kept"]
