"""Channels of an image: names, defaults, and choice by number or name."""

from collections.abc import Mapping, Sequence

from napari_uflow.errors import ImageError

__all__ = ["MAX_CHANNELS", "channel_names_of", "channels_in", "chosen_channels", "default_channels"]

MAX_CHANNELS = 3
"""Number of input channels of pre-trained backbones."""

_SAMPLE_NAMES = ("red", "green", "blue", "alpha")


def channel_names_of(sizes: Mapping[str, int], given: Sequence[str] | None, name: str) -> list[str]:
    """Return one name per channel of an image with the given axis sizes; with both C and S, of all combinations."""
    n_channels, n_samples = sizes.get("C", 1), sizes.get("S", 1)
    is_colour = n_samples in (3, 4)
    samples = [_SAMPLE_NAMES[s] if is_colour else str(s) for s in range(n_samples)]
    if given is None:
        if "S" in sizes and n_channels == 1:
            return samples
        given = [str(c) for c in range(n_channels)]
    if len(given) == n_channels * n_samples:
        return [str(n) for n in given]
    if len(given) != n_channels:
        raise ImageError(f"'{name}' has {n_channels} channels but {len(given)} channel names: {', '.join(given)}")
    return [f"{n} {s}" for n in given for s in samples]


def default_channels(sizes: Mapping[str, int], names: Sequence[str], name: str) -> tuple[int, ...] | None:
    """Return the channels to use if none were chosen: all but alpha; None for all."""
    has_alpha = sizes.get("S") == 4  # opacity, which is unrelated to the specimen
    kept = [c for c in range(len(names)) if not (has_alpha and c % 4 == 3)]
    if len(kept) > MAX_CHANNELS:
        raise ImageError(
            f"'{name}' has {len(kept)} channels ({', '.join(names[c] for c in kept)}); choose 1 to {MAX_CHANNELS} of "
            f"them by name or by number from 0, for example 0 and 1"
        )
    return None if len(kept) == len(names) else tuple(kept)


def channels_in(text: str) -> list[int | str]:
    """Return the channels in a text such as "0, 2" or "DAPI, GFP"; none for an empty one.

    Examples
    --------
    >>> channels_in("488, DAPI,0")
    [488, 'DAPI', 0]
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    return [int(part) if part.isdecimal() and str(int(part)) == part else part for part in parts]


def chosen_channels(wanted: Sequence[int | str], names: Sequence[str], name: str) -> tuple[int, ...]:
    """Return the numbers of channels given by name or by number from 0.

    Parameters
    ----------
    wanted : sequence of int or str
        Names, in which capital letters matter only if names differ in them, or numbers. What is both is refused;
        ``name:1`` and ``number:1`` say which is meant.
    names : sequence of str
        Name of each channel.
    name : str
        Name of the image, for messages.

    Raises
    ------
    ImageError
        If there is no such channel, or more than one; or if the channels are more than 3, or not distinct.
    """
    if not 1 <= len(wanted) <= MAX_CHANNELS:
        raise ImageError(f"channels must be 1 to {MAX_CHANNELS} names or numbers, not {list(wanted)}")
    selected = [_chosen_channel(choice, names, name) for choice in wanted]
    if len(set(selected)) != len(selected):
        raise ImageError(f"channels must differ from each other, not {list(wanted)}")
    return tuple(selected)


def _chosen_channel(wanted: int | str, names: Sequence[str], name: str) -> int:
    choice, shown = str(wanted), repr(wanted) if isinstance(wanted, str) else str(wanted)
    by_name, by_number = _called(choice, names), _numbered(choice, names)
    if not by_name and not by_number:
        kind, _, rest = choice.partition(":")
        by_name = _called(rest, names) if kind == "name" else []
        by_number = _numbered(rest, names) if kind == "number" else []
    found = sorted({*by_name, *by_number})
    if len(found) == 1:
        return found[0]
    listed = ", ".join(f"{i} {n}" if n != str(i) else n for i, n in enumerate(names))
    if not found:
        raise ImageError(f"'{name}' has no channel {shown}; it has: {listed}")
    if len(by_name) > 1:
        numbers = " and ".join(f"number:{i}" for i in by_name)
        raise ImageError(f"'{name}' has several channels called {shown}: choose {numbers}")
    raise ImageError(
        f"{shown} is the name of channel {by_name[0]} of '{name}' and the number of another one, "
        f"{names[by_number[0]]!r}: write name:{choice} or number:{choice}"
    )


def _called(choice: str, names: Sequence[str]) -> list[int]:
    """Return the numbers of the channels with a name; those with other capital letters only if there is no other."""
    exactly = [i for i, n in enumerate(names) if n == choice]
    return exactly or [i for i, n in enumerate(names) if n.casefold() == choice.casefold()]


def _numbered(choice: str, names: Sequence[str]) -> list[int]:
    return [int(choice)] if choice.isdecimal() and len(choice) < 10 and int(choice) < len(names) else []
