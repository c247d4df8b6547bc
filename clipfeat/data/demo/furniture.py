"""Furniture of the demo rooms, built of boxes. Each maker draws its own sizes from the generator."""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

SCANNET200_IDS = {
    "wall": 1, "chair": 2, "floor": 3, "table": 4, "door": 5, "couch": 6, "cabinet": 7, "shelf": 8, "desk": 9,
    "bed": 11, "pillow": 13, "picture": 15, "window": 16, "bookshelf": 18, "monitor": 19, "book": 22, "armchair": 23,
    "coffee table": 24, "box": 26, "refrigerator": 27, "lamp": 28, "tv": 33, "nightstand": 34, "dresser": 36,
    "stool": 38, "cushion": 39, "plant": 40, "ceiling": 41, "keyboard": 46, "tv stand": 51, "whiteboard": 52,
    "blanket": 54, "trash can": 56, "mat": 140, "poster": 1188,
}  # fmt: skip
"""The ids of ScanNet200 that the rooms use."""


class Part(NamedTuple):
    """A box of a piece of furniture. Origin: the middle of its footprint on the floor; y points to its back.

    Parts of one furniture with the same class and group are one instance.
    """

    name: str
    texture: str
    low: tuple[float, float, float]
    high: tuple[float, float, float]
    group: int = 0
    fitted: bool = False


class Furniture(NamedTuple):
    """Parts, and the (width, depth, height) in metres that they take up."""

    parts: list[Part]
    size: tuple[float, float, float]


def _legs(name: str, texture: str, size: tuple[float, float], top: float, thick: float) -> Iterator[Part]:
    for sx in (-1, 1):
        for sy in (-1, 1):
            x, y = sx * (size[0] - thick) / 2, sy * (size[1] - thick) / 2
            yield Part(name, texture, (x - thick / 2, y - thick / 2, 0), (x + thick / 2, y + thick / 2, top))


def _bed(rng: np.random.Generator) -> Furniture:
    w, d = rng.uniform(1.35, 1.6), 2.0
    x, y = w / 2, d / 2
    return Furniture(
        [
            Part("bed", "wood1", (-x, y - 0.06, 0), (x, y, 0.95)),
            Part("bed", "wood1", (-x, -y, 0.08), (x, y - 0.06, 0.3)),
            Part("bed", "linen", (-x + 0.03, -y + 0.03, 0.3), (x - 0.03, y - 0.06, 0.5)),
            Part("blanket", "fabric1", (-x - 0.01, -y - 0.01, 0.2), (x + 0.01, y - 0.75, 0.53)),
            Part("blanket", "linen2", (-x - 0.01, y - 0.75, 0.28), (x + 0.01, y - 0.6, 0.54)),
            Part("pillow", "fabric2", (-x + 0.1, y - 0.5, 0.5), (-0.06, y - 0.12, 0.62)),
            Part("pillow", "linen3", (0.06, y - 0.5, 0.5), (x - 0.1, y - 0.12, 0.62), 1),
        ],
        (w, d, 0.95),
    )


def _seat(name: str, texture: str, w: float) -> Furniture:
    """A couch, or an armchair if it is narrow."""
    d, x, y = 0.85, w / 2, 0.425
    parts = [
        Part(name, texture, (-x, -y, 0.06), (x, y, 0.3)),
        Part(name, texture, (-x, y - 0.2, 0.3), (x, y, 0.82)),
        Part(name, texture, (-x, -y, 0.3), (-x + 0.16, y - 0.2, 0.58)),
        Part(name, texture, (x - 0.16, -y, 0.3), (x, y - 0.2, 0.58)),
    ]
    count = max(1, round((w - 0.32) / 0.7))
    edges = np.linspace(-x + 0.16, x - 0.16, count + 1)
    for left, right in pairwise(edges.tolist()):
        parts.append(Part(name, texture, (left + 0.008, -y - 0.02, 0.3), (right - 0.008, y - 0.2, 0.44)))
    for side in range(min(count, 2)):
        left = (-x + 0.2, x - 0.62)[side] if count > 1 else -0.2
        parts.append(Part("cushion", f"fabric{3 + side}", (left, y - 0.36, 0.44), (left + 0.42, y - 0.2, 0.82), side))
    return Furniture(parts, (w, d, 0.82))


