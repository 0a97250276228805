"""Files of others are told from results by what is in them, and images by what the system knows them by."""

import os
import sys

import numpy as np
import pytest
import tifffile
from matplotlib.figure import Figure
from PIL import Image

from napari_uflow.errors import ConfigError, UFlowError
from napari_uflow.evaluation.figures import save_figure
from napari_uflow.samples.dataset import write_fibre_dataset
from napari_uflow.store.provenance import check_replaceable, identities, is_own, is_result
from napari_uflow.store.regions import write_regions
from napari_uflow.store.table import SUMMARY_COLUMNS, write_table
from napari_uflow.store.tiff_writer import write_tiff

MAP = {"napari_uflow": {"detection": {}, "map": "labels"}}
LAYER = {"napari_uflow": {"detection": {}, "scope": "layer"}}


def labels(n=1):
    return np.full((20, 30), n, np.int32)


@pytest.mark.parametrize("name", ["a_labels.tif", "a_labels.ome.tif"])
def test_maps_are_results_and_may_be_replaced(name, tmp_path):
    write_tiff(tmp_path / name, labels(), "YX", description=MAP)
    assert is_result(tmp_path / name)
    assert is_own(tmp_path / name)
    check_replaceable(tmp_path / name)


@pytest.mark.parametrize("n", [1, 70_000])
def test_layers_saved_from_napari_are_results_but_not_replaced(n, tmp_path):
    write_tiff(tmp_path / "a_labels.tif", labels(n), "YX", description=LAYER)
    assert is_result(tmp_path / "a_labels.tif")
    assert not is_own(tmp_path / "a_labels.tif")


def test_labels_that_another_program_saved_again_are_not_replaced(tmp_path):
    """Fiji keeps the description and not the name of the program."""
    path = tmp_path / "a_labels.tif"
    write_tiff(path, labels(), "YX", description=MAP)
    with tifffile.TiffFile(path) as file:
        metadata = file.imagej_metadata
    tifffile.imwrite(path, labels().astype(np.uint16), imagej=True, metadata={"Info": metadata["Info"]}, software="")
    assert is_result(path)
    assert not is_own(path)
    with pytest.raises(ConfigError, match="not a result"):
        check_replaceable(path)


def foreign(path):
    if path.suffix == ".tif":
        tifffile.imwrite(path, labels().astype(np.uint16))
    elif path.suffix == ".png":
        Image.fromarray(labels().astype(np.uint8)).save(path)
    else:
        path.write_text("file,outcome\na.tif,done\n")


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.csv", "a", "a.ome.tif"])
def test_files_of_others_are_no_results(name, tmp_path):
    foreign(tmp_path / name)
    assert not is_result(tmp_path / name)
    assert not is_own(tmp_path / name)
    with pytest.raises(ConfigError, match="not a result of this program"):
        check_replaceable(tmp_path / name)
    check_replaceable(tmp_path / name, overwrite=True)


@pytest.mark.parametrize("data", [b"", b"II*\0", b"II*\0\xff\xff\xff\x7f", bytes(100)])
@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.csv"])
def test_damaged_files_are_those_of_others(name, data, tmp_path):
    (tmp_path / name).write_bytes(data)
    assert not is_result(tmp_path / name)
    assert not is_own(tmp_path / name)


def test_tables_and_figures_may_be_replaced(tmp_path):
    write_regions(tmp_path / "regions.csv", [])
    write_table(tmp_path / "summary.csv", SUMMARY_COLUMNS, [])
    save_figure(Figure(), tmp_path / "overview.png")
    for path in tmp_path.iterdir():
        assert is_own(path)
        check_replaceable(path)
    assert is_result(tmp_path / "overview.png")


def test_a_table_with_a_column_of_the_user_is_not_replaced(tmp_path):
    write_table(tmp_path / "summary.csv", (*SUMMARY_COLUMNS, "my verdict"), [])
    assert not is_own(tmp_path / "summary.csv")


def test_folders_and_broken_links_are_not_replaced(tmp_path):
    (tmp_path / "folder.tif").mkdir()
    with pytest.raises(ConfigError):
        check_replaceable(tmp_path / "folder.tif")
    if sys.platform != "win32":
        (tmp_path / "link.tif").symlink_to(tmp_path / "gone.tif")
        with pytest.raises(ConfigError):
            check_replaceable(tmp_path / "link.tif")
    check_replaceable(tmp_path / "new.tif")


@pytest.mark.skipif(sys.platform == "win32", reason="links require a privilege")
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_an_image_is_never_replaced_whatever_its_name(link, tmp_path):
    image, other = tmp_path / "a.tif", tmp_path / "b_labels.tif"
    write_tiff(image, labels(), "YX", description=MAP)
    link(image, other)
    check_replaceable(other)
    with pytest.raises(ConfigError, match="one of the images"):
        check_replaceable(other, identities([image, tmp_path / "gone.tif"]), overwrite=True)


def test_a_name_that_is_too_long_is_an_error_in_words(tmp_path):
    with pytest.raises(UFlowError, match="shorter name"):
        check_replaceable(tmp_path / ("q" * 252 + ".tif"))
    check_replaceable(tmp_path / ("q" * 251 + ".tif"))


def test_images_of_the_sample_are_own_but_no_results(tmp_path):
    folder = write_fibre_dataset(tmp_path, n_train=1, n_test_good=0, n_test_defective=0, shape=(128, 128))
    path = folder / "train" / "good" / "000.png"
    assert is_own(path)
    assert not is_result(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX only")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.tif")
    assert not is_result(tmp_path / "a.tif")


def test_a_table_of_regions_of_before_may_be_replaced(tmp_path):
    write_regions(tmp_path / "regions.csv", [])
    header = (tmp_path / "regions.csv").read_text()
    (tmp_path / "regions.csv").write_text(header.replace(",is_edited", ""))
    assert header != (tmp_path / "regions.csv").read_text()
    assert is_own(tmp_path / "regions.csv")
    write_regions(tmp_path / "regions.csv", [])
