"""Training's parts against hand-computed cases, reference implementations and invariants."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from fgvc.classification.config import TrainConfig
from fgvc.classification.metrics import Predictions, confusions, expected_calibration_error, summary
from fgvc.classification.mixing import mix, soft_targets
from fgvc.classification.probe import fit_probe
from fgvc.models.config import ModelConfig
from fgvc.models.export import export, read_about
from fgvc.models.layers import eval_mode, freeze_batch_norm, freeze_layers
from fgvc.models.normalised import Normalised
from fgvc.models.timm import create_model
from fgvc.models.weights import load_weights
from fgvc.training.config import OptimConfig
from fgvc.training.optim import parameter_groups
from fgvc.training.schedule import lr_factor
from shards.errors import UserError
from shards.reading.loader import Batch
from shards.reading.order import MIX, random_stream


def test_groups_scale_layers_and_spare_norms() -> None:
    model = timm.create_model("test_vit", num_classes=5)
    groups = parameter_groups(model, OptimConfig(layer_decay=0.5, head_multiplier=3.0, weight_decay=0.1))
    names = [name for group in groups for name in group["names"]]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    scale = {name: group["lr_scale"] for group in groups for name in group["names"]}
    decay = {name: group["weight_decay"] for group in groups for name in group["names"]}
    assert scale["head.weight"] == 3.0
    blocks = len(model.blocks)
    for block in range(1, blocks):  # every block learns twice as fast as the one before it
        assert scale[f"blocks.{block}.attn.qkv.weight"] == 2 * scale[f"blocks.{block - 1}.attn.qkv.weight"]
    assert scale["patch_embed.proj.weight"] == 0.5 * scale["blocks.0.attn.qkv.weight"]
    assert decay["blocks.0.attn.qkv.weight"] == 0.1
    assert decay["blocks.0.norm1.weight"] == decay["head.bias"] == 0.0


def test_schedules() -> None:
    cosine = OptimConfig(schedule="cosine", warmup_epochs=1)
    assert [lr_factor(cosine, step, 4, 5) for step in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert lr_factor(cosine, 4, 4, 5) == 1.0
    assert lr_factor(cosine, 12, 4, 5) == pytest.approx(0.5)
    assert lr_factor(cosine, 19, 4, 5) == pytest.approx(0.5 * (1 + math.cos(math.pi * 15 / 16)))
    step = OptimConfig(schedule="step", warmup_epochs=0, step_epochs=2, step_factor=0.1)
    assert [lr_factor(step, at, 4, 6) for at in (0, 7, 8, 16)] == pytest.approx([1, 1, 0.1, 0.01])


def test_probe_is_the_minimum_of_its_objective() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (200,), generator=generator)
    features = torch.randn(200, 6, generator=generator) * 3 + 5
    features[torch.arange(200), labels] += 6.0
    weight, bias = fit_probe(features, labels, 4, penalty=0.2)
    assert ((features @ weight.T + bias).argmax(1) == labels).float().mean() > 0.75
    centred = features - features.mean(0)
    scale = centred.square().mean().sqrt()
    inner, offset = (weight * scale).requires_grad_(), (bias + weight @ features.mean(0)).requires_grad_()
    loss = functional.cross_entropy((centred / scale) @ inner.T + offset, labels) + 0.1 * inner.square().sum()
    loss.backward()
    assert inner.grad.abs().max() < 1e-4
    assert offset.grad.abs().max() < 1e-4


def batch_of(count: int) -> Batch:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 3, 16, 16), generator=generator).to(torch.uint8)
    labels = torch.arange(count) % 3
    return Batch(images, labels, torch.arange(count) + 100, torch.full((count,), 2))


@pytest.mark.parametrize("config", [TrainConfig(mixup=0.4), TrainConfig(cutmix=1.0), TrainConfig(mixup=1, cutmix=1)])
def test_mixing_does_not_depend_on_how_a_batch_is_split(config: TrainConfig) -> None:
    whole = batch_of(8)
    images, targets = mix(whole, soft_targets(whole.labels, 3, 0.1), config, seed=7)
    for start in (0, 2, 4, 6):
        one = slice(start, start + 2)
        part = Batch(whole.images[one], whole.labels[one], whole.entries[one], whole.epochs[one])
        part_images, part_targets = mix(part, soft_targets(part.labels, 3, 0.1), config, seed=7)
        assert torch.equal(part_images, images[one])
        assert torch.equal(part_targets, targets[one])
    assert targets.sum(1) == pytest.approx(torch.ones(8), abs=1e-6)
    assert not torch.equal(images, whole.images)
    with pytest.raises(UserError, match="must be even"):
        mix(batch_of(3), soft_targets(torch.arange(3), 3, 0.1), config, seed=7)


def test_cutmix_targets_follow_the_pixels() -> None:
    whole = batch_of(8)
    whole.images = torch.arange(8, dtype=torch.uint8)[:, None, None, None].expand(8, 3, 16, 16).clone()
    images, targets = mix(whole, functional.one_hot(torch.arange(8), 8).float(), TrainConfig(cutmix=1.0), seed=3)
    for place in range(8):
        own = (images[place] == place).float().mean()
        assert targets[place, place].item() == pytest.approx(own.item(), abs=1e-6)
        assert targets[place, place ^ 1].item() == pytest.approx(1 - own.item(), abs=1e-6)


def test_figures_of_a_hand_made_case() -> None:
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8], [0.2, 0.5, 0.3]], dtype=np.float32))
    predictions = Predictions(logits, np.array([0, 1, 2, 1]), np.arange(4))
    figures = summary(predictions, ("a", "b", "c"))
    assert figures["top1"] == 0.75
    assert figures["top5"] == 1.0
    assert figures["per_class"] == {"a": 1.0, "b": 0.5, "c": 1.0}
    assert figures["nll"] == pytest.approx(-np.log([0.7, 0.3, 0.8, 0.5]).mean(), rel=1e-5)
    assert figures["confused"] == [{"truth": "b", "predicted": "a", "count": 1}]
    assert confusions(predictions) == [(1, 0, 1)]
    # every answer in a bin of its own: |1 - .7|, |0 - .6|, |1 - .8|, |1 - .5|, a quarter each
    assert expected_calibration_error(predictions.probabilities, predictions.labels) == pytest.approx(1.6 / 4, abs=1e-5)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_exported_weights_load_strictly_and_say_the_same(name: str, tmp_path: Path) -> None:
    model = create_model(ModelConfig(name, "none"), 7).eval()
    mean, std = torch.full((1, 3, 1, 1), 0.4), torch.full((1, 3, 1, 1), 0.3)
    export(tmp_path / "model.safetensors", model.state_dict(), {"classes": ["x"], "size": 64})
    assert read_about(tmp_path / "model.safetensors") == {"classes": ["x"], "size": 64}
    plain = timm.create_model(name, num_classes=7).eval()
    plain.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    images = torch.randint(0, 256, (2, 3, 160, 160), dtype=torch.uint8)
    with torch.no_grad():
        expected = plain((images / 255 - 0.4) / 0.3)
        assert torch.allclose(Normalised(model, mean, std)(images), expected, atol=1e-4)


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    other = timm.create_model("test_vit", num_classes=3)
    save_file(other.state_dict(), tmp_path / "vit.safetensors")
    model = timm.create_model("test_resnet", num_classes=3)
    with pytest.raises(UserError, match="does not fit test_resnet"):
        load_weights(model, tmp_path / "vit.safetensors")
    torch.save({"model": model, "code": print}, tmp_path / "code.pth")
    with pytest.raises(UserError, match="more than tensors"):
        load_weights(model, tmp_path / "code.pth")
    (tmp_path / "torn.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(UserError, match="not readable as weights"):
        load_weights(model, tmp_path / "torn.safetensors")
    with pytest.raises(UserError, match="timm has no such model; did you mean"):
        create_model(ModelConfig("resnet5", "none"), 3)


def test_frozen_batch_norm_keeps_its_statistics() -> None:
    model = timm.create_model("test_resnet", num_classes=3)
    before = copy.deepcopy(model.state_dict())
    model.train()
    freeze_batch_norm(model, "all")
    model(torch.randn(4, 3, 64, 64)).sum().backward()
    after = model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before if "running" in key)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert all(module.weight.grad is None for module in norms)


def test_frozen_layers_do_not_learn_and_keep_their_statistics() -> None:
    model = timm.create_model("tf_efficientnet_lite0", num_classes=3)
    before = copy.deepcopy(model.state_dict())
    model.train()
    freeze_layers(model, 3)  # stem, stages 0 and 1
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.1)
    functional.cross_entropy(model(torch.randn(4, 3, 64, 64)), torch.tensor([0, 1, 2, 0])).backward()
    optimizer.step()
    after = model.state_dict()
    same = {key for key in before if torch.equal(before[key], after[key])}
    frozen = ("conv_stem.", "bn1.", "blocks.0.", "blocks.1.")
    assert same == {key for key in before if key.startswith(frozen)}
    with pytest.raises(UserError, match="this model has 8 layers before its classifier"):
        freeze_layers(model, 9)


def test_evaluation_gives_every_module_its_mode_back() -> None:
    model = timm.create_model("test_resnet", num_classes=3).train()
    freeze_batch_norm(model, "statistics")
    before = [module.training for module in model.modules()]
    assert len(set(before)) == 2
    with eval_mode(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == before


def test_caffe_stride_moves_to_the_first_convolution() -> None:
    model = create_model(ModelConfig("resnet50", "none", caffe_stride=True), 2)
    assert [model.get_submodule(f"layer{i}.0.conv1").stride for i in (1, 2, 3, 4)] == [(1, 1), (2, 2), (2, 2), (2, 2)]
    assert all(model.get_submodule(f"layer{i}.0.conv2").stride == (1, 1) for i in (1, 2, 3, 4))
    with pytest.raises(UserError, match="bottleneck"):
        create_model(ModelConfig("resnet18", "none", caffe_stride=True), 2)


def test_mixing_is_the_formula_image_by_image() -> None:
    """mixup blends two images, cutmix pastes a box of the partner; drawn from the sample's own stream, one by one."""
    config, batch = TrainConfig(mixup=0.4, cutmix=1.0), batch_of(16)
    images, targets = mix(batch, functional.one_hot(torch.arange(16), 16).float(), config, seed=5)
    for place in range(16):
        draw = random_stream(5, MIX, int(batch.epochs[place]), int(batch.entries[place]))
        mine, other = batch.images[place], batch.images[place ^ 1]
        if draw.random() < 0.5:
            keep = float(draw.beta(1.0, 1.0))
            side = (1 - keep) ** 0.5
            y, x = int(draw.integers(mine.shape[1])), int(draw.integers(mine.shape[2]))
            half = int(mine.shape[1] * side / 2), int(mine.shape[2] * side / 2)
            expected = mine.clone()
            rows, columns = slice(max(0, y - half[0]), y + half[0]), slice(max(0, x - half[1]), x + half[1])
            expected[:, rows, columns] = other[:, rows, columns]
            keep = 1 - expected[0, rows, columns].numel() / mine[0].numel()
        else:
            keep = float(draw.beta(0.4, 0.4))
            expected = (keep * mine.float() + (1 - keep) * other.float()).round().to(torch.uint8)
        assert torch.equal(images[place], expected)
        assert targets[place, place] == pytest.approx(keep, abs=1e-6)
        assert targets[place, place ^ 1] == pytest.approx(1 - keep, abs=1e-6)
