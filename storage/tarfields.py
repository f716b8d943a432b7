"""The fields of a tar header block: its numbers, its checksum, and one field that has been two things.

Sources: POSIX.1-2008 pax, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format".
"""

from __future__ import annotations

import zlib

__all__ = ["is_misplaced_prefix", "octal", "sum_is_common", "sum_matches"]


def octal(field: bytes) -> int:
    """A number field: ASCII octal digits between spaces and NULs, or GNU's base-256, which may be < 0.

    Nothing at all is 0. Raises ``ValueError``.
    """
    digits = field.strip(b" \0")
    if digits.isdigit():  # of bytes: ASCII only
        return int(digits, 8)
    if not digits:
        return 0
    if field[0] not in (0x80, 0xFF):
        raise ValueError(field)
    return int.from_bytes(field[1:], "big") - (1 << 8 * (len(field) - 1) if field[0] == 0xFF else 0)


def sum_is_common(block: bytes) -> bool:
    """Whether the checksum is right and written in the common way: six digits. False is no verdict."""
    digits = block[148:154]
    try:
        # As below, but at once: 512 ASCII bytes sum to 65024 at most.
        return (
            block.isascii()
            and digits.isdigit()
            and (zlib.adler32(block) & 0xFFFF) + 255 - sum(block[148:156]) == int(digits, 8)
        )
    except ValueError:
        return False


def sum_matches(block: bytes, expected: int) -> bool:
    """Whether ``expected`` is the checksum of ``block``, of unsigned characters or of signed ones."""
    # The low half of Adler-32 is 1 + the sum of the bytes modulo 65521, and 256 bytes sum to 65280 at most.
    # POSIX counts the checksum field as eight spaces.
    plain = block[:148] + b"        " + block[156:]
    total = (zlib.adler32(plain[:256]) & 0xFFFF) + (zlib.adler32(plain[256:]) & 0xFFFF) - 2
    if total == expected:
        return True
    # Some historic writers summed signed characters; POSIX tells readers to expect both.
    return total - 256 * sum(byte > 127 for byte in plain) == expected


def is_misplaced_prefix(field: bytes) -> bool:
    """Go before 1.8 wrote a ustar prefix into GNU headers, over the access and change times. Those times
    are octal or base-256; a path is neither."""
    times = field[:24]
    return (
        not times[0] & 0x80
        and not times.replace(b" ", b"").replace(b"\0", b"").isdigit()
        and field.rstrip(b"\0").isascii()
    )
