"""The sample data as a user meets it: File > Open Sample in a real viewer."""

import numpy as np
import pytest


@pytest.fixture
def viewer(make_napari_viewer_proxy):
    return make_napari_viewer_proxy()


@pytest.mark.slow
def test_normal_fibres_open(viewer):
    viewer.open_sample("napari-uflow", "normal_fibres")
    (layer,) = viewer.layers
    assert layer.name == "Fibres, normal"
    assert layer.data.shape == (32, 256, 256)
    assert layer.data.dtype == np.uint8
    assert layer.axis_labels == ("specimen", "y", "x")
    assert tuple(layer.scale) == (1, 0.09, 0.09)
    assert [str(unit) for unit in layer.units] == ["pixel", "micrometer", "micrometer"]


@pytest.mark.slow
def test_defective_fibres_open_with_their_truth(viewer):
    viewer.open_sample("napari-uflow", "defective_fibres")
    images, truth = viewer.layers
    assert (images.name, truth.name) == ("Fibres, with defects", "Fibres, truth")
    assert images.data.shape == truth.data.shape == (12, 256, 256)
    assert images.axis_labels == truth.axis_labels
    assert tuple(images.scale) == tuple(truth.scale)
    assert images.units == truth.units
    assert not truth.visible  # it is shown when the user wants to compare
    assert not truth.data[-3:].any()

    # dense labels, one row of features each, background first
    n_defects = int(truth.data.max())
    assert set(np.unique(truth.data)) == set(range(n_defects + 1))
    assert len(truth.features) == n_defects + 1
    assert list(truth.features["index"]) == list(range(n_defects + 1))
    assert truth.features["kind"][0] == "background"
    assert set(truth.features["kind"][1:]) == {"bead", "broken", "merged"}
    for number in range(1, n_defects + 1):
        specimens = np.unique(np.nonzero(truth.data == number)[0])
        assert list(specimens) == [truth.features["specimen"][number]]


@pytest.mark.slow
def test_a_sample_is_seen(make_napari_viewer_proxy):
    viewer = make_napari_viewer_proxy(show=True)
    viewer.open_sample("napari-uflow", "defective_fibres")
    shot = viewer.screenshot(canvas_only=True, flash=False)
    assert shot[..., :3].std() > 10
