"""A run's result.json as text in which every figure that the page shows can be jumped to."""

import json
from collections.abc import Iterator
from typing import Any

from markupsafe import Markup, escape

from fgvc.reporting.numbers import Number, Path
from fgvc.reporting.runs import Run

LONG = 200  # entries of a list from which those that nothing cites are left out


class Citations:
    """Which values of which runs are shown, and the ids by which they are found."""

    def __init__(self) -> None:
        self._ids: dict[tuple[str, Path], str] = {}

    def add(self, number: Number) -> str:
        """The id of a figure's place in its JSON."""
        return self._ids.setdefault((number.run, number.path), f"v{len(self._ids) + 1}")

    def of(self, run: str) -> dict[Path, str]:
        """Path -> id of what is shown of a run."""
        return {path: at for (key, path), at in self._ids.items() if key == run}


def json_text(run: Run, citations: Citations, long: int = LONG) -> Markup:
    """result.json, indented; values that the page shows carry their id. long: see `LONG`; 0: nothing else is there."""
    cited = citations.of(run.key)
    needed = {path[:length] for path in cited for length in range(1, len(path) + 1)}
    return Markup("").join(_lines(run.result, (), cited, needed, 0, long)) if run.result else Markup("")


def _lines(
    value: Any, path: Path, cited: dict[Path, str], needed: set[Path], depth: int, long: int
) -> Iterator[Markup | str]:  # fmt: skip
    """Pieces of text; plain ones are escaped when they are joined."""
    if isinstance(value, dict | list) and value and not _flat(value, path, needed):
        pairs = list(value.items() if isinstance(value, dict) else enumerate(value))
        shown = [pair for at, pair in enumerate(pairs) if at < long or (*path, pair[0]) in needed]
        yield "{" if isinstance(value, dict) else "["
        for at, (key, inner) in enumerate(shown):
            yield f"{',' if at else ''}\n{'  ' * (depth + 1)}"
            yield f"{_plain(key)}: " if isinstance(value, dict) else ""
            yield from _lines(inner, (*path, key), cited, needed, depth + 1, long)
        if len(shown) < len(pairs):
            yield f"{',' if shown else ''}\n{'  ' * (depth + 1)}… {len(pairs) - len(shown)} more in the file"
        yield f"\n{'  ' * depth}" + ("}" if isinstance(value, dict) else "]")
    elif path in cited:
        pointer = json.dumps(path)
        yield Markup('<span id="{}" class="v" data-path="{}">{}</span>').format(cited[path], pointer, _plain(value))
    else:
        yield escape(_plain(value))


def _flat(value: dict[str, Any] | list[Any], path: Path, needed: set[Path]) -> bool:
    """Whether a list stands in one line: plain values, none of which is shown."""
    return isinstance(value, list) and path not in needed and not any(isinstance(inner, dict | list) for inner in value)


def _plain(value: Any) -> str:
    return json.dumps(value)  # escapes everything that is not ASCII, control characters among it
