"""Sizes that compressed images inside other files declare; their decoders allocate them whatever the file says."""

import struct

__all__ = ["declared_pixels"]

_JPEG_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
"""Markers of JPEG that carry a size."""


def declared_pixels(data: bytes) -> int:
    """Return the pixels of a JPEG, JPEG 2000, JPEG XL, JPEG XR or PNG image by its header.

    Parameters
    ----------
    data : bytes
        Compressed image.

    Returns
    -------
    int
        Height times width; 0 for other formats and damaged headers, which the decoder finds.
    """
    try:
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
        if b"\xff\x4f\xff\x51" in data[:4096]:
            return _jpeg_2000(data)
        if data.startswith(b"\x89PNG"):
            width, height = struct.unpack_from(">II", data, 16)
            return int(width * height)
        if data.startswith(b"II\xbc"):
            return _jpeg_xr(data)
        if data.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
            return _jpeg_xl(data)
    except (struct.error, IndexError):
        pass
    return 0


def _jpeg(data: bytes) -> int:
    place = 2
    while place < len(data):
        marker = data[place + 1]
        if data[place] != 0xFF or marker == 0xFF:
            place += 1
        elif marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, place + 5)
            return int(height * width)
        elif 0xD0 <= marker <= 0xD8 or marker == 1:
            place += 2
        else:
            place += 2 + int(struct.unpack_from(">H", data, place + 2)[0])
    return 0


def _jpeg_2000(data: bytes) -> int:
    right, bottom, left, top = struct.unpack_from(">IIII", data, data.index(b"\xff\x4f\xff\x51") + 8)
    return int(max(right - left, 0) * max(bottom - top, 0))


def _jpeg_xr(data: bytes) -> int:
    (offset,) = struct.unpack_from("<I", data, 4)
    (n_tags,) = struct.unpack_from("<H", data, offset)
    sizes = {0xBC80: 0, 0xBC81: 0}
    for i in range(n_tags):
        tag, kind, _, value = struct.unpack_from("<HHII", data, offset + 2 + 12 * i)
        if tag in sizes:
            sizes[tag] = value if kind == 4 else value & 0xFFFF
    return sizes[0xBC80] * sizes[0xBC81]


def _jpeg_xl(data: bytes) -> int:
    if data.startswith(b"\0"):  # a container of boxes
        place = data.index(b"jxlc") + 4 if b"jxlc" in data[:4096] else data.find(b"jxlp") + 8
        data = data[place:]
    bits, taken = int.from_bytes(data[2:14], "little"), 0

    def take(n: int) -> int:
        nonlocal taken
        taken += n
        return bits >> (taken - n) & (1 << n) - 1

    is_small = take(1)

    def side() -> int:
        return 8 * (take(5) + 1) if is_small else take((9, 13, 18, 30)[take(2)]) + 1

    height, ratio = side(), take(3)
    if ratio == 0:
        return height * side()
    numerator, denominator = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio - 1]
    return height * (height * numerator // denominator)
