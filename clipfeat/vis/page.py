"""Pieces of a web page in one file: tags, tables, bars, pictures. All that knows HTML and SVG.

Text is escaped where it enters a tag, so it can't be forgotten anywhere: only ``Markup`` is taken as it is.
"""

import html
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipfeat.errors import one_line

PICTURE_SIDE = 1000
"""So that the words in a picture can be read. Pixels of the longer side of a picture in a page."""

_FLATTENING = 8
"""Times the second largest bar, beyond which the largest would leave nothing to see of the others."""

_STYLE = Path(__file__).with_name("page.css")
_VOID = ("img", "meta")
"""Tags that are never closed."""

# Whatever a text might bring about, a browser loads nothing for this page and runs nothing in it.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


@dataclass(frozen=True)
class Bar:
    """A line of a bar chart.

    Attributes:
        label: what it is of.
        value: its length, at least 0.
        text: the value as it is read.
        low: whether it is marked.
    """

    label: str
    value: float
    text: str
    low: bool = False


def tag(name: str, *content: object, **attributes: object) -> Markup:
    """An element.

    Args:
        name: of the tag.
        content: text, which is escaped and made printable, or ``Markup``.
        attributes: by name; one that is None is left out, and an underscore at the end (``class_``) too.
    """
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    inner = "".join(map(escaped, content))
    return Markup(f"<{name}{said}>" if name in _VOID else f"<{name}{said}>{inner}</{name}>")


def escaped(content: object) -> Markup:
    """Text as HTML that shows it, on one line and with its middle left out where it is very long."""
    return content if isinstance(content, Markup) else Markup(html.escape(one_line(str(content))))


def joined(parts: Iterable[object]) -> Markup:
    """Several pieces, one after the other."""
    return Markup("\n".join(map(escaped, parts)))


def section(title: str, *content: object) -> Markup:
    """A part of the page under a heading; nothing where there is no content."""
    return tag("section", tag("h2", title), joined(content)) if any(content) else Markup()


def folded(title: str, content: Markup, *, fold: bool = True) -> Markup:
    """Content that shows when its title is clicked; if it is not to fold, the content alone."""
    return tag("details", tag("summary", title), content) if fold else content


def pairs(rows: Iterable[tuple[str, object]], class_: str) -> Markup:
    """Names and what they stand for; those of None or of no text are left out."""
    return tag(
        "dl",
        joined(tag("div", tag("dt", name), tag("dd", value)) for name, value in rows if value not in (None, "")),
        class_=class_,
    )


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Markup:
    """A table whose first column names the row and whose others are numbers."""
    lines = (tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in rows)
    return tag(
        "div",
        tag(
            "table",
            tag("thead", tag("tr", *(tag("th", name, scope="col") for name in head))),
            tag("tbody", joined(lines)),
        ),
        class_="wide",
    )


def bar_chart(bars: Sequence[Bar], full: float | None = None) -> Markup:
    """Horizontal bars, one below the other.

    Args:
        bars: from top to bottom.
        full: value of a bar as long as the chart is wide. Without it the largest one, unless that would flatten all
            others: then it is cut short, and says so.
    """
    # Lengths are percent, and all text is outside the drawings: so it stays legible at every width.
    second, largest = sorted([0.0, 0.0, *(bar.value for bar in bars)])[-2:]
    if full is None and 0 < _FLATTENING * second < largest:
        full = 2 * second
    full = full or largest or 1
    lines = (
        tag(
            "tr",
            tag("th", bar.label, scope="row"),
            tag("td", _svg(tag("rect", width=f"{100 * min(bar.value / full, 1):.2f}%", height="100%"))),
            tag("td", bar.text if bar.value <= full else f"{bar.text}, cut short"),
            class_="low" if bar.low else None,
        )
        for bar in bars
    )
    return tag("table", tag("tbody", joined(lines)), class_="bars")


def histogram(shares: Sequence[float], *, bins: int, low: float) -> Markup:
    """How many of some shares lie in each of equal parts of 0 to 1.

    Args:
        shares: from 0 to 1.
        bins: how many parts.
        low: parts below this are marked.
    """
    # 0.6 is no exact number of tenths: without the small sum it would lie in the part below.
    places = np.minimum(np.asarray(shares, np.float64) * bins + 1e-9, bins - 1).astype(np.int64)
    counts = np.bincount(places, minlength=bins).tolist()
    width, most = 100 / bins, max(*counts, 1)
    columns = []
    for i, count in enumerate(counts):
        height, middle = 80 * count / most, (i + 0.5) * width
        class_ = "low" if (i + 0.5) / bins < low else None
        columns.append(
            tag(
                "rect",
                x=f"{(i + 0.05) * width:.2f}%",
                y=f"{90 - height:.2f}%",
                width=f"{0.9 * width:.2f}%",
                height=f"{height:.2f}%",
                class_=class_,
            )
        )
        if count:
            columns.append(tag("text", count, x=f"{middle:.2f}%", y=f"{90 - height:.2f}%", dy="-4"))
        if i % 2 == 0:  # on a phone there is no room for all
            columns.append(tag("text", f"{i * width:.0f}", x=f"{i * width:.2f}%", y="100%", dy="-1", class_="start"))
    columns.append(tag("rect", y="90%", width="100%", height="1", class_="axis"))
    columns.append(tag("text", "100 %", x="100%", y="100%", dy="-1", class_="end"))
    said = ", ".join(f"{count} from {i * width:.0f} %" for i, count in enumerate(counts) if count)
    return tag("svg", joined(columns), role="img", aria_label=said or "empty", class_="histogram")


def _svg(*content: Markup) -> Markup:
    return tag("svg", *content, aria_hidden="true")  # the text beside it says the same


def picture(image: NDArray[np.uint8], caption: str, link: str) -> Markup:
    """A picture in the page itself, at most ``PICTURE_SIDE`` pixels wide and high.

    Args:
        image: (h, w, 3) RGB.
        caption: shown below it.
        link: address of the full picture; it need not be there.
    """
    small = Image.fromarray(image)
    small.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    file = BytesIO()
    small.save(file, "JPEG", quality=85)
    shown = tag(
        "img",
        src=Markup(f"data:image/jpeg;base64,{b64encode(file.getvalue()).decode()}"),
        width=small.width,
        height=small.height,
        alt=caption,
    )
    return tag("figure", tag("a", shown, href=link), tag("figcaption", caption))


def page(title: str, *content: object) -> str:
    """A whole page that needs no other file."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Markup(_STYLE.read_text(encoding="utf-8"))),
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', tag('main', joined(content))), lang='en')}\n"
