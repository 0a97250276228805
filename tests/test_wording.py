"""Numbers in words."""

import pytest

from napari_uflow.wording import counted, how_far


@pytest.mark.parametrize(
    ("n", "said"), [(0, "0 tiles"), (1, "1 tile"), (1.0, "1 tile"), (0.1, "0.1 tiles"), (1000000, "1000000 tiles")]
)
def test_one_is_singular(n, said):
    assert counted(n, "tile") == said


@pytest.mark.parametrize(("part", "said"), [(0.0, "1 of 2"), (0.009, "1 of 2"), (0.23, "1 of 2 and 23%")])
def test_the_part_of_a_step_is_told_where_it_is_worth_it(part, said):
    assert how_far(1, 2, part) == said
