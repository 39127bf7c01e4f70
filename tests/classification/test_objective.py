"""The classifier's objective by hand: a teacher, the maps of attention crops, what is cropped and dropped."""

import subprocess
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

from fgvc.classification.attention import attended, check_attended, class_maps
from fgvc.classification.config import TrainConfig
from fgvc.classification.objective import classification
from fgvc.classification.teacher import Resized
from fgvc.models.normalised import Normalised
from shards.errors import UserError
from shards.reading.loader import Batch

CPU, SIDE = torch.device("cpu"), 32
Start = Callable[..., subprocess.Popen]


def batch_of(count: int = 6, side: int = SIDE) -> Batch:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, side, side), generator=draw, dtype=torch.uint8)
    return Batch(images, torch.arange(count) % 4, torch.arange(100, 100 + count), torch.full((count,), 2))


def network(name: str = "test_resnet", seed: int = 0, **settings: Any) -> Normalised:
    torch.manual_seed(seed)
    model = timm.create_model(name, num_classes=4, **settings).eval()
    return Normalised(model, torch.full((1, 3, 1, 1), 0.5), torch.full((1, 3, 1, 1), 0.25), channels_last=False)


def test_a_teacher_is_learnt_from_at_its_own_size() -> None:
    batch, student, teacher = batch_of(), network(seed=1), network(seed=2)
    config = TrainConfig(label_smoothing=0.0, teacher_weight=0.3, teacher_temperature=4.0)
    loss, _ = classification(4, config, 0, CPU, teacher=Resized(teacher, 48))(student, batch)
    logits = student(batch.images)
    large = functional.interpolate(batch.images.float(), (48, 48), mode="bilinear", antialias=True)
    told = (teacher(large) / 4).softmax(1)
    apart = (told * (told.log() - (logits / 4).log_softmax(1))).sum(1).mean()
    expected = 0.7 * functional.cross_entropy(logits, batch.labels) + 0.3 * 16 * apart
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_a_class_is_seen_where_its_weights_say(name: str) -> None:
    batch, settings = batch_of(side=96), {"img_size": 96} if name == "test_vit" else {}
    model = network(name, **settings)
    whole = model.model
    with torch.no_grad():
        features = whole.forward_features((batch.images - model.mean) / model.std)
        maps = class_maps(model, features, batch.labels)
        weight = whole.get_classifier().weight[batch.labels]
        if name == "test_resnet":
            scores = torch.einsum("nchw,nc->nhw", features, weight)
            bias = whole.get_classifier().bias[batch.labels]
            own = model(batch.images)[range(len(maps)), batch.labels]
            torch.testing.assert_close(scores.mean((1, 2)) + bias, own, rtol=1e-4, atol=1e-5)
        else:
            side = 96 // 16
            patches = features[:, whole.num_prefix_tokens :]
            scores = (patches * weight[:, None]).sum(2).view(len(maps), side, side)
    low, high = scores.amin((1, 2), keepdim=True), scores.amax((1, 2), keepdim=True)
    torch.testing.assert_close(maps, (scores - low) / (high - low), rtol=1e-4, atol=1e-4)


def test_a_network_whose_classifier_sees_other_channels_is_refused() -> None:
    model = network("test_resnet")
    with pytest.raises(UserError, match="does not see the channels of its last features"):
        class_maps(model, torch.zeros(2, 7, 4, 4), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("name", "settings"),
    [("test_vit", {}), ("test_vit", {"global_pool": "map"}), ("test_vit3", {}), ("test_vit", {"global_pool": "prr"})],
)
def test_a_transformer_whose_class_is_not_the_mean_of_its_patches_is_refused(name: str, settings: dict) -> None:
    with pytest.raises(UserError, match=r"not by the mean of its patches; set model.kwargs='\{global_pool: avg\}'"):
        check_attended(timm.create_model(name, num_classes=4, **settings))
    for other in ("test_resnet", "test_vit2", "test_convnext"):
        check_attended(timm.create_model(other, num_classes=4))


