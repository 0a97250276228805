"""The whole network: backbone, feature normalisation and flow; and the trained model as plain values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_uflow.config import EvidenceName, ModelConfig, TrainingConfig
from napari_uflow.errors import ConfigError, ModelFileError
from napari_uflow.image.grid import Window
from napari_uflow.image.intensity import IntensityRange
from napari_uflow.model.backbone import Backbone
from napari_uflow.model.border import Border
from napari_uflow.model.classes import ClassScale, border_classes
from napari_uflow.model.energy import energy, joint_energy
from napari_uflow.model.flow import Latents, UShapedFlow
from napari_uflow.model.info import JOINT_STRIDE, flow_kernels, flow_reach, has_joint_levels
from napari_uflow.model.joint import APERTURES, join
from napari_uflow.model.memory import Memory, key_of
from napari_uflow.model.norm import FeatureNorm
from napari_uflow.model.record import TrainingRecord
from napari_uflow.model.weights import load_pretrained
from napari_uflow.nfa.calibrated import Calibration
from napari_uflow.progress import Chunks, run_chunks, under
from napari_uflow.system.memory import tile_that_fits

__all__ = ["MARGIN", "Sample", "TrainedModel", "UFlow"]

MARGIN = 32
"""Pixels read by reflection beyond the image's border; a multiple of every stride."""

# Kinds of evidence: the likelihood, then the distance of each aperture.
_LIKELIHOOD, _DISTANCE = 0, 1

Sample: TypeAlias = tuple[Tensor, Tensor, Window | None, int]
"""Raw joint features (1, C, M, N) float32 of a tile, mask (M, N) of normal positions, frame, and key in the memory."""


