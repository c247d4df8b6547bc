"""Data that Apple's LZFSE packed, as Record3D's archives hold it.

Source of the format: lzfse_internal.h of Apple's reference implementation (BSD licence): blocks one after another, each
with a magic word and the number of bytes that it becomes.
"""

import struct
from typing import Any

from clipfeat.errors import ConfigError

_END = b"bvx$"

_HEADS = {b"bvx-": "<4xI", b"bvxn": "<4xII", b"bvx1": "<4xII", b"bvx2": "<4xIQQQ"}
"""By magic: stored, LZVN, LZFSE, LZFSE with a packed head."""


def import_lzfse() -> Any:
    """The package lzfse.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        import lzfse
    except ImportError as error:
        raise ConfigError(
            "data=record3d needs the package lzfse for the depth in .r3d archives: pip install 'clipfeat[record3d]'"
        ) from error
    return lzfse


def unpack(packed: bytes, expected: int) -> bytes:
    """Unpacks data of a known size; no more memory is taken than that, whatever the blocks say.

    Args:
        packed: the blocks.
        expected: bytes that they become.

    Raises:
        ValueError: If they are damaged, or become another number of bytes; the message says what is wrong.
        ConfigError: If the package lzfse is missing.
    """
    lzfse = import_lzfse()
    if (size := _plain_size(packed)) != expected:
        raise ValueError(f"LZFSE data of {size} bytes, expected {expected}")
    try:
        plain: bytes = lzfse.decompress(packed)
    except lzfse.error as error:
        raise ValueError("damaged LZFSE data") from error
    if len(plain) != expected:
        raise ValueError(f"{len(plain)} bytes, expected {expected}")
    return plain


def _plain_size(packed: bytes) -> int:
    """Bytes that the blocks say they become, up to the first that is damaged or cut off."""
    at = total = 0
    while (magic := packed[at : at + 4]) != _END:
        head = _HEADS.get(magic)
        if head is None or len(packed) < at + struct.calcsize(head):
            raise ValueError(f"damaged or cut off LZFSE data, after {total} bytes")
        plain, *rest = struct.unpack_from(head, packed, at)
        total += plain
        if magic == b"bvx-":
            at += 8 + plain
        elif magic == b"bvx2":
            # 20 bits each at 20 and at 40: the bytes of the literals and of the matches; then those of the head itself.
            at += (rest[2] & 0xFFFFFFFF) + (rest[0] >> 20 & 0xFFFFF) + (rest[1] >> 40 & 0xFFFFF)
        elif magic == b"bvxn":
            at += 12 + rest[0]
        else:
            raise ValueError("LZFSE data of a kind that no encoder writes")
    return total
