"""The model card says with what its results were measured."""

import json
from pathlib import Path

import pytest
import timm
from huggingface_hub import ModelCard

from fgvc.models.export import export
from fgvc.use.card import write_card
from fgvc.use.predictor import Predictor


@pytest.mark.parametrize("crops", [1, 5])
def test_results_of_five_crops_are_not_those_of_the_exported_network(crops: int, tmp_path: Path) -> None:
    network = timm.create_model("test_resnet", num_classes=2)
    about = {
        "model": {"name": "test_resnet", "kwargs": {}, "caffe_stride": False}, "classes": ["auk", "tern"], "size": 32,
        "fit": "squash", "eval_crop": 0.8, "eval_flip": False, "eval_crops": crops, "interpolation": "bicubic",
        "crop": "whole", "margin": 0.0, "mean": [0.5] * 3, "std": [0.5] * 3,
    }  # fmt: skip
    export(tmp_path / "model.safetensors", network.state_dict(), about)
    figures = {"count": 200, "top1": 0.5, "top5": 0.9, "class_mean": 0.45, "ece": 0.2}
    (tmp_path / "result.json").write_text(json.dumps({"test": figures}))
    facts = write_card(Predictor(tmp_path / "model.safetensors", "cpu"), tmp_path, ["timm", "onnx"], "it", "", "")
    assert (facts["eval_crops"], facts["size"]) == (crops, 32)
    card = ModelCard.load(tmp_path / "README.md")
    assert ("These are results of 5 crops" in card.text) == (crops == 5)
    assert ("(resized to 40 pixels, 32 cut out)" in card.text) == (crops == 5)
    assert card.data.eval_results[0].metric_name == ("accuracy, mean logits of 5 crops" if crops == 5 else None)
