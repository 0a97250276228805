"""Model files: what comes back is what was saved, and what is no model is refused without being run."""

import gzip
import json
import math
import os
import pickle
import struct
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from napari_uflow.config import DetectionConfig, ModelConfig, TrainingConfig
from napari_uflow.detection.detect import detect
from napari_uflow.errors import BackboneUnavailableError, ModelFileError, OverwriteError, UFlowError
from napari_uflow.image.intensity import IntensityRange
from napari_uflow.image.plane import Plane
from napari_uflow.model.record import EarlierTraining, OutcomeKind, TrainingOutcome, TrainingRecord
from napari_uflow.model.uflow import TrainedModel, UFlow
from napari_uflow.model.weights import WEIGHTS_FOLDER_VARIABLE
from napari_uflow.store import checkpoint
from napari_uflow.store.card import FORMAT, parse_card, read_card
from napari_uflow.store.checkpoint import load_model, save_model, save_somewhere

OLD = Path(__file__).parents[1] / "data"
OLD_MODELS = ("format_1_keep", "format_1_hold_refined")
DEVICE = os.environ.get("NAPARI_UFLOW_TEST_DEVICE", "cpu")


def rewritten(source: Path, target: Path, change) -> Path:
    """Write a model file again with a changed card."""
    with safe_open(source, framework="pt") as file:
        card = json.loads(file.metadata()["napari_uflow"])
    card = change(card) or card
    save_file(load_file(source), target, metadata={"napari_uflow": card if isinstance(card, str) else json.dumps(card)})
    return target


# What comes back


