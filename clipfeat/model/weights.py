"""Where a model's weights come from, and what belongs to them: found before anything is read or waited for.

An architecture is a name of open_clip, ``hf-hub:<org>/<name>``, or a folder with an ``open_clip_config.json``; its
weights are a tag of open_clip, a file, a folder that holds one, or those of the hub's repository or of the folder.
``timm:<name>`` is a model of timm, see ``timm_weights.py``.
"""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from clipfeat.errors import WeightsError
from clipfeat.model.config import TIMM, ModelConfig
from clipfeat.model.packages import import_open_clip

log = logging.getLogger(__name__)

HUB = "hf-hub:"
FOLDER = "local-dir:"

HUB_TIMEOUT_S = 5.0
"""Longest wait for a first answer from the hub; its own client would retry for most of a minute."""

_ANSWER_HOLDS_S = 60.0
_answers: dict[str, tuple[float, bool]] = {}
"""When a hub was last asked, and whether it answered: a model asks several times."""

HOW_ELSE = "; give a checkpoint file, or model.pretrained=null for random weights"

_CONFIG = "open_clip_config.json"
_HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_FILES = (
    *_HUB_FILES, "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.pt", "model.safetensors",
    "pytorch_model.bin",
)  # fmt: skip
"""Names of weights in a folder, those that are looked for first."""

_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True)
class Found:
    """A model that can be made, and weights that are at hand.

    Attributes:
        arch: what open_clip calls the architecture: a name, or ``local-dir:<folder>``.
        model_cfg: its configuration.
        name: what is written of the weights: a tag, a file's name, a hub's repository, or "random"; never a path.
        file: the weights; None for random ones.
        published: mean, std and interpolation that the weights were published with; what they don't tell is missing.
        quick_gelu: whether they were trained with QuickGELU; None where nobody told.
    """

    arch: str
    model_cfg: dict[str, Any]
    name: str
    file: Path | None = None
    published: dict[str, Any] = field(default_factory=dict)
    quick_gelu: bool | None = None

    @property
    def arch_sha256(self) -> str:
        """16 digits that stand for the image tower's architecture, whatever its input's size."""
        vision = {key: value for key, value in self.model_cfg["vision_cfg"].items() if key != "image_size"}
        said = [vision, self.model_cfg.get("embed_dim"), bool(self.model_cfg.get("quick_gelu", False))]
        return sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def image_size(self) -> int:
        """Side in pixels of the square that the model was published for."""
        size = self.model_cfg["vision_cfg"].get("image_size", 224)
        return int(size[0] if isinstance(size, Sequence) else size)


def find_weights(arch: str, pretrained: str | None) -> Found:
    """Finds a model and its weights, and downloads what has to be; waits for a hub no longer than seconds.

    Args:
        arch: name of an open_clip model, ``hf-hub:<org>/<name>``, ``local-dir:<folder>``, a folder, or ``timm:<name>``.
        pretrained: a tag of open_clip, a checkpoint file, a folder with one, or None: the weights that the hub's
            repository or the folder holds, or random ones for a name of open_clip.

    Raises:
        WeightsError: If there is no such model, or its weights can't be had.
    """
    if arch.startswith(TIMM):
        from clipfeat.model.timm_weights import find_timm_weights  # which builds on this file

        return find_timm_weights(arch, pretrained)
    own = find_architecture(arch)
    if arch_is_place(arch) and pretrained == own.name:  # as describe() names its own weights
        pretrained = None
    given = None if pretrained is None else Path(pretrained)
    if given is not None and given.is_file():
        return _with(own, name=given.name, file=given, published=own.published or usual_published(own.arch))
    if given is not None and given.is_dir():
        return _of_folder(own, given)
    if not arch_is_place(arch):
        return _of_tag(own, arch, pretrained)
    if pretrained is not None and looks_like_path(pretrained):
        raise WeightsError(f"model.pretrained={pretrained}: no such file{HOW_ELSE}")
    if pretrained not in (None, ModelConfig.pretrained):  # the default is there without anybody's saying so
        log.info("model.pretrained=%s is not looked at: the weights are those of %s", pretrained, arch_name(arch))
    place = arch.removeprefix(HUB)
    if arch.startswith(HUB):
        online, errors = hub_answers(), []
        for name in _HUB_FILES:
            try:
                return _with(own, name=arch, file=of_hub(place, name, online=online))
            except Exception as error:  # noqa: BLE001 - the client's library and its errors change
                errors.append(" ".join(str(error).split())[:200])
        raise WeightsError(
            f"model.arch={arch}: its configuration is there, its weights can't be had ({errors[-1]}); log in to the "
            f"hub if they are gated, or give a checkpoint file by model.pretrained=…"
        )
    return _with(own, name=arch_name(arch), file=file_in(Path(own.arch.removeprefix(FOLDER))))


