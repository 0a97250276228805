"""Places for a model: it replaces models only, and what cannot be written is told before a training."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from napari_uflow.errors import OverwriteError, UFlowError
from napari_uflow.store.model_place import check_model_place, other_places
from napari_uflow.store.tiff_writer import write_tiff


def picture(path: Path) -> None:
    write_tiff(path, np.zeros((4, 4), np.uint8), "YX")


OTHERS = {
    "picture.tif": picture,
    "notes.txt": lambda path: path.write_text("text"),
    "empty.safetensors": lambda path: path.touch(),
    "of_another_program.safetensors": lambda path: save_file({"x": np.zeros(3)}, path),
    "zipped.safetensors": lambda path: path.write_bytes(b"PK\x03\x04 and more"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_that_is_no_model_is_not_replaced(name, tmp_path):
    path = tmp_path / name
    OTHERS[name](path)
    before = path.read_bytes()
    with pytest.raises(OverwriteError, match=f"{name}' exists and is not a model"):
        check_model_place(path)
    link = tmp_path / "link.safetensors"
    link.symlink_to(path)
    with pytest.raises(OverwriteError):
        check_model_place(link)
    check_model_place(path, overwrite=True)
    assert path.read_bytes() == before


def test_a_model_is_replaced_and_a_new_name_is_free(tmp_path, tiny_model_file):
    path = tmp_path / "model.safetensors"
    check_model_place(path)
    dangling = tmp_path / "link.safetensors"
    dangling.symlink_to(tmp_path / "nothing")
    check_model_place(dangling)
    dangling.unlink()
    path.write_bytes(tiny_model_file.read_bytes())
    check_model_place(path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("overwrite", [False, True])
def test_places_that_cannot_be_written(overwrite, tmp_path, tiny_model_file):
    protected = tmp_path / "protected.safetensors"
    protected.write_bytes(tiny_model_file.read_bytes())
    protected.chmod(0o444)
    wrong = {
        tmp_path: "it is a folder",
        tmp_path / "no" / "model.safetensors": "there is no folder",
        tiny_model_file / "model.safetensors": "there is no folder",
        protected: "write-protected",
        tmp_path / ("n" * 300): "cannot be written",
    }
    if sys.platform != "win32":
        wrong[Path(os.devnull)] = "not an ordinary file"
    for path, said in wrong.items():
        with pytest.raises(UFlowError, match=said):
            check_model_place(path, overwrite=overwrite)


def test_a_folder_that_is_read_only(tmp_path, monkeypatch):
    """Tried, not looked up: permissions do not tell of a read-only disk."""

    def refuse(path, *args, **kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(UFlowError, match="Read-only file system"):
        check_model_place(tmp_path / "model.safetensors")


def test_other_places_are_unused_names_on_several_disks(tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "model-2.safetensors").touch()
    found = list(other_places(tmp_path / "model.safetensors"))
    assert found == [
        tmp_path / "model-3.safetensors",
        here / "model-2.safetensors",
        tmp_path / "home" / "model-2.safetensors",
        tmp_path / "temporary" / "model-2.safetensors",
    ]
    assert next(other_places("model")) == here / "model-2.safetensors"
