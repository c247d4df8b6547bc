"""Holds encoders against open_clip's and timm's own computation, with random weights: arithmetic, never quality.

    python scripts/encoder_table.py
    python scripts/encoder_table.py --all --largest 2.5
    python scripts/encoder_table.py ViT-B-16-SigLIP2 timm:vit_small_patch16_dinov3.lvd1689m

Without names it takes the smallest model of each family that ``open_clip.list_models()`` names, and some of timm's;
with --all every one of open_clip's. A row a model: the map, the largest difference of its tokens and of clip_global
from the library's own relative to their largest number, whether a picture enters it bit for bit as by the library's own
transform, and which of ``model.attention`` work; or why the model is refused. It ends with 1 if something differs.
"""

import argparse
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import open_clip
import timm
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform
from torch import nn

from clipfeat.cli.main import pipe_may_close
from clipfeat.errors import ClipfeatError
from clipfeat.model.attention import VARIANTS
from clipfeat.model.config import TIMM, ModelConfig
from clipfeat.model.encoder import Encoder, attending, load_encoder
from clipfeat.model.load import build_preprocess
from clipfeat.model.published import with_input_size

ALLOWED = 1e-5
"""Largest difference from the library's own computation, relative to its largest number."""

OF_TIMM = (
    "vit_small_patch16_dinov3.lvd1689m", "vit_small_patch14_dinov2.lvd142m", "vit_small_patch14_reg4_dinov2.lvd142m",
    "vit_pe_spatial_tiny_patch16_512.fb", "vit_base_patch16_radio_v3.c_radio", "vit_base_patch14_reg1_tipsv2.webli",
    "aimv2_large_patch14_224.apple_pt", "deit3_small_patch16_224.fb_in1k", "eva02_tiny_patch14_224.mim_in22k",
    "cait_xxs24_224.fb_dist_in1k", "test_vit2.r160_in1k", "test_vit3.r160_in1k", "samvit_base_patch16.sa1b",
    "naflexvit_base_patch16_siglip.v2_webli", "convnext_tiny.dinov3_lvd1689m", "qwen3_vit_88m_enc",
)  # fmt: skip

_SIZES = r"tiny|small|medium|base|large2?|x+large|huge|giantopt|giant|gigantic|enormous|so400m|mci\d|\d+"


def family(name: str) -> tuple[Any, ...]:
    """What models of open_clip have in common that differ in nothing but their size."""
    cfg = open_clip.get_model_config(name)
    vision, text = cfg["vision_cfg"], cfg["text_cfg"]
    if "timm_model_name" in vision:
        kind = re.sub(rf"(?<![a-z])({_SIZES})", "", vision["timm_model_name"]).replace("_", "")
        options: Any = (vision.get("timm_pool"), vision.get("timm_proj"))
    else:
        kind = "ResNet" if isinstance(vision["layers"], list) else "ViT"
        flags = ("pool_type", "no_ln_pre", "attentional_pool", "final_ln_after_pool")
        options = (*(vision.get(flag) for flag in flags), "ls_init_value" in vision, bool(cfg.get("quick_gelu")))
    return kind, options, "hf_model_name" in text, "multimodal_cfg" in cfg


def parameters(name: str) -> int:
    """How many numbers an image tower of open_clip has."""
    vision = open_clip.get_model_config(name)["vision_cfg"]
    if "timm_model_name" in vision:
        return parameters_of_timm(vision["timm_model_name"])
    layers = vision["layers"]
    depth, width = (sum(layers), 16 * vision["width"]) if isinstance(layers, list) else (layers, vision["width"])
    return int(12 * depth * width**2)


@cache
def parameters_of_timm(name: str) -> int:
    """The same of a model of timm, without making it."""
    with torch.device("meta"):
        return sum(weights.numel() for weights in timm.create_model(name).parameters())


