"""Where the frames of a run, or fused scenes, look like a text or an example: ``clipfeat-query``."""

import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clipfeat.errors import ConfigError, DataError
from clipfeat.model.config import TIMM
from clipfeat.model.text import Texts, vectors_of
from clipfeat.output.folders import make_writable, read_json, remove_files
from clipfeat.output.store import FeatureStore
from clipfeat.queries.answers import SCORES, Found, Key, Source, open_source, rank
from clipfeat.queries.config import COMPETING, ExampleConfig, QueryConfig
from clipfeat.queries.pixel_features import pixel_features
from clipfeat.queries.prompts import Prompts
from clipfeat.system.atomic import atomic_file
from clipfeat.vis.directions import unit_directions

log = logging.getLogger(__name__)

_SHOWN_SCENES = 5


def query(cfg: QueryConfig, texts: Texts | None = None) -> dict[str, Any]:
    """Runs ``clipfeat-query``.

    Args:
        cfg: what to run.
        texts: the text tower of the model that made the features, if it is loaded already.

    Returns:
        What ``query.json`` holds.

    Raises:
        ClipfeatError: On anything that the user can mend.
    """
    begin = time.perf_counter()
    if bool(cfg.text) == cfg.example.is_set:
        raise ConfigError(
            f"{'text and example are both' if cfg.text else 'neither text nor example is'} set: say what to look for "
            f"by text='a chair', or by example.scene=… example.frame=… example.uv=[u,v] (or example.box=…)"
        )
    source = open_source(cfg)
    folder = Path(cfg.output_dir or "query")
    make_writable(folder, "output_dir")
    prompts = (
        text_prompts(cfg, source.model, lambda: texts or load_texts(source, cfg.text_cache))
        if cfg.text
        else example_prompts(cfg.example, source.run)
    )
    answers = list(source.ask(prompts))
    if not answers:
        why = next(iter(source.failed.values()), "none of them has a point")
        raise DataError(f"{cfg.store}: none of its {len(source.keys)} {source.noun}s can be compared ({why})")
    found = [rank(name, index, answers) for index, name in enumerate(prompts.names)]
    earlier = _earlier(folder, set(prompts.names))
    _remove_earlier(folder, {one.folder for one in found})
    drawn = source.draw(prompts, found, folder)
    report = {
        "store": cfg.store,
        **prompts.describe(),
        "templates": cfg.templates if cfg.text else None,
        "model": source.model,
        "weights": source.model["weights"],
        f"{source.noun}s": len(answers),
        "points": sum(answer.points for answer in answers),
        "failed": [_named(key) | {"why": why} for key, why in source.failed.items()],
        "seconds": round(time.perf_counter() - begin, 3),
        "prompts": [_of_prompt(one) | {"files": names} for one, names in zip(found, drawn.of_prompts, strict=True)],
        "scores": drawn.scores,
        "earlier": earlier,
    }
    with atomic_file(folder / "query.json") as file:
        file.write(json.dumps(report, indent=2, allow_nan=False, ensure_ascii=False).encode())
    log.info("%s", summary_table(report, folder))
    for warning in warnings_of(report):
        log.warning("WARNING %s", warning)
    return report


def text_prompts(cfg: QueryConfig, model: Mapping[str, Any], load: Callable[[], Texts]) -> Prompts:
    """The texts as vectors of the tower that belongs to the features.

    Args:
        cfg: what is asked, and how it is scored.
        model: ``describe()`` of the model that made the features.
        load: gives its text tower, if texts can be asked for at all.

    Raises:
        ConfigError: If the features are not in the space of texts, a text can't be used, or the weights have no bias
            for ``score=sigmoid``.
        WeightsError: If the tower can't be had, or is another model's.
    """
    check_text_space(model, cfg.store, f"text={cfg.text}", "ask by example")
    score = cfg.score if cfg.score != "auto" else "softmax" if cfg.against else "cosine"
    against = cfg.against if score in COMPETING else []
    texts = load()
    vectors = vectors_of([*cfg.text, *against], cfg.templates, texts, model, cfg.store)
    count, logits = len(cfg.text), texts.logits
    if score == "sigmoid" and logits.bias is None:
        raise ConfigError(
            f"score=sigmoid: the weights {model['weights']} of {cfg.store} have no bias: only those have one that were "
            f"trained with the sigmoid loss, such as SigLIP's; take score=softmax, relevancy or cosine"
        )
    return Prompts(
        names=tuple(cfg.text),
        vectors=vectors[:count],
        others=vectors[count:],
        other_names=tuple(against),
        score=score,
        temperature=cfg.temperature or logits.temperature,
        bias=logits.bias or 0.0,
    )


