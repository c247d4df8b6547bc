"""What ``camera=…`` sets."""

from dataclasses import dataclass

from clipfeat.config.checks import at_least, one_of
from clipfeat.config.paths import path_key
from clipfeat.errors import ConfigError


@dataclass
class CameraConfig:
    """When a point counts as seen.

    Attributes:
        near: nearest z in metres.
        far: farthest z in metres.
        depth_tolerance: allowed |z - depth| in metres.
        depth_tolerance_rel: allowed |z - depth| as a share of z; the larger of the two counts.
        border: pixels along the picture's edges that do not count as in view.
        holes: what becomes of points that fall into a hole of the depth: drop (they are not visible) or keep (visible,
            with confidence 0.011).
        zbuffer: in frames without depth, points hide each other; false takes all in view as visible.
        mask_edge_px: points of an instance nearer than this to its edge in ``data.masks`` are suspect; 0 for none.
        mask_edge: what becomes of them: drop, or weight (confidence falls to 0 at the edge).
        mask_instances: points with an instance id must agree with the mask: same (ids are the same), a JSON file that
            maps them ({"scene0000_00": {"3": 7}}), or null for no check.
    """

    near: float = 0.1
    far: float = 20.0
    depth_tolerance: float = 0.03
    depth_tolerance_rel: float = 0.01
    border: float = 0.0
    holes: str = "drop"
    zbuffer: bool = True
    mask_edge_px: float = 3.0
    mask_edge: str = "drop"
    mask_instances: str | None = path_key(None)

    def __post_init__(self) -> None:
        at_least("camera.near", self.near, 0)
        at_least("camera.far", self.far, self.near, above=True)
        at_least("camera.depth_tolerance", self.depth_tolerance, 0)
        at_least("camera.depth_tolerance_rel", self.depth_tolerance_rel, 0)
        at_least("camera.border", self.border, 0)
        at_least("camera.mask_edge_px", self.mask_edge_px, 0)
        one_of("camera.holes", self.holes, ("drop", "keep"))
        one_of("camera.mask_edge", self.mask_edge, ("drop", "weight"))
        if self.depth_tolerance == 0 and self.depth_tolerance_rel == 0:
            raise ConfigError(
                "camera.depth_tolerance and camera.depth_tolerance_rel are both 0: no point can be visible"
            )
