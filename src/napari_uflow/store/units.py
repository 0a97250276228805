"""Units of length, in the one way they are written here."""

__all__ = ["normal_unit"]

_UNITS = {
    **dict.fromkeys(("um", "µm", "μm", "\\u00b5m", "micron", "microns", "micrometer", "micrometre"), "um"),
    **dict.fromkeys(("nm", "nanometer", "nanometre"), "nm"),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), "mm"),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), "cm"),
    **dict.fromkeys(("m", "meter", "metre"), "m"),
    **dict.fromkeys(("inch", "in", "inches"), "inch"),
}
"""Ways to write the usual units, in small letters, and the one that is used here."""

_NO_UNIT = frozenset({"", "pixel", "pixels", "px", "reference frame"})


def normal_unit(unit: str) -> str | None:
    """Return "um" for every way to write it, and so on; None for pixels; and other units as they are."""
    unit = unit.strip().strip('"')
    return None if unit.lower() in _NO_UNIT else _UNITS.get(unit.lower(), unit)
