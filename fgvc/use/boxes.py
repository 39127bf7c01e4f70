"""Boxes of a layer for pictures that are in no shards, by their files' names."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from shards.boxes_layer import read_any_layer
from shards.errors import UserError
from shards.sample import Box
from shards.sources.common import possible_keys
from shards.sources.problems import printable


def boxes_of(layer: Path, files: Sequence[Path], least: float) -> dict[Path, Box]:
    """The best box of every file that has one of the score `least`, in pixels of the picture as the layer's shards hold
    it: the one that evaluation crops by, of equals the largest.

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
    if not takers:
        raise UserError(f"boxes={layer}: lists none of these pictures; its keys are files' names")
    best = {}
    for file in files:
        rows = [row for row in found.get(key_of.get(file.resolve(), ""), ()) if row[4] >= least]
        if rows:
            best[file] = max(rows, key=lambda row: (row[4], (row[2] - row[0]) * (row[3] - row[1])))[:4]
    return best
