"""Boxes of the picture that an annotation was made on, as boxes of the upright image: scaled, turned, or refused."""

from collections.abc import Callable

from shards.building.encode import ImageError
from shards.sample import Box, Canvas

SCALED, TURNED, SHARES = "boxes scaled to the image's size", "boxes turned by EXIF", "boxes as shares of the image"
BEYOND = 0.1  # share of a side by which a box may reach beyond its image: labelling tools overshoot, not further

Size = tuple[float, float]
Point = tuple[float, float]
# EXIF orientation -> where a point (x, y) of the stored w x h picture lies in the upright one.
_TURNS: dict[int, Callable[[float, float, float, float], Point]] = {
    1: lambda x, y, w, h: (x, y),
    2: lambda x, y, w, h: (w - x, y),
    3: lambda x, y, w, h: (w - x, h - y),
    4: lambda x, y, w, h: (x, h - y),
    5: lambda x, y, w, h: (y, x),
    6: lambda x, y, w, h: (h - y, x),
    7: lambda x, y, w, h: (h - y, w - x),
    8: lambda x, y, w, h: (y, w - x),
}


def on_upright(
    boxes: tuple[Box, ...], canvas: Canvas | None, orientation: int, width: int, height: int
) -> tuple[tuple[Box, ...], list[str]]:
    """Boxes of `canvas` in pixels of the upright width x height image, and notes on what was done.

    orientation: the file's EXIF orientation, 1 to 8. Raises ImageError when the declared size is another shape, when it
    cannot tell whether EXIF had been applied, or when boxes reach far beyond the image.
    """
    if canvas is None or not boxes:
        _check_inside(boxes, width, height)
        return boxes, []
    upright = (float(width), float(height))
    stored = upright[::-1] if orientation >= 5 else upright
    turned = _is_turned(canvas, orientation, upright, stored)
    shape = stored if turned else upright
    size = canvas.size or shape
    notes = [SHARES if size == (1.0, 1.0) else SCALED] * (size != shape) + [TURNED] * turned
    (wide, high), (declared_wide, declared_high) = shape, size
    placed = tuple(
        (x0 * wide / declared_wide, y0 * high / declared_high, x1 * wide / declared_wide, y1 * high / declared_high)
        for x0, y0, x1, y1 in boxes
    )
    if turned:
        placed = tuple(_turn(box, orientation, shape) for box in placed)
    _check_inside(placed, width, height)
    return placed, notes


def _check_inside(boxes: tuple[Box, ...], width: int, height: int) -> None:
    right, below = BEYOND * width, BEYOND * height
    for x0, y0, x1, y1 in boxes:
        if x0 < -right or y0 < -below or x1 > width + right or y1 > height + below:
            what = f"box ({x0:g}, {y0:g}, {x1:g}, {y1:g})" if (x0, y0) != (x1, y1) else f"point ({x0:g}, {y0:g})"
            hint = "drawn on another size, or corners where a width and a height belong?"
            raise ImageError(f"{what} reaches beyond the image of {width} x {height}; {hint}")


def _is_turned(canvas: Canvas, orientation: int, upright: Size, stored: Size) -> bool:
    """Whether the boxes were drawn on the picture as stored, and have to be turned as EXIF says."""
    size = canvas.size
    if orientation == 1 or canvas.exif == "applied":
        _check_shape(size, upright)
        return False
    if canvas.exif == "ignored":
        _check_shape(size, stored)
        return True
    if size is not None and size != (1.0, 1.0) and upright != stored:
        for exact in (upright, stored):
            if size == exact:
                return exact == stored
        fits_upright, fits_stored = _same_shape(size, upright), _same_shape(size, stored)
        if fits_upright != fits_stored:
            return fits_stored
        if not fits_upright:
            _check_shape(size, upright)
    _check_shape(size, upright)
    raise ImageError(
        f"EXIF orientation {orientation}, and no declared size that tells whether its boxes were drawn on the turned "
        "picture; set exif=applied or exif=ignored"
    )


def _check_shape(size: Size | None, shape: Size) -> None:
    if size is not None and size != (1.0, 1.0) and not _same_shape(size, shape):
        declared, actual = (f"{wide:g} x {high:g}" for wide, high in (size, shape))
        raise ImageError(f"its boxes were declared for {declared} pixels, the image has {actual}, another shape")


def _same_shape(size: Size, shape: Size) -> bool:
    """Whether one factor leads from `size` to `shape`, give or take a pixel of rounding."""
    least = max((side - 1) / declared for side, declared in zip(shape, size, strict=True))
    most = min((side + 1) / declared for side, declared in zip(shape, size, strict=True))
    return least <= most


def _turn(box: Box, orientation: int, stored: Size) -> Box:
    x0, y0 = _TURNS[orientation](box[0], box[1], *stored)
    x1, y1 = _TURNS[orientation](box[2], box[3], *stored)
    return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)