def test_a_norm_before_the_classifier_weighs_channels_too() -> None:
    features, labels = torch.rand(2, 64, 3, 3), torch.tensor([0, 3])
    for name, norm in (("test_vit2", "fc_norm"), ("test_convnext", "head.norm")):
        model = network(name)
        scale = model.model.get_submodule(norm).weight
        features = torch.rand(2, len(scale), 3, 3)
        shown = features.flatten(2).mT if name == "test_vit2" else features
        if name == "test_vit2":  # one register before the patches
            shown = torch.cat([torch.rand(2, 1, len(scale)), shown], 1)
        torch.nn.init.uniform_(scale, -2, 2)
        scores = torch.einsum("nchw,nc->nhw", features, scale * model.model.get_classifier().weight[labels])
        low, high = scores.amin((1, 2), keepdim=True), scores.amax((1, 2), keepdim=True)
        torch.testing.assert_close(class_maps(model, shown, labels), (scores - low) / (high - low))


def test_maps_are_the_same_under_autocast() -> None:
    model, features, labels = network(), torch.rand(2, network().model.num_features, 5, 5), torch.tensor([0, 3])
    plain = class_maps(model, features, labels)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(class_maps(model, features, labels), plain)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_network_gives_a_broken_loss_and_no_error(value: float) -> None:
    batch, model = batch_of(side=96), network()
    with torch.no_grad():
        next(model.model.parameters()).fill_(value)
    loss, _ = classification(4, TrainConfig(attention_crops=True), 7, CPU)(model, batch)
    assert not loss.isfinite()


def test_what_is_cropped_and_dropped_leaves_batch_norm_as_whole_images_do() -> None:
    batch, model, other = batch_of(side=96), network().train(), network().train()
    model.model.bn1.eval()  # as frozen layers are
    other.model.bn1.eval()
    momenta = [module.momentum for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    classification(4, TrainConfig(attention_crops=True), 7, CPU)(model, batch)
    other(batch.images)
    for (key, value), expected in zip(model.named_buffers(), other.buffers(), strict=True):
        if "running" in key:
            assert torch.equal(value, expected), key
    assert [module.momentum for module in model.modules() if isinstance(module, nn.BatchNorm2d)] == momenta
    assert any(momenta)


def test_the_part_that_is_seen_is_cropped_or_dropped() -> None:
    batch = batch_of(2)
    maps = torch.zeros(2, SIDE, SIDE)
    maps[0, 8:16, 4:20] = 1
    maps[1] = 1
    crops, drops = attended(batch.images, maps, batch, seed=5)
    pixels = batch.images.float()
    padded = pixels[:1, :, 8 - 3 : 16 + 3, 4 - 3 : 20 + 3]  # a tenth of 32 pixels around it
    assert torch.equal(crops[0], functional.interpolate(padded, (SIDE, SIDE), mode="bilinear")[0])
    torch.testing.assert_close(crops[1], pixels[1])
    assert torch.equal(drops[0, :, 8:16, 4:20], pixels[0].mean((1, 2), keepdim=True)[:, None].expand(3, 1, 8, 16)[:, 0])
    outside = torch.ones(SIDE, SIDE, dtype=torch.bool)
    outside[8:16, 4:20] = False
    assert torch.equal(drops[0][:, outside], pixels[0][:, outside])
    nothing = attended(batch.images, torch.zeros(2, 1, 1), batch, seed=5)
    assert all(torch.equal(part, pixels) for part in nothing)


def test_what_is_cropped_depends_on_the_sample_alone() -> None:
    batch = batch_of()
    maps = torch.rand(6, 5, 5, generator=torch.Generator().manual_seed(1))
    crops, drops = attended(batch.images, maps, batch, seed=5)
    chosen = [4, 1]
    part = Batch(batch.images[chosen], batch.labels[chosen], batch.entries[chosen], batch.epochs[chosen])
    fewer = attended(part.images, maps[chosen], part, seed=5)
    assert torch.equal(fewer[0], crops[chosen])
    assert torch.equal(fewer[1], drops[chosen])
    assert not torch.equal(attended(batch.images, maps, batch, seed=6)[1], drops)


def test_all_three_images_are_learnt_and_the_network_is_as_before() -> None:
    batch, model = batch_of(side=96), network()
    config = TrainConfig(label_smoothing=0.0, attention_crops=True)
    loss, figures = classification(4, config, 7, CPU)(model, batch)
    assert "forward_features" not in vars(model.model)
    features = model.model.forward_features((batch.images - model.mean) / model.std)
    parts = attended(batch.images, class_maps(model, features, batch.labels), batch, 7)
    losses = [functional.cross_entropy(model(images), batch.labels) for images in (batch.images, *parts)]
    assert loss.item() == pytest.approx(sum(one.item() for one in losses) / 3, rel=1e-5)
    assert figures["top1"].item() == (model(batch.images).argmax(1) == batch.labels).float().mean().item()