class UFlow(nn.Module):
    """Backbone, feature normalisation and flow.

    Parameters
    ----------
    config : ModelConfig
        Parts of the model.
    n_channels : int
        Channels of the images, 1 to 3.
    seed : int
        Seed of the flow's initial weights and of its permutations.

    Attributes
    ----------
    config : ModelConfig
        As given.
    border : Border
        Treatment of the image's border. Training decides it if `config.border` is ``auto``.
    coarser : UFlow or None
        The network for the image at half the size, which has the same backbone; None for the last octave.

    Raises
    ------
    ConfigError
        If the tile size does not fit the backbone.

    References
    ----------
    M. Tailanian, Á. Pardo, P. Musé (2024). U-Flow: A U-shaped Normalizing Flow for Anomaly Detection with Unsupervised
    Threshold. Journal of Mathematical Imaging and Vision. https://doi.org/10.1007/s10851-024-01193-y
    """

    def __init__(self, config: ModelConfig, n_channels: int, seed: int = 0, *, backbone: Backbone | None = None):
        super().__init__()
        self.config = config
        self.n_channels = n_channels
        self.border = Border.of(config.border)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if backbone is None:
                self.backbone = Backbone(config.backbone, n_channels, config.contrast)
            else:  # that of another octave, whose weights are its own
                object.__setattr__(self, "backbone", backbone)
            self.norm = FeatureNorm(self.channels, config.feature_norm)
            self.flow = UShapedFlow(
                self.channels,
                kernels=flow_kernels(config),
                flow_steps=config.flow_steps,
                affine_clamp=config.affine_clamp,
                affine_subnet_channels_ratio=config.affine_subnet_channels_ratio,
                permute_soft=config.permute_soft,
            )
            if self.is_joint:
                self.memory = Memory(APERTURES * sum(self.channels), APERTURES)
                self.scale = ClassScale(1 + APERTURES)
        if config.magnification > min(self.strides):
            raise ConfigError(
                f"magnification must be {min(self.strides)} or less for these levels, not {config.magnification:g}: a "
                f"position would be less than a pixel"
            )
        if config.tile % self.align:
            raise ConfigError(f"tile must be a multiple of {self.align} for {config.backbone}, not {config.tile}")
        self._seed = seed
        self.coarser: UFlow | None = None
        if config.octaves > 1:
            self.set_octaves(config.octaves)

    def set_octaves(self, n: int) -> None:
        """Look at images at `n` sizes, each half of the one before: 1 for a pyramid, whatever is asked."""
        n = n if self.is_joint else 1
        self.config = self.config.replace(octaves=n)
        if n > 1:
            coarser = self.config.replace(octaves=n - 1)
            self.coarser = UFlow(coarser, self.n_channels, self._seed, backbone=self.backbone).to(self.device)
            self.coarser.train(self.training)
        else:
            self.coarser = None

    def set_evidence(self, evidence: EvidenceName) -> None:
        """Use another kind of evidence, in all octaves."""
        self.config = self.config.replace(evidence=evidence)
        if self.coarser is not None:
            self.coarser.set_evidence(evidence)

    @property
    def device(self) -> torch.device:
        """Device of the flow's parameters."""
        return next(self.flow.parameters()).device

    @property
    def is_joint(self) -> bool:
        """All levels of the backbone are one level of the flow."""
        return has_joint_levels(self.config)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels per position of each level of the flow, finest first."""
        return (JOINT_STRIDE,) if self.is_joint else self.backbone.strides

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the features of each level of the flow, finest first."""
        return (sum(self.backbone.channels),) if self.is_joint else self.backbone.channels

    @property
    def align(self) -> int:
        """Divisor, in pixels, of the sides and positions of tiles: the coarsest stride of the backbone."""
        return max(self.backbone.strides)

    @property
    def tile(self) -> int:
        """Side of the training tiles, in pixels."""
        return self.backbone.fixed_size or self.config.tile

    @property
    def is_size_free(self) -> bool:
        """An image computed in tiles has the same latents as the whole image."""
        return self.norm.is_size_free and self.backbone.fixed_size is None

    @property
    def flow_halos(self) -> tuple[int, ...]:
        """Pixels around a position that can influence its latents through the features of each level, finest first.

        Multiples of the level's stride. The flow runs from the coarsest level to the finest, so a finer level has a
        smaller halo.
        """
        needed = [self._reach * sum(self.strides[: level + 1]) for level in range(len(self.strides))]
        return tuple(-(-n // stride) * stride for n, stride in zip(needed, self.strides, strict=True))

    @property
    def flow_halo(self) -> int:
        """Pixels around a position that can influence its latents through the flow alone."""
        return self._reach * sum(self.strides)

    @property
    def _reach(self) -> int:
        """Positions that the flow sees to each side on one level."""
        return flow_reach(self.config)

    @property
    def feature_halo(self) -> int:
        """Pixels around a position that can influence its features, a multiple of the coarsest stride."""
        return self.backbone.info.feature_halo(self.config)

    @property
    def halo(self) -> int:
        """Pixels around a position that can influence its latents, a multiple of the coarsest stride."""
        return -(-(self.feature_halo + self.flow_halo) // self.align) * self.align

    def reading_window(self, window: Window, shape: tuple[int, int]) -> Window:
        """Return the window to read so that the features of a window are those of the whole image.

        At the image's border it extends beyond the image by a margin, which is read by reflection: zero padding would
        make the corners of every image anomalous.

        Parameters
        ----------
        window : Window
            Its sides are multiples of the coarsest stride.
        shape : (int, int)
            Rows and columns of the image.

        Returns
        -------
        Window
            The window with the features' halo, clipped to the image and its margin.
        """
        coarsest = self.align
        height, width = (-(-size // coarsest) * coarsest for size in shape)
        size = self.backbone.fixed_size
        if size is not None:
            row = max(0, min(window.row, height - size)) // coarsest * coarsest
            col = max(0, min(window.col, width - size)) // coarsest * coarsest
            return Window(row, col, size, size)
        first_row = max(window.row - self.feature_halo, -MARGIN)
        first_col = max(window.col - self.feature_halo, -MARGIN)
        stop_row = min(window.stop_row + self.feature_halo, height + MARGIN)
        stop_col = min(window.stop_col + self.feature_halo, width + MARGIN)
        return Window(first_row, first_col, stop_row - first_row, stop_col - first_col)

    def tile_that_fits(self, shape: tuple[int, int], memory: float) -> int:
        """Return the side of the detection tiles for an image, in pixels.

        Parameters
        ----------
        shape : (int, int)
            Rows and columns of the image.
        memory : float
            Bytes for the tiles.
        """
        values = sum(n / stride**2 for n, stride in zip(self.backbone.channels, self.backbone.strides, strict=True))
        return tile_that_fits(shape, values, self.feature_halo, self.flow_halo, memory)

    def frame(self, window: Window, shape: tuple[int, int]) -> Window | None:
        """Return an image in the pixel coordinates of a window of it, for the treatment of its border.

        Parameters
        ----------
        window : Window
            Its sides are multiples of the coarsest stride.
        shape : (int, int)
            Rows and columns of the image.

        Returns
        -------
        Window or None
            None for a backbone of fixed size: it knows the border of its square.
        """
        return None if self.backbone.fixed_size is not None else Window(-window.row, -window.col, *shape)

    def features(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute raw features, see :meth:`features_in_chunks`."""
        return run_chunks(self.features_in_chunks(x))

    @torch.no_grad()
    def features_in_chunks(self, x: Tensor) -> Chunks[tuple[Tensor, ...]]:
        """Compute raw features, with pauses; gradients are off in the chunks only.

        Joint features are sharp and wide ones, see :func:`~napari_uflow.model.joint.join`.

        On a CUDA GPU a pre-trained network computes in float16, the precision of the feature cache. Scattering does
        not: the squares of its small amplitudes are below the range of float16.

        Parameters
        ----------
        x : Tensor (B, C, M, N), float32
            Images in the model's intensity range; M and N multiples of the coarsest stride.

        Returns
        -------
        tuple of Tensor, each (B, C_l, M / s_l, N / s_l), float32
            Finest level first.
        """
        chunks = self.backbone.chunks(x)
        if x.device.type != "cuda" or self.config.backbone == "scattering":
            features = yield from chunks
        else:
            features = yield from under(chunks, lambda: torch.autocast("cuda", torch.float16))
            largest = torch.finfo(torch.float16).max  # as the features of training are clipped
            features = tuple(level.float().clamp(-largest, largest) for level in features)
        return (join(features, self.backbone.strides),) if self.is_joint else features

    def of_flow(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the part of raw features (..., C_l, M_l, N_l) that the flow gets: of joint ones the sharp ones."""
        return tuple(x[..., :n, :, :] for x, n in zip(features, self.channels, strict=True))

    def latents(self, features: Sequence[Tensor]) -> Latents:
        """Compute the latents of raw features, each (B, C_l, M_l, N_l) float32, finest level first."""
        return self.flow(self.norm(self.of_flow(features)))  # type: ignore[no-any-return]

    @torch.no_grad()
    def latents_in_chunks(
        self, features: Sequence[Tensor], places: Sequence[tuple[slice, slice]] | None = None
    ) -> Chunks[Latents]:
        """Compute the latents of raw features, with pauses; gradients are off in the chunks only.

        Parameters are those of :meth:`~napari_uflow.model.flow.UShapedFlow.chunks`.
        """
        return (yield from self.flow.chunks(self.norm(self.of_flow(features)), places))

    @torch.no_grad()
    def fit_scale(
        self,
        samples: Callable[[], Iterable[Sample]],
        held_out: Callable[[], Iterable[Sample]] | None = None,
        *,
        only_likelihood: bool = False,
    ) -> Chunks[None]:
        """Fit the scale of each kind of evidence of joint levels, with pauses.

        Parameters
        ----------
        samples : callable
            Returns an iterable of raw joint features (1, C, M, N) float32, masks (M, N) of normal positions, the frame
            of the image in pixels of their window, and their key in the memory.
        held_out : callable, optional
            The same of tiles that the network was not trained on: scores of its own training tiles are lower, the more
            so the more a part of it has learned.
        only_likelihood : bool
            Leave the scales of the distances as they are, which do not depend on the flow.
        """
        scores, classes = yield from self._measured(samples(), only_likelihood=only_likelihood)
        for kind, of_kind in enumerate(scores):
            self.scale.fit(kind, of_kind, classes)
        if held_out is None:
            return
        scores, classes = yield from self._measured(held_out(), only_likelihood=only_likelihood)
        for kind, of_kind in enumerate(scores):
            scaled = [
                self.scale.apply(kind, torch.from_numpy(s).to(self.device), c).cpu().numpy()
                for s, c in zip(of_kind, classes, strict=True)
            ]
            self.scale.widen(kind, scaled)

    def _measured(
        self, samples: Iterable[Sample], *, only_likelihood: bool
    ) -> Chunks[tuple[list[list[NDArray[np.float32]]], list[NDArray[np.int64]]]]:
        """Return the scores of normal positions by kind and sample, and their classes by sample."""
        scores: list[list[NDArray[np.float32]]] = [[] for _ in range(1 if only_likelihood else 1 + APERTURES)]
        classes: list[NDArray[np.int64]] = []
        for features, is_normal, frame, key in samples:
            mask = is_normal.numpy()
            classes.append(border_classes(mask.shape, frame, JOINT_STRIDE)[mask])
            latents = yield from self.latents_in_chunks((features,))
            likelihood = joint_energy(latents.z[0], latents.ln_det[0])
            scores[_LIKELIHOOD].append(likelihood[0].cpu().numpy()[mask])
            if only_likelihood:
                continue
            with self.memory.without(key):
                distance = yield from self.memory.distance_in_chunks(features)
            for kind, of_aperture in enumerate(distance[0].cpu().numpy(), start=_DISTANCE):
                scores[kind].append(of_aperture[mask])
        return scores, classes

    @torch.no_grad()
    def evidence_in_chunks(self, features: Tensor, latents: Latents, frame: Window | None) -> Chunks[Tensor]:
        """Compute the evidence of joint levels, with pauses.

        Parameters
        ----------
        features : Tensor (1, C, M, N), float32
            Raw joint features.
        latents : Latents
            Their latents.
        frame : Window or None
            The image in the pixel coordinates of the features' window.

        Returns
        -------
        Tensor (1, M, N), float32
            Mean of the configured kinds of evidence on the scale of normal positions of the same class: 0 at their
            median, 1 at their .99 quantile.
        """
        classes = border_classes((features.shape[-2], features.shape[-1]), frame, JOINT_STRIDE)
        parts = []
        if self.uses_likelihood:
            parts.append(self.scale.apply(_LIKELIHOOD, joint_energy(latents.z[0], latents.ln_det[0]), classes))
        if self.uses_memory:
            distance = yield from self.memory.distance_in_chunks(features)
            for kind, of_aperture in enumerate(distance.unbind(dim=1), start=_DISTANCE):
                parts.append(self.scale.apply(kind, of_aperture, classes))
        return torch.stack(parts).mean(dim=0)

    @contextmanager
    def remembering_others(self, specimen: str) -> Iterator[None]:
        """Leave the positions of a specimen out of the memory for a while, to score it as one never seen."""
        if not self.is_joint:
            yield
            return
        coarser = nullcontext() if self.coarser is None else self.coarser.remembering_others(specimen)
        with self.memory.without(key_of(specimen)), coarser:
            yield

    def part_state(self, part: str) -> dict[str, Tensor]:
        """Return a copy, on the CPU, of the weights of one part, such as "norm" or "flow", of this octave."""
        state = self.get_submodule(part).state_dict(prefix=f"{part}.")
        return {key: value.detach().cpu().clone() for key, value in state.items()}

    @contextmanager
    def with_state(self, state: Mapping[str, Tensor]) -> Iterator[None]:
        """Compute with other weights for a while; those that are not given stay."""
        own = self.state_dict()
        before = {key: own[key].detach().clone() for key in state}
        self.load_state_dict(state, strict=False)
        try:
            yield
        finally:
            self.load_state_dict(before, strict=False)

    @property
    def uses_memory(self) -> bool:
        """The memory is part of the evidence; never an empty one."""
        return self.config.evidence != "likelihood" and len(self.memory) > 0

    @property
    def uses_likelihood(self) -> bool:
        """The flow's likelihood is part of the evidence."""
        return self.config.evidence != "memory" or not self.uses_memory

    def forward(self, x: Tensor) -> Latents:
        """Compute the latents of images (B, C, M, N) float32 in the model's intensity range."""
        return self.latents(self.features(x))

    @torch.no_grad()
    def energies(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the energy maps of images, each (B, M_l, N_l) float32, finest level first; 1 on average if normal."""
        return tuple(energy(z) for z in self(x).z)


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A model as values, to be saved, loaded and given to detection.

    Attributes
    ----------
    config : ModelConfig
        Parts of the model.
    training : TrainingConfig
        Parameters of its training.
    intensity : IntensityRange
        Brightness range of the normal pixels, one pair per channel.
    state : dict of str to Tensor
        Weights of backbone, normalisation and flow, on the CPU.
    calibration : Calibration or None
        Distribution of the scores of held-out normal images; None if there were too few normal pixels.
    history : tuple of mapping
        Losses, the values of a :class:`~napari_uflow.progress.TrainingPoint` per check.
    record : TrainingRecord
        Origin of the model: images, specimens, tiles, pixel size, weights, versions, date, outcome.
    folds : tuple of mapping of str to Tensor
        Normalisation and flow of the networks that were trained without the specimens of each of `record.folds` but the
        first, which `state` was trained without; what is missing is as in `state`. Empty if there are none, and in a
        snapshot of a training.
    """

    config: ModelConfig
    training: TrainingConfig
    intensity: IntensityRange
    state: Mapping[str, Tensor] = field(repr=False)
    calibration: Calibration | None = field(default=None, repr=False)
    history: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    record: TrainingRecord = field(default=TrainingRecord(), repr=False)
    folds: tuple[Mapping[str, Tensor], ...] = field(default=(), repr=False)

    @property
    def n_channels(self) -> int:
        """Channels of its images."""
        return self.intensity.n_channels

    def network(self, device: str | torch.device = "cpu", weights: str | Path | None = None) -> UFlow:
        """Build the network with these weights, in evaluation mode.

        Parameters
        ----------
        device : str or torch.device
            Device to compute on.
        weights : path, optional
            File or folder of the backbone's weights, for a model file that does not hold them.

        Raises
        ------
        ModelFileError
            If the weights do not belong to the configuration.
        BackboneUnavailableError
            If the model does not hold the backbone's weights and they cannot be found.
        """
        network = UFlow(self.config, self.n_channels)
        state = dict(self.state)
        own = {key for key in network.state_dict() if not key.startswith("backbone.")}
        if set(state) == own and len(own) < len(network.state_dict()):
            load_pretrained(network.backbone, weights)
            state.update((k, v) for k, v in network.state_dict().items() if k.startswith("backbone."))
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            raise ModelFileError("the weights of this model do not belong to its configuration") from error
        return network.to(device).eval()
