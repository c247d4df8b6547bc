"""Point clouds of the Point Cloud Library, PCD version 0.7: what Open3D and OpenLex3D write and read.

The format: https://pointclouds.org/documentation/tutorials/pcd_file_format.html
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipfeat.system.atomic import atomic_file

_TYPES = {"F": "f", "I": "i", "U": "u"}


def write_pcd(path: Path, xyz: NDArray[np.floating], rgb: NDArray[np.uint8]) -> int:
    """Writes points (N, 3) in metres with colours (N, 3) as a binary PCD, and returns its bytes.

    Coordinates become float32. A colour is a float32 whose bits are ``r << 16 | g << 8 | b``, as PCL has it.

    Raises:
        OutputError: If it can't be written.
    """
    rows = np.zeros(len(xyz), [("xyz", "<f4", 3), ("rgb", "<u4")])
    red, green, blue = rgb.astype(np.uint32).T
    rows["xyz"], rows["rgb"] = xyz, red << 16 | green << 8 | blue
    lines = (
        "# .PCD v0.7 - Point Cloud Data file format", "VERSION 0.7", "FIELDS x y z rgb", "SIZE 4 4 4 4",
        "TYPE F F F F", "COUNT 1 1 1 1", f"WIDTH {len(rows)}", "HEIGHT 1", "VIEWPOINT 0 0 0 1 0 0 0",
        f"POINTS {len(rows)}", "DATA binary", "",
    )  # fmt: skip
    with atomic_file(path) as file:
        file.write("\n".join(lines).encode() + rows.tobytes())
    return path.stat().st_size


def read_pcd(path: Path) -> NDArray[np.float64]:
    """The coordinates (N, 3) of a PCD, ascii or binary.

    Raises:
        OSError: If the file can't be read.
        ValueError: If it is no PCD, damaged, or compressed.
    """
    content = path.read_bytes()
    header: dict[str, list[str]] = {}
    begin = 0
    while "DATA" not in header:
        end = content.find(b"\n", begin)
        if end < 0 or begin > 10_000:
            raise ValueError("no PCD file: no line of DATA in its header")
        words = content[begin:end].decode("ascii", "replace").split()
        begin = end + 1
        if words and not words[0].startswith("#"):
            header[words[0]] = words[1:]
    try:
        names, count = header["FIELDS"], int(header["POINTS"][0])
        repeats = [int(one) for one in header.get("COUNT", ["1"] * len(names))]
        formats = [f"<{_TYPES[kind]}{size}" for kind, size in zip(header["TYPE"], header["SIZE"], strict=True)]
        how = header["DATA"][0]
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"no PCD file: its header lacks {error}") from error
    if len({len(names), len(repeats), len(formats)}) > 1 or not {"x", "y", "z"} <= set(names):
        raise ValueError(f"its fields are {' '.join(names)}, expected x, y and z among them")
    if how == "ascii":
        places = np.cumsum([0, *repeats])
        table = np.array(content[begin:].split(), np.float64).reshape(count, -1)
        return np.stack([table[:, places[names.index(name)]] for name in "xyz"], 1)
    if how != "binary":
        raise ValueError(f"its data are {how}, which is not read here; write it as ascii or binary")
    # Names may be double (padding is called _), so columns are told by their place.
    fields = [(f"{i}{n}", form, (r,)) for i, (n, form, r) in enumerate(zip(names, formats, repeats, strict=True))]
    kind = np.dtype(fields)
    if len(content) - begin < count * kind.itemsize:
        raise ValueError(f"cut off: {count} points of {kind.itemsize} bytes were expected")
    rows = np.frombuffer(content, kind, count, begin)
    return np.stack([rows[f"{names.index(name)}{name}"][:, 0] for name in "xyz"], 1).astype(np.float64)
