"""Several frozen backbones under one head: what they compute, how the probe weighs them, what may be done with them."""

import json
from pathlib import Path

import pytest
import timm
import torch
from small_runs import small_run
from torch.nn import functional
from torchvision.transforms.v2 import functional as images_of

from fgvc.classification.probe import fit_probe
from fgvc.models.config import Backbone, ModelConfig
from fgvc.models.timm import create_model, input_statistics, load_classifier
from jobs.classify import Config
from jobs.cli import main
from jobs.config import load
from shards.errors import UserError
from shards.manifest import Manifest
from shards.reading.config import ImageConfig
from shards.reading.transforms import eval_transform

ALSO = "model.also=[{name: test_vit, weights: none, kwargs: {img_size: 48}, size: 48, mean: [0.1, 0.2, 0.3]}]"


def test_each_backbone_sees_its_own_size_and_statistics() -> None:
    also = [Backbone("test_efficientnet", "none", size=64, std=[0.2, 0.3, 0.4])]
    config = ModelConfig("test_resnet", "none", mean=[0.4, 0.5, 0.6], also=also)
    ensemble = create_model(config, 3).eval()
    mean, std = input_statistics(ensemble, config)
    assert mean.flatten().tolist() == [0, 0, 0]
    assert std.flatten().tolist() == [1, 1, 1]
    images = torch.rand(2, 3, 96, 96)
    first, second = (timm.create_model(name, num_classes=0).eval() for name in ("test_resnet", "test_efficientnet"))
    first.load_state_dict(ensemble.backbones[0].state_dict())
    second.load_state_dict(ensemble.backbones[1].state_dict())
    one = first((images - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) / 0.5)
    small = functional.interpolate(images, (64, 64), mode="bilinear", antialias=True)
    centre, spread = (torch.tensor(values).view(3, 1, 1) for values in ([0.485, 0.456, 0.406], [0.2, 0.3, 0.4]))
    features = torch.cat([one, second((small - centre) / spread)], 1)
    expected = features @ ensemble.head.weight.T + ensemble.head.bias
    torch.testing.assert_close(ensemble(images), expected, rtol=1e-5, atol=1e-5)


def test_a_probe_weighs_backbones_alike_whatever_their_scale() -> None:
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(40, 7, generator=generator), torch.arange(40) % 2
    features[:, 0] += labels
    features[:, 5] -= labels
    louder = torch.cat([features[:, :4], features[:, 4:] * 1000 + 5], 1)

    def answers(inputs: torch.Tensor, widths: list[int] | None) -> torch.Tensor:
        weight, bias = fit_probe(inputs, labels, 2, 0.1, widths=widths)
        return inputs @ weight.T + bias

    torch.testing.assert_close(answers(louder, [4, 3]), answers(features, [4, 3]), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(answers(louder, None), answers(features, None), atol=0.1)
    assert torch.equal(answers(features, [7]), answers(features, None))


def test_an_ensemble_is_fitted_named_measured_again_and_not_explained(
    guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["train.method=probe", "train.mixup=0", "data.folds=4", "evaluate_test=false", "image.size=64", ALSO]
    assert main(small_run(guide, tmp_path, "both", *words, "image.eval_flip=true", "image.eval_crops=5")) == 0
    networks = ["test_resnet at 64 px", "test_vit at 48 px"]
    assert f"an ensemble of 2 frozen networks under one head: {', '.join(networks)}" in capsys.readouterr().out
    folder = tmp_path / "classify/both"
    result = json.loads((folder / "result.json").read_text())
    assert result["ensemble"] == networks
    assert set(result["inputs"]) >= {"weights", "also.0"}

    weights = f"weights={folder / 'model.safetensors'}"
    again = ["evaluate", weights, f"data.shards={guide.folder}", f"runs_dir={tmp_path}", "split=held_out"]
    assert main([*again, "data.folds=4", "name=again"]) == 0
    measured = json.loads((tmp_path / "evaluate/again/result.json").read_text())["held_out"]
    assert measured["top1"] == result["val"]["top1"]
    assert measured["nll"] == pytest.approx(result["val"]["nll"], rel=1e-4)
    assert main([*again, "data.folds=4", "name=centre", "crops=1"]) == 0
    centre = json.loads((tmp_path / "evaluate/centre/result.json").read_text())["held_out"]
    assert centre["nll"] != pytest.approx(measured["nll"], rel=1e-4)

    capsys.readouterr()
    assert main(["explain", weights, f"data.shards={guide.folder}", f"runs_dir={tmp_path}"]) == 2
    assert "an ensemble of 2 networks; explain one of them alone" in capsys.readouterr().err
    model, _ = load_classifier(folder / "model.safetensors")
    assert model(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).shape == (1, 4)


def test_what_an_ensemble_cannot_be(capsys: pytest.CaptureFixture) -> None:
    assert load(Config, overrides=["train.method=probe", ALSO]).model.also[0].size == 48
    with pytest.raises(UserError, match=r"model\.also.*weigths"):
        load(Config, overrides=["train.method=probe", "model.also=[{name: test_vit, weigths: none}]"])
    command = ["classify", "model.name=test_resnet", "model.weights=none", "data.shards=nowhere", ALSO]
    assert main(command) == 2
    assert "model.also: backbones beside test_resnet stay frozen" in capsys.readouterr().err


def test_five_crops_are_the_centre_and_the_corners() -> None:
    image = torch.randint(0, 256, (3, 90, 120), dtype=torch.uint8)
    crops = [eval_transform(ImageConfig(eval_crop=0.8), 64, crop=crop)(image) for crop in range(5)]
    corners = images_of.five_crop(images_of.resize(image, [80]), [64, 64])
    for crop, reference in zip([*crops[1:], crops[0]], corners, strict=True):
        assert torch.equal(crop, reference)
    squashed = eval_transform(ImageConfig(eval_crop=0.8, eval_fit="squash"), 64, crop=4)(image)
    assert torch.equal(squashed, images_of.resize(image, [80, 80])[:, 16:, 16:])
    with pytest.raises(UserError, match="black corners"):
        eval_transform(ImageConfig(eval_fit="pad"), 64, crop=1)


def test_a_network_that_would_see_enlarged_images_is_refused(
    guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["train.method=probe", "train.mixup=0", "evaluate_test=false", "image.size=40", ALSO]
    assert main(small_run(guide, tmp_path, "enlarged", *words)) == 2
    message = "model.also[0].size=48: test_vit would see images of 40 px, enlarged; set image.size=48"
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
