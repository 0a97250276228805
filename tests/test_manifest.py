"""The manifest is valid, is found through the installed package, and names objects that exist."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from npe2 import PluginManifest

MANIFEST = Path(__file__).parents[1] / "napari.yaml"


@pytest.fixture
def manifest():
    return PluginManifest.from_file(MANIFEST)


def test_the_manifest_is_valid(manifest):
    manifest.validate_imports()
    assert manifest.name == "napari-uflow"
    assert manifest.display_name == "U-Flow anomaly detection"


def test_npe2_finds_nothing_to_complain_about():
    done = subprocess.run(
        [sys.executable, "-m", "npe2", "validate", str(MANIFEST)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "valid!" in done.stdout
    assert not done.stderr


def test_the_installed_package_leads_to_this_manifest(manifest):
    found = PluginManifest.from_distribution("napari-uflow")
    # an installation copies the manifest, even one in place
    hint = "install again after a change of napari.yaml: pip install -e . --no-deps"
    assert found.contributions.model_dump() == manifest.contributions.model_dump(), hint
    assert (found.name, found.display_name) == (manifest.name, manifest.display_name)


def test_every_command_can_be_called(manifest):
    commands = manifest.contributions.commands
    assert commands
    for command in commands:
        module, _, name = command.python_name.partition(":")
        assert module.startswith("napari_uflow._napari."), command.id
        assert callable(getattr(import_module(module), name)), command.id


def test_every_contribution_names_a_command_and_every_command_is_used(manifest):
    dump = manifest.contributions.model_dump(exclude_none=True)
    declared = {command["id"] for command in dump.pop("commands")}

    def used(value):
        if isinstance(value, dict):
            own = {value["command"]} if isinstance(value.get("command"), str) else set()
            return own.union(*map(used, value.values()))
        return set().union(*map(used, value)) if isinstance(value, list | tuple) else set()

    assert used(dump) == declared
    assert all(name.startswith("napari-uflow.") for name in declared)
