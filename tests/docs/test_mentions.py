"""What the documentation mentions in its lines exists: commands, keys, values and defaults, names of Python, files."""

import ast
import importlib
import re
import shlex

import pytest
import yaml
from conftest import CHECKOUT
from doc_commands import Checker, commands_of
from doc_pages import BLOCKS, PAGES, yaml_path
from doc_schema import CONFIGS, PROGRAMS, SCRIPTS, all_keys, check_values, choices, keys

import clipfeat

SPANS = [span for page in PAGES if page.name != "CHANGELOG.md" for span in page.spans()]
"""What the changelog says of a version need not be true of the next one."""

NO_KEYS = {"key", "group", "weights", "use_bbox", "align_corners", "frame", "cache", "maps", "backbone", "attributes"}
"""What stands before a = in code spans and is no key: arguments of Python, and what files and pictures say."""

NO_VALUE = re.compile(r"…|<|\{|^DIR$|^k$|^torch\.|^$")
"""Values that only say where a value goes."""

HYDRA_NODES = ("hydra.launcher.",)
"""Keys of Hydra's own plugins, which the schema does not have."""

PROSE_DEFAULTS = {"see above", "ScanNet's mesh"}
"""What tables say in place of a default that is too long for them."""


def inline_commands():
    """The spans that are a command, and what is left of it without what it leaves to the reader."""
    for span in SPANS:
        if re.match(r"(clipfeat(-[a-z-]+)?|python scripts/\S+|pip install|torchrun|srun|sbatch|pytest)\s", span.text):
            yield span, span.text.replace(" …", "")


@pytest.mark.parametrize(("span", "text"), list(inline_commands()), ids=lambda value: str(value))
def test_a_command_in_a_line_can_be_meant(span, text):
    for word in re.findall(r"(?<=--)[a-z-]+=?\S*|\S+=\S+", text):
        if NO_VALUE.search(word.split("=")[-1]) and "=" in word:
            text = text.replace(word, "")
    for command in commands_of(text):
        if command.program == "sbatch" and not any(word.endswith(".sh") for word in command.arguments):
            command.arguments.append("scripts/slurm_array.sh")
        if is_only_a_name(command):
            continue
        Checker().check(command)


def is_only_a_name(command):
    """``clipfeat fuse …`` without anything: the command exists."""
    if command.program == "clipfeat":
        return len(command.arguments) == 1 and command.arguments[0] in PROGRAMS
    return command.program in SCRIPTS and not command.arguments


def assignments(text):
    """The key=value of a span, by what each alternative of key=a|b would set."""
    found = []
    text = " ".join(ast.literal_eval(text)) if text.startswith('["') else text  # a list of overrides, as Python has it
    for word in re.findall(r"""(?<![-\w])[a-z_0-9./]+=(?:"'[^']*'"|'"[^"]*"'|\[[^\]]*\]|[^\s,`]+)?""", text):
        key, value = word.split("=", 1)
        found.append((key, value))
    return found


def spans_with_values():
    for span in SPANS:
        if "=" in span.text and "(" not in span.text and "`" not in span.text:
            if re.match(r"(clipfeat|python|pip|torchrun|srun|sbatch|SHARDS|X_world|u')", span.text):
                continue
            pairs = assignments(span.text)
            pairs = [(key, value) for key, value in pairs if key not in NO_KEYS and not key.startswith(HYDRA_NODES)]
            if pairs:
                yield span, pairs


@pytest.mark.parametrize(("span", "pairs"), list(spans_with_values()), ids=lambda value: str(value)[:80])
def test_keys_and_values_in_a_line_exist(span, pairs):
    known = all_keys()
    plain = {}
    for key, value in pairs:
        value = value.strip("'\"") if value.startswith(("'\"", "\"'")) else value
        if choices(key):
            for choice in value.split("|"):
                assert NO_VALUE.search(choice) or choice in choices(key), (
                    f"{span}: {key} has no choice {choice}, but {', '.join(sorted(choices(key)))}"
                )
            continue
        assert key in known, f"{span}: no key {key}. Is it none? Then name it in NO_KEYS of tests/docs/test_docs.py"
        if value and not NO_VALUE.search(value):
            plain[key] = value
    several = [(key, value) for key, value in plain.items() if re.fullmatch(r"\w+(\|\w+)+", value)]
    for key, value in several:
        for one in value.split("|"):
            check_values({key: one})
    # Of a sweep's values the first.
    single = {
        key: re.sub(r"^(\w+)(,\w+)+$", r"\1", value) for key, value in plain.items() if (key, value) not in several
    }
    if single:
        check_values(single)


