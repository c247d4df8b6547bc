"""The frozen image encoder: open_clip's visual tower, and where its weights come from.

Two kinds of tower give patch tokens: open_clip's own ``VisionTransformer`` and, wrapped as ``TimmModel``, timm's ViTs
(SigLIP, EVA, PE and others).
"""

import logging
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from clipfeat.errors import WeightsError
from clipfeat.model.attention import VARIANTS, can_vary, run_last_block
from clipfeat.system.messages import root_logger_kept

log = logging.getLogger(__name__)

HUB_TIMEOUT_S = 5.0
"""Longest wait for a first answer from the hub; its own client would retry for most of a minute."""


@dataclass(frozen=True)
class EncoderCard:
    """What is known of an encoder without loading it; JSON can hold it.

    Attributes:
        width: channels of a token.
        patch_size: side of a patch in pixels.
        mean: of the input's channels, 0 to 1.
        std: of the input's channels, 0 to 1.
        weights: where they come from: a tag, a file's name, or "random".
        weights_sha256: of the tower's weights, first 16 digits.
    """

    width: int
    patch_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    weights: str
    weights_sha256: str


@dataclass(frozen=True)
class Encoder:
    """A frozen visual tower and what one must know to feed it.

    Attributes:
        visual: open_clip's VisionTransformer or TimmModel, in eval mode, without gradients.
        width: channels of a token.
        patch_size: side of a patch in pixels.
        input_size: side of the square input in pixels.
        mean: of the input's channels, 0 to 1.
        std: of the input's channels, 0 to 1.
        weights: where they come from: a tag, a file's name, or "random".
        weights_sha256: of the tower's weights, first 16 digits.
        attention: how its last block attends: vanilla, or one of ``attention.VARIANTS``.
    """

    visual: nn.Module
    width: int
    patch_size: int
    input_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    weights: str
    weights_sha256: str
    attention: str = "vanilla"

    @property
    def card(self) -> EncoderCard:
        """What can be known of this encoder without loading it again."""
        return EncoderCard(self.width, self.patch_size, self.mean, self.std, self.weights, self.weights_sha256)

    @property
    def grid(self) -> int:
        """Tokens along one side of the map."""
        return self.input_size // self.patch_size

    def tokens(self, inputs: torch.Tensor) -> torch.Tensor:
        """The last block's patch tokens after ``ln_post``, without ``proj``: (B, 3, S, S) to (B, width, grid, grid)."""
        return self.encode(inputs)[0]

    def encode(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One forward pass: the patch tokens, and what stands for the whole picture.

        Args:
            inputs: (B, 3, S, S).

        Returns:
            ``tokens`` (B, width, grid, grid), and (B, width) what open_clip pools of them before ``proj``: the class
            token after ``ln_post``, or the mean of the patch tokens in towers that pool by the mean.
        """
        visual: Any = self.visual
        if self.attention == "vanilla":
            out = visual.forward_intermediates(
                inputs,
                indices=1,
                normalize_intermediates=True,
                intermediates_only=True,
                output_fmt="NLC",
                output_extra_tokens=True,
            )
            tokens, extra = out["image_intermediates"][0], out.get("image_intermediates_prefix")
            by_mean = not extra or getattr(visual, "pool_type", "tok") == "avg"
            whole = tokens.mean(1) if by_mean else extra[0][:, 0]
        else:
            block, before = visual.transformer.resblocks[-1], self._before_last_block(inputs)
            varied = run_last_block(block, before, self.grid, VARIANTS[self.attention])
            tokens = visual.ln_post(varied)[:, 1:]
            # The variants are made for the patches; the class token is that of the block as it was trained.
            plain = visual.ln_post(block(before))
            whole = plain[:, 1:].mean(1) if visual.pool_type == "avg" else plain[:, 0]
        # (B, L, D) is channels-last already, which is how the sampler wants to read it.
        return tokens.reshape(len(tokens), self.grid, self.grid, self.width).permute(0, 3, 1, 2), whole

    def _before_last_block(self, inputs: torch.Tensor) -> torch.Tensor:
        """What the last block takes: (B, 1 + grid², width), class token first."""
        visual: Any = self.visual
        out = visual.forward_intermediates(
            inputs,
            indices=[len(visual.transformer.resblocks) - 2],
            stop_early=True,
            intermediates_only=True,
            output_fmt="NLC",
            output_extra_tokens=True,
        )
        return torch.cat((out["image_intermediates_prefix"][0], out["image_intermediates"][0]), 1)

    def project(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens in text space: what the tower would give for the whole picture if all its tokens were this one.

        For open_clip's own ViTs that is ``tokens @ proj``. A timm tower pools by a layer of its own (SigLIP: attention
        and an MLP), which sees each token alone here.

        Args:
            tokens: (B, width, grid, grid) as ``tokens`` gives them.

        Returns:
            (B, D, grid, grid) float32, comparable by cosine to text embeddings of the same model; not normalised.
        """
        visual: Any = self.visual
        rows = tokens.permute(0, 2, 3, 1)
        if _is_timm(visual):
            # The pooling may leave out the places of class and register tokens: the token stands there as well.
            copies = 1 + visual.trunk.num_prefix_tokens
            alone = rows.reshape(-1, 1, self.width).expand(-1, copies, -1)
            projected = visual.head(visual.trunk.forward_head(alone)).reshape(*rows.shape[:3], -1).float()
        else:
            # Cheap, and in half precision it would lose digits for nothing.
            projected = rows.float() @ visual.proj.float()
        return projected.permute(0, 3, 1, 2)


def load_encoder(
    arch: str,
    pretrained: str | None,
    *,
    input_size: int = 224,
    precision: str = "fp32",
    device: torch.device | str = "cpu",
    allow_random: bool = False,
    seed: int = 0,
    attention: str = "vanilla",
) -> Encoder:
    """Loads an open_clip ViT and keeps its frozen visual tower.

    Args:
        arch: name of an open_clip model, or ``hf-hub:<org>/<name>``.
        pretrained: a tag of open_clip, a checkpoint file, or None for random weights from ``seed``.
        input_size: side of the square input in pixels; the position embedding is interpolated to it on loading.
        precision: fp32, fp16 or bf16; LayerNorm stays in float32.
        device: where the tower lives.
        allow_random: warn and use random weights where the pretrained ones can't be had.
        seed: of random weights.
        attention: how the last block attends: vanilla, maskclip, sclip, clearclip or naclip.

    Raises:
        WeightsError: If there is no such model, its weights can't be had or don't fit, it gives no patch tokens, or
            its last block can't attend otherwise.
    """
    model, source = load_clip(
        arch,
        pretrained,
        input_size=input_size,
        precision=precision,
        device=device,
        allow_random=allow_random,
        seed=seed,
    )
    visual = model.visual.requires_grad_(False)
    del model
    _check_tower(visual, arch, attention)
    width, patch_size = _width_and_patch_size(visual)
    return Encoder(
        visual=visual,
        width=width,
        patch_size=patch_size,
        input_size=input_size,
        mean=_triple(visual.image_mean),
        std=_triple(visual.image_std),
        weights=source,
        weights_sha256=state_hash(visual),
        attention=attention,
    )


def attending(encoder: Encoder, arch: str, attention: str) -> Encoder:
    """The same weights with a last block that attends so.

    Raises:
        WeightsError: If it can't.
    """
    _check_tower(encoder.visual, arch, attention)
    return replace(encoder, attention=attention)


def load_clip(
    arch: str,
    pretrained: str | None,
    *,
    input_size: int,
    precision: str,
    device: torch.device | str,
    allow_random: bool,
    seed: int,
) -> tuple[Any, str]:
    """Loads an open_clip model with both of its towers, in eval mode; see ``load_encoder``.

    Returns:
        The model, and where its weights come from: a tag, a file's name, or "random".

    Raises:
        WeightsError: If there is no such model, or its weights can't be had or don't fit.
    """
    import open_clip

    source = "random" if pretrained is None and not arch.startswith("hf-hub:") else _where(arch, pretrained)
    if source != "random":
        try:
            extra = _resolve(arch, pretrained)
        except WeightsError as error:
            if not allow_random:
                raise
            log.warning("WARNING: %s", error)
            source = "random"
    if source == "random":
        warn_of_random_weights()
        _check_arch(arch)
        extra = {"pretrained": None}
    with torch.random.fork_rng(devices=[]), root_logger_kept():
        torch.manual_seed(seed)
        try:
            model = open_clip.create_model(
                arch, precision=precision, device=device, force_image_size=input_size, **extra
            )
        except (RuntimeError, ValueError, OSError, KeyError, TypeError, EOFError) as error:
            reason = " ".join(str(error).split())[:300]
            raise WeightsError(f"model.pretrained={pretrained}: can't be loaded into {arch} ({reason})") from error
        except Exception as error:  # unpickling errors have no common base
            if type(error).__name__ not in ("UnpicklingError", "SafetensorError"):
                raise
            raise WeightsError(f"model.pretrained={pretrained}: not a checkpoint of {arch} ({error})") from error
    return model.eval(), source


def warn_of_random_weights() -> None:
    """Says so, loudly."""
    log.warning("WARNING: weights=random: the arithmetic is right, the features mean nothing")


def why_not_to_be_had(arch: str, pretrained: str | None) -> str:
    """Why these weights can't be had; empty if they can. Loads nothing, and waits for a hub no longer than seconds."""
    try:
        _resolve(arch, pretrained)
    except WeightsError as error:
        return str(error)
    return ""


def state_hash(module: nn.Module) -> str:
    """First 16 digits of the SHA-256 over a module's weights, by name; independent of their precision's storage."""
    digest = sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().float().numpy()).data)
    return digest.hexdigest()[:16]


