"""Units of length and time, each in one spelling."""

import re
import unicodedata

__all__ = ["OME_UNITS", "normal_unit", "seconds_per"]

_UNITS = {
    **dict.fromkeys(("um", "μm", "micron", "microns", "micrometer", "micrometre", "micrometers", "micrometres"), "um"),
    **dict.fromkeys(("nm", "nanometer", "nanometre", "nanometers", "nanometres", "mμ", "mμm"), "nm"),
    **dict.fromkeys(("pm", "picometer", "picometre", "picometers", "picometres"), "pm"),
    **dict.fromkeys(("fm", "femtometer", "femtometre"), "fm"),
    **dict.fromkeys(("å", "angstrom", "angstroms", "ångström", "ångstrom", "ang"), "angstrom"),
    **dict.fromkeys(("mm", "millimeter", "millimetre", "millimeters", "millimetres"), "mm"),
    **dict.fromkeys(("cm", "centimeter", "centimetre", "centimeters", "centimetres"), "cm"),
    **dict.fromkeys(("dm", "decimeter", "decimetre"), "dm"),
    **dict.fromkeys(("m", "meter", "metre", "meters", "metres"), "m"),
    **dict.fromkeys(("km", "kilometer", "kilometre"), "km"),
    **dict.fromkeys(("inch", "in", "inches"), "inch"),
}
"""Lower-case spellings of the usual units, and the one used here."""

OME_UNITS = {"um": "µm", "inch": "in", "angstrom": "Å"}
"""Units that OME files spell differently."""

_NO_UNIT = frozenset({"", "none", "null", "pixel", "pixels", "px", "pix", "reference frame"})

_SECONDS = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), 1e-3),
    **dict.fromkeys(("us", "μs", "usec", "microsecond", "microseconds"), 1e-6),
    **dict.fromkeys(("ns", "nanosecond", "nanoseconds"), 1e-9),
    **dict.fromkeys(("min", "mins", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
}


def _plain(unit: str) -> str:
    """Return a unit without the escapes of ImageJ (a backslash, u, four digits), quotes, and double codes."""
    unit = re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), unit)
    return unicodedata.normalize("NFKC", unit).strip().strip('"').strip()


def normal_unit(unit: str) -> str | None:
    """Return a unit in the spelling used here, "um" for micrometre; None for pixels; other units unchanged."""
    unit = _plain(unit)
    return None if unit.lower() in _NO_UNIT else _UNITS.get(unit.lower(), unit)


def seconds_per(unit: str) -> float | None:
    """Return the seconds of a unit of time; None for an unknown unit."""
    return _SECONDS.get(_plain(unit).lower())
