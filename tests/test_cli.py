"""The command line: a flag for every parameter, one line for every mistake, and the whole way through files."""

import csv
import errno
import importlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from safetensors import SafetensorError

from napari_uflow.batch.results import FileResult, PlaneResult, summary_of
from napari_uflow.cli import main
from napari_uflow.cli.commands import _print_summary
from napari_uflow.cli.flags import config_of
from napari_uflow.cli.interrupts import Interrupts
from napari_uflow.cli.parser import make_parser
from napari_uflow.cli.reporter import Reporter, run_and_save, run_job
from napari_uflow.config import DetectionConfig, ModelConfig, TrainingConfig, parameters_of
from napari_uflow.detection.guarantee import Guarantee
from napari_uflow.errors import ModelFileError, UFlowError
from napari_uflow.model.record import EarlierTraining, OutcomeKind
from napari_uflow.progress import FINISH, Message, Progress, TrainingPoint
from napari_uflow.store import checkpoint
from napari_uflow.store.card import read_card
from napari_uflow.store.checkpoint import load_model, save_model
from napari_uflow.store.images import read_planes
from napari_uflow.store.tiff_writer import write_tiff
from napari_uflow.system.owner import nobody, own_tag

OPTIMISE = importlib.import_module("napari_uflow.training.optimise")
COMMANDS = ("demo", "train", "detect", "drift", "evaluate", "show")
PARAMETERS = [
    pytest.param(command, config, parameter, id=f"{command} --{parameter.name}")
    for command, config in (
        ("train a.tif", ModelConfig),
        ("train a.tif", TrainingConfig),
        ("detect model a.tif", DetectionConfig),
        ("evaluate model root", DetectionConfig),
    )
    for parameter in parameters_of(config)
    if (command, parameter.name) != ("evaluate model root", "false_alarms_per")  # its images are single planes
]
FAST = "--tile 64 --flow-steps 1 --augmentations 1 --batch-size 2 --check-every 1 --device cpu"


def call(capsys, *arguments) -> tuple[int, str, str]:
    """Run a command; return the exit code and what was printed."""
    capsys.readouterr()
    code = main([part for argument in arguments for part in (shlex.split(argument) if " " in argument else [argument])])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def here(tmp_path, monkeypatch, tiny_dataset, tiny_model_file):
    """Work in an empty folder, with the data set and a model beside it."""
    monkeypatch.chdir(tmp_path)
    Path("data").symlink_to(tiny_dataset)
    shutil.copy(tiny_model_file, "model.safetensors")
    return tmp_path


# Flags


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)], ids=str)
def test_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: napari-uflow")
    assert all(name in out for name in (command or COMMANDS))


@pytest.mark.parametrize(("command", "config", "parameter"), PARAMETERS)
def test_every_parameter_has_a_flag_that_sets_it(command, config, parameter, capsys):
    flag = "--" + parameter.name.replace("_", "-")
    values = {
        bool: [not parameter.default],
        str: parameter.choices or ("(.)",),
        int: [parameter.low, parameter.high],
        float: [parameter.low, parameter.high],
    }[parameter.type]
    for value in values:
        words = [flag] if value is True else [f"{flag}={value}"]
        options = make_parser().parse_args([*command.split(), *words])
        assert getattr(config_of(config, options), parameter.name) == value
    assert config_of(config, make_parser().parse_args(command.split())) == config()
    with pytest.raises(SystemExit):
        main([command.split()[0], "--help"])
    assert flag in capsys.readouterr().out


@pytest.mark.parametrize(
    ("former", "present"),
    [
        ("train a.tif --views 1", "train a.tif --augmentations 1"),
        ("train a.tif --field-pattern=(.)", "train a.tif --specimen-pattern=(.)"),
        ("train a.tif --start old", "train a.tif --init-from old"),
        ("train a.tif --border keep", "train a.tif --border reflect"),
        ("train a.tif --border hold", "train a.tif --border replicate"),
        ("detect model a.tif --calibration promised", "detect model a.tif --calibration conformal"),
    ],
)
def test_former_names_are_understood_with_a_note(former, present, capsys):
    configs = (DetectionConfig,) if former.startswith("detect") else (ModelConfig, TrainingConfig)

    def parsed(command):
        options = make_parser().parse_args(command.split())
        return [config_of(config, options) for config in configs], getattr(options, "init_from", None)

    expected = parsed(present)
    assert capsys.readouterr().err == ""
    assert parsed(former) == expected
    flag = present.replace("=", " ").split()[-2]
    note = capsys.readouterr().err
    assert note.startswith("napari-uflow: note: --")
    assert note.count("\n") == 1
    assert flag in note
    with pytest.raises(SystemExit):
        main([former.split()[0], "--help"])
    assert not {"--views", "--field-pattern", "--start"} & set(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "arguments",
    [
        "train images --steps=--",
        "train images --normal=--",
        "detect model images -o=--",
        "detect model images -o=",
        "train images --init-from=",
        "",
        "fly",
        "train",
        "train a.tif --stepz 3",
        "detect model",
        "show a b",
    ],
)
def test_misspelled_commands_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments.split())
    assert stop.value.code == 2
    assert "usage: napari-uflow" in capsys.readouterr().err


