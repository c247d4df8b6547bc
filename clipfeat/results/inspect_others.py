"""What is in a folder of clipfeat-query, -evaluate, -train, -fit-head or -export, told by the file that each leaves."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipfeat.errors import OutputError
from clipfeat.output.folders import read_config, read_json
from clipfeat.results.config import EXPORT_FORMATS

_SHOWN = 5


@dataclass(frozen=True)
class Found:
    """What the folder of one of these commands holds.

    Attributes:
        what: it is.
        facts: what is known of it.
        files: that the command has written.
        broken: what is not as it should be.
    """

    what: str
    facts: dict[str, str]
    files: list[Path]
    broken: list[str] = field(default_factory=list)


def find_others(folder: Path) -> Found | None:
    """What a folder holds, if one of these commands has written it."""
    for name, look in _TELLING.items():
        path = folder / name
        if path.is_file():
            content = read_json(path)
            try:
                return look(folder, content)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                what = f"what a {name} belongs to"
                why = f"{path}: damaged ({type(error).__name__}: {error}); run the command again"
                return Found(what, {}, [], [why])
    if (checkpoint := folder / "checkpoint.safetensors").is_file():
        return Found("a training of clipfeat-train that has not ended; the same command goes on", {}, [checkpoint])
    return _export(folder) or _heads(folder) or _beside_a_run(folder)


def _query(folder: Path, content: dict[str, Any]) -> Found:
    prompts, earlier = content["prompts"], content.get("earlier", [])
    files = [*content["scores"], *(name for prompt in [*prompts, *earlier] for name in prompt["files"])]
    there, missing = _there(folder, ["query.json", *files])
    best = [f"{p['prompt']}: {_key(p['ranked'][0])} {p['ranked'][0]['best']:.3f}" for p in prompts[:_SHOWN]]
    noun = "frames" if "frames" in content else "scenes"
    facts = {
        "prompts": _named([prompt["prompt"] for prompt in prompts]),
        "earlier": _named([prompt["prompt"] for prompt in earlier]) if earlier else "",
        "best": "\n".join(best),
        noun: str(content[noun]),
        "weights": str(content["weights"]),
        "files": str(len(there) - 1),
        "made of": str(content["store"]),
    }
    broken = [f"{path}: no such file, query.json names it" for path in missing]
    return Found("answers of clipfeat-query", facts, there, broken)


def _there(folder: Path, names: list[str]) -> tuple[list[Path], list[Path]]:
    """The files of a folder that are there, and those that are not."""
    paths = [folder / name for name in names]
    return [path for path in paths if path.is_file()], [path for path in paths if not path.is_file()]


def _key(answer: dict[str, Any]) -> str:
    return str(answer["scene_id"]) + (f" frame {answer['frame_id']}" if "frame_id" in answer else "")


def _evaluation(folder: Path, content: dict[str, Any]) -> Found:
    facts = {
        "candidates": _named([row["candidate"] for row in content["rows"]]),
        "scenes": f"{content['scenes']}, {content['scenes_held_out']} held out",
        "frames": f"{content['frames']}, {content['points']} points of {content['classes']} classes",
        "weights": ", ".join(content["weights"]),
        "failed": str(len(content["failed"])) if content["failed"] else "",
        "advice": str(content["advice"]),
    }
    there, _ = _there(folder, [f"evaluation{ending}" for ending in (".json", ".md", ".csv", ".png")])
    return Found("an evaluation by clipfeat-evaluate", facts, there)


def _protocol(folder: Path, content: dict[str, Any]) -> Found:
    scenes, numbers = content["scenes"], content["numbers"]
    shown = {key: value for key, value in numbers.items() if not isinstance(value, dict)}
    shown |= {f"{top} synonyms": shares["synonyms"] for top, shares in numbers.items() if top.startswith("top")}
    files = [
        "protocol.json",
        "protocol.md",
        *(["protocol.csv", "protocol_confusion.csv", "protocol.png"] if "classes" in content else []),
    ]
    facts = {
        "protocol": f"{content['protocol']}: {content['title']}",
        "changed": ", ".join(content["changed"]),
        "scenes": f"{len(scenes['found'])} of {scenes['wanted']}",
        "points": str(content["points"]["judged"]),
        "numbers": ", ".join(f"{name} {'–' if one is None else f'{100 * one:.1f} %'}" for name, one in shown.items()),
        "weights": str(content["weights"]),
        "made of": str(content["store"]),
    }
    there, missing = _there(folder, files)
    broken = [f"{path}: no such file; run the command again" for path in missing]
    return Found("the numbers of a protocol, by clipfeat-evaluate", facts, there, broken)


def _training(folder: Path, content: dict[str, Any]) -> Found:
    features = content["features"]
    facts = {
        "steps": f"{content['steps']} in {content['seconds']} s, branches={content['branches']}",
        "held out": f"mIoU {100 * content['miou']:.1f} %, accuracy {100 * content['accuracy']:.1f} %",
        "classes": str(len(content["points"])),
        "features": f"{features.get('arch')}, head {features.get('head')}, weights={features.get('weights')}",
    }
    network = folder / "checkpoint.safetensors"
    broken = [] if network.is_file() else [f"{network}: no such file, the network that was trained was expected"]
    there, _ = _there(folder, [network.name, "metrics.json", "curve.png"])
    return Found("a training by clipfeat-train", facts, there, broken)


_TELLING = {
    "query.json": _query,
    "evaluation.json": _evaluation,
    "protocol.json": _protocol,
    "metrics.json": _training,
}
"""The file that a command leaves, and what looks at it."""


def _heads(folder: Path) -> Found | None:
    """Weights of clipfeat-fit-head: each a safetensors file, and beside it a JSON that tells what it was fitted to."""
    heads = {path: read_json(path.with_suffix(".json")) for path in sorted(folder.glob("*.safetensors"))}
    found = {path: told for path, told in heads.items() if {"fitted", "head", "frames"} <= told.keys()}
    if not found:
        return None
    facts = {
        path.name: f"{told['head']}, method={told['fitted']} of {told['frames']} frames, weights={told.get('weights')}"
        for path, told in found.items()
    }
    files = [path.with_suffix(suffix) for path in found for suffix in (".safetensors", ".json")]
    return Found("heads fitted by clipfeat-fit-head", facts, files)


def _beside_a_run(folder: Path) -> Found | None:
    """What commands write into a run's folder, where it is not one: a check of the calibration, or pictures."""
    if (folder / "config.yaml").is_file() or (folder / "frames.jsonl").is_file():
        return None
    path = folder / "check.json"
    checks = read_json(path).get("checks")
    if isinstance(checks, list):
        facts = {str(one.get("scene_id")): str(one.get("verdict")) for one in checks if isinstance(one, dict)}
        return Found("a check of the calibration, by clipfeat-extract check=only", facts, [path])
    pictures = sorted(folder.glob("*/vis_*.png"))
    if not pictures or next(folder.glob("*/frame_*"), None) is not None:
        return None
    scenes = list(dict.fromkeys(path.parent.name for path in pictures))
    return Found("pictures of clipfeat-vis", {"scenes": _named(scenes), "pictures": str(len(pictures))}, pictures)


def _export(folder: Path) -> Found | None:
    try:
        config = read_config(folder) if (folder / "config.yaml").is_file() else {}
    except OutputError:
        return None
    if config.get("format") not in EXPORT_FORMATS:
        return None
    names = [path for path in folder.rglob("*") if path.name != "config.yaml" and not path.name.startswith(".")]
    files = sorted(path for path in names if path.is_file())
    facts = {
        "format": str(config["format"]),
        "files": str(len(files)),
        "size": f"{sum(path.stat().st_size for path in files) / 1e6:.1f} MB",
        "made of": str(config.get("output_dir") or config.get("store", "")),
    }
    broken = [] if files else [f"{folder}: holds no file"]
    return Found("files for other projects, written by clipfeat-export", facts, files, broken)


def _named(names: list[str]) -> str:
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} ({', '.join(names[:_SHOWN])}{more})"