def representatives() -> list[str]:
    """The smallest model of each family of open_clip's."""
    smallest: dict[tuple[Any, ...], tuple[int, str]] = {}
    for name in open_clip.list_models():
        found = parameters(name), name
        smallest[family(name)] = min(smallest.get(family(name), found), found)
    return sorted(name for _, name in smallest.values())


@torch.inference_mode()
def row(name: str) -> dict[str, Any]:
    """What is found of one model.

    Args:
        name: open_clip's, or ``timm:`` and timm's.

    Returns:
        ``refused``, the reason; or ``map``, ``pooling``, ``tokens`` and ``clip_global`` (relative differences from the
        library's own), ``picture`` (what it was held against, and whether it is the same) and ``attentions``.
    """
    source = {"source": "timm", "arch": name.removeprefix(TIMM)} if name.startswith(TIMM) else {"arch": name}
    try:
        cfg = with_input_size(ModelConfig(**source, pretrained=None))  # type: ignore[arg-type]
        encoder = load_encoder(name, None, input_size=cfg.network_size)
    except ClipfeatError as error:
        return {"refused": str(error).replace(f"model.arch={name.removeprefix(TIMM)}: ", "")}
    disturb(encoder.visual)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(1, 3, encoder.input_size, encoder.input_size, generator=generator)
    tokens, whole = encoder.encode(inputs)
    own_tokens, own_whole = of_library(encoder.visual, inputs)
    return {
        "map": tuple(tokens.shape[1:]),
        "pooling": encoder.pooling,
        "tokens": difference(tokens.flatten(2).transpose(1, 2), own_tokens),
        "clip_global": difference(whole, own_whole),
        "projected": projected_difference(encoder, whole, inputs),
        "picture": picture(cfg, encoder),
        "attentions": attentions(encoder, name),
    }


def disturb(module: nn.Module) -> None:
    """Moves all weights: fresh norms scale by 1 and fresh tokens are 0, which hides where they stand."""
    generator = torch.Generator().manual_seed(7)
    for weights in module.parameters():
        weights.add_(0.02 * torch.randn(weights.shape, generator=generator))


