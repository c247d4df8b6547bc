"""What to do about each mistake, by the keys that the layout at hand has; in words where it has none for it.

The numbers are those to set, and not factors of what is set: following an advice leaves nothing to work out.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

Keys = Mapping[str, Any]
"""The keys of ``data.…`` that the layout has, and what they are set to."""

_USUAL_SCALES = (1.0, 100.0, 256.0, 1000.0, 4000.0, 5000.0, 6553.5, 10000.0)
"""Units a metre that depth is stored in; 6553.5 is Replica's, 5000 TUM's, 4000 Matterport3D's."""
_SNAP = 0.03
"""What a fit finds is that near to the truth."""


def advise(family: str, numbers: tuple[float, ...], keys: Keys) -> str:
    """What to do if a mistake of this family is the one.

    Args:
        family: one of ``hypotheses.FAMILIES``, or what ``registration`` calls a mistake of colour.
        numbers: of the hypothesis that fits.
        keys: of the layout; empty if there is none.
    """
    return _ADVICE[family](numbers, keys)


def _invert(_: tuple[float, ...], keys: Keys) -> str:
    return f"set data.pose_direction={_other(keys)}" if "pose_direction" in keys else "invert the pose files"


def _axes(_: tuple[float, ...], keys: Keys) -> str:
    if "pose_axes" in keys:
        return f"set data.pose_axes={_other_axes(keys)}"
    return _flip(inverted=keys.get("pose_direction") == "world_to_camera")


def _axes_inverted(_: tuple[float, ...], keys: Keys) -> str:
    if "pose_direction" not in keys:
        return f"invert each pose, then {_flip(inverted=False)}"
    direction = _other(keys)
    if "pose_axes" in keys:
        return f"set data.pose_direction={direction} data.pose_axes={_other_axes(keys)}"
    return f"set data.pose_direction={direction}, and {_flip(inverted=direction == 'world_to_camera')}"


def _other(keys: Keys) -> str:
    return "camera_to_world" if keys["pose_direction"] == "world_to_camera" else "world_to_camera"


def _other_axes(keys: Keys) -> str:
    return "opencv" if keys["pose_axes"] == "opengl" else "opengl"


def _flip(*, inverted: bool) -> str:
    side = "left" if inverted else "right"
    return f"multiply each stored pose from the {side} by diag(1,-1,-1,1)"


def _rays(_: tuple[float, ...], __: Keys) -> str:
    return "convert depth to z: divide it by sqrt(1 + ((u-cx)/fx)² + ((v-cy)/fy)²)"


def _mirror(_: tuple[float, ...], __: Keys) -> str:
    return "replace each stored pose P by F·P·F with F = diag(1,-1,1,1), and leave fy positive"


def _upside_down(_: tuple[float, ...], __: Keys) -> str:
    return "turn the depth pictures by 180°, and the colour pictures if they stand on their head"


def _turn(numbers: tuple[float, ...], keys: Keys) -> str:
    quarter = "[[0,-1],[1,0]]" if numbers[0] == 90 else "[[0,1],[-1,0]]"
    # The inverse of P·R is R⁻¹·P⁻¹, so a stored world-to-camera pose is turned from the left, by the other quarter.
    if keys.get("pose_direction") == "world_to_camera":
        quarter = "[[0,1],[-1,0]]" if numbers[0] == 90 else "[[0,-1],[1,0]]"
        return f"multiply each stored pose from the left by a turn about z, {quarter} in its upper left corner"
    return f"multiply each stored pose from the right by a turn about z, {quarter} in its upper left corner"


def _depth_scale(numbers: tuple[float, ...], keys: Keys) -> str:
    (factor,) = numbers
    if "depth_scale" not in keys:
        return f"multiply the depths by {factor:.4g}"
    if keys.get("depth_float_scale"):
        whole, floats = (_usual(keys[key] / factor) for key in ("depth_scale", "depth_float_scale"))
        return f"set data.depth_scale={whole:.9g}, or of depth in floats data.depth_float_scale={floats:.9g}"
    return f"set data.depth_scale={_usual(keys['depth_scale'] / factor):.9g}"


def _usual(scale: float) -> float:
    """The usual scale that is as near as a fit can tell, else the scale itself to four digits."""
    nearest = min(_USUAL_SCALES, key=lambda usual: abs(math.log(usual / scale)))
    return nearest if abs(math.log(nearest / scale)) < _SNAP else float(f"{scale:.4g}")


def _pose_units(numbers: tuple[float, ...], _: Keys) -> str:
    (factor,) = numbers
    return f"multiply the translations of the stored poses by {factor:.4g}"


