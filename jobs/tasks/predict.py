"""Predict pictures: the work of `fgvc predict`."""

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

from fgvc.use.boxes import boxes_of
from fgvc.use.find import find_weights
from fgvc.use.pictures import list_pictures
from fgvc.use.predictor import Picture, Prediction, Predictor
from fgvc.use.why import Why
from jobs.predict import Config
from shards.cells import write_rows
from shards.errors import UserError
from shards.paths import expand
from shards.sample import Box
from shards.sources.common import make_keys
from shards.sources.problems import printable


def run(config: Config, words: Sequence[str], weights: Path) -> int:
    """Write a line a picture as they are answered; the exit code. Raises UserError for what no picture can make
    right."""
    listed = list_pictures(words)
    if config.box and len(listed.files) != 1:
        raise UserError(f"box: for one picture, {words[0]} holds {len(listed.files)}; give boxes=FILE or detector=RUN")
    sheets = _sheets(config, listed.files)
    detector = find_weights(config.detector, config.runs_dir, "detect") if config.detector else None
    predictor = Predictor(weights, config.device, detector)
    boxes = _boxes(config, listed.files, predictor.policy.min_score)
    for line in (listed.remark, _remark(config, predictor, len(listed.files) - len(boxes))):
        if line:
            print(f"fgvc predict: {line}", file=sys.stderr)
    why = Why(predictor, config.method) if config.pictures else None
    failed = 0
    with ExitStack() as stack:
        stream = stack.enter_context(_open(Path(config.out))) if config.out else sys.stdout
        if config.format == "csv":
            write_rows(stream, [_header(config.top)])
        pictures = ((file, boxes.get(file)) for file in listed.files)
        answers = predictor.predict_all(pictures, config.top, config.batch, config.shrink, bool(config.boxes))
        for file, (picture, prediction) in zip(listed.files, answers, strict=True):
            _write(stream, config, prediction)
            failed += bool(prediction.error)
            if why is not None and isinstance(picture, Picture):
                why.save(sheets[file], picture, prediction)
    if failed:
        print(f"fgvc predict: {failed} of {len(listed.files)} pictures could not be read", file=sys.stderr)
    return 1 if failed else 0


def _boxes(config: Config, files: Sequence[Path], least: float) -> dict[Path, Box]:
    """The boxes a user gives, by file; of a layer those of the score `least`."""
    if config.box:
        x0, y0, x1, y1 = config.box
        return {files[0]: (x0, y0, x1, y1)}
    return boxes_of(expand(config.boxes, "boxes"), files, least) if config.boxes else {}


def _sheets(config: Config, files: Sequence[Path]) -> dict[Path, Path]:
    """Where the picture of each file's answer goes. Raises UserError where something written would replace a file."""
    names = make_keys([str(file) for file in files], stem_is_enough=True)
    sheets = {file: Path(config.pictures) / f"{names[str(file)]}-seen.jpg" for file in files if config.pictures}
    read = {file.resolve() for file in files}
    for setting, path in [("pictures", sheet) for sheet in sheets.values()] + [("out", Path(config.out))]:
        if path.resolve() in read:
            where = f"{setting}={getattr(config, setting)}"
            raise UserError(printable(f"{where}: {path} is to be read; write somewhere else"))
    return sheets


def _remark(config: Config, predictor: Predictor, without: int) -> str:
    given = config.box or config.boxes or config.detector
    if predictor.crops and not given:
        return (
            "this classifier was trained on crops; without boxes it sees whole pictures and is less often right; "
            "give detector=RUN, boxes=FILE or box="
        )
    if given and not predictor.crops:
        return "this classifier was trained on whole pictures; boxes are of no use to it"
    if config.boxes and without:
        return f"pictures without a box in {config.boxes}, seen whole: {without}"
    return ""


def _write(stream: TextIO, config: Config, prediction: Prediction) -> None:
    if config.format == "csv":
        write_rows(stream, [_row(prediction, config.top)])
    else:
        stream.write(json.dumps(prediction.as_dict(config.logits)) + "\n")
    stream.flush()


def _header(top: int) -> list[str]:
    ranks = range(1, top + 1)
    return ["picture", "error", "width", "height", "x0", "y0", "x1", "y1"] + [
        name for rank in ranks for name in (f"class_{rank}", f"probability_{rank}")
    ]


def _row(prediction: Prediction, top: int) -> list[Any]:
    box: list[Any] = [round(value, 2) for value in prediction.box or ()] or [""] * 4
    size: list[Any] = [prediction.width, prediction.height] if not prediction.error else ["", ""]
    answers = [cell for answer in prediction.top for cell in (answer.name, round(answer.probability, 6))]
    return [prediction.picture, prediction.error, *size, *box, *answers] + [""] * (2 * top - len(answers))


def _open(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w", newline="", encoding="utf-8")
    except OSError as error:
        raise UserError(f"out={path}: cannot be written ({error.strerror})") from None
