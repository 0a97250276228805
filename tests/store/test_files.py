import errno
import io
import os
import platform
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from napari_uflow.errors import ConfigError, UFlowError
from napari_uflow.store import files
from napari_uflow.store.files import append_text, atomic_path, made_folder, remove_leftovers, temporary_name


def test_the_new_file_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    path.write_text("old")
    with atomic_path(path) as temporary:
        assert temporary.parent.parent == tmp_path  # on the same disk
        assert temporary.parent.name.startswith(".")
        assert temporary.name == path.name
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


def test_a_name_as_long_as_names_may_be(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 251 + ".csv")
    with atomic_path(path) as temporary:
        assert temporary.suffix == ".csv"
        temporary.write_text("new")
    assert path.read_text() == "new"


def test_a_folder_that_disappears_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(UFlowError, match="cannot be written"), atomic_path(folder / "a.txt"):
        folder.rmdir()


def test_an_error_of_the_disk_is_heard_before_the_old_file_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(UFlowError, match=r"\(No space left on device\); free some space, or"),
        atomic_path(path) as temporary,
    ):
        temporary.write_text("new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


KILLED = """
import os, signal, sys
from pathlib import Path
from napari_uflow.store.files import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    temporary.with_name("of a library").write_text("half")
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
"""


def test_leftovers_of_a_killed_process_are_removed_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run([sys.executable, "-c", KILLED, tmp_path / "a.tif"], check=False)
    (killed,) = tmp_path.iterdir()
    assert len(list(killed.iterdir())) == 2
    kept = [tmp_path / ".0123abcd-notes.txt", tmp_path / ".uflow-mine.txt", tmp_path / "a.tif"]
    with atomic_path(tmp_path / "b.tif") as of_this_process, monkeypatch.context() as patch:
        patch.setattr(platform, "node", lambda: "another computer")
        kept += [temporary_name(tmp_path / "c.tif")]
        for path in (*kept, of_this_process):
            path.write_text("mine")
        patch.undo()
        remove_leftovers(tmp_path)
        assert sorted(tmp_path.iterdir()) == sorted([*kept, of_this_process.parent])
    remove_leftovers(tmp_path / "nowhere")


@pytest.mark.skipif(sys.platform == "win32", reason="links require a permission there")
@pytest.mark.parametrize("exists", [True, False])
def test_of_a_link_the_file_it_leads_to_is_replaced(tmp_path: Path, exists: bool) -> None:
    (tmp_path / "disk").mkdir()
    real = tmp_path / "disk" / "real.txt"
    if exists:
        real.write_text("old")
    (tmp_path / "between.txt").symlink_to(Path("disk") / "real.txt")
    link = tmp_path / "link.txt"
    link.symlink_to(tmp_path / "between.txt")
    with atomic_path(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert (tmp_path / "between.txt").is_symlink()
    assert not real.is_symlink()
    assert real.read_text() == "new"
    assert list(real.parent.iterdir()) == [real]


class _FullDisk(io.FileIO):
    """File on a disk with room for ten more bytes."""

    room = 10

    def write(self, data):  # type: ignore[no-untyped-def]
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = min(self.room, len(data))
        self.room -= taken
        return super().write(data[:taken])


def test_a_text_is_added_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"a\n")
    append_text(path, "\u00b5m\r\n")
    assert path.read_bytes() == "a\n\u00b5m\r\n".encode()
    monkeypatch.setattr(files, "open", lambda place, mode, buffering: _FullDisk(place, mode), raising=False)
    with pytest.raises(UFlowError, match="free some space"):
        append_text(path, "1234567890123\n")
    assert path.read_bytes() == "a\n\u00b5m\r\n".encode()


def fail_in(folder: Path, name: str = "") -> None:
    """Fail after a file was made, if one is named."""
    with made_folder(folder):
        assert folder.is_dir()
        if name:
            (folder / name).touch()
        raise ZeroDivisionError


def test_a_folder_that_was_made_for_nothing_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "out"
    for name in ("", "result", ""):
        with pytest.raises(ZeroDivisionError):
            fail_in(folder, name)
        assert folder.exists() == (tmp_path / "new").exists() == (folder / "result").exists()
        assert folder.exists() or not name
    with made_folder(tmp_path / "empty"):
        pass
    assert (tmp_path / "empty").is_dir()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ConfigError, match="cannot write to the folder"),
        made_folder(tmp_path / "file" / "out"),
    ):
        pass
    with pytest.raises(ConfigError, match="cannot write to the folder"), made_folder(tmp_path / ("n" * 300)):
        pass
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ConfigError, match="cannot write"), made_folder(tmp_path):
        pass
