"""The names by which the field knows its lenses, and the order of their numbers.

Source: COLMAP's src/colmap/sensor/models.h (names and orders), OpenCV's calib3d (k1 k2 p1 p2 [k3 [k4 k5 k6]]).
"""

from collections.abc import Sequence

from clipfeat.types import Distortion

LENSES: dict[str, tuple[str, ...]] = {
    "SIMPLE_PINHOLE": ("",),
    "PINHOLE": ("",),
    "SIMPLE_RADIAL": ("k1",),
    "RADIAL": ("k1 k2",),
    "OPENCV": ("k1 k2 p1 p2", "k1 k2 p1 p2 k3", "k1 k2 p1 p2 k3 d1 d2 d3"),
    "FULL_OPENCV": ("k1 k2 p1 p2 k3 d1 d2 d3",),
    "SIMPLE_RADIAL_FISHEYE": ("k1",),
    "RADIAL_FISHEYE": ("k1 k2",),
    "OPENCV_FISHEYE": ("k1 k2 k3 k4",),
    "SIMPLE_FISHEYE": ("",),
    "FISHEYE": ("",),
    "THIN_PRISM_FISHEYE": ("k1 k2 p1 p2 k3 k4 s1 s2",),
}
"""Of each model its distortion numbers, in their order; OpenCV's may have fewer. d1 to d3 are OpenCV's k4 to k6."""


def distortion_of(model: str, numbers: Sequence[float]) -> Distortion | None:
    """The lens of a model and its numbers, without those of K; None for a pinhole.

    Raises:
        ValueError: If there is no such model, or it has more or fewer numbers; says what was expected.
    """
    name = model.upper()
    if name not in LENSES:
        raise ValueError(f"camera model {model[:40]} is not known, expected one of {', '.join(LENSES)}")
    orders = [order.split() for order in LENSES[name]]
    order = next((order for order in orders if len(order) == len(numbers)), None)
    if order is None:
        expected = " or ".join(f"{len(order)} ({' '.join(order)})" if order else "none" for order in orders)
        raise ValueError(f"{len(numbers)} numbers of distortion for {name}, expected {expected}")
    said = dict(zip(order, map(float, numbers), strict=True))
    k1, k2, k3, k4, d1, d2, d3, p1, p2, s1, s2 = (
        said.get(name, 0.0) for name in ("k1", "k2", "k3", "k4", "d1", "d2", "d3", "p1", "p2", "s1", "s2")
    )
    lens = Distortion("FISHEYE" in name, (k1, k2, k3, k4), (d1, d2, d3), (p1, p2), (s1, s2))
    return lens if lens.bends else None
