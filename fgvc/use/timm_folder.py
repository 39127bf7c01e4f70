"""A classifier as a folder that timm loads by itself, in the layout of the Hugging Face hub."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import save_for_hf

from fgvc.use.predictor import Predictor
from shards.errors import UserError

CROP_MODES = {"center_crop": "center", "squash": "squash", "pad": "border"}


def write_timm(predictor: Predictor, folder: Path, licence: str) -> None:
    """Write config.json and model.safetensors, and load them again: timm.create_model("local-dir:FOLDER",
    pretrained=True) gives the same bits. Raises UserError for a network that timm builds otherwise."""
    about, network = predictor.about, predictor.model.model.to("cpu", memory_format=torch.contiguous_format)
    name = about["model"]["name"]
    settings = {
        "input_size": (3, predictor.size, predictor.size), "mean": tuple(about["mean"]), "std": tuple(about["std"]),
        "interpolation": about["interpolation"],
    } | how_fitted(about)  # fmt: skip
    # The licence in timm's record is that of the weights that training began with.
    facts = {"label_names": list(predictor.classes), "pretrained_cfg": {"license": licence or "unknown"}}
    save_for_hf(network, str(folder), model_config=facts, safe_serialization=True, data_config=settings)
    (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode)  # it is written for its owner alone
    again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    inputs = torch.randn(2, 3, predictor.size, predictor.size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        same = torch.equal(network.eval()(inputs), again(inputs))
    if not same:
        raise UserError(f"{name}: timm builds another network from its own record of it; set formats='[onnx]'")


def check_timm(model: Mapping[str, Any]) -> None:
    """Raise UserError for a network, as a weights file describes it, that is none of timm's."""
    if model.get("backbones"):
        raise UserError("an ensemble is no network of timm's; set formats='[onnx]'")
    if model.get("covariance"):
        raise UserError(f"{model['name']} with model.covariance is no network of timm's; set formats='[onnx]'")
    if model["caffe_stride"]:
        raise UserError(f"{model['name']} with model.caffe_stride=true is no network of timm's; set formats='[onnx]'")


def how_fitted(about: dict[str, Any]) -> dict[str, Any]:
    """crop_mode and crop_pct with which timm's transform fits a picture as evaluation does; of a classifier of crops
    what was cut out, of one of two views the whole."""
    cut = about["crop"] != "whole" and not about["crop"].startswith("whole+")
    fit, share = (about.get("crop_fit") if cut else None) or about["fit"], about["eval_crop"]
    if fit != "center_crop":
        return {"crop_mode": CROP_MODES[fit], "crop_pct": 1.0}
    side = round(about["size"] / share)
    if math.floor(about["size"] / share) != side:  # what timm resizes to
        share = about["size"] / (side + 0.5)
    return {"crop_mode": CROP_MODES[fit], "crop_pct": share}
