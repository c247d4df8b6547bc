"""Exact ray casting of rooms made of boxes: depth, labels and a shaded picture, and the same surfaces as a mesh.

A room is the inside of one box (the shell) with boxes in it. Everything is cast face by face: the inverse depth of a
plane, and the position on it divided by the depth, are affine in the pixel coordinates, so that one face costs a few
additions and comparisons on the pixels of its bounding box.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from clipfeat.data.demo.textures import TEXTURE_SIZE, Texture
from clipfeat.types import Camera

Array = NDArray[np.float64]

_NEAR_M = 1e-3
_EDGE_M = 1e-9
"""Faces are this much larger than they are, so that no ray slips through the seam of two faces."""
_REPEAT_M = 1.0
"""Side of one repeat of a texture that is not fitted to its face."""
_LIGHT_SPACING_M = 0.09


@dataclass(frozen=True, eq=False)
class Box:
    """A box that stands upright, turned about z.

    Attributes:
        center: (3,) world metres.
        size: (3,) metres along its own x, y and z.
        yaw: angle from the world's x to its own x in radians.
        label: ScanNet200 id.
        instance: from 1.
        texture: of all its faces.
        fitted: the texture is shown once on each face, instead of repeated every metre.
    """

    center: Array
    size: Array
    yaw: float
    label: int
    instance: int
    texture: Texture
    fitted: bool = False

    @property
    def rotation(self) -> Array:
        """(3, 3) from its own axes to the world's."""
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])

    def to_local(self, points: Array) -> Array:
        """(..., 3) world points relative to its centre, along its own axes."""
        return (points - self.center) @ self.rotation

    def distance(self, points: Array) -> Array:
        """(...,) metres from world points to the box, 0 inside."""
        return np.linalg.norm(np.maximum(np.abs(self.to_local(points)) - self.size / 2, 0), axis=-1)


@dataclass(eq=False)
class Face:
    """A rectangle seen from one side.

    Attributes:
        origin: (3,) its lower left corner as seen from its front, world metres.
        axes: (3, 3) rows: unit vectors to the right, up, and out of the front.
        size: (2,) metres to the right and up.
        label: ScanNet200 id.
        instance: from 1.
        texture: what is painted on it.
        fitted: the texture is shown once.
        turned: the texture is turned by 90°, so that wood grain runs along the longer side.
        light: (rows, columns) brightness at nodes spread evenly from edge to edge, row 0 at the origin.
    """

    origin: Array
    axes: Array
    size: Array
    label: int
    instance: int
    texture: Texture
    fitted: bool
    turned: bool
    light: NDArray[np.float32] = field(default_factory=lambda: np.ones((2, 2), np.float32))

    def points(self, right: Array, up: Array) -> Array:
        """(N, 3) world points at the positions ``right`` and ``up`` (N,) in metres."""
        return self.origin + right[:, None] * self.axes[0] + up[:, None] * self.axes[1]

    def shade(self, right: Array, up: Array, footprint_m: Array) -> NDArray[np.uint8]:
        """(N, 3) RGB at positions (N,) in metres; ``footprint_m`` (N,) is the size of a sample on the surface."""
        x, y = right.astype(np.float32), up.astype(np.float32)
        repeat = self.size * 1.0001 if self.fitted else np.full(2, _REPEAT_M)
        p, q = x / np.float32(repeat[0]), y / np.float32(repeat[1])
        if self.turned:
            p, q = q, p
        if not self.fitted:  # so that equal boxes do not show equal pictures
            p, q = p + np.float32(0.37 * self.instance % 1), q + np.float32(0.61 * self.instance % 1)
        lod = np.log2((footprint_m * (TEXTURE_SIZE / repeat.max())).astype(np.float32))
        rgb = self.texture.sample(p, q, lod) * self._light_at(x, y)[:, None]
        return np.minimum(rgb, 255).astype(np.uint8)

    def _light_at(self, right: NDArray[np.float32], up: NDArray[np.float32]) -> NDArray[np.float32]:
        rows, columns = self.light.shape
        x = np.clip(right * np.float32((columns - 1) / self.size[0]), 0, columns - 1)
        y = np.clip(up * np.float32((rows - 1) / self.size[1]), 0, rows - 1)
        x0 = np.minimum(x.astype(np.int32), columns - 2)
        y0 = np.minimum(y.astype(np.int32), rows - 2)
        x -= x0
        y -= y0
        flat, at = self.light.ravel(), y0 * columns + x0
        low, low_right, high, high_right = (flat.take(at + step) for step in (0, 1, columns, columns + 1))
        low += (low_right - low) * x
        high += (high_right - high) * x
        return low + (high - low) * y


