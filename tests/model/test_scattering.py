"""The wavelet backbone: what its kernels measure, and the symmetries that its features inherit."""

import math
import re

import pytest
import torch
import torch.nn.functional as F

from napari_uflow.model.scattering import Scattering, morlet_kernels

N_ORIENTATIONS = 8


@pytest.fixture(scope="module")
def scattering():
    return Scattering(1)


def image(size=(128, 128), channels=1, batch=1, seed=0) -> torch.Tensor:
    """Smooth noise from 0 to 1."""
    noise = torch.rand(batch, channels, size[0] + 2, size[1] + 2, generator=torch.Generator().manual_seed(seed))
    smooth = F.avg_pool2d(noise, 3, stride=1)
    return (smooth - smooth.amin()) / (smooth.amax() - smooth.amin())


def features(scattering, x) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        return tuple(scattering(x))


def same(one, other, atol=1e-4):
    torch.testing.assert_close(one, other, rtol=0, atol=atol)


# Kernels


@pytest.mark.parametrize(("sigma", "frequency"), [(0.8, 3 * math.pi / 4), (1.6, 3 * math.pi / 8)])
def test_wavelets_see_no_constant_and_have_unit_gain(sigma, frequency):
    kernels = morlet_kernels(sigma, frequency, N_ORIENTATIONS)
    assert kernels.shape[:2] == (N_ORIENTATIONS, 2)
    same(kernels.sum(dim=(2, 3)), torch.zeros(N_ORIENTATIONS, 2), atol=1e-6)
    for kernel, along in zip(kernels, coordinates(kernels), strict=True):
        wave = torch.polar(torch.ones_like(along), frequency * along)
        gain = (torch.complex(*kernel) * wave.conj()).sum().abs()
        assert float(gain) == pytest.approx(1, abs=1e-4)


def coordinates(kernels: torch.Tensor) -> list[torch.Tensor]:
    """Coordinate along the wave of each kernel."""
    radius = kernels.shape[-1] // 2
    axis = torch.arange(-radius, radius + 1, dtype=torch.float32)
    row, col = torch.meshgrid(axis, axis, indexing="ij")
    angles = [math.pi * i / len(kernels) for i in range(len(kernels))]
    return [col * math.cos(angle) + row * math.sin(angle) for angle in angles]


def test_each_wavelet_likes_its_own_orientation_best():
    frequency = 3 * math.pi / 8
    kernels = morlet_kernels(1.6, frequency, N_ORIENTATIONS)
    for i, along in enumerate(coordinates(kernels)):
        for phase in (0.0, 0.7, 2.0):
            responses = (kernels * 2 * torch.cos(frequency * along + phase)).sum(dim=(2, 3)).norm(dim=1)
            assert int(responses.argmax()) == i
            assert float(responses[i]) == pytest.approx(1, abs=0.1)


# Features


