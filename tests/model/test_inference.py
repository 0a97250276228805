"""ScoreMaps in tiles: the backbone sees each place once; holes, windows and borders are those of the whole image."""

import numpy as np
import pytest

from napari_uflow.image.grid import Window
from napari_uflow.image.plane import Plane
from napari_uflow.model.inference import score_steps
from napari_uflow.model.joint import APERTURES
from napari_uflow.progress import Progress, drain
from napari_uflow.samples.fibres import fibre_field

TILE = 128


@pytest.fixture(scope="module", params=["joint", "pyramid"])
def model(request, tiny_model, tiny_pyramid):
    return {"joint": tiny_model, "pyramid": tiny_pyramid}[request.param]


@pytest.fixture(scope="module")
def network(model):
    return model.network("cpu")


@pytest.fixture(scope="module")
def plane():
    """Two rows and three columns of tiles; its sides are no multiples of a stride."""
    image = fibre_field(5, shape=(2 * TILE - 7, 3 * TILE - 21)).image.astype(np.float32)
    image[60:140, 130] = np.nan
    return Plane(data=image)


def scores(network, model, plane, **options):
    return drain(score_steps(network, model.intensity, plane, phase=None, **options))


def same(one, other):
    for kind in ("energies", "bounded", "log_variances", "evidence"):
        for a, b in zip(getattr(one, kind), getattr(other, kind), strict=True):
            np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
            atol = 1e-3 if kind == "evidence" else 1e-4  # in units of a narrow distribution
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=atol)
    assert one.outside == pytest.approx(other.outside)


@pytest.mark.slow
def test_tiles_give_what_the_whole_gives_with_holes_too(network, model, plane):
    whole = scores(network, model, plane, tile=4096)
    tiled = scores(network, model, plane, tile=TILE)
    assert np.isnan(whole.energies[0]).any()
    assert len(whole.evidence) == network.is_joint
    assert whole.tested == (whole.evidence or whole.bounded + whole.log_variances)
    same(tiled, whole)


def test_a_window_in_tiles_gives_what_it_gives_at_once(network, model, plane):
    window = Window(32, 64, 200, 290)
    whole = scores(network, model, plane, tile=4096, window=window)
    tiled = scores(network, model, plane, tile=TILE, window=window)
    assert whole.energies[0].shape == ((25, 37) if network.is_joint else (50, 73))
    same(tiled, whole)


@pytest.mark.parametrize("kind", ["likelihood", "sharp", "wide"])
def test_each_kind_of_evidence_in_tiles_is_that_of_the_whole(tiny_model, plane, kind):
    """Wide features at the side of a tile are means over neighbours in another one."""
    network = tiny_model.network("cpu")
    others = [i for i in range(1 + APERTURES) if i != ["likelihood", "sharp", "wide"].index(kind)]
    network.scale.median[others], network.scale.width[others] = 0, 1e9
    whole = scores(network, tiny_model, plane, tile=4096)
    assert np.nanstd(whole.evidence[0]) > 0.05  # far above the tolerance
    same(scores(network, tiny_model, plane, tile=TILE), whole)


def test_the_backbone_sees_each_place_once(network, model, plane, monkeypatch):
    asked = []
    original = network.reading_window
    monkeypatch.setattr(
        network, "reading_window", lambda wanted, shape: asked.append(wanted) or original(wanted, shape)
    )
    scores(network, model, plane, tile=TILE)
    assert len(asked) == 6
    seen = np.zeros((2 * TILE, 3 * TILE), int)
    for wanted in asked:
        seen[wanted.slices()] += 1
    n_rows, n_cols = (-(-size // 16) * 16 for size in plane.shape)
    assert (seen[:n_rows, :n_cols] == 1).all()
    assert seen.sum() == n_rows * n_cols


def test_a_band_of_features_is_kept_and_not_the_image(network, model):
    """The band is as high as the flow's windows, whatever the height of the image."""
    import napari_uflow.model.inference as module

    heights = []

    class Band(module.FeatureBand):
        def features(self, outer):
            heights.append(self._levels[0].features.shape[2] * network.strides[0])
            return super().features(outer)

    tall = Plane(data=np.zeros((6 * TILE, TILE), np.uint8))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FeatureBand", Band)
        scores(network, model, tall, tile=TILE)
    assert max(heights) <= TILE + 2 * network.flow_halo + 32


def test_progress_of_tiles(network, model, plane):
    events = []
    drain(score_steps(network, model.intensity, plane, tile=TILE), events.append)
    counts = [event.done for event in events if isinstance(event, Progress)]
    assert counts == sorted(counts)
    assert set(counts) == set(range(7))