def check_text_space(model: Mapping[str, Any], store: str, asked: str, otherwise: str | None = None) -> None:
    """Refuses features that texts can't be compared to.

    Args:
        model: of the features.
        store: where they are, for the message.
        asked: what needs texts, for the message.
        otherwise: what else could be done.

    Raises:
        ConfigError: If the features are not in the space of texts.
    """
    if str(model["arch"]).startswith(TIMM):
        first = f"{otherwise}, or " if otherwise else ""
        raise ConfigError(
            f"{asked}: the features of {store} are of {model['arch']}, and timm's models have no text tower; {first}"
            f"extract with a model of open_clip and model/head=text"
        )
    if model["head"] != "text":
        last = f", or {otherwise}" if otherwise else ""
        raise ConfigError(
            f"{asked}: the features of {store} are of model/head={model['head']}, which texts can't be compared to; "
            f"extract with model/head=text{last}"
        )


def load_texts(source: Source, cache: str | None = None) -> Texts:
    """The text tower of the model that made the features.

    Args:
        source: of the features.
        cache: ``text_cache`` of the configuration.
    """
    return source.weights_from.texts(source.model, cache)


def example_prompts(example: ExampleConfig, store: FeatureStore) -> Prompts:
    """What is in a place of a picture, as a direction.

    Raises:
        ConfigError: If the place is not in the picture.
        DataError: If there is no such frame, or nothing is known of the place.
    """
    key = (str(example.scene), int(example.frame or 0))
    if key[1] not in store.frames(key[0]):
        raise DataError(f"{store.folder}: holds no frame {key[1]} of {key[0]}; take one of {store.frames(key[0])}")
    camera = store.meta(*key)["camera"]
    place = np.array(example.uv or example.box, np.float64)
    last = np.resize([camera["width"] - 0.5, camera["height"] - 0.5], len(place))
    if (place < -0.5).any() or (place > last).any():
        raise ConfigError(
            f"example.{'uv' if example.uv else 'box'}={place.tolist()}: not in the picture of {camera['width']}×"
            f"{camera['height']} pixels of {key[0]} frame {key[1]}"
        )
    pixels = pixel_features(store)
    features = pixels.at(key, place) if example.uv else pixels.within(key, place)
    direction = unit_directions(unit_directions(features).mean(axis=0, keepdims=True))
    numbers = ", ".join(f"{value:g}" for value in place)
    name = f"like {key[0]} frame {key[1]} {'at' if example.uv else 'in'} ({numbers})"
    return Prompts((name,), direction, np.empty((0, direction.shape[1]), np.float32))


_HOW = ("store", "score", "against", "temperature", "bias", "templates", "weights", "model")
"""What an earlier prompt keeps of how it was asked."""


def _earlier(folder: Path, prompts: set[str]) -> list[dict[str, Any]]:
    """Prompts of queries before this one whose files are still there: all that are not asked again."""
    before = read_json(folder / "query.json")
    try:
        how = {key: before[key] for key in _HOW if key in before}
        last = [how | prompt for prompt in before.get("prompts", [])]
        return [prompt for prompt in [*before.get("earlier", []), *last] if prompt["prompt"] not in prompts]
    except (AttributeError, KeyError, TypeError):
        return []


