"""A file that cannot be read is an error that names it, whatever the reason; open files cost nothing."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from napari_uflow.errors import ImageError
from napari_uflow.store.images import find_images, read_planes

VALUES = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)


def write_zarr(path: Path) -> None:
    zarr.create_array(path, data=VALUES, chunks=(32, 32))


WRITERS: dict[str, Callable[[Path], None]] = {
    "a.tif": lambda path: tifffile.imwrite(path, VALUES),
    "b.tif": lambda path: tifffile.imwrite(path, VALUES, compression="zlib", tile=(16, 16)),
    "c.png": lambda path: Image.fromarray(VALUES).save(path),
    "d.jpg": lambda path: Image.fromarray(VALUES.astype(np.uint8)).save(path),
    "e.zarr": write_zarr,
}


@pytest.fixture(params=WRITERS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    WRITERS[request.param](tmp_path / request.param)
    return tmp_path / request.param


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc")
def test_no_file_stays_open(path: Path) -> None:
    read_planes(path)[0].read()  # starts zarr's thread
    before = len(os.listdir("/proc/self/fd"))
    planes = [read_planes(path)[0] for _ in range(20)]
    for plane in planes:
        plane.read()
    assert len(os.listdir("/proc/self/fd")) == before


def test_pixels_do_not_stay_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_uflow.store import pictures
    from napari_uflow.store.decoded import DecodedBlocks

    decoded = DecodedBlocks(3 * VALUES.nbytes)
    monkeypatch.setattr(pictures, "DECODED", decoded)
    WRITERS["c.png"](tmp_path / "c.png")
    planes = [read_planes(tmp_path / "c.png")[0] for _ in range(20)]
    for plane in planes:
        np.testing.assert_array_equal(plane.read()[0], VALUES)
    assert decoded.n_bytes == 3 * VALUES.nbytes


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE, errno.ESTALE])
def test_an_error_of_the_system_is_not_called_damage(number: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (plane,) = read_planes(path)
    real = os.open, open, Path.read_bytes, Path.read_text

    def refuse(file: Any, *args: Any, **kwargs: Any) -> Any:
        if path.name in str(file):
            raise OSError(number, os.strerror(number), str(file))
        return real[1](file, *args, **kwargs)

    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    monkeypatch.setattr(Path, "read_text", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    for use in (plane.read, lambda: read_planes(path)):
        with pytest.raises(ImageError, match=os.strerror(number)) as error:
            use()
        assert path.name in str(error.value)
        assert "damaged" not in str(error.value)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_and_a_folder_that_may_not_be_read(path: Path) -> None:
    path.chmod(0)
    with pytest.raises(ImageError, match="Permission denied"):
        read_planes(path)[0].read()
    path.parent.chmod(0)
    for use in (read_planes, find_images):
        with pytest.raises(ImageError, match="Permission denied"):
            use(path)
    path.parent.chmod(0o700)
    path.chmod(0o700)


def test_a_folder_that_may_not_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> Any:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(ImageError, match=r"Permission denied"):
        find_images(tmp_path)


@pytest.mark.parametrize("name", ["a" * 300 + ".tif", "a\0.tif", "\udcff.tif"])
def test_names_that_cannot_be(name: str, tmp_path: Path) -> None:
    for use in (read_planes, find_images):
        with pytest.raises(ImageError):
            use(tmp_path / name)


def test_a_file_that_vanishes(path: Path) -> None:
    import shutil

    (plane,) = read_planes(path)
    if path.is_dir():
        shutil.rmtree(path)
        with pytest.raises(ImageError, match="does not exist"):
            read_planes(path)
        return  # chunks that are missing have the fill value
    path.unlink()
    with pytest.raises(ImageError, match=rf"{path.name}' cannot be read \(No such file"):
        plane.read()
    with pytest.raises(ImageError, match="does not exist"):
        read_planes(path)


@pytest.mark.parametrize("paths", ["", [""], ["a.png", ""]])
def test_an_empty_name_is_not_the_current_folder(tmp_path, monkeypatch, paths):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save("a.png")
    with pytest.raises(ImageError, match="empty"):
        find_images(paths)


@pytest.mark.parametrize("content", [b"no image", b"", b"II*\0\xff\xff\0\0", b"\x89PNG\r\n\x1a\n"])
@pytest.mark.parametrize("name", ["a b.png", "a b.tif", "a b.jpg"])
def test_an_error_names_the_file_once_and_no_exception(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ImageError) as error:
        read_planes(path)
    assert str(error.value).startswith(f"'{path}' ")
    assert str(error.value).count(name) == 1
    assert "Error" not in str(error.value)
