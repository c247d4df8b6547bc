"""Whether files are whole that hold no features of frames: those of all commands that come after an extraction.

What a format has of checksums is computed (npz, pt, png, gz); of others it is held against the file's length what the
file claims of itself (ply, pcd, npy, glb, safetensors), and pictures are decoded. Of texts only the end and the columns
can tell.
"""

import csv
import gzip
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image, ImageSequence
from safetensors.torch import load_file

from clipfeat.data.png import png_damage
from clipfeat.output.files import damage_named
from clipfeat.output.glb import read_glb
from clipfeat.system.arrays import read_npy, read_npz
from clipfeat.system.pcd import read_pcd
from clipfeat.system.ply_reader import coordinates, read_ply, triangles

_BLOCK = 1 << 20


def read_whole(path: Path) -> None:
    """Reads a file of a kind that ``READERS`` knows.

    Raises:
        DataError: If it is damaged.
    """
    with damage_named(path, f"{path.suffix[1:]} file"):
        READERS[path.suffix](path)


def _ply(path: Path) -> None:
    elements = read_ply(path)
    coordinates(elements)
    triangles(elements)


def _zip(path: Path) -> None:
    """A file may be larger than the memory: its members are read in pieces."""
    with zipfile.ZipFile(path) as archive:
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"the checksum of {damaged} does not fit")


def _npz(path: Path) -> None:
    _zip(path)
    json.loads(str(read_npz(path, ["meta"])["meta"]))


def _pt(path: Path) -> None:
    _zip(path)  # torch looks at no checksum
    torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def _gz(path: Path) -> None:
    """Its checksum alone: what is inside is a pickle, and none is loaded."""
    with gzip.open(path) as file:
        if not file.read(_BLOCK):
            raise ValueError("it is empty")
        while file.read(_BLOCK):
            pass


def _png(path: Path) -> None:
    content = path.read_bytes()
    if (damage := png_damage(content)) is not None:
        raise ValueError(damage)
    _decode(content, "PNG")


def _gif(path: Path) -> None:
    content = path.read_bytes()
    if not content.endswith(b";"):
        raise ValueError("its end is not there")
    _decode(content, "GIF")


def _decode(content: bytes, kind: str) -> None:
    with Image.open(io.BytesIO(content), formats=(kind,)) as image:
        for picture in ImageSequence.Iterator(image):
            picture.load()


def _json(path: Path) -> None:
    json.loads(path.read_text(encoding="utf-8"))


def _text(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if not text.endswith("\n"):
        raise ValueError("it is empty, or its last line is cut off")
    return text


def _csv(path: Path) -> None:
    rows = list(csv.reader(io.StringIO(_text(path)), strict=True))
    if len({len(row) for row in rows}) > 1:
        raise ValueError("its rows are not all as long")


READERS: dict[str, Callable[[Path], object]] = {
    ".ply": _ply, ".pcd": read_pcd, ".glb": read_glb, ".npy": read_npy, ".npz": _npz, ".pt": _pt, ".gz": _gz,
    ".safetensors": load_file, ".png": _png, ".gif": _gif, ".json": _json, ".md": _text, ".csv": _csv,
}  # fmt: skip
"""What reads a file whose name ends so; whatever it raises means that the file is damaged."""
