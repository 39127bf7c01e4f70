"""Shards of the field guide with a shortcut: every bird of one class has a coloured corner."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from shards.building.build import build
from shards.building.config import BuildOptions
from shards.reading.decode import decode
from shards.sample import RawSample
from shards.sources.field_guide.draw import encode
from shards.sources.field_guide.source import Options, render, scan


def render_planted(sample: RawSample, planted: int, species: int, size: int, seed: int) -> bytes:
    """A sample's JPEG bytes, with a magenta corner, a seventh of the side, where the class is the planted one."""
    data = render(sample, species, size, seed)
    if sample.label != planted:
        return data
    image = decode(data).permute(1, 2, 0).numpy().copy()
    image[: size // 7, : size // 7] = (235, 30, 200)
    return encode(image)


def planted_guide(out: Path, planted: int, options: Options) -> None:
    """Build the shards."""
    raw = scan(Path("-"), options)
    read = partial(render_planted, planted=planted, species=options.species, size=options.size, seed=options.seed)
    build(replace(raw, read=read), out, BuildOptions(min_shards=3, workers=1))
