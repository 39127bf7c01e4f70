"""Why: what in a picture a classifier's answer rests on, drawn over what the network was given."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from fgvc.explanation.explainers import applicable, explainer
from fgvc.explanation.pictures import overlay
from fgvc.explanation.subject import Subject
from fgvc.use.predictor import Picture, Prediction, Predictor
from shards.errors import UserError

PREFERRED = ("layercam", "cam", "gradcam")  # quick, and close to the object; the first that the network has layers for
SIDE, LINE = 320, 18  # pixels
PAPER, INK, BOX = (250, 249, 246), (40, 40, 44), (230, 60, 30)


class Why:
    """A method of fgvc.explanation on one classifier."""

    def __init__(self, predictor: Predictor, method: str = "") -> None:
        """method: its name (empty: the first of `PREFERRED` that applies). Raises UserError where there is none."""
        self.subject = Subject(predictor.model, predictor.size, predictor.device)
        self.classes = predictor.classes
        if not method:
            apply = applicable(self.subject)
            method = next((name for name in (*PREFERRED, *apply) if name in apply), "occlusion")
        self.method, self._explain = method, explainer(method, self.subject)

    def seen(self, picture: Picture) -> np.ndarray:
        """(S, S, 3): what the network was given, of two views the one that was cut out."""
        return picture.last.permute(1, 2, 0).numpy()

    def overlay(self, picture: Picture, label: int) -> np.ndarray:
        """(S, S, 3): the same under the map of a class; warm is what speaks for it."""
        inputs = self.subject.normalise(picture.last[None])
        (map_,) = self._explain(inputs, torch.tensor([label]), [0])
        return overlay(self.seen(picture), map_.numpy())

    def sheet(self, picture: Picture, prediction: Prediction) -> Image.Image:
        """The picture with its box, the overlay of the most probable class, and the answers in words."""
        assert prediction.logits is not None
        whole = Image.fromarray(picture.pixels.permute(1, 2, 0).numpy())
        scale = SIDE / max(whole.size)
        shown = whole.resize((max(1, round(whole.width * scale)), max(1, round(whole.height * scale))))
        if prediction.box:
            scale = SIDE / max(prediction.width, prediction.height)  # whole may be shrunk
            corners = [value * scale for value in prediction.box]
            ImageDraw.Draw(shown).rectangle(corners, outline=BOX, width=2)
        map_ = Image.fromarray(self.overlay(picture, int(prediction.logits.argmax()))).resize((SIDE, SIDE))
        lines = [f"{answer.probability:6.1%}  {answer.name}"[:90] for answer in prediction.top]
        sheet = Image.new("RGB", (2 * SIDE + 24, SIDE + 24 + LINE * len(lines)), PAPER)
        sheet.paste(shown, (8 + (SIDE - shown.width) // 2, 8 + (SIDE - shown.height) // 2))
        sheet.paste(map_, (SIDE + 16, 8))
        draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
        for number, line in enumerate(lines):
            draw.text((8, SIDE + 14 + number * LINE), line, INK, font)
        return sheet

    def save(self, path: Path, picture: Picture, prediction: Prediction) -> None:
        """Write the sheet as a JPEG. Raises UserError where that cannot be done."""
        stream = io.BytesIO()
        self.sheet(picture, prediction).save(stream, "JPEG", quality=90)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(stream.getvalue())
        except OSError as error:
            raise UserError(f"pictures={path.parent}: cannot be written ({error.strerror})") from None
