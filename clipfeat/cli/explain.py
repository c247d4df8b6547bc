"""What is wrong with the input, in one line: Hydra's and OmegaConf's words turned into ours."""

import re

from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from clipfeat.cli.keys import keys_of
from clipfeat.cli.schemas import COMMANDS
from clipfeat.cli.typed import no_such_choice, unknown_key
from clipfeat.errors import ClipfeatError, one_line
from clipfeat.results.config import EXPORT_FORMATS

_MANDATORY = {
    "data.root": "the folder that holds one folder a scene",
    "store": "the output_dir of clipfeat-extract",
    "format": " or ".join(EXPORT_FORMATS),
}
"""What the keys are that have no default."""

_MORE = {"data.root": "; clipfeat-inspect FOLDER tells which data= reads what lies in a folder"}

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
        known = _MANDATORY | ({"store": "the output_dir of clipfeat-fuse"} if config_name == "protocol" else {})
        hint = f": give {known[key]}" if key in known else ""
        return f"{key} is not set{hint}, as {key}=…{_MORE.get(key, '')}"
    return _of_composing(text, config_name) or _of_value(cause) or _without_hydra(text)


def _of_composing(text: str, config_name: str) -> str | None:
    """What is said of a key, a group or a file that Hydra can't put together; None if it is none of these."""
    if match := re.search(r"In '([^']+)/([^']+)': \w+ raised while composing config: (.*?) full_key: (\S*)", text):
        group, choice, what, key = match.groups()
        if not key or "=" in key:  # not of one key, but of a whole node
            return f"{group}={choice}: sets what is not there, or is of another type: {what}"
        return f"{group}={choice} sets {key}, which the chosen {key.split('.')[0]} has not, or has of another type"
    if match := re.search(r"Could not override '([^']+)'.*?(?:is not in struct|not in '|not a|No match)", text):
        return unknown_key(match[1], keys_of(config_name))
    if match := re.search(r"Could not (?:find|load) 'hydra/launcher/(submitit_local|submitit_slurm)'", text):
        return f'hydra/launcher={match[1]}: needs packages of its own: pip install "clipfeat[slurm]"'
    if match := re.search(r"Could not find '([^']*)' Available options in '([^']+)': (.*?)(?: Config search|$)", text):
        full, group, options = match.groups()
        valid = [o for o in options.split() if not o.endswith("_schema")]
        return no_such_choice(group, full[len(group) + 1 :], keys_of(config_name), valid)
    if match := re.search(r"Cannot find primary config '([^']*)'", text):
        return f"--config-name={match[1]}: no such configuration, expected one of {', '.join(COMMANDS)}"
    if match := re.search(r"Additional config directory '(.*)' not found", text):
        return f"--config-dir={match[1]}: no such folder"
    if match := re.search(r"Primary config (?:module|directory) '?([^']*?)'? not found", text):
        return f"--config-path: {match[1]} is not there; files of your own are told by --config-dir FOLDER"
    return None


def _of_value(cause: Exception) -> str | None:
    """What is said of a value that its key can't have; None if no key is known."""
    key = getattr(cause, "full_key", None)
    if not isinstance(cause, OmegaConfBaseException) or not key:
        return None
    reason = str(getattr(cause, "msg", None) or cause).splitlines()[0]
    if "is not a ListConfig" in reason:
        return f"{key}: expected a list, as {key}=[…,…]"
    if "is not Optional" in reason:
        return f"{key}=null: expected a value"
    return f"{key}: {reason}"


def _without_hydra(text: str) -> str:
    """What no rule is for, without the places in Hydra's documentation and in its own files."""
    return re.sub(
        r" ?(See https?://\S+.*|Config search path: .*|Set the environment variable HYDRA_FULL_ERROR.*)", "", text
    )


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
