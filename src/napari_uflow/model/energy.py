"""Energies of latents, the training loss, and the published likelihood heatmap."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["bounded_energy", "energy", "joint_energy", "likelihood_heatmap", "log_variance", "negative_log_likelihood"]

_LARGEST_LATENT = 1e15


def energy(z: Tensor) -> Tensor:
    """Return the mean of z squared over the channels.

    Parameters
    ----------
    z : Tensor (B, C, M, N), float32
        Latents of one level.

    Returns
    -------
    Tensor (B, M, N), float32
        1 on average for a normal image; under the model, C times the energy is chi-squared with C degrees of freedom.
    """
    return z.square().mean(dim=1)


def bounded_energy(z: Tensor) -> Tensor:
    """Return the mean of ln(1 + z squared) over the channels.

    Latents of real images explode at single positions and in single channels. The logarithm bounds the weight of each
    channel, so that many moderately anomalous channels outweigh a single extreme one.

    Parameters
    ----------
    z : Tensor (B, C, M, N), float32
        Latents of one level.

    Returns
    -------
    Tensor (B, M, N), float32
        0 or more.
    """
    return torch.log1p(z.clamp(-_LARGEST_LATENT, _LARGEST_LATENT).square()).mean(dim=1)


def log_variance(ln_det: Tensor, n_channels: int) -> Tensor:
    """Return the logarithm of the variance that the flow predicts at each position, mean over its dimensions.

    A flow predicts a large variance for features it has not learned, and their energy is then small: the log-variance
    is the other half of the scores. ``energy * exp(log_variance)`` is, up to the difference between arithmetic and
    geometric mean, the squared residual in units of the normalised features.

    Parameters
    ----------
    ln_det : Tensor (B, M, N), float32
        Natural logarithm of the Jacobian determinant at each position of one level.
    n_channels : int
        Latent channels of the level.

    Returns
    -------
    Tensor (B, M, N), float32
    """
    return (-2 / n_channels) * ln_det


def joint_energy(z: Tensor, ln_det: Tensor) -> Tensor:
    """Return the energy plus the log-variance: the whole log-likelihood of each position.

    Parameters
    ----------
    z : Tensor (B, C, M, N), float32
        Latents of one level.
    ln_det : Tensor (B, M, N), float32
        Natural logarithm of the Jacobian determinant at each position.

    Returns
    -------
    Tensor (B, M, N), float32
        ``-2 ln p / C`` less a constant; that of a Gaussian if the flow is the identity.
    """
    return energy(z) + log_variance(ln_det, z.shape[1])


def likelihood_heatmap(energies: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Return the anomaly score of every pixel as published: ``1 - mean over levels of exp(-energy / 2)``.

    Parameters
    ----------
    energies : sequence of Tensor, each (B, M_l, N_l), float32
        Energy maps of all levels.
    size : (int, int)
        Rows and columns of the image; each level is interpolated bilinearly between the centres of its positions.

    Returns
    -------
    Tensor (B, M, N), float32, 0 to 1

    References
    ----------
    M. Tailanian, Á. Pardo, P. Musé (2024). U-Flow: A U-shaped Normalizing Flow for Anomaly Detection with Unsupervised
    Threshold. Journal of Mathematical Imaging and Vision. https://doi.org/10.1007/s10851-024-01193-y
    """
    likelihood = torch.zeros((), device=energies[0].device)
    for level in energies:
        part = torch.exp(-0.5 * level)[:, None]
        likelihood = likelihood + F.interpolate(part, size=size, mode="bilinear", align_corners=False)[:, 0]
    return 1 - likelihood / len(energies)


def negative_log_likelihood(
    z: Sequence[Tensor], ln_det: Sequence[Tensor], is_normal: Sequence[Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Return the training loss of a batch and the number of latent dimensions it sums over.

    Parameters
    ----------
    z : sequence of Tensor, each (B, C_l, M_l, N_l), float32
        Latents of all levels.
    ln_det : sequence of Tensor, each (B, M_l, N_l), float32
        Natural logarithm of the Jacobian determinant at each position.
    is_normal : sequence of Tensor, each (B, M_l, N_l), bool, optional
        Positions that count; all by default.

    Returns
    -------
    loss : Tensor (), float32
        Sum over the batch and the positions that count of ``|z|^2 / 2 - ln_det``, in nats, without the constant
        ``ln(2 pi) / 2`` per dimension. Divided by `n_dims` it does not depend on the size of the batch.
    n_dims : Tensor (), int64
        Latent dimensions counted.
    """
    loss = torch.zeros((), device=z[0].device)
    n_dims = torch.zeros((), dtype=torch.int64, device=z[0].device)
    for i, (latent, determinant) in enumerate(zip(z, ln_det, strict=True)):
        density = 0.5 * latent.square().sum(dim=1) - determinant
        if is_normal is None:
            loss = loss + density.sum()
            n_dims = n_dims + latent.numel()
        else:
            # torch.where and not a product: the density of a position that does not count may be infinite.
            loss = loss + torch.where(is_normal[i], density, 0).sum()
            n_dims = n_dims + is_normal[i].sum() * latent.shape[1]
    return loss, n_dims
