import os
import stat
import sys
from pathlib import Path

import pytest

from napari_uflow.errors import UFlowError
from napari_uflow.store.files import atomic_path


def test_the_new_file_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    path.write_text("old")
    with atomic_path(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.endswith(".ome.tif")
        assert not temporary.exists()
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_places_that_cannot_be_written_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UFlowError, match="no folder"), atomic_path(tmp_path / "b" / "a.txt"):
        pass
    with pytest.raises(UFlowError, match="is a folder"), atomic_path(tmp_path):
        pass

    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(UFlowError, match="close it in other programs"), atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are others there")
def test_others_may_read_what_the_umask_lets_them(tmp_path):
    mask = os.umask(0o022)
    try:
        for name, before, after in (("new", None, 0o644), ("old", 0o600, 0o600)):
            target = tmp_path / name
            if before is not None:
                target.write_text("old")
                target.chmod(before)
            with atomic_path(target) as path:
                path.write_text("text")
                path.chmod(0o600)
            assert stat.S_IMODE(target.stat().st_mode) == after
    finally:
        os.umask(mask)


def test_a_name_that_is_too_long_is_refused(tmp_path):
    with (
        pytest.raises(UFlowError, match="cannot be written"),
        atomic_path(tmp_path / ("n" * 300 + ".tif")) as temporary,
    ):
        temporary.write_text("x")
    assert not list(tmp_path.iterdir())