def find_architecture(arch: str) -> Found:
    """Finds a model without its weights; see ``find_weights``.

    Raises:
        WeightsError: If there is no such model.
    """
    if arch.startswith(TIMM):
        from clipfeat.model.timm_weights import find_timm

        return find_timm(arch)
    if arch.startswith(HUB):
        online = hub_answers()
        try:
            config = of_hub(arch.removeprefix(HUB), _CONFIG, online=online)
        except Exception as error:  # the client's library and its errors change from version to version
            reason = " ".join(str(error).split())[:200]
            why = f"can't be had ({reason})" if online else "the model hub does not answer and the local cache lacks it"
            raise WeightsError(f"model.arch={arch}: {why}{HOW_ELSE}") from error
        return _of_config(config, arch)
    if arch_is_place(arch):
        return _of_config(Path(arch.removeprefix(FOLDER)) / _CONFIG, arch)
    open_clip = import_open_clip()

    if arch not in open_clip.list_models():
        near = [m for m in open_clip.list_models() if m.lower().startswith(arch.lower()[:5])][:6]
        raise WeightsError(f"model.arch={arch}: open_clip knows no such model; near it: {', '.join(near) or 'none'}")
    return Found(arch, open_clip.get_model_config(arch), "random", published=usual_published(arch))


def arch_is_place(arch: str) -> bool:
    """Whether an architecture is told by a configuration on the hub or in a folder, and not by open_clip's name."""
    return arch.startswith((HUB, FOLDER)) or Path(arch).is_dir()


def arch_name(arch: str) -> str:
    """What is written of an architecture: a folder's own name, never a path of this machine."""
    if arch.startswith(HUB) or not arch_is_place(arch):
        return arch
    return FOLDER + Path(arch.removeprefix(FOLDER)).resolve().name


def why_not_to_be_had(arch: str, pretrained: str | None) -> str:
    """Why these weights can't be had; empty if they can. Loads nothing, and waits for a hub no longer than seconds."""
    try:
        find_weights(arch, pretrained)
    except WeightsError as error:
        return str(error)
    return ""


