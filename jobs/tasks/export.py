"""Write a classifier for other programs: the work of `fgvc export`."""

import logging
import os
import shutil
from pathlib import Path

from fgvc.use.card import write_card
from fgvc.use.onnx_file import onnx_bytes
from fgvc.use.predictor import Predictor
from fgvc.use.timm_folder import check_timm, write_timm
from jobs.export import Config
from shards.errors import UserError
from shards.files import write_bytes
from shards.paths import expand


def run(config: Config, weights: Path, out: str) -> str:
    """Write the folder, whole or not at all; a line for people. Raises UserError for a folder that holds something,
    and as the formats do."""
    folder = expand(out, "FOLDER").absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{out}: holds something already; choose a new or empty folder")
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    predictor = Predictor(weights, "cpu")
    if "timm" in config.formats:
        check_timm(predictor.about["model"])  # before the others are written, which takes minutes
    title = config.title or (weights.parent.name if weights.stem == "model" else weights.stem)
    work = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        work.mkdir(parents=True)
        facts = write_card(predictor, work, list(config.formats), title, config.licence, config.shards)
        if "onnx" in config.formats:
            write_bytes(work / "model.onnx", onnx_bytes(predictor, facts))
        if "timm" in config.formats:
            write_timm(predictor, work, config.licence)
        work.replace(folder)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return f"{out}: " + ", ".join(sorted(file.name for file in folder.iterdir()))
