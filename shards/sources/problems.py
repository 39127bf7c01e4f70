"""Collects everything that is wrong with a raw dataset, so that a user fixes it in one go and not run by run."""

import codecs
import re
from collections.abc import Iterator
from pathlib import Path

from shards.errors import UserError

SHOWN = 3  # names per kind of problem; the line must stay readable with a thousand of them


class Problems:
    """What is wrong under `root`, by kind, in the order found; `fix` ends the message and says what to do."""

    def __init__(self, root: Path, fix: str) -> None:
        self.root = root
        self.fix = fix
        self.found: dict[str, list[str]] = {}

    def add(self, kind: str, where: str) -> None:
        """Note one problem: `kind` reads well before a list of names ("missing image file"), `where` is one name."""
        self.found.setdefault(kind, []).append(where)

    def check(self) -> None:
        """Raises UserError, one line, when anything was noted: the count, the first names of each kind, what to do."""
        if not self.found:
            return
        total = sum(map(len, self.found.values()))
        kinds = "; ".join(f"{kind}: {_some(where)}" for kind, where in self.found.items())
        raise UserError(
            printable(f"{self.root}: {total} {'problem' if total == 1 else 'problems'}: {kinds}. {self.fix}")
        )


def printable(text: str) -> str:
    """`text` on one line that any terminal can print: file names may hold line breaks, control characters and
    undecodable bytes."""
    line = re.sub(r"[\r\n]+", " ", text)
    return line if line.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def _some(names: list[str]) -> str:
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def read_lines(path: Path, columns: int, problems: Problems) -> Iterator[tuple[str, list[str]]]:
    """Yield (where, fields) for each line of a blank-separated list; the last field may hold blanks.

    `where` is "file.txt:17 '<the line>'". A line with fewer than `columns` fields is noted as malformed and skipped.
    Bytes that are no UTF-8 survive as surrogates, as in the names that the file system returns. Raises UserError where
    the file cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(printable(f"{path}: {error.strerror}; it must be a list of text lines")) from None
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = data.decode(*("utf-16", "replace") if utf16 else ("utf-8-sig", "surrogateescape"))
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    for number, line in enumerate(text.split("\n"), start=1):
        fields = line.strip().split(maxsplit=columns - 1)
        where = f"{path.name}:{number} '{line.strip()[:60]}'"
        if len(fields) == columns:
            yield where, fields
        elif fields:
            problems.add("malformed line", where)


def require(root: Path, needed: list[str], layout: str) -> None:
    """Raises UserError when `root` is no folder or lacks some of `needed`; hints at a child folder that has them."""
    if not root.is_dir():
        raise UserError(printable(f"{root}: no such folder; ROOT must be the folder of {layout}"))
    missing = [name for name in needed if not (root / name).exists()]
    if not missing:
        return
    better = [d for d in sorted(root.iterdir()) if d.is_dir() and all((d / name).exists() for name in needed)]
    hint = f"did you mean {better[0]}?" if better else f"ROOT must be the folder of {layout}"
    raise UserError(printable(f"{root}: {', '.join(missing)} missing; {hint}"))