def _couch(rng: np.random.Generator) -> Furniture:
    return _seat("couch", "fabric5", rng.uniform(1.7, 2.1))


def _armchair(rng: np.random.Generator) -> Furniture:
    return _seat("armchair", "fabric6", rng.uniform(0.85, 0.95))


def _chair(rng: np.random.Generator) -> Furniture:
    wood, cloth = "wood2", f"fabric{rng.integers(7, 9)}"
    parts = [
        *_legs("chair", wood, (0.42, 0.42), 0.43, 0.035),
        Part("chair", cloth, (-0.22, -0.22, 0.43), (0.22, 0.22, 0.48)),
        Part("chair", wood, (-0.21, 0.175, 0.48), (-0.175, 0.21, 0.9)),
        Part("chair", wood, (0.175, 0.175, 0.48), (0.21, 0.21, 0.9)),
        Part("chair", cloth, (-0.175, 0.18, 0.58), (0.175, 0.205, 0.88)),
    ]
    return Furniture(parts, (0.46, 0.46, 0.9))


def _table(rng: np.random.Generator) -> Furniture:
    w, d = rng.uniform(1.1, 1.4), rng.uniform(0.7, 0.8)
    x, y = rng.uniform(-0.3, 0.1), rng.uniform(-0.2, 0.0)
    parts = [
        *_legs("table", "wood3", (w - 0.06, d - 0.06), 0.7, 0.06),
        Part("table", "wood3", (-w / 2, -d / 2, 0.7), (w / 2, d / 2, 0.74)),
        Part("book", "fabric9", (x, y, 0.74), (x + 0.22, y + 0.3, 0.78)),
        Part("book", "poster", (x + 0.02, y + 0.02, 0.78), (x + 0.2, y + 0.27, 0.805), 1, fitted=True),
        Part("plant", "terracotta", (w / 2 - 0.4, -0.06, 0.74), (w / 2 - 0.28, 0.06, 0.86)),
        Part("plant", "foliage", (w / 2 - 0.43, -0.09, 0.86), (w / 2 - 0.25, 0.09, 1.04)),
    ]
    return Furniture(parts, (w, d, 1.04))


def _coffee_table(rng: np.random.Generator) -> Furniture:
    w, d = rng.uniform(0.9, 1.1), 0.55
    parts = [
        *_legs("coffee table", "wood3", (w, d), 0.38, 0.05),
        Part("coffee table", "wood3", (-w / 2, -d / 2, 0.38), (w / 2, d / 2, 0.43)),
        Part("coffee table", "wood3", (-w / 2 + 0.05, -d / 2 + 0.05, 0.14), (w / 2 - 0.05, d / 2 - 0.05, 0.16)),
        Part("book", "poster", (-0.3, -0.12, 0.43), (-0.08, 0.18, 0.46), fitted=True),
        Part("box", "fabric9", (0.1, -0.1, 0.43), (0.32, 0.08, 0.55)),
    ]
    return Furniture(parts, (w, d, 0.55))


