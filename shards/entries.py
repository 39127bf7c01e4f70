"""The samples of a set of shards as columns: arrays mapped from one file, seen as a sequence of `Entry`.

The file is a safetensors file, which maps, needs no code of its own to be read and holds nothing that could be run. It
is shared by all processes of a machine: neither forked nor spawned loader workers copy it.
"""

import math
import mmap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, overload

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from shards.files import replaced_atomically
from shards.sample import KEY_CHARACTERS, KEY_LENGTH, SPLITS, Box

CHUNK = 1 << 16  # rows that are looked at or gathered at a time, so that temporary arrays stay small
DTYPES: dict[str, np.dtype[Any]] = {
    "U8": np.dtype("u1"), "I32": np.dtype("<i4"), "I64": np.dtype("<i8"), "F64": np.dtype("<f8"),
}  # fmt: skip
# Column -> its type and, for a table, the values in a row. Of a sample: one row; of its key, boxes and parts: the rows
# from *_starts[i] to *_starts[i + 1].
COLUMNS = {
    "label": ("I32", 0), "split": ("U8", 0), "shard": ("I32", 0), "offset": ("I64", 0), "length": ("I64", 0),
    "width": ("I32", 0), "height": ("I32", 0), "origin": ("I32", 0),
    "keys": ("U8", 0), "key_starts": ("I64", 0),
    "boxes": ("F64", 4), "box_starts": ("I64", 0),
    "part_names": ("I32", 0), "part_points": ("F64", 2), "part_starts": ("I64", 0),
}  # fmt: skip
ROW = ("label", "split", "shard", "offset", "length", "width", "height", "origin")


@dataclass(frozen=True)
class Entry:
    """One sample in a shard. `offset`/`length`: the bytes of its JPEG in the tar. `width`, `height`: upright pixels."""

    key: str
    label: int
    split: str
    shard: int
    offset: int
    length: int
    width: int
    height: int
    boxes: tuple[Box, ...] = ()
    parts: dict[str, tuple[float, float]] = field(default_factory=dict)
    origin: str = "real"


