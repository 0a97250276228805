"""The U-shaped normalizing flow; the only module that imports FrEIA.

The flow runs from the coarsest level to the finest. Each level is a stack of Glow-like steps; after every level but the
finest the channels are split: one part is that level's latent, the other is upsampled to a grid twice as fine and
concatenated with the next level's features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from FrEIA.modules import AllInOneBlock, IRevNetUpsampling
from torch import Tensor, nn

from napari_uflow.progress import Chunks, run_chunks

__all__ = ["FlowStep", "Latents", "UShapedFlow"]

# Factor of the subnet's output in FrEIA's blocks; a state dict depends on it.
_COUPLING_SCALE = 0.1


@dataclass(frozen=True, slots=True)
class Latents:
    """The latents of a batch, the same in training and in detection.

    Attributes
    ----------
    z : tuple of Tensor, each (B, C_l, M_l, N_l), float32
        Latents, finest level first; independent N(0, 1) for features of normal images.
    ln_det : tuple of Tensor, each (B, M_l, N_l), float32
        Natural logarithm of the Jacobian determinant of each level's flow steps, by position. The sum over levels and
        positions is that of the whole flow.
    """

    z: tuple[Tensor, ...]
    ln_det: tuple[Tensor, ...]

    @property
    def ln_det_total(self) -> Tensor:
        """Natural logarithm of the Jacobian determinant of the whole flow, (B,) float32."""
        return torch.stack([part.sum(dim=(1, 2)) for part in self.ln_det]).sum(dim=0)


class _CoupledAffine(torch.autograd.Function):
    """Affine coupling and actnorm in few passes over the memory, which dominate the time beside convolutions.

    For x = (passive, active), the subnet's output (s, t), scale and offset, with k = 0.1 and l = clamp tanh(k s), it
    returns y = (passive, active exp(l) + k t) scale + offset, and the sum of l over the channels.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, coupling: Tensor, scale: Tensor, offset: Tensor, clamp: float
    ) -> tuple[Tensor, Tensor]:
        n_active = coupling.shape[1] // 2
        n_passive = x.shape[1] - n_active
        t = torch.tanh(coupling[:, :n_active] * _COUPLING_SCALE)
        log_scale = clamp * t
        ln_det = log_scale.sum(dim=1)
        factor = log_scale.exp_()
        y = torch.empty_like(x)
        torch.addcmul(offset[:, :n_passive], x[:, :n_passive], scale[:, :n_passive], out=y[:, :n_passive])
        moved = torch.mul(x[:, n_passive:], factor).add_(coupling[:, n_active:], alpha=_COUPLING_SCALE)
        torch.addcmul(offset[:, n_passive:], moved, scale[:, n_passive:], out=y[:, n_passive:])
        ctx.save_for_backward(x, t, factor, moved, scale)
        ctx.clamp = clamp
        return y, ln_det

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_y: Tensor, of_ln_det: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        x, t, factor, moved, scale = ctx.saved_tensors
        n_active = t.shape[1]
        n_passive = x.shape[1] - n_active
        of_offset = of_y.sum(dim=(0, 2, 3), keepdim=True)
        of_scale = torch.cat(
            [
                (of_y[:, :n_passive] * x[:, :n_passive]).sum(dim=(0, 2, 3), keepdim=True),
                (of_y[:, n_passive:] * moved).sum(dim=(0, 2, 3), keepdim=True),
            ],
            dim=1,
        )
        of_x = of_y * scale
        of_moved = of_x[:, n_passive:]
        of_coupling = x.new_empty((x.shape[0], 2 * n_active, *x.shape[2:]))
        torch.mul(of_moved, _COUPLING_SCALE, out=of_coupling[:, n_active:])
        of_moved.mul_(factor)  # now the gradient of the active part
        of_log_scale = torch.addcmul(of_ln_det[:, None], of_moved, x[:, n_passive:])
        slope = t.square().neg_().add_(1.0).mul_(ctx.clamp * _COUPLING_SCALE)
        torch.mul(of_log_scale, slope, out=of_coupling[:, :n_active])
        return of_x, of_coupling, of_scale, of_offset, None


