"""Reads the README, CONTRIBUTING, CHANGELOG and docs/: their fenced blocks, code spans, links and headings."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from conftest import CHECKOUT

_FENCE = re.compile(r"^```(\w*)\s*$")
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_LINK = re.compile(r"\]\(([^()\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (.*)$")


@dataclass(frozen=True)
class Block:
    """A fenced block; ``line`` is that of its first line in the page."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self):
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Span:
    """Code in backticks within a text; of one in a table, ``header`` are the table's first cells."""

    page: str
    line: int
    text: str
    header: tuple[str, ...] = ()

    def __str__(self):
        return f"{self.page}:{self.line} {self.text}"


class Page:
    """One Markdown file."""

    def __init__(self, path: Path):
        self.path = path
        self.name = path.relative_to(CHECKOUT).as_posix()
        self.lines = path.read_text(encoding="utf-8").splitlines()
        self.blocks: list[Block] = []
        self.prose: list[tuple[int, str]] = []
        begin, language = 0, ""
        for number, line in enumerate(self.lines, 1):
            fence = _FENCE.match(line)
            if begin:
                if line.strip() == "```":
                    text = "\n".join(self.lines[begin : number - 1])
                    self.blocks.append(Block(self.name, begin + 1, language, text))
                    begin = 0
            elif fence:
                begin, language = number, fence[1]
            else:
                self.prose.append((number, line))
        assert not begin, f"{self.name}:{begin}: the block does not end"

    def tables(self) -> Iterator[tuple[int, tuple[str, ...], tuple[str, ...]]]:
        """Line, header and cells of every row of every table."""
        header: tuple[str, ...] = ()
        for number, line in self.prose:
            if not line.startswith("|"):
                header = ()
                continue
            row = cells(line)
            if not header:
                header = row
            elif not all(set(cell) <= set("-: ") for cell in row):
                yield number, header, row

    def spans(self) -> Iterator[Span]:
        """All code spans, those of tables with their header."""
        in_tables = set()
        for number, header, row in self.tables():
            in_tables.add(number)
            for cell in row:
                for text in _SPAN.findall(cell):
                    yield Span(self.name, number, text, header)
        for number, line in self.prose:
            if number not in in_tables:
                for text in _SPAN.findall(line.replace(r"\|", "|")):
                    yield Span(self.name, number, text)

    def links(self) -> Iterator[tuple[int, str]]:
        """Line and target of every link and picture."""
        for number, line in self.prose:
            for target in _LINK.findall(_SPAN.sub("", line)):
                yield number, target

    def anchors(self) -> set[str]:
        """The names that links to its headings have, as GitHub makes them."""
        found: set[str] = set()
        for _, line in self.prose:
            if heading := _HEADING.match(line):
                text = re.sub(r"[^\w\- ]", "", heading[1].replace("`", "").lower()).replace(" ", "-")
                name, count = text, 0
                while name in found:
                    count += 1
                    name = f"{text}-{count}"
                found.add(name)
        return found


def cells(line: str) -> tuple[str, ...]:
    """The cells of a table's row; ``\\|`` is a | within one."""
    parts = re.split(r"(?<!\\)\|", line.strip().strip("|"))
    return tuple(part.strip().replace(r"\|", "|") for part in parts)


PAGES = [
    Page(path)
    for path in (
        *(CHECKOUT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        *sorted((CHECKOUT / "docs").glob("*.md")),
    )
]

BLOCKS = [block for page in PAGES for block in page.blocks]


def yaml_path(block: Block) -> str:
    """Where a YAML block says that it belongs."""
    match = re.match(r"# (\S+\.yaml)\n", block.text)
    assert match, f"{block}: begin it with a comment that says its file, as '# my_conf/data/mine.yaml'"
    return match[1]
