"""What sections are made of. The template knows how each looks; nothing here is markup."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fgvc.reporting.numbers import Derived, Number
from fgvc.reporting.runs import Run


@dataclass(frozen=True)
class Code:
    """A command, a key or a file name."""

    text: str


@dataclass(frozen=True)
class Badge:
    """A word that stands out. tone: what it means."""

    text: str
    tone: Literal["good", "bad", "plain"] = "plain"


@dataclass(frozen=True)
class RunLink:
    """A run's name, which leads to its record."""

    key: str


Part = str | Number | Derived | Code | Badge | RunLink
Line = tuple[Part, ...]


@dataclass(frozen=True)
class Cell:
    """A table's cell. sort: what it is ordered by."""

    parts: Line
    sort: float | str
    numeric: bool

    @property
    def empty(self) -> bool:
        return self.parts == NOTHING


NOTHING: Line = ("–",)


def words(part: Part) -> str:
    """A part as plain text."""
    return part if isinstance(part, str) else part.key if isinstance(part, RunLink) else part.text


def line(*parts: Part | None) -> Line:
    """The parts that are there."""
    return tuple(part for part in parts if part is not None)


def cell(*parts: Part | None) -> Cell:
    """A cell of the parts that are there, ordered by its first figure, else by its text."""
    shown = line(*parts)
    if shown and isinstance(shown[0], Number | Derived):
        return Cell(shown, shown[0].value, True)
    return Cell(shown or NOTHING, "".join(map(words, shown)), False)


@dataclass(frozen=True)
class Row:
    """A row; its first cell names it. classes: what the filter by class finds it by."""

    cells: Sequence[Cell]
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """A heading, its meaning or nothing, and whether figures stand below it."""

    name: str
    meaning: str
    numeric: bool


@dataclass(frozen=True)
class Table:
    """A table. columns: those that hold something. runs: where its figures come from."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    runs: Sequence[Run] = ()
    note: Line = ()
    folded: bool = False
    kind: Literal["table"] = "table"


def table(
    caption: str, headings: Sequence[str | tuple[str, str]], rows: Sequence[Row], runs: Sequence[Run] = (),
    note: Line = (), folded: bool = False,
) -> Table:  # fmt: skip
    """A table without the columns in which no row has anything. headings: a name, or (name, its meaning)."""
    columns = []
    kept = [at for at in range(len(headings)) if not all(row.cells[at].empty for row in rows)]
    for at in kept:
        heading = headings[at]
        name, meaning = (heading, "") if isinstance(heading, str) else heading
        columns.append(Column(name, meaning, any(row.cells[at].numeric for row in rows)))
    shown = [Row([row.cells[at] for at in kept], row.classes) for row in rows]
    return Table(caption, columns, shown, runs, note, folded)


@dataclass(frozen=True)
class Picture:
    """A picture of a run folder. alt: what it shows, for who does not see it."""

    file: Path
    alt: str
    caption: Line = ()
    classes: tuple[str, ...] = ()
    width: int = 1400  # pixels at most


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side."""

    pictures: Sequence[Picture]
    title: str = ""
    wide: bool = False
    kind: Literal["gallery"] = "gallery"


@dataclass(frozen=True)
class Chart:
    """A drawing, as SVG from fgvc.reporting.charts. alt: what it shows, in words."""

    svg: str
    alt: str
    caption: Line = ()


@dataclass(frozen=True)
class Charts:
    """Drawings side by side."""

    charts: Sequence[Chart]
    kind: Literal["charts"] = "charts"


@dataclass(frozen=True)
class Text:
    """A paragraph. tone: a warning stands out."""

    parts: Line
    tone: Literal["plain", "warning"] = "plain"
    kind: Literal["text"] = "text"


@dataclass(frozen=True)
class Points:
    """A list."""

    items: Sequence[Line]
    kind: Literal["points"] = "points"


@dataclass(frozen=True)
class Heading:
    """A part of a section, of one run where there are several. run: what it is about."""

    title: str
    run: Run | None = None
    kind: Literal["heading"] = "heading"


Block = Table | Gallery | Charts | Text | Points | Heading


@dataclass
class Section:
    """A section of the page; one without blocks is left out."""

    id: str
    title: str
    lead: Line = ()
    blocks: list[Block] = field(default_factory=list)
    runs: Sequence[Run] = ()


@dataclass(frozen=True)
class Card:
    """A figure of the first screen."""

    label: str
    figure: Number | Derived
    below: Line
    target: str  # id of the section that says more
    tone: Literal["plain", "good", "bad"] = "plain"


def interval(low: Number | Derived | None, high: Number | Derived | None) -> Line:
    """[low, high], or nothing."""
    return () if low is None or high is None else (" [", low, ", ", high, "]")


def bounds(run: Run, form: str, *path: str | int) -> Line:
    """[low, high] of two figures that stand one after the other in a list of a run's result."""
    return interval(run.number(form, *path, 0), run.number(form, *path, 1))


def present(items: Iterable[Any]) -> list[Any]:
    """Those that are not None."""
    return [item for item in items if item is not None]