def hub_answers(timeout_s: float = HUB_TIMEOUT_S) -> bool:
    """Whether the model hub answers at all, within seconds."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    asked, answered = _answers.get(constants.ENDPOINT, (-_ANSWER_HOLDS_S, False))
    if time.monotonic() - asked > _ANSWER_HOLDS_S:
        try:
            get_session().head(constants.ENDPOINT, timeout=timeout_s)
            answered = True
        except Exception:  # noqa: BLE001 - the client's library and its errors change from version to version
            answered = False
        _answers[constants.ENDPOINT] = time.monotonic(), answered
    return answered


def usual_published(arch: str) -> dict[str, Any]:
    """What all published weights of a model have in common: a file tells nothing, and SigLIP's mean is not CLIP's."""
    open_clip = import_open_clip()

    cfgs = [open_clip.get_pretrained_cfg(arch, tag) for tag in open_clip.list_pretrained_tags_by_model(arch)]
    normalised = {(cfg["mean"], cfg["std"]) for cfg in cfgs if "mean" in cfg and "std" in cfg}
    resized = {cfg["interpolation"] for cfg in cfgs if "interpolation" in cfg}
    found = dict(zip(("mean", "std"), normalised.pop(), strict=True)) if len(normalised) == 1 else {}
    return found | ({"interpolation": resized.pop()} if len(resized) == 1 else {})


def _with(own: Found, **values: Any) -> Found:
    return Found(**{"arch": own.arch, "model_cfg": own.model_cfg, "published": own.published} | values)


def _of_tag(own: Found, arch: str, pretrained: str | None) -> Found:
    open_clip = import_open_clip()

    if pretrained is None:
        return own
    tags = open_clip.list_pretrained_tags_by_model(arch)
    if pretrained not in tags:
        kind = (
            "no such file" if looks_like_path(pretrained) else f"no tag of {arch} (it has: {', '.join(tags) or 'none'})"
        )
        raise WeightsError(f"model.pretrained={pretrained}: {kind}{HOW_ELSE}")
    cfg = open_clip.get_pretrained_cfg(arch, pretrained)
    published = {key: cfg[key] for key in ("mean", "std", "interpolation") if cfg.get(key) is not None}
    quick_gelu = bool(cfg.get("quick_gelu", False))
    refuse_other_gelu(own.model_cfg, arch, quick_gelu, f"model.pretrained={pretrained}")
    # From the cache where it is there, so that a hub that does not answer is not waited for.
    file = _cached_file(cfg)
    if file is None and cfg.get("hf_hub") and not hub_answers():
        raise WeightsError(
            f"model.pretrained={pretrained}: not in the local cache, and the hub does not answer{HOW_ELSE}"
        )
    if file is None:
        try:
            file = Path(open_clip.download_pretrained(cfg))
        except Exception as error:  # the client's library and its errors change from version to version
            reason = " ".join(str(error).split())[:200]
            raise WeightsError(f"model.pretrained={pretrained}: can't be downloaded ({reason}){HOW_ELSE}") from error
    return _with(own, name=pretrained, file=file, published=published, quick_gelu=quick_gelu)


def refuse_other_gelu(model_cfg: dict[str, Any], arch: str, quick_gelu: bool | None, what: str) -> None:
    """Refuses weights that were trained with QuickGELU in an architecture that has it not.

    Raises:
        WeightsError: If it is so.
    """
    open_clip = import_open_clip()

    if not quick_gelu or model_cfg.get("quick_gelu", False) or "timm_model_name" in model_cfg.get("vision_cfg", {}):
        return
    other = f"{arch}-quickgelu"
    take = f"model.arch={other}" if other in open_clip.list_models() else f'a folder whose {_CONFIG} says "quick_gelu"'
    raise WeightsError(f"{what}: these weights were trained with QuickGELU, which {arch} has not; take {take}")


def _of_folder(own: Found, folder: Path) -> Found:
    """Weights in a folder, for an architecture that is told apart from it."""
    published, quick_gelu = own.published or usual_published(own.arch), None
    if (folder / _CONFIG).is_file():
        told = _of_config(folder / _CONFIG, str(folder))
        published, quick_gelu = told.published or published, bool(told.model_cfg.get("quick_gelu", False))
        refuse_other_gelu(own.model_cfg, own.arch, quick_gelu, f"model.pretrained={folder}")
    file = file_in(folder)
    return _with(
        own, name=f"{folder.resolve().name}/{file.name}", file=file, published=published, quick_gelu=quick_gelu
    )


def _of_config(path: Path, arch: str) -> Found:
    """A model whose configuration lies in a folder, as open_clip writes it.

    Raises:
        WeightsError: If it is not there, or not readable.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        model_cfg, published = content["model_cfg"], content.get("preprocess_cfg") or {}
        if not {"embed_dim", "vision_cfg", "text_cfg"} <= model_cfg.keys():
            raise KeyError("embed_dim, vision_cfg or text_cfg")
        known = {key: published[key] for key in ("mean", "std", "interpolation") if published.get(key) is not None}
    except OSError as error:
        raise WeightsError(
            f"model.arch={arch}: no {_CONFIG} in {path.parent}; expected a folder with that and the weights"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"model.arch={arch}: {path}: not open_clip's configuration of a model ({error})") from error
    return Found(f"{FOLDER}{path.parent}", model_cfg, arch_name(arch), published=known)


def file_in(folder: Path) -> Path:
    """The weights in a folder.

    Raises:
        WeightsError: If there are none, or nobody can tell which.
    """
    for name in _FILES:
        if (folder / name).is_file():
            return folder / name
    others = sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES and path.is_file())
    if len(others) == 1:
        return others[0]
    what = ", ".join(path.name for path in others[:4]) or "none"
    raise WeightsError(f"{folder}: expected one file of weights, such as {_FILES[0]}; it holds {what}")


def of_hub(repo: str, name: str, *, online: bool) -> Path:
    """A file of a hub's repository, from the local cache where it is not ``online``; raises what the client does."""
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repo, name, local_files_only=not online))


def looks_like_path(name: str) -> bool:
    """Whether a name is that of a file or folder, there or not."""
    return "/" in name or "\\" in name or Path(name).suffix in _SUFFIXES


def _cached_file(cfg: dict[str, Any]) -> Path | None:
    """The tag's file in the hub's local cache, if it was downloaded before."""
    from huggingface_hub import try_to_load_from_cache

    repo, _, name = (cfg.get("hf_hub") or "").rpartition("/")
    if not repo:
        return None
    for candidate in [name] if name else _HUB_FILES:
        found = try_to_load_from_cache(repo, candidate)
        if isinstance(found, str):
            return Path(found)
    return None