def _offset(numbers: tuple[float, ...], keys: Keys) -> str:
    step = round(numbers[0])  # in numbers of frames: pictures may have been thinned out
    if str(keys.get("pose_format")).startswith("trajectory") and keys.get("pose_rows") == "frame_number":
        first = keys.get("pose_first")
        if first is None and keys["pose_format"] == "trajectory_log":
            return f"set data.pose_first to {-step:+d} and the number of the log's first pose"
        if (first or 0) - step >= 0:
            return f"set data.pose_first={(first or 0) - step}"
    return f"give each frame the pose that the one {'before' if step < 0 else 'after'} it has now"


def _k_size(numbers: tuple[float, ...], keys: Keys) -> str:
    return _size(numbers, keys, f"{_own_k(keys)}_size")


def _color_size(numbers: tuple[float, ...], keys: Keys) -> str:
    return _size(numbers, keys, "color_intrinsics_size")


def _size(numbers: tuple[float, ...], keys: Keys, own: str) -> str:
    """Of (width, height) that K as it was read belongs to, and those that it was taken for."""
    key = next((key for key in (own, "intrinsics_size") if key in keys), None)
    width, height, *taken_for = numbers
    if key is None or keys.get("intrinsics") == "esam" or keys.get("hfov") is not None:
        return f"bring K from {width:.0f}×{height:.0f} pictures to the size that these have"
    if keys[key]:  # what is said already was worked into K
        width, height = (said * n / taken for said, n, taken in zip(keys[key], numbers, taken_for, strict=False))
    return f"set data.{key}=[{width:.0f},{height:.0f}]"


def one_k(keys: Keys) -> bool:
    """Whether the layout has one K, and depth has colour's."""
    return ("depth_intrinsics_size" not in keys and "intrinsics_size" in keys) or _own_k(keys) == "intrinsics"


def _own_k(keys: Keys) -> str:
    """What the keys of the K that depth has begin with; depth without one of its own has colour's."""
    own = any(keys.get(key) is not None for key in ("depth_intrinsics", "depth_intrinsics_file"))
    return "intrinsics" if "intrinsics_file" in keys and not own else "depth_intrinsics"


def _focal(numbers: tuple[float, ...], keys: Keys) -> str:
    own, (factor,) = _own_k(keys), numbers
    if isinstance(keys.get(own), list):
        fx, fy, cx, cy = keys[own]
        return f"set data.{own}=[{fx * factor:.6g},{fy * factor:.6g},{cx:g},{cy:g}]"
    return f"look at the focal lengths of {_whose_k(keys)}: fx and fy × {factor:.3g}"


def _center(numbers: tuple[float, ...], keys: Keys) -> str:
    du, dv = numbers
    return f"look at cx and cy of {_whose_k(keys)}: cx {du:+.3g}, cy {dv:+.3g} px of the depth pictures"


def _whose_k(keys: Keys) -> str:
    own = _own_k(keys)
    said = next((key for key in (own, f"{own}_file", "intrinsics", "hfov") if keys.get(key) is not None), None)
    return f"data.{said}={keys[said]}" if said else "the depth camera's K"


def _register(_: tuple[float, ...], __: Keys) -> str:
    return "register depth to colour, or look at cx and cy of both cameras' K"


def _color_focal(_: tuple[float, ...], __: Keys) -> str:
    return "look at the focal lengths of both cameras' K"


def _color_turned(_: tuple[float, ...], keys: Keys) -> str:
    if "rotate" in keys:
        return f"set data.rotate={((keys['rotate'] or 0) + 180) % 360}"
    return "turn the colour pictures by 180°"


def _color_flipped(_: tuple[float, ...], __: Keys) -> str:
    return "flip the colour pictures"


_ADVICE: dict[str, Callable[[tuple[float, ...], Keys], str]] = {
    "pose inverted": _invert,
    "OpenGL axes": _axes,
    "OpenGL axes and pose inverted": _axes_inverted,
    "ray length": _rays,
    "mirrored y": _mirror,
    "pictures turned": _upside_down,
    "poses turned": _turn,
    "K of another resolution": _k_size,
    "depth scale": _depth_scale,
    "pose units": _pose_units,
    "frame offset": _offset,
    "focal length": _focal,
    "principal point": _center,
    "unregistered colour": _register,
    "colour K": _color_focal,
    "colour K of another resolution": _color_size,
    "colour turned": _color_turned,
    "colour flipped": _color_flipped,
}
