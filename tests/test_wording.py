"""Numbers in words."""

import pytest

from napari_uflow.wording import counted, how_far, without_name, without_subject


@pytest.mark.parametrize(
    ("n", "said"), [(0, "0 tiles"), (1, "1 tile"), (1.0, "1 tile"), (0.1, "0.1 tiles"), (1000000, "1000000 tiles")]
)
def test_one_is_singular(n, said):
    assert counted(n, "tile") == said


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (0.0, "1 of 2"),
        (0.009, "1 of 2"),
        (0.23, "1 of 2, next 23 %"),
        (0.999, "1 of 2, next 99 %"),
        (1.0, "1 of 2, next 99 %"),
    ],
)
def test_the_part_of_a_step_is_told_where_it_is_worth_it(part, said):
    assert how_far(1, 2, part) == said


@pytest.mark.parametrize(
    ("phrase", "said"),
    [
        ("cannot identify image file '/a/b c.png'", "cannot identify image file"),
        ("cannot identify image file <_io.BufferedReader name='/a/b c.png'>", "cannot identify image file"),
        ("[Errno 2] No such file or directory: '/a/b c.png'", "[Errno 2] No such file or directory"),
        ("no array at PosixPath('/a/b c.png') in group", "no array at in group"),
        ("not a TIFF file 'b c.png': header=b'no'", "not a TIFF file: header=b'no'"),
        ("failed: /a/b c.png", "failed"),
        ("'/a/b c.png.tmp' and '/x/b c.png' are other files", "'/a/b c.png.tmp' and '/x/b c.png' are other files"),
        ("'/a/b c.png'", ""),
    ],
)
def test_a_file_is_named_once(phrase, said):
    assert without_name(phrase, "/a/b c.png") == said
    assert without_name(phrase.replace("/a/", "C:\\a\\"), "C:\\a\\b c.png") == said.replace("/a/", "C:\\a\\")


def test_a_sentence_after_the_name_of_its_file_does_not_repeat_it():
    assert without_subject("'a.tif' cannot be read", "a.tif") == "cannot be read"
    assert without_subject("'a.tif' cannot be read", "b.tif") == "'a.tif' cannot be read"
