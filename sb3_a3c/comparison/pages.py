"""A report's parts, and how they are written in Markdown and in HTML."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_STYLE = """\
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 72rem; margin: 2rem auto; padding: 0 1.5rem;
  overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.25rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .8rem; border-bottom: 1px solid #e4e4e4; text-align: right; }
th { border-bottom: 2px solid #888; vertical-align: bottom; } th:first-child, td:first-child { text-align: left; }
td small { color: #666; display: block; }
img { width: 38rem; max-width: 100%; height: auto; }
pre { background: #f6f6f6; padding: .8rem; font-size: 14px; white-space: pre-wrap; }
.warning { border-left: 4px solid #d55e00; padding: .4rem .9rem; background: #fdf3ec; }
@media (max-width: 48rem) {
  body { margin: 1rem auto; padding: 0 1rem; }
  table, tbody, tr, td { display: block; } thead { display: none; }
  tr { border: 1px solid #ccc; border-radius: 6px; margin-bottom: .8rem; }
  td, td:first-child { border: 0; padding: .2rem .7rem; text-align: right; overflow: hidden; }
  td:first-child { font-weight: bold; background: #f2f2f2; }
  td::before { content: attr(data-label); float: left; margin-right: 1rem; color: #666; font-weight: normal; }
}
"""


@dataclass(frozen=True)
class Heading:
    """A headline within the report."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """Some text; a warning is set off."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Bullets:
    """A list of remarks."""

    items: Sequence[str]


@dataclass(frozen=True)
class Code:
    """Lines as they would be typed."""

    text: str


@dataclass(frozen=True)
class Table:
    """Text to the left in the first column, figures to the right in the others, with what is in brackets below them."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """A PNG, its file's name beside the Markdown page, and what it shows."""

    png: bytes
    name: str
    caption: str


Part = Heading | Paragraph | Bullets | Code | Table | Picture


def as_markdown(title: str, parts: Sequence[Part]) -> str:
    """
    :param title: The report's headline
    :param parts: Its parts
    :return: The page, which refers to pictures beside it
    """
    return "\n\n".join([f"# {title}", *map(_markdown, parts)]) + "\n"


def as_html(title: str, parts: Sequence[Part]) -> str:
    """
    :param title: The report's headline
    :param parts: Its parts
    :return: The page, which needs nothing but itself
    """
    viewport = '<meta name="viewport" content="width=device-width, initial-scale=1">'  # a phone's page is as wide as the phone
    head = f'<meta charset="utf-8">{viewport}<title>{escape(title)}</title><style>\n{_STYLE}</style>'
    body = "\n".join([f"<h1>{escape(title)}</h1>", *map(_html, parts)])
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def _markdown(part: Part) -> str:
    match part:
        case Heading(text):
            return f"## {text}"
        case Paragraph(text, warning):
            return f"> **{text}**" if warning else text
        case Bullets(items):
            return "\n".join(f"- {item}" for item in items)
        case Code(text):
            return f"```\n{text}\n```"
        case Picture(_, name, caption):
            return f"![{caption}]({name})\n\n*{caption}*"
        case Table(header, rows):
            rule = [":--", *["--:"] * (len(header) - 1)]
            cells = [[cell.replace("|", "\\|") for cell in row] for row in [header, rule, *rows]]
            return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _html(part: Part) -> str:
    match part:
        case Heading(text):
            return f"<h2>{escape(text)}</h2>"
        case Paragraph(text, warning):
            return f"<p class='{'warning' if warning else 'text'}'>{escape(text)}</p>"
        case Bullets(items):
            return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"
        case Code(text):
            return f"<pre>{escape(text)}</pre>"
        case Picture(png, _, caption):
            data = base64.b64encode(png).decode()
            image = f'<img src="data:image/png;base64,{data}" alt="{escape(caption)}">'
            return f"<figure style='margin:0'>{image}<figcaption>{escape(caption)}</figcaption></figure>"
        case Table(header, rows):
            head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
            body = "".join("<tr>" + "".join(map(_cell, header, row)) + "</tr>\n" for row in rows)
            return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>"


def _cell(label: str, text: str) -> str:
    """A narrow page shows the label beside the cell, because it has no header row."""
    figure, bracket, interval = text.partition(" [")
    return (
        f'<td data-label="{escape(label)}">{escape(figure)}'
        + (f" <small>[{escape(interval)}</small>" if bracket else "")
        + "</td>"
    )
