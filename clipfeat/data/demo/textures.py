"""Procedural textures of the demo rooms: each is a function of a random generator that paints one square picture."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

Image = NDArray[np.float32]

TEXTURE_SIZE = 512
"""Side of every texture in texels; a power of two, so that the pyramid ends at one texel."""

_LEVEL_SIZES = [TEXTURE_SIZE >> level for level in range(TEXTURE_SIZE.bit_length())]
_LEVEL_OFFSETS = np.cumsum([0] + [n * n for n in _LEVEL_SIZES[:-1]]).astype(np.int32)

_WOODS = ("a8784a", "7a4f2c", "c79a63", "5b3a26", "b98d5f")
_FABRICS = ("8c3b3b", "31507a", "4c6b4f", "b58a3c", "7d6a8f", "5a6470", "a8553a", "2f6f73", "b9a58c")
_PALE = ("e9dfca", "d5e0e4", "dfe6d2", "ead7d0", "dcd8e6", "e8e4da")


@dataclass(frozen=True, eq=False)
class Texture:
    """A periodic picture and its half, quarter, ... size versions, so that far surfaces do not flicker.

    Attributes:
        texels: (n,) uint32, all levels one after the other, row by row, each texel as the four bytes R, G, B, 0.
    """

    texels: NDArray[np.uint32]

    @classmethod
    def from_image(cls, image: Image) -> "Texture":
        """Builds the pyramid of a (512, 512, 3) float picture with values in [0, 1]."""
        level = np.zeros((TEXTURE_SIZE, TEXTURE_SIZE, 4), np.uint8)
        level[..., :3] = np.clip(image * np.float32(255) + np.float32(0.5), 0, 255)
        levels = []
        for size in _LEVEL_SIZES:
            levels.append(level.reshape(-1, 4).view(np.uint32)[:, 0])
            if size > 1:
                wide = level.astype(np.uint16)
                rows = wide[::2] + wide[1::2]
                level = ((rows[:, ::2] + rows[:, 1::2] + 2) >> 2).astype(np.uint8)
        return cls(np.concatenate(levels))

    def sample(self, p: NDArray[np.float32], q: NDArray[np.float32], lod: NDArray[np.float32]) -> NDArray[np.uint8]:
        """The colours at texture coordinates.

        Args:
            p: (N,) to the right, in repeats of the texture.
            q: (N,) upwards, in repeats of the texture.
            lod: (N,) level of the pyramid: log2 of the texels that a sample covers. It is rounded and clipped.

        Returns:
            (N, 3) uint8 RGB.
        """
        level = np.clip(lod + 0.5, 0, len(_LEVEL_SIZES) - 1).astype(np.int32)
        size = TEXTURE_SIZE >> level
        column = np.floor(p * size).astype(np.int32) & (size - 1)
        row = (size - 1) - (np.floor(q * size).astype(np.int32) & (size - 1))
        packed = self.texels.take(_LEVEL_OFFSETS.take(level) + row * size + column)
        return packed.view(np.uint8).reshape(-1, 4)[:, :3]


class TextureSet:
    """The textures of one scene, painted when first asked for.

    A name is a kind and an optional number: ``fabric`` and ``fabric2`` are two different fabrics. What a texture looks
    like depends on its name and the seeds alone, not on what else the scene holds.
    """

    def __init__(self, *seeds: int) -> None:
        self._seeds = seeds
        self._textures: dict[str, Texture] = {}

    def __getitem__(self, name: str) -> Texture:
        if name not in self._textures:
            rng = np.random.default_rng([*self._seeds, zlib.crc32(name.encode())])
            self._textures[name] = Texture.from_image(_PAINTERS[name.rstrip("0123456789")](rng))
        return self._textures[name]


# Helpers. Row 0 is the top; U runs to the right, V downwards, both in (0, 1).
_U = ((np.arange(TEXTURE_SIZE, dtype=np.float32) + 0.5) / TEXTURE_SIZE)[None, :]
_V = _U.T


def _rgb(color: str) -> NDArray[np.float32]:
    return np.array([int(color[i : i + 2], 16) / 255 for i in (0, 2, 4)], np.float32)


def _pick(rng: np.random.Generator, colors: tuple[str, ...]) -> NDArray[np.float32]:
    return _rgb(colors[rng.integers(len(colors))])


def _mix(
    first: NDArray[np.float32], second: NDArray[np.float32], share: NDArray[np.floating] | NDArray[np.bool_]
) -> Image:
    weight = np.broadcast_to(share, (TEXTURE_SIZE, TEXTURE_SIZE))[..., None].astype(np.float32)
    return first * (1 - weight) + second * weight


def _plain(color: NDArray[np.float32], brightness: NDArray[np.floating] | float = 1.0) -> Image:
    brightness = np.broadcast_to(np.asarray(brightness, np.float32), (TEXTURE_SIZE, TEXTURE_SIZE))
    return color * brightness[..., None]


def _noise(rng: np.random.Generator, beta: float, stretch_u: float = 1.0, stretch_v: float = 1.0) -> Image:
    """(512, 512) periodic noise of mean 0 and deviation 1, with amplitudes that fall as 1/frequency^beta."""
    n = TEXTURE_SIZE
    frequency = np.hypot(
        fft.rfftfreq(n, 1 / n)[None, :] * stretch_u, fft.fftfreq(n, 1 / n)[:, None] * stretch_v, dtype=np.float32
    )
    frequency[0, 0] = np.inf
    field = fft.irfft2(fft.rfft2(rng.standard_normal((n, n), np.float32)) * frequency**-beta, s=(n, n))
    return (field / field.std()).astype(np.float32)


def _stripe(x: NDArray[np.floating], low: float, high: float) -> NDArray[np.bool_]:
    return (x >= low) & (x < high)


def _rectangle(image: Image, color: NDArray[np.float32], u0: float, v0: float, u1: float, v1: float) -> None:
    """Paints a rectangle given by shares of the picture, in place."""
    top, bottom, left, right = (int(share * TEXTURE_SIZE) for share in (v0, v1, u0, u1))
    image[top:bottom, left:right] = color


# Painters.
def _wood(rng: np.random.Generator) -> Image:
    grain = np.sin(2 * np.pi * (5 * _V + 0.45 * _noise(rng, 1.9, 3.0, 1.0)))
    return _plain(_pick(rng, _WOODS), 1 + 0.09 * grain + 0.08 * _noise(rng, 0.7, 14.0, 1.0))


def _planks(rng: np.random.Generator) -> Image:
    boards, base = 8, _pick(rng, _WOODS)
    board = np.minimum((_V * boards).astype(int), boards - 1)
    ends = np.abs((_U - rng.random(boards)[board] + 0.5) % 1 - 0.5)
    seam = (np.abs(_V * boards % 1 - 0.5) > 0.485) | (ends < 0.0022)
    tint = 1 + 0.13 * rng.standard_normal(boards)[board]
    grain = 0.07 * np.sin(2 * np.pi * (24 * _V + 0.5 * _noise(rng, 1.8, 4.0, 1.0))) + 0.07 * _noise(rng, 0.7, 14.0, 1.0)
    return _plain(base, np.where(seam, 0.45, tint + grain))


def _tiles(rng: np.random.Generator) -> Image:
    count = 4
    cell_u, cell_v = (_U * count).astype(int), (_V * count).astype(int)
    tint = 1 + 0.05 * rng.standard_normal((count, count))[cell_v, cell_u] + 0.04 * _noise(rng, 1.4)
    grout = (np.abs(_U * count % 1 - 0.5) > 0.482) | (np.abs(_V * count % 1 - 0.5) > 0.482)
    checker = (cell_u + cell_v) % 2 * float(rng.random() < 0.5)
    tiles = _mix(_pick(rng, _PALE) * 0.9, _pick(rng, ("6d7f8a", "8a6a52", "51665a")), checker) * tint[..., None]
    return np.where(grout[..., None], _rgb("8b867c"), tiles)


def _carpet(rng: np.random.Generator) -> Image:
    base = _pick(rng, ("7c8794", "8d7f6d", "6f7f6c", "94827f"))
    return _plain(base, 1 + 0.13 * _noise(rng, 0.2) + 0.05 * _noise(rng, 1.6))


def _plaster(rng: np.random.Generator) -> Image:
    return _plain(_pick(rng, _PALE), 1 + 0.018 * _noise(rng, 0.6) + 0.015 * _noise(rng, 1.8))


def _wallpaper(rng: np.random.Generator) -> Image:
    base, accent = _pick(rng, _PALE), _pick(rng, _FABRICS)
    pale = base * 0.72 + accent * 0.28
    image = _mix(base, pale, _stripe(_U * 6 % 1, 0.25, 0.75))
    image = _mix(image, accent, 0.55 * (np.abs(np.abs(_U * 6 % 1 - 0.5) - 0.25) < 0.02))
    # A diamond with a dot in the middle of each broad stripe.
    du, dv = np.abs(_U * 6 % 1 - 0.5), np.abs(_V * 6 % 1 - 0.5)
    image = _mix(image, accent, 0.6 * ((_stripe(du + 0.55 * dv, 0.13, 0.17)) | (np.hypot(du, dv) < 0.05)))
    return image * (1 + 0.012 * _noise(rng, 0.5))[..., None]


def _brick(rng: np.random.Generator) -> Image:
    rows, columns = 12, 4
    row = (_V * rows).astype(int)
    along = (_U * columns + 0.5 * (row % 2)) % columns
    mortar = (np.abs(_V * rows % 1 - 0.5) > 0.43) | (np.abs(along % 1 - 0.5) > 0.475)
    tint = 1 + 0.1 * rng.standard_normal((rows, columns))[row, along.astype(int)] + 0.07 * _noise(rng, 0.7)
    return np.where(
        mortar[..., None], _plain(_rgb("b3aca0"), 1 + 0.04 * _noise(rng, 0.4)), _plain(_rgb("a9654c"), tint)
    )


def _fabric(rng: np.random.Generator) -> Image:
    base, accent = _pick(rng, _FABRICS), _pick(rng, _FABRICS + _PALE)
    u, v = _U * 8 % 1, _V * 8 % 1
    pattern = (
        lambda: 0 * u + 0 * v,
        lambda: _stripe(v + 0 * u, 0.0, 0.35),
        lambda: 0.5 * _stripe(u, 0.0, 0.4) + 0.5 * _stripe(v, 0.0, 0.4),
        lambda: np.hypot(u - 0.5, v - 0.5) < 0.24,
        lambda: _stripe((v + np.abs(u - 0.5)) % 1, 0.0, 0.3),
    )[rng.integers(5)]()
    weave = 0.05 * np.sin(2 * np.pi * 128 * _U) * np.sin(2 * np.pi * 128 * _V)
    return _mix(base, accent, pattern) * (1 + weave + 0.035 * _noise(rng, 0.3) + 0.03 * _noise(rng, 1.8))[..., None]


def _linen(rng: np.random.Generator) -> Image:
    folds = 0.045 * _noise(rng, 2.2, 1.0, 2.0)
    weave = 0.02 * np.sin(2 * np.pi * 128 * _U) * np.sin(2 * np.pi * 128 * _V)
    return _plain(_pick(rng, ("e6e2d8", "dfe5ea", "ece2dc")), 1 + folds + weave)


def _metal(rng: np.random.Generator) -> Image:
    return _plain(_rgb("9aa0a4"), 1 + 0.04 * _noise(rng, 0.4, 20.0, 1.0))


def _white(rng: np.random.Generator) -> Image:
    return _plain(_rgb("e4e3df"), 1 + 0.012 * _noise(rng, 0.8))


def _black(rng: np.random.Generator) -> Image:
    return _plain(_rgb("26272a"), 1 + 0.06 * _noise(rng, 0.6))


def _cardboard(rng: np.random.Generator) -> Image:
    image = _plain(_rgb("b48a5a"), 1 + 0.02 * np.sin(2 * np.pi * 48 * _U) + 0.03 * _noise(rng, 1.2))
    _rectangle(image, _rgb("d8c8a4"), 0.44, 0.0, 0.56, 1.0)
    return image


def _foliage(rng: np.random.Generator) -> Image:
    return _mix(_rgb("1f3d1c"), _rgb("6fa04a"), np.clip(0.5 + 0.45 * _noise(rng, 0.9), 0, 1))


def _terracotta(rng: np.random.Generator) -> Image:
    return _plain(_rgb("b0603c"), 1 + 0.05 * _noise(rng, 0.8))


def _shade(_: np.random.Generator) -> Image:
    return _plain(_rgb("f3e2b3"), 1.08 - 0.12 * np.abs(_V - 0.5) + 0.03 * np.sin(2 * np.pi * 40 * _U))


# The pictures below are shown once on a face of their own, not repeated.
def _books(rng: np.random.Generator) -> Image:
    image = _plain(_rgb("241a14"))
    left = 0.01
    while left < 0.97:
        right, top = min(left + rng.uniform(0.025, 0.06), 0.99), rng.uniform(0.02, 0.3)
        cover, title = _pick(rng, (*_FABRICS, *_PALE, "20242c")), _pick(rng, (*_PALE, "d9b44a"))
        if rng.random() < 0.93:
            _rectangle(image, cover, left, top, right - 0.003, 1.0)
            band = rng.uniform(top + 0.1, 0.7)
            _rectangle(image, title, left + 0.004, band, right - 0.007, band + rng.uniform(0.04, 0.2))
            _rectangle(image, title, left, 0.9, right - 0.003, 0.92)
        left = right
    return image


def _painting(rng: np.random.Generator) -> Image:
    if rng.random() < 0.4:  # coloured blocks between black lines
        image = _plain(_rgb("f1ece0"))
        cuts = np.sort(rng.uniform(0.1, 0.9, (2, 4)), axis=1)
        for _ in range(6):
            i, j = rng.integers(3, size=2)
            color = _pick(rng, ("c2322c", "2a4f9c", "e3b52e", "24252a", "3f7d5a"))
            _rectangle(image, color, cuts[0, i], cuts[1, j], cuts[0, i + 1], cuts[1, j + 1])
        lines = np.abs(_U[..., None] - cuts[0]).min(-1) + 0 * _V, np.abs(_V[..., None] - cuts[1]).min(-1) + 0 * _U
        image[np.minimum(*lines) < 0.012] = 0.08
        return image
    horizon = rng.uniform(0.45, 0.65)
    image = _mix(_pick(rng, ("4f7fb5", "d98a5a", "7aa3c7")), _rgb("f4e3c4"), np.clip(_V / horizon, 0, 1))
    image = _mix(image, _rgb("fff3d0"), np.hypot(_U - rng.uniform(0.2, 0.8), _V - horizon * 0.5) < 0.08)
    for layer, hue in enumerate(("6f8796", "4a6a58", "2d4a36")):
        phase = rng.random(3)
        hills = sum(0.05 / (k + 1) * np.sin(2 * np.pi * ((k + 1.5) * _U + phase[k])) for k in range(3))
        image = _mix(image, _rgb(hue), horizon + 0.13 * layer + hills < _V)
    return image * (1 + 0.06 * _noise(rng, 0.8))[..., None]


def _poster(rng: np.random.Generator) -> Image:
    image = _plain(_pick(rng, ("f3efe6", "20304a", "c94f3d", "e6c34a")))
    for _ in range(7):
        u, v, radius = rng.uniform(0.15, 0.85), rng.uniform(0.12, 0.62), rng.uniform(0.05, 0.2)
        ring = np.hypot(_U - u, (_V - v) * 1.3)
        image = _mix(image, _pick(rng, _FABRICS), _stripe(ring, radius * rng.choice([0.0, 0.7]), radius))
    for line in range(3):
        _rectangle(image, _rgb("15171c"), 0.1, 0.78 + 0.06 * line, rng.uniform(0.5, 0.9), 0.81 + 0.06 * line)
    return image


def _view(rng: np.random.Generator) -> Image:
    """The view out of a window: sky, clouds, trees, and the bars of the window."""
    image = _mix(_rgb("7fb2e5"), _rgb("dcecf7"), np.clip(_V * 1.6, 0, 1))
    image = _mix(image, _rgb("ffffff"), np.clip(0.6 * _noise(rng, 1.7, 1.0, 2.0), 0, 1) * (1 - _V))
    crowns = 0.62 + 0.07 * np.sin(2 * np.pi * (2 * _U + rng.random())) + 0.025 * np.sin(2 * np.pi * (11 * _U))
    leaves = _mix(_rgb("2c4d2a"), _rgb("86b060"), np.clip(0.5 + 0.4 * _noise(rng, 0.9), 0, 1))
    image = np.where((crowns < _V)[..., None], leaves, image)
    image[(np.abs(_U - 0.5) < 0.016) | (np.abs(_V - 0.4) < 0.014)] = _rgb("efece4")
    return image.astype(np.float32)


def _screen(rng: np.random.Generator) -> Image:
    image = _mix(_rgb("1c3b63"), _rgb("4a2c63"), _U + 0 * _V)
    for u, v, width, height in ((0.06, 0.1, 0.5, 0.65), (0.45, 0.3, 0.48, 0.55)):
        _rectangle(image, _rgb("f2f3f5"), u, v, u + width, v + height)
        _rectangle(image, _rgb("39424e"), u, v, u + width, v + 0.06)
        for line in range(8):
            end = u + rng.uniform(0.3, 0.95) * width
            _rectangle(image, _rgb("67707c"), u + 0.03, v + 0.1 + 0.055 * line, end, v + 0.125 + 0.055 * line)
    _rectangle(image, _rgb("14171c"), 0.0, 0.94, 1.0, 1.0)
    return image


def _keyboard(_: np.random.Generator) -> Image:
    gaps = (_U * 15 % 1 < 0.16) | (_V * 5 % 1 < 0.2)
    return _mix(_rgb("d6d7d9"), _rgb("3a3d42"), gaps)


def _rug(rng: np.random.Generator) -> Image:
    base, accent, third = _pick(rng, _FABRICS), _pick(rng, _PALE), _pick(rng, _FABRICS)
    edge = np.minimum(np.minimum(_U, 1 - _U), np.minimum(_V, 1 - _V))
    diamonds = np.abs(_U * 6 % 1 - 0.5) + np.abs(_V * 6 % 1 - 0.5)
    image = _mix(base, accent, _stripe(diamonds, 0.28, 0.36) | (diamonds < 0.12))
    image = _mix(image, third, _stripe(diamonds, 0.12, 0.28) | (edge < 0.09))
    image = _mix(image, accent, _stripe(edge, 0.0, 0.015) | _stripe(edge, 0.08, 0.09))
    zigzag = np.abs((_U + _V) * 16 % 1 - 0.5) < 0.17
    image = _mix(image, accent, _stripe(edge, 0.03, 0.065) & zigzag)
    return image * (1 + 0.09 * _noise(rng, 0.2))[..., None]


def _board(rng: np.random.Generator) -> Image:
    """A whiteboard with a diagram and lines of writing."""
    image = _plain(_rgb("f0f1ef"), 1 + 0.01 * _noise(rng, 1.5))
    for line in range(7):
        v = 0.12 + 0.1 * line
        wave = v + 0.018 * np.sin(2 * np.pi * (26 * _U + rng.random())) * np.sin(2 * np.pi * (7 * _U + rng.random()))
        ink = (np.abs(_V - wave) < 0.006) & _stripe(_U, 0.06, rng.uniform(0.3, 0.5))
        image[ink] = _rgb("26406f")
    ring = np.hypot((_U - 0.75) * 1.4, _V - 0.4)
    image[(np.abs(ring - 0.2) < 0.006) | ((np.abs(_V - 0.8 + 0.9 * (_U - 0.55)) < 0.008) & (_U > 0.58))] = _rgb(
        "b5342c"
    )
    return image


_PAINTERS: dict[str, Callable[[np.random.Generator], Image]] = {
    "black": _black,
    "board": _board,
    "books": _books,
    "brick": _brick,
    "cardboard": _cardboard,
    "carpet": _carpet,
    "fabric": _fabric,
    "foliage": _foliage,
    "keyboard": _keyboard,
    "linen": _linen,
    "metal": _metal,
    "painting": _painting,
    "planks": _planks,
    "plaster": _plaster,
    "poster": _poster,
    "rug": _rug,
    "screen": _screen,
    "shade": _shade,
    "terracotta": _terracotta,
    "tiles": _tiles,
    "view": _view,
    "wallpaper": _wallpaper,
    "white": _white,
    "wood": _wood,
}
