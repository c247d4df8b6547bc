"""Every block of the README, CONTRIBUTING, CHANGELOG and docs/ runs, every link leads somewhere, every page is short.

A ``bash`` block is run by ``doc_runner.py`` on the small inputs of ``doc_inputs.py``, a ``python`` block here.
"""

import ast
import functools
import re

import pytest
import torch
import yaml
from conftest import CHECKOUT
from doc_commands import commands_of
from doc_inputs import Inputs
from doc_pages import BLOCKS, PAGES, Block, Page, yaml_path
from doc_runner import FOLDERS, PARSED_ONLY, READ, SCRIPT_ENDS, Runner
from doc_schema import PYPROJECT, SCRIPTS
from threadpoolctl import threadpool_limits

import clipfeat

MOST_LINES = {"README.md": 150} | dict.fromkeys((page.name for page in PAGES if page.name.startswith("docs/")), 200)

FUNCTIONS = ("extract", "fuse", "query", "load_model")
"""Those of the package that stand for commands, and so need a small model here."""


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


@blocks("python")
def test_a_python_block_runs(runner, inputs, block, tmp_path, monkeypatch):
    constants = {node.value for node in ast.walk(ast.parse(block.text)) if isinstance(node, ast.Constant)}
    if "clipfeat.extract(" not in block.text:  # which makes what the block reads
        for path in sorted(READ):
            if any(isinstance(text, str) and f"{text}/".startswith(f"{path}/") for text in constants):
                runner.put(path)
    text = block.text.replace('"ViT-B-16", "laion2b_s34b_b88k"', f'"{inputs.arch}", None')
    small_functions(monkeypatch, inputs.arch)
    exec(compile(runner.replaced(text), str(block), "exec"), {"__name__": "__main__"})  # noqa: S102


def small_functions(monkeypatch, arch):
    """Lets the functions that stand for commands take a small model, as the commands do here."""
    model = [f"model.arch={arch}", "model.pretrained=null"]
    small = {
        "extract": [*model, "vis=none", "sampling.num_points=300", "frames_per_scene=1", "num_workers=1", "device=cpu"],
        "fuse": ["num_workers=1"],
        "query": ["num_workers=1", "dpi=30"],
        "load_model": model,
    }
    for name in FUNCTIONS:
        monkeypatch.setattr(clipfeat, name, with_overrides(getattr(clipfeat, name), small[name]))


def with_overrides(function, more):
    @functools.wraps(function)
    def call(*arguments, overrides=(), **options):
        added = [one for one in more if not ("model" in options and one.startswith("model."))]  # a small one already
        return function(*arguments, overrides=[*overrides, *added], **options)

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


def test_what_stands_in_for_something_is_used():
    text = "\n".join(line for page in PAGES for line in page.lines)
    for path in (*FOLDERS, *READ):
        assert path in text, f"no page speaks of {path} any more"
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
