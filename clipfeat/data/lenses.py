"""What configurations and files say of lenses."""

from collections.abc import Sequence
from typing import Any

from clipfeat.camera.lens_models import LENSES, distortion_of
from clipfeat.errors import ConfigError
from clipfeat.types import Distortion


def lens_said(key: str, said: Sequence[Any] | None) -> Distortion | None:
    """The lens of ``data.distortion=[MODEL,number,…]``; None for a pinhole, or where nobody said one.

    Raises:
        ConfigError: If it is no model and its numbers.
    """
    if said is None:
        return None
    named = f"data.{key}={list(said)}"
    expected = "expected [MODEL,number,…], such as [OPENCV,k1,k2,p1,p2] or [OPENCV_FISHEYE,k1,k2,k3,k4]"
    if not said or not isinstance(said[0], str):
        raise ConfigError(f"{named}: {expected}; models are {', '.join(LENSES)}")
    try:
        return distortion_of(said[0], [float(number) for number in said[1:]])
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{named}: {error}; {expected}") from error
