"""Wavelet scattering features: a backbone without training and without a download.

The image is filtered with Morlet wavelets of several orientations in each octave of a pyramid. The modulus of the
responses (order 1), and the modulus of wavelet responses to that modulus at a coarser octave (order 2), averaged over
each position of a level, measure the amount of structure of each scale and orientation, and its arrangement. The
modulus loses the sign of contrast, so signed band-pass values (dark against bright) and the local mean are added.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_uflow.model.info import BACKBONES
from napari_uflow.progress import Chunks, run_chunks

__all__ = ["Scattering", "morlet_kernels"]

# Pairs (j1, j2) of octaves of order 2 for each level, and octaves of order 1. Octave j has a wavelength of about
# 2.7 * 2**j pixels. Pairs are two octaves apart at most: the modulus has little energy beyond.
_LEVELS: tuple[tuple[int, tuple[int, ...], tuple[tuple[int, int], ...]], ...] = (
    (4, (0, 1, 2), ((0, 2), (1, 2))),
    (8, (0, 1, 2, 3), ((0, 2), (1, 2), (1, 3), (2, 3))),
    (16, (1, 2, 3, 4), ((1, 3), (2, 3), (2, 4), (3, 4))),
)
_N_ORIENTATIONS = 8
_RELATIVE_ORIENTATIONS = (0, 2, 4, 6)
# Anti-aliasing filter of one halving; its even length keeps the centre of a position in the middle of its pixels.
_HALVING = (1.0, 3.0, 3.0, 1.0)


def morlet_kernels(sigma: float, frequency: float, n_orientations: int, slant: float = 0.5) -> Tensor:
    """Return Morlet wavelets in all orientations.

    Parameters
    ----------
    sigma : float
        Standard deviation of the envelope along the wave, in pixels.
    frequency : float
        Centre frequency, in radians per pixel.
    n_orientations : int
        Number of orientations, evenly spaced over half a turn.
    slant : float
        Standard deviation of the envelope along the wave, over that across it.

    Returns
    -------
    Tensor (n_orientations, 2, K, K), float32
        Real and imaginary parts. Each wavelet has zero mean and a response of modulus 1 to the complex wave of
        amplitude 1 at its centre frequency.

    References
    ----------
    J. Bruna, S. Mallat (2013). Invariant Scattering Convolution Networks. IEEE TPAMI.
    https://doi.org/10.1109/TPAMI.2012.230. Section 2.1 (Morlet wavelets).
    """
    radius = math.ceil(3 * sigma)
    axis = torch.arange(-radius, radius + 1, dtype=torch.float64)
    row, col = torch.meshgrid(axis, axis, indexing="ij")
    kernels = []
    for i in range(n_orientations):
        angle = math.pi * i / n_orientations
        along = col * math.cos(angle) + row * math.sin(angle)
        across = -col * math.sin(angle) + row * math.cos(angle)
        envelope = torch.exp(-(along**2 + (slant * across) ** 2) / (2 * sigma**2))
        wave = torch.exp(1j * frequency * along)
        # Subtract the multiple of the envelope that makes the sum zero: a constant image has no response.
        offset = (envelope * wave).sum() / envelope.sum()
        kernel = envelope * (wave - offset)
        gain = (kernel * torch.exp(-1j * frequency * along)).sum().abs()
        kernel = kernel / gain
        kernels.append(torch.stack((kernel.real, kernel.imag)))
    return torch.stack(kernels).to(torch.float32)


def _filtered(x: Tensor, kernel: Tensor) -> Tensor:
    """Correlate every channel of (B, C, M, N) with every kernel of (K, 1, k, k); return (B * C, K, M, N)."""
    b, c, m, n = x.shape
    radius = kernel.shape[-1] // 2
    padded = F.pad(x.reshape(b * c, 1, m, n), (radius,) * 4, mode="replicate")
    return F.conv2d(padded, kernel)


class Scattering(nn.Module):
    """Scattering features at strides 4, 8 and 16.

    Differentiable, for images of any size, without trained parameters. A position of stride s describes its s x s
    pixels and their surroundings.

    Parameters
    ----------
    n_channels : int
        Channels of the image, each with features of its own.
    floor : float
        Amplitude of noise, in units of the model's intensity range. Amplitudes are compressed as
        ln(floor + amplitude).

    Attributes
    ----------
    channels, strides : tuple of int
        Channels of each level, and its pixels per position; finest first.
    halo : int
        Pixels around a position that can influence its features, a multiple of the coarsest stride.

    References
    ----------
    J. Bruna, S. Mallat (2013). Invariant Scattering Convolution Networks. IEEE TPAMI.
    https://doi.org/10.1109/TPAMI.2012.230. Section 2.2.
    """

    strides = BACKBONES["scattering"].strides
    halo = BACKBONES["scattering"].halo
    fine: Tensor
    coarse: Tensor

    def __init__(self, n_channels: int = 1, floor: float = 0.01):
        super().__init__()
        self.n_channels = n_channels
        self.floor = floor
        self.channels = tuple(n_channels * sum(1 for _ in self._names(level)) for level in range(len(_LEVELS)))
        # Octave 0 lives at full resolution; octave j > 0 is taken at the resolution of octave j - 1, where its
        # wavelength is 5.3 pixels and the modulus can be sampled without aliasing.
        fine = morlet_kernels(0.8, 3 * math.pi / 4, _N_ORIENTATIONS)
        coarse = morlet_kernels(1.6, 3 * math.pi / 8, _N_ORIENTATIONS)
        self.register_buffer("fine", fine.flatten(0, 1).unsqueeze(1), persistent=False)
        self.register_buffer("coarse", coarse.flatten(0, 1).unsqueeze(1), persistent=False)

    def _names(self, level: int) -> Iterator[str]:
        _, octaves, pairs = _LEVELS[level]
        yield "mean"
        for j in octaves:
            yield f"band {j}"
        for j in octaves:
            yield from (f"order 1, octave {j}, orientation {i}" for i in range(_N_ORIENTATIONS))
        for j1, j2 in pairs:
            for relative in _RELATIVE_ORIENTATIONS:
                yield from (f"order 2, octaves {j1} {j2}, {i}+{relative}" for i in range(_N_ORIENTATIONS))

    def channel_names(self, level: int) -> tuple[str, ...]:
        """Return the names of a level's channels."""
        return tuple(name for _ in range(self.n_channels) for name in self._names(level))

    @staticmethod
    def _halved(x: Tensor) -> Tensor:
        """Halve the size, by sums of shifted copies along rows, then columns: many times faster than a convolution."""
        padded = F.pad(x.flatten(0, 1), (1, 1, 1, 1), mode="replicate").reshape(*x.shape[:2], x.shape[2] + 2, -1)
        end, middle = _HALVING[0], _HALVING[1]
        rows = (padded[..., 1:-1:2, :] + padded[..., 2::2, :]).mul_(middle / end)
        rows.add_(padded[..., :-2:2, :]).add_(padded[..., 3::2, :])
        both = (rows[..., 1:-1:2] + rows[..., 2::2]).mul_(middle / end).add_(rows[..., :-2:2]).add_(rows[..., 3::2])
        half: Tensor = both.mul_((end / sum(_HALVING)) ** 2)
        return half

    def _levels_down(self, x: Tensor, octave: int, wanted: Iterable[int]) -> dict[int, Tensor]:
        """Return the map of one octave at the resolutions of the wanted octaves, as coarse or coarser."""
        octaves = set(wanted)
        found = {}
        for at in range(octave, max(octaves, default=octave - 1) + 1):
            if at > octave:
                x = self._halved(x)
            if at in octaves:
                found[at] = x
        return found

    def _modulus(self, x: Tensor, kernel: Tensor) -> Tensor:
        """Return the modulus of the wavelet responses, (B, C * orientations, M, N)."""
        b, c, m, n = x.shape
        response = _filtered(x, kernel).reshape(b, c * _N_ORIENTATIONS, 2, m, n)
        # The small constant keeps the gradient finite at zero.
        return (response.square().sum(dim=2) + 1e-12).sqrt()

    def _second(self, first: Tensor) -> Tensor:
        """Return the modulus of order 2, (B, C * 4 * 8, M, N): orientations of order 1 relative to order 2."""
        x = first.reshape(-1, _N_ORIENTATIONS, *first.shape[-2:])
        radius = self.coarse.shape[-1] // 2
        padded = F.pad(x, (radius,) * 4, mode="replicate")
        kernel = self.coarse.reshape(_N_ORIENTATIONS, 2, *self.coarse.shape[1:])
        parts = []
        # One orientation after the other takes a third of the time of one grouped convolution.
        for i in range(_N_ORIENTATIONS):
            turned = kernel[[(i + relative) % _N_ORIENTATIONS for relative in _RELATIVE_ORIENTATIONS]]
            response = F.conv2d(padded[:, i : i + 1], turned.flatten(0, 1))
            response = response.reshape(len(x), -1, 2, *x.shape[-2:])
            parts.append((response.square().sum(dim=2) + 1e-12).sqrt())
        return torch.stack(parts, dim=2).reshape(len(first), -1, *x.shape[-2:])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the features of images, see :meth:`chunks`."""
        return run_chunks(self.chunks(x))

    def chunks(self, x: Tensor) -> Chunks[tuple[Tensor, ...]]:
        """Compute the features of images, with a pause after each group of filters.

        Parameters
        ----------
        x : Tensor (B, C, M, N), float32
            Images in the model's intensity range (about 0 to 1); M and N multiples of 16.

        Returns
        -------
        tuple of Tensor, each (B, C_l, M / s_l, N / s_l), float32
            Levels of stride 4, 8 and 16.
        """
        b, c = x.shape[:2]
        targets = [int(math.log2(stride)) for stride, _, _ in _LEVELS]
        pyramid = list(self._levels_down(x, 0, range(5)).values())
        # Each map is downsampled once, for all levels; order 1 is computed at resolution max(j - 1, 0) of the pyramid.
        first = []
        for j in range(5):
            wanted = [target for target, (_, octaves, _) in zip(targets, _LEVELS, strict=True) if j in octaves]
            wanted += [j2 - 1 for _, _, pairs in _LEVELS for j1, j2 in pairs if j1 == j]
            modulus = self._modulus(pyramid[max(j - 1, 0)], self.coarse if j else self.fine)
            first.append(self._levels_down(modulus, max(j - 1, 0), wanted))
            del modulus
            yield
        second = {}
        for j1, j2 in dict.fromkeys(pair for _, _, pairs in _LEVELS for pair in pairs):
            wanted = [target for target, (_, _, pairs) in zip(targets, _LEVELS, strict=True) if (j1, j2) in pairs]
            second[j1, j2] = self._levels_down(self._second(first[j1][j2 - 1]), j2 - 1, wanted)
            yield
        bands = []
        for j in range(5):
            resolution = max(j - 1, 0)
            fine = pyramid[resolution]
            coarse = F.interpolate(pyramid[resolution + 1], size=fine.shape[-2:], mode="bilinear")
            bands.append(self._levels_down(fine - coarse, resolution, targets))
        outputs = []
        for target, (_, octaves, pairs) in zip(targets, _LEVELS, strict=True):
            size = pyramid[target].shape[-2:]
            parts = [pyramid[target].reshape(b, c, 1, *size)]
            parts += [bands[j][target].reshape(b, c, 1, *size) / 0.1 for j in octaves]
            parts += [self._compressed(first[j][target]).reshape(b, c, -1, *size) for j in octaves]
            parts += [self._compressed(second[pair][target], 0.3).reshape(b, c, -1, *size) for pair in pairs]
            outputs.append(torch.cat(parts, dim=2).flatten(1, 2))
            yield
        return tuple(outputs)

    def _compressed(self, amplitude: Tensor, gain: float = 1.0) -> Tensor:
        return torch.log(self.floor * gain + amplitude)
