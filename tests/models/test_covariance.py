"""Second-order pooling: the root, what is classified, whose directions it keeps, what may be done with it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from scipy.linalg import sqrtm
from small_runs import small_run

from fgvc.classification.directions import _Moments
from fgvc.explanation.explainers import explainer
from fgvc.explanation.subject import Subject
from fgvc.models.config import ModelConfig
from fgvc.models.covariance import SecondOrder, square_root
from fgvc.models.timm import create_model, load_classifier
from jobs.cli import main
from shards.errors import UserError
from shards.manifest import Manifest


def test_the_root_is_scipys() -> None:
    factors = np.random.default_rng(0).normal(size=(3, 5, 40))
    matrices = factors @ factors.transpose(0, 2, 1) / 40
    expected = np.stack([sqrtm(matrix).real for matrix in matrices])
    found = square_root(torch.from_numpy(matrices))
    np.testing.assert_allclose(found.numpy(), expected, rtol=0.02, atol=0.02)
    assert square_root(torch.zeros(1, 4, 4)).abs().max() == 0  # a map without any variance


def test_logits_are_linear_in_the_root_of_the_covariance() -> None:
    network = create_model(ModelConfig("test_resnet", "none", covariance=6), 3).eval()
    assert isinstance(network, SecondOrder)
    images = torch.randn(2, 3, 96, 96)
    plain = timm.create_model("test_resnet", num_classes=0).eval()
    plain.load_state_dict(network.backbone.state_dict())
    with torch.no_grad():
        maps = plain.forward_features(images).flatten(2)  # (2, C, places): of this network the last feature map
        expected = []
        for one in maps:
            reduced = network.reduce.weight @ one
            root = square_root(torch.cov(reduced, correction=0)[None])[0]
            wide = root * (2**0.5 * (1 - torch.eye(6)) + torch.eye(6))
            expected.append(network.covariance_head(wide[torch.triu(torch.ones(6, 6)).bool()]))
        torch.testing.assert_close(network(images), torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_its_file_loads_into_the_network_it_was_made_of(tmp_path: Path) -> None:
    """Also where that network calls its classifier `head`."""
    config = ModelConfig("test_vit", "none", {"img_size": 48}, covariance=4)
    network = create_model(config, 3)
    save_file(network.state_dict(), tmp_path / "a.safetensors")
    plain = create_model(replace(config, covariance=0, weights=str(tmp_path / "a.safetensors")), 3)
    for name, tensor in network.backbone.state_dict().items():
        assert torch.equal(plain.state_dict()[name], tensor)


def test_directions_are_the_principal_components() -> None:
    values = np.random.default_rng(1).normal(size=(500, 4)) * [1, 5, 2, 0.5] + [3, 0, -1, 0]
    broken = _Moments(2)
    broken.add(torch.tensor([[[1.0, float("inf")]]]))
    with pytest.raises(UserError, match="are not finite"):
        broken.components(1, torch.device("cpu"))
    moments = _Moments(4)
    for part in np.split(values, 5):
        moments.add(torch.from_numpy(part)[None])
    found = moments.components(2, torch.device("cpu"))
    _, _, right = np.linalg.svd(values - values.mean(0), full_matrices=False)
    np.testing.assert_allclose(np.abs(found), np.abs(right[:2]), atol=1e-6)
    assert [row[np.abs(row).argmax()] > 0 for row in found] == [True, True]


def test_a_probe_of_it_and_what_is_measured_later(guide: Manifest, tmp_path: Path) -> None:
    words = ["train.method=probe", "train.mixup=0", "model.covariance=8", "data.workers=1", "image.size=96"]
    assert main(small_run(guide, tmp_path, "a", *words)) == 0
    weights = tmp_path / "classify/a/model.safetensors"
    network, about = load_classifier(weights)
    assert about["model"]["covariance"] == 8
    torch.testing.assert_close(network.model.reduce.weight.norm(dim=1), torch.ones(8))
    again = ["evaluate", f"weights={weights}", f"data.shards={guide.folder}", "name=b", f"runs_dir={tmp_path}"]
    assert main([*again, "data.workers=0"]) == 0
    first, second = (
        json.loads((tmp_path / place / "result.json").read_text()) for place in ("classify/a", "evaluate/b")
    )
    assert first["test"]["top1"] > 0.25
    assert second["test"]["nll"] == pytest.approx(first["test"]["nll"], rel=1e-5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["model.covariance=8"],
            "for a probe, not train.method=finetune; set train.method=probe or model.covariance=0",
        ),
        (["train.method=probe", "model.covariance=100"], "the last feature map has 96 channels; take fewer"),
        (
            ["train.method=probe", "model.covariance=9"],
            "of images of 32 px the last feature map has 1 place: nothing varies",
        ),
        (["train.method=probe", "model.covariance=-1"], "model.covariance"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture, words: list[str], said: str
) -> None:
    assert main(small_run(guide, tmp_path, "a", "train.mixup=0", *words)) == 2
    assert said in capsys.readouterr().err.strip().splitlines()[-1]


def test_it_is_neither_explained_nor_a_network_of_timms(
    guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train.method=probe", "train.mixup=0", "model.covariance=4", "image.size=64", "evaluate_test=false"]
    assert main(small_run(guide, tmp_path, "a", *words)) == 0
    assert "fgvc explain" not in capsys.readouterr().out
    weights = tmp_path / "classify/a/model.safetensors"
    assert main(["explain", f"weights={weights}", f"data.shards={guide.folder}", "name=b", f"runs_dir={tmp_path}"]) == 2
    assert "classifies by its channels' covariance" in capsys.readouterr().err
    with pytest.raises(UserError, match="method=cam: SecondOrder has no map of a class; take layercam"):
        explainer("cam", Subject(load_classifier(weights)[0], 64, torch.device("cpu")))
    monkeypatch.setattr("jobs.tasks.export.onnx_bytes", lambda *_: pytest.fail("made before timm's was refused"))
    assert main(["export", str(weights), str(tmp_path / "out")]) == 2
    assert "with model.covariance is no network of timm's; set formats='[onnx]'" in capsys.readouterr().err
    assert main(["audit", str(guide.folder), "model.covariance=8"]) == 2
    assert "model.covariance: for a probe of fgvc classify" in capsys.readouterr().err
    with pytest.raises(UserError, match="takes no feature maps"):
        SecondOrder(torch.nn.Linear(2, 2), 1, 2)
