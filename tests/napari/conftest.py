"""Fixtures of the plugin's tests."""

from pathlib import Path

import numpy as np
import pytest

from napari_uflow.config import DetectionConfig
from napari_uflow.detection.detect import resegment
from napari_uflow.detection.guarantee import Guarantee
from napari_uflow.detection.regions import RegionTable
from napari_uflow.detection.result import Detection
from napari_uflow.system.libraries import make_torch_safe

make_torch_safe()


def pytest_collection_modifyitems(items):
    """Mark every test of this folder, and no other one, as one that opens a window."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.gui)


@pytest.fixture
def viewer(make_napari_viewer_proxy):
    return make_napari_viewer_proxy()


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch, tmp_path):
    """Models that save themselves do not go to the user's folder."""
    monkeypatch.setattr("napari_uflow._napari.session.settings.data_folder", lambda: tmp_path)


def _hills(shape, peaks, **guarantee):
    rows, cols = np.indices(shape)
    log10_nfa = np.full(shape, 5.0, np.float32)
    for row, col, lowest in peaks:
        log10_nfa = np.minimum(log10_nfa, lowest + np.hypot(rows - row, cols - col)).astype(np.float32)
    labels, score = np.zeros(shape, np.int32), -log10_nfa
    found = Detection(
        name="drawn",
        score=score,
        log10_nfa=log10_nfa,
        labels=labels,
        regions=RegionTable.measure(labels, log10_nfa, score),
        energies=(),
        strides=(),
        config=DetectionConfig(),
        guarantee=Guarantee(false_alarms=1.0, **guarantee),
    )
    return resegment(found, 1.0)


@pytest.fixture
def hills():
    """A function that returns a detection without a network: a round hill for each (row, column, lowest log10 NFA)."""
    return _hills
