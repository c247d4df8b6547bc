"""A weights file as people have it to the names of open_clip: which of the many wrappings it is, told by its content.

No object is made of what a file says but tensors and plain containers: ``weights_only=True``, safetensors, and for
TorchScript archives ``torchscript.py``.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clipfeat.errors import WeightsError
from clipfeat.model.torchscript import is_torchscript, read_torchscript

log = logging.getLogger(__name__)

State = dict[str, torch.Tensor]

_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "weights", "net", "network")
"""Keys under which trainers keep the weights, beside the optimizer's state and the number of the epoch."""

_PREFIXES = ("module.", "_orig_mod.", "model.", "visual.", "trunk.")
"""What may stand before every name, in this order: trainers', compilers', and open_clip's of its towers from timm."""

_OPENAI_BUFFERS = ("input_resolution", "context_length", "vocab_size")
"""Numbers that OpenAI's own archives hold beside the weights, and state dicts that were taken out of them."""

_GIT_LFS = b"version https://git-lfs"

_TRANSFORMERS = "vision_model.embeddings.class_embedding"
"""A weight that transformers' CLIP has, and its SigLIP has not."""


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        state: weights by open_clip's names.
        quick_gelu: whether they were trained with QuickGELU; None where the file does not tell.
        mapped: whether they change where the file does, because they are parts of it and no copies.
    """

    state: State
    quick_gelu: bool | None = None
    mapped: bool = False

    @property
    def looks_like_openai(self) -> bool:
        """Whether products hold numbers of half precision and norms don't: so were OpenAI's weights published."""
        product, norm = self.state.get("visual.conv1.weight"), self.state.get("visual.ln_post.weight")
        return product is not None and norm is not None and _is_half(product) and not _is_half(norm)


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads the weights of a CLIP model: a state dict, plain or in a trainer's wrapping, OpenAI's or transformers'.

    Raises:
        WeightsError: If it is no such file; the message says what it is.
    """
    content, mapped = _content(path)
    found = _tensors(content, path)
    state = _under_visual(found, path)
    if any(name.startswith("vision_model.") for name in state):
        return Checkpoint(_of_transformers(state, path), _hidden_act(path.parent / "config.json"), mapped)
    # Follows from the model; as a tensor it is in archives alone.
    state = {name: values for name, values in state.items() if name.rpartition(".")[2] != "attn_mask"}
    marked = [name for name in _OPENAI_BUFFERS if name in state]
    state = {name: values for name, values in state.items() if name not in marked}
    return Checkpoint(state, True if marked else None, mapped)


def read_state(path: Path) -> State:
    """The tensors of a file by the names that it has for them, out of a trainer's wrapping and without its prefix.

    Raises:
        WeightsError: If it is no file of weights; the message says what it is.
    """
    state = _tensors(_content(path)[0], path)
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): values for name, values in state.items()}
    return state


def _content(path: Path) -> tuple[Any, bool]:
    """What a file holds, and whether it is mapped."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
        _refuse_what_is_no_weights(path, head)
        if head[8:9] == b"{" and head[:1] != b"P":
            from safetensors.torch import load_file

            return load_file(path), True
        if is_torchscript(path):
            return read_torchscript(path), False
        with path.open("rb") as file:  # told by its content: by a name, torch would choose for itself
            return torch.load(file, map_location="cpu", weights_only=True), False
    except WeightsError:
        raise
    except Exception as error:  # pickle, zip, safetensors and torch have no common base
        reason = " ".join(str(error).split())
        if "weights_only" in reason.lower():
            kind = _global_in(reason)
            raise WeightsError(
                f"{path}: holds {kind} besides tensors, which is not run; save its state_dict() alone, as "
                f".safetensors or .pt"
            ) from error
        raise WeightsError(
            f"{path}: not a checkpoint, or damaged ({reason[:200] or type(error).__name__}); copy or download it again"
        ) from error


def _refuse_what_is_no_weights(path: Path, head: bytes) -> None:
    start = f"{path}: "
    if not head:
        raise WeightsError(f"{start}not a checkpoint but an empty file; copy or download it again")
    if head.startswith(_GIT_LFS):
        raise WeightsError(f"{start}not a checkpoint but a Git-LFS pointer to one: run 'git lfs pull' where it lies")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise WeightsError(f"{start}not a checkpoint but a web page; download the file itself")


def _global_in(reason: str) -> str:
    """The name of what a pickle asks for beside tensors, in torch's message."""
    for mark in ("Unsupported global: GLOBAL ", "GLOBAL "):
        if mark in reason:
            return reason.split(mark, 1)[1].split(" ", 1)[0]
    return "Python objects"