class _Permutation(torch.autograd.Function):
    """Permutation of channels; its gradient is an index look-up, which is faster than autograd's accumulation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x.index_select(1, order)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_y: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return of_y.index_select(1, inverse), None, None


class FlowStep(AllInOneBlock):  # type: ignore[misc]
    """One step: affine coupling, global affine transform (actnorm) and channel permutation.

    FrEIA's ``AllInOneBlock``, with the same parameters and the same state dict, and two differences: ``ln_det`` is
    returned by position, so that a loss can omit positions, and a hard permutation is an index look-up instead of a
    product with a C x C matrix.

    Parameters
    ----------
    channels : int
        Channels of the features.
    kernel_size : int
        Side of both convolutions of the coupling's subnet (odd).
    hidden_ratio : float
        Hidden channels of the subnet, over its input channels.
    clamp : float
        Soft bound of the coupling's log-scale.
    permute_soft : bool
        Random rotation of the channels instead of a random permutation.

    References
    ----------
    D. P. Kingma, P. Dhariwal (2018). Glow: Generative Flow with Invertible 1x1 Convolutions. NeurIPS.
    https://arxiv.org/abs/1807.03039. Table 1: actnorm, invertible convolution, affine coupling. L. Ardizzone,
    T. Bungert, F. Draxler, U. Köthe, J. Kruse, R. Schmier, P. Sorrenson (2018-2022). Framework for Easily Invertible
    Architectures (FrEIA). https://github.com/vislearn/FrEIA
    """

    def __init__(self, channels: int, kernel_size: int, hidden_ratio: float, clamp: float, permute_soft: bool):
        def subnet(n_in: int, n_out: int) -> nn.Sequential:
            hidden = max(1, int(n_in * hidden_ratio))
            return nn.Sequential(
                nn.Conv2d(n_in, hidden, kernel_size, padding=kernel_size // 2),
                nn.ReLU(),
                nn.Conv2d(hidden, n_out, kernel_size, padding=kernel_size // 2),
            )

        # The block requires a spatial size but uses only its rank: it runs at any size.
        super().__init__([(channels, 1, 1)], subnet_constructor=subnet, affine_clamping=clamp)
        self.permute_soft = permute_soft
        # The coupling starts as the identity, as in Glow: an untrained flow of whitened features is a Gaussian model.
        nn.init.zeros_(self.subnet[-1].weight)
        nn.init.zeros_(self.subnet[-1].bias)
        # FrEIA draws from NumPy's global state; draw again from torch's, which the caller seeds.
        matrix = (
            _rotation(channels)
            if permute_soft
            else torch.eye(channels, device="cpu")[torch.randperm(channels, device="cpu")]
        )
        self.w_perm.data = matrix.reshape(self.w_perm.shape)
        self.w_perm_inv.data = matrix.T.reshape(self.w_perm.shape).contiguous()
        self.register_buffer("_order", torch.zeros(channels, dtype=torch.long), persistent=False)
        self.register_buffer("_inverse_order", torch.zeros(channels, dtype=torch.long), persistent=False)
        self._index_permutation()
        self.register_load_state_dict_post_hook(lambda module, _keys: module._index_permutation())

    def _index_permutation(self) -> None:
        with torch.no_grad():
            self._order.copy_(self.w_perm.flatten(1).argmax(dim=1))
            self._inverse_order.copy_(self.w_perm_inv.flatten(1).argmax(dim=1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Transform features.

        Parameters
        ----------
        x : Tensor (B, C, M, N), float32

        Returns
        -------
        y : Tensor (B, C, M, N), float32
        ln_det : Tensor (B, M, N), float32
            Natural logarithm of the Jacobian determinant at each position.
        """
        scale = self.global_scale_activation(self.global_scale)
        coupling = self.subnet(x[:, : self.splits[0]])
        y, ln_det = _CoupledAffine.apply(x, coupling, scale, self.global_offset, self.clamp)
        if self.permute_soft:
            y = self.permute_function(y, self.w_perm)
        else:
            y = _Permutation.apply(y, self._order, self._inverse_order)
        return y, ln_det + torch.log(scale).sum()

    def inverse(self, y: Tensor) -> Tensor:
        """Invert :meth:`forward`.

        Parameters
        ----------
        y : Tensor (B, C, M, N), float32

        Returns
        -------
        Tensor (B, C, M, N), float32
        """
        if self.permute_soft:
            y = self.permute_function(y, self.w_perm_inv)
        else:
            y = _Permutation.apply(y, self._inverse_order, self._order)
        y = (y - self.global_offset) / self.global_scale_activation(self.global_scale)
        passive, active = torch.split(y, self.splits, dim=1)
        a = self.subnet(passive) * _COUPLING_SCALE
        n_active = active.shape[1]
        log_scale, shift = self.clamp * torch.tanh(a[:, :n_active]), a[:, n_active:]
        return torch.cat((passive, (active - shift) * torch.exp(-log_scale)), dim=1)


def _rotation(n: int) -> Tensor:
    """Return a random rotation, uniformly distributed, (n, n) float32."""
    q, r = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, device="cpu"))
    q = q * r.diagonal().sign()
    if torch.linalg.det(q) < 0:
        q[:, 0] = -q[:, 0]
    rotation: Tensor = q.float()
    return rotation