def test_latents_come_back_bit_by_bit(either_model, tmp_path):
    tiny_model = either_model
    save_model(tmp_path / "a.safetensors", tiny_model)
    loaded = load_model(tmp_path / "a.safetensors")
    x = torch.rand(2, 1, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, other = tiny_model.network()(x), loaded.network()(x)
    for a, b in zip(one.z + one.ln_det, other.z + other.ln_det, strict=True):
        assert torch.equal(a, b)


def test_everything_else_comes_back_too(tiny_model, tiny_model_file):
    loaded = load_model(tiny_model_file)
    assert (loaded.config, loaded.training, loaded.intensity) == (
        tiny_model.config,
        tiny_model.training,
        tiny_model.intensity,
    )
    assert loaded.calibration == tiny_model.calibration
    assert list(loaded.history) == list(tiny_model.history)
    assert loaded.record == tiny_model.record
    assert set(loaded.state) == set(tiny_model.state)


def test_the_memory_and_the_scale_come_back(tiny_model, tiny_model_file):
    one, other = tiny_model.network(), load_model(tiny_model_file).network()
    assert one.uses_memory
    assert len(one.memory) > 1000
    assert torch.equal(one.memory.vectors, other.memory.vectors)
    assert torch.equal(one.memory.keys, other.memory.keys)
    assert torch.equal(one.scale.median, other.scale.median)
    assert torch.equal(one.scale.width, other.scale.width)


@pytest.mark.parametrize("n", [0, 1])
def test_a_memory_of_few_vectors_comes_back(tiny_model, tmp_path, odd_plane, n):
    state = {**tiny_model.state}
    for key in ("memory.vectors", "memory.keys"):
        state[key] = state[key][:n]
    save_model(tmp_path / "a.safetensors", replace(tiny_model, state=state))
    network = load_model(tmp_path / "a.safetensors").network()
    assert len(network.memory) == n
    assert network.uses_memory == bool(n)
    assert np.isfinite(detect(tiny_model, odd_plane, network=network).score).all()


@pytest.mark.parametrize(
    "change",
    [
        {"memory.vectors": torch.zeros(5, 3), "memory.keys": torch.zeros(5, dtype=torch.int64)},
        {"memory.keys": torch.zeros(5, dtype=torch.int64)},
        {"memory.vectors": torch.zeros(()), "memory.keys": torch.zeros((), dtype=torch.int64)},
        {"scale.median": torch.zeros(2, 3)},
        {"scale.width": None},
    ],
)
def test_a_memory_or_scale_that_does_not_fit_is_refused(tiny_model, tmp_path, change):
    state = {key: value for key, value in {**tiny_model.state, **change}.items() if value is not None}
    save_model(tmp_path / "a.safetensors", replace(tiny_model, state=state))
    with pytest.raises(ModelFileError, match="do not belong to its configuration"):
        load_model(tmp_path / "a.safetensors").network()


def test_detection_is_the_same(either_model, tmp_path, odd_plane):
    save_model(tmp_path / "a.safetensors", either_model)
    loaded = load_model(tmp_path / "a.safetensors")
    one, other = (detect(model, odd_plane, device=DEVICE) for model in (either_model, loaded))
    np.testing.assert_array_equal(one.score, other.score)
    np.testing.assert_array_equal(one.log10_nfa, other.log10_nfa)


def test_numbers_that_json_does_not_have(tiny_model, tmp_path):
    point = {"step": 1, "train_loss": 0.5, "holdout_loss": math.nan, "holdout_energy": math.inf, "is_best": True}
    save_model(tmp_path / "a.safetensors", replace(tiny_model, history=(point,)))
    (loaded,) = load_model(tmp_path / "a.safetensors").history
    assert (loaded["step"], loaded["train_loss"], loaded["is_best"]) == (1, 0.5, True)
    assert not math.isfinite(loaded["holdout_loss"])
    assert not math.isfinite(loaded["holdout_energy"])


def test_saving_what_was_loaded_changes_nothing(tiny_model_file, tmp_path):
    save_model(tmp_path / "again.safetensors", load_model(tiny_model_file))
    assert read_card(tmp_path / "again.safetensors").to_dict() == read_card(tiny_model_file).to_dict()
    one, other = load_file(tmp_path / "again.safetensors"), load_file(tiny_model_file)
    assert all(torch.equal(one[key], other[key]) for key in other)


def test_the_card_is_read_with_json_alone(tiny_model_file):
    with open(tiny_model_file, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        card = json.loads(json.loads(file.read(length))["__metadata__"]["napari_uflow"])
    assert card == read_card(tiny_model_file).to_dict()
    assert card["format"] == FORMAT
    assert card["model"]["backbone"] == "scattering"
    assert card["has_backbone"] is True


# What is refused


@pytest.mark.parametrize("read", [load_model, read_card])
def test_pickles_and_archives_are_not_opened(tmp_path, read):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    path = tmp_path / "model.safetensors"
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("data", "text")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "torch.pt")
    contents = [pickle.dumps(Bomb(), protocol=protocol) for protocol in (2, 4, 5)]
    contents += [(tmp_path / name).read_bytes() for name in ("archive.zip", "torch.pt")]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match="pickle or a zip archive, which can run programs"):
            read(path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("content", [b"", b"short", b"just a text, long enough to have a length" * 10, bytes(1000)])
def test_garbage_is_refused(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    for read in (load_model, read_card):
        with pytest.raises(
            ModelFileError, match=r"model.safetensors' is not a model of napari-uflow, or it is damaged"
        ):
            read(path)


@pytest.mark.parametrize("kept", [4, 8, 500, -1])
def test_a_truncated_file_is_refused(tiny_model_file, tmp_path, kept):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(tiny_model_file.read_bytes()[:kept])
    for read in (load_model, read_card):
        with pytest.raises(ModelFileError, match="damaged"):
            read(path)


def test_a_length_that_looks_like_a_pickle_is_none(tiny_model_file, tmp_path):
    """The first byte of a safetensors file is that of a pickle in one file of 32."""
    starts = set()
    for n in range(0, 256, 8):
        path = rewritten(tiny_model_file, tmp_path / f"{n}.safetensors", lambda card, n=n: card.update(padding="x" * n))
        starts.add(path.read_bytes()[:1])
        assert read_card(path) == read_card(tiny_model_file)
    assert b"\x80" in starts


def test_weights_of_others_are_refused(tmp_path):
    path = tmp_path / "resnet.safetensors"
    for metadata in (None, {"format": "pt"}):
        save_file({"conv1.weight": torch.zeros(3)}, path, metadata=metadata)
        with pytest.raises(ModelFileError, match="is a safetensors file, but not a model of napari-uflow"):
            load_model(path)


def test_files_that_are_not_there(tmp_path):
    for path, said in ((tmp_path / "nothing.safetensors", "there is no model file"), (tmp_path, "is a folder")):
        with pytest.raises(ModelFileError, match=said):
            load_model(path)


def test_a_newer_format_is_refused_with_advice(tiny_model_file, tmp_path):
    path = rewritten(tiny_model_file, tmp_path / "new.safetensors", lambda card: card.update(format=99))
    for read in (load_model, read_card):
        with pytest.raises(ModelFileError, match=r"format 99.*pip install --upgrade napari-uflow"):
            read(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda card: "no json",
        lambda card: "[1, 2]",
        lambda card: card.pop("format") and None,
        lambda card: card.update(format="one"),
        lambda card: card.pop("model") and None,
        lambda card: card.pop("record") and None,
        lambda card: card.pop("history") and None,
        lambda card: card["model"].update(tile=-3),
        lambda card: card["model"].update(unknown=1),
        lambda card: card.update(model=None),
        lambda card: card.update(intensity={"low": [0]}),
        lambda card: card.update(intensity={"low": [1], "high": [0]}),
    ],
)
def test_a_card_that_was_changed_is_refused(tiny_model_file, tmp_path, change):
    path = rewritten(tiny_model_file, tmp_path / "changed.safetensors", change)
    with pytest.raises(ModelFileError, match=r"changed.safetensors' is damaged"):
        load_model(path)


@pytest.mark.parametrize("key", ["model", "intensity", "history", "record", "has_backbone"])
def test_a_card_that_lacks_something_is_refused(tiny_model_file, tmp_path, key):
    path = rewritten(tiny_model_file, tmp_path / "changed.safetensors", lambda card: card.pop(key) and None)
    with pytest.raises(ModelFileError, match="damaged"):
        read_card(path)


def test_weights_that_are_missing_are_noticed(tiny_model_file, tmp_path):
    state = load_file(tiny_model_file)
    state.pop(next(key for key in state if key.startswith("flow.")))
    with safe_open(tiny_model_file, framework="pt") as file:
        save_file(state, tmp_path / "less.safetensors", metadata=file.metadata())
    with pytest.raises(ModelFileError, match="do not belong to its configuration"):
        load_model(tmp_path / "less.safetensors").network()


def with_weights(source: Path, target: Path, change) -> Path:
    """Write a model file again with changed weights and the same card."""
    with safe_open(source, framework="pt") as file:
        save_file(change(load_file(source)), target, metadata=file.metadata())
    return target


def each_float(change):
    return lambda state: {k: change(v) if v.is_floating_point() else v for k, v in state.items()}


def with_flipped_bit(name):
    def change(state):
        state[name].view(-1).view(torch.int32)[-1] ^= 1
        return state

    return change


@pytest.mark.parametrize(
    "change",
    [
        each_float(lambda v: torch.full_like(v, math.nan)),
        each_float(lambda v: torch.full_like(v, math.inf)),
        each_float(torch.zeros_like),
        each_float(lambda v: v.to(torch.int64)),
        each_float(lambda v: v.to(torch.float16)),
        each_float(lambda v: v * 1.001),
        lambda state: {k: v + 1 if k == "memory.keys" else v for k, v in state.items()},
        *(with_flipped_bit(name) for name in ("memory.vectors", "norm.mean_0", "norm.scale_0", "scale.width")),
        with_flipped_bit("flow.module_list.0.global_scale"),
    ],
)
def test_altered_weights_are_refused(tiny_model_file, tmp_path, change):
    path = with_weights(tiny_model_file, tmp_path / "altered.safetensors", change)
    with pytest.raises(ModelFileError, match=r"altered.safetensors' is damaged or was changed by hand: its weights"):
        load_model(path)


def test_bits_that_flip_anywhere_in_the_weights_are_noticed(tiny_model_file, tmp_path):
    whole = tiny_model_file.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    path = tmp_path / "flipped.safetensors"
    for at in np.random.default_rng(0).integers(8 + length, len(whole), 8):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << int(at) % 8
        path.write_bytes(flipped)
        with pytest.raises(ModelFileError, match="damaged"):
            load_model(path)


@pytest.mark.parametrize("name", OLD_MODELS)
def test_weights_without_a_checksum_are_checked_as_well(name, tmp_path):
    old = old_file(name, tmp_path)
    for change in (torch.zeros_like, lambda v: torch.full_like(v, math.nan), lambda v: v.to(torch.int32)):
        with pytest.raises(ModelFileError, match="its weights"):
            load_model(with_weights(old, tmp_path / "altered.safetensors", each_float(change)))


def without_sums(card):
    """Leave the checksums out, as the first files of format 4 have none."""
    card["format"] = 4
    for name in ("sha256_of_card", "sha256_of_weights"):
        del card[name]


@pytest.mark.parametrize(
    "change",
    [
        lambda card: card["calibration"]["maps"][0]["tail"].update(
            scale=card["calibration"]["maps"][0]["tail"]["scale"] * 2
        ),
        lambda card: card["record"].update(pixel_size=[0.5, 0.5], unit="um"),
        lambda card: card["intensity"].update(high=[card["intensity"]["high"][0] + 1]),
        lambda card: card["model"].update(affine_clamp=1.0),
    ],
)
def test_a_number_of_the_card_that_was_changed_is_noticed(tiny_model_file, tmp_path, change):
    path = rewritten(tiny_model_file, tmp_path / "changed.safetensors", change)
    for read in (load_model, read_card):
        with pytest.raises(ModelFileError, match=r"changed.safetensors' is damaged .*checksum"):
            read(path)


@pytest.mark.parametrize(
    "left_out", [["sha256_of_card"], ["sha256_of_weights"], ["sha256_of_card", "sha256_of_weights"]]
)
@pytest.mark.parametrize("is_null", [True, False])
def test_a_file_of_the_present_format_has_both_checksums(tiny_model_file, tmp_path, left_out, is_null):
    def change(card):
        for name in left_out:
            card[name] = None
            if not is_null:
                del card[name]

    path = rewritten(tiny_model_file, tmp_path / "changed.safetensors", change)
    for read in (load_model, read_card):
        with pytest.raises(ModelFileError, match=r"changed.safetensors' is damaged .*checksum"):
            read(path)


def test_a_file_of_format_4_without_checksums_is_read(tiny_model_file, tmp_path):
    path = rewritten(tiny_model_file, tmp_path / "old.safetensors", without_sums)
    assert load_model(path).record == load_model(tiny_model_file).record


def _entries(value, path=()):
    """Yield the way to every entry of a card, of lists to the first one."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key)
            yield from _entries(inner, (*path, key))
    elif isinstance(value, list) and value:
        yield (*path, 0)
        yield from _entries(value[0], (*path, 0))


def test_every_entry_of_another_kind_is_refused_or_used(tiny_model_file, tmp_path):
    """Whatever an entry is replaced by, the file is refused in our words, or read and printed."""
    with safe_open(tiny_model_file, framework="pt") as file:
        card = json.loads(file.metadata()["napari_uflow"])
    n_refused = n_made = 0
    for way in _entries(card):
        for value in ("x", None, -1, 10**400, [], {}, math.nan, math.inf, True):
            changed = json.loads(json.dumps(card))
            without_sums(changed)
            holder = changed
            for key in way[:-1]:
                holder = holder.get(key) if isinstance(holder, dict) else holder[key]
                if holder is None:
                    break
            if holder is None:
                continue
            holder[way[-1]] = value
            n_made += 1
            try:
                parse_card(Path("changed"), {"napari_uflow": json.dumps(changed)}).to_dict()
            except ModelFileError:
                n_refused += 1
    assert n_refused > n_made / 2


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000 + "]" * 100_000,
        '{"format": 1, "model": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"format": 1e999}',
        '{"format": NaN}',
        '{"format": 1' + "0" * 5000 + "}",
        '{"format": 0}',
        '{"format": -5}',
        '{"format": true}',
        "5",
        "null",
        '"\\ud800"',
    ],
)
def test_a_card_that_is_none_is_refused(tiny_model_file, tmp_path, text):
    path = rewritten(tiny_model_file, tmp_path / "none.safetensors", lambda card: text)
    for read in (load_model, read_card):
        with pytest.raises(ModelFileError, match=r"none\.safetensors'"):
            read(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["maps"][0]["tail"]["values"].reverse(),
        lambda c: c["maps"][0]["tail"].update(scale=0.0),
        lambda c: c["maps"][0]["tail"].update(shape=5.0),
        lambda c: c["maps"][0]["tail"]["log10_p"].pop(),
        lambda c: c["maps"][0].update(correlation_area=0.0),
        lambda c: c["maps"][0].update(median=math.nan),
        lambda c: c["maps"].append(c["maps"][0]),
        lambda c: c.update(strides=[3]),
        lambda c: c.update(n_pixels=math.inf),
        lambda c: c.update(specimens=[{"name": "a", "images": [[2.0, 1.0]]}]),
        lambda c: c.update(specimens=[{"name": "a", "images": []}]),
        lambda c: c.update(observed=[[0.0]]),
    ],
)
def test_a_calibration_that_no_training_fits_is_refused(tiny_model_file, tmp_path, change):
    def changed(card):
        without_sums(card)
        change(card["calibration"])

    path = rewritten(tiny_model_file, tmp_path / "changed.safetensors", changed)
    with pytest.raises(ModelFileError, match="calibration"):
        load_model(path)


def test_a_name_that_is_too_long_is_no_model():
    with pytest.raises(ModelFileError, match="there is no model file"):
        load_model("x" * 5000)


# Files of format 2, which knew pyramids alone


def test_a_model_of_format_2_is_a_pyramid(tiny_pyramid, tmp_path, odd_plane):
    def as_written(card):
        card["format"] = 2
        for name in ("levels", "contrast", "evidence", "memory_size"):
            del card["model"][name]

    save_model(tmp_path / "new.safetensors", tiny_pyramid)
    old = load_model(rewritten(tmp_path / "new.safetensors", tmp_path / "old.safetensors", as_written))
    assert old.config == tiny_pyramid.config.replace(contrast=1.0)
    assert old.record == tiny_pyramid.record
    one, other = (detect(model, odd_plane, device=DEVICE) for model in (tiny_pyramid, old))
    np.testing.assert_array_equal(one.score, other.score)
    np.testing.assert_array_equal(one.log10_nfa, other.log10_nfa)


# Files of format 1: written, with the maps beside them, by the last version that wrote it


def old_file(name: str, tmp_path: Path) -> Path:
    path = tmp_path / f"{name}.safetensors"
    path.write_bytes(gzip.decompress((OLD / f"{name}.safetensors.gz").read_bytes()))
    return path


@pytest.mark.parametrize("name", OLD_MODELS)
def test_an_old_model_detects_what_it_did(name, tmp_path):
    model = load_model(old_file(name, tmp_path))
    with np.load(OLD / f"{name}.npz") as expected:
        plane = Plane(data=expected["image"], name="odd")
        for label, config in (
            ("promised", DetectionConfig()),
            ("tails", DetectionConfig(calibration="tails")),
            ("paper", DetectionConfig(nfa="paper")),
        ):
            found = detect(model, plane, config.replace(heatmap="published"), device=DEVICE)
            np.testing.assert_allclose(found.score, expected["score"], rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(found.log10_nfa, expected[f"{label}_log10_nfa"], rtol=1e-3, atol=1e-3)
            np.testing.assert_array_equal(found.labels, expected[f"{label}_labels"])


def test_an_old_model_says_what_it_did(tmp_path):
    model = load_model(old_file("format_1_keep", tmp_path))
    assert (model.config.border, model.config.feature_norm, model.config.tile) == ("reflect", "whiten", 64)
    assert (model.config.levels, model.config.contrast) == ("pyramid", 1.0)
    assert (model.training.augmentations, model.training.specimen_pattern) == (2, r"(wing \d+)")
    assert model.record == TrainingRecord(
        date="2026-11-27T02:25:31+00:00",
        outcome=TrainingOutcome(OutcomeKind.NOTHING_LEARNED),
        n_images=18,
        image_names=tuple(f"wing {i} side {side}" for i in range(9) for side in range(2)),
        specimens=tuple(f"wing {i}" for i in (0, 1, 3, 6, 7, 8)),
        holdout_specimens=tuple(f"wing {i}" for i in (2, 4, 5)),
        n_tiles=48,
        n_holdout_tiles=24,
        pixel_size=(0.5, 0.5),
        unit="um",
        versions=model.record.versions,
        device=DEVICE,
    )
    assert model.record.versions["napari-uflow"] == "0.1.0"
    assert len(model.record.versions) == 6
    specimens = model.calibration.offset.specimens
    assert [specimen.name for specimen in specimens] == ["wing 2", "wing 4", "wing 5"]
    assert all(len(specimen.images) == 2 for specimen in specimens)
    assert model.calibration.n_pixels == 128 * 128


def test_an_old_model_that_was_refined_says_from_what(tmp_path):
    model = load_model(old_file("format_1_hold_refined", tmp_path))
    assert model.config.border == "replicate"
    assert model.record.outcome == TrainingOutcome(OutcomeKind.DONE)
    assert model.record.n_marked_normal == 1
    assert model.record.first_training == model.training.replace(steps=6)
    assert model.record.resumed_from == EarlierTraining("2026-11-27T02:25:35+00:00", 6)


@pytest.mark.parametrize("name", OLD_MODELS)
def test_an_old_model_is_the_same_when_saved_anew(name, tmp_path):
    old = load_model(old_file(name, tmp_path))
    save_model(tmp_path / "new.safetensors", old)
    new = load_model(tmp_path / "new.safetensors")
    assert replace(new, state={}) == replace(old, state={})
    cards = read_card(tmp_path / "new.safetensors"), read_card(tmp_path / f"{name}.safetensors")
    assert [card.format for card in cards] == [FORMAT, 1]
    assert cards[1].sha256_of_weights is None
    assert replace(cards[0], sha256_of_weights=None).to_dict() == cards[1].to_dict()


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("done", TrainingOutcome(OutcomeKind.DONE)),
        ("done: no better held-out loss after step 75", TrainingOutcome(OutcomeKind.CONVERGED, 75)),
        ("done: nothing was learned that holds for what was held out", TrainingOutcome(OutcomeKind.NOTHING_LEARNED)),
        ("stopped at step 12", TrainingOutcome(OutcomeKind.STOPPED, 12)),
        ("stopped: the loss was no longer finite", TrainingOutcome(OutcomeKind.NOT_FINITE)),
        ("interrupted after step 50", TrainingOutcome(OutcomeKind.INTERRUPTED, 50)),
    ],
)
def test_an_outcome_in_words_is_read(tmp_path, text, outcome):
    source = old_file("format_1_keep", tmp_path)
    path = rewritten(source, tmp_path / "other.safetensors", lambda card: card["provenance"].update(outcome=text))
    assert load_model(path).record.outcome == outcome


@pytest.mark.parametrize(
    "change",
    [
        lambda card: card["provenance"].update(outcome="exploded"),
        lambda card: card.update(provenance=None),
        lambda card: card.update(model=None),
        lambda card: card["calibration"].pop("fields") and None,
        lambda card: card.pop("training") and None,
    ],
)
def test_an_old_card_that_was_changed_is_refused(tmp_path, change):
    path = rewritten(old_file("format_1_keep", tmp_path), tmp_path / "changed.safetensors", change)
    with pytest.raises(ModelFileError, match="damaged"):
        read_card(path)


@pytest.mark.parametrize("outcome", [TrainingOutcome(kind, 3) for kind in OutcomeKind])
def test_the_record_comes_back(tiny_model, tmp_path, outcome):
    earlier = EarlierTraining("2020-02-03T00:00:00+00:00", 7, EarlierTraining(None, 5))
    training = TrainingConfig(steps=3, specimen_pattern="(a.)")
    record = replace(tiny_model.record, outcome=outcome, first_training=training, resumed_from=earlier)
    save_model(tmp_path / "a.safetensors", replace(tiny_model, record=record))
    assert load_model(tmp_path / "a.safetensors").record == record


# Writing


def test_a_write_that_fails_leaves_the_old_file(tiny_model, tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_model(path, tiny_model)
    before = path.read_bytes()

    def failing(state, name, metadata):
        Path(name).write_bytes(b"half of the new one")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", failing)
    with pytest.raises(UFlowError, match="No space left on device"):
        save_model(path, tiny_model)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_no_folder_to_write_to(tiny_model, tmp_path):
    with pytest.raises(UFlowError, match="there is no folder"):
        save_model(tmp_path / "nowhere" / "model.safetensors", tiny_model)


@pytest.mark.slow
def test_a_large_backbone_is_left_out_and_looked_up(tmp_path, monkeypatch):
    torch.manual_seed(0)
    network = UFlow(ModelConfig(backbone="resnet18", flow_steps=1, feature_norm="channel"), 1)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    model = TrainedModel(
        config=network.config, training=TrainingConfig(), intensity=IntensityRange((0.0,), (1.0,)), state=state
    )
    small, large = tmp_path / "small.safetensors", tmp_path / "large.safetensors"
    save_model(small, model)
    monkeypatch.setattr(checkpoint, "_LARGEST_BACKBONE", 1e6)
    save_model(large, model)
    assert read_card(small).has_backbone is True
    assert read_card(large).has_backbone is False
    assert large.stat().st_size < small.stat().st_size - 1e6
    assert not any(key.startswith("backbone.") for key in load_model(large).state)

    weights = tmp_path / "weights"
    weights.mkdir()
    prefix = "backbone.networks.0."
    own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    save_file({key: value.contiguous() for key, value in own.items()}, weights / "resnet18.tv_in1k.safetensors")
    x = torch.rand(1, 1, 64, 64)
    expected = load_model(small).network().energies(x)
    for a, b in zip(load_model(large).network(weights=weights).energies(x), expected, strict=True):
        assert torch.equal(a, b)
    monkeypatch.setenv(WEIGHTS_FOLDER_VARIABLE, str(weights))
    for a, b in zip(load_model(large).network().energies(x), expected, strict=True):
        assert torch.equal(a, b)
    with pytest.raises(BackboneUnavailableError, match="does not contain resnet18"):
        load_model(large).network(weights=tmp_path)


# What is replaced, and what is done where that is impossible


def test_only_models_are_replaced(tiny_model, tmp_path):
    path = tmp_path / "picture.tif"
    path.write_text("a picture")
    with pytest.raises(OverwriteError, match="not a model"):
        save_model(path, tiny_model)
    assert path.read_text() == "a picture"
    save_model(path, tiny_model, overwrite=True)
    save_model(path, tiny_model)
    assert load_model(path).config == tiny_model.config
    assert list(tmp_path.iterdir()) == [path]


def save_failing(monkeypatch, *folders):
    """Let the disks of some folders be full."""
    original = checkpoint.save_file

    def save(state, path, metadata):
        if path.parent.parent in folders:
            path.write_bytes(b"half")
            raise SafetensorError("No space left on device (os error 28)")
        original(state, path, metadata)

    monkeypatch.setattr(checkpoint, "save_file", save)


def test_a_model_is_saved_elsewhere_rather_than_lost(tiny_model, tmp_path, monkeypatch):
    full, home = tmp_path / "full", tmp_path / "home"
    for folder in (full, home):
        folder.mkdir()
    monkeypatch.chdir(full)
    monkeypatch.setattr(Path, "home", lambda: home)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert save_somewhere("model.safetensors", tiny_model) == (Path("model.safetensors"), "")
    before = Path("model.safetensors").read_bytes()

    save_failing(monkeypatch, full)
    path, reason = save_somewhere(full / "model.safetensors", tiny_model)
    assert path == home / "model-2.safetensors"
    assert "No space left" in reason
    assert load_model(path).record == tiny_model.record
    assert (full / "model.safetensors").read_bytes() == before
    assert list(full.iterdir()) == [full / "model.safetensors"]

    save_failing(monkeypatch, full, home, tmp_path)
    with pytest.raises(UFlowError, match=r"full.model.safetensors' cannot be written"):
        save_somewhere(full / "model.safetensors", tiny_model)


def test_a_model_is_saved_beside_a_file_that_has_taken_its_name(tiny_model, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_text("of another program")
    other, reason = save_somewhere(path, tiny_model)
    assert other == tmp_path / "model-2.safetensors"
    assert "not a model" in reason
    assert path.read_text() == "of another program"
    assert load_model(other).config == tiny_model.config


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
@pytest.mark.parametrize("place", ["m\udcff.safetensors", "f\udcff/m.safetensors"])
def test_a_place_whose_name_is_no_text(place, tmp_path, tiny_model):
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    save_model(path, tiny_model)
    loaded = load_model(path).state
    assert loaded.keys() == tiny_model.state.keys()
    assert all(torch.equal(loaded[name], values) for name, values in tiny_model.state.items())
