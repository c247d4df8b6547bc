"""The nouns that flow through the stages, and the conventions that they all keep.

* Camera axes are OpenCV's: x right, y down, z forward. Lengths are metres.
* Poses are ``cam_to_world``: ``X_world = cam_to_world @ X_cam``.
* Pixel centres lie on integers: a picture of width W spans [-0.5, W - 0.5]. Resizing by a factor s maps
  ``u' = (u + 0.5) * s - 0.5``. The cells of a feature map follow the same rule.
* ``uv`` is always in pixels of the original colour picture, u to the right and v down.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

FloatArray = NDArray[np.floating]

FARTHEST_M = 1e9
"""No coordinate is larger, in metres: what is comes of damage, and its products may be too large for a float."""


class PointStatus(IntEnum):
    """Why a point has, or has no, pixel in a frame."""

    VISIBLE = 0
    OCCLUDED = 1
    """In view, but its depth disagrees with the frame's depth by more than the tolerance."""
    OUT_OF_VIEW = 2
    """In front of the camera, but outside the picture, the near or the far plane, or the part the network sees."""
    BEHIND = 3
    """z <= 0."""
    NO_DEPTH = 4
    """In view, but the frame's depth has a hole there."""
    MASKED = 5
    """Seen, but an instance mask speaks against it: too near to an instance's edge, or another instance."""


@dataclass(frozen=True)
class Distortion:
    """How a lens bends what a pinhole would see; ``clipfeat.camera.distortion`` has the formulas, and applies them.

    All numbers are of directions and not of pixels, so they stay when a picture is resized.

    Attributes:
        fisheye: whether the polynomials are of the angle θ to the camera's axis (OpenCV's fisheye, COLMAP's), or of the
            pinhole's radius r = tan θ.
        radial: n1 to n4, of the square of that: ``1 + n1·q + n2·q² + n3·q³ + n4·q⁴``.
        divisor: d1 to d3 of the polynomial that this is divided by: OpenCV's k4 to k6.
        tangential: p1 and p2, OpenCV's.
        prism: sx1 and sy1, of a thin prism.
    """

    fisheye: bool = False
    radial: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    divisor: tuple[float, float, float] = (0.0, 0.0, 0.0)
    tangential: tuple[float, float] = (0.0, 0.0)
    prism: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def of_meta(cls, meta: dict[str, Any]) -> "Distortion":
        """The lens that a file's meta tells: these attributes by name. Raises as ``Camera.of_meta``."""
        n1, n2, n3, n4 = meta["radial"]
        d1, d2, d3 = meta["divisor"]
        (p1, p2), (s1, s2) = meta["tangential"], meta["prism"]
        return cls(bool(meta["fisheye"]), (n1, n2, n3, n4), (d1, d2, d3), (p1, p2), (s1, s2))

    @property
    def bends(self) -> bool:
        """Whether it does anything: a fisheye does, with whatever numbers."""
        return self.fisheye or any(x != 0 for x in (*self.radial, *self.divisor, *self.tangential, *self.prism))


@dataclass(frozen=True, eq=False)
class Camera:
    """A camera: intrinsics that know the resolution they belong to, and perhaps a lens that distorts.

    Attributes:
        intrinsics: (3, 3) float64 K in pixels.
        width: picture width in pixels.
        height: picture height in pixels.
        distortion: of the lens; None for a pinhole, also where one was given that does nothing.

    Raises:
        ValueError: If K has another shape, is not finite, has a focal length <= 0, or is not a K; or if the size is
            not positive.
    """

    intrinsics: NDArray[np.float64]
    width: int
    height: int
    distortion: Distortion | None = None

    def __post_init__(self) -> None:
        k = np.array(self.intrinsics, dtype=np.float64)
        if k.shape != (3, 3):
            raise ValueError(f"intrinsics must be (3, 3), got {k.shape}")
        if not np.isfinite(k).all():
            raise ValueError("intrinsics hold inf or NaN")
        if k[0, 0] <= 0 or k[1, 1] <= 0:
            raise ValueError(f"focal lengths must be positive, got fx={k[0, 0]:g}, fy={k[1, 1]:g}")
        if np.any(k[2] != (0, 0, 1)) or k[1, 0] != 0:
            raise ValueError(f"not a camera matrix [[fx, s, cx], [0, fy, cy], [0, 0, 1]]: {k.tolist()}")
        if self.width < 1 or self.height < 1:
            raise ValueError(f"picture size must be positive, got {self.width}×{self.height}")
        k.setflags(write=False)
        object.__setattr__(self, "intrinsics", k)
        if self.distortion is not None and not self.distortion.bends:
            object.__setattr__(self, "distortion", None)

    @classmethod
    def of_meta(cls, meta: dict[str, Any]) -> "Camera":
        """The camera that ``meta`` told.

        Raises:
            KeyError: If something is missing; TypeError or ValueError if something is no such number.
        """
        told = meta.get("distortion")
        lens = None if told is None else Distortion.of_meta(told)
        return cls(np.array(meta["intrinsics"]), meta["width"], meta["height"], lens)

    def meta(self) -> dict[str, Any]:
        """What files say of it, as JSON: of a pinhole no word about distortion."""
        told = {"intrinsics": self.intrinsics.tolist(), "width": self.width, "height": self.height}
        return told if self.distortion is None else told | {"distortion": asdict(self.distortion)}

    def resized(self, width: int, height: int) -> "Camera":
        """The camera of the same picture resized to ``width`` × ``height`` pixels."""
        to_new = resize_affine((self.width, self.height), (width, height))
        k = self.intrinsics.copy()
        k[0] = to_new[0, 0] * k[0] + to_new[0, 2] * k[2]
        k[1] = to_new[1, 1] * k[1] + to_new[1, 2] * k[2]
        return Camera(k, width, height, self.distortion)


