"""Channels of an image: names, defaults, and choice by number or name."""

from collections.abc import Mapping, Sequence

from napari_uflow.errors import ImageError

__all__ = ["MAX_CHANNELS", "channel_names_of", "chosen_channels", "default_channels"]

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


def chosen_channels(wanted: Sequence[int | str], names: Sequence[str], name: str) -> tuple[int, ...]:
    """Return the numbers of channels given by number from 0 or by name."""
    if not 1 <= len(wanted) <= MAX_CHANNELS:
        raise ImageError(f"channels must be 1 to {MAX_CHANNELS} names or numbers, not {list(wanted)}")
    folded = [n.casefold() for n in names]
    selected = []
    for choice in wanted:
        if isinstance(choice, str) and choice in names:
            selected.append(list(names).index(choice))
        elif isinstance(choice, str) and folded.count(choice.casefold()) == 1:
            selected.append(folded.index(choice.casefold()))
        elif not isinstance(choice, str) and 0 <= choice < len(names):
            selected.append(int(choice))
        else:
            listed = ", ".join(f"{i} {n}" if n != str(i) else n for i, n in enumerate(names))
            raise ImageError(f"'{name}' has no channel {choice!r}; it has: {listed}")
    if len(set(selected)) != len(selected):
        raise ImageError(f"channels must differ from each other, not {list(wanted)}")
    return tuple(selected)