def _where(arch: str, pretrained: str | None) -> str:
    """What is written as the weights' source: a tag or a file's name, never a path of this machine."""
    if pretrained is None:
        return arch
    return Path(pretrained).name if Path(pretrained).exists() else pretrained


def _check_arch(arch: str) -> None:
    import open_clip

    if arch.startswith("hf-hub:"):
        raise WeightsError(f"model.arch={arch}: a model of the hub has no random weights; name an open_clip model")
    if arch not in open_clip.list_models():
        near = [m for m in open_clip.list_models() if m.lower().startswith(arch.lower()[:5])][:6]
        raise WeightsError(f"model.arch={arch}: open_clip knows no such model; near it: {', '.join(near) or 'none'}")


def _resolve(arch: str, pretrained: str | None) -> dict[str, Any]:
    """What ``create_model`` needs to load these weights without waiting for a hub that does not answer."""
    import open_clip

    how_else = "; give a checkpoint file, or model.pretrained=null for random weights"
    if arch.startswith("hf-hub:"):
        if not hub_answers():
            raise WeightsError(f"model.arch={arch}: the model hub does not answer{how_else}")
        return {"pretrained": None}
    _check_arch(arch)
    assert pretrained is not None  # noqa: S101 - for the type checker; None means random and never comes here
    if Path(pretrained).is_file():
        return {"pretrained": pretrained, "force_preprocess_cfg": _usual_normalisation(arch)}
    tags = open_clip.list_pretrained_tags_by_model(arch)
    if pretrained not in tags:
        kind = (
            "no such file"
            if _looks_like_path(pretrained)
            else f"no tag of {arch} (it has: {', '.join(tags) or 'none'})"
        )
        raise WeightsError(f"model.pretrained={pretrained}: {kind}{how_else}")
    cfg = open_clip.get_pretrained_cfg(arch, pretrained)
    if cfg.get("quick_gelu", False) and not (open_clip.get_model_config(arch) or {}).get("quick_gelu", False):
        raise WeightsError(
            f"model.pretrained={pretrained}: these weights were trained with QuickGELU, which {arch} has not; "
            f"take model.arch={arch}-quickgelu"
        )
    cached = _cached_file(cfg)
    if cached is not None:
        # Given as a file, so that a hub that does not answer is not waited for; the tag's own normalisation goes along.
        return {
            "pretrained": str(cached),
            "force_preprocess_cfg": {key: cfg[key] for key in ("mean", "std") if key in cfg},
        }
    if cfg.get("hf_hub") and not hub_answers():
        raise WeightsError(
            f"model.pretrained={pretrained}: not in the local cache, and the hub does not answer{how_else}"
        )
    return {"pretrained": pretrained}


