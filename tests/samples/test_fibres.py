"""The laws of the drawn fibre images: same seed, same bytes; a defect changes its mask and nothing else."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.io import imread

from napari_uflow.errors import ConfigError
from napari_uflow.samples.dataset import fibre_dataset, write_fibre_dataset
from napari_uflow.samples.fibres import FibreField, fibre_field

KINDS = ("bead", "broken", "merged")


def equal(one: FibreField, other: FibreField) -> bool:
    same = np.array_equal(one.image, other.image) and np.array_equal(one.labels, other.labels)
    return same and one.kinds == other.kinds and one.seed == other.seed


def test_the_same_seed_gives_the_same_bytes_whatever_was_drawn_before():
    first = fibre_field(7, shape=(128, 128), defects=2)
    fibre_field(8, shape=(128, 160), defects=1)
    np.random.default_rng().random(3)
    assert equal(first, fibre_field(7, shape=(128, 128), defects=2))
    assert not equal(first, fibre_field(8, shape=(128, 128), defects=2))


def test_image_i_of_a_data_set_does_not_depend_on_how_many_are_drawn():
    few = fibre_dataset(1, 2, shape=(128, 128), seed=3)
    many = fibre_dataset(3, 4, shape=(128, 128), seed=3)
    assert equal(few[0], many[0])
    assert equal(few[1], many[3])
    assert equal(few[2], many[4])
    assert not equal(many[0], fibre_dataset(1, 0, shape=(128, 128), seed=4)[0])


@pytest.mark.parametrize("shape", [(256, 256), (110, 300), (300, 110), (129, 131)])
def test_dtype_shape_and_emptiness(shape):
    normal = fibre_field(1, shape=shape)
    assert normal.image.dtype == np.uint8
    assert normal.image.shape == normal.labels.shape == normal.mask.shape == shape
    assert normal.mask.dtype == bool
    assert not normal.mask.any()
    assert normal.kinds == ()
    defective = fibre_field(1, shape=shape, defects=1)
    assert len(defective.kinds) == 1
    assert defective.mask.any()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(5))
def test_a_defect_changes_its_mask_and_nothing_else(kind, seed):
    normal = fibre_field(seed, shape=(160, 200))
    defective = fibre_field(seed, shape=(160, 200), defects=2, kinds=(kind,))
    mask = defective.mask
    assert set(defective.kinds) == {kind}
    assert set(np.unique(defective.labels)) == set(range(len(defective.kinds) + 1))
    assert np.array_equal(defective.image[~mask], normal.image[~mask])
    # 2 grey levels before noise, and what is enclosed: nearly all of the mask differs by a byte at least
    assert (defective.image[mask] != normal.image[mask]).mean() > 0.8
    # neither a speck nor a region that a person would not call one defect
    for n in range(1, len(defective.kinds) + 1):
        assert 30 <= np.count_nonzero(defective.labels == n) <= 0.2 * mask.size


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_more_severe_defect_is_larger(kind):
    def area(severity):
        images = [
            fibre_field(s, shape=(160, 160), defects=1, kinds=(kind,), severity=(severity, severity)) for s in range(6)
        ]
        return np.median([f.mask.sum() for f in images])

    assert area(1.0) > 1.3 * area(0.0)


def test_defects_are_not_simply_the_brightest_pixels():
    # the normal image itself has pixels as bright as the brightest of the bead, so no threshold finds it
    overlap = []
    for seed in range(6):
        drawn = fibre_field(seed, defects=1)
        smooth = ndimage.gaussian_filter(drawn.image.astype(float), 2)
        overlap.append((smooth[~drawn.mask] > np.median(smooth[drawn.mask])).mean())
    assert np.median(overlap) > 0.03


def test_an_image_looks_like_a_micrograph():
    for seed in range(4):
        image = fibre_field(seed).image
        assert 20 < image.mean() < 150
        assert image.std() > 12
        assert (image == 255).mean() < 0.02


def test_many_defects_in_a_small_image_are_all_seen_or_left_out():
    for seed in range(6):
        drawn = fibre_field(seed, shape=(110, 110), defects=5)
        counts = np.bincount(drawn.labels.ravel())
        assert 1 <= len(drawn.kinds) <= 5
        assert len(counts) == len(drawn.kinds) + 1
        assert counts.min() > 0


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"seed": -1}, "seed"),
        ({"shape": (50, 256)}, "shape"),
        ({"shape": (256, 256, 3)}, "shape"),
        ({"defects": -1}, "defects"),
        ({"kinds": ()}, "kinds"),
        ({"kinds": ("hole",)}, "kinds"),
        ({"severity": (0.5, 0.2)}, "severity"),
        ({"diameter_px": 1.0}, "diameter_px"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, word):
    with pytest.raises(ConfigError, match=word):
        fibre_field(**{"seed": 0, **arguments})


def test_data_set_on_disk(tmp_path):
    folder = write_fibre_dataset(
        tmp_path / "fibres", n_train=2, n_test_good=1, n_test_defective=4, shape=(110, 120), seed=5
    )
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    assert files == [
        "ground_truth/bead/000_mask.png",
        "ground_truth/bead/001_mask.png",
        "ground_truth/broken/000_mask.png",
        "ground_truth/merged/000_mask.png",
        "test/bead/000.png",
        "test/bead/001.png",
        "test/broken/000.png",
        "test/good/000.png",
        "test/merged/000.png",
        "train/good/000.png",
        "train/good/001.png",
    ]
    drawn = fibre_dataset(3, 4, shape=(110, 120), seed=5)
    assert np.array_equal(imread(folder / "train/good/001.png"), drawn[1].image)
    assert np.array_equal(imread(folder / "test/good/000.png"), drawn[2].image)
    assert np.array_equal(imread(folder / "test/bead/001.png"), drawn[6].image)
    mask = imread(folder / "ground_truth/bead/001_mask.png")
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 255}
    assert np.array_equal(mask > 0, drawn[6].mask)


def test_aligned_fibres_share_their_direction():
    def direction(image):
        rows, cols = np.gradient(ndimage.gaussian_filter(image.astype(float), 2))
        return 0.5 * np.arctan2(2 * (rows * cols).mean(), (cols**2 - rows**2).mean())

    found = [direction(fibre_field(seed, aligned=True, diameter_px=5).image) for seed in range(4)]
    assert np.ptp(found) < 0.15
