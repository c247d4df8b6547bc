"""The README, CONTRIBUTING, CHANGELOG and docs/ say what is true: every block runs, every link, key and name exists.

A ``bash`` block is run by ``doc_commands.py`` on the small inputs of ``doc_inputs.py``, a ``python`` block here.
"""

import ast
import functools
import importlib
import re
import shlex

import pytest
import torch
import yaml
from conftest import CHECKOUT
from doc_commands import FOLDERS, PARSED_ONLY, READ, SCRIPT_ENDS, Checker, Command, Runner, as_own_command, commands_of
from doc_inputs import Inputs
from doc_pages import PAGES, Block, Page
from doc_schema import CONFIGS, PROGRAMS, PYPROJECT, SCRIPTS, all_keys, check_values, choices, keys
from threadpoolctl import threadpool_limits

import clipfeat

MOST_LINES = {"README.md": 150} | dict.fromkeys((page.name for page in PAGES if page.name.startswith("docs/")), 200)

BLOCKS = [block for page in PAGES for block in page.blocks]
SPANS = [span for page in PAGES if page.name != "CHANGELOG.md" for span in page.spans()]
"""What the changelog says of a version need not be true of the next one."""

FUNCTIONS = ("extract", "fuse", "query", "load_model")
"""Those of the package that stand for commands, and so need a small model here."""

FACE = {
    *FUNCTIONS, "FeatureStore", "FeatureDataset", "collate_points", "build_uv_index", "sample_img_feat",
    "unproject_depth", "project_frame",
}  # fmt: skip
"""What the package offers by its own name."""

# Parts that other branches bring. Where they are there, all is checked; each can go when it has come to stay.
HAS_FACE = all(callable(getattr(clipfeat, name, None)) for name in FACE)
HAS_ROOMS = (CHECKOUT / "clipfeat" / "extraction").is_dir()

NO_KEYS = {"key", "group", "weights", "use_bbox", "align_corners", "frame", "cache", "maps", "backbone", "attributes"}
"""What stands before a = in code spans and is no key: arguments of Python, and what files and pictures say."""

NO_VALUE = re.compile(r"…|<|\{|^DIR$|^k$|^torch\.|^$")
"""Values that only say where a value goes."""

HYDRA_NODES = ("hydra.launcher.",)
"""Keys of Hydra's own plugins, which the schema does not have."""


@pytest.fixture(scope="session")
def inputs(tmp_path_factory, demo_root, text_arch):
    return Inputs(tmp_path_factory.mktemp("inputs"), demo_root, text_arch)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """What is computed here is small: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before)


@pytest.fixture
def runner(run_main, inputs, tmp_path):
    return Runner(run_main, inputs, tmp_path)


def blocks(language):
    found = [block for block in BLOCKS if block.language == language]
    return pytest.mark.parametrize("block", found, ids=map(str, found))


@blocks("bash")
def test_the_commands_of_a_block_run(runner, block, tmp_path):
    lay_out(block, tmp_path)
    for command in commands_of(block.text):
        runner.check(command)


def lay_out(block, folder):
    """Writes the YAML files that the page shows above the block: each begins with ``# its/path.yaml``."""
    for other in BLOCKS:
        if other.page == block.page and other.language == "yaml" and other.line < block.line:
            path = folder / yaml_path(other)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(other.text)


def yaml_path(block):
    match = re.match(r"# (\S+\.yaml)\n", block.text)
    assert match, f"{block}: begin it with a comment that says its file, as '# my_conf/data/mine.yaml'"
    return match[1]


@blocks("python")
def test_a_python_block_runs(runner, inputs, block, tmp_path, monkeypatch):
    tree = ast.parse(block.text)
    if not HAS_FACE and (missing := missing_names(tree)):
        pytest.skip(f"clipfeat has no {', '.join(sorted(missing))} yet")
    constants = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    if "clipfeat.extract(" not in block.text:  # which makes what the block reads
        for path in sorted(READ):
            if any(isinstance(text, str) and f"{text}/".startswith(f"{path}/") for text in constants):
                runner.put(path)
    text = block.text.replace('"ViT-B-16", "laion2b_s34b_b88k"', f'"{inputs.arch}", None')
    small_functions(monkeypatch, inputs.arch)
    exec(compile(runner.replaced(text), str(block), "exec"), {"__name__": "__main__"})  # noqa: S102


