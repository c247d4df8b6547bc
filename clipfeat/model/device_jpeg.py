"""JPEGs decoded by nvJPEG, on the GPU that the model runs on: ``model.jpeg=gpu``.

Its pixels are not those of libjpeg-turbo, by a level or so here and there, nor need those of two kinds of GPUs be the
same. It may take a damaged file for a whole one.
"""

from collections.abc import Sequence

import numpy as np
import torch

from clipfeat.errors import ConfigError
from clipfeat.system.pinned import stack_to_device
from clipfeat.types import Picture


def require_nvjpeg(device: torch.device) -> None:
    """Looks whether JPEGs can be decoded there.

    Raises:
        ConfigError: If they can't.
    """
    if device.type != "cuda":
        raise ConfigError(f"model.jpeg=gpu: nvJPEG decodes on GPUs, but device={device}; leave model.jpeg out")
    try:
        from torchvision.io import decode_jpeg  # noqa: F401 - deprecated: a later one may lack it
    except ImportError as error:
        raise ConfigError("model.jpeg=gpu: this torchvision has no decode_jpeg; leave model.jpeg out") from error


def decode_there(pictures: Sequence[Picture], device: torch.device) -> list[torch.Tensor]:
    """Decodes pictures that are ``Picture.jpeg``; those that nvJPEG refuses on the host.

    Returns:
        (H, W, 3) uint8 each, on the device.

    Raises:
        FrameError: If one is damaged, and nvJPEG saw it.
    """
    if not pictures:
        return []
    encoded = [torch.from_numpy(np.frombuffer(picture.jpeg or b"", np.uint8).copy()) for picture in pictures]
    try:
        return _by_nvjpeg(encoded, device)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # it names none of them, and gives the others neither
        if len(pictures) == 1:
            return list(stack_to_device([pictures[0].decode()], device))
        return [pixels for picture in pictures for pixels in decode_there([picture], device)]


def _by_nvjpeg(encoded: list[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    from torchvision.io import ImageReadMode, decode_jpeg

    index = torch.cuda.current_device() if device.index is None else device.index
    found: list[torch.Tensor] = decode_jpeg(encoded, ImageReadMode.RGB, device=torch.device("cuda", index))
    for pixels in found:
        pixels.record_stream(torch.cuda.current_stream(device))  # it may be another's memory
    return [pixels.permute(1, 2, 0) for pixels in found]
