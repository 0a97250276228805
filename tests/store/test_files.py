import os
from pathlib import Path

import pytest

from napari_uflow.errors import UFlowError
from napari_uflow.store import atomic_path


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
