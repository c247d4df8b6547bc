"""Whether the keys of ``posed_rgbd`` fit each other: what one of them says has a meaning beside the others."""

from typing import TYPE_CHECKING

from clipfeat.config.checks import at_least, check_size, must_say, one_of
from clipfeat.data.base_config import check_confidence
from clipfeat.errors import ConfigError
from clipfeat.system.patterns import check_pattern

if TYPE_CHECKING:
    from clipfeat.data.config import PosedRgbdConfig

POSE_FORMATS = (
    "matrix_per_frame", "json_per_frame", "xyzw_per_frame", "wxyz_per_frame", "json_per_scene", "trajectory_matrices",
    "trajectory_xyzw", "trajectory_wxyz", "trajectory_log", "tum", "timed_axis_angle",
)  # fmt: skip

TIMED_FORMATS = ("tum", "timed_axis_angle")
"""Those that go by time."""

POSE_DIRECTIONS = ("camera_to_world", "world_to_camera")

POSE_AXES = ("opencv", "opengl")

DEPTH_ALONG = ("z", "ray")

POSE_ROWS = ("frame_number", "picture_order")

STAMP_UNITS = ("s", "ms", "us", "ns")


def check_posed(cfg: "PosedRgbdConfig") -> None:
    """Checks all keys but those that every layout has.

    Raises:
        ConfigError: If one is not set, has a value that it can't have, or contradicts another.
    """
    _check_values(cfg)
    _check_files(cfg)
    _check_fields(cfg)
    _check_intrinsics(cfg)


def _check_values(cfg: "PosedRgbdConfig") -> None:
    one_of("data.pose_camera", cfg.pose_camera, ("depth", "color"))
    must_say("data.pose_direction", cfg.pose_direction, POSE_DIRECTIONS)
    must_say("data.pose_format", cfg.pose_format, POSE_FORMATS)
    must_say("data.pose_axes", cfg.pose_axes, POSE_AXES)
    one_of("data.pose_rows", cfg.pose_rows, POSE_ROWS)
    one_of("data.depth_along", cfg.depth_along, DEPTH_ALONG)
    if cfg.pixel_center not in (0, 0.5):
        raise ConfigError(
            f"data.pixel_center={cfg.pixel_center:g}: expected 0, or 0.5 if K counts from the first pixel's edge"
        )
    at_least("data.pose_first", cfg.pose_first, 0)
    at_least("data.depth_scale", cfg.depth_scale, 0, above=True)
    at_least("data.depth_float_scale", cfg.depth_float_scale, 0, above=True)
    at_least("data.max_dt", cfg.max_dt, 0)
    if any(not 0 <= value <= 65535 for value in cfg.depth_invalid):
        raise ConfigError(f"data.depth_invalid={cfg.depth_invalid}: expected raw values from 0 to 65535")


def _check_files(cfg: "PosedRgbdConfig") -> None:
    by_list, stamped = cfg.color_list is not None, "{stamp}" in (cfg.color or "")
    timed = cfg.pose_format in TIMED_FORMATS
    if by_list == (cfg.color is not None) or (by_list and not timed) or (timed and not by_list and not stamped):
        raise ConfigError(
            f"data.color={cfg.color} data.color_list={cfg.color_list} data.pose_format={cfg.pose_format}: "
            f"expected color_list alone for pose_format={' or '.join(TIMED_FORMATS)}, whose poses go by time, or color "
            f"with {{stamp}}, and color alone for any other"
        )
    if (cfg.depth if by_list else cfg.depth_list) is not None:
        wrong, right = ("depth", "depth_list") if by_list else ("depth_list", "depth")
        raise ConfigError(
            f"data.{wrong} is set, but with pose_format={cfg.pose_format} depth is data.{right}, as colour is"
        )
    if cfg.pose is None:
        raise ConfigError("data.pose is not set: give the pattern of the pose files, or of the trajectory file")
    if (cfg.stamp_unit is not None) != stamped:
        raise ConfigError(
            f"data.stamp_unit={cfg.stamp_unit} data.color={cfg.color}: expected one of {', '.join(STAMP_UNITS)} with "
            f"{{stamp}} in data.color, and null without"
        )
    if cfg.stamp_unit is not None:
        one_of("data.stamp_unit", cfg.stamp_unit, STAMP_UNITS)
    used = cfg.confidence_min is not None or cfg.confidence_full is not None
    if used and cfg.confidence is None:
        raise ConfigError(
            f"data.confidence_min={cfg.confidence_min} data.confidence_full={cfg.confidence_full}, but "
            "data.confidence is not set: give the pattern of its files, such as '{scene}/confidence/{frame}.png'"
        )
    if (cfg.confidence is not None) != used or (used and cfg.depth is None):
        raise ConfigError(
            f"data.confidence={cfg.confidence} data.confidence_min={cfg.confidence_min} "
            f"data.confidence_full={cfg.confidence_full} data.depth={cfg.depth}: expected confidence with depth and "
            "with confidence_min, the least that counts, or confidence_full, what counts in full"
        )
    check_confidence(cfg.confidence_min, cfg.confidence_full)
    if cfg.confidence_full is not None and cfg.color_from_depth is not None:
        raise ConfigError(
            f"data.confidence_full={cfg.confidence_full} data.color_from_depth={cfg.color_from_depth}: weights are not "
            "moved with the depth; expected confidence_min alone for depth of a camera of its own"
        )
    per_scene, (of_frame, other) = per_scene_names(cfg), names_of_frame(cfg)
    for key in ("color", "depth", "confidence"):
        if (pattern := getattr(cfg, key)) is not None:
            check_pattern(f"data.{key}", pattern, required=[*per_scene, of_frame], forbidden=[other])
    for key in ("color_list", "depth_list"):
        if (pattern := getattr(cfg, key)) is not None:
            check_pattern(f"data.{key}", pattern, required=per_scene, forbidden=["frame", "stamp"])
    if (cfg.pose_format or "").endswith("_per_frame"):
        check_pattern("data.pose", cfg.pose, required=[*per_scene, of_frame], forbidden=[other])
    else:
        check_pattern("data.pose", cfg.pose, required=per_scene, forbidden=["frame", "stamp"])


