"""Baseline: distance of each patch to its nearest normal patch, on frozen features.

A simplified PatchCore (Roth et al. 2022, doi:10.1109/CVPR52688.2022.01392): features of a ResNet-18 at strides 8 and
16, each averaged over 3 x 3, both at stride 8; 4,000 normal patches drawn at random in place of a coreset; the score of
a patch is the Euclidean distance to the nearest of them, interpolated bilinearly to pixels and smoothed by a Gaussian;
the score of an image is the maximum of its map. Images keep their size and are continued by reflection.

Two options matter more than the seed. The network pads with zeros: without a margin the highest scores of normal images
lie in their corners. Features of unit length raised the pixel AUROC on both data sets tested, and lowered the AUPRO on
one of them.

    python benchmarks/nearest_neighbour.py ROOT --weights resnet18.safetensors

ROOT has the layout of MVTec AD: ``train/good``, ``test/<kind>``, ``ground_truth/<kind>/<stem>_mask.png``, where the
kind ``good`` is normal and has no masks. The weights are the state dict of timm's ``resnet18`` with
``features_only=True``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from scipy import ndimage
from skimage.io import imread
from torch import Tensor
from torch.nn import Module
from torch.nn import functional as F

from napari_uflow.evaluation.metrics import aupro, auroc, pixel_auroc

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff"}
STRIDE = 8
COARSEST_STRIDE = 16
IMAGENET_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
IMAGENET_STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def images(folder: Path) -> list[Path]:
    """Return the image files of a folder, sorted."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def read_image(path: Path) -> Tensor:
    """Read an 8 or 16 bit image as float32 (3, M, N), normalised as the network was trained."""
    data = imread(path)
    image = torch.from_numpy(data.astype(np.float32) / np.iinfo(data.dtype).max)
    image = image.expand(3, *image.shape) if image.ndim == 2 else image[..., :3].permute(2, 0, 1)
    return (image - IMAGENET_MEAN) / IMAGENET_STD


def read_truth(root: Path, path: Path, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return the mask (M, N) of a test image; empty for a normal one."""
    kind = path.parent.name
    if kind == "good":
        return np.zeros(shape, dtype=bool)
    mask = imread(root / "ground_truth" / kind / f"{path.stem}_mask.png")
    return (mask if mask.ndim == 2 else mask[..., :3].max(axis=-1)) > 0


def load_network(weights: Path) -> Module:
    """Return the ResNet-18 up to stride 16, with features of strides 8 and 16."""
    network = timm.create_model("resnet18", pretrained=False, features_only=True, out_indices=(2, 3))
    network.load_state_dict(load_file(weights))
    return network.eval()


@torch.inference_mode()
def patches_of(network: Module, image: Tensor, *, margin: int, unit_length: bool) -> Tensor:
    """Return the patch features (channels, m, n) of one image, one patch per 8 x 8 pixels."""
    height, width = image.shape[1:]
    padding = (margin, margin + -width % COARSEST_STRIDE, margin, margin + -height % COARSEST_STRIDE)
    fine, coarse = (
        F.avg_pool2d(level, 3, stride=1, padding=1, count_include_pad=False)
        for level in network(F.pad(image[None], padding, mode="reflect"))
    )
    coarse = F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False)
    patches = torch.cat([fine, coarse], dim=1)[0]
    cut = margin // STRIDE
    patches = patches[:, cut : patches.shape[1] - cut, cut : patches.shape[2] - cut]
    return F.normalize(patches, dim=0) if unit_length else patches


@torch.inference_mode()
def score_map(patches: Tensor, memory: Tensor, shape: tuple[int, ...], sigma: float) -> NDArray[np.float32]:
    """Return the distances to the nearest of the normal patches (n_patches, channels) as a map (M, N)."""
    nearest = torch.cdist(patches.flatten(1).T, memory).amin(dim=1).view(1, 1, *patches.shape[1:])
    score = F.interpolate(nearest, scale_factor=STRIDE, mode="bilinear", align_corners=False)[0, 0]
    values: NDArray[np.float32] = score[: shape[0], : shape[1]].numpy()
    return ndimage.gaussian_filter(values, sigma) if sigma > 0 else values


def memory_of(patches: Callable[[Tensor], Tensor], paths: Iterable[Path], n_patches: int, seed: int) -> Tensor:
    """Return patches (n_patches, channels) drawn at random from those of normal images.

    Parameters
    ----------
    patches : callable
        Returns the patches (channels, m, n) of an image, such as :func:`patches_of` with its options.
    paths : iterable of path
        Normal images.
    n_patches, seed : int
        Largest number of patches, and seed of the draw.
    """
    memory = torch.cat([patches(read_image(path)).flatten(1).T for path in paths])
    return memory[torch.randperm(len(memory), generator=torch.Generator().manual_seed(seed))[:n_patches]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("root", type=Path, help="folder with train/good, test/<kind> and ground_truth/<kind>")
    parser.add_argument("--weights", type=Path, required=True, help="safetensors file of timm's resnet18")
    parser.add_argument("--patches", type=int, default=4000, help="normal patches to keep (default: %(default)s)")
    parser.add_argument("--sigma", type=float, default=4.0, help="Gaussian in pixels, 0: none (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of patches (default: %(default)s)")
    parser.add_argument(
        "--margin", type=int, default=32, help="reflected pixels around an image, in 16s (default: %(default)s)"
    )
    parser.add_argument("--unit-length", action="store_true", help="normalise each patch to unit length")
    args = parser.parse_args()
    if args.margin < 0 or args.margin % COARSEST_STRIDE:
        parser.error(f"--margin must be a multiple of {COARSEST_STRIDE}, got {args.margin}")

    network = load_network(args.weights)
    patches = partial(patches_of, network, margin=args.margin, unit_length=args.unit_length)
    normal = images(args.root / "train" / "good")
    memory = memory_of(patches, normal, args.patches, args.seed)

    scores, masks, anomalous = [], [], []
    for folder in sorted(path for path in (args.root / "test").iterdir() if path.is_dir()):
        for path in images(folder):
            image = read_image(path)
            shape = tuple(image.shape[1:])
            scores.append(score_map(patches(image), memory, shape, args.sigma))
            masks.append(read_truth(args.root, path, shape))
            anomalous.append(folder.name != "good")

    print(
        f"{args.root.name}: {len(normal)} training images, {anomalous.count(False)} normal, {sum(anomalous)} anomalous"
    )
    print(f"image AUROC  {auroc([score.max() for score in scores], anomalous):.3f}")
    print(f"pixel AUROC  {pixel_auroc(scores, masks):.3f}")
    print(f"AUPRO (0.3)  {aupro(scores, masks):.3f}")


if __name__ == "__main__":
    main()
