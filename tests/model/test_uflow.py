"""The whole network: tiles give what the whole image gives, and training ends at N(0, I) whatever the batch."""

import importlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from napari_uflow.config import DetectionConfig, ModelConfig, TrainingConfig
from napari_uflow.detection.detect import detect
from napari_uflow.errors import ConfigError, ModelFileError
from napari_uflow.image.grid import Window
from napari_uflow.image.intensity import IntensityRange
from napari_uflow.image.plane import Plane
from napari_uflow.model.flow import UShapedFlow
from napari_uflow.model.memory import key_of
from napari_uflow.model.uflow import MARGIN, TrainedModel, UFlow
from napari_uflow.progress import drain, run_chunks
from napari_uflow.samples.fibres import fibre_field
from napari_uflow.training.cache import FeatureCache, FeatureCaches


def untrained(norm: str, n_channels: int = 1, seed: int = 0, **options) -> TrainedModel:
    """A model whose normalisation is fitted and whose couplings are far from the identity, without training."""
    config = ModelConfig.from_dict({"backbone": "scattering", "feature_norm": norm, "flow_steps": 2, **options})
    network = UFlow(config, n_channels, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.flow.parameters():
            if parameter.requires_grad:
                parameter += 0.03 * torch.randn(parameter.shape, generator=generator)
    image = torch.from_numpy(fibre_field(3, shape=(128, 128)).image / np.float32(255))
    features = network.features(image.expand(1, n_channels, -1, -1))
    for level, x in enumerate(network.of_flow(features)):
        everywhere = torch.ones(1, *x.shape[2:], dtype=torch.bool)
        network.norm.fit(level, lambda x=x, everywhere=everywhere: [(x, everywhere)])
    if network.is_joint:
        remember(network, features[0][:1])
    intensity = IntensityRange((0.0,) * n_channels, (255.0,) * n_channels)
    return TrainedModel(config=config, training=TrainingConfig(), intensity=intensity, state=network.state_dict())


def remember(network, features):
    """Fill the memory with every position of joint features (1, C, M, N), and fit the scale to another image."""
    vectors = features.flatten(2)[0].T
    network.memory.keep(vectors, torch.full((len(vectors),), key_of("remembered")))
    other = torch.from_numpy(fibre_field(4, shape=(128, 128)).image / np.float32(255))
    (x,) = network.features(other.expand(1, network.n_channels, -1, -1))
    everywhere = torch.ones(x.shape[2:], dtype=torch.bool)
    run_chunks(network.fit_scale(lambda: [(x, everywhere, Window(0, 0, 128, 128), key_of("other"))]))


# Tiles


@pytest.mark.slow
@pytest.mark.parametrize("levels", ["joint", "pyramid"])
@pytest.mark.parametrize(
    ("backbone", "norm"),
    [
        ("scattering", "channel"),
        ("scattering", "whiten"),
        ("scattering", "position"),
        ("efficientnet_lite2", "channel"),
        ("efficientnet_lite2", "whiten"),
    ],
)
def test_tiles_give_what_the_whole_image_gives(backbone, norm, levels):
    model = untrained(norm, backbone=backbone, levels=levels)
    network = model.network()
    assert network.is_size_free
    tile = 128
    width = tile + 2 * network.halo + 37
    plane = Plane(data=fibre_field(5, shape=(140, width)).image)
    whole = detect(model, plane, DetectionConfig(tile=8192), network=network)
    events = []
    tiled = detect(model, plane, DetectionConfig(tile=tile), network=network, on_event=events.append)
    assert len({event for event in events if getattr(event, "phase", "") == "Detecting"}) > 8
    for one, other in zip(tiled.energies, whole.energies, strict=True):
        assert one.std() > 0.1
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(tiled.score, whole.score, rtol=1e-3, atol=1e-3 if levels == "joint" else 1e-4)
    if norm == "channel" and levels == "pyramid":  # it is the halo that does it
        bare = detect(model, plane, DetectionConfig(tile=tile, halo=0), network=network)
        assert np.abs(bare.energies[0] - whole.energies[0]).max() > 1e-2


@pytest.mark.parametrize("levels", ["joint", "pyramid"])
def test_the_flow_sees_no_further_than_it_claims(levels):
    network = untrained("channel", levels=levels).network()
    assert (network.flow_halo == 0) == (levels == "joint")
    size = 16 * (2 * (network.flow_halo // 16 + 2) + 1)
    middle = size // 2
    features = network.features(torch.rand(1, 1, size, size))
    for changed_level, stride in enumerate(network.strides):
        changed = [x.clone() for x in features]
        changed[changed_level][..., middle // stride, middle // stride] += 1
        with torch.no_grad():
            before, after = network.latents(features).z, network.latents(changed).z
        for one, other, s in zip(before, after, network.strides, strict=True):
            difference = (one - other).abs().amax(dim=(0, 1))
            first = torch.arange(len(difference)) * s
            low = middle // stride * stride
            away = torch.maximum(first - (low + stride - 1), low - (first + s - 1)).clamp_min(0)
            distance = torch.maximum(away[:, None], away[None])
            assert (distance > network.flow_halo).any()
            assert float(difference[distance > network.flow_halo].max()) == 0


@pytest.mark.parametrize("shape", [(300, 500), (40, 700), (16, 16)])
def test_what_is_read_holds_the_window_and_lies_on_the_grid(shape):
    network = untrained("channel").network()
    coarsest = network.align
    height, width = (-(-n // coarsest) * coarsest for n in shape)
    for row in range(0, height, 64):
        for col in range(0, width, 64):
            window = Window(row, col, min(64, height - row), min(64, width - col))
            read = network.reading_window(window, shape)
            assert read.contains(window)
            assert all(value % coarsest == 0 for value in (read.row, read.col, read.height, read.width))
            assert Window(-MARGIN, -MARGIN, height + 2 * MARGIN, width + 2 * MARGIN).contains(read)


@pytest.mark.parametrize("levels", ["joint", "pyramid"])
def test_halo_covers_backbone_and_flow(levels):
    network = untrained("channel", levels=levels).network()
    assert network.halo >= network.backbone.halo + network.flow_halo
    assert network.halo % network.align == 0
    more_steps = UFlow(network.config.replace(flow_steps=4), 1)
    if levels == "pyramid":
        assert more_steps.flow_halo > network.flow_halo
    else:  # each position is judged alone
        assert more_steps.flow_halo == network.flow_halo == 0
        assert network.halo > network.backbone.halo


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["scattering", "efficientnet_lite2"])
@pytest.mark.parametrize("place", [0, 15])
def test_joint_features_see_no_further_than_they_claim(backbone, place, stirred):
    """Change one pixel, the first or last one of a position of the coarsest level."""
    network = UFlow(ModelConfig.from_dict({"backbone": backbone, "flow_steps": 1}), 1).eval()
    stirred(network.backbone)
    middle = network.feature_halo + 32 + place
    size = 2 * (network.feature_halo + 32) + 16
    x = torch.rand(1, 1, size, size)
    changed = x.clone()
    changed[..., middle, middle] += 0.5
    (one,), (other,) = network.features(x), network.features(changed)
    difference = (one - other).abs().amax(dim=(0, 1))
    first = torch.arange(len(difference)) * 8
    away = torch.maximum(first - middle, middle - (first + 7)).clamp_min(0)
    distance = torch.maximum(away[:, None], away[None])
    assert (distance > network.feature_halo).any()
    assert distance[difference > 0].max() >= 16
    assert float(difference[distance > network.feature_halo].max()) <= 1e-6 * float(one.abs().max())


# Weights


def test_seeds_decide_about_the_weights_and_leave_torchs_own_state_alone():
    state = torch.random.get_rng_state()
    one, same, other = (UFlow(ModelConfig(flow_steps=1), 1, seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_a_model_builds_its_network_again():
    model = untrained("whiten", n_channels=2)
    x = torch.rand(1, 2, 64, 64)
    one, other = model.network(), model.network()
    assert not one.training
    for a, b in zip(one.energies(x), other.energies(x), strict=True):
        assert torch.equal(a, b)
        assert not a.requires_grad
    assert model.n_channels == 2


def test_weights_of_another_configuration_are_refused():
    model = untrained("channel")
    other = replace(model, config=model.config.replace(flow_steps=3))
    with pytest.raises(ModelFileError, match="do not belong to its configuration"):
        other.network()


def test_tile_must_fit_the_strides():
    with pytest.raises(ConfigError, match="tile must be a multiple of 16"):
        UFlow(ModelConfig(tile=100), 1)


# The loss


class StubNetwork(nn.Module):
    """A flow on features that come from nowhere."""

    strides = (4, 8)
    device = torch.device("cpu")

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.flow = UShapedFlow((6, 8), flow_steps=2)

    def of_flow(self, features):
        return features

    def latents(self, features):
        return self.flow(features)


@pytest.mark.slow
def test_the_variance_of_latents_does_not_depend_on_the_batch_size():
    """Summing the quadratic term over the batch and not the determinant gives 1 / sqrt(8) = 0.35 at batch 8."""
    optimise = importlib.import_module("napari_uflow.training.optimise")
    generator = torch.Generator().manual_seed(0)
    everywhere = [torch.ones(8, 8, dtype=torch.bool), torch.ones(4, 4, dtype=torch.bool)]
    tiles = [
        [1.3 * torch.randn(c, n, n, generator=generator, dtype=torch.float32) for c, n in ((6, 8), (8, 4))]
        for _ in range(80)
    ]
    for batch_size in (1, 8):
        network = StubNetwork()
        config = TrainingConfig(steps=100, batch_size=batch_size, learning_rate=0.1, check_every=100)
        with FeatureCache(1e9) as train_cache, FeatureCache(1e9) as holdout_cache:
            for i, features in enumerate(tiles):
                (train_cache if i < 64 else holdout_cache).add(features, everywhere)
            rng = np.random.default_rng(0)
            caches = FeatureCaches(train_cache, holdout_cache)
            drain(optimise.optimise(network, caches, config, rng, lambda history, outcome: None))
        with torch.no_grad():
            z = network.latents([torch.stack(level) for level in zip(*tiles[64:], strict=True)]).z
        np.testing.assert_allclose([float(part.std()) for part in z], 1, atol=0.15)


def test_gradients_are_off_in_the_chunks_and_on_between_them():
    network = untrained("channel").network()
    chunks = network.features_in_chunks(torch.rand(1, network.n_channels, 64, 64))
    next(chunks)
    assert torch.is_grad_enabled()
    features = run_chunks(chunks)
    latents = network.latents_in_chunks(features)
    next(latents)
    assert torch.is_grad_enabled()
    assert not any(z.requires_grad for z in run_chunks(latents).z)


def test_a_position_is_not_smaller_than_a_pixel():
    with pytest.raises(ConfigError, match="magnification must be 4 or less for these levels, not 6"):
        UFlow(ModelConfig(backbone="scattering", levels="pyramid", magnification=6), 1)
    UFlow(ModelConfig(backbone="scattering", magnification=8), 1)
