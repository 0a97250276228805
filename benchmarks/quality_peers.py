"""Worker of quality.py: trains one method of anomalib and writes its scores. Runs where anomalib is installed.

    python benchmarks/quality_peers.py JOB.json

The job has the keys ``method`` (patchcore, padim or uflow), ``seed``, ``weights`` (safetensors file of timm's
``resnet18``, stem to layer 3), ``train`` and ``test`` (lists of files), ``steps`` (of uflow), ``maps`` (whether to
write them) and ``output``, an npz file: ``scores`` (one per test image), ``map_0`` ... (float32, at the size of the
image), ``training_s`` and ``image_s`` (CPU time).

The methods are anomalib's own classes with its defaults of input (256 x 256 pixels, ImageNet normalisation) except for:
``resnet18`` for all; a coreset of 4 % instead of 10 % (PatchCore); 256 instead of 448 pixels, as in the paper for this
network, and batches of 8 instead of 32 (U-Flow). PatchCore's coreset is chosen with |a|^2 - 2ab + |b|^2 for |a - b|^2,
and U-Flow's frozen backbone sees each image once: the results are the same, in less time.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from anomalib.models.components import KCenterGreedy
from anomalib.models.image.padim.torch_model import PadimModel
from anomalib.models.image.patchcore.torch_model import PatchcoreModel
from anomalib.models.image.uflow.loss import UFlowLoss
from anomalib.models.image.uflow.torch_model import UflowModel
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2 import Compose, Normalize, Resize

SIDE = 256
BATCH = 8
CORESET = 0.04
PREPARE = Compose([Resize((SIDE, SIDE), antialias=True), Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])


def read(path: str) -> tuple[Tensor, tuple[int, int]]:
    """Return the input (1, 3, 256, 256) of a network and the height and width of its image."""
    with Image.open(path) as image:
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255
    return PREPARE(pixels)[None], (pixels.shape[1], pixels.shape[2])


def use_weights(path: str) -> None:
    """Read pre-trained networks from a file instead of the model hub."""
    create: Callable[..., nn.Module] = timm.create_model

    def from_file(name: str, *args: Any, pretrained: bool = False, **options: Any) -> nn.Module:
        network = create(name, *args, pretrained=False, **options)
        if pretrained:
            network.load_state_dict(load_file(path))
        return network

    timm.create_model = from_file


def update_distances(self: KCenterGreedy, cluster_center: Tensor) -> None:
    """Replace the method of KCenterGreedy by one that makes no copy of all features."""
    if self.min_distances is None:
        self.squares = self.features.square().sum(dim=1)
    centre = cluster_center.view(())
    squared = torch.addmv(self.squares, self.features, self.features[centre], alpha=-2) + self.squares[centre]
    distances = squared.clamp_min_(0).sqrt_()[:, None]
    self.min_distances = distances if self.min_distances is None else torch.minimum(self.min_distances, distances)


def batches(n: int, steps: int) -> Iterator[Tensor]:
    """Yield the indices of shuffled batches, epoch by epoch."""
    done = 0
    while True:
        for chosen in torch.randperm(n).split(BATCH):
            yield chosen
            done += 1
            if done == steps:
                return


def train(method: str, inputs: Tensor, steps: int) -> nn.Module:
    """Train one method as the class of anomalib for Lightning does."""
    model: nn.Module
    if method == "uflow":
        model = UflowModel(input_size=(SIDE, SIDE), backbone="resnet18").train()
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-5)
        loss_of, extractor = UFlowLoss(), model.feature_extractor
        with torch.no_grad():
            parts = [extractor.extract_features(batch) for batch in inputs.split(BATCH)]
        levels = [torch.cat(level) for level in zip(*parts, strict=True)]
        for chosen in batches(len(inputs), steps):
            optimiser.zero_grad()
            latents = model.encode(extractor.normalize_features([level[chosen] for level in levels]))
            loss_of(*latents).backward()
            optimiser.step()
        return model.eval()
    if method == "patchcore":
        model = PatchcoreModel(layers=["layer2", "layer3"], backbone="resnet18").train()
    else:
        model = PadimModel(backbone="resnet18", layers=["layer1", "layer2", "layer3"]).train()
    for batch in inputs.split(BATCH):
        model(batch)
    if method == "patchcore":
        KCenterGreedy.update_distances = update_distances
        model.subsample_embedding(CORESET)
    else:
        model.fit()
    return model.eval()


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    random.seed(job["seed"])
    np.random.seed(job["seed"])  # noqa: NPY002 - of scikit-learn's projection, too
    torch.manual_seed(job["seed"])
    use_weights(job["weights"])
    began = time.process_time()
    model = train(job["method"], torch.cat([read(path)[0] for path in job["train"]]), job["steps"])
    trained = time.process_time()
    scores, maps = [], {}
    with torch.inference_mode():
        for i, path in enumerate(job["test"]):
            image, shape = read(path)
            found = model(image)
            scores.append(float(found.pred_score))
            heatmap = F.interpolate(found.anomaly_map.view(1, 1, SIDE, SIDE), size=shape, mode="bilinear")[0, 0]
            if job["maps"]:
                maps[f"map_{i}"] = heatmap.numpy()
    ended = time.process_time()
    times = {"training_s": trained - began, "image_s": (ended - trained) / len(scores)}
    output = Path(job["output"])
    draft = output.with_suffix(".part.npz")
    np.savez(draft, scores=scores, **times, **maps)
    draft.replace(output)


if __name__ == "__main__":
    main()
