"""Reads CSV files as spreadsheets and scripts write them: any usual separator, UTF-8 or UTF-16, quoted or not."""

import codecs
import csv
import io
from pathlib import Path
from typing import Any

from shards.errors import UserError
from shards.sources.problems import Problems, printable

SEPARATORS = (",", ";", "\t", "|")
SURPLUS = "\0"  # fields beyond the header's; no column has this name


def read_csv(source: Path, columns: list[str], problems: Problems) -> list[tuple[str, dict[str, str]]]:
    """The rows of a CSV with a header, each as ("file.csv:17 '<first column>'", {column: stripped text}).

    Column names are matched whatever their case. Rows with too few or too many fields are noted as malformed.
    Raises UserError when the file or one of `columns` is missing.
    """
    if not source.is_file():
        raise UserError(printable(f"{source}: no such file; it must be a CSV with the columns {','.join(columns)}"))
    rows = []
    try:
        text = _decoded(source.read_bytes())
        separator = _separator(text, columns)
        lines = io.StringIO(text, newline="")
        reader = csv.DictReader(lines, restkey=SURPLUS, skipinitialspace=True, delimiter=separator)
        header = [name.strip().casefold() for name in reader.fieldnames or []]
        reader.fieldnames = header
        missing = [name for name in columns if name not in header]
        if missing:
            has = ",".join(header)[:80]
            what = f"no column {', '.join(missing)} in '{has}'; line 1 must name {','.join(columns)}"
            raise UserError(printable(f"{source}: {what}"))
        for row in reader:
            surplus: Any = row.get(SURPLUS) or []
            where = f"{source.name}:{reader.line_num} '{str(row[columns[0]])[:200]}'"
            if any(row[column] is None for column in columns) or any(surplus):
                problems.add("malformed line", where)
            else:
                rows.append((where, {column: row[column].strip() for column in columns}))
    except OSError as error:
        raise UserError(printable(f"{source}: {error.strerror}")) from None
    except (UnicodeError, csv.Error) as error:
        raise UserError(printable(f"{source}: not a readable CSV ({error}); save it as CSV in UTF-8")) from error
    return rows


def _decoded(data: bytes) -> str:
    """UTF-16 when its byte order mark says so, else UTF-8. Raises UnicodeError."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    return data.decode("utf-8-sig")


def _separator(text: str, columns: list[str]) -> str:
    """The separator by which most of `columns` stand in the first line."""
    first = text.partition("\n")[0].casefold()

    def found(separator: str) -> int:
        names = {name.strip().strip('"') for name in first.split(separator)}
        return sum(column in names for column in columns)

    return max(SEPARATORS, key=found)