# Mistakes


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("train nowhere", "no image found at 'nowhere'"),
        ("train '' data/train/good", "the name of an image is empty"),
        ("detect model.safetensors ''", "the name of an image is empty"),
        ("train '*.bmp'", "no image found"),
        ("train empty", "the folder 'empty' contains no images"),
        ("train text.tif", "'text.tif' cannot be read"),
        ("train data/train/good --steps -1", "steps must be a whole number (0 to 1e+06), not -1"),
        ("train data/train/good --steps many", "--steps must be a number (0 to 1e+06), not 'many'"),
        ("train data/train/good --steps 1.5", "--steps must be a number"),
        ("train " + "n" * 5000, "File name too long"),
        ("show " + "n" * 5000, "there is no model file"),
        ("evaluate model.safetensors " + "n" * 5000, "no test image in"),
        ("train data/train/good --learning-rate nan", "learning_rate must be a number"),
        ("train data/train/good --backbone vgg", "backbone must be one of efficientnet_lite2, scattering"),
        ("train data/train/good --tile 100", "tile must be a multiple of 16"),
        ("train data/train/good --device toaster", "device must be auto, cpu"),
        ("train data/train/good --specimen-pattern (", "specimen pattern '(' is not a regular expression"),
        ("train data/train/good --channels 5", "has no channel 5"),
        ("train data/train/good --channels DAPI", "has no channel 'DAPI'"),
        ("train data/train/good --axes QYX", "axes of '000' must be 2 letters"),
        ("train data/train/good --series 7", "no series '7'; it has: 0 '000'"),
        ("train data/train/good --normal empty", "there is no mask for '000.png' in 'empty'"),
        ("train data/train/good -o empty", "'empty' cannot be written: it is a folder"),
        ("train data/train/good -o text.tif", "'text.tif' exists and is not a model of napari-uflow"),
        ("train -o text.tif data/train/good", "or replace the file with --overwrite"),
        ("train data/train/good -o /dev/null", "'/dev/null' cannot be written: it is not an ordinary file"),
        ("train data/train/good --resume", "there is no interrupted training of 'model.safetensors' to resume"),
        ("demo -o taken", "model.safetensors' exists and is not a model"),
        ("train data/train/good -o text.tif/model", "cannot write to the folder 'text.tif'"),
        ("detect nothing data/test/good", "there is no model file 'nothing'"),
        ("detect text.tif data/test/good", "is not a model of napari-uflow, or it is damaged"),
        ("detect model.safetensors nowhere", "no image found at 'nowhere'"),
        ("detect model.safetensors data/test/good --false-alarms 0", "false_alarms must be a number (1e-12 to 10)"),
        ("detect model.safetensors data/test/good --device cuda:99", "no device 'cuda:99'"),
        ("detect model.safetensors data/test/good -o text.tif", "cannot write to the folder 'text.tif'"),
        ("detect model.safetensors data/test/good data/test/*", "have the same output files"),
        ("evaluate nothing data", "there is no model file 'nothing'"),
        ("evaluate model.safetensors nowhere", "no test image in 'nowhere'"),
        ("evaluate model.safetensors data --calibration cat", "calibration must be one of conformal, tails, none"),
        ("show nothing", "there is no model file 'nothing'"),
        ("show text.tif", "is not a model of napari-uflow, or it is damaged"),
        ("demo -o text.tif", "cannot write to the folder 'text.tif'"),
    ],
)
def test_a_mistake_is_one_line(here, command, said, capsys):
    Path("text.tif").write_text("this is neither an image nor a model")
    Path("empty").mkdir()
    Path("taken").mkdir()
    Path("taken/model.safetensors").write_text("of another program")
    if "data/test/*" in command:
        command = command.replace("data/test/*", " ".join(sorted(str(p) for p in Path("data/test").iterdir())))
    code, out, err = call(capsys, *shlex.split(command))
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("napari-uflow: error: ")
    assert said in err


def test_a_mistake_found_on_the_way_is_one_line_at_the_end(here, capsys):
    Path("weights").mkdir()
    code, _, err = call(capsys, "train data/train/good --backbone resnet18 --weights weights")
    assert code == 2
    assert err.splitlines()[-1].startswith("napari-uflow: error: the folder weights does not contain resnet18")
    assert "Traceback" not in err
    code, _, err = call(capsys, "train data/train/good --tile 64 --min-normal 1 --normal masks")
    assert code == 2
    assert not Path("model.safetensors").is_dir()


# Files of others


REPORTS = {
    "evaluate model.safetensors data -o kept --device cpu": ("evaluation.json", "overview.png"),
    "trust model.safetensors -o kept --device cpu": ("trust.json", "trust.png"),
}


@pytest.mark.parametrize("command", REPORTS)
def test_reports_replace_reports_only(here, capsys, command):
    Path("kept").mkdir()
    for name in REPORTS[command]:
        place = Path("kept") / name
        place.write_bytes(b"mine")
        code, _, err = call(capsys, command)
        assert (code, place.read_bytes()) == (2, b"mine")
        assert err.endswith("or replace the file with --overwrite\n")
        place.unlink()
    assert call(capsys, command)[0] == 0
    assert call(capsys, command)[0] == 0
    place.write_bytes(b"mine")
    assert call(capsys, f"{command} --overwrite")[0] == 0
    assert place.read_bytes() != b"mine"


@pytest.mark.parametrize(
    "name", ["regions.csv", "evaluation.json", "overview.png", "found/good_000_labels.tif", "sample/train/good/000.png"]
)
def test_the_demo_replaces_no_file_of_others(here, capsys, name):
    place = Path("shown") / name
    place.parent.mkdir(parents=True)
    place.write_bytes(b"mine")
    code, _, err = call(capsys, "demo -o shown")
    assert (code, place.read_bytes()) == (2, b"mine")
    assert f"'{place}' cannot be written" in err