def resize_affine(size_from: tuple[float, float], size_to: tuple[float, float]) -> NDArray[np.float64]:
    """The (2, 3) affine map of pixel coordinates when a picture of (width, height) is resized to another size.

    ``u' = (u + 0.5) * s - 0.5``: edges map to edges, because pixel centres lie on integers.
    """
    sx, sy = size_to[0] / size_from[0], size_to[1] / size_from[1]
    return np.array([[sx, 0.0, 0.5 * sx - 0.5], [0.0, sy, 0.5 * sy - 0.5]])


def compose_affine(outer: NDArray[np.float64], inner: NDArray[np.float64]) -> NDArray[np.float64]:
    """The (2, 3) affine map that applies ``inner`` first and ``outer`` second."""
    bottom = np.array([[0.0, 0.0, 1.0]])
    return outer @ np.concatenate([inner, bottom])


class Picture:
    """A colour picture that is decoded when its pixels are first asked for.

    Decoding and resizing a picture takes longer than all else that a frame needs beside the network. Where the feature
    map is known already, nobody asks for the pixels.

    Attributes:
        width: in pixels.
        height: in pixels.
        orientation: how the file asks viewers to turn it, by EXIF; 1 for not at all. Nothing here is turned by it.

    Args:
        size: (width, height).
        encoded: the picture as it is stored.
        decode: makes (height, width, 3) uint8 RGB of it; may raise FrameError.
        orientation: see above.
        is_jpeg: tells whether what is stored is a JPEG of these very pixels that a GPU can decode.
    """

    def __init__(
        self,
        size: tuple[int, int],
        encoded: bytes,
        decode: Callable[[bytes], NDArray[np.uint8]],
        orientation: int = 1,
        is_jpeg: Callable[[bytes], bool] | None = None,
    ):
        self.width, self.height = size
        self.orientation = orientation
        self._is_jpeg = is_jpeg
        self._encoded = encoded
        self._decode = decode

    @classmethod
    def of(cls, pixels: NDArray[np.uint8]) -> "Picture":
        """A picture whose pixels (H, W, 3) are at hand."""
        height, width = pixels.shape[:2]
        picture = cls((width, height), b"", lambda _: pixels)
        picture.pixels = pixels
        return picture

    def decode(self) -> NDArray[np.uint8]:
        """The pixels, for who looks at them once: they are not kept, and their memory serves the next picture.

        Raises:
            FrameError: If the picture is damaged.
        """
        kept: NDArray[np.uint8] | None = self.__dict__.get("pixels")
        return self._decode(self._encoded) if kept is None else kept

    @property
    def jpeg(self) -> bytes | None:
        """The file, if it is a JPEG that a GPU can decode."""
        return self._encoded if self._is_jpeg is not None and self._is_jpeg(self._encoded) else None

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB, kept.

        Raises:
            FrameError: If the picture is damaged.
        """
        return self._decode(self._encoded)

    def forget(self) -> None:
        """Gives the memory of the pixels back; they are decoded again when they are asked for."""
        if self._encoded:
            self.__dict__.pop("pixels", None)

    @cached_property
    def digest(self) -> str:
        """32 hexadecimal digits that tell this picture from all others: of the stored bytes, or else of the pixels.

        The same pixels stored in two ways are two pictures.
        """
        if self._encoded:
            return blake2b(self._encoded, digest_size=16).hexdigest()
        shape = f"{self.width}x{self.height}".encode()
        return blake2b(np.ascontiguousarray(self.pixels).data, digest_size=16, person=shape).hexdigest()


@dataclass(frozen=True, eq=False)
class Frame:
    """One posed RGB-D frame of a scene. Colour and depth are registered: they share one pose.

    Attributes:
        scene_id: name of the scene.
        frame_id: the frame's own number in the recording.
        picture: the colour picture, (H, W) pixels.
        depth_m: (h, w) float32 z-depth in metres, 0 where there is none; or None for a frame without depth.
        color_camera: intrinsics of ``picture``.
        depth_camera: intrinsics of ``depth_m``, or None.
        cam_to_world: (4, 4) float64, finite.
        depth_weight: (h, w) float32 in [0, 1], how much a pixel of the depth is trusted; None for all alike.
        points: (N, 3) float64 world points stored for this frame, or None.
        mask: (H, W) uint16 instance ids of the picture's pixels, 0 for none; or None.
        point_attributes: (N, ...) arrays that go with ``points`` row by row, by name: ``rgb`` (N, 3) uint8,
            ``instance`` (N,) int64 (0 for none), ``semantic`` (N,) int64, ``superpoint`` (N,) int64, each where the
            data set has it. None for a frame without points.
    """

    scene_id: str
    frame_id: int
    picture: Picture
    depth_m: NDArray[np.float32] | None
    color_camera: Camera
    depth_camera: Camera | None
    cam_to_world: NDArray[np.float64]
    points: NDArray[np.float64] | None = None
    mask: NDArray[np.uint16] | None = None
    point_attributes: dict[str, NDArray[Any]] | None = None
    depth_weight: NDArray[np.float32] | None = None

    @property
    def image(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB, decoded when first asked for.

        Raises:
            FrameError: If the picture is damaged.
        """
        return self.picture.pixels


