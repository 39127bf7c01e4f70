"""What the settings of a pipeline's stage name: the folders of other stages, as ${STAGE}."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs.config import nearest
from shards.errors import UserError


def named(value: Any, folders: dict[str, str]) -> Iterator[str]:
    """The stages that a setting names."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from named(inner, folders)
    elif isinstance(value, str):
        yield from (name for name in re.findall(r"\$\{([a-z0-9_]+)\}", value) if name in folders)


def paths(value: Any, folders: dict[str, str], own: Path) -> Iterator[Path]:
    """What a setting names in the folders of other stages."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from paths(inner, folders, own)
    elif any(named(value, folders)):
        path = Path(resolved(value, folders))
        if own not in path.parents:
            yield path


def resolved(value: Any, folders: dict[str, str]) -> Any:
    """A setting with `${STAGE}` replaced by that stage's folder; other variables are the environment's."""
    if isinstance(value, dict):
        return {key: resolved(inner, folders) for key, inner in value.items()}
    if isinstance(value, list):
        return [resolved(inner, folders) for inner in value]
    if not isinstance(value, str):
        return value

    def replaced(match: re.Match[str]) -> str:
        if match[1] not in folders:
            raise UserError(f"'${{{match[1]}}}' is no stage{nearest(match[1], list(folders))}")
        return folders[match[1]]

    return re.sub(r"\$\{([a-z][a-z0-9_]*)\}", replaced, value)
