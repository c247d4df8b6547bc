"""Furnished rooms for the demo: which boxes stand where, and where the camera walks."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipfeat.data.demo.furniture import MAKERS, SCANNET200_IDS, Furniture, Part, framed
from clipfeat.data.demo.render import Box, Face, Obstacles, bake_light, box_faces
from clipfeat.data.demo.textures import TextureSet

Array = NDArray[np.float64]

_THEMES = (
    ("couch", "tv stand", "bookshelf", "armchair", "dresser", "plant", "boxes", "trash can", "stool", "plant"),
    ("bed", "desk", "dresser", "bookshelf", "nightstand", "armchair", "trash can", "plant", "boxes", "stool"),
    ("desk", "cabinet", "couch", "bookshelf", "refrigerator", "stool", "plant", "trash can", "boxes", "boxes"),
)
_MAX_OBJECTS = 14


@dataclass(frozen=True, eq=False)
class Room:
    """A room with everything that can be seen in it.

    Attributes:
        shell: the box whose inside is the room: walls, floor and ceiling.
        boxes: all boxes of the furniture.
        faces: what is rendered: the shell's faces from inside, then those of the boxes from outside; light is baked.
        obstacles: shell and boxes again, to ask what is free.
        num_objects: pieces of furniture.
    """

    shell: Box
    boxes: list[Box]
    faces: list[Face]
    obstacles: Obstacles
    num_objects: int

    def camera_pose(self, frame: int, num_frames: int, seeds: tuple[int, ...]) -> Array:
        """(4, 4) cam_to_world of a view: a person walks around the middle and looks across it, slightly down.

        Neighbouring views are at most 13° apart, so they share more than half of what they see.
        """
        rng = np.random.default_rng([*seeds, frame])
        first = np.random.default_rng(seeds).uniform(0, 2 * math.pi)
        angle = first + frame * min(math.radians(13), 2 * math.pi / num_frames)
        across = np.array([math.cos(angle), math.sin(angle), 0.0])
        height = 1.5 - self.shell.size[2] / 2 + rng.uniform(-0.05, 0.05)
        for share in np.linspace(1.0, 0.0, 11):  # closer to the middle until nothing is in the way
            position = -across * (self.shell.size / 2 - 0.85) * share
            position[2] = height
            position = self.shell.center + self.shell.rotation @ position
            if min(float(box.distance(position)) for box in self.boxes) >= 0.45:
                break
        yaw = angle + rng.normal(0, 0.02)
        pitch, roll = math.radians(17) + rng.normal(0, 0.015), rng.normal(0, 0.012)
        forward = np.array([math.cos(yaw) * math.cos(pitch), math.sin(yaw) * math.cos(pitch), -math.sin(pitch)])
        right = np.array([math.sin(yaw), -math.cos(yaw), 0.0])
        down = np.cross(forward, right)
        pose = np.eye(4)
        turned = math.cos(roll) * right + math.sin(roll) * down, math.cos(roll) * down - math.sin(roll) * right
        pose[:3, :3] = self.shell.rotation @ np.stack([*turned, forward], axis=1)
        pose[:3, 3] = position
        return pose


class _Planner:
    """Finds free places in a room. Room coordinates: x right, y to the back, origin in the middle of the floor."""

    def __init__(self, size: Array, rng: np.random.Generator) -> None:
        self.size, self.rng = size, rng
        self.placed: list[tuple[Furniture, float, float, float, float]] = []
        self._taken: list[tuple[Array, Array]] = []
        """Low and high corners (x, y, z) of what is taken."""

    def _fits(self, low: Array, high: Array, gap: float) -> bool:
        return not any(((low - gap < other[1]) & (high + gap > other[0])).all() for other in self._taken)

    def _put(self, item: Furniture, x: float, y: float, z: float, yaw: float, low: Array, high: Array) -> None:
        self._taken.append((low, high))
        self.placed.append((item, x, y, z, yaw))

    def at_wall(self, item: Furniture, *, hung_z: tuple[float, float] | None = None, gap: float = 0.06) -> bool:
        """Puts the item's back to a random wall; False if no place was found."""
        width, depth, height = item.size
        back = max(part.high[1] for part in item.parts)
        for _ in range(60):
            wall = int(self.rng.integers(4))
            out = np.round([-math.sin(wall * math.pi / 2), math.cos(wall * math.pi / 2)])
            along, to_wall = (self.size[0], self.size[1]) if wall % 2 == 0 else (self.size[1], self.size[0])
            if along < width + 0.2:
                continue
            slide = self.rng.uniform(-1, 1) * (along - width - 0.1) / 2
            reach = 0.0 if hung_z else 0.02
            tangent = np.array([out[1], -out[0]])
            x, y = out * (to_wall / 2 - back - reach) + tangent * slide
            inner = out * (to_wall / 2 - depth) + tangent * (slide - width / 2)
            outer = out * to_wall / 2 + tangent * (slide + width / 2)
            low_z, high_z = hung_z or (0.0, height)
            low, high = np.append(np.minimum(inner, outer), low_z), np.append(np.maximum(inner, outer), high_z)
            if self._fits(low, high, gap):
                self._put(item, x, y, 0.0, wall * math.pi / 2, low, high)
                return True
        return False

    def in_middle(self, item: Furniture, yaw: float, margin: float) -> tuple[float, float] | None:
        """Puts the item somewhere free off the walls; returns where."""
        c, s = abs(math.cos(yaw)), abs(math.sin(yaw))
        half = np.array([c * item.size[0] + s * item.size[1], s * item.size[0] + c * item.size[1]]) / 2
        for _ in range(200):
            middle = self.rng.uniform(-1, 1, 2) * np.maximum(self.size[:2] / 2 - half - 0.3, 0.0)
            low, high = np.append(middle - half, 0.0), np.append(middle + half, item.size[2])
            if self._fits(low, high, margin):
                self._put(item, float(middle[0]), float(middle[1]), 0.0, yaw, low, high)
                return float(middle[0]), float(middle[1])
        return None


