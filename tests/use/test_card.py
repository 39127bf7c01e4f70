"""The model card says with what its results were measured."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import ModelCard
from PIL import Image

from fgvc.classification.evaluation import image_as_measured
from fgvc.models.export import export
from fgvc.use.card import write_card
from fgvc.use.predictor import Predictor
from fgvc.use.timm_folder import how_fitted
from shards.reading.transforms import eval_transform

ABOUT: dict[str, Any] = {
    "model": {"name": "test_resnet", "kwargs": {}, "caffe_stride": False}, "classes": ["auk", "tern"], "size": 32,
    "fit": "squash", "eval_crop": 0.8, "eval_flip": False, "eval_crops": 1, "interpolation": "bicubic",
    "crop": "whole", "margin": 0.0, "mean": [0.5] * 3, "std": [0.5] * 3,
}  # fmt: skip


def card_of(folder: Path, formats: list[str], **facts: Any) -> tuple[ModelCard, dict[str, Any]]:
    """The card of a network that the weights file in `folder` says these facts of, and what write_card returns."""
    export(folder / "model.safetensors", timm.create_model("test_resnet", num_classes=2).state_dict(), ABOUT | facts)
    said = write_card(Predictor(folder / "model.safetensors", "cpu"), folder, formats, "it", "", "")
    return ModelCard.load(folder / "README.md"), said


@pytest.mark.parametrize("crops", [1, 5])
def test_results_of_five_crops_are_not_those_of_the_exported_network(crops: int, tmp_path: Path) -> None:
    figures = {"count": 200, "top1": 0.5, "top5": 0.9, "class_mean": 0.45, "ece": 0.2}
    (tmp_path / "result.json").write_text(json.dumps({"test": figures}))
    card, facts = card_of(tmp_path, ["timm", "onnx"], eval_crops=crops)
    assert (facts["eval_crops"], facts["size"]) == (crops, 32)
    assert ("These are results of 5 crops" in card.text) == (crops == 5)
    assert ("(resized to 40 pixels, 32 cut out)" in card.text) == (crops == 5)
    assert card.data.eval_results[0].metric_name == ("accuracy, mean logits of 5 crops" if crops == 5 else None)


def test_how_crops_are_fitted_is_said(tmp_path: Path) -> None:
    card, facts = card_of(tmp_path, ["timm"], crop="whole+square", fit="center_crop", crop_fit="squash")
    assert (facts["fit"], facts["crop_fit"], card.data.library_name) == ("center_crop", "squash", "timm")
    assert "What was cut out is stretched to a square." in card.text
    assert "ImageOps.exif_transpose(Image.open(" in card.text  # a phone's pictures are turned by EXIF
    assert "timm's transform differs: it" in card_of(tmp_path, ["timm"], fit="pad")[0].text
    card, facts = card_of(tmp_path, ["onnx"], fit="pad")
    assert (facts["crop_fit"], card.data.library_name, card.data.tags[1]) == (None, "onnx", "onnx")
    assert "timm" not in card.text.replace("trained with", "")


@pytest.mark.parametrize(
    "facts",
    [
        {"size": 32, "eval_crop": 0.9, "fit": "center_crop"}, {"size": 224, "eval_crop": 0.9, "fit": "center_crop"},
        {"size": 64, "fit": "squash"}, {"size": 96, "crop": "square", "fit": "center_crop", "crop_fit": "squash"},
        {"size": 95, "crop": "whole+square", "fit": "center_crop", "crop_fit": "squash"},
    ],
)  # fmt: skip
def test_timms_transform_fits_pictures_as_evaluation_does(facts: dict[str, Any]) -> None:
    about = ABOUT | facts
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)).resize((600, 400))
    transform = timm.data.create_transform(about["size"], interpolation="bicubic", normalize=False, **how_fitted(about))
    settings, cut = image_as_measured(about), about["crop"] == "square"
    ours = eval_transform(settings, about["size"], cut)(torch.from_numpy(np.array(image)).permute(2, 0, 1))
    apart = (ours.int() - transform(image).int()).abs().float()
    assert apart.mean() < 1  # Pillow and torch round apart; a side of one pixel less makes it 2 and more