def _desk(rng: np.random.Generator) -> Furniture:
    w, d = rng.uniform(1.2, 1.5), 0.7
    x, y = w / 2, d / 2
    parts = [
        Part("desk", "wood4", (-x, -y, 0.71), (x, y, 0.75)),
        Part("desk", "wood4", (-x, -y + 0.03, 0), (-x + 0.04, y - 0.03, 0.71)),
        Part("desk", "white", (x - 0.42, -y + 0.03, 0), (x - 0.02, y - 0.03, 0.71)),
        *(
            Part("desk", "white2", (x - 0.41, -y + 0.01, z), (x - 0.03, -y + 0.03, z + 0.19))
            for z in (0.06, 0.275, 0.49)
        ),
        Part("monitor", "black", (-0.13, y - 0.28, 0.75), (0.13, y - 0.1, 0.765)),
        Part("monitor", "black", (-0.03, y - 0.19, 0.765), (0.03, y - 0.16, 0.9)),
        Part("monitor", "black", (-0.3, y - 0.22, 0.86), (0.3, y - 0.19, 1.22)),
        Part("monitor", "screen", (-0.285, y - 0.225, 0.875), (0.285, y - 0.22, 1.205), fitted=True),
        Part("keyboard", "keyboard", (-0.22, -0.22, 0.75), (0.22, -0.07, 0.77), fitted=True),
        Part("book", "fabric9", (-x + 0.08, -0.15, 0.75), (-x + 0.28, 0.12, 0.82)),
    ]
    return Furniture([*parts, *_shifted(_chair(rng), 0.0, -y - 0.1, math.pi)], (w, d + 0.75, 1.22))


def _shifted(furniture: Furniture, x: float, y: float, turn: float) -> Iterator[Part]:
    """The parts moved, and turned by 0 or π."""
    sign = -1 if turn else 1
    for part in furniture.parts:
        corners = np.array([part.low, part.high]) * (sign, sign, 1) + (x, y, 0)
        yield part._replace(low=tuple(corners.min(axis=0).tolist()), high=tuple(corners.max(axis=0).tolist()))


def _bookshelf(rng: np.random.Generator) -> Furniture:
    w, d, h = rng.uniform(0.8, 1.1), 0.3, rng.uniform(1.6, 1.95)
    x, y, count = w / 2, d / 2, 5
    levels = np.linspace(0.06, h - 0.03, count + 1)
    parts = [
        Part("bookshelf", "wood5", (-x, -y, 0), (-x + 0.03, y, h)),
        Part("bookshelf", "wood5", (x - 0.03, -y, 0), (x, y, h)),
        Part("bookshelf", "wood5", (-x + 0.03, y - 0.02, 0), (x - 0.03, y, h)),
    ]
    for i, z in enumerate(levels):
        parts.append(Part("bookshelf", "wood5", (-x + 0.03, -y, z - 0.025), (x - 0.03, y - 0.02, z)))
        if i < count:
            end, top = rng.uniform(0.0, x - 0.05), z + rng.uniform(0.65, 0.85) * (levels[1] - levels[0])
            parts.append(Part("book", f"books{i}", (-x + 0.035, -y + 0.05, z), (end, y - 0.03, top), i, fitted=True))
            if x - end > 0.3:
                box = (end + 0.06, -y + 0.05, z), (end + 0.24, y - 0.06, z + 0.15)
                parts.append(Part("box", f"fabric{i}", *box, i))
    return Furniture(parts, (w, d, h))


def _fronts(name: str, size: tuple[float, float, float], columns: int, rows: int, texture: str) -> Furniture:
    """A closed body with doors or drawers and handles."""
    w, d, h = size
    x, y = w / 2, d / 2
    parts = [
        Part(name, texture, (-x, -y + 0.02, 0.05), (x, y, h)),
        Part(name, "black", (-x + 0.03, -y + 0.05, 0), (x - 0.03, y, 0.05)),
    ]
    for column in range(columns):
        for row in range(rows):
            left, right = -x + w * column / columns + 0.008, -x + w * (column + 1) / columns - 0.008
            low, high = 0.06 + (h - 0.07) * row / rows, 0.05 + (h - 0.07) * (row + 1) / rows - 0.008
            parts.append(Part(name, texture, (left, -y, low), (right, -y + 0.02, high)))
            if rows > 1:
                middle = (left + right) / 2
                handle = (middle - 0.07, -y - 0.02, (low + high) / 2), (middle + 0.07, -y, (low + high) / 2 + 0.015)
            else:
                at = right - 0.05 if column % 2 == 0 else left + 0.035
                handle = (at, -y - 0.02, h * 0.5), (at + 0.015, -y, h * 0.5 + 0.16)
            parts.append(Part(name, "metal", *handle))
    return Furniture(parts, size)