def _usual_normalisation(arch: str) -> dict[str, Any]:
    """Mean and std of the model's published weights: a file does not tell its own, and SigLIP's are not CLIP's."""
    import open_clip

    cfgs = [open_clip.get_pretrained_cfg(arch, tag) for tag in open_clip.list_pretrained_tags_by_model(arch)]
    found = {(cfg["mean"], cfg["std"]) for cfg in cfgs if "mean" in cfg and "std" in cfg}
    if len(found) > 1:
        log.warning(
            "WARNING: model.arch=%s: its published weights differ in mean and std, and CLIP's own are taken; "
            "give a tag of open_clip if yours are of another", arch,
        )  # fmt: skip
    return dict(zip(("mean", "std"), found.pop(), strict=True)) if len(found) == 1 else {}


def _looks_like_path(name: str) -> bool:
    return "/" in name or "\\" in name or Path(name).suffix in (".pt", ".pth", ".bin", ".safetensors", ".ckpt")


def _cached_file(cfg: dict[str, Any]) -> Path | None:
    """The tag's file in the hub's local cache, if it was downloaded before."""
    from huggingface_hub import try_to_load_from_cache

    repo, _, name = (cfg.get("hf_hub") or "").rpartition("/")
    if not repo:
        return None
    names = [name] if name else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    for candidate in names:
        found = try_to_load_from_cache(repo, candidate)
        if isinstance(found, str):
            return Path(found)
    return None