def test_shapes_and_names(scattering):
    outputs = features(scattering, image((96, 160)))
    assert len(outputs) == len(scattering.channels) == len(scattering.strides)
    for level, (y, n, stride) in enumerate(zip(outputs, scattering.channels, scattering.strides, strict=True)):
        assert y.shape == (1, n, 96 // stride, 160 // stride)
        assert y.dtype == torch.float32
        names = scattering.channel_names(level)
        assert len(names) == len(set(names)) == n


@pytest.mark.parametrize("n_channels", [2, 3])
def test_every_channel_is_described_on_its_own(scattering, n_channels):
    x = image((64, 64), n_channels)
    outputs = features(Scattering(n_channels), x)
    for channel in range(n_channels):
        alone = features(scattering, x[:, channel : channel + 1])
        for y, one in zip(outputs, alone, strict=True):
            n = one.shape[1]
            same(y[:, channel * n : (channel + 1) * n], one)
    assert len(Scattering(n_channels).channel_names(0)) == n_channels * len(scattering.channel_names(0))


def test_images_of_a_batch_do_not_see_each_other(scattering):
    x = image((64, 80), batch=3)
    for y, one in zip(features(scattering, x), features(scattering, x[1:2]), strict=True):
        same(y[1:2], one)


def test_a_shift_of_the_image_shifts_the_features(scattering):
    margin = scattering.halo
    x = image((2 * margin + 96, 2 * margin + 128))
    one = features(scattering, x)
    other = features(scattering, x.roll((16, -32), dims=(2, 3)))
    for a, b, stride in zip(one, other, scattering.strides, strict=True):
        inner = slice((margin + 32) // stride, -(margin + 32) // stride)
        shifted = a.roll((16 // stride, -32 // stride), dims=(2, 3))
        assert shifted[..., inner, inner].numel()
        same(b[..., inner, inner], shifted[..., inner, inner])


def test_a_part_of_a_image_has_the_features_of_the_whole(scattering):
    margin = scattering.halo
    x = image((2 * margin + 80, 2 * margin + 112))
    whole = features(scattering, x)
    part = features(scattering, x[:, :, 16:, 32:-16])
    for a, b, stride in zip(whole, part, scattering.strides, strict=True):
        rows, cols = slice(margin // stride, -(margin // stride)), slice(margin // stride, -(margin // stride))
        cut = a[:, :, 16 // stride :, 32 // stride : a.shape[3] - 16 // stride]
        assert cut[..., rows, cols].numel()
        same(b[..., rows, cols], cut[..., rows, cols])


def turned_name(name: str) -> str:
    """Name of the channel that measures, after a quarter turn, what this one measured before."""
    quarter = N_ORIENTATIONS // 2
    name = re.sub(r"(?<=orientation )\d+", lambda m: str((int(m[0]) + quarter) % N_ORIENTATIONS), name)
    return re.sub(r"\d+(?=\+)", lambda m: str((int(m[0]) + quarter) % N_ORIENTATIONS), name)


def test_a_quarter_turn_of_the_image_turns_the_features(scattering):
    x = image((128, 96))
    before, after = features(scattering, x), features(scattering, x.rot90(1, dims=(2, 3)))
    for level, (a, b) in enumerate(zip(before, after, strict=True)):
        names = scattering.channel_names(level)
        order = [names.index(turned_name(name)) for name in names]
        assert order != list(range(len(names)))
        same(b[:, order], a.rot90(1, dims=(2, 3)), atol=1e-3)


def test_a_mirror_image_has_mirrored_means(scattering):
    x = image((64, 96))
    before, after = features(scattering, x), features(scattering, x.flip(3))
    for level, (a, b) in enumerate(zip(before, after, strict=True)):
        signed = [i for i, name in enumerate(scattering.channel_names(level)) if name.startswith(("mean", "band"))]
        assert signed
        same(b[:, signed], a[:, signed].flip(3))


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_constant_image_has_no_structure(scattering, value):
    constant = features(scattering, torch.full((1, 1, 64, 64), value))
    textured = features(scattering, image((64, 64)))
    for level, (flat, rough) in enumerate(zip(constant, textured, strict=True)):
        names = scattering.channel_names(level)
        moduli = [i for i, name in enumerate(names) if name.startswith("order")]
        assert bool((flat[:, moduli] <= rough[:, moduli] + 1e-4).all())
        assert float((flat[:, moduli].amax() - flat[:, moduli].amin()).abs()) < 5
        same(flat, flat[:, :, :1, :1].expand_as(flat))
        same(flat[:, names.index("mean")], torch.full_like(flat[:, 0], value))
        bands = [i for i, name in enumerate(names) if name.startswith("band")]
        same(flat[:, bands], torch.zeros_like(flat[:, bands]))


@pytest.mark.parametrize("kind", ["zero", "constant", "textured"])
def test_gradients_are_finite(scattering, kind):
    x = {"zero": torch.zeros(1, 1, 48, 48), "constant": torch.full((1, 1, 48, 48), 0.4), "textured": image((48, 48))}
    x = x[kind].clone().requires_grad_()
    sum(y.square().sum() for y in scattering(x)).backward()
    assert bool(torch.isfinite(x.grad).all())
    if kind == "textured":
        assert float(x.grad.abs().min(dim=2).values.max()) > 0


def test_nothing_is_trained_and_nothing_is_saved(scattering):
    assert list(scattering.parameters()) == []
    assert scattering.state_dict() == {}
