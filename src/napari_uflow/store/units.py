"""Units of length, each in one spelling."""

__all__ = ["OME_UNITS", "normal_unit"]

_UNITS = {
    **dict.fromkeys(("um", "µm", "μm", "\\u00b5m", "micron", "microns", "micrometer", "micrometre"), "um"),
    **dict.fromkeys(("nm", "nanometer", "nanometre"), "nm"),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), "mm"),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), "cm"),
    **dict.fromkeys(("m", "meter", "metre"), "m"),
    **dict.fromkeys(("inch", "in", "inches"), "inch"),
}
"""Lower-case spellings of the usual units, and the one used here."""

OME_UNITS = {"um": "µm", "inch": "in"}
"""Units that OME files spell differently."""

_NO_UNIT = frozenset({"", "pixel", "pixels", "px", "reference frame"})


def normal_unit(unit: str) -> str | None:
    """Return a unit in the spelling used here, "um" for micrometre; None for pixels; other units unchanged."""
    unit = unit.strip().strip('"')
    return None if unit.lower() in _NO_UNIT else _UNITS.get(unit.lower(), unit)