def _cabinet(rng: np.random.Generator) -> Furniture:
    return _fronts("cabinet", (rng.uniform(0.9, 1.2), 0.5, rng.uniform(1.5, 1.9)), 2, 1, "wood6")


def _dresser(rng: np.random.Generator) -> Furniture:
    w, h = rng.uniform(1.0, 1.3), rng.uniform(0.75, 0.85)
    body = _fronts("dresser", (w, 0.45, h), 2, 3, "wood7")
    lamp = [
        Part("lamp", "terracotta", (-0.06, -0.06, h), (0.06, 0.06, h + 0.18)),
        Part("lamp", "shade", (-0.13, -0.13, h + 0.18), (0.13, 0.13, h + 0.4)),
    ]
    return Furniture([*body.parts, *lamp], (w, 0.45, h + 0.4))


def _nightstand(rng: np.random.Generator) -> Furniture:
    w, h = rng.uniform(0.4, 0.5), rng.uniform(0.5, 0.6)
    body = _fronts("nightstand", (w, 0.4, h), 1, 2, "wood1")
    lamp = [
        Part("lamp", "metal", (-0.02, 0.0, h), (0.02, 0.04, h + 0.22)),
        Part("lamp", "shade", (-0.1, -0.08, h + 0.2), (0.1, 0.12, h + 0.4)),
    ]
    return Furniture([*body.parts, *lamp], (w, 0.4, h + 0.4))


def _tv_stand(rng: np.random.Generator) -> Furniture:
    w = rng.uniform(1.3, 1.6)
    body = _fronts("tv stand", (w, 0.42, 0.48), 3, 1, "wood8")
    tv = [
        Part("tv", "black", (-0.2, -0.1, 0.48), (0.2, 0.1, 0.5)),
        Part("tv", "black", (-0.55, -0.02, 0.5), (0.55, 0.03, 1.14)),
        Part("tv", "painting9", (-0.535, -0.025, 0.515), (0.535, -0.02, 1.125), fitted=True),
    ]
    return Furniture([*body.parts, *tv], (w, 0.42, 1.14))


def _refrigerator(rng: np.random.Generator) -> Furniture:
    h = rng.uniform(1.6, 1.8)
    parts = [
        Part("refrigerator", "white", (-0.3, -0.28, 0.03), (0.3, 0.3, h)),
        Part("refrigerator", "metal", (-0.3, -0.31, 0.05), (0.3, -0.28, h * 0.62)),
        Part("refrigerator", "metal", (-0.3, -0.31, h * 0.62 + 0.015), (0.3, -0.28, h)),
        Part("refrigerator", "black", (0.22, -0.34, h * 0.35), (0.245, -0.31, h * 0.6)),
        Part("refrigerator", "black", (0.22, -0.34, h * 0.65), (0.245, -0.31, h * 0.8)),
        Part("poster", "poster2", (-0.2, -0.314, h * 0.7), (0.05, -0.31, h * 0.9), fitted=True),
    ]
    return Furniture(parts, (0.6, 0.62, h))


def _plant(rng: np.random.Generator) -> Furniture:
    h = rng.uniform(0.8, 1.1)
    parts = [
        Part("plant", "terracotta", (-0.15, -0.15, 0), (0.15, 0.15, 0.3)),
        Part("plant", "wood1", (-0.02, -0.02, 0.3), (0.02, 0.02, 0.6)),
        Part("plant", "foliage", (-0.16, -0.2, 0.45), (0.2, 0.16, h - 0.15)),
        Part("plant", "foliage2", (-0.2, -0.1, 0.6), (0.08, 0.2, h)),
    ]
    return Furniture(parts, (0.42, 0.42, h))


def _trash_can(rng: np.random.Generator) -> Furniture:
    h = rng.uniform(0.35, 0.5)
    parts = [
        Part("trash can", "metal", (-0.14, -0.14, 0), (0.14, 0.14, h)),
        Part("trash can", "black", (-0.15, -0.15, h), (0.15, 0.15, h + 0.03)),
    ]
    return Furniture(parts, (0.3, 0.3, h))