def box_faces(box: Box, *, inward: bool = False) -> list[Face]:
    """The six faces of a box, seen from outside, or from inside: -x, +x, -y, +y, -z, +z."""
    faces = []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            outward = sign * box.rotation[:, axis]
            up = box.rotation[:, 2 if axis < 2 else 1]
            front = -outward if inward else outward
            right = np.cross(up, front)
            size = np.array([np.abs(box.rotation.T @ right) @ box.size, np.abs(box.rotation.T @ up) @ box.size])
            origin = box.center + outward * box.size[axis] / 2 - right * size[0] / 2 - up * size[1] / 2
            turned = not box.fitted and bool(size[1] > size[0])
            axes = np.stack([right, up, front])
            faces.append(Face(origin, axes, size, box.label, box.instance, box.texture, box.fitted, turned))
    return faces


class Obstacles:
    """The walls of a room and the boxes in it, to ask how far one can go in a straight line."""

    _CHUNK = 500

    def __init__(self, shell: Box, boxes: list[Box]) -> None:
        self._shell = shell
        self._centers = np.stack([box.center for box in boxes])
        self._halves = np.stack([box.size for box in boxes]) / 2
        self._rotations = np.stack([box.rotation for box in boxes])

    def free_share(self, starts: Array, ends: Array) -> Array:
        """(N,) share of the segments from ``starts`` to ``ends`` (N, 3) up to the first hit: 1 if nothing is hit."""
        shell = self._shell
        share = _slab_range(shell.to_local(starts), (ends - starts) @ shell.rotation, shell.size / 2)[1]
        share = np.clip(share, 0, 1)
        for first in range(0, len(starts), self._CHUNK):
            chunk = slice(first, first + self._CHUNK)
            segment, box = self._near(starts[chunk], ends[chunk] - starts[chunk])
            segment += first
            local = np.einsum("ni,nij->nj", starts[segment] - self._centers[box], self._rotations[box])
            step = np.einsum("ni,nij->nj", ends[segment] - starts[segment], self._rotations[box])
            enter, leave = _slab_range(local, step, self._halves[box])
            hit = (np.maximum(enter, 0) <= leave) & (enter <= 1)
            np.minimum.at(share, segment[hit], np.maximum(enter[hit], 0))
        return share

    def _near(self, starts: Array, steps: Array) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The pairs (segment, box) where the segment comes into the sphere around the box: few of all pairs."""
        origin = self._shell.center
        s, d = (starts - origin).astype(np.float32), steps.astype(np.float32)
        c = (self._centers - origin).astype(np.float32)
        radius = np.linalg.norm(self._halves, axis=1).astype(np.float32) + np.float32(0.01)
        along = d @ c.T - (s * d).sum(axis=1)[:, None]
        length2 = (d * d).sum(axis=1)[:, None]
        nearest = np.clip(along / length2, 0, 1)
        distance2 = (s * s).sum(axis=1)[:, None] + (c * c).sum(axis=1) - 2 * (s @ c.T)
        distance2 -= nearest * (2 * along - nearest * length2)
        segment, box = np.nonzero(distance2 <= radius**2)
        return segment, box


def _slab_range(starts: Array, steps: Array, halves: Array) -> tuple[Array, Array]:
    """(N,) shares of the steps at which lines enter and leave a box around the origin; enter > leave for a miss."""
    steps = np.where(np.abs(steps) < 1e-12, 1e-12, steps)
    reach = np.sign(steps) * halves
    return ((-reach - starts) / steps).max(axis=1), ((reach - starts) / steps).min(axis=1)


def bake_light(faces: list[Face], shell: Box, obstacles: Obstacles) -> None:
    """Fills ``light`` of all faces: a lamp under the ceiling with shadows, daylight, and darker corners."""
    counts = [np.maximum(np.ceil(face.size / _LIGHT_SPACING_M).astype(int) + 1, 2) for face in faces]
    parts = []
    for face, (columns, rows) in zip(faces, counts, strict=True):
        # Nodes on an edge would be buried in the neighbour that the face touches: they look from just inside it.
        inset = np.minimum(0.02, face.size / 4)
        right, up = np.meshgrid(
            np.linspace(inset[0], face.size[0] - inset[0], columns),
            np.linspace(inset[1], face.size[1] - inset[1], rows),
        )
        parts.append(face.points(right.ravel(), up.ravel()) + 0.004 * face.axes[2])
    points = np.concatenate(parts)
    owner = np.repeat(np.arange(len(faces)), [len(part) for part in parts])
    right, up, front = np.stack([face.axes for face in faces])[owner].transpose(1, 0, 2)

    openness = np.zeros(len(points))
    directions = [front] + [0.6 * front + 0.8 * side for side in (right, -right, up, -up)]
    for direction in directions:
        openness += obstacles.free_share(points, points + 0.45 * direction) / len(directions)

    lamp = np.zeros(len(points))
    for x, y in ((-0.2, -0.2), (0.2, -0.1), (0.0, 0.25)):
        bulb = shell.center + shell.rotation @ np.array([x, y, shell.size[2] / 2 - 0.35])
        to_bulb = bulb - points
        distance = np.linalg.norm(to_bulb, axis=1)
        cosine = np.maximum((to_bulb * front).sum(axis=1) / distance, 0)
        lit = obstacles.free_share(points, np.broadcast_to(bulb, points.shape)) == 1
        lamp += lit * cosine / (1 + 0.09 * distance**2) / 3

    sky = front @ (shell.rotation @ np.array([0.45, 0.3, 0.35]))
    light = (0.64 + 0.16 * sky) * (0.25 + 0.75 * openness) + 0.58 * lamp
    start = 0
    for face, (columns, rows) in zip(faces, counts, strict=True):
        face.light = light[start : start + rows * columns].reshape(rows, columns).astype(np.float32)
        start += rows * columns


@dataclass(frozen=True, eq=False)
class Cast:
    """What the rays of a picture hit.

    Attributes:
        face: (H, W) int16 index of the face, -1 for none.
        depth_m: (H, W) float64 z of the hit, 0 for none.
    """

    face: NDArray[np.int16]
    depth_m: Array


def _plane_rows(face: Face, camera: Camera, cam_to_world: Array) -> Array:
    """(3, 3) rows r with ``r @ (u, v, 1)`` = 1/z, right/z and up/z of the face's plane at a pixel.

    With the ray X = z·d, d = K⁻¹(u, v, 1), the plane n·X = n·O gives 1/z = n·d / n·O, and the position along a unit
    axis a is z·(a·d) - a·O: divided by z, all three are linear in (u, v, 1).
    """
    axes = face.axes @ cam_to_world[:3, :3]
    offsets = face.axes @ (face.origin - cam_to_world[:3, 3])
    rows = axes @ np.linalg.inv(camera.intrinsics)
    inverse_depth = rows[2] / offsets[2]
    return np.stack([inverse_depth, rows[0] - offsets[0] * inverse_depth, rows[1] - offsets[1] * inverse_depth])


def _pixel_bounds(face: Face, camera: Camera, cam_to_world: Array) -> tuple[slice, slice] | None:
    """The rows and columns of the picture that the face can touch, or None if it is outside the picture."""
    a, b = face.size
    corners = face.points(np.array([0, a, a, 0]), np.array([0, 0, b, b]))
    corners = (corners - cam_to_world[:3, 3]) @ cam_to_world[:3, :3]
    following = np.roll(corners, -1, axis=0)
    crossing = (corners[:, 2] < _NEAR_M) != (following[:, 2] < _NEAR_M)
    share = (_NEAR_M - corners[crossing, 2]) / (following[crossing, 2] - corners[crossing, 2])
    cut = corners[crossing] + share[:, None] * (following[crossing] - corners[crossing])
    seen = np.concatenate([corners[corners[:, 2] >= _NEAR_M], cut])
    if not len(seen):
        return None
    uv = (seen / seen[:, 2:]) @ camera.intrinsics.T
    low = np.maximum(np.floor(uv.min(axis=0)), 0)
    high = np.minimum(np.ceil(uv.max(axis=0)) + 1, (camera.width, camera.height, np.inf))
    if low[0] >= high[0] or low[1] >= high[1]:
        return None
    return slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))


def cast_rays(faces: list[Face], camera: Camera, cam_to_world: Array) -> Cast:
    """Casts a ray through every pixel centre and keeps the nearest face that it hits from the front."""
    nearest = np.zeros((camera.height, camera.width))
    hit_face = np.full((camera.height, camera.width), -1, np.int16)
    for index, face in enumerate(faces):
        if face.axes[2] @ (cam_to_world[:3, 3] - face.origin) <= 0:
            continue
        bounds = _pixel_bounds(face, camera, cam_to_world)
        if bounds is None:
            continue
        u, v = np.arange(bounds[1].start, bounds[1].stop), np.arange(bounds[0].start, bounds[0].stop)[:, None]
        inverse, right, up = _plane_rows(face, camera, cam_to_world)
        size = face.size + _EDGE_M
        best = nearest[bounds]
        inverse_depth = inverse[0] * u + (inverse[1] * v + inverse[2])
        hit = inverse_depth > best
        for row, length in ((right, size[0]), (up, size[1])):
            low, high = row + _EDGE_M * inverse, length * inverse - row
            hit &= low[0] * u + (low[1] * v + low[2]) >= 0
            hit &= high[0] * u + (high[1] * v + high[2]) >= 0
        np.copyto(best, inverse_depth, where=hit)
        hit_face[bounds][hit] = index
    return Cast(hit_face, np.divide(1.0, nearest, out=np.zeros_like(nearest), where=nearest > 0))


def paint(cast: Cast, faces: list[Face], camera: Camera, cam_to_world: Array) -> NDArray[np.uint8]:
    """(H, W, 3) RGB of a cast: textures and light, slightly soft as a real lens is."""
    image = np.zeros((camera.height * camera.width, 3), np.uint8)
    order = np.argsort(cast.face, axis=None, kind="stable")
    ends = np.cumsum(np.bincount(cast.face.ravel() + 1, minlength=len(faces) + 1))
    for index, face in enumerate(faces):
        pixels = order[ends[index] : ends[index + 1]]
        if not len(pixels):
            continue
        v, u = np.divmod(pixels, camera.width)
        inverse, right, up = (row[0] * u + (row[1] * v + row[2]) for row in _plane_rows(face, camera, cam_to_world))
        z = 1 / inverse
        # A pixel covers z/f across and z/(f·cos) along the slope; the geometric mean of both picks the texture's size.
        height = face.axes[2] @ (cam_to_world[:3, 3] - face.origin)
        footprint_m = z * np.sqrt(z / height) / camera.intrinsics[0, 0]
        image[pixels] = face.shade(right * z, up * z, footprint_m)
    return _soften(image.reshape(camera.height, camera.width, 3))


def _soften(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A (1, 6, 1)/8 filter along rows and columns: hides the jagged edges of one ray a pixel."""
    wide = image.astype(np.uint16)
    for axis in (0, 1):
        padded = np.concatenate([wide.take([0], axis), wide, wide.take([-1], axis)], axis)
        inner = padded[2:] + padded[:-2] if axis == 0 else padded[:, 2:] + padded[:, :-2]
        wide = (inner + wide * 6 + 4) >> 3
    return wide.astype(np.uint8)