def _remove_earlier(folder: Path, prompts: set[str]) -> None:
    """Takes away what the query before this one wrote of these prompts, and its scores: they may have been others."""
    try:
        before = json.loads((folder / "query.json").read_text(encoding="utf-8"))
        prompts_before = [*before["prompts"], *before.get("earlier", [])]
        names = [*before["scores"], *(name for prompt in prompts_before for name in prompt["files"])]
        paths = [Path(name) for name in names]
    except (OSError, ValueError, KeyError, TypeError):
        return
    own = prompts | {SCORES}
    remove_files(
        folder / path
        for path in paths
        if len(path.parts) == 2 and path.parts[0] in own and path.suffix in (".png", ".ply", ".npz")
    )


def _named(key: Key) -> dict[str, Any]:
    return {"scene_id": key[0]} | ({} if key[1] is None else {"frame_id": key[1]})


def _of_prompt(found: Found) -> dict[str, Any]:
    """What ``query.json`` says of a prompt."""
    p = found.index
    answers = [
        _named(answer.key)
        | {
            "best": round(float(answer.best[p]), 5),
            "max": round(float(answer.highest[p]), 5),
            "mean": round(float(answer.mean[p]), 5),
            "points": answer.points,
        }
        for answer in found.ranked
    ]
    return {"prompt": found.prompt, "limits": [round(end, 5) for end in found.limits], "ranked": answers}


def ranking(report: dict[str, Any], top: int) -> str:
    """The best frames or scenes of each prompt."""
    frames = "frames" in report
    width = max(len(answer["scene_id"]) for prompt in report["prompts"] for answer in prompt["ranked"])
    lines = []
    for prompt in report["prompts"]:
        lines += ["", f"  {prompt['prompt']}", f"    {'':<{width + 14}}best 1 %      max     mean"]
        for answer in prompt["ranked"][:top]:
            name = f"{answer['scene_id']:<{width}}" + (f"  frame {answer['frame_id']}" if frames else "")
            lines.append(f"    {name:<{width + 14}}{answer['best']:8.3f} {answer['max']:8.3f} {answer['mean']:8.3f}")
        scenes: dict[str, float] = {}
        for answer in prompt["ranked"]:
            scenes.setdefault(answer["scene_id"], answer["best"])
        if frames and len(scenes) > 1:
            shown = [f"{scene_id} {best:.3f}" for scene_id, best in list(scenes.items())[:_SHOWN_SCENES]]
            lines.append(f"    scenes: {', '.join(shown)}{' …' if len(scenes) > _SHOWN_SCENES else ''}")
    return "\n".join(lines[1:])


def summary_table(report: dict[str, Any], folder: Path) -> str:
    """What the answers were found in."""
    noun = "frames" if "frames" in report else "scenes"
    how = f"{report['score']} against {', '.join(report['against'])}" if report["against"] else report["score"]
    model = report["model"]
    files = len(report["scores"]) + sum(len(prompt["files"]) for prompt in report["prompts"])
    rows = [
        (noun, f"{report[noun]} compared, {report['points']} points, in {report['seconds']:.1f} s"),
        ("score", how),
        ("weights", f"{model['weights']} ({model['weights_sha256']}), head {model['head']}"),
        ("written", f"{files} files and query.json into {folder}"),
    ]
    return "\n".join(f"  {name:<16} {value}" for name, value in rows)


def warnings_of(report: dict[str, Any]) -> list[str]:
    """What a user should look at before trusting the scores."""
    found = []
    if report["weights"] == "random":
        found.append("weights=random: the arithmetic is right, the scores mean nothing")
    failures = [
        f"{f['scene_id']}{' frame ' + str(f['frame_id']) if 'frame_id' in f else ''}: {f['why']}"
        for f in report["failed"]
    ]
    found += [f"failed: {line}" for line in failures[:5]]
    found += [f"… and {len(failures) - 5} more, all listed in query.json"] if len(failures) > 5 else []
    return found
