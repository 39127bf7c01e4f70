"""The layer that an explanation reads: the right one, without settings, for networks of every kind."""

import numpy as np
import pytest
import torch
from subjects import noise_images, registers, subject_of, timm_subject, tiny_swin
from torch import nn

from fgvc.explanation.explainers import applicable, check_empty, check_finite, explainer
from fgvc.explanation.layers import target_layers
from shards.errors import UserError

MADE = {  # what a network of each kind is read at: the layer, the side of its grid, the tokens before it
    "resnet": (lambda: timm_subject("test_resnet", 64), "layer4", 2, 0),
    "efficientnet": (lambda: timm_subject("test_efficientnet", 64), "bn2", 2, 0),
    "convnext": (lambda: timm_subject("test_convnext", 64), "stages", 2, 0),
    "maxvit": (lambda: timm_subject("test_maxvit", 64, img_size=64), "norm", 2, 0),
    "vit": (lambda: timm_subject("test_vit", 64, img_size=64), "blocks.5.norm1", 4, 1),
    "average": (lambda: timm_subject("test_vit", 64, img_size=64, global_pool="avg"), "blocks", 4, 1),
    "registers": (registers, "blocks.2.norm1", 4, 5),
    "swin": (tiny_swin, "norm", 7, 0),
}


@pytest.mark.parametrize("kind", MADE)
def test_the_layer_and_its_grid(kind: str) -> None:
    make, layer, side, prefix = MADE[kind]
    found = make().layers[0]
    assert (found.name, found.layout[:2]) == (layer, (side, prefix))


@pytest.mark.parametrize("kind", ["convnext", "vit", "registers", "swin"])
def test_a_map_is_the_right_way_up(kind: str) -> None:
    """What changes in the first row, last column of the image changes there in the map."""
    subject = MADE[kind][0]()
    layer, kept = subject.layers[-1 if kind == "swin" else 0], []
    handle = layer.module.register_forward_hook(lambda module, given, output: kept.append(layer.to_map(output)))
    images = noise_images(1, subject.size).repeat(2, 1, 1, 1)
    cell = subject.size // layer.layout[0]
    images[1, :, :cell, -cell:] = 255 - images[1, :, :cell, -cell:]
    subject.logits(subject.normalise(images))
    handle.remove()
    assert kept[0].shape == (2, kept[0].shape[1], layer.layout[0], layer.layout[0])
    change = (kept[0][1] - kept[0][0]).abs().sum(0)
    assert divmod(int(change.argmax()), layer.layout[0]) == (0, layer.layout[0] - 1)


@pytest.mark.parametrize("kind", ["resnet", "efficientnet", "convnext", "vit", "registers", "swin"])
def test_every_method_that_applies_gives_a_map(kind: str) -> None:
    subject = MADE[kind][0]()
    methods = applicable(subject)
    attention = {"rollout", "relevance"}
    assert attention & set(methods) == (attention if kind in ("vit", "registers", "swin") else set())
    inputs = subject.normalise(noise_images(2, subject.size))
    before = subject.logits(inputs)
    classes = before.argmax(1)
    for name in (*methods, "random", "centre"):
        maps = explainer(name, subject)(inputs, classes, [0, 1])
        check_finite(name, subject, maps)
        assert float(maps.max()) > 0, name
        assert maps.shape == (2, subject.size, subject.size), name
        assert maps.dtype == torch.float32, name
        assert float(maps.min()) >= 0, name
    assert torch.equal(subject.logits(inputs), before)  # every method leaves the network as it was


def test_a_network_without_a_map_is_refused() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(UserError, match="Sequential has no layer with a map of positions that its answer depends on"):
        target_layers(flat.eval(), 32)
    assert applicable(subject_of(flat, 32)) == ["gradients", "occlusion"]
    with pytest.raises(UserError, match="Sequential has no attention"):
        explainer("rollout", subject_of(flat, 32))


def test_maps_that_say_nothing_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = timm_subject("test_vit", 64, img_size=64)
    with pytest.raises(UserError, match=r"gradcam: the map of layer blocks\.5\.norm1 is zero for all of 9 images"):
        check_empty("gradcam", subject, np.ones(9, bool))
    with pytest.raises(UserError, match=r"cam: the map of layer blocks\.5\.norm1 is not finite"):
        check_finite("cam", subject, torch.full((2, 64, 64), torch.nan))
    check_empty("gradcam", subject, np.arange(9) > 0)
    check_empty("gradcam", subject, np.ones(1, bool))  # one image may have nothing that speaks for its class