class UShapedFlow(nn.Module):
    """The U-shaped flow over a pyramid of features.

    After each level but the finest, ``4 * floor(V / 8)`` of its V channels are upsampled to the next level, a quarter
    as many channels on a grid twice as fine; the others are the level's latent.

    Parameters
    ----------
    channels : sequence of int
        Channels of the features, finest level first; each level's grid is half as fine as the one before.
    kernels : (int, int)
        Kernels of the subnets, between which the steps alternate.
    flow_steps : int
        Steps of each level.
    affine_clamp, affine_subnet_channels_ratio, permute_soft
        As in :class:`FlowStep`.

    Attributes
    ----------
    channels, latent_channels : tuple of int
        Channels of the features and of the latents of each level, finest first.

    Raises
    ------
    ValueError
        If a level has fewer than 8 channels.

    References
    ----------
    M. Tailanian, Á. Pardo, P. Musé (2024). U-Flow: A U-shaped Normalizing Flow for Anomaly Detection with Unsupervised
    Threshold. Journal of Mathematical Imaging and Vision. https://doi.org/10.1007/s10851-024-01193-y. J.-H. Jacobsen,
    A. Smeulders, E. Oyallon (2018). i-RevNet: Deep Invertible Networks. ICLR. https://arxiv.org/abs/1802.07088
    (upsampling).
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        kernels: tuple[int, int] = (3, 1),
        flow_steps: int = 4,
        affine_clamp: float = 2.0,
        affine_subnet_channels_ratio: float = 1.0,
        permute_soft: bool = False,
    ):
        super().__init__()
        self.channels = tuple(channels)
        self._steps: list[list[int]] = []
        self._upsampling: list[int | None] = []
        self._split: list[list[int]] = []
        latents: list[int] = []
        # One flat list in topological order, with placeholders for the split and the concatenation of the published
        # graph: the names in a state dict are those of other implementations.
        modules: list[nn.Module] = []
        up = 0
        for level, n_features in enumerate(reversed(self.channels)):
            n = n_features + up
            first = len(modules)
            modules += [
                FlowStep(n, kernels[step % 2], affine_subnet_channels_ratio, affine_clamp, permute_soft)
                for step in range(flow_steps)
            ]
            self._steps.append(list(range(first, first + flow_steps)))
            if level == len(self.channels) - 1:
                self._split.append([0, n])
                self._upsampling.append(None)
                latents.append(n)
                break
            n_up = 4 * (n // 8)
            if n_up == 0:
                raise ValueError(f"a level of the flow needs at least 8 channels, got {n}")
            modules.append(nn.Identity())
            self._split.append([n_up, n - n_up])
            self._upsampling.append(len(modules))
            # The spatial size enters only a shape check of FrEIA's constructor.
            modules.append(IRevNetUpsampling([(n_up, 2, 2)]))
            modules.append(nn.Identity())
            latents.append(n - n_up)
            up = n_up // 4
        self.module_list = nn.ModuleList(modules)
        self.latent_channels = tuple(reversed(latents))

    def forward(self, features: Sequence[Tensor]) -> Latents:
        """Map features to latents, see :meth:`chunks`."""
        return run_chunks(self.chunks(features))

    def chunks(
        self, features: Sequence[Tensor], places: Sequence[tuple[slice, slice]] | None = None
    ) -> Chunks[Latents]:
        """Map features to latents, with a pause after each flow step.

        Parameters
        ----------
        features : sequence of Tensor, each (B, C_l, M_l, N_l), float32
            Finest level first.
        places : sequence of (slice, slice), optional
            For each level but the coarsest, the rows and columns of its features among the upsampled ones, if the
            coarser level covers a larger part of the image; by default all.

        Returns
        -------
        Latents
        """
        z: list[Tensor] = []
        ln_det: list[Tensor] = []
        up: Tensor | None = None
        for level, x in enumerate(reversed(list(features))):
            if up is not None:
                if places is not None:
                    rows, cols = places[len(features) - 1 - level]
                    up = up[:, :, rows, cols]
                x = torch.cat((x, up), dim=1)
            determinant: Tensor | None = None
            for index in self._steps[level]:
                x, part = self.module_list[index](x)
                determinant = part if determinant is None else determinant + part
                yield
            assert determinant is not None
            ln_det.append(determinant)
            upsampling = self._upsampling[level]
            if upsampling is None:
                z.append(x)
            else:
                to_up, out = torch.split(x, self._split[level], dim=1)
                z.append(out)
                (up,) = self._resample(upsampling, to_up, rev=False)
        return Latents(tuple(reversed(z)), tuple(reversed(ln_det)))

    def inverse(self, z: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Map latents back to features.

        Parameters
        ----------
        z : sequence of Tensor, each (B, C_l, M_l, N_l), float32
            Latents as :meth:`forward` returns them, finest level first.

        Returns
        -------
        tuple of Tensor, each (B, C_l, M_l, N_l), float32
            Features, finest level first.
        """
        features: list[Tensor] = []
        up: Tensor | None = None
        for level in reversed(range(len(self.channels))):
            x = z[len(self.channels) - 1 - level]
            upsampling = self._upsampling[level]
            if upsampling is not None:
                assert up is not None
                (down,) = self._resample(upsampling, up, rev=True)
                x = torch.cat((down, x), dim=1)
            for index in reversed(self._steps[level]):
                x = self.module_list[index].inverse(x)  # type: ignore[operator]
            n_features = self.channels[len(self.channels) - 1 - level]
            features.append(x[:, :n_features])
            up = x[:, n_features:]
        return tuple(features)

    def _resample(self, index: int, x: Tensor, *, rev: bool) -> Any:
        return self.module_list[index]((x,), rev=rev)[0]