def _tensors(content: Any, path: Path) -> State:
    """The dictionary of tensors in a file's content, however deep a trainer put it."""
    for _ in range(4):
        if not isinstance(content, Mapping):
            break
        tensors = {str(name): values for name, values in content.items() if isinstance(values, torch.Tensor)}
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None or len(tensors) > 2:  # a trainer may keep a step or two as tensors
            if tensors:
                return tensors
            break
        content = inner
    what = f"a dictionary of {_listed(content)}" if isinstance(content, Mapping) else type(content).__name__
    raise WeightsError(f"{path}: not a checkpoint of CLIP but {what}; expected a state_dict of tensors")


def _under_visual(state: State, path: Path) -> State:
    """Takes off what trainers put before every name (``module.``, ``model.``, ``_orig_mod.``).

    Tensors that lie beside the model, such as those of a loss, are left out.

    Raises:
        WeightsError: If several models are in there, or none.
    """
    if any(name.startswith("image_encoder.") for name in state):  # MobileCLIP's own, which open_clip converts
        return state
    for mark in ("visual.", "vision_model."):
        before = {name[: name.index(mark)] for name in state if name.startswith(mark) or f".{mark}" in name}
        if len(before) > 1:
            raise WeightsError(
                f"{path}: holds several models ({', '.join(sorted(p or '(none)' for p in before))}); "
                f"save one of them alone"
            )
        if before:
            prefix = before.pop()
            others = [name for name in state if not name.startswith(prefix)]
            if others:
                log.info("%s: %d tensors beside the model are left out (%s)", path, len(others), _listed(others))
            return {name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)}
    for mark in ("conv1.weight", "patch_embed.proj.weight"):  # an image tower alone
        before = {name.removesuffix(mark) for name in state if name == mark or name.endswith(f".{mark}")}
        if len(before) == 1:
            prefix = before.pop().removesuffix("trunk.")
            return {f"visual.{name.removeprefix(prefix)}": v for name, v in state.items() if name.startswith(prefix)}
    raise WeightsError(f"{path}: not a checkpoint of CLIP; it holds {_listed(state)}")


def _of_transformers(state: State, path: Path) -> State:
    """Weights of transformers' ``CLIPModel`` or ``CLIPVisionModel`` by open_clip's names, bit for bit."""
    if _TRANSFORMERS not in state:
        raise WeightsError(
            f"{path}: weights of transformers that are not CLIP's (it holds {_listed(state)}); "
            f"take open_clip's file of the same model"
        )
    out: State = {}
    for name, values in state.items():
        if name.endswith("position_ids"):
            continue
        if ".self_attn." in name and name.split(".self_attn.")[1].split("_")[0] in "qkv":
            if ".q_proj." in name:
                parts = [state.get(name.replace(".q_proj.", f".{letter}_proj.")) for letter in "qkv"]
                if any(part is None for part in parts):
                    raise WeightsError(f"{path}: {name} without its key and value; copy it again")
                ours = _renamed(name.replace("self_attn.q_proj.", "attn.in_proj_"))
                out[ours] = torch.cat([part for part in parts if part is not None])
            continue
        ours = _renamed(name)
        out[ours] = values.T if ours in ("visual.proj", "text_projection") else values
    return out


_NAMES = {
    "visual_projection.weight": "visual.proj",
    "text_projection.weight": "text_projection",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
}
_PARTS = {
    "vision_model.pre_layrnorm.": "visual.ln_pre.",
    "vision_model.post_layernorm.": "visual.ln_post.",
    "text_model.final_layer_norm.": "ln_final.",
    "vision_model.encoder.layers.": "visual.transformer.resblocks.",
    "text_model.encoder.layers.": "transformer.resblocks.",
    ".self_attn.out_proj.": ".attn.out_proj.",
    ".mlp.fc1.": ".mlp.c_fc.",
    ".mlp.fc2.": ".mlp.c_proj.",
    ".layer_norm1.": ".ln_1.",
    ".layer_norm2.": ".ln_2.",
}
"""What transformers calls the parts of CLIP, and what open_clip calls them."""


def _renamed(name: str) -> str:
    name = _NAMES.get(name, name)
    for theirs, ours in _PARTS.items():
        name = name.replace(theirs, ours)
    return name


def _hidden_act(config: Path) -> bool | None:
    """Whether the ``config.json`` of transformers beside a file says QuickGELU; None where there is none."""
    try:
        about = json.loads(config.read_text(encoding="utf-8"))
        about = about.get("vision_config") or about
        return bool(about.get("hidden_act", "quick_gelu") == "quick_gelu")
    except (OSError, ValueError, AttributeError):
        return None


def _is_half(values: torch.Tensor) -> bool:
    return torch.equal(values.half().float(), values.float())


def _listed(names: Any) -> str:
    names = [str(name) for name in names]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "nothing"
