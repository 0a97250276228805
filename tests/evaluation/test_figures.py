"""The overview is drawn without a window, shows every row on one scale, and reaches the disk whole or not at all."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from skimage.io import imread

from napari_uflow.errors import ConfigError, ImageError, UFlowError
from napari_uflow.evaluation.figures import figure_pixels, save_figure
from napari_uflow.evaluation.overview import OverviewRow, overview


def row(shape=(24, 32), *, truth=True, **changes):
    """One square in the middle that was found, one at the upper left corner that is true."""
    labels = np.zeros(shape[:2], dtype=np.int32)
    labels[8:12, 8:12] = 3
    mask = np.zeros(shape[:2], dtype=bool)
    mask[:4, :4] = True
    specimens = {
        "name": "tile_$1$.png",
        "image": np.arange(np.prod(shape), dtype=np.uint16).reshape(shape),
        "score": labels.astype(np.float32),
        "labels": labels,
        "truth": mask if truth else None,
        "caption": "log10 NFA -7.5, 1 region",
    }
    return OverviewRow(**(specimens | changes))


def panels(fig):
    """The axes that show an image, in reading order (the colour bar is the last of all)."""
    return fig.axes[:-1]


def outlines(axes):
    """Corners (left, upper, right, lower) of the coloured outlines; each has a dark rim below it."""
    lines = [c for c in axes.collections if isinstance(c, LineCollection)]
    found = lines[-1].get_segments() if lines else []
    return [(*s.min(axis=0), *s.max(axis=0)) for s in found]


def test_a_row_is_image_score_found_and_truth():
    image, score, found, truth = panels(overview([row()], score_limits=(0, 2)))
    assert outlines(image) == outlines(score) == []
    assert outlines(found) == [(7.5, 7.5, 11.5, 11.5)]
    assert outlines(truth) == [(-0.5, -0.5, 3.5, 3.5)]
    assert to_hex(found.collections[-1].get_edgecolor()[0]) != to_hex(truth.collections[-1].get_edgecolor()[0])
    (heat,) = score.images
    assert (heat.norm.vmin, heat.norm.vmax) == (0, 2)
    assert heat.get_cmap().name == "magma"


def test_there_is_a_truth_column_only_if_someone_knows_the_truth():
    assert len(panels(overview([row(truth=False)] * 2, score_limits=(0, 1)))) == 6
    mixed = panels(overview([row(truth=False), row()], score_limits=(0, 1)))
    assert len(mixed) == 8
    assert not mixed[3].images
    assert mixed[7].images


def test_images_keep_their_proportions_and_stay_on_the_page():
    rows = [row((24, 32)), row((90, 30)), row((30, 120, 3))]
    fig = overview(rows, score_limits=(0, 1), title="Three shapes")
    width, height = fig.get_size_inches()
    for k, axes in enumerate(panels(fig)):
        box = axes.get_position()
        shape = rows[k // 4].image.shape
        assert box.height * height / (box.width * width) == pytest.approx(shape[0] / shape[1])
        assert 0 < box.x0 < box.x1 < 1
        assert 0 < box.y0 < box.y1 < 1
    fig.canvas.draw()


def test_one_hot_pixel_of_a_large_image_is_not_averaged_away(monkeypatch):
    monkeypatch.setattr("napari_uflow.evaluation.overview._MAX_PIXELS", 10)
    score = np.zeros((24, 32), dtype=np.float32)
    score[13, 21] = 1.0
    _, heat, found, _ = panels(overview([row(score=score)], score_limits=(0, 1)))
    assert heat.images[0].get_array().shape == (6, 8)
    assert heat.images[0].get_array().max() == 1.0
    assert outlines(found) == [(7.5, 7.5, 11.5, 11.5)]
    assert heat.get_xlim() == (-0.5, 31.5)


@pytest.mark.parametrize(
    "image",
    [
        np.full((24, 32), 7, dtype=np.uint8),
        np.full((24, 32), np.nan),
        np.where(np.eye(24, 32) > 0, np.inf, 1.0),
        np.zeros((24, 32), dtype=bool),
    ],
)
def test_odd_images_and_endless_scores_are_drawn(image):
    score = np.full((24, 32), np.inf)
    score[0] = -np.inf
    fig = overview([row(image=image, score=score, labels=np.zeros((24, 32), dtype=bool))], score_limits=(0, 1))
    fig.canvas.draw()


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ConfigError, match="at least one row"):
        overview([], score_limits=(0, 1))
    for limits in [(1, 1), (2, 1), (0, np.nan), (-np.inf, 0)]:
        with pytest.raises(ConfigError, match="score_limits"):
            overview([row()], score_limits=limits)
    with pytest.raises(ImageError, match=r"labels of 'tile_.*\(24, 32\).*\(24, 31\)"):
        row(labels=np.zeros((24, 31), dtype=int))
    with pytest.raises(ImageError, match=r"\(M, N\) or \(M, N, 3\)"):
        row(image=np.zeros((24, 32, 4)))


def test_saving_replaces_the_file_in_one_step(tmp_path, monkeypatch):
    fig = overview([row()], score_limits=(0, 1))
    path = tmp_path / "overview.png"
    save_figure(fig, path)
    before = path.read_bytes()
    assert imread(path).shape[:2] == tuple(int(x * fig.dpi) for x in fig.get_size_inches()[::-1])

    def fail(*args, **kwargs):
        args[0].write_bytes(b"half a file")
        raise OSError("no space left")

    monkeypatch.setattr(fig, "savefig", fail)
    with pytest.raises(UFlowError, match="no space"):
        save_figure(fig, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ConfigError, match=r"overview\.txt"):
        save_figure(fig, tmp_path / "overview.txt")


def test_the_pixels_of_a_figure_are_what_is_saved(tmp_path):
    fig = overview([row()], score_limits=(0, 1))
    pixels = figure_pixels(fig)
    assert pixels.dtype == np.uint8
    save_figure(fig, tmp_path / "figure.png")
    np.testing.assert_array_equal(pixels[..., :3], imread(tmp_path / "figure.png")[..., :3])


@pytest.mark.slow
def test_pyplot_is_never_loaded():
    code = "import sys, napari_uflow.evaluation.overview; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
