"""Command lines: random values of all options, odd names of files, small images, tiny models."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image
from tests.fuzz.harness import Target
from tests.fuzz.targets.model import seeds

from napari_uflow.cli import main
from napari_uflow.cli.parser import make_parser

_NAMES = (
    *(
        "a.tif",
        "b.png",
        "c.JPG",
        "-x.tif",
        "=1+1.tif",
        "a b.tif",
        "\u00b5.tif",
        "\u202ex.tif",
        "\x1b[31m.tif",
        "$x$.png",
    ),
    *("n" * 245 + ".tif", "[a].tif", "%s.tif", "a\nb.tif", "'.tif", "a.ome.tif", "bad.tif", "\udcff.tif"),
)
_TEXTS = (
    *(
        "",
        "0",
        "1",
        "-1",
        "2",
        "0.5",
        "nan",
        "inf",
        "-inf",
        "1e400",
        "1" * 5000,
        "x",
        "auto",
        "cpu",
        "cuda",
        "mps",
        "ZYX",
    ),
    *("YX", "QQ", "0,1", "0,0", "red", "name:0", "\u00b2", "\x1b[2J", "\udcff", "..", "/", ".", "a.tif", "/nowhere/x"),
    *("(a+)+$", "(.)", "(", "true", "scattering", "n" * 300, "a\0b", "--help", "--"),
)
# Values that keep a run short, given after the others so that they hold.
_SHORT = (
    *("--backbone=scattering", "--tile=64", "--flow-steps=1", "--steps=1", "--batch-size=1", "--augmentations=1"),
    *("--max-tiles=4", "--memory-size=100", "--octaves=1", "--magnification=1", "--cache-memory=0.1"),
)


def _flags(command: str) -> list[str]:
    """Return the flags of a command that take a value."""
    (commands,) = (a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction))
    actions = commands.choices[command]._actions
    return [
        a.option_strings[-1]
        for a in actions
        if a.option_strings and a.nargs is None and "--output" not in a.option_strings
    ]


_FLAGS = {command: _flags(command) for command in ("train", "detect", "evaluate", "trust", "show")}


def _make(rng: random.Random, folder: Path) -> tuple[Path, list[str]]:
    folder = folder / "work"  # whose parent, which an argument may name, is empty as well
    (folder / "images").mkdir(parents=True)
    for name in rng.sample(_NAMES, 3):
        with contextlib.suppress(OSError):
            _write(rng, folder / "images" / name)
    (folder / "m.safetensors").write_bytes(rng.choice(seeds()))
    command = rng.choice(("train", "train", "detect", "detect", "evaluate", "trust", "show"))
    places = ("images", "images/*", "m.safetensors", *(os.path.join("images", name) for name in _NAMES), *_TEXTS)
    given = [rng.choice(("images", "images/*", *places)) for _ in range(rng.choice((1, 1, 2)))]
    model = ["m.safetensors" if rng.random() < 0.85 else rng.choice(places)]
    arguments = [command, *([] if command == "train" else model), *([] if command == "show" else given)]
    flags = rng.sample(_FLAGS[command], min(len(_FLAGS[command]), rng.choice((0, 1, 1, 2, 4))))
    arguments += [f"{flag}={rng.choice(_TEXTS)}" for flag in flags]
    if command == "train":
        arguments += [f for f in _SHORT if f.partition("=")[0] not in flags or rng.random() < 0.8]
    if command == "trust":
        arguments += ["--planted=2"]
    if command != "show":
        arguments += ["-o", rng.choice(("out", "out", *_TEXTS[:14], "out/x/y", "images/out"))]
    return folder, arguments


def _write(rng: random.Random, path: Path) -> None:
    shape = rng.choice(((96, 96), (128, 96), (64, 64), (3, 96, 96), (96, 96, 3), (1, 1)))
    image = rng.choice((np.uint8, np.uint16))(0) + np.array(
        np.random.default_rng(rng.randrange(9)).integers(0, 256, shape), rng.choice((np.uint8, np.uint16))
    )
    if path.name == "bad.tif":
        path.write_bytes(b"II*\0nothing")
    elif path.suffix == ".tif":
        tifffile.imwrite(path, image, photometric="rgb" if shape[-1] == 3 else "minisblack")
    else:
        Image.fromarray(np.resize(image, (96, 96)).astype(np.uint8)).save(path)


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _use(made: tuple[Path, list[str]]) -> None:
    folder, arguments = made
    printed = io.StringIO()
    with _inside(folder), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            code = main(arguments)
        except SystemExit as stop:  # of argparse
            code = stop.code
    assert code in (0, 1, 2, 130), f"exit code {code}"
    unsafe = [c for c in printed.getvalue() if (c < " " and c not in "\n\t") or "\x7f" <= c <= "\x9f" or c == "\u202e"]
    assert not unsafe, f"printed {unsafe[:5]}"


TARGET = Target("cli", _make, _use, limit=60.0)