def test_a_demo_without_space_for_the_sample_is_one_line(here, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("napari_uflow.samples.demo.write_fibre_dataset", full)
    code, _, err = call(capsys, "demo -o shown")
    assert (code, err.count("\n")) == (2, 1)
    assert "No space left on device" in err


@pytest.mark.parametrize("command", REPORTS)
def test_numbers_that_cannot_be_written_are_printed(here, capsys, monkeypatch, command):
    def full(*_):
        raise UFlowError("the disk is full")

    monkeypatch.setattr("napari_uflow.evaluation.figures.save_figure", full)
    code, out, err = call(capsys, command)
    assert code == 2
    assert "accepted per image" in out or "image AUROC" in out
    assert "the disk is full" in err


def test_a_model_never_replaces_an_image_or_a_mask(here, capsys):
    for name in ("images", "masks"):
        shutil.copytree("data/train/good", name)
    command = f"train images --normal masks --steps 1 {FAST} --overwrite -o"
    for name in ("images/000.png", "masks/001.png"):
        before = Path(name).read_bytes()
        code, _, err = call(capsys, f"{command} {name}")
        assert (code, Path(name).read_bytes()) == (2, before)
        assert "it is one of the images" in err


def test_results_among_images_are_left_out(here, capsys):
    shutil.copytree("data/train/good", "images")
    shutil.copytree("data/test", "test")
    for folder in ("images", "test/good"):
        assert call(capsys, f"detect model.safetensors {folder} -o {folder} --device cpu")[0] == 0
    said = "warning: left out: 10 results of an earlier detection, such as '000_heatmap.tif'"
    code, _, err = call(capsys, f"train images -o m.safetensors --steps 1 {FAST}")
    assert (code, err.count(said)) == (0, 1)
    assert load_model("m.safetensors").record.n_images == 3
    said = said.replace("10", "7")
    for command in ("trust model.safetensors test/good --planted 0", "evaluate model.safetensors test"):
        code, out, err = call(capsys, f"{command} --device cpu")
        assert (code, err.count(said)) == (0, 1)
        assert "2 new images" in out or "2 normal" in out
    assert call(capsys, "train images/000_labels.tif -o n.safetensors")[0] == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux only")
def test_an_output_that_cannot_be_printed_is_one_line(here):
    command = [sys.executable, "-m", "napari_uflow", "show", "model.safetensors"]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr == "napari-uflow: error: the output cannot be printed (No space left on device)\n"


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
def test_a_program_without_standard_streams_works(here):
    code = f"{sys.executable} -m napari_uflow show model.safetensors >&- 2>&-"
    assert subprocess.run(["sh", "-c", code], check=False).returncode == 0


def test_a_model_with_the_longest_name_is_saved(here, capsys):
    name = "m" * 255
    assert call(capsys, f"train data/train/good -o {name} --steps 1 {FAST}")[0] == 0
    assert load_model(name).training.steps == 1


# The whole way


@pytest.mark.slow
def test_train_detect_evaluate_show(here, capsys):
    code, out, err = call(capsys, f"train data/train/good -o new/model.safetensors --steps 2 {FAST} --holdout 0.4")
    assert code == 0
    assert out.startswith("model: new/model.safetensors (done")
    assert "step 2: loss" in err
    model = load_model("new/model.safetensors")
    assert model.training.steps == 2
    assert model.config.flow_steps == 1

    code, out, err = call(capsys, "detect new/model.safetensors data/test/good -o found --device cpu")
    assert code == 0
    assert "in " in out
    assert "of 2 images" in out
    assert {path.name for path in Path("found").iterdir()} == {
        *(f"{stem}_{kind}.tif" for stem in ("000", "001") for kind in ("heatmap", "log10_nfa", "labels")),
        "regions.csv",
        "summary.csv",
        "overview.png",
    }
    assert read_planes("found/000_heatmap.tif")[0].shape == (128, 128)
    with open("found/regions.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert out.startswith(f"{len(rows)} anomalous region")

    code, out, err = call(capsys, "evaluate new/model.safetensors data -o numbers --device cpu")
    assert code == 0
    assert "fibres: 2 normal, 3 anomalous" in out
    assert "image AUROC, ranked by NFA" in out
    with open("numbers/images.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    n_images = sum(len(list(folder.iterdir())) for folder in Path("data/test").iterdir())
    assert len(rows) == n_images
    for row in rows:
        assert row["has_mask"] == ("no" if row["kind"] == "good" else "yes")
        assert (row["n_true_regions"] == "") == (row["kind"] == "good")
    numbers = json.loads(Path("numbers/evaluation.json").read_text(), parse_constant=pytest.fail)
    assert numbers["n_anomalous"] == 3
    assert Path("numbers/overview.png").stat().st_size > 1000

    code, out, err = call(capsys, "show new/model.safetensors")
    assert (code, err) == (0, "")
    assert out.startswith("new/model.safetensors: U-Flow model, format 5")
    assert "backbone:               efficientnet_lite2" in out
    code, out, err = call(capsys, "show new/model.safetensors --json")
    assert (code, err) == (0, "")
    assert json.loads(out) == read_card("new/model.safetensors").to_dict()


def test_training_goes_on(here, capsys):
    """Without a flag of the model's own, the new one is made of what the old one is made of."""
    options = "--init-from model.safetensors -o more.safetensors --steps 1 --augmentations 1 --device cpu"
    goes_on = f"train data/train/good {options}"
    assert call(capsys, goes_on)[0] == 0
    first, more = load_model("model.safetensors"), load_model("more.safetensors")
    assert more.config == first.config
    assert more.intensity == first.intensity
    code, _, err = call(capsys, f"{goes_on} --flow-steps 3")
    assert code == 2
    assert "flow_steps 2 (not 3)" in err
    assert call(capsys, "train data/train/good --init-from nothing.safetensors")[0] == 2


def test_images_of_many_sizes_do_not_fill_the_terminal(capsys):
    kinds = [Guarantee(false_alarms=1.0, n_specimens=20, n_areas=float(k), most_false=k) for k in range(2, 10)]
    planes = [PlaneResult(name=str(i), n_regions=1, lowest_log10_nfa=-3.0, guarantee=g) for i, g in enumerate(kinds)]
    results = [FileResult(path=Path(f"{plane.name}.tif"), planes=(plane,)) for plane in planes]
    _print_summary(summary_of(results, [], was_stopped=False), Path("results"))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("reliability: ")]
    assert len(lines) == 6
    assert "image of 2 calibrated areas" in lines[0]
    assert "9 of 10 normal images have at most 2 false alarms, even if the number is chosen after a look" in lines[0]
    assert lines[-1].startswith("reliability: 3 other statements")


def test_same_names_in_two_folders_are_two_specimens(here, capsys):
    for seed, folder in enumerate(("monday", "tuesday")):
        Path(folder).mkdir()
        for i in range(2):
            image = np.random.default_rng(10 * seed + i).integers(0, 256, (64, 64)).astype(np.uint8)
            write_tiff(f"{folder}/img_{i}.tif", image, "YX")
    command = f"train monday tuesday -o m.safetensors --steps 1 {FAST}"
    assert call(capsys, command)[0] == 0
    specimens = load_model("m.safetensors").record.all_specimens
    assert len(specimens) == 4
    assert "monday/img_0" in specimens
    assert " 4 from 4 specimens, each held out in turn" in call(capsys, "show m.safetensors")[1]
    # a pattern says it all
    assert call(capsys, *shlex.split(command), "--specimen-pattern", "(img_.)")[0] == 0
    assert load_model("m.safetensors").record.all_specimens == {"img_0", "img_1"}


def test_nothing_is_guaranteed_if_no_image_was_processed(here, capsys):
    code, out, err = call(capsys, "detect model.safetensors data/test/good/000.png --channels 3 -o found --device cpu")
    assert code == 1
    assert out == "no image was processed\n"
    assert "failed: data/test/good/000.png: '000' has no channel 3" in err


def test_output_that_nobody_reads_to_its_end(here):
    command = [sys.executable, "-m", "napari_uflow", "show", "model.safetensors", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0


def test_images_of_the_training_are_no_test_of_it(here, capsys):
    assert call(capsys, f"train data/train/good -o own.safetensors --steps 1 {FAST}")[0] == 0
    n = len(list(Path("data/train/good").iterdir()))
    shutil.copytree("data/train/good", "copies")
    for path in list(Path("copies").iterdir()):
        path.rename(path.with_name(f"other_{path.name}"))
    for images in ("data/train/good", "copies"):
        _, out, err = call(capsys, f"trust own.safetensors {images} --planted 0 --device cpu")
        assert f"warning: {n} of {n} images had a part in the training: left out of the numbers of new images" in err
        assert f"left out: {n} images of the training" in out
        assert "new image" not in out
    # other images of the same names
    assert {path.name for path in Path("data/test/good").iterdir()} <= {
        path.name for path in Path("data/train/good").iterdir()
    }
    _, out, err = call(
        capsys, "trust own.safetensors data/test/good data/train/good/002.png -o report --planted 0 --device cpu"
    )
    assert "2 new images" in out
    assert "1 of 3 images had a part" in err
    numbers = json.loads(Path("report/trust.json").read_text())
    assert (numbers["n_new_images"], numbers["n_images_of_training_left_out"]) == (2, 1)


def test_trust(here, capsys):
    code, out, err = call(capsys, "trust model.safetensors")
    assert (code, err) == (0, "")
    assert "accepted per image" in out
    assert "no, needs 99 specimens" in out
    assert "new images" not in out

    code, out, err = call(capsys, "trust model.safetensors data/test/good -o report --planted 4 --device cpu")
    assert code == 0
    assert " of 4 planted defects of " in out
    assert "real defects may be easier or harder to find" in out
    assert "0 held-out specimens, 2 new images" in out
    numbers = json.loads(Path("report/trust.json").read_text(), parse_constant=pytest.fail)
    assert numbers["n_new_images"] == 2
    assert len(numbers["new"]) == len(numbers["epsilon"])
    assert len(numbers["sensitivity"]["records"]) == 4
    assert numbers["held_out"][0] is None  # a single held-out specimen tells nothing
    assert Path("report/trust.png").stat().st_size > 10_000


def test_planted_defects_are_counted_from_0(capsys):
    with pytest.raises(SystemExit):
        main(["trust", "model.safetensors", "images", "--planted", "-1"])
    assert "must be 0 or more, not -1" in capsys.readouterr().err


def test_images_with_known_truth_are_no_stacks(capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "model.safetensors", "root", "--false-alarms-per", "stack"])
    assert "--false-alarms-per" in capsys.readouterr().err


def test_evaluating_without_anomalies_gives_no_nan(here, capsys):
    good = Path("only") / "good"
    good.mkdir(parents=True)
    (good / "a.png").write_bytes(Path("data/test/good/000.png").read_bytes())
    code, out, _ = call(capsys, "evaluate model.safetensors only -o numbers --device cpu")
    assert code == 0
    assert "nan" not in out
    numbers = json.loads(Path("numbers/evaluation.json").read_text(), parse_constant=pytest.fail)
    assert numbers["image_auroc"] is None
    assert numbers["image_auroc_nfa"] is None


def test_masks_say_what_is_normal(here, capsys):
    masks = Path("masks")
    masks.mkdir()
    mask = np.zeros((128, 128), np.uint8)
    mask[:64, :64] = 1
    for path in Path("data/train/good").iterdir():
        write_tiff(masks / f"{path.stem}.tif", mask, "YX")
    code, _, _ = call(capsys, f"train data/train/good --normal masks -o masked.safetensors --steps 1 {FAST}")
    assert code == 0
    record = load_model("masked.safetensors").record
    assert (record.n_tiles, record.n_holdout_tiles) == (2, 1)


def test_stacks_by_their_axes_and_channels_by_number(here, capsys):
    stack = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64)).astype(np.uint8)
    write_tiff("stack.tif", stack, "ZCYX")
    code, _, _ = call(capsys, f"train stack.tif --axes ZCYX --channels 0,2 -o two.safetensors --steps 1 {FAST}")
    assert code == 0
    model = load_model("two.safetensors")
    assert model.n_channels == 2
    assert model.record.n_images == 2
    code, out, _ = call(capsys, "detect two.safetensors stack.tif --channels 0,2 --device cpu")
    assert code == 0
    assert "of 2 planes" in out
    assert len(read_planes("detected/stack_labels.tif")) == 2


