"""What the tests of the plugin share."""

import pytest

from napari_uflow._napari.session.libraries import make_torch_safe

make_torch_safe()


@pytest.fixture
def viewer(make_napari_viewer_proxy):
    return make_napari_viewer_proxy()


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch, tmp_path):
    """Models that save themselves do not go to the user's folder."""
    monkeypatch.setattr("napari_uflow._napari.panels.train.data_folder", lambda: tmp_path)
