import pytest
from test_posed_rgbd import SCANNET

from clipfeat.data.config import PosedRgbdConfig
from clipfeat.errors import ConfigError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pose_direction": None}, "data.pose_direction is not set and has no default: say camera_to_world or world"),
        ({"pose_direction": "c2w"}, "data.pose_direction=c2w: expected one of camera_to_world, world_to_camera"),
        ({"pose_axes": None}, "data.pose_axes is not set and has no default: say opencv or opengl"),
        ({"pose_axes": "gl"}, "data.pose_axes=gl: expected one of opencv, opengl"),
        ({"pose_format": None}, "data.pose_format is not set and has no default: say matrix_per_frame or"),
        ({"pose_format": "kitti"}, "data.pose_format=kitti: expected one of matrix_per_frame"),
        ({"pose_rows": "time"}, "data.pose_rows=time: expected one of frame_number, picture_order"),
        ({"depth_scale": 0}, "data.depth_scale=0: expected a number above 0"),
        ({"depth_invalid": [-1]}, r"data.depth_invalid=\[-1\]: expected raw values from 0 to 65535"),
        ({"max_dt": -0.1}, "data.max_dt=-0.1"),
        ({"color": None}, "expected color_list alone for pose_format=tum"),
        ({"color_list": "{scene}/rgb.txt"}, "expected color_list alone for pose_format=tum"),
        ({"pose_format": "tum"}, "expected color_list alone for pose_format=tum"),
        ({"depth_list": "{scene}/depth.txt"}, "data.depth_list is set, but with pose_format=matrix_per_frame depth is"),
        ({"pose": None}, "data.pose is not set"),
        ({"color": "{scene}/color.jpg"}, r"data.color=.*has no \{frame\}"),
        ({"color": "color/{frame}.jpg"}, r"data.color=.*has no \{scene\}, so all scenes would share one file"),
        ({"color": "../{scene}/{frame}.jpg"}, r"data.color=\.\./.*'..' leaves data.root"),
        ({"depth": "{scene}/depth.png"}, r"data.depth=.*has no \{frame\}"),
        ({"pose": "{scene}/pose.txt"}, r"data.pose=.*has no \{frame\}"),
        ({"pose_format": "trajectory_log"}, r"data.pose=.*\{frame\} has no meaning here"),
        ({"color": "{scene}/{sequence}/{frame}.jpg"}, r"data.depth=.*has no \{sequence\}"),
        ({"intrinsics_file": "{scene}/{sequence}/k.txt"}, r"data.intrinsics_file=.*\{sequence\} has no meaning here"),
        ({"pixel_center": 1}, "data.pixel_center=1: expected 0, or 0.5 if K counts from the first pixel's edge"),
        ({"depth_along": "x"}, "data.depth_along=x: expected one of z, ray"),
        ({"intrinsics_file": "../k.txt"}, r"data.intrinsics_file=.*leaves data.root"),
        ({"intrinsics_file": None}, "data.intrinsics=None data.intrinsics_file=None data.hfov=None: expected one"),
        ({"intrinsics": [1, 1, 0, 0]}, "expected one of the three, and null for the others"),
        ({"intrinsics": [525, 319.5, 239.5], "intrinsics_file": None}, r"expected \[fx,fy,cx,cy\] in pixels"),
        ({"intrinsics": [0, 525, 1, 1], "intrinsics_file": None}, "focal lengths above 0"),
        ({"intrinsics_size": [640]}, r"data.intrinsics_size=\[640\]: expected \[width,height\]"),
        (
            {"color": "{scene}/{stamp}.jpg"},
            "data.stamp_unit=None data.color=.*expected one of s, ms, us, ns with {stamp}",
        ),
        (
            {"stamp_unit": "s"},
            "data.stamp_unit=s data.color=.*: expected one of s, ms, us, ns with {stamp} in data.color",
        ),
        ({"color": "{scene}/{stamp}.jpg", "stamp_unit": "min"}, "data.stamp_unit=min: expected one of s, ms, us, ns"),
        ({"color": "{scene}/{stamp}.jpg", "stamp_unit": "s"}, r"data.depth=.*has no \{stamp\}"),
        ({"depth": "{scene}/depth/{stamp}.png"}, r"data.depth=.*has no \{frame\}"),
        (
            {"pose_format": "timed_axis_angle", "pose": "{scene}.traj"},
            "expected color_list alone for pose_format=tum or",
        ),
        (
            {"confidence": "{scene}/c/{frame}.png"},
            "data.confidence_min=None .*: expected confidence with depth and with confidence_min",
        ),
        (
            {"confidence_min": 1},
            "data.confidence_min=1 .*=None, but data.confidence is not set: give",
        ),
        (
            {"confidence": "{scene}/c/{frame}.png", "confidence_full": 2, "color_from_depth": [0.1, 0, 0]},
            "data.confidence_full=2 data.color_from_depth=.*: weights are not moved with the depth",
        ),
        ({"confidence": "{scene}/c/{frame}.png", "confidence_full": 0}, "data.confidence_full=0: expected .*1"),
        ({"confidence": "{scene}/c.png", "confidence_min": 1}, r"data.confidence=.*has no \{frame\}"),
        (
            {"pose_format": "json_per_scene", "pose": "{scene}.json"},
            "data.pose_field=None data.pose_format=json_per_scene",
        ),
        (
            {"pose_field": "{frame}/pose"},
            "data.pose_field=.* data.pose_format=matrix_per_frame: expected a field such as",
        ),
        (
            {"intrinsics_file": None, "intrinsics": [1, 1, 1, 1], "intrinsics_field": "k"},
            "data.intrinsics_field=k: expec",
        ),
        ({"hfov": 90}, "data.hfov=90: expected one of the three, and null for the others"),
        ({"hfov": 190, "intrinsics_file": None}, "data.hfov=190: expected degrees across the whole picture"),
        (
            {"hfov": 90, "intrinsics_file": None, "pixel_center": 0.5},
            "with data.hfov, which holds for rendered pictures of any size",
        ),
        (
            {"depth_intrinsics_file": None, "depth_intrinsics_size": [640, 480]},
            r"data.depth_intrinsics_size=\[640, 480\] is set, but depth has no K of its own: colour's is resized to it",
        ),
        ({"depth_intrinsics": [1, 1, 0, 0]}, "data.depth_intrinsics and data.depth_intrinsics_file are both set"),
    ],
)
def test_a_bad_configuration_is_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        PosedRgbdConfig(root="x", **(SCANNET | changes))