class Entries(Sequence[Entry]):
    """N samples. What reads many of them takes the columns; `entries[i]` makes one `Entry` (10 us).

    label, shard, width, height: (N,) int32. offset, length: (N,) int64. split: (N,) uint8, index into SPLITS.
    origin: (N,) int32, index into `origins`. keys: ASCII bytes of all keys, one after another; boxes: (K, 4) float64
    xyxy; part_names: (P,) int32, index into `parts`; part_points: (P, 2) float64. key_starts, box_starts, part_starts:
    (N + 1,) int64, where a sample's own begin.
    """

    label: np.ndarray
    split: np.ndarray
    shard: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    width: np.ndarray
    height: np.ndarray
    origin: np.ndarray
    keys: np.ndarray
    key_starts: np.ndarray
    boxes: np.ndarray
    box_starts: np.ndarray
    part_names: np.ndarray
    part_points: np.ndarray
    part_starts: np.ndarray

    def __init__(
        self, columns: dict[str, np.ndarray], parts: Sequence[str], origins: Sequence[str], path: Path | None = None
    ) -> None:
        """path: the file that `columns` are mapped from."""
        vars(self).update(columns)
        self.parts, self.origins, self.path = tuple(parts), tuple(origins), path

    @staticmethod
    def of(entries: Iterable[Entry]) -> "Entries":
        """Columns of samples, in memory; an iterator is read piece by piece."""
        parts: dict[str, int] = {}
        origins: dict[str, int] = {}
        rest = iter(entries)
        pieces = [_gathered([], parts, origins)]
        while piece := list(islice(rest, CHUNK)):
            pieces.append(_gathered(piece, parts, origins))
        columns = {name: np.concatenate([piece[name] for piece in pieces]) for name in COLUMNS}
        for name in ("key_starts", "box_starts", "part_starts"):  # so far how many each sample has
            columns[name] = np.concatenate([np.zeros(1, np.int64), np.cumsum(columns[name])])
        return Entries(columns, list(parts), list(origins))

    @staticmethod
    def mapped(path: Path, parts: Sequence[str], origins: Sequence[str]) -> "Entries":
        """The columns in a file, not yet checked. Raises OSError, or ValueError for a file that is none of ours."""
        return Entries(_map(path), parts, origins, path)

    def save(self, path: Path) -> None:
        """Write the columns, atomically. The same samples give the same bytes. Raises OSError."""
        with replaced_atomically(path) as temporary:
            save_file({name: np.ascontiguousarray(getattr(self, name)) for name in COLUMNS}, temporary)

    def __len__(self) -> int:
        return len(self.label)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Entry, ...]: ...
    def __getitem__(self, index: int | slice) -> Entry | tuple[Entry, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        place = int(index) + (len(self) if index < 0 else 0)
        if not 0 <= place < len(self):
            raise IndexError(f"entry {index} of {len(self)}")
        return next(self._rows(place, place + 1))

    def __iter__(self) -> Iterator[Entry]:
        for begin in range(0, len(self), 1024):
            yield from self._rows(begin, min(begin + 1024, len(self)))

    def _rows(self, begin: int, end: int) -> Iterator[Entry]:
        rows = zip(*(getattr(self, name)[begin:end].tolist() for name in ROW), strict=True)
        starts = [getattr(self, name)[begin : end + 1].tolist() for name in ("box_starts", "part_starts")]
        keys = self.keys_of(slice(begin, end))
        for at, (label, split, shard, offset, length, width, height, origin) in enumerate(rows):
            (box, box_end), (part, part_end) = starts[0][at : at + 2], starts[1][at : at + 2]
            boxes = tuple(map(tuple, self.boxes[box:box_end].tolist())) if box < box_end else ()
            parts = {}
            if part < part_end:
                named = zip(
                    self.part_names[part:part_end].tolist(), self.part_points[part:part_end].tolist(), strict=True
                )
                parts = {self.parts[name]: (x, y) for name, (x, y) in named}
            yield Entry(
                keys[at], label, SPLITS[split], shard, offset, length, width, height, boxes, parts,
                self.origins[origin],
            )  # fmt: skip

    def key(self, index: int) -> str:
        """One sample's key."""
        begin, end = self.key_starts[index : index + 2].tolist()
        return self.keys[begin:end].tobytes().decode("ascii")

    def keys_of(self, indices: slice | Sequence[int] | np.ndarray = slice(None)) -> list[str]:
        """The keys of some samples, or of all."""
        if not isinstance(indices, slice):
            places = np.asarray(indices, np.int64)
            if not len(places):
                return []
            low, high = int(places.min()), int(places.max()) + 1
            if high - low <= 2 * len(places):  # most of a stretch: decode all of it
                stretch = self.keys_of(slice(low, high))
                return [stretch[place] for place in (places - low).tolist()]
            return [self.key(place) for place in places.tolist()]
        begin, end, _ = indices.indices(len(self))
        starts = self.key_starts[begin : end + 1]
        text = self.keys[starts[0] : starts[-1]].tobytes().decode("ascii")
        edges = (starts - starts[0]).tolist()
        return [text[low:high] for low, high in pairwise(edges)]

    @cached_property
    def position(self) -> dict[str, int]:
        """Key -> index of its sample. Of a million samples it takes a second and 150 MB."""
        return {key: index for index, key in enumerate(self.keys_of())}

    @cached_property
    def counts(self) -> dict[str, int]:
        """Samples per split, in the order in which the splits begin."""
        found = {code: int(np.count_nonzero(self.split == code)) for code in range(len(SPLITS))}
        first = {code: int(np.argmax(self.split == code)) for code, count in found.items() if count}
        return {SPLITS[code]: found[code] for code in sorted(first, key=first.__getitem__)}

    @property
    def box_counts(self) -> np.ndarray:
        """(N,) int64: how many boxes each sample has."""
        return np.diff(self.box_starts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Entries):
            return NotImplemented
        same = (self.parts, self.origins) == (other.parts, other.origins)
        return same and all(np.array_equal(getattr(self, name), getattr(other, name)) for name in COLUMNS)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Entries: {len(self)}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """To a worker goes the file's name, not what is in it."""
        if self.path is not None:
            return Entries.mapped, (self.path, self.parts, self.origins)
        return Entries, ({name: getattr(self, name) for name in COLUMNS}, self.parts, self.origins)

    def check(self, classes: int) -> None:
        """Raises ValueError, naming column and row, for values that no build writes; it reads every value once."""
        count = len(self.label)
        for name in ROW:
            if len(getattr(self, name)) != count:
                raise ValueError(f"{name}: number of rows")
        for name, rows in (("key", self.keys), ("box", self.boxes), ("part", self.part_names)):
            starts = getattr(self, f"{name}_starts")
            if len(starts) != count + 1 or starts[0] != 0 or starts[-1] != len(rows):
                raise ValueError(f"{name}_starts: number of rows")
            _all(lambda values: values[1:] >= values[:-1], starts, f"{name}_starts", overlap=1)
        _all(lambda values: _KEY_BYTES[values], self.keys, "keys")
        _all(lambda v: (v[1:] > v[:-1]) & (v[1:] - v[:-1] <= KEY_LENGTH), self.key_starts, "length of key", overlap=1)
        _all(lambda values: (values >= 0) & (values < classes), self.label, "label")
        _all(lambda values: values < len(SPLITS), self.split, "split")
        _all(lambda values: (values >= 0) & (values < len(self.origins)), self.origin, "origin")
        for name in ("shard", "offset", "length"):
            _all(lambda values: (values >= 0) & (values < 2**62), getattr(self, name), name)
        for name in ("width", "height"):
            _all(lambda values: values > 0, getattr(self, name), name)
        _all(lambda v: np.isfinite(v).all(1) & (v[:, 0] < v[:, 2]) & (v[:, 1] < v[:, 3]), self.boxes, "box")
        _all(lambda values: values >= 0, self.part_names, "part")
        _all(lambda values: values < len(self.parts), self.part_names, "part")
        if len(self.part_points) != len(self.part_names):
            raise ValueError("part_points: number of rows")
        _all(lambda values: np.isfinite(values).all(1), self.part_points, "part")


_KEY_BYTES = np.zeros(256, bool)
_KEY_BYTES[list(KEY_CHARACTERS.encode())] = True


def _all(valid: Callable[[np.ndarray], Any], values: np.ndarray, what: str, overlap: int = 0) -> None:
    """Raise ValueError with the row of the first value that is not valid. overlap: rows that pieces have in common."""
    for begin in range(0, len(values) - overlap, CHUNK):
        good = valid(values[begin : begin + CHUNK + overlap])
        if not good.all():
            raise ValueError(f"{what}, row {begin + int(np.argmin(good))}")


def _gathered(entries: list[Entry], parts: dict[str, int], origins: dict[str, int]) -> dict[str, np.ndarray]:
    """The columns of some samples, with counts in place of starts; names that are new get a code."""
    keys = [entry.key.encode() for entry in entries]
    boxes = [box for entry in entries for box in entry.boxes]
    names = [parts.setdefault(name, len(parts)) for entry in entries for name in entry.parts]
    points = [point for entry in entries for point in entry.parts.values()]
    plain: dict[str, Any] = {name: [getattr(entry, name) for entry in entries] for name in ROW}
    plain["split"] = [SPLITS.index(split) for split in plain["split"]]
    plain["origin"] = [origins.setdefault(origin, len(origins)) for origin in plain["origin"]]
    plain |= {
        "keys": np.frombuffer(b"".join(keys), np.uint8), "key_starts": [len(key) for key in keys],
        "boxes": boxes, "box_starts": [len(entry.boxes) for entry in entries],
        "part_names": names, "part_points": points, "part_starts": [len(entry.parts) for entry in entries],
    }  # fmt: skip
    shaped = {}
    for name, (kind, width) in COLUMNS.items():
        column = np.array(plain[name], DTYPES[kind])
        shaped[name] = column.reshape(-1, width) if width else column
    return shaped


def _map(path: Path) -> dict[str, np.ndarray]:
    """The columns of a file, as read-only views of one mapping of it. Raises OSError, or ValueError where the file does
    not hold exactly these columns."""
    try:
        with safe_open(path, "np") as tensors:  # it checks that header and size are consistent
            found = {
                name: (tensors.get_slice(name).get_dtype(), tuple(tensors.get_slice(name).get_shape()))
                for name in tensors.offset_keys()
            }
    except OSError:
        raise
    except Exception as error:
        raise ValueError(ascii(str(error))[:100]) from None
    for name, (kind, width) in COLUMNS.items():
        if name not in found or found[name][0] != kind or found[name][1][1:] != ((width,) if width else ()):
            raise ValueError(f"column {name}")
    if len(found) != len(COLUMNS):
        raise ValueError("number of columns")
    with path.open("rb") as stream:
        view = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    at = 8 + int.from_bytes(view[:8], "little")  # the header's length, the header, then the columns without gaps
    columns = {}
    for name, (kind, shape) in found.items():
        dtype, count = DTYPES[kind], math.prod(shape)
        # frombuffer takes no position at the very end, where an empty column may lie.
        columns[name] = np.frombuffer(view, dtype, count, at).reshape(shape) if count else np.zeros(shape, dtype)
        at += count * dtype.itemsize
    return columns