def test_the_main_image_of_a_slide_and_another_one(here, capsys):
    values = np.random.default_rng(0).integers(0, 256, (96, 80)).astype(np.uint8)
    with tifffile.TiffWriter("slide.ome.tif", ome=True) as writer:
        for name, rows in (("slide", 96), ("label image", 70), ("section 2", 64)):
            writer.write(values[:rows], metadata={"Name": name})
    command = "detect model.safetensors slide.ome.tif --device cpu"
    code, _, err = call(capsys, command)
    assert code == 1
    assert "the images of the file differ in size (64 x 80, 96 x 80 pixels): 'slide slide', 'slide section 2'" in err
    for series, shape in (("0", (96, 80)), ("label image", (70, 80))):
        code, _, err = call(capsys, f"{command} --series '{series}'")
        assert code == 0, err
        assert read_planes("detected/slide_labels.tif")[0].shape == shape


def test_training_on_8_and_16_bits_is_warned_of(here, capsys):
    values = np.random.default_rng(0).integers(0, 256, (64, 64))
    Path("images").mkdir()
    for name, dtype in (("a", np.uint8), ("b", np.uint16)):
        tifffile.imwrite(f"images/{name}.tif", values.astype(dtype))
    code, _, err = call(capsys, f"train images --steps 1 {FAST}")
    assert code == 0
    assert "warning: the images have pixels of different types: 1 image of uint8 ('a'), 1 image of uint16 ('b')" in err


