"""The images that are explained: of a split of shards, or photos that are in none; as the classifier sees them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fgvc.explanation.geometry import Placement, placement, whole_placement
from shards.building.encode import ImageError, normalise
from shards.entries import Entry
from shards.errors import UserError
from shards.manifest import Manifest
from shards.paths import PICTURES
from shards.reading.config import ImageConfig
from shards.reading.decode import decode
from shards.reading.loader import Batch, Samples, chunk_loader
from shards.reading.transforms import eval_transform
from shards.reading.views import WHOLE, View

UNKNOWN = -1  # the label of a photo


@dataclass(frozen=True)
class Gallery:
    """entries, placements: by the image's number. load: chunks of numbers -> their batches, in order."""

    entries: dict[int, Entry]
    placements: dict[int, Placement]
    load: Callable[[Sequence[Sequence[int]]], Iterable[Any]]
    whole: bool  # nothing is cropped

    def images(self, numbers: Sequence[int]) -> Tensor:
        """(N, 3, S, S) uint8 of these images."""
        return torch.cat([batch.images for batch in self.load([list(numbers)])])


def of_shards(
    manifest: Manifest, indices: Sequence[int], view: View, image: ImageConfig, size: int, *, workers: int, cache: str
) -> Gallery:
    """Images of shards in one view."""
    samples = Samples(manifest, eval_transform(image, size, cut=bool(view.regions)), [view], cache=cache)
    entries = {index: manifest.entries[index] for index in indices}
    places = {index: placement(entry, index, view, image, size) for index, entry in entries.items()}

    def load(chunks: Sequence[Sequence[int]]) -> Iterable[Any]:
        return chunk_loader(chunks, samples, workers=workers if len(chunks) > 1 else 0)

    return Gallery(entries, places, load, view == WHOLE)


def photo_files(path: Path) -> list[Path]:
    """An image file, or all those in a folder, sorted by name. Raises UserError when there are none."""
    if not path.exists():
        raise UserError(f"photos={path}: no such file or folder")
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURES) if path.is_dir() else [path]
    if not files:
        raise UserError(f"photos={path}: no images there ({', '.join(sorted(PICTURES))})")
    return files


def of_photos(files: Sequence[Path], image: ImageConfig, size: int) -> Gallery:
    """Image files, whole. Raises UserError for one that is not readable."""
    transform = eval_transform(image, size)
    found = [_decoded(file) for file in files]
    entries = {
        number: Entry(file.stem, UNKNOWN, "photos", 0, 0, 0, width=pixels.shape[2], height=pixels.shape[1])
        for number, (file, pixels) in enumerate(zip(files, found, strict=True))
    }
    places = {number: whole_placement(entry.width, entry.height, image, size) for number, entry in entries.items()}

    def load(chunks: Sequence[Sequence[int]]) -> Iterator[Batch]:
        for chunk in chunks:
            numbers = torch.tensor(list(chunk))
            images = torch.stack([transform(found[number]) for number in chunk])
            yield Batch(images, torch.full_like(numbers, UNKNOWN), numbers, torch.full_like(numbers, -1))

    return Gallery(entries, places, load, True)


def _decoded(file: Path) -> Tensor:
    try:
        return decode(normalise(file.read_bytes()).data, str(file))
    except OSError as error:
        raise UserError(f"photos={file}: {error.strerror}") from None
    except ImageError as error:
        raise UserError(f"photos={file}: not a readable image ({error})") from None