def _boxes(rng: np.random.Generator) -> Furniture:
    w, h = rng.uniform(0.4, 0.5), rng.uniform(0.3, 0.4)
    parts = [
        Part("box", "cardboard", (-w / 2, -0.2, 0), (w / 2, 0.2, h)),
        Part("box", "cardboard2", (-w / 2 + 0.05, -0.15, h), (w / 2 - 0.09, 0.16, h + 0.22), 1),
    ]
    return Furniture(parts, (w, 0.4, h + 0.22))


def _stool(rng: np.random.Generator) -> Furniture:
    h = rng.uniform(0.4, 0.5)
    cushion = Part("stool", f"fabric{rng.integers(2, 6)}", (-0.2, -0.2, h - 0.06), (0.2, 0.2, h))
    return Furniture([*_legs("stool", "wood2", (0.36, 0.36), h - 0.06, 0.04), cushion], (0.4, 0.4, h))


def _shelf(rng: np.random.Generator) -> Furniture:
    """A board on the wall with books."""
    w, z = rng.uniform(0.8, 1.1), 1.5
    parts = [
        Part("shelf", "wood5", (-w / 2, -0.22, z), (w / 2, 0, z + 0.03)),
        Part("book", "books8", (-w / 2 + 0.05, -0.19, z + 0.03), (0.1, -0.02, z + 0.27), fitted=True),
        Part("plant", "terracotta", (w / 2 - 0.2, -0.17, z + 0.03), (w / 2 - 0.08, -0.05, z + 0.14)),
        Part("plant", "foliage", (w / 2 - 0.24, -0.2, z + 0.14), (w / 2 - 0.04, -0.01, z + 0.3)),
    ]
    return Furniture(parts, (w, 0.22, 0.3))


def framed(name: str, texture: str, frame: str, size: tuple[float, float], z: float) -> Furniture:
    """A flat thing in a frame on the wall, its lower edge at height ``z``."""
    x, top = size[0] / 2, z + size[1]
    parts = [
        Part(name, frame, (-x, -0.03, z), (x, 0, top)),
        Part(name, texture, (-x + 0.04, -0.034, z + 0.04), (x - 0.04, -0.03, top - 0.04), fitted=True),
    ]
    return Furniture(parts, (size[0], 0.04, size[1]))


def _door(rng: np.random.Generator) -> Furniture:
    wood = f"wood{rng.integers(3, 9)}"
    parts = [
        Part("door", "white", (-0.5, -0.03, 0), (-0.43, 0, 2.08)),
        Part("door", "white", (0.43, -0.03, 0), (0.5, 0, 2.08)),
        Part("door", "white", (-0.43, -0.03, 2.01), (0.43, 0, 2.08)),
        Part("door", wood, (-0.43, -0.02, 0), (0.43, 0, 2.01)),
        *(Part("door", wood, (-0.32, -0.032, z), (0.32, -0.02, z + 0.75)) for z in (0.2, 1.1)),
        Part("door", "metal", (0.34, -0.08, 0.98), (0.41, -0.02, 1.01)),
    ]
    return Furniture(parts, (1.0, 0.6, 2.1))  # nothing stands in front of it


MAKERS: dict[str, Callable[[np.random.Generator], Furniture]] = {
    "armchair": _armchair,
    "bed": _bed,
    "bookshelf": _bookshelf,
    "boxes": _boxes,
    "cabinet": _cabinet,
    "chair": _chair,
    "coffee table": _coffee_table,
    "couch": _couch,
    "desk": _desk,
    "door": _door,
    "dresser": _dresser,
    "nightstand": _nightstand,
    "plant": _plant,
    "refrigerator": _refrigerator,
    "shelf": _shelf,
    "stool": _stool,
    "table": _table,
    "trash can": _trash_can,
    "tv stand": _tv_stand,
}
"""A piece of furniture by its name."""
