"""Keys of the memory."""

from napari_uflow.model.memory import key_of


def test_a_specimen_whose_name_is_no_text_has_a_key():
    keys = [key_of(name, tile) for name in ("a", "a\udcff", "a\ud800") for tile in (None, 0, 1)]
    assert len(set(keys)) == 9
    assert all(0 <= key < 2**63 for key in keys)
