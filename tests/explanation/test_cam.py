"""Class activation maps against their definitions, GradCAM and HiResCAM against hand-made gradients and the library."""

import cv2
import numpy as np
import pytest
import torch
from subjects import noise_images, registers, timm_subject, tiny_swin

from fgvc.explanation.cam import class_maps, gradient_cam
from fgvc.explanation.explainers import contrast, explainer
from fgvc.explanation.subject import Subject, enlarge


def made(name: str) -> tuple[Subject, torch.Tensor]:
    subject = timm_subject(name, 96)
    return subject, subject.normalise(noise_images(3, 96))


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_cam_is_the_classifier_as_a_convolution(name: str) -> None:
    subject, inputs = made(name)
    network = subject.network
    maps = class_maps(network, inputs)
    head = network.get_classifier()
    features = network.forward_features(inputs)
    expected = torch.einsum("kc,nchw->nkhw", head.weight, features)
    torch.testing.assert_close(maps, expected, atol=1e-5, rtol=1e-5)
    # Pooling and the classifier commute: a class's map has the mean of its logit, up to the bias.
    torch.testing.assert_close(maps.mean((2, 3)) + head.bias, network(inputs), atol=1e-5, rtol=1e-5)
    found = explainer("cam", subject)(inputs, torch.tensor([4, 0, 2]), [0, 1, 2])
    picked = enlarge(expected[[0, 1, 2], [4, 0, 2]].clamp_min(0), 96)
    torch.testing.assert_close(found, picked, atol=1e-5, rtol=1e-5)


def test_cam_of_a_transformer_is_its_head_on_every_token() -> None:
    for subject in (registers(), tiny_swin(), timm_subject("test_convnext", 56)):
        network, inputs = subject.network, subject.normalise(noise_images(2, 56))
        prefix = getattr(network, "num_prefix_tokens", 0)
        maps = class_maps(network, inputs, prefix)
        features = network.forward_features(inputs)
        head = network.get_classifier()
        if features.ndim == 3:
            rows = network.fc_norm(features[:, prefix:])
            expected = head(rows) - head.bias
            side = round(rows.shape[1] ** 0.5)
            expected = expected.unflatten(1, (side, side)).permute(0, 3, 1, 2)
        elif features.shape[1] == features.shape[2]:
            expected = (head(features) - head.bias).permute(0, 3, 1, 2)
        else:
            expected = (head(network.head.norm(features).permute(0, 2, 3, 1)) - head.bias).permute(0, 3, 1, 2)
        torch.testing.assert_close(maps, expected, atol=1e-4, rtol=1e-4)


def test_gradcam_is_its_definition() -> None:
    subject, inputs = made("test_resnet")
    classes = torch.tensor([1, 2, 3])
    features = subject.network.forward_features(inputs).detach().requires_grad_()
    subject.network.forward_head(features)[[0, 1, 2], classes].sum().backward()
    weights = features.grad.mean((2, 3), keepdim=True)
    raw = (weights * features).sum(1).clamp_min(0).detach().numpy()
    for found, one in zip(explainer("gradcam", subject)(inputs, classes, [0, 1, 2]), raw, strict=True):
        expected = cv2.resize((one - one.min()) / (1e-7 + np.ptp(one)), (96, 96))
        expected = (expected - expected.min()) / (1e-7 + np.ptp(expected))
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("make", [lambda: timm_subject("test_efficientnet", 56), registers, tiny_swin])
def test_our_gradients_agree_with_the_librarys(make) -> None:
    subject = make()
    inputs, classes = subject.normalise(noise_images(2, 56)), torch.tensor([0, 3])
    maps = gradient_cam(subject.layers[:1], subject.network, inputs, lambda logits: logits[[0, 1], classes])[0]
    raw = maps.clamp_min(0)
    library = explainer("hirescam", subject)(inputs, classes, [0, 1])
    for ours, theirs in zip(raw.numpy(), library.numpy(), strict=True):
        scaled = cv2.resize((ours - ours.min()) / (1e-7 + np.ptp(ours)), (56, 56))
        np.testing.assert_allclose((scaled - scaled.min()) / (1e-7 + np.ptp(scaled)), theirs, atol=1e-4)


def test_contrast_changes_its_sign_with_its_sides() -> None:
    subject, inputs = made("test_resnet")
    ours, theirs = torch.tensor([0, 1, 2]), torch.tensor([3, 3, 4])
    there, back = contrast(subject, inputs, ours, theirs), contrast(subject, inputs, theirs, ours)
    torch.testing.assert_close(there, -back, atol=1e-5, rtol=1e-4)
    assert (there.abs().amax((1, 2)) > 0.5).all()
    # Of a network that pools and classifies linearly the deepest map's mean is the difference of the logits.
    maps = gradient_cam(subject.layers[:1], subject.network, inputs, lambda logits: logits[:, 0] - logits[:, 3])[0]
    logits, bias = subject.logits(inputs), subject.network.get_classifier().bias.detach()
    expected = logits[:, 0] - logits[:, 3] - (bias[0] - bias[3])
    torch.testing.assert_close(maps.sum((1, 2)), expected, atol=1e-4, rtol=1e-3)


def test_finercam_compares_with_the_nearest_classes() -> None:
    """Two classes with one weight: against its twin a class has no map of its own, against others it has."""
    subject, inputs = made("test_resnet")
    head = subject.network.get_classifier()
    with torch.no_grad():
        head.weight[1:] = head.weight[:1]
        head.bias.fill_(0)
    assert float(explainer("finercam", subject)(inputs, torch.tensor([0, 0, 0]), [0, 1, 2]).max()) < 1e-3
    assert float(explainer("gradcam", subject)(inputs, torch.tensor([0, 0, 0]), [0, 1, 2]).max()) > 0.5