def test_a_file_that_fails_is_told_and_exits_with_1(here, capsys):
    Path("images").mkdir()
    Path("images/good.png").write_bytes(Path("data/test/good/000.png").read_bytes())
    Path("images/bad.tif").write_text("no image")
    code, out, err = call(capsys, "detect model.safetensors images --device cpu")
    assert code == 1
    assert "of 1 image" in out
    (failed,) = [line for line in err.splitlines() if line.startswith("failed: ")]
    assert failed.startswith("failed: images/bad.tif: cannot be read; ")
    assert failed.count("bad.tif") == 1
    assert Path("detected/good_labels.tif").is_file()


def test_detecting_spares_files_of_others_and_leaves_results_out(here, capsys):
    Path("images").mkdir()
    Path("images/good.png").write_bytes(Path("data/test/good/000.png").read_bytes())
    Path("images/good_labels.tif").write_text("my own")
    detect = "detect model.safetensors images/good.png -o images --device cpu"
    code, _, err = call(capsys, detect)
    assert code == 1
    assert "not a result of this program" in err.splitlines()[-1]
    assert Path("images/good_labels.tif").read_text() == "my own"
    code, _, _ = call(capsys, f"{detect} --overwrite")
    assert code == 0
    code, _, err = call(capsys, "detect model.safetensors images -o images --device cpu")
    assert code == 0
    assert "left out: 4 results of an earlier detection" in err
    assert len(list(Path("images").iterdir())) == 1 + 3 + 3
    Path("images/summary.csv").write_text("my own")
    code, _, err = call(capsys, detect)
    assert code == 2
    assert err.splitlines()[-1].startswith("napari-uflow: error: 'images/summary.csv' cannot be written")


def test_a_stopped_detection_is_resumed(here, capsys, monkeypatch):
    detect = "detect model.safetensors data/test/good --device cpu"
    with monkeypatch.context() as patch:
        interrupting(patch, lambda event: isinstance(event, Progress) and event.done == 1)
        code, out, _ = call(capsys, detect)
    assert code == 130
    assert "; --resume continues" in out
    code, out, err = call(capsys, f"{detect} --resume")
    assert code == 0
    assert "resuming: 1 image finished before" in err
    assert "of 2 images" in out


def test_an_image_for_which_there_was_no_space_is_processed_on_request(here, capsys, monkeypatch):
    replacing = os.replace

    def full(source, target):
        if str(target).endswith("001_labels.tif"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replacing(source, target)

    detect = "detect model.safetensors data/test/good --device cpu"
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        code, _, err = call(capsys, detect)
    assert code == 1
    said = "1 file failed for want of disk space, memory or a drive; add --resume to try again"
    assert err.splitlines()[-1] == said
    code, out, err = call(capsys, f"{detect} --resume")
    assert code == 0
    assert "resuming: 1 image finished before" in err
    assert "of 2 images" in out


@pytest.mark.parametrize(
    "command",
    [
        "train nowhere -o new/folder/model",
        "train data/train/good -o new/folder/model --device toaster",
        "train data/train/good -o new/folder/model --channels 5",
        "detect nothing data/test/good -o new/folder",
        "detect model.safetensors data/test/good -o new/folder --device toaster",
        "evaluate model.safetensors nowhere -o new/folder",
        "evaluate model.safetensors data -o new/folder --device toaster",
        "trust nothing -o new/folder",
        "demo -o new/folder --device toaster",
    ],
)
def test_a_mistake_leaves_no_folder(here, capsys, monkeypatch, command):
    monkeypatch.setattr("napari_uflow.samples.demo.write_fibre_dataset", lambda *_, **__: None)
    assert call(capsys, command)[0] == 2
    if command.startswith("demo"):
        assert {path.name for path in Path("new/folder").rglob("*")} == {"found"}
    else:
        assert not Path("new").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="links require a permission there")
def test_a_model_is_written_to_where_a_link_leads(here, capsys):
    Path("disk").mkdir()
    shutil.move("model.safetensors", "disk/kept.safetensors")
    Path("model.safetensors").symlink_to("disk/kept.safetensors")
    before = Path("disk/kept.safetensors").read_bytes()
    assert call(capsys, f"train data/train/good --steps 1 {FAST}")[0] == 0
    assert Path("model.safetensors").is_symlink()
    assert Path("disk/kept.safetensors").read_bytes() != before
    assert load_model("model.safetensors").training.steps == 1
    assert [path.name for path in Path("disk").iterdir()] == ["kept.safetensors"]


