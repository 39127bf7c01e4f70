"""What a set of shards holds: a table of its figures, its samples, a contact sheet of its pictures and boxes."""

import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from shards.entries import Entries, Entry
from shards.errors import UserError
from shards.manifest import Manifest, read_manifest
from shards.reading.reader import Reader

COLUMNS, ROWS = 8, 6
TILE, CAPTION = 168, 30  # pixels
PAPER, INK, FRAME, BOX = (250, 249, 246), (40, 40, 44), (224, 222, 216), (230, 60, 30)
NAMED = 5  # how many of the largest and smallest classes the table names


def show(shards: Path | Manifest, picture: Path | None = None) -> str:
    """The figures of shards as text; with `picture`, a contact sheet is written there too.

    Raises UserError when the manifest or a shard is missing or damaged, and when the picture cannot be written.
    """
    manifest = shards if isinstance(shards, Manifest) else read_manifest(shards)
    text = figures(manifest)
    if picture is None:
        return text
    sheet = contact_sheet(manifest)
    try:
        sheet.save(picture)
    except (OSError, ValueError) as error:  # ValueError: an ending that names no image format
        raise UserError(f"{picture}: the contact sheet cannot be written ({error})") from error
    return f"{text}\n\ncontact sheet  {picture}"


def figures(manifest: Manifest) -> str:
    """The table: source, splits, classes, image sizes, boxes, parts, notes, disk."""
    rows = [
        ("shards", manifest.url or f"{manifest.folder}"),
        ("source", manifest.source),
        ("licence", manifest.licence),
        *([("citation", manifest.citation)] if manifest.citation else []),
        ("images", f"{len(manifest.entries):,}  ({_counted(_by_split(manifest.counts))})"),
        *_origins(manifest.entries),
        *_class_rows(manifest),
        *_size_rows(manifest.entries),
        *_box_rows(manifest.entries),
        *_disk_rows(manifest),
        *(("note", f"{note}: {count:,}") for note, count in manifest.notes.items()),
    ]
    wide = max(len(name) for name, _ in rows) + 2
    last = ""
    lines = []
    for name, value in rows:  # a name that repeats is said once
        lines.append(f"{'' if name == last else name:<{wide}}{value}".rstrip())
        last = name
    return "\n".join(lines)


def sample_lines(manifest: Manifest) -> Iterator[str]:
    """The samples, a JSON object each: key, split, class, width, height, boxes (xyxy, pixels), origin."""
    for entry in manifest.entries:
        sample = {
            "key": entry.key, "split": entry.split, "class": manifest.classes[entry.label], "width": entry.width,
            "height": entry.height, "boxes": entry.boxes, "origin": entry.origin,
        }  # fmt: skip
        yield json.dumps(sample)


def _counted(pairs: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in pairs)


def _by_split(counts: dict[str, int]) -> list[tuple[str, int]]:
    order = ("train", "val", "test")
    return sorted(counts.items(), key=lambda pair: order.index(pair[0]) if pair[0] in order else len(order))


def _quantiles(values: np.ndarray, style: str = ",.0f") -> str:
    points = np.quantile(values, [0, 0.05, 0.5, 0.95, 1])
    names = ("min", "5 %", "median", "95 %", "max")
    return "   ".join(f"{name} {point:{style}}" for name, point in zip(names, points, strict=True))


def _origins(entries: Entries) -> list[tuple[str, str]]:
    origins = _named_counts(entries.origin, entries.origins)
    return [("origins", _counted(origins.most_common()))] if set(origins) - {"real"} else []


def _named_counts(codes: np.ndarray, names: Sequence[str]) -> Counter[str]:
    """How often each name comes, in the order in which they come first."""
    found, first, counts = np.unique(codes, return_index=True, return_counts=True)
    return Counter({names[found[at]]: int(counts[at]) for at in np.argsort(first)})