def missing_names(tree):
    """What a block asks of the package itself and does not find there."""
    asked = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "clipfeat":
            asked.add(node.attr)
        if isinstance(node, ast.ImportFrom) and node.module == "clipfeat":
            asked |= {alias.name for alias in node.names}
    return {name for name in asked if not callable(getattr(clipfeat, name, None))}


def small_functions(monkeypatch, arch):
    """Lets the functions that stand for commands take a small model, as the commands do here."""
    model = [f"model.arch={arch}", "model.pretrained=null"]
    small = {
        "extract": [*model, "vis=none", "sampling.num_points=300", "frames_per_scene=1", "num_workers=1", "device=cpu"],
        "fuse": ["num_workers=1"],
        "query": ["num_workers=1", "dpi=30"],
        "load_model": model,
    }
    for name in FUNCTIONS if HAS_FACE else ():
        monkeypatch.setattr(clipfeat, name, with_overrides(getattr(clipfeat, name), small[name]))


def with_overrides(function, more):
    @functools.wraps(function)
    def call(*arguments, overrides=(), **options):
        return function(*arguments, overrides=[*overrides, *more], **options)

    return call


@pytest.mark.parametrize("block", BLOCKS, ids=map(str, BLOCKS))
def test_a_block_is_of_a_kind_that_is_tested(block):
    assert block.language in ("bash", "python", "yaml", ""), f"{block}: no test knows blocks of {block.language}"
    if block.language == "yaml":
        yaml_path(block)
    if not block.language:
        program = re.compile(rf"^\s*\$ |^\s*({'|'.join([*SCRIPTS, 'clipfeat', 'python3?', 'pip', 'torchrun'])}) ", re.M)
        assert not program.search(block.text), f"{block}: a command; call the block bash, so that a test runs it"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_short_enough(page):
    assert len(page.lines) <= MOST_LINES.get(page.name, 10_000)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_its_links_lead_somewhere(page):
    by_path = {other.path: other for other in PAGES}
    for line, target in page.links():
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.path.parent / name).resolve() if name else page.path
        assert path.exists(), f"{page.name}:{line}: {target} leads nowhere"
        if anchor:
            assert path in by_path, f"{page.name}:{line}: {target} leads into no page"
            assert anchor in by_path[path].anchors(), f"{page.name}:{line}: {name or page.name} has no heading {anchor}"


def test_every_page_is_reached_from_the_readme():
    [readme] = [page for page in PAGES if page.name == "README.md"]
    reached = {(readme.path.parent / target.split("#")[0]).resolve() for _, target in readme.links()}
    assert {page.path for page in PAGES if page is not readme} <= reached


def test_the_readme_keeps_the_two_commands():
    [readme] = [page for page in PAGES if page.name == "README.md"]
    first, second = [block.text for block in readme.blocks if block.language == "bash"][:2]
    install = "python3 -m venv .venv && .venv/bin/pip install --quiet -e"
    assert first == f"{install} . && .venv/bin/clipfeat-extract experiment=demo"
    assert second == f'{install} ".[dev]" && .venv/bin/pytest'


# Code spans: commands, keys and values, names of Python and files


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
    """``clipfeat extract …`` without anything: the command exists."""
    if command.program == "clipfeat" and command.arguments[:1] and command.arguments[0] in PROGRAMS:
        command = as_own_command(Command("clipfeat", command.arguments))
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


PROSE_DEFAULTS = {"see above", "ScanNet's mesh"}


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
    groups = {key for key in all_keys() if choices(key)} | {"fuse", "shard", "example", "model.head"}
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
    assert set(CONFIGS) - {"composer"} <= {name.removeprefix("clipfeat-") for name in SCRIPTS}


def test_every_script_is_told():
    told = " ".join(page.path.read_text() for page in PAGES)
    for path in (CHECKOUT / "scripts").iterdir():
        if path.suffix in (".py", ".sh"):
            assert f"scripts/{path.name}" in told, f"no page tells {path.name}"


PLACES = r"(clipfeat|conf|scripts|tests|docs)(/[\w.{}, -]+)*/?"
FILES = [span for span in SPANS if re.fullmatch(PLACES, span.text) and "/" in span.text]