@dataclass(frozen=True, eq=False)
class Mesh:
    """A triangle mesh with a colour, a label and an instance a vertex.

    Attributes:
        vertices: (V, 3) float32 world metres.
        faces: (F, 3) int32.
        colors: (V, 3) uint8 RGB.
        labels: (V,) uint16 ScanNet200 ids.
        instances: (V,) uint16, from 1.
    """

    vertices: NDArray[np.float32]
    faces: NDArray[np.int32]
    colors: NDArray[np.uint8]
    labels: NDArray[np.uint16]
    instances: NDArray[np.uint16]


def tessellate(faces: list[Face], obstacles: Obstacles, spacing_m: float) -> Mesh:
    """Cuts the faces into right triangles whose legs are at most ``spacing_m`` long.

    What touches something else is left out, as in a scan: the wall behind a picture, the floor under a table leg.
    """
    nodes, quads, fronts, start = [], [], [], 0
    for face in faces:
        columns, rows = np.maximum(np.ceil(face.size / spacing_m).astype(int), 1)
        right, up = np.meshgrid(np.linspace(0, face.size[0], columns + 1), np.linspace(0, face.size[1], rows + 1))
        node = start + np.arange(right.size).reshape(right.shape)
        quads.append(np.stack([node[:-1, :-1], node[:-1, 1:], node[1:, 1:], node[1:, :-1]], axis=-1).reshape(-1, 4))
        nodes.append((right.ravel(), up.ravel()))
        fronts.append(np.broadcast_to(face.axes[2], (rows * columns, 3)))
        start += right.size
    points = np.concatenate([face.points(*node) for face, node in zip(faces, nodes, strict=True)])
    colors = np.concatenate(
        [face.shade(*node, np.full(len(node[0]), spacing_m / 2)) for face, node in zip(faces, nodes, strict=True)]
    )
    owner = np.repeat(np.arange(len(faces)), [len(node[0]) for node in nodes])

    quad, front = np.concatenate(quads), np.concatenate(fronts)
    middle = points[quad].mean(axis=1)
    used, quad = np.unique(
        quad[obstacles.free_share(middle + 0.002 * front, middle + 0.012 * front) == 1], return_inverse=True
    )
    quad = quad.reshape(-1, 4)
    return Mesh(
        points[used].astype(np.float32),
        np.concatenate([quad[:, [0, 1, 2]], quad[:, [0, 2, 3]]]).astype(np.int32),
        colors[used],
        np.array([face.label for face in faces], np.uint16)[owner[used]],
        np.array([face.instance for face in faces], np.uint16)[owner[used]],
    )