def per_scene_names(cfg: "PosedRgbdConfig") -> list[str]:
    """{scene}, and {sequence} where the pictures have it: then all other files must tell them apart too."""
    return ["scene", "sequence"] if "{sequence}" in (cfg.color or cfg.color_list or "") else ["scene"]


def names_of_frame(cfg: "PosedRgbdConfig") -> tuple[str, str]:
    """The placeholder that tells frames apart, number or time, and the other one, which has no meaning then."""
    return ("stamp", "frame") if "{stamp}" in (cfg.color or "") else ("frame", "stamp")


def _check_fields(cfg: "PosedRgbdConfig") -> None:
    if (cfg.pose_field is not None) != (cfg.pose_format == "json_per_scene"):
        raise ConfigError(
            f"data.pose_field={cfg.pose_field} data.pose_format={cfg.pose_format}: expected a field such as "
            "frame_{frame}/pose with pose_format=json_per_scene, and null with any other"
        )
    if cfg.intrinsics_field is not None and cfg.intrinsics_file is None:
        raise ConfigError(
            f"data.intrinsics_field={cfg.intrinsics_field}: expected data.intrinsics_file, which it is a field of"
        )
    of_frame, other = names_of_frame(cfg)
    if cfg.pose_field is not None:
        check_pattern("data.pose_field", cfg.pose_field, required=[of_frame], forbidden=[other])
    if cfg.intrinsics_field is not None:
        check_pattern("data.intrinsics_field", cfg.intrinsics_field, forbidden=[other])


def _check_intrinsics(cfg: "PosedRgbdConfig") -> None:
    if [cfg.intrinsics, cfg.intrinsics_file, cfg.hfov].count(None) != 2:
        raise ConfigError(
            f"data.intrinsics={cfg.intrinsics} data.intrinsics_file={cfg.intrinsics_file} data.hfov={cfg.hfov}: "
            "expected one of the three, and null for the others"
        )
    if cfg.hfov is not None:
        if not 0 < cfg.hfov < 180:
            raise ConfigError(f"data.hfov={cfg.hfov:g}: expected degrees across the whole picture, above 0, below 180")
        if cfg.intrinsics_size is not None or cfg.pixel_center != 0 or cfg.distortion is not None:
            raise ConfigError(
                f"data.intrinsics_size={cfg.intrinsics_size} data.pixel_center={cfg.pixel_center:g} "
                f"data.distortion={cfg.distortion}: with data.hfov, which holds for rendered pictures of any size and "
                "has its centre in their middle, expected null, 0 and null"
            )
    if cfg.depth_intrinsics is not None and cfg.depth_intrinsics_file is not None:
        raise ConfigError("data.depth_intrinsics and data.depth_intrinsics_file are both set: expected one of the two")
    own = cfg.depth_intrinsics is not None or cfg.depth_intrinsics_file is not None
    if not own and cfg.depth_intrinsics_size is not None:
        raise ConfigError(
            f"data.depth_intrinsics_size={cfg.depth_intrinsics_size} is set, but depth has no K of its own: colour's "
            "is resized to it. Say data.depth_intrinsics or data.depth_intrinsics_file too, or null"
        )
    if not own and cfg.depth_distortion is not None:
        raise ConfigError(
            f"data.depth_distortion={cfg.depth_distortion} is set, but depth has no K of its own: without "
            f"data.depth_intrinsics or data.depth_intrinsics_file it has colour's, and colour's lens"
        )
    if own and cfg.distortion is not None and cfg.depth_distortion is None:
        raise ConfigError(
            f"data.distortion={cfg.distortion}, but data.depth_distortion is not set, and depth has a K of its "
            f"own: say how its pictures are distorted, [PINHOLE] if they aren't"
        )
    # A K a frame goes by the number or the time in the picture's name, which lists with times have not.
    of_frame, _ = names_of_frame(cfg)
    known = [*per_scene_names(cfg), *([] if cfg.color_list is not None else [of_frame])]
    unknown = [name for name in ("sequence", "frame", "stamp") if name not in known]
    for key in ("intrinsics", "depth_intrinsics"):
        numbers = getattr(cfg, key)
        if numbers is not None and (len(numbers) != 4 or min(numbers[:2]) <= 0):
            raise ConfigError(f"data.{key}={numbers}: expected [fx,fy,cx,cy] in pixels, focal lengths above 0")
        if (file := getattr(cfg, f"{key}_file")) is not None:
            check_pattern(f"data.{key}_file", file, forbidden=unknown)
        check_size(f"data.{key}_size", getattr(cfg, f"{key}_size"))
