"""The frozen image encoder: open_clip's visual tower.

Two kinds of tower give patch tokens: open_clip's own ``VisionTransformer``, and timm's ViTs, wrapped as ``TimmModel``
by open_clip (SigLIP, EVA, PE and others) or alone (DINOv3 and others, see ``timm_tower.py``).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from clipfeat.errors import WeightsError
from clipfeat.model.attention import VARIANTS, can_vary, run_last_block
from clipfeat.model.config import TIMM
from clipfeat.model.pretrained import load_clip
from clipfeat.model.sc_clip import Levels, calibrated
from clipfeat.model.timm_tower import is_naflex, load_timm

Blocks = Callable[[torch.Tensor], Sequence[torch.Tensor]]
"""See ``Encoder.blocks``."""


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
        pooling: what stands for the whole picture, see ``Encoder.encode``: token, avg, map or another word of timm's.
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
    pooling: str


@dataclass(frozen=True)
class Encoder:
    """A frozen visual tower and what one must know to feed it.

    Attributes:
        visual: open_clip's VisionTransformer or TimmModel, or a TimmTower, in eval mode, without gradients.
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
        attention: how its last block attends: vanilla, one of ``attention.VARIANTS``, or sc_clip.
        compute: does what ``blocks`` does in the place of torch; None for torch.
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
    compute: Blocks | None = None

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
            pooling=self.pooling,
        )

    @property
    def pooling(self) -> str:
        """What stands for the whole picture: token, avg, map (by attention) or another word of timm's."""
        visual: Any = self.visual
        if _is_timm(visual):
            return str(getattr(visual.trunk, "global_pool", None) or "none")
        return "avg" if visual.pool_type == "avg" else "token"

    @property
    def takes_any_aspect(self) -> bool:
        """Whether its input may be of any (h, w) in whole patches: timm's NaFlex."""
        return _is_timm(self.visual) and is_naflex(self.visual.trunk)

    @property
    def grid(self) -> int:
        """Tokens along one side of the map of a square input."""
        return self.input_size // self.patch_size

    def tokens(self, inputs: torch.Tensor) -> torch.Tensor:
        """The last block's patch tokens after the last norm, unprojected: (B, 3, S, S) to (B, width, grid, grid)."""
        return self.encode(inputs)[0]

    def encode(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One forward pass: the patch tokens, and what stands for the whole picture.

        Args:
            inputs: (B, 3, S, S), or (B, 3, h, w) of whole patches where ``takes_any_aspect``.

        Returns:
            ``tokens`` (B, width, grid, grid) after the last norm, each token alone where the tower has that norm behind
            its pooling (ViTamin, CLIPA); and (B, width) what the tower itself pools before its projection: open_clip's
            ``_pool``, timm's ``forward_head(…, pre_logits=True)``. Where the pooling is the projection (SigLIP's
            attention), there is nothing before it, and this is what is compared to texts.

        Raises:
            WeightsError: If a tower of timm gives no square map of tokens.
        """
        visual: Any = self.visual
        hidden = (self.compute or self.blocks)(inputs)
        rows, columns = (side // self.patch_size for side in inputs.shape[-2:])
        if _is_timm(visual):
            tokens, whole = self._encode_by_timm(visual.trunk, hidden[0], rows * columns)
        else:
            patches, last = self._encode_by_open_clip(hidden)
            tokens, whole = visual.ln_post(patches), visual._pool(last)[0]
        # (B, L, D) is channels-last already, which is how the sampler wants to read it.
        return tokens.reshape(len(tokens), rows, columns, self.width).permute(0, 3, 1, 2), whole

    def blocks(self, inputs: torch.Tensor) -> list[torch.Tensor]:
        """Nearly all of the work of ``encode``: what the tower has after the blocks that the rest begins with.

        Args:
            inputs: (B, 3, S, S).

        Returns:
            (B, prefix + grid², width) each, prefix tokens first: of timm's towers their features; of open_clip's own
            ViT what it has after each of the blocks that its attention looks at.
        """
        visual: Any = self.visual
        if _is_timm(visual):
            return [visual.trunk.forward_features(inputs)]
        out = visual.forward_intermediates(
            inputs,
            indices=[number - 1 for number in self._levels(visual)],
            stop_early=True,
            intermediates_only=True,
            output_fmt="NLC",
            output_extra_tokens=True,
        )
        tokens = zip(out["image_intermediates_prefix"], out["image_intermediates"], strict=True)
        return [torch.cat(parts, 1) for parts in tokens]

    def _levels(self, visual: Any) -> Sequence[int]:
        """After how many blocks of open_clip's own ViT its tokens are looked at."""
        depth = len(visual.transformer.resblocks)
        if self.attention == "sc_clip":
            return Levels.of(depth).used
        return [depth if self.attention == "vanilla" else depth - 1]

    def _encode_by_timm(self, trunk: Any, features: torch.Tensor, cells: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens (B, cells, width) without those of class, registers and such, and what is pooled (B, width)."""
        tokens = features[:, trunk.num_prefix_tokens :]
        if tokens.shape[1:] != (cells, self.width):
            raise WeightsError(
                f"{type(trunk).__name__} of timm: gives {tuple(tokens.shape[1:])} and not the {cells} tokens of "
                f"{self.width} channels of a ViT; take another model.arch"
            )
        if norm_is_behind_pooling(trunk):
            tokens = trunk.fc_norm(tokens)
        return tokens, trunk.forward_head(features, pre_logits=True)

    def _encode_by_open_clip(self, hidden: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Patches (B, grid², width) before the last norm, and the tokens of the last block as it was trained."""
        visual: Any = self.visual
        block, depth = visual.transformer.resblocks[-1], len(visual.transformer.resblocks)
        if self.attention == "vanilla":
            return hidden[0][:, 1:], hidden[0]
        after = dict(zip(self._levels(visual), hidden, strict=True))
        if self.attention == "sc_clip":
            patches = calibrated(block, after, Levels.of(depth), self.grid)
        else:
            patches = run_last_block(block, after[depth - 1], self.grid, VARIANTS[self.attention])[:, 1:]
        # The variants are made for the patches; the whole picture is that of the block as it was trained.
        return patches, block(after[depth - 1])

    def project(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens in text space: what the tower would give for the whole picture if all its tokens were this one.

        For open_clip's own ViTs that is ``tokens @ proj``. A timm tower pools by a layer of its own (SigLIP: attention
        and an MLP), which sees each token alone here.

        Args:
            tokens: (B, width, grid, grid) as ``tokens`` gives them.

        Returns:
            (B, D, grid, grid) float32, comparable by cosine to text embeddings of the same model; not normalised.

        Raises:
            WeightsError: If there is no such space: timm's models have no text tower.
        """
        visual: Any = self.visual
        if not (hasattr(visual, "head") or hasattr(visual, "proj")):
            raise WeightsError("timm's models have no space of texts; take one of open_clip, such as model=siglip2_b16")
        rows = tokens.permute(0, 2, 3, 1)
        if _is_timm(visual) and norm_is_behind_pooling(visual.trunk):
            # Tokens of one kind are pooled to that token, and its norm they have already.
            projected = visual.head(visual.trunk.head(rows)).float()
        elif _is_timm(visual):
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
    """Loads a ViT of open_clip or timm and keeps its frozen visual tower.

    Args:
        arch: see ``weights.find_weights``.
        pretrained: see ``weights.find_weights``; random weights are from ``seed``.
        input_size: side of the square input in pixels; the position embedding is interpolated to it on loading.
        precision: fp32, fp16 or bf16; LayerNorm stays in float32.
        device: where the tower lives.
        allow_random: warn and use random weights where the pretrained ones can't be had.
        seed: of random weights.
        attention: how the last block attends: vanilla, maskclip, sclip, clearclip, naclip or sc_clip.

    Raises:
        WeightsError: If there is no such model, its weights can't be had or don't fit, it gives no patch tokens, or
            its last block can't attend otherwise.
    """
    how: dict[str, Any] = {
        "input_size": input_size, "precision": precision, "device": device, "allow_random": allow_random, "seed": seed,
    }  # fmt: skip
    if arch.startswith(TIMM):
        loaded = load_timm(arch, pretrained, **how)
    else:
        loaded = load_clip(arch, pretrained, **how, text=False)
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
    return replace(encoder, attention=attention, compute=None)


def norm_is_behind_pooling(trunk: Any) -> bool:
    """Whether a tower of timm has its last norm behind its pooling (``fc_norm``), so that its tokens come without."""
    behind = not isinstance(getattr(trunk, "fc_norm", None) or nn.Identity(), nn.Identity)
    return behind and isinstance(trunk.norm, nn.Identity) and getattr(trunk, "attn_pool", None) is None


def _is_timm(visual: Any) -> bool:
    return hasattr(visual, "trunk")


def _width_and_patch_size(visual: Any) -> tuple[int, int]:
    if _is_timm(visual):
        trunk = visual.trunk
        return trunk.embed_dim, (trunk.embeds.patch_size[0] if is_naflex(trunk) else trunk.patch_embed.feat_ratio())
    return visual.conv1.out_channels, visual.patch_size[0]


def _check_tower(visual: Any, arch: str, attention: str) -> None:
    by_timm, name = _is_timm(visual), arch.removeprefix(TIMM)
    tower = visual.trunk if by_timm else visual
    patches = "embeds" if is_naflex(tower) else "patch_embed"
    needed = ("blocks", patches, "num_prefix_tokens", "norm") if by_timm else ("conv1", "patch_size", "proj")
    if not all(hasattr(tower, part) for part in needed):
        such = "vit_base_patch16_dinov3.lvd1689m" if arch.startswith(TIMM) else "ViT-B-16"
        raise WeightsError(
            f"model.arch={name}: {type(tower).__name__} gives no ViT patch tokens; take a ViT such as {such}"
        )
    if not by_timm and visual.attn_pool is not None:
        raise WeightsError(
            f"model.arch={name}: its attentional pooling leaves no map of tokens; take a ViT such as ViT-B-16"
        )
    if attention != "vanilla" and not can_vary(visual):
        raise WeightsError(
            f"model.attention={attention}: changes the last block of open_clip's own ViTs, which {name} is not; "
            f"take model.attention=vanilla, or a ViT such as ViT-B-16"
        )
