"""The text tower of the model that made the features: prompts to vectors that ``model/head=text`` compares to.

Class names, prompts of a query and texts that are against them all go this way: ``vectors_of`` is what commands call.
"""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as nnf
from numpy.typing import NDArray

from clipfeat.errors import ConfigError, WeightsError
from clipfeat.model.packages import import_open_clip
from clipfeat.model.pretrained import Logits, load_clip
from clipfeat.model.weights import FOLDER, HUB, arch_is_place, arch_name

log = logging.getLogger(__name__)

TEMPLATES: dict[str, tuple[str, ...]] = {
    "plain": ("{}",),
    "photo": ("a photo of a {}",),
    "indoor": (
        "a photo of a {}",
        "a photo of the {}",
        "a photo of a {} in a room",
        "a picture of a {} indoors",
        "a close view of a {}",
        "a {} seen from afar",
        "a dark photo of a {}",
        "a blurred photo of a {}",
        "a part of a {}",
        "many things and a {} among them",
    ),
}
"""What is put around a prompt, by name. The mean over several ways to say it is steadier than any one of them."""

_TEXTS = 256
"""Texts of a forward pass, at most."""

SYNONYMS = "|"
"""Between the names of one thing, such as "couch|sofa"."""

_ARTICLE = re.compile(r"\b(a|an|the)\s+$", re.IGNORECASE)
_OWN_ARTICLE = re.compile(r"^(a|an|the)\s+", re.IGNORECASE)


def fill_template(template: str, prompt: str) -> str:
    """Puts a prompt into a template's ``{}``; an article of its own is left out where the template has one before it.

    Raises:
        ConfigError: If there is not exactly one ``{}``, or the prompt is empty.
    """
    prompt = prompt.strip()
    if template.count("{}") != 1:
        raise ConfigError(f"template '{template}': expected one {{}} where the prompt goes, as in 'a photo of a {{}}'")
    if not prompt:
        raise ConfigError("a prompt is empty: expected words, such as 'a chair'")
    before, after = template.split("{}")
    return before + (_OWN_ARTICLE.sub("", prompt) if _ARTICLE.search(before) else prompt) + after


def templates_of(name: str) -> tuple[str, ...]:
    """The templates of this name, or the lines of this text file.

    Raises:
        ConfigError: If it can't be read, or holds no line with one ``{}``, or others.
    """
    if name in TEMPLATES:
        return TEMPLATES[name]
    try:
        lines = Path(name).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"templates={name}: can't be read ({why}); expected a text file, a template a line"
        ) from error
    templates = tuple(line.strip() for line in lines if line.strip())
    if not templates or any(template.count("{}") != 1 for template in templates):
        wrong = next((f"'{template}'" for template in templates if template.count("{}") != 1), "nothing")
        raise ConfigError(f"templates={name}: holds {wrong}; expected lines with one {{}} each, where a prompt goes")
    return templates


def fill_templates(prompts: Sequence[str], templates: Sequence[str]) -> list[list[str]]:
    """The texts of each prompt, of which its vector is the mean: each of its names in each template.

    Raises:
        ConfigError: If there is no prompt or no template, a name is empty, or a template has not one ``{}``.
    """
    if not prompts or not templates:
        raise ConfigError(f"{len(prompts)} prompts and {len(templates)} templates: expected one of each at least")
    return [[fill_template(one, name) for name in prompt.split(SYNONYMS) for one in templates] for prompt in prompts]


class Texts(Protocol):
    """What is asked of a text tower: ``TextEncoder``, or ``kept_texts.KeptTexts``, which seldom needs one."""

    @property
    def weights_sha256(self) -> str:
        """Of the visual tower that belongs to it."""

    @property
    def logits(self) -> Logits:
        """What its weights learnt to make logits of cosines by."""

    def encode_text(self, prompts: Sequence[str], templates: Sequence[str]) -> NDArray[np.float32]:
        """(P, D) vectors of length 1; see ``TextEncoder.encode_text``."""


def vectors_of(
    prompts: Sequence[str], templates: str | Sequence[str], texts: Texts, about: Mapping[str, Any], what: str
) -> NDArray[np.float32]:
    """Prompts, or the names of classes, as directions that features can be compared to.

    Args:
        prompts: P of them; of "couch|sofa" it is the mean of both.
        templates: a name of ``TEMPLATES``, a text file of templates, or these themselves.
        texts: the text tower.
        about: ``describe()`` of the model that made the features.
        what: whose features they are, for messages.

    Returns:
        (P, D) float32 of length 1.

    Raises:
        ConfigError: If a text can't be used.
        WeightsError: If the tower can't be had, or is not of the model that made the features.
    """
    vectors = texts.encode_text(prompts, templates_of(templates) if isinstance(templates, str) else templates)
    if texts.weights_sha256 != about["weights_sha256"]:
        raise WeightsError(
            f"{what}: features of weights {about['weights']} ({about['weights_sha256']}), but the text tower is "
            f"of {texts.weights_sha256}; give the weights that the features were made with"
        )
    return vectors


