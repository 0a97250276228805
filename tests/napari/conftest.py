"""Fixtures of the plugin's tests."""

from pathlib import Path

import pytest

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
