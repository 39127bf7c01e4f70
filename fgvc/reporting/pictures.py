"""A run folder's pictures inside the page: made small enough that all of them together stay below a limit."""

import base64
import io
from pathlib import Path

from PIL import Image

from fgvc.reporting.blocks import Picture

BUDGET = 8 << 20  # bytes of base64 in a page of at most 10 MB
LEVELS = ((1.0, 84), (0.8, 75), (0.6, 65), (0.45, 50))  # of width, WebP quality; the first that fits is taken
LARGEST = 80_000_000  # pixels that are decoded


class Pictures:
    """Files as data URIs; what could not be read, file -> why; and what there was no room for."""

    def __init__(self, wanted: list[Picture]) -> None:
        self.broken: dict[Path, str] = {}
        self.omitted: list[Path] = []
        self.size: dict[Path, tuple[int, int]] = {}
        for factor, quality in LEVELS:
            self._uris: dict[Path, str] = {}
            for picture in wanted:
                if picture.file not in self._uris and picture.file not in self.broken:
                    self._add(picture, factor, quality)
            if sum(map(len, self._uris.values())) <= BUDGET:
                return
        self._leave_out(wanted)

    def uri(self, picture: Picture) -> str:
        """A data URI; empty where the picture could not be read, or no room was left."""
        return self._uris.get(picture.file, "")

    def _add(self, picture: Picture, factor: float, quality: int) -> None:
        try:
            with Image.open(picture.file) as image:
                if image.width * image.height > LARGEST:
                    raise ValueError(f"{image.width} x {image.height} pixels are too many")
                width = min(image.width, round(picture.width * factor))
                height = max(1, round(image.height * width / image.width))
                small = image.convert("RGB")
                if width < image.width:
                    small = small.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=2.0)
            stream = io.BytesIO()
            small.save(stream, "WEBP", quality=quality, method=2)
            self.size[picture.file] = small.size
            self._uris[picture.file] = "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            self.broken[picture.file] = str(error) or type(error).__name__

    def _leave_out(self, wanted: list[Picture]) -> None:
        """Keep the first that fit."""
        room = BUDGET
        for picture in wanted:
            uri = self._uris.get(picture.file, "")
            if len(uri) > room:
                del self._uris[picture.file]
                self.omitted.append(picture.file)
            else:
                room -= len(uri)