@pytest.mark.parametrize("span", FILES, ids=str)
def test_a_file_of_the_repository_exists(span):
    path = CHECKOUT / span.text
    if not path.exists() and not HAS_ROOMS and span.text.startswith("clipfeat/"):
        pytest.skip(f"{span.text} is not in this tree yet")
    assert path.exists(), f"{span}: there is no such file"


NAMES = [span for span in SPANS if re.match(r"clipfeat(\.\w+)+", span.text)]


@pytest.mark.parametrize("span", NAMES, ids=str)
def test_a_name_of_python_exists(span):
    parts = re.match(r"clipfeat(?:\.\w+)+", span.text)[0].split(".")
    if not HAS_FACE and parts[1] in FACE:
        pytest.skip(f"{span.text} is not here yet")
    if not HAS_ROOMS and parts[1] in ("system", "results", "extraction", "calibration"):
        pytest.skip(f"{span.text} is not in this tree yet")
    found = clipfeat
    for i, part in enumerate(parts[1:], 2):
        try:
            found = getattr(found, part)
        except AttributeError:
            found = importlib.import_module(".".join(parts[:i]))


# The tables of this test, and the files beside the pages


def test_what_stands_in_for_something_is_used():
    text = "\n".join(block.text for block in BLOCKS)
    for path in (*FOLDERS, *READ):
        assert path in text or any(path in span.text for span in SPANS), f"no page speaks of {path} any more"
    for script in (*SCRIPT_ENDS, *PARSED_ONLY):
        assert (CHECKOUT / "scripts" / script).is_file(), f"there is no scripts/{script} any more"


def test_the_citation_is_one_and_of_this_version():
    cited = yaml.safe_load((CHECKOUT / "CITATION.cff").read_text())
    assert cited["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= cited.keys()
    assert all(author.keys() <= {"name", "website"} for author in cited["authors"])
    assert cited["type"] == "software"
    assert str(cited["version"]) == clipfeat.__version__
    assert cited["license"] == PYPROJECT["project"]["license"]
    assert "MIT License" in (CHECKOUT / "LICENSE").read_text()


def test_the_changelog_has_this_version_and_what_comes():
    [page] = [page for page in PAGES if page.name == "CHANGELOG.md"]
    versions = re.findall(r"^## \[([^\]]+)\]", "\n".join(page.lines), re.MULTILINE)
    assert versions[0] == "Unreleased"
    assert clipfeat.__version__ in versions


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("frobnicate --all", "no test knows this kind of command"),
        ("clipfeat-extract data.root=/data/scans frames_per_scen=5 output_dir=out", "no such key"),
        ("clipfeat-extract data.root=/data/scans output=hdf5 output_dir=out", "no such choice"),
        ("python scripts/nothing.py out", "there is no scripts/nothing.py"),
        ("python scripts/benchmark.py --frame-count 3 --quickly", "can't be parsed"),
        ('pip install -e ".[gpu]"', "pyproject.toml has no extra gpu"),
        (".venv/bin/pytest tests/nowhere", "there is no tests/nowhere"),
        (".venv/bin/mypy --strict", ".ci/run does not say so"),
        ("clipfeat-fuse store=out | tee log", "write each command on a line of its own"),
        ("clipfeat-extract engine=ray engine.actors=3 data.root=/data/scans", "engine.actors"),
    ],
)
def test_a_block_that_is_wrong_fails(runner, text, why, capsys):
    def check():
        for command in commands_of(text):
            runner.check(command)

    with pytest.raises((Exception, pytest.fail.Exception), match=re.escape(why)):
        check()


def test_pages_are_read_as_they_are_meant(tmp_path, monkeypatch):
    monkeypatch.setattr("doc_pages.CHECKOUT", tmp_path)
    path = tmp_path / "a.md"
    path.write_text(
        "# One `two`, three!\n\n## One\n\n## One\n\n| key | default |\n|---|---|\n| `a\\|b`, `c` | 1 |\n\n"
        "See [x](#one) and `[no](link)`.\n\n```bash\nls `x`\n```\n"
    )
    page = Page(path)
    assert page.anchors() == {"one-two-three", "one", "one-1"}
    assert [(span.text, span.header) for span in page.spans()] == [
        ("a|b", ("key", "default")), ("c", ("key", "default")), ("two", ()), ("[no](link)", ()),
    ]  # fmt: skip
    assert list(page.links()) == [(11, "#one")]
    assert page.blocks == [Block("a.md", 14, "bash", "ls `x`")]