def hub_answers(timeout_s: float = HUB_TIMEOUT_S) -> bool:
    """Whether the model hub answers at all, within seconds."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=timeout_s)
    except Exception:  # noqa: BLE001 - the client's library and its errors change from version to version
        return False
    return True


def _is_timm(visual: Any) -> bool:
    return hasattr(visual, "trunk")


def _width_and_patch_size(visual: Any) -> tuple[int, int]:
    if _is_timm(visual):
        return visual.trunk.embed_dim, visual.trunk.patch_embed.feat_ratio()
    return visual.conv1.out_channels, visual.patch_size[0]


def _check_tower(visual: Any, arch: str, attention: str) -> None:
    needed = ("blocks", "patch_embed", "num_prefix_tokens") if _is_timm(visual) else ("conv1", "patch_size", "proj")
    if not all(hasattr(visual.trunk if _is_timm(visual) else visual, name) for name in needed):
        name = type(visual.trunk if _is_timm(visual) else visual).__name__
        raise WeightsError(f"model.arch={arch}: {name} gives no ViT patch tokens; take a ViT such as ViT-B-16")
    if getattr(visual, "attn_pool", None) is not None:
        raise WeightsError(
            f"model.arch={arch}: its attentional pooling leaves no map of tokens; take a ViT such as ViT-B-16"
        )
    if attention != "vanilla" and not can_vary(visual):
        raise WeightsError(
            f"model.attention={attention}: changes the last block of open_clip's own ViTs, which {arch} is not; "
            f"take model.attention=vanilla, or a ViT such as ViT-B-16"
        )


def _triple(values: Any) -> tuple[float, float, float]:
    if isinstance(values, int | float):
        return (float(values),) * 3
    red, green, blue = values
    return float(red), float(green), float(blue)
