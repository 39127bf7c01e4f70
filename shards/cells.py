"""CSV for spreadsheets: text from data is never taken for a formula, and is read back as it was."""

import csv
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")  # what spreadsheets take for one; the quote, so that reading undoes it


def quoted(value: Any) -> Any:
    """A cell. Text that a spreadsheet would run as a formula gets a quote in front, which the spreadsheet hides;
    numbers stay numbers."""
    return f"'{value}" if isinstance(value, str) and value.lstrip(" ").startswith(FORMULA) else value


def unquoted(text: str) -> str:
    """What `quoted` was given."""
    return text[1:] if text.startswith("'") and text[1:].lstrip(" ").startswith(FORMULA) else text


def write_rows(stream: TextIO, rows: Iterable[Sequence[Any]]) -> None:
    """Rows of cells as CSV, each safe to open in a spreadsheet."""
    csv.writer(stream, lineterminator="\n").writerows([quoted(cell) for cell in row] for row in rows)
