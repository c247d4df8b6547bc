"""What is wrong with the input, in one line: Hydra's and OmegaConf's words turned into ours."""

import re
from dataclasses import asdict, fields
from difflib import get_close_matches
from typing import Any

from hydra.errors import OverrideParseException
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from clipfeat.cli.main import program
from clipfeat.cli.schemas import COMMANDS
from clipfeat.data.config import LAYOUTS
from clipfeat.errors import ClipfeatError, one_line
from clipfeat.results.config import EXPORT_FORMATS

_MANDATORY = {
    "data.root": "the folder that holds one folder a scene",
    "store": "the output_dir of clipfeat-extract",
    "format": " or ".join(EXPORT_FORMATS),
}
"""What the keys are that have no default."""

_NO_SLURM = 'Could not detect "srun"'
"""What submitit says where there is no SLURM."""


def explain(error: Exception, config_name: str) -> str:
    """One line of what is wrong with the input and what to do; Hydra's and OmegaConf's own messages are rewritten.

    Args:
        error: what was raised.
        config_name: of the primary configuration: extract, composer, …
    """
    if isinstance(error, ClipfeatError):
        return str(error)
    if of_launcher(error):
        return _launcher_says(str(error))
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(cause, OmegaConfBaseException) and cause is not error:
        lines += [line.strip() for line in str(cause).splitlines() if line.strip()]
    text = " ".join(lines)
    if isinstance(cause, MissingMandatoryValue) or "Missing mandatory value" in text:
        match = re.search(r"Missing mandatory value: (\S+)", text)
        key = match[1] if match else getattr(cause, "full_key", None) or "a key"
        hint = f": give {_MANDATORY[key]}" if key in _MANDATORY else ""
        return f"{key} is not set{hint}, as {key}=…"
    if match := re.search(r"In '([^']+)/([^']+)': \w+ raised while composing config: .*full_key: (\S+)", text):
        group, choice, key = match.groups()
        return f"{group}={choice} sets {key}, which the chosen {key.split('.')[0]} has not, or has of another type"
    if isinstance(error, OverrideParseException):
        key, equals, _ = error.override.partition("=")
        hint = f", and quotes around a value of several words or signs: \"{key}='…'\"" if equals else ""
        return f"cannot read the override '{error.override}': expected key=value{hint}"
    if match := re.search(r"Ambiguous value for argument '([^=]*)=(.*?)' 1\.", text):
        key, value = match.groups()
        return f"{key}={value}: a list is written {key}=[…,…], and a text with a comma \"{key}='{value}'\""
    if match := re.search(r"Could not override '([^']+)'.*?(?:is not in struct|not in '|not a)", text):
        return _unknown_key(match.group(1), config_name)
    if match := re.search(r"Could not (?:find|load) 'hydra/launcher/(submitit_local|submitit_slurm)'", text):
        return f'hydra/launcher={match[1]}: needs packages of its own: pip install "clipfeat[slurm]"'
    if match := re.search(
        r"Could not find '([^']+)/([^'/]+)' Available options in '([^']+)': (.*?)(?: Config search|$)", text
    ):
        group, choice, _, options = match.groups()
        valid = [o for o in options.split() if not o.endswith("_schema")]
        return f"{group}={choice}: no such choice, expected one of {', '.join(valid)}"
    if isinstance(cause, OmegaConfBaseException) and getattr(cause, "full_key", None):
        reason = str(getattr(cause, "msg", None) or cause).splitlines()[0]
        return f"{cause.full_key}: {reason}"
    return text


def of_launcher(error: Exception) -> bool:
    """Whether it is about the jobs of a sweep and not of what they do."""
    return type(error).__module__.startswith("submitit.") or _NO_SLURM in str(error)


def _launcher_says(text: str) -> str:
    if _NO_SLURM in text:
        return "hydra/launcher: there is no srun here; go to a machine of the cluster, or take submitit_local"
    # What happened, the job's own words, where its logs are.
    parts = re.split(r"\n?-{5,}\n?", text)
    last = parts[1].strip().splitlines()[-1:] if len(parts) > 1 else []
    what = " ".join([*parts[0].split(), *last])
    return one_line(f"a job of the sweep could not be started or was lost, the same command goes on: {what}")


def _unknown_key(key: str, config_name: str) -> str:
    names = _known_keys(config_name)
    if key in names:
        return f"{key}: not a key of the chosen {key.split('.')[0]}; it belongs to another choice of that group"
    near = get_close_matches(key, names, n=3, cutoff=0.6) or [n for n in names if n.rsplit(".", 1)[-1] == key]
    hint = f"; did you mean {' or '.join(near)}?" if near else f"; {_command(config_name)} --help lists the keys"
    return f"{key}: no such key{hint}"


def _command(config_name: str) -> str:
    return f"{program('extract')} --config-name composer" if config_name == "composer" else program(config_name)


def _known_keys(config_name: str) -> list[str]:
    """Dotted names of all keys of all choices of a command."""

    def walk(node: dict[str, Any], prefix: str) -> list[str]:
        found = []
        for name, child in node.items():
            found.append(f"{prefix}{name}")
            if isinstance(child, dict):
                found += walk(child, f"{prefix}{name}.")
        return found

    every = asdict(COMMANDS[config_name]())
    if "data" not in every:
        return walk(every, "")
    layouts = dict.fromkeys(f"data.{f.name}" for layout, _ in LAYOUTS.values() for f in fields(layout))
    return walk(every | {"data": {}}, "") + list(layouts)