def _class_rows(manifest: Manifest) -> list[tuple[str, str]]:
    """Images per class and split, the imbalance, and the classes at both ends."""
    rows = [("classes", f"{len(manifest.classes):,}")]
    for split, _ in _by_split(manifest.counts):
        of_split = manifest.entries.label[manifest.members(split)]
        counts = np.bincount(of_split, minlength=len(manifest.classes)).tolist()
        empty = counts.count(0)
        ratio = f"max/min {max(counts) / min(counts):.2f}" if not empty else f"{empty:,} classes without any"
        rows.append(
            (
                "images per class",
                f"{split}: min {min(counts)}   median {np.median(counts):g}   max {max(counts)}   {ratio}",
            )
        )
    every = np.bincount(manifest.entries.label, minlength=len(manifest.classes)).tolist()
    order = sorted(range(len(manifest.classes)), key=lambda label: (every[label], label))
    if every[order[0]] == every[order[-1]]:
        return [*rows, ("", f"every class has {every[order[0]]} images")]
    shown = min(NAMED, len(order) // 2)
    rows += [("smallest classes", f"{every[label]:>5,}  {manifest.classes[label]}") for label in order[:shown]]
    rows += [("largest classes", f"{every[label]:>5,}  {manifest.classes[label]}") for label in order[::-1][:shown]]
    return rows


def _size_rows(entries: Entries) -> list[tuple[str, str]]:
    if not len(entries):
        return []
    return [
        ("width", _quantiles(entries.width) + "   pixels"),
        ("height", _quantiles(entries.height) + "   pixels"),
        ("jpeg", _quantiles(entries.length / 1000, ",.1f") + "   kB"),
    ]


def _box_rows(entries: Entries) -> list[tuple[str, str]]:
    """How many images have boxes, how many each, and how much of the image a box takes; likewise parts."""
    per_image, boxes = entries.box_counts, entries.boxes
    boxed = int(np.count_nonzero(per_image))
    rows = [("boxes", f"{boxed:,} of {len(entries):,} images have boxes")]
    if boxed:
        numbers, images = np.unique(per_image[per_image > 0], return_counts=True)
        each = zip(numbers.tolist(), images.tolist(), strict=True)
        rows[0] = ("boxes", rows[0][1] + ", " + _counted((f"{number} each:", count) for number, count in each))
        pixels = np.repeat(entries.width.astype(np.float64) * entries.height, per_image)
        shares = 100 * (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / pixels
        rows.append(("box area", _quantiles(shares, ".1f") + "   % of the image"))
    if parts := _named_counts(entries.part_names, entries.parts):
        rows.append(("parts", _counted(parts.most_common())))
    return rows


def _disk_rows(manifest: Manifest) -> list[tuple[str, str]]:
    per_split = Counter(shard.split for shard in manifest.shards)
    size = sum(shard.size for shard in manifest.shards) / 1e6
    missing = [shard.name for shard in manifest.shards if not (manifest.folder / shard.name).is_file()]
    rows = [("disk", f"{size:,.1f} MB in {len(manifest.shards):,} shards ({_counted(_by_split(per_split))})")]
    return rows + (
        [("not fetched yet" if manifest.url else "missing", f"{len(missing)} shards: {', '.join(missing[:3])}")]
        if missing
        else []
    )


def pick(manifest: Manifest, count: int) -> list[int]:
    """Positions of `count` entries from as many classes as there are, spread evenly over and in the classes."""
    labels_of = manifest.entries.label
    order = np.argsort(labels_of, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(labels_of[order])) + 1) if len(order) else []
    classes = {int(labels_of[part[0]]): part for part in parts}
    labels = sorted(classes)
    if len(labels) > count:
        labels = [labels[i * len(labels) // count] for i in range(count)]
    deepest = max((len(positions) for positions in classes.values()), default=0)
    rounds = (label for turn in range(deepest) for label in labels if turn < len(classes[label]))
    quota = Counter(label for label, _ in zip(rounds, range(count), strict=False))
    return [int(classes[label][i * len(classes[label]) // n]) for label, n in sorted(quota.items()) for i in range(n)]


def contact_sheet(manifest: Manifest) -> Image.Image:
    """A grid of pictures from as many classes as fit, with their boxes and the names of their classes.

    Raises UserError when a shard is missing or not as the manifest says.
    """
    chosen = pick(manifest, COLUMNS * ROWS)
    rows = -(-len(chosen) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (TILE + 8) + 8, max(rows, 1) * (TILE + CAPTION + 8) + 8), PAPER)
    reader = Reader(manifest)
    for place, position in enumerate(chosen):
        row, column = divmod(place, COLUMNS)
        entry = manifest.entries[position]
        tile = _tile(reader.read(position), entry, manifest.classes[entry.label])
        sheet.paste(tile, (8 + column * (TILE + 8), 8 + row * (TILE + CAPTION + 8)))
    return sheet


def _tile(data: bytes, entry: Entry, name: str) -> Image.Image:
    """One picture, shrunk, with its boxes, its class and its split."""
    tile = Image.new("RGB", (TILE, TILE + CAPTION), PAPER)
    draw = ImageDraw.Draw(tile)
    draw.rectangle((0, 0, TILE - 1, TILE - 1), fill=FRAME)
    try:
        image = Image.open(io.BytesIO(data)).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"sample '{entry.key}' cannot be decoded ({error}); run fgvc shards verify") from error
    scale = TILE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    left, top = (TILE - size[0]) // 2, (TILE - size[1]) // 2
    tile.paste(image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0), (left, top))
    for x0, y0, x1, y1 in entry.boxes:
        near, far = (_on_tile(left, top, x0 * scale, y0 * scale), _on_tile(left, top, x1 * scale - 1, y1 * scale - 1))
        draw.rectangle((*near, max(near[0], far[0]), max(near[1], far[1])), outline=BOX, width=2)
    font = ImageFont.load_default(12)
    while draw.textlength(name, font) > TILE and len(name) > 4:
        name = name[:-2].rstrip("…") + "…"
    draw.text((1, TILE + 1), name, INK, font)
    draw.text(
        (1, TILE + 15), f"{entry.split} · {entry.width}x{entry.height}", (130, 128, 122), ImageFont.load_default(11)
    )
    return tile


def _on_tile(left: int, top: int, x: float, y: float) -> tuple[float, float]:
    """A point of the picture on its tile. Boxes of a manifest from elsewhere may lie anywhere."""
    return left + min(max(x, 0.0), TILE - 1.0), top + min(max(y, 0.0), TILE - 1.0)
