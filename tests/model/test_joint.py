"""Tests of joint features, border classes, their scale and the memory."""

import numpy as np
import pytest
import torch

from napari_uflow.image.grid import Window
from napari_uflow.model.classes import N_CLASSES, ClassScale, border_classes
from napari_uflow.model.joint import APERTURES, join
from napari_uflow.model.memory import Memory, key_of


def test_levels_are_joined_on_the_grid_of_stride_8():
    levels = [torch.full((1, c, 64 // s, 96 // s), float(s)) for c, s in ((2, 4), (3, 8), (4, 16))]
    joined = join(levels, (4, 8, 16))
    assert joined.shape == (1, APERTURES * 9, 8, 12)
    of_levels = torch.tensor([4.0] * 2 + [8.0] * 3 + [16.0] * 4)
    assert torch.allclose(joined[0, :, 0, 0], of_levels.repeat(APERTURES))


def test_a_position_of_joint_features_is_centred_on_its_cell():
    ramps = [(torch.arange(96 // s).float() * s + s / 2).expand(1, 1, 64 // s, -1) for s in (4, 8, 16)]
    joined = join(ramps, (4, 8, 16))
    centres = torch.arange(12).float() * 8 + 4
    assert torch.allclose(joined[0, :, 4, 3:-3], centres[3:-3].expand(APERTURES * 3, -1))


def random_levels():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, c, 64 // s, 96 // s, generator=generator) for c, s in ((2, 4), (3, 8), (4, 16))]


def test_sharp_features_are_not_averaged_beyond_their_cell():
    levels = random_levels()
    sharp = join(levels, (4, 8, 16))[:, :9]
    cells = levels[0].unfold(2, 2, 2).unfold(3, 2, 2).mean(dim=(-2, -1))
    assert torch.allclose(sharp[:, :2], cells, atol=1e-6)
    assert torch.equal(sharp[:, 2:5], levels[1])


def test_wide_features_are_the_mean_of_the_sharp_ones_of_a_position_and_its_neighbours():
    sharp, wide = join(random_levels(), (4, 8, 16)).chunk(2, dim=1)
    assert sharp.shape == wide.shape == (2, 9, 8, 12)
    for row in range(8):
        for col in range(12):  # at the border of those neighbours that there are
            around = sharp[:, :, max(row - 1, 0) : row + 2, max(col - 1, 0) : col + 2]
            assert torch.allclose(wide[:, :, row, col], around.mean(dim=(2, 3)), atol=1e-6)
    assert wide.std() < 0.6 * sharp.std()


def test_classes_of_an_image():
    classes = border_classes((8, 9), Window(0, 0, 64, 72), 8)
    assert classes[0].tolist() == [1, 1, 1, 0, 0, 0, 1, 1, 1]
    assert classes[1].tolist() == [1, 3, 3, 2, 2, 2, 3, 3, 1]
    assert classes[2].tolist() == [1, 3, 5, 4, 4, 4, 5, 3, 1]
    assert classes[3].tolist() == [0, 2, 4, 6, 6, 6, 4, 2, 0]
    assert (border_classes((8, 9), None, 8) == N_CLASSES - 1).all()


@pytest.mark.parametrize("window", [Window(0, 0, 32, 40), Window(32, 16, 48, 56), Window(64, 80, 32, 48)])
def test_a_tile_has_the_classes_of_the_whole_image(window):
    shape = (91, 123)  # not a multiple of the stride
    whole = border_classes((12, 16), Window(0, 0, *shape), 8)
    tile = border_classes((window.height // 8, window.width // 8), Window(-window.row, -window.col, *shape), 8)
    rows, cols = window.scaled(8).slices()
    assert np.array_equal(tile, whole[rows, cols])


def test_the_scale_makes_normal_positions_of_all_classes_alike():
    rng = np.random.default_rng(0)
    classes = rng.integers(0, N_CLASSES, 200_000)
    scores = (rng.normal(size=classes.size) * (1 + classes) + 5 * classes).astype(np.float32)
    scale = ClassScale(1)
    scale.fit(0, [scores], [classes])
    scaled = scale.apply(0, torch.from_numpy(scores)[None], classes[None])[0].numpy()
    for i in range(N_CLASSES):
        assert np.quantile(scaled[classes == i], [0.5, 0.99]) == pytest.approx([0, 1], abs=0.05)


def test_a_class_without_positions_has_the_scale_of_the_next_one_further_in():
    rng = np.random.default_rng(0)
    scores = rng.normal(3, 2, 10_000).astype(np.float32)
    scale = ClassScale(1)
    scale.fit(0, [scores], [np.full(10_000, N_CLASSES - 1)])
    assert torch.equal(scale.median[0], scale.median[0, -1].expand(N_CLASSES))
    assert torch.equal(scale.width[0], scale.width[0, -1].expand(N_CLASSES))


def test_the_scale_ignores_what_was_not_measured():
    scale = ClassScale(1)
    values = np.r_[np.linspace(0, 1, 101), np.nan].astype(np.float32)
    scale.fit(0, [values], [np.full(102, N_CLASSES - 1)])
    assert float(scale.median[0, -1]) == pytest.approx(0.5)


def memory_of(n=500, channels=6, n_parts=1):
    generator = torch.Generator().manual_seed(0)
    memory = Memory(channels, n_parts)
    memory.keep(torch.randn(n, channels, generator=generator), torch.tensor([key_of("a"), key_of("b")]).repeat(n // 2))
    return memory


@pytest.mark.parametrize("n_parts", [1, 2, 3])
def test_the_distance_of_each_part_is_that_of_the_nearest_vector(n_parts):
    memory = memory_of(n_parts=n_parts)
    x = torch.randn(2, 6, 5, 7)
    found = memory.distance(x)
    assert found.shape == (2, n_parts, 5, 7)
    length = 6 // n_parts
    for part, distance in enumerate(found.unbind(dim=1)):
        own = slice(part * length, (part + 1) * length)
        rows = x[:, own].movedim(1, -1).reshape(-1, length)
        nearest = torch.cdist(rows, memory.vectors[:, own]).amin(dim=1).view(2, 5, 7)
        assert torch.allclose(distance, nearest / length**0.5, atol=1e-3)


def test_parts_may_be_nearest_to_different_vectors():
    memory = Memory(2, 2)
    memory.keep(torch.tensor([[0.0, 5.0], [5.0, 0.0]]), torch.zeros(2))
    assert torch.equal(memory.distance(torch.zeros(1, 2, 1, 1)), torch.zeros(1, 2, 1, 1))


def test_a_specimen_can_be_left_out():
    memory = memory_of()
    own = memory.vectors[memory.keys == key_of("a")][:12].T.reshape(1, 6, 3, 4)
    assert memory.distance(own).max() < 1e-2
    with memory.without(key_of("a")):
        others = memory.distance(own)
    assert others.min() > 0.05
    assert memory.distance(own).max() < 1e-2


@pytest.mark.parametrize("key", [key_of("a"), key_of("b"), key_of("never seen")])
def test_distances_are_never_smaller_with_a_specimen_left_out(key):
    """So normal images score no lower in a calibration, each without its own specimen, than new ones do."""
    memory = memory_of(n_parts=2)
    x = torch.randn(1, 6, 20, 20, generator=torch.Generator().manual_seed(1))
    everything = memory.distance(x)
    with memory.without(key):
        others = memory.distance(x)
    assert bool((others >= everything).all())
    assert bool((others > everything).any()) == (key in memory.keys.tolist())


def test_an_empty_memory_knows_no_distance():
    assert torch.equal(Memory(6, 2).distance(torch.randn(1, 6, 3, 4)), torch.zeros(1, 2, 3, 4))


def test_a_memory_takes_as_many_vectors_as_its_file_holds():
    memory, loaded = memory_of(n_parts=2), Memory(6, 2)
    loaded.load_state_dict(memory.state_dict())
    assert torch.equal(loaded.vectors, memory.vectors)
    assert torch.equal(loaded.keys, memory.keys)
