"""One rule of specimens: the command line, the plugin and Python say the same of the same files."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_uflow.cli import main
from napari_uflow.config import ModelConfig, TrainingConfig
from napari_uflow.errors import ConfigError, ImageError
from napari_uflow.image.plane import Plane, planes_of
from napari_uflow.image.region import NormalRegion
from napari_uflow.model.record import TrainingRecord
from napari_uflow.store.checkpoint import load_model
from napari_uflow.store.images import find_images, read_planes
from napari_uflow.store.tiff_writer import write_tiff
from napari_uflow.system import patterns
from napari_uflow.training.regions import assign_specimens, read_regions, regions_of_training
from napari_uflow.training.train import train

DEVICE = os.environ.get("NAPARI_UFLOW_TEST_DEVICE", "cpu")

MODEL = ModelConfig(tile=64, flow_steps=1)
TRAINING = {"steps": 1, "batch_size": 2, "augmentations": 1, "holdout": 0.3}

FILES = {
    "tiles of one slide": ([f"slide_x{x:03}_y{y:03}.tif" for x in (0, 64) for y in (0, 64)], "", {"slide"}),
    "tiles of three slides": (
        [f"s{i}_x{x:03}_y000.tif" for i in range(3) for x in (0, 64)],
        "",
        {"s0", "s1", "s2"},
    ),
    "a specimen each": (["a.tif", "b.tif", "c.tif"], "", {"a", "b", "c"}),
    "the same names in two folders": (
        [f"{folder}/s1_x{x}_y0.tif" for folder in ("mouse", "rat") for x in (0, 64)] + ["mouse/s2.tif"],
        "",
        {"mouse/s1", "rat/s1", "s2"},
    ),
    "a tile that only one of the folders has": (
        ["a/s1_x0_y0.tif", "a/s1_x1_y0.tif", "b/s1_x0_y0.tif"],
        "",
        {"a/s1", "b/s1"},
    ),
    "a pattern": (["m1_k1.tif", "m1_k2.tif", "m2_k1.tif", "m2_k2.tif"], r"^(m\d)", {"m1", "m2"}),
}


def texture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (64, 64)).astype(np.uint8)


@pytest.fixture(params=FILES)
def files(request, tmp_path):
    """A folder of small images, the pattern, and the specimens that they come from."""
    names, pattern, specimens = FILES[request.param]
    for i, name in enumerate(names):
        path = tmp_path / "normal" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tiff(path, texture(i), "YX")
    return tmp_path / "normal", pattern, specimens


def by_command_line(folder: Path, pattern: str):
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in TRAINING.items()]
    flags += ["--tile=64", "--flow-steps=1", f"--device={DEVICE}", f"--specimen-pattern={pattern}"]
    inside = [str(path) for path in sorted(folder.iterdir()) if path.is_dir()]
    assert main(["train", str(folder / "*.tif"), *inside, "-o", str(folder / "m.safetensors"), *flags]) == 0
    return load_model(folder / "m.safetensors")


def by_python(folder: Path, pattern: str):
    regions = [NormalRegion(plane) for path in sorted(folder.rglob("*.tif")) for plane in read_planes(path)]
    return train(regions, MODEL, TrainingConfig(**TRAINING, specimen_pattern=pattern), device=DEVICE)


def specimens_of(model):
    return set(model.record.specimens) | set(model.record.holdout_specimens)


@pytest.mark.slow
@pytest.mark.parametrize("face", [by_command_line, by_python])
def test_every_face_tells_the_same_specimens(face, files):
    folder, pattern, specimens = files
    if not list(folder.glob("*.tif")):
        write_tiff(folder / "other.tif", texture(99), "YX")
        specimens = {*specimens, "other"} if not pattern else specimens
    model = face(folder, pattern)
    assert specimens_of(model) == specimens
    shared = set(model.record.specimens) & set(model.record.holdout_specimens)
    assert len(specimens) == 1 or not shared


def test_regions_of_files_follow_the_rule_at_training(files):
    folder, pattern, specimens = files
    regions = assign_specimens(read_regions(sorted(folder.rglob("*.tif"))), pattern)
    assert {region.specimen for region in regions} == specimens


def test_a_specimen_that_was_given_is_obeyed():
    planes = [Plane(data=np.zeros((8, 8), np.uint8), name=f"s_x{i}_y0") for i in range(3)]
    regions = [NormalRegion(planes[0]), NormalRegion(planes[1], specimen="other"), NormalRegion(planes[2])]
    assert [region.specimen for region in assign_specimens(regions)] == ["s", "other", "s"]
    assert [region.specimen for region in assign_specimens(regions, r"(x\d)")] == ["x0", "other", "x2"]


def test_the_planes_of_a_file_are_of_one_specimen():
    planes = planes_of(np.zeros((3, 8, 8), np.uint8), "ZYX", name="s_x0_y0", source="folder/s_x0_y0.tif")
    assert {region.specimen for region in assign_specimens([NormalRegion(plane) for plane in planes])} == {"s"}


def test_a_region_that_is_given_twice_stays_one():
    region = NormalRegion(Plane(data=np.zeros((8, 8), np.uint8), name="s"))
    first, second = assign_specimens([region, region])
    assert first is second


def test_names_that_napari_numbers_are_those_of_their_files():
    """A second layer of one name is called "s_x0_y0 [1]" in the viewer."""
    regions = [
        NormalRegion(Plane(data=np.zeros((8, 8), np.uint8), name=name, source=os.path.join(folder, "s_x0_y0.tif")))
        for name, folder in (("s_x0_y0", "a"), ("s_x0_y0 [1]", "b"))
    ]
    assert [region.specimen for region in assign_specimens(regions)] == ["a/s", "b/s"]


@pytest.mark.parametrize(
    ("known", "specimens"),
    [
        ((), ["a/s", "b/s"]),
        (("s",), ["s", "s"]),
        (("a/s",), ["a/s", "b/s"]),
        (("old/a/s", "old/b/s"), ["old/a/s", "old/b/s"]),
    ],
)
def test_a_model_that_is_trained_further_knows_its_specimens_by_their_names(known, specimens):
    plane = {"data": np.zeros((8, 8), np.uint8), "name": "s"}
    regions = [NormalRegion(Plane(**plane, source=f"/old/{folder}/s.tif")) for folder in "ab"]
    assert [region.specimen for region in assign_specimens(regions, known=known)] == specimens


@given(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=6), st.randoms())
def test_the_order_of_the_images_does_not_matter(folders, random):
    def region(i, folder):
        source = f"/data/{folder}/s{i % 2}_x{i}_y0.tif"
        return NormalRegion(Plane(data=np.zeros((8, 8), np.uint8), name=Path(source).stem, source=source))

    regions = [region(i, folder) for i, folder in enumerate(folders)]
    expected = {id(r.plane): a.specimen for r, a in zip(regions, assign_specimens(regions), strict=True)}
    random.shuffle(regions)
    assert {id(r.plane): a.specimen for r, a in zip(regions, assign_specimens(regions), strict=True)} == expected


def test_a_pattern_that_does_not_fit_is_an_error():
    region = NormalRegion(Plane(data=np.zeros((8, 8), np.uint8), name="slide"))
    with pytest.raises(ConfigError, match=r"'\(x'"):
        assign_specimens([region], "(x")
    with pytest.raises(ConfigError, match="'slide'"):
        assign_specimens([region], r"(mouse\d)")


def test_a_pattern_that_never_ends_is_an_error_everywhere(monkeypatch):
    monkeypatch.setattr(patterns, "_SECONDS", 0.5)
    region = NormalRegion(Plane(data=np.zeros((8, 8), np.uint8), name="a" * 60 + "c"))
    for use in (
        lambda: assign_specimens([region], "((?:a+)+)$"),
        lambda: regions_of_training([region], TrainingRecord(specimens=("a",)), "((?:a+)+)$"),
    ):
        with pytest.raises(ConfigError, match="takes too long"):
            use()


def test_regions_of_a_training_are_those_that_its_pattern_finds():
    names = ("m1_a", "m2_a", "other")
    regions = [NormalRegion(Plane(data=np.zeros((8, 8), np.uint8), name=name)) for name in names]
    record = TrainingRecord(specimens=("m1",), holdout_specimens=("m3",))
    assert regions_of_training(regions, record, r"^(m\d)") == regions[:1]


def test_masks_are_found_by_the_names_of_their_images(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    write_tiff(tmp_path / "images" / "a.ome.tif", np.ones((2, 8, 8), np.uint8), "ZYX")
    mask = np.zeros((8, 8), np.uint8)
    mask[:4] = 255
    write_tiff(tmp_path / "masks" / "a_mask.tif", mask, "YX")
    regions = read_regions(tmp_path / "images", tmp_path / "masks")
    assert [int(region.normal().sum()) for region in regions] == [32, 32]
    write_tiff(tmp_path / "images" / "b.tif", mask, "YX")
    with pytest.raises(ImageError, match=r"'b\.tif'"):
        read_regions(find_images(tmp_path / "images"), tmp_path / "masks")


def test_a_stack_of_masks_marks_each_plane_by_its_own(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    masks = np.zeros((3, 8, 8), np.uint8)
    masks[1, :2], masks[2, :5] = 1, 255
    write_tiff(tmp_path / "images" / "s.tif", np.ones((3, 8, 8), np.uint8), "ZYX")
    write_tiff(tmp_path / "masks" / "s.tif", masks, "ZYX")
    regions = read_regions(tmp_path / "images", tmp_path / "masks")
    assert [int(region.normal().sum()) for region in regions] == [0, 16, 40]
    write_tiff(tmp_path / "masks" / "s.tif", masks[:2], "ZYX")
    with pytest.raises(ImageError, match="stack of 2 planes, but its image has 3"):
        read_regions(tmp_path / "images", tmp_path / "masks")


def test_specimens_held_out_stay_held_out_when_training_is_resumed(tmp_path):
    """Their names hold the folder's, which a resumed training on one of the folders alone would leave out."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_tiff(tmp_path / folder / "s.tif", texture(len(folder)), "YX")
    regions = read_regions([tmp_path / "a", tmp_path / "b"])
    first = train(regions, MODEL, TrainingConfig(**TRAINING), device=DEVICE)
    assert first.record.all_specimens == {"a/s", "b/s"}
    (held_out,) = first.record.holdout_specimens
    (trained,) = first.record.specimens
    alone = read_regions(tmp_path / trained[0])
    again = train(alone, training=TrainingConfig(**TRAINING), init_from=first, device=DEVICE)
    assert held_out not in again.record.specimens
    assert set(again.record.specimens) == {trained}
