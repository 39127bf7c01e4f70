"""index.html of an audit: the findings with pictures, a file that needs nothing else and loads nothing."""

import base64
import io
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image, ImageDraw

from fgvc.audit.findings import Findings
from shards.files import write_bytes
from shards.reading.reader import Reader

SIDE = 168  # pixels of a picture


def write_page(path: Path, found: Findings, title: str, shown: int) -> None:
    """Write the page. shown: findings of each kind with pictures. Names from data are text, never markup."""
    reader = Reader(found.manifest)
    environment = Environment(
        loader=PackageLoader("fgvc.audit"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip

    def tile(index: int, box: tuple[float, ...] = ()) -> dict[str, str]:
        return {
            "picture": _picture(reader, index, box), "key": found.manifest.entries.key(index),
            "name": found.name(index), "split": found.split(index),
        }  # fmt: skip

    page = environment.get_template("audit.html").render(
        title=title, figures=found.figures(), classes=found.classes, shown=shown,
        exact=[[tile(index) for index in group[:6]] for group in found.groups()[:shown]],
        near=[(pair.likeness, [tile(pair.first), tile(pair.second)]) for pair in found.near[:shown]],
        labels=[
            (doubt.odds, tile(doubt.index), found.manifest.classes[doubt.suggested]) for doubt in found.labels[:shown]
        ],
        boxes=[(odd.why, tile(odd.index, odd.box)) for odd in found.boxes[:shown]],
    )  # fmt: skip
    write_bytes(path, page.encode())


def _picture(reader: Reader, index: int, box: tuple[float, ...]) -> str:
    with Image.open(io.BytesIO(reader.read(index))) as image:
        scale = SIDE / max(image.size)
        small = image.convert("RGB").resize([max(1, round(side * scale)) for side in image.size])
    if box:
        ImageDraw.Draw(small).rectangle([value * scale for value in box], outline=(230, 60, 30), width=2)
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
