"""The frozen image encoder: open_clip's visual tower.

Two kinds of tower give patch tokens: open_clip's own ``VisionTransformer`` and, wrapped as ``TimmModel``, timm's ViTs
(SigLIP, EVA, PE and others).
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from clipfeat.errors import WeightsError
from clipfeat.model.attention import VARIANTS, can_vary, run_last_block
from clipfeat.model.pretrained import load_clip


@dataclass(frozen=True)
class EncoderCard:
    """What is known of an encoder without loading it; JSON can hold it.

    Attributes:
        width: channels of a token.
        patch_size: side of a patch in pixels.
        mean: of the input's channels, 0 to 1.
        std: of the input's channels, 0 to 1.
        weights: where they come from: a tag, a file's name, or "random".
        weights_sha256: of the tower's weights as they were published, whatever precision and input size they run at;
            first 16 digits.
        arch_sha256: of the tower's architecture, first 16 digits.
        interpolation: bicubic or bilinear, as its pictures were resized when it was published.
        published_size: side in pixels of the square input that it was published for, in whole patches.
    """

    width: int
    patch_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    weights: str
    weights_sha256: str
    arch_sha256: str
    interpolation: str
    published_size: int


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
        weights_sha256: of the tower's weights as they were published, whatever precision and input size they run at;
            first 16 digits.
        arch_sha256: of the tower's architecture, first 16 digits.
        interpolation: bicubic or bilinear, as its pictures were resized when it was published.
        published_size: side in pixels of the square input that it was published for, in whole patches.
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
    arch_sha256: str
    interpolation: str
    published_size: int
    attention: str = "vanilla"

    @property
    def card(self) -> EncoderCard:
        """What can be known of this encoder without loading it again."""
        return EncoderCard(
            width=self.width,
            patch_size=self.patch_size,
            mean=self.mean,
            std=self.std,
            weights=self.weights,
            weights_sha256=self.weights_sha256,
            arch_sha256=self.arch_sha256,
            interpolation=self.interpolation,
            published_size=self.published_size,
        )

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
        arch: see ``weights.find_weights``.
        pretrained: see ``weights.find_weights``; random weights are from ``seed``.
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
    loaded = load_clip(
        arch,
        pretrained,
        input_size=input_size,
        precision=precision,
        device=device,
        allow_random=allow_random,
        seed=seed,
        text=False,
    )
    visual = loaded.model.visual.requires_grad_(False)
    _check_tower(visual, arch, attention)
    width, patch_size = _width_and_patch_size(visual)
    return Encoder(
        visual=visual,
        width=width,
        patch_size=patch_size,
        input_size=input_size,
        mean=loaded.mean,
        std=loaded.std,
        weights=loaded.weights,
        weights_sha256=loaded.weights_sha256,
        arch_sha256=loaded.found.arch_sha256,
        interpolation=loaded.interpolation,
        published_size=loaded.found.image_size - loaded.found.image_size % patch_size,
        attention=attention,
    )


def attending(encoder: Encoder, arch: str, attention: str) -> Encoder:
    """The same weights with a last block that attends so.

    Raises:
        WeightsError: If it can't.
    """
    _check_tower(encoder.visual, arch, attention)
    return replace(encoder, attention=attention)


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
