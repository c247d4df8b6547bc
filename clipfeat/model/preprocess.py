"""How a picture enters the network, and the exact map from its pixels to the network's."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as nnf
from numpy.typing import NDArray
from PIL import Image

from clipfeat.model.device_resize import can_resize_there, resize_there
from clipfeat.model.resize import resize_pillow
from clipfeat.model.windows import Windows
from clipfeat.system.pinned import to_device
from clipfeat.types import Picture, compose_affine, resize_affine


@dataclass(frozen=True)
class Placement:
    """Where a picture lies in the network's input.

    Attributes:
        resized: (width, height) that the whole picture is resized to.
        offset: (left, top) of the resized picture's corner in the input; negative where it is cropped.
    """

    resized: tuple[int, int]
    offset: tuple[int, int]


def squash(width: int, height: int, size: int) -> Placement:  # noqa: ARG001 - one signature for all three
    """The whole picture fills the input; the aspect ratio is lost (open_clip's ``resize_mode="squash"``)."""
    return Placement((size, size), (0, 0))


def letterbox(width: int, height: int, size: int) -> Placement:
    """The whole picture, its longer side fills the input, bars of the mean colour beside it.

    The middle is floored as open_clip's ``resize_mode="longest"`` does it.
    """
    longest = max(width, height)
    resized = (max(round(width * size / longest), 1), max(round(height * size / longest), 1))
    return Placement(resized, ((size - resized[0]) // 2, (size - resized[1]) // 2))


def crop(width: int, height: int, size: int) -> Placement:
    """The centre square; what lies outside has no features (open_clip's and CLIP's own ``resize_mode="shortest"``)."""
    shortest = min(width, height)
    resized = (size * width // shortest, size * height // shortest)
    return Placement(resized, (-round((resized[0] - size) / 2), -round((resized[1] - size) / 2)))


def aspect(width: int, height: int, size: int, patch_size: int) -> Placement:
    """The whole picture in its own aspect ratio, as nearly as whole patches do, in no more of them than a square has.

    The size is that of timm's own ``ResizeToSequence``.
    """
    from timm.data.naflex_transforms import get_image_size_for_seq  # which takes a second to import

    _, (down, across) = get_image_size_for_seq((height, width), patch_size, (size // patch_size) ** 2)
    return Placement((across, down), (0, 0))


PLACEMENTS: dict[str, Callable[[int, int, int], Placement]] = {"squash": squash, "letterbox": letterbox, "crop": crop}


def resize_torch(image: NDArray[np.uint8], size: tuple[int, int], interpolation: str) -> NDArray[np.uint8]:
    """The same filter by torch, with vector instructions and coefficients of 16 bits instead of 22."""
    # Torch warns of memory that may not be written to, as decoders give it; nothing is written to it here.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        picture = torch.from_numpy(image).permute(2, 0, 1)[None]
    resized = nnf.interpolate(picture, size[::-1], mode=interpolation, align_corners=False, antialias=True)
    return resized[0].permute(1, 2, 0).contiguous().numpy()


RESIZERS: dict[str, Callable[[NDArray[np.uint8], tuple[int, int], str], NDArray[np.uint8]]] = {
    "pillow": resize_pillow,
    "torch": resize_torch,
}


NetworkInput = NDArray[np.uint8] | Picture
"""The pixels of the network's input, those of the original picture, or the picture, to be decoded yet."""

_LARGEST_THERE = 2**25
"""Bytes of the largest picture that is resized where the model runs, 11 megapixels: many wait for it at a time."""


@dataclass(frozen=True)
class Preprocess:
    """A picture to the network's normalised input, as open_clip's own transform would bring it.

    Attributes:
        size: side of the square input in pixels; with windows, of the input's shorter side.
        mode: squash, letterbox, crop or aspect; with windows shortest.
        mean: of each channel, 0 to 1.
        std: of each channel, 0 to 1.
        resize: pillow or torch.
        windows: what the network sees of the input at once; None for all of it.
        interpolation: bicubic or bilinear, antialiased.
        patch_size: side of the network's patches in pixels, which the mode aspect must know.
        there: whether pictures are resized where the model runs, to the same bits.
        jpeg_there: whether JPEGs are decoded there, too, which gives other bits.
    """

    size: int
    mode: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: str = "pillow"
    windows: Windows | None = None
    interpolation: str = "bicubic"
    patch_size: int = 1
    there: bool = False
    jpeg_there: bool = False

    def network_input(self, picture: Picture) -> NetworkInput:
        """What the host makes of a picture: its ``pixels``, or less where the rest is done ``there``.

        Raises:
            FrameError: If it is damaged.
        """
        size = (picture.width, picture.height)
        there = self.there and 3 * picture.width * picture.height <= _LARGEST_THERE
        if not (there and can_resize_there(size, self.placement(*size).resized, self.interpolation)):
            return self.pixels(picture.decode())
        return picture if self.jpeg_there and picture.jpeg is not None else picture.decode()

    def pixels(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resizes and places an (H, W, 3) picture, by antialiased interpolation.

        Returns:
            (size, size, 3) uint8; with windows (h, w, 3), of which the shorter side is ``size``; (h, w, 3) of the mode
            aspect.
        """
        height, width = image.shape[:2]
        place, input_size = self.placement(width, height), self.input_size(width, height)
        resized = RESIZERS[self.resize](image, place.resized, self.interpolation)
        if place == Placement(input_size, (0, 0)):
            return resized
        canvas = Image.new("RGB", input_size, tuple(round(255 * m) for m in self.mean))
        canvas.paste(Image.fromarray(resized), place.offset)
        return np.asarray(canvas)

    def is_original(self, shape: Sequence[int], image_size: tuple[int, int]) -> bool:
        """Whether an (h, w, 3) array is a picture of that (width, height) as it was, and not the network's input."""
        return (shape[1], shape[0]) == image_size != self.input_size(*image_size)

    def pixels_there(self, pictures: torch.Tensor) -> torch.Tensor:
        """As ``pixels``, bit for bit: (B, H, W, 3) uint8 on any device to (B, h, w, 3) there."""
        height, width = pictures.shape[1:3]
        place, input_size = self.placement(width, height), self.input_size(width, height)
        resized = resize_there(pictures, place.resized, self.interpolation)
        if place == Placement(input_size, (0, 0)):
            return resized
        color = to_device(np.array([round(255 * m) for m in self.mean], np.uint8), pictures.device)
        canvas = color.expand(len(pictures), *input_size[::-1], 3).contiguous()
        left, top = place.offset
        seen = resized[:, max(-top, 0) :, max(-left, 0) :]
        inside = canvas[:, max(top, 0) :, max(left, 0) :][:, : seen.shape[1], : seen.shape[2]]
        inside.copy_(seen[:, : inside.shape[1], : inside.shape[2]])
        return canvas

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """(..., S, S, 3) uint8 to the (..., 3, S, S) float32 that the encoder takes."""
        mean, std = to_device(np.array([self.mean, self.std], np.float32), pixels.device).view(2, 3, 1, 1)
        return pixels.movedim(-1, -3).float().div(255).sub(mean).div(std)

    def placement(self, width: int, height: int) -> Placement:
        """Where a picture of this size lies in the input."""
        if self.windows is not None:
            return Placement(self.windows.resized(width, height, self.size), (0, 0))
        if self.mode == "aspect":
            return aspect(width, height, self.size, self.patch_size)
        return PLACEMENTS[self.mode](width, height, self.size)

    def input_size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of the input for a picture of this size: of a mode that keeps its aspect as it is resized."""
        keeps_aspect = self.windows is not None or self.mode == "aspect"
        return self.placement(width, height).resized if keeps_aspect else (self.size, self.size)

    def image_to_input(self, width: int, height: int) -> NDArray[np.float64]:
        """The (2, 3) affine map from the picture's pixels to the input's, pixel centres on integers in both."""
        place = self.placement(width, height)
        resize = resize_affine((width, height), place.resized)
        shift = np.array([[1.0, 0.0, place.offset[0]], [0.0, 1.0, place.offset[1]]])
        return compose_affine(shift, resize)

    def image_to_map(self, width: int, height: int, map_size: tuple[int, int]) -> NDArray[np.float64]:
        """The (2, 3) affine map from the picture's pixels to the cells of a map of ``map_size`` (h, w)."""
        to_cells = resize_affine(self.input_size(width, height), (map_size[1], map_size[0]))
        return compose_affine(to_cells, self.image_to_input(width, height))

    def covers(self, uv: NDArray[np.floating], width: int, height: int) -> NDArray[np.bool_]:
        """Which positions (..., 2) of the picture the network sees; all of them but for crop. NaN is not seen."""
        affine = self.image_to_input(width, height)
        last = np.array(self.input_size(width, height)) - 0.5

        def inside(uv: NDArray[np.floating]) -> NDArray[np.bool_]:
            position = uv @ affine[:, :2].T + affine[:, 2]
            with np.errstate(invalid="ignore"):
                within: NDArray[np.bool_] = (position >= -0.5) & (position <= last)
            return np.logical_and(within[..., 0], within[..., 1])

        u, v = uv[..., 0], uv[..., 1]
        if uv.size and inside(np.array([(u.min(), v.min()), (u.max(), v.max())])).all():  # NaN goes through to here
            return np.ones(uv.shape[:-1], bool)
        return inside(uv)
