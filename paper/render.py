"""A table's cells as Markdown and as HTML: published, ours with links to the records, or empty."""

from collections.abc import Sequence
import dataclasses
import html

SHORT = 14  # characters of a row's name that stay in one line


@dataclasses.dataclass(frozen=True)
class Value:
  """One of our figures.

  Attributes:
    text: what is shown.
    records: the ids of the records it comes from, at least one.
    note: what else to know, such as the hardware.
  """
  text: str
  records: tuple[str, ...]
  note: str = ''


@dataclasses.dataclass(frozen=True)
class Cell:
  """The published value and ours, newest first. Both may be missing."""
  published: str = ''
  ours: tuple[Value, ...] = ()


@dataclasses.dataclass(frozen=True)
class Table:
  """A table of the paper, or one of ours.

  Attributes:
    key: its name in files and addresses, such as 'table3'.
    caption: what it shows, and what to know about it.
    columns: their names; the first `heads` of them identify a row.
    rows: of texts and Cells.
    command: what makes the first row, if there are none.
  """
  key: str
  title: str
  caption: str
  columns: Sequence[str]
  rows: Sequence[Sequence[str | Cell]]
  heads: int = 1
  command: str = ''

  @property
  def ids(self) -> list[str]:
    """Of all records that its cells link to."""
    cells = [cell for row in self.rows for cell in row if isinstance(cell, Cell)]
    return [id for cell in cells for value in cell.ours for id in value.records]


def markdown(table: Table) -> str:
  text = lambda cell: _markdown_cell(cell) if isinstance(cell, Cell) else _escaped(cell)
  lines = [list(table.columns), ['---'] * len(table.columns), *([text(cell) for cell in row] for row in table.rows)]
  body = '\n'.join(f'| {" | ".join(line)} |' for line in lines) if table.rows else f'Nothing yet: `{table.command}`'
  return f'## {table.title}\n\n{table.caption}\n\n{body}\n'


def _escaped(text: str) -> str:
  return html.escape(text, quote=False).replace('|', '\\|').replace('\n', ' ')


def _markdown_cell(cell: Cell) -> str:
  ours = []
  for value in cell.ours:
    first, *others = value.records
    more = ''.join(f' [[{k}]](#r-{id})' for k, id in enumerate(others, 2))
    ours.append(f'ours [{_escaped(value.text)}](#r-{first}){more} {_escaped(value.note)}'.rstrip())
  return '<br>'.join(filter(None, [_escaped(cell.published), *ours]))


def web(table: Table) -> str:
  """A section of the page. A wide table scrolls in a box of its own."""
  head = ''.join(f'<th scope="col">{html.escape(name)}</th>' for name in table.columns)
  rows = ''.join(f'<tr>{"".join(_web_cell(cell, k < table.heads) for k, cell in enumerate(row))}</tr>\n'
                 for row in table.rows)
  title, caption, command = map(html.escape, (table.title, table.caption, table.command))
  body = f'<p class="none">Nothing yet: <code>{command}</code></p>'
  if table.rows:
    body = (f'<div class="scroll" tabindex="0" role="region" aria-label="{title}"><table>'
            f'<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>')
  return f'<section id="{table.key}"><h2>{title}</h2>\n<p>{caption}</p>\n{body}\n</section>\n'


def _web_cell(cell, is_head) -> str:
  if not isinstance(cell, Cell):
    short = ' class="short"' if len(cell) <= SHORT else ''
    return f'<th scope="row"{short}>{html.escape(cell)}</th>' if is_head else f'<td>{html.escape(cell)}</td>'
  parts = [f'<div class="published">{html.escape(cell.published)}</div>'] if cell.published else []
  for value in cell.ours:
    first, *others = value.records
    more = ''.join(f' <a class="more" href="#r-{id}">[{k}]</a>' for k, id in enumerate(others, 2))
    note = f' <span class="note">{html.escape(value.note)}</span>' if value.note else ''
    parts.append(f'<div class="ours">ours <a href="#r-{first}">{html.escape(value.text)}</a>{more}{note}</div>')
  return f'<td>{"".join(parts)}</td>'