def of_library(visual: Any, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The library's own tokens (B, L, D) after its last norm, and what it pools (B, D) before the projection."""
    if hasattr(visual, "trunk"):
        features = visual.trunk.forward_features(inputs)
        tokens, whole = features[:, visual.trunk.num_prefix_tokens :], visual.trunk.forward_head(features, True)
        # Where the norm is behind the pooling, a token alone is one that is pooled alone.
        behind = isinstance(visual.trunk.norm, nn.Identity) and visual.trunk.global_pool == "avg"
        return visual.trunk.fc_norm(tokens) if behind else tokens, whole
    seen: list[torch.Tensor] = []
    hook = visual.transformer.register_forward_hook(lambda _module, _inputs, out: seen.append(out))
    visual(inputs)
    hook.remove()
    return visual.ln_post(seen[0])[:, 1:], visual._pool(seen[0])[0]


def projected_difference(encoder: Encoder, whole: torch.Tensor, inputs: torch.Tensor) -> float:
    """What is pooled, projected, from what the whole tower gives: the picture's vector that is compared to texts."""
    visual: Any = encoder.visual
    if not (hasattr(visual, "head") or hasattr(visual, "proj")):
        return 0.0  # timm's alone
    projected = visual.head(visual.trunk.head(whole)) if hasattr(visual, "trunk") else whole @ visual.proj
    out = visual(inputs)
    return difference(projected, out[0] if isinstance(out, tuple) else out)  # CoCa's towers give their tokens as well


def difference(found: torch.Tensor, own: torch.Tensor) -> float:
    """The largest difference, relative to the largest number."""
    return float((found - own).abs().max() / own.abs().max())


def picture(cfg: ModelConfig, encoder: Encoder) -> str:
    """Whether pixels enter as by the library's transform: squashed, and cropped where that is how it was published."""
    pixels = np.random.default_rng(0).integers(0, 256, (97, 131, 3), dtype=np.uint8)
    said = []
    for mode, transform in transforms(cfg, encoder):
        preprocess = build_preprocess(replace(cfg, resize_mode=mode), encoder.card, torch.device("cpu"))
        ours = preprocess.normalize(torch.from_numpy(preprocess.pixels(pixels).copy()))
        same = torch.equal(ours, transform(Image.fromarray(pixels)))
        said.append(f"{mode} {'equal' if same else 'DIFFERS'}")
    return ", ".join(said)


def transforms(cfg: ModelConfig, encoder: Encoder) -> Iterator[tuple[str, Callable[[Image.Image], torch.Tensor]]]:
    """The library's transforms, and what ``model.resize_mode`` is called that does the same."""
    size = encoder.input_size
    if cfg.source == "timm":
        own = resolve_data_config(pretrained_cfg=vars(timm.models.get_pretrained_cfg(cfg.arch)))
        squashed = own | {"crop_mode": "squash", "crop_pct": 1.0}
        yield "squash", create_transform(**(squashed | {"input_size": (3, size, size)}))
        if own["crop_pct"] == 1.0 and own["crop_mode"] == "center":
            yield "crop", create_transform(**(own | {"input_size": (3, size, size)}))
        return
    tags = open_clip.list_pretrained_tags_by_model(cfg.arch)
    told = open_clip.get_pretrained_cfg(cfg.arch, tags[0]) if tags else {}
    published = {key: told[key] for key in ("mean", "std", "interpolation", "resize_mode") if key in told}
    for mode, name in (("squash", "squash"), ("crop", "shortest")):
        if mode == "squash" or published.get("resize_mode", "shortest") == name:
            chosen = published | {"size": size, "resize_mode": name}
            yield mode, image_transform_v2(PreprocessCfg(**chosen), is_train=False)


def attentions(encoder: Encoder, name: str) -> str:
    """Which of ``model.attention`` the encoder can do."""
    try:
        attending(encoder, name, next(iter(VARIANTS)))
    except ClipfeatError:
        return "vanilla"
    return "all"


def differs(found: dict[str, Any]) -> bool:
    """Whether a row says that something is not the library's own."""
    if "refused" in found:
        return False
    worst = max(found["tokens"], found["clip_global"], found["projected"])
    return not worst <= ALLOWED or "DIFFERS" in found["picture"]


def line(name: str, found: dict[str, Any]) -> str:
    """A row of the table, as Markdown."""
    if "refused" in found:
        return f"| {name} | refused: {found['refused']} |"
    cells = (
        "×".join(map(str, found["map"])), found["pooling"], f"{found['tokens']:.0e}",
        f"{max(found['clip_global'], found['projected']):.0e}", found["picture"], found["attentions"],
    )  # fmt: skip
    return f"| {name} | {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="models: open_clip's names, or timm: and timm's")
    parser.add_argument("--all", action="store_true", help="all of open_clip's names, not one a family")
    parser.add_argument(
        "--largest", type=float, default=1.0, metavar="N", help="billions of weights of a tower at most (default 1)"
    )
    chosen = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    names = chosen.names or [
        *(sorted(open_clip.list_models()) if chosen.all else representatives()),
        *(f"{TIMM}{name}" for name in OF_TIMM),
    ]
    print("| model (random weights) | map | pooled by | tokens | clip_global | picture | attention |")
    print("|---|---|---|---|---|---|---|")
    wrong = 0
    for name in names:
        known = name in open_clip.list_models()
        if known and parameters(name) > 1e9 * chosen.largest:
            print(f"| {name} | left out: more than {chosen.largest:g} billion weights |", flush=True)
            continue
        found = row(name)
        wrong += differs(found)
        print(line(name, found), flush=True)
    print(f"\n{len(names)} models, {wrong} of them not as the library has it")
    return int(wrong > 0)


if __name__ == "__main__":
    with pipe_may_close():
        sys.exit(main())