def test_a_folder_is_no_model_and_the_model_in_it_is_named(here, capsys):
    Path("models").mkdir()
    code, _, err = call(capsys, "show models")
    assert (code, err) == (2, "napari-uflow: error: 'models' is a folder; give the model file in it\n")
    shutil.copy("model.safetensors", "models/b.safetensors")
    assert call(capsys, "show models")[2].endswith("give the model file in it, such as 'b.safetensors'\n")


def test_a_name_in_letters_that_figures_lack_is_no_warning(here, capsys):
    shutil.copy("data/test/good/000.png", "画像.png")
    code, _, err = call(capsys, "detect model.safetensors 画像.png --device cpu")
    assert code == 0
    assert "Glyph" not in err


def test_warnings_are_counted(here, capsys):
    write_tiff("black.tif", np.zeros((96, 96), np.uint8), "YX")
    code, _, err = call(capsys, "detect model.safetensors black.tif --device cpu")
    assert code == 0
    assert err.splitlines()[-1] == "warnings: 1 file, see summary.csv"


# Saving


def test_only_a_model_is_replaced(here, capsys):
    picture = Path("a.png")
    picture.write_bytes(Path("data/train/good/000.png").read_bytes())
    command = f"train data/train/good -o a.png --steps 1 {FAST}"
    assert call(capsys, command)[0] == 2
    assert picture.read_bytes() == Path("data/train/good/000.png").read_bytes()
    assert call(capsys, f"{command} --overwrite")[0] == 0
    assert load_model(picture).training.steps == 1
    assert call(capsys, command)[0] == 0


def full_disk(monkeypatch, is_full):
    """Let the save fail for the paths and metadata that `is_full` chooses, while Ctrl-C is pressed twice."""
    original = checkpoint.save_file

    def save(state, path, metadata):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        if is_full(path, json.loads(metadata["napari_uflow"])):
            raise SafetensorError("No space left on device (os error 28)")
        original(state, path, metadata)

    monkeypatch.setattr(checkpoint, "save_file", save)


def test_a_model_that_cannot_be_saved_is_saved_elsewhere(here, capsys, monkeypatch):
    Path("full").mkdir()
    full_disk(monkeypatch, lambda path, card: path.parents[1].name == "full")
    before = signal.getsignal(signal.SIGINT)
    code, out, err = call(capsys, f"train data/train/good -o full/m.safetensors --steps 1 {FAST}")
    assert code == 1
    assert out.startswith(f"model: {here / 'm-2.safetensors'} (done")
    assert "No space left" in err.splitlines()[-1]
    assert err.splitlines()[-1].endswith(f"the model is in '{here / 'm-2.safetensors'}' instead")
    assert load_model("m-2.safetensors").training.steps == 1
    assert list(Path("full").iterdir()) == []
    assert signal.getsignal(signal.SIGINT) is before


def test_a_model_that_can_be_saved_nowhere_leaves_its_snapshot(here, capsys, monkeypatch):
    monkeypatch.setattr(OPTIMISE, "_SECONDS_BETWEEN_SNAPSHOTS", -1.0)
    with monkeypatch.context() as patch:
        patch.setattr(signal, "raise_signal", lambda number: None)
        full_disk(patch, lambda path, card: card["record"]["outcome"]["kind"] != "interrupted")
        code, out, err = call(capsys, f"{TRAINING} --holdout 0")
    assert (code, out) == (2, "")
    (snapshot,) = here.glob("m.safetensors.unfinished-*")
    assert f"the best model so far is in '{snapshot.name}'; add --resume" in err
    assert load_model(snapshot).record.outcome.kind is OutcomeKind.INTERRUPTED


# Resuming

TRAINING = f"train data/train/good -o m.safetensors --steps 8 --patience 99 {FAST}"


def killed(here, capsys, monkeypatch, options="") -> Path:
    """Train until there is a snapshot, abort, and return it as that of a process that was killed."""
    n_saved = []

    def shown(self, event):
        if isinstance(event, Progress) and list(here.glob(f"m.safetensors.unfinished-{own_tag()}-*")):
            n_saved.append(event)
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(OPTIMISE, "_SECONDS_BETWEEN_SNAPSHOTS", -1.0)
        patch.setattr(Reporter, "__call__", shown)
        code, _, err = call(capsys, f"{TRAINING} --holdout 0 {options}")
    assert (code, len(n_saved)) == (130, 1)
    (path,) = here.glob(f"m.safetensors.unfinished-{own_tag()}-*")
    assert f"the best model so far is in '{path.name}'; add --resume" in err
    return path.rename(path.with_name(path.name.replace(own_tag(), nobody())))


def test_a_killed_training_is_resumed(here, capsys, monkeypatch):
    snapshot = killed(here, capsys, monkeypatch)
    first = load_model(snapshot)
    n_done = int(first.history[-1]["step"])
    assert first.record.outcome.kind is OutcomeKind.INTERRUPTED
    assert 0 < n_done < 8
    for wrong, said in (
        ("--steps 9", "the interrupted training has steps 8, not 9"),
        ("--preset best", "leave the parameters out"),
        ("--flow-steps 3", "flow_steps 1 (not 3)"),
        ("--init-from model.safetensors", "did not begin with 'model.safetensors'"),
    ):
        code, _, err = call(capsys, f"{TRAINING} --holdout 0 --resume {wrong}")
        assert (code, said in err) == (2, True)
    code, _, err = call(capsys, "train data/test/good -o m.safetensors --resume")
    assert code == 2
    assert "choose the images of that training" in err

    # resumed and killed again; then what was given before may be left out
    second = killed(here, capsys, monkeypatch, "--resume")
    assert snapshot.exists()
    code, out, err = call(capsys, "train data/train/good -o m.safetensors --resume --device cpu --cache-memory 2")
    assert code == 0
    assert out.startswith("model: m.safetensors (")
    assert "resuming the training of 'm.safetensors' ('00" in err
    model = load_model("m.safetensors")
    assert (model.training.augmentations, model.training.cache_memory) == (1, 2)
    assert model.training.steps == 8
    steps = [int(point["step"]) for point in model.history]
    assert steps == list(range(1, 9))
    assert f"step {n_done + 1} of 8, " in err
    out = call(capsys, "show m.safetensors")[1]
    assert re.search(r"resumed from: +its step \d, after an interruption\n", out)
    assert re.search(r"images: +3 from 3 specimens, 0 of them held out\n", out)
    assert model.record.resumed_from.resumed_from.date == first.record.date
    assert not second.exists()
    assert not snapshot.exists()


