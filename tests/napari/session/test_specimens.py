"""The plugin tells the specimens of separate images as the command line and Python do."""

import numpy as np
import pytest

from napari_uflow._napari.panels.train import TrainWidget
from napari_uflow.store.tiff_writer import write_tiff
from napari_uflow.training.regions import assign_specimens, read_regions


@pytest.fixture
def slides(tmp_path):
    """18 tiles of 6 slides, three each."""
    for slide in range(6):
        for x in range(3):
            noise = np.random.default_rng(100 * slide + x).integers(0, 256, (64, 64)).astype(np.uint8)
            write_tiff(tmp_path / f"slide{slide}_x{64 * x:03}_y000.tif", noise, "YX")
    return sorted(tmp_path.glob("*.tif"))


@pytest.fixture
def panel(make_napari_viewer_proxy, qtbot, slides):
    viewer = make_napari_viewer_proxy()
    viewer.open(slides, stack=False)
    widget = TrainWidget(viewer)
    qtbot.addWidget(widget)
    widget.normal_images.images.set_layers(list(viewer.layers))
    return widget


@pytest.mark.slow
def test_the_window_says_what_the_other_faces_say(panel, slides):
    regions = assign_specimens(panel.normal_images.regions())
    assert {region.specimen for region in regions} == {f"slide{i}" for i in range(6)}
    of_files = {region.plane.name: region.specimen for region in assign_specimens(read_regions(slides))}
    assert {region.plane.name: region.specimen for region in regions} == of_files


@pytest.mark.slow
def test_the_number_of_specimens_is_shown_before_training(panel):
    panel.estimate()
    assert "18 images from 6 specimens" in panel.estimate_label.text()


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "n"), [("each", 18), ("one", 1), ("names", 6)])
def test_the_user_may_say_otherwise(panel, rule, n):
    panel.normal_images.image_specimens.set_value(rule)
    assert len({region.specimen for region in assign_specimens(panel.normal_images.regions())}) == n
    assert panel.normal_images.recipe().image_specimens == rule
    panel.estimate()
    assert ("18 images from" in panel.estimate_label.text()) == (n != 18)


@pytest.mark.slow
def test_a_refinement_chooses_what_the_training_chose(panel):
    panel.normal_images.image_specimens.set_value("each")
    recipe = panel.normal_images.recipe()
    panel.normal_images.image_specimens.set_value("names")
    panel.normal_images.choose(recipe)
    assert panel.normal_images.image_specimens.value() == "each"