@dataclass(frozen=True)
class TextEncoder:
    """A frozen text tower.

    Attributes:
        arch: open_clip's name of the model.
        model: open_clip's model without its visual tower, in float32 and eval mode, without gradients.
        tokenize: texts to (N, L) int64 tokens.
        device: where the tower lives.
        weights: where they come from: a tag, a file's name, or "random".
        weights_sha256: of the visual tower that belongs to it, as ``describe()`` of a model has it: features are
            comparable to these texts only if theirs is the same.
        logits: what the weights learnt to make logits of cosines by.
    """

    arch: str
    model: Any
    tokenize: Callable[[list[str]], torch.Tensor]
    device: torch.device
    weights: str
    weights_sha256: str
    logits: Logits

    def encode_text(self, prompts: Sequence[str], templates: Sequence[str] = TEMPLATES["plain"]) -> NDArray[np.float32]:
        """A vector for each prompt: the mean over names and templates of unit vectors, again of length 1.

        It is the same to the bit whatever else is asked for: the texts of a prompt are a forward pass of their own.

        Args:
            prompts: P texts, such as "a chair"; several names of one thing have | between them.
            templates: texts with one ``{}`` each, such as those of ``TEMPLATES``.

        Returns:
            (P, D) float32 of length 1. The dot product with a unit feature of ``model/head=text`` is their cosine.

        Raises:
            ConfigError: As ``fill_templates``.
        """
        return np.stack([self.encode_mean(texts) for texts in fill_templates(prompts, templates)])

    @torch.inference_mode()
    def encode_mean(self, texts: list[str]) -> NDArray[np.float32]:
        """The mean (D,) of the unit vectors of all these texts, again of length 1."""
        tokens = self.tokenize(texts)
        self._tell_of_long_texts(texts, tokens)
        rows = [self.model.encode_text(part.to(self.device), normalize=True) for part in tokens.split(_TEXTS)]
        mean: NDArray[np.float32] = nnf.normalize(torch.cat(rows).mean(0), dim=-1).cpu().numpy()
        return mean

    def _tell_of_long_texts(self, texts: list[str], tokens: torch.Tensor) -> None:
        padding = self.tokenize([""])[0, -1]
        for row in torch.nonzero(tokens[:, -1] != padding)[:, 0].tolist():
            log.warning(
                "WARNING: '%s' fills all %d tokens that %s reads; what lies beyond them is left out",
                texts[row], tokens.shape[1], self.arch,
            )  # fmt: skip


def load_text_encoder(
    arch: str,
    pretrained: str | None,
    *,
    input_size: int = 224,
    precision: str = "fp32",
    device: torch.device | str = "cpu",
    allow_random: bool = False,
    seed: int = 0,
) -> TextEncoder:
    """Loads the text tower that belongs to ``load_encoder`` with the same arguments.

    Input size and precision are the pictures': they shape the visual tower's weights, and so random weights and the
    hash that tells whether features and texts belong together. Texts are few, and computed in float32 all the same.

    Args:
        arch: see ``weights.find_weights``.
        pretrained: see ``weights.find_weights``; random weights are from ``seed``.
        input_size: side in pixels of the square that the visual tower sees.
        precision: of the visual tower: fp32, fp16 or bf16.
        device: where the text tower lives.
        allow_random: warn and use random weights where the pretrained ones can't be had.
        seed: of random weights.

    Raises:
        WeightsError: If there is no such model, or its weights or its tokenizer can't be had.
    """
    loaded = load_clip(
        arch,
        pretrained,
        input_size=input_size,
        precision=precision,
        device=device,
        allow_random=allow_random,
        seed=seed,
        text=True,
    )
    model = loaded.model
    del model.visual
    return TextEncoder(
        arch=arch_name(arch),
        model=model.float().requires_grad_(False),
        tokenize=_load_tokenizer(arch),
        device=torch.device(device),
        weights=loaded.weights,
        weights_sha256=loaded.weights_sha256,
        logits=loaded.logits,
    )


def _load_tokenizer(arch: str) -> Callable[[list[str]], torch.Tensor]:
    open_clip = import_open_clip()

    name = FOLDER + arch.removeprefix(FOLDER) if arch_is_place(arch) and not arch.startswith(HUB) else arch
    try:
        tokenizer: Callable[[list[str]], torch.Tensor] = open_clip.get_tokenizer(name)
    except ImportError as error:  # CLIP's own tokenizer comes with open_clip, SigLIP's does not
        raise WeightsError(
            f"model.arch={arch}: its tokenizer needs the package {error.name}: pip install {error.name}"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise WeightsError(
            f"model.arch={arch}: its tokenizer can't be had ({reason}); it is fetched from the model hub the first time"
        ) from error
    return tokenizer