def test_a_resumed_training_may_have_begun_with_a_model(here, capsys, monkeypatch):
    of_model = "--flow-steps 2 --backbone scattering --init-from model.safetensors"
    snapshot = killed(here, capsys, monkeypatch, of_model)
    assert call(capsys, f"{TRAINING} --holdout 0 {of_model} --resume")[0] == 0
    assert not snapshot.exists()


def test_an_interrupted_training_is_announced_and_kept_while_another_is_run(here, capsys, monkeypatch):
    snapshot = killed(here, capsys, monkeypatch)
    code, _, err = call(capsys, f"train data/train/good -o m.safetensors --steps 1 {FAST}")
    assert code == 0
    first = err.splitlines()[0]
    assert first.startswith("warning: an earlier training of 'm.safetensors' was interrupted ('00")
    assert f"add --resume to continue it, or delete '{snapshot.name}'" in first
    assert snapshot.exists()
    assert "interrupted" not in call(capsys, f"train data/train/good -o other.safetensors --steps 1 {FAST}")[2]


def test_leftovers_of_killed_runs_are_removed_at_the_start(here, capsys):
    left = here / f".uflow-{nobody()}-01234567-m.safetensors"
    of_the_user = here / ".01234567-mine.txt"
    for path in (left, of_the_user):
        path.touch()
    assert call(capsys, f"train data/train/good -o m.safetensors --steps 1 {FAST}")[0] == 0
    assert not left.exists()
    assert of_the_user.exists()


# Stopping