def key_tables():
    """The rows of tables whose first column is ``key``."""
    for page in PAGES:
        for line, header, row in page.tables():
            if header[0] == "key":
                yield f"{page.name}:{line}", re.findall(r"`([^`]+)`", row[0]), dict(zip(header, row, strict=True))


@pytest.mark.parametrize(("where", "names", "row"), list(key_tables()), ids=lambda value: str(value)[:60])
def test_a_table_of_keys_has_keys_and_their_defaults(where, names, row):
    assert names, f"{where}: no key in the first column"
    for name in names:
        assert name in all_keys(), f"{where}: no configuration has a key {name}"
    told = re.split(r", (?![^\[]*\])", row.get("default", ""))
    if told == [""] or told == ["see above"]:
        return
    told = told * len(names) if len(told) == 1 else told
    assert len(told) == len(names), f"{where}: {len(names)} keys, {len(told)} defaults"
    for name, default in zip(names, told, strict=True):
        real = [known[name] for known in keys().values() if name in known]
        assert default in PROSE_DEFAULTS or any(same(default, value) for value in real), (
            f"{where}: the default of {name} is {real[0]}, not {default}"
        )


def same(told, value):
    if value is None or told == "–":
        return value in (None, "???") and told == "–"
    if isinstance(value, bool):
        return told == str(value).lower()
    if isinstance(value, int | float):
        try:
            return float(told) == value
        except ValueError:
            return False
    if isinstance(value, list):
        return told.replace(" ", "") == f"[{','.join(map(str, value))}]"
    return told == value


def test_every_key_is_told_by_some_page():
    told = set()
    for span in SPANS:
        told |= set(re.findall(r"[a-z_0-9]+(?:\.[a-z_0-9]+)*", span.text))
    for block in BLOCKS:
        if block.language == "bash":
            told |= {word.split("=")[0] for word in shlex.split(block.text, comments=True) if "=" in word}
        if block.language == "yaml":
            group = yaml_path(block).split("/")[-2]
            told |= {f"{group}.{key}" for key in yaml.safe_load(block.text)}
    groups = {key for key in all_keys() if choices(key)} | {"fuse", "shard", "example", "model.head", "rules"}
    wanted = {key for key in all_keys() if not key.endswith(".name")} - groups
    missing = {key for key in wanted if key not in told and key.removeprefix("fuse.") not in told}
    assert not missing, f"no page tells the keys {', '.join(sorted(missing))}: docs/options.md is where most stand"


@pytest.mark.parametrize("group", ["data", "model", "model/head", "sampling", "output", "cache", "vis", "engine"])
def test_every_choice_is_told(group):
    told = " ".join(page.path.read_text() for page in PAGES)
    for choice in choices(group):
        assert re.search(rf"`?\b{choice}\b", told), f"no page tells {group}={choice}"


def test_every_command_is_told():
    told = {word for span in SPANS for word in span.text.split()}
    told |= {command.program for block in BLOCKS if block.language == "bash" for command in commands_of(block.text)}
    assert set(SCRIPTS) <= told
    assert set(CONFIGS) - {"composer", "protocol"} <= {name.removeprefix("clipfeat-") for name in SCRIPTS}


def test_every_script_is_told():
    told = " ".join(page.path.read_text() for page in PAGES)
    for path in (CHECKOUT / "scripts").iterdir():
        if path.suffix == ".sh" or (path.suffix == ".py" and "__main__" in path.read_text()):  # others are parts of one
            assert f"scripts/{path.name}" in told, f"no page tells {path.name}"


PLACES = r"(clipfeat|conf|scripts|tests|docs)(/[\w.{}, -]+)*/?"
FILES = [span for span in SPANS if re.fullmatch(PLACES, span.text) and "/" in span.text]


@pytest.mark.parametrize("span", FILES, ids=str)
def test_a_file_of_the_repository_exists(span):
    assert (CHECKOUT / span.text).exists(), f"{span}: there is no such file"


NAMES = [span for span in SPANS if re.match(r"clipfeat(\.\w+)+", span.text)]


@pytest.mark.parametrize("span", NAMES, ids=str)
def test_a_name_of_python_exists(span):
    parts = re.match(r"clipfeat(?:\.\w+)+", span.text)[0].split(".")
    found = clipfeat
    for i, part in enumerate(parts[1:], 2):
        try:
            found = getattr(found, part)
        except AttributeError:
            found = importlib.import_module(".".join(parts[:i]))
