"""How numbers are said."""

import pytest

from napari_uflow.wording import counted


@pytest.mark.parametrize(
    ("n", "said"), [(0, "0 tiles"), (1, "1 tile"), (1.0, "1 tile"), (0.1, "0.1 tiles"), (1000000, "1000000 tiles")]
)
def test_one_is_singular(n, said):
    assert counted(n, "tile") == said