SIGNALS = [
    pytest.param(number, id=signal.Signals(number).name)
    for number in (getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP"))
    if number is not None
]


def interrupting(monkeypatch, when, times=1, number=signal.SIGINT):
    """Press Ctrl-C, or send another signal, when the first event of a kind is shown."""
    pressed = []
    original = Reporter.__call__

    def shown(self, event):
        original(self, event)
        if not pressed and when(event):
            for _ in range(times):
                pressed.append(event)
                signal.raise_signal(number)

    monkeypatch.setattr(Reporter, "__call__", shown)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_during_training_keeps_the_best_model(here, capsys, monkeypatch, number):
    before = signal.getsignal(number)
    interrupting(monkeypatch, lambda event: isinstance(event, TrainingPoint), number=number)
    code, out, err = call(capsys, f"train data/train/good -o m.safetensors --steps 1000 {FAST}")
    assert code == 0
    assert out == "model: m.safetensors (stopped at step 1)\n"
    assert "press Ctrl-C again to abort" in err
    assert len(load_model("m.safetensors").history) == 1
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(
    ("command", "when"),
    [
        (f"train data/train/good -o m.safetensors {FAST}", lambda event: isinstance(event, Message)),
        ("detect model.safetensors data/test/good", lambda event: isinstance(event, Progress)),
        ("evaluate model.safetensors data", lambda event: isinstance(event, Progress)),
    ],
)
def test_a_signal_before_there_is_a_result_is_told_by_the_exit_code(here, capsys, monkeypatch, command, when, number):
    interrupting(monkeypatch, when, number=number)
    code, out, err = call(capsys, command)
    assert code == 128 + number
    assert "Traceback" not in err
    assert not Path("m.safetensors").exists()
    if command.startswith("detect"):
        n_files = len(list(Path("data/test/good").iterdir()))
        assert f"stopped: {n_files} of {n_files} file" in out


def test_the_second_ctrl_c_breaks_off(here, capsys, monkeypatch):
    interrupting(monkeypatch, lambda event: isinstance(event, TrainingPoint), times=2)
    code, _, err = call(capsys, f"train data/train/good -o m.safetensors --steps 1000 {FAST}")
    assert code == 130
    assert err.splitlines()[-1] == "napari-uflow: interrupted"
    assert not Path("m.safetensors").exists()


def work():
    """Yield ten events, and return how many were not answered by FINISH."""
    for i in range(10):
        if (yield Progress("Working", i, 10)) is FINISH:
            return i
    return 10


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no such signal there")
def test_a_system_that_shuts_down_may_send_several_signals():
    """A terminal that is closed sends SIGHUP twice, or SIGHUP and SIGTERM; only a second Ctrl-C aborts."""

    def signalled():
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
            signal.raise_signal(number)
        n_done.append((yield from work()))
        signal.raise_signal(signal.SIGINT)

    n_done = []
    interrupts = Interrupts()
    with pytest.raises(KeyboardInterrupt):
        run_job(signalled(), interrupts)
    assert n_done == [0]
    assert interrupts.exit_code == 129


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no such signal there")
def test_a_signal_that_is_ignored_stays_ignored():
    """As ``nohup`` does."""

    def signalled():
        signal.raise_signal(signal.SIGHUP)
        return (yield from work())

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run_job(signalled(), Interrupts()) == 10
    finally:
        signal.signal(signal.SIGHUP, before)


def test_no_signal_breaks_a_save(capsys):
    saved = []

    def save(result):
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
            signal.raise_signal(number)
        saved.append(result)
        return result

    before = signal.getsignal(signal.SIGINT)
    assert run_and_save(work(), Interrupts(), save) == 10
    assert saved == [10]
    assert "the result is being saved" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before


def test_a_job_goes_on_if_nobody_hears_of_it(monkeypatch):
    """The terminal is closed, or the disk of the log is full."""

    class Closed(io.StringIO):
        def write(self, text):
            raise OSError(5, "Input/output error")

    def signalled():
        yield Message("hello")
        signal.raise_signal(signal.SIGTERM)
        return (yield from work())

    monkeypatch.setattr(sys, "stderr", Closed())
    assert run_job(signalled(), Interrupts()) == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_a_real_signal(here, number):
    command = f"train data/train/good -o m.safetensors --steps 100000 --patience 10000 {FAST}"
    process = subprocess.Popen(
        [sys.executable, "-m", "napari_uflow", *shlex.split(command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert any("step 1:" in line for line in process.stderr)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert "finishing; press Ctrl-C again" in err
    assert "Traceback" not in err
    assert out.startswith("model: m.safetensors (stopped at step ")
    assert load_model("m.safetensors").record.outcome.kind is OutcomeKind.STOPPED


# Texts of others


EVIL = "\x1b]0;owned\x07\x1b[2J\r\x9b31m\u202eevil\nfake: yes"


def assert_plain(*texts):
    for text in texts:
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\ud800-\udfff]", text), ascii(text)
        assert "\nfake" not in text


@pytest.fixture
def evil_model(tiny_model, tmp_path):
    """A model whose card holds control characters wherever it holds a text."""
    record = replace(
        tiny_model.record,
        date=EVIL,
        unit=EVIL,
        pixel_size=(1.0, 1.0),
        backbone_weights=EVIL,
        device=EVIL,
        versions={EVIL: EVIL},
        specimens=(EVIL,),
        image_names=(EVIL,),
        resumed_from=EarlierTraining(EVIL, 3),
    )
    save_model(tmp_path / "evil.safetensors", replace(tiny_model, record=record))
    return tmp_path / "evil.safetensors"


@pytest.mark.parametrize("command", ["show", "show --json"])
def test_a_card_has_no_power_over_the_terminal(evil_model, command, capsys):
    code, out, err = call(capsys, *command.split(), str(evil_model))
    assert code == 0
    assert_plain(out, err)
    assert "\\x1b[2J" in out or "\\u001b[2J" in out


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names")
def test_names_of_files_have_no_power_over_the_terminal(here, evil_model, capsys):
    name = EVIL.replace("/", "")
    Path(name).mkdir()
    shutil.copy("data/test/good/000.png", Path(name, f"{name}.png"))
    Path(name, "text.tif").write_text("none")
    for arguments, expected in (
        (["detect", str(evil_model), name, "-o", f"{name} found", "--device", "cpu"], 1),
        (["detect", str(evil_model), f"{name}.tif"], 2),
        (["show", f"{name}/text.tif"], 2),
        (["evaluate", str(evil_model), name], 2),
        (["train", name, "-o", f"{name}/text.tif/x"], 2),
    ):
        assert main(arguments) == expected
        assert_plain(*capsys.readouterr())
    for arguments in (["detect", name], [name], ["show", "a", name], ["train", "a", "--preset", name]):
        with pytest.raises(SystemExit):
            main(arguments)
        assert_plain(*capsys.readouterr())


def test_whatever_is_printed_has_no_power_over_the_terminal(capsys, monkeypatch):
    def said(path):
        print(EVIL, "\u00b5 and \udcff")
        print(EVIL, file=sys.stderr)
        raise ModelFileError(EVIL)

    monkeypatch.setattr("napari_uflow.store.card.read_card", said)
    code, out, err = call(capsys, "show", "model")
    assert code == 2
    assert "\u00b5 and \\udcff" in out
    assert_plain(out.replace("\nfake", ""), err.replace("\nfake", "", 1))


def test_what_a_terminal_cannot_show_is_written_out(tmp_path, tiny_model_file):
    """Also on a terminal that knows ASCII only."""
    shutil.copy(tiny_model_file, tmp_path / "\u00b5.safetensors")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "napari_uflow", "show", str(tmp_path / "\u00b5.safetensors")]
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert rb"\xb5.safetensors: U-Flow model" in done.stdout


# Drift


@pytest.fixture
def watched(here, watched_model):
    """A model that compares images with twenty held-out specimens, in an empty folder."""
    save_model("watched.safetensors", watched_model)
    return watched_model


def test_detect_keeps_a_drift_log(watched, capsys):
    command = "detect watched.safetensors data/test/good --device cpu"
    assert call(capsys, command, "--no-log")[0] == 0
    assert not Path("watched.drift.jsonl").exists()
    assert call(capsys, command)[0] == 0
    code, out, _ = call(capsys, "drift watched.safetensors")
    assert code == 0
    assert out.startswith("watched.drift.jsonl\nNo drift: 2 new specimens compared with 20 held-out ones, evidence ")


def test_drift_is_printed_and_reset(watched, capsys, log_drift):
    log_drift(watched, "watched.safetensors")
    code, out, _ = call(capsys, "drift watched.safetensors")
    assert code == 0
    assert "Since 'blurred 0' (" in out
    assert json.loads(call(capsys, "drift watched.safetensors --json")[1])["has_drifted"]
    code, out, _ = call(capsys, "drift watched.safetensors --reset")
    assert out == "watched.drift.jsonl\nNo drift: no new specimen in the drift log.\n"
    code, out, _ = call(capsys, "trust watched.safetensors")
    assert "No drift: no new specimen in the drift log." in out


def test_a_drift_log_in_a_place_that_cannot_be_written(watched, capsys):
    Path("watched.drift.jsonl").mkdir()
    code, _, err = call(capsys, "detect watched.safetensors data/test/good --device cpu")
    assert code == 0
    assert err.count("the drift log is incomplete: 'watched.drift.jsonl' is not a drift log of this program") == 1


def test_the_images_to_confirm_are_printed(here, capsys):
    code, out, _ = call(capsys, "detect model.safetensors data/test/good --device cpu")
    assert code == 0
    assert "\nnext: 1 can be guaranteed with " in out