@dataclass(frozen=True, eq=False)
class Points:
    """World points that features are asked for, and what is known of them.

    Attributes:
        xyz: (N, 3) float64 world metres.
        idx: (N,) int64 row of each point in its source (pixel v·w + u of the depth picture, row of the stored points,
            vertex of the mesh).
        attributes: (N, ...) arrays carried along by name, such as rgb, label and instance.
    """

    xyz: NDArray[np.float64]
    idx: NDArray[np.int64]
    attributes: dict[str, NDArray[Any]] = field(default_factory=dict)

    def take(self, rows: NDArray[np.integer]) -> "Points":
        """Some of the points."""
        return Points(self.xyz[rows], self.idx[rows], {name: values[rows] for name, values in self.attributes.items()})


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """A dense feature map of one picture and where its cells lie in that picture.

    Attributes:
        values: (C, h, w) tensor.
        image_to_map: (2, 3) float64 affine map from pixels of the original colour picture to cells. Cell centres lie
            on integers, as pixel centres do. It carries squash, letterbox, crop and the network's input size.
        clip_global: (D,) float32 tensor, what the model pools of the whole picture before its projection; or None where
            it is not known.
    """

    values: "torch.Tensor"
    image_to_map: NDArray[np.float64]
    clip_global: "torch.Tensor | None" = None

    def covers(self, uv: FloatArray) -> NDArray[np.bool_]:
        """(N,) which pixels (N, 2) of the picture the network saw: all of them, unless the picture was cropped."""
        height, width = self.values.shape[1:]
        u, v = uv.T.astype(np.float64)
        x, y = (row[0] * u + row[1] * v + row[2] for row in self.image_to_map)
        inside: NDArray[np.bool_] = (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)
        return inside


@dataclass(frozen=True, eq=False)
class Projection:
    """Where world points fall in a frame, or in V frames at once.

    Attributes:
        uv: (..., N, 2) float32 pixels of the colour picture; NaN where the point is behind the camera.
        depth_m: (..., N) float32 z of the point in the camera, in metres.
        status: (..., N) uint8 of ``PointStatus``.
        conf_2d: (..., N) float32 in [0, 1]: 0 where not visible, 1 on the measured surface.
    """

    uv: NDArray[np.float32]
    depth_m: NDArray[np.float32]
    status: NDArray[np.uint8]
    conf_2d: NDArray[np.float32]

    @property
    def visible(self) -> NDArray[np.bool_]:
        """(..., N) bool."""
        return self.status == PointStatus.VISIBLE


@dataclass(frozen=True, eq=False)
class PointFeatures:
    """Features at the visible points of one frame: what is written to disk.

    Attributes:
        pts_feat: (N, C) float32 or float16.
        uv_idx: (N, 2) float32 pixels of the original colour picture.
        conf_2d: (N,) float32 in [0, 1].
        xyz: (N, 3) float32 world metres.
        pts_idx: (N,) int64 row of the point in its source, see ``Points.idx``.
        attributes: (N, ...) arrays carried along from the source by name, such as rgb, label and instance.
        clip_global: (D,) float32 of the whole picture, see ``FeatureMap``; or None.
    """

    pts_feat: FloatArray
    uv_idx: NDArray[np.float32]
    conf_2d: NDArray[np.float32]
    xyz: NDArray[np.float32]
    pts_idx: NDArray[np.int64]
    attributes: dict[str, NDArray[Any]] = field(default_factory=dict)
    clip_global: NDArray[np.float32] | None = None

    def take(self, rows: NDArray[np.integer]) -> "PointFeatures":
        """Some of the points."""
        return PointFeatures(
            self.pts_feat[rows],
            self.uv_idx[rows],
            self.conf_2d[rows],
            self.xyz[rows],
            self.pts_idx[rows],
            {name: values[rows] for name, values in self.attributes.items()},
            self.clip_global,
        )
