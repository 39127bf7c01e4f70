"""Boxes of a layer for pictures that are in no shards, by their files' names."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from shards.boxes_layer import read_any_layer
from shards.errors import UserError
from shards.sample import Box
from shards.sources.common import possible_keys
from shards.sources.problems import printable


def boxes_of(layer: Path, files: Sequence[Path]) -> dict[Path, Box]:
    """The best box of every file that has one, in pixels of the picture as the layer's shards hold it.

    Raises UserError for a layer that is damaged or of other pictures, and for two files that would take one's boxes.
    """
    found = read_any_layer(layer).boxes
    takers: dict[str, dict[Path, Path]] = defaultdict(dict)  # key -> the files that it names, however they are written
    for file in files:
        key = next((key for key in possible_keys(file.absolute().relative_to("/").as_posix()) if key in found), None)
        if key is not None:
            takers[key].setdefault(file.resolve(), file)
    for key, same in takers.items():
        if len(same) > 1:
            first, second = list(same.values())[:2]
            raise UserError(
                printable(f"boxes={layer}: {first} and {second} would both take the box of '{key}'; predict them apart")
            )
    key_of = {file: key for key, same in takers.items() for file in same}
    best = {
        file: max(rows, key=lambda row: row[4])[:4]
        for file in files
        if file.resolve() in key_of and (rows := found[key_of[file.resolve()]])
    }
    if not best:
        raise UserError(f"boxes={layer}: holds no box of any of these pictures; its keys are files' names")
    return best