def _plan(planner: _Planner, theme: tuple[str, ...]) -> int:
    """Fills the planner; returns how many pieces of furniture there are (pictures, rugs and so on not counted)."""
    rng = planner.rng

    def make(name: str) -> Furniture:
        return MAKERS[name](rng)

    planner.at_wall(make("door"))
    count = sum(planner.at_wall(make(name), gap=0.12) for name in theme[:3])

    # A table on a rug with chairs at its sides, or a small one where the room is too full.
    yaw = float(rng.uniform(-0.35, 0.35))
    for name, chairs in (("table", 3), ("coffee table", 0)):
        table = make(name)
        place = planner.in_middle(table, yaw, 0.5 if chairs else 0.3)
        if place is None:
            continue
        count += 1
        w, d = table.size[0] / 2 + 0.35, table.size[1] / 2 + 0.3
        rug = Part("mat", "rug", (-w, -d, 0), (w, d, 0.008), fitted=True)
        planner.placed.append((Furniture([rug], (2 * w, 2 * d, 0.008)), *place, 0.0, yaw))
        reach = table.size[1] / 2 + 0.12
        for x, y, turn in ((-0.28, -reach, math.pi), (0.28, -reach, math.pi), (0.05, reach, 0.0))[:chairs]:
            c, s = math.cos(yaw), math.sin(yaw)
            turn += yaw + float(rng.uniform(-0.25, 0.25))
            planner.placed.append((make("chair"), place[0] + c * x - s * y, place[1] + s * x + c * y, 0.008, turn))
            count += 1
        break

    for name in theme[3:] * 2:
        if count < _MAX_OBJECTS - 1:
            count += planner.at_wall(make(name))

    def hang(item: Furniture) -> None:
        low = min(part.low[2] for part in item.parts)
        planner.at_wall(item, hung_z=(low, low + item.size[2]))

    hang(framed("window", "view", "white", (1.3, 1.15), 1.0))
    hang(framed("window", "view2", "white", (1.0, 1.15), 1.0))
    if "desk" in theme:
        hang(framed("whiteboard", "board", "metal", (1.3, 0.85), 1.15))
    hang(make("shelf"))
    for i in range(5):
        size = float(rng.uniform(0.45, 0.85)), float(rng.uniform(0.4, 0.6))
        hang(framed("picture", f"painting{i}", f"wood{i}", size, float(rng.uniform(1.3, 1.5))))
    hang(framed("poster", "poster", "white", (0.6, 0.8), 1.2))
    return count


def build_room(seed: int, scene_index: int) -> Room:
    """The room of a scene: the same for the same numbers, whatever is rendered of it."""
    rng = np.random.default_rng([seed, scene_index])
    textures = TextureSet(seed, scene_index)
    size = np.array([rng.uniform(4.7, 5.5), rng.uniform(3.8, 4.4), rng.uniform(2.5, 2.7)])
    # A scan's origin and heading are arbitrary: nothing may rely on a room around the origin or along the axes.
    yaw = float(rng.uniform(0, 2 * math.pi))
    floor_middle = np.append(rng.uniform(2, 5, 2) * rng.choice([-1, 1], 2), rng.uniform(0.5, 1.5))
    middle = floor_middle + np.array([0, 0, size[2] / 2])
    shell = Box(middle, size, yaw, SCANNET200_IDS["wall"], 1, textures["plaster"])

    faces = box_faces(shell, inward=True)
    accent = int(rng.integers(4))
    surfaces = [("wall", ("plaster", "wallpaper", "plaster", "wallpaper")[(i + accent) % 4]) for i in range(4)]
    if rng.random() < 0.5:
        surfaces[accent] = ("wall", "brick")
    surfaces += [("floor", str(rng.choice(["planks", "tiles", "carpet"], p=[0.6, 0.2, 0.2]))), ("ceiling", "white9")]
    for instance, (face, (name, texture)) in enumerate(zip(faces, surfaces, strict=True), start=1):
        face.label, face.instance, face.texture, face.turned = SCANNET200_IDS[name], instance, textures[texture], False

    planner = _Planner(size, rng)
    num_objects = _plan(planner, _THEMES[(seed + scene_index) % len(_THEMES)])
    instances: dict[tuple[int, str, int], int] = {}
    boxes = []
    for number, (item, x, y, z, turn) in enumerate(planner.placed):
        c, s = math.cos(turn), math.sin(turn)
        for part in item.parts:
            low, high = np.array(part.low), np.array(part.high)
            middle = (low + high) / 2
            local = np.array([x + c * middle[0] - s * middle[1], y + s * middle[0] + c * middle[1], z + middle[2]])
            instance = instances.setdefault((number, part.name, part.group), len(instances) + len(faces) + 1)
            center = floor_middle + shell.rotation @ local
            label, painted = SCANNET200_IDS[part.name], textures[part.texture]
            boxes.append(Box(center, high - low, yaw + turn, label, instance, painted, part.fitted))
    for box in boxes:
        faces += box_faces(box)
    obstacles = Obstacles(shell, boxes)
    bake_light(faces, shell, obstacles)
    return Room(shell, boxes, faces, obstacles, num_objects)
