"""What images of rare classes count: by hand, in the objective, in a probe."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from fgvc.classification.balance import class_weights, image_weights
from fgvc.classification.config import TrainConfig
from fgvc.classification.mixing import soft_targets
from fgvc.classification.objective import classification
from fgvc.classification.probe import fit_probe
from shards.reading.loader import Batch

LABELS = np.array([0, 0, 0, 0, 0, 0, 2, 2, 3])  # 6, 0, 2 and 1 images of 4 classes


def test_weights_by_hand() -> None:
    assert class_weights(LABELS, 4, 0) is None
    # Inverse frequency: 1/6, 1/2, 1; every class that is there weighs the same in all, 3 of the 9 images' weight.
    assert class_weights(LABELS, 4, 1).tolist() == pytest.approx([0.5, 0, 1.5, 3])
    # Effective numbers for beta 0.5: (1 - 0.5 ** n) / 0.5 = 1.96875, 1.5, 1, their inverses 0.507937, 0.666667, 1, the
    # sum over the images 6 * 0.507937 + 2 * 0.666667 + 1 = 5.380952, to be scaled to 9.
    assert class_weights(LABELS, 4, 0.5).tolist() == pytest.approx([0.849558, 0, 1.115044, 1.672566], rel=1e-5)
    for beta in (1e-9, 0.3, 0.999, 1 - 1e-12, 1):
        weights = class_weights(LABELS, 4, beta)
        assert weights[torch.from_numpy(LABELS)].mean().item() == pytest.approx(1)
    assert class_weights(LABELS, 4, 1e-9).tolist() == pytest.approx([1, 0, 1, 1])
    assert class_weights(LABELS, 4, 1 - 1e-12).tolist() == pytest.approx([0.5, 0, 1.5, 3])  # no cancellation


def test_smoothing_adds_nothing_and_mixing_adds_shares() -> None:
    weights, labels = torch.tensor([0.5, 0.0, 1.5, 3.0]), torch.tensor([0, 2, 3])
    for smoothing in (0, 0.1, 0.6):
        targets = soft_targets(labels, 4, smoothing)
        assert image_weights(targets, weights, smoothing).tolist() == pytest.approx([0.5, 1.5, 3])
        mixed = 0.25 * targets[:1] + 0.75 * targets[2:]
        assert image_weights(mixed, weights, smoothing).item() == pytest.approx(0.25 * 0.5 + 0.75 * 3)


def test_the_objective_weighs_images() -> None:
    torch.manual_seed(0)
    images, labels = torch.randint(0, 256, (6, 3, 4, 4), dtype=torch.uint8), torch.tensor([0, 0, 0, 2, 2, 3])
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 4))

    def loss(weights: torch.Tensor | None, part: slice, **settings: float) -> torch.Tensor:
        batch = Batch(images.float()[part] / 255, labels[part], torch.arange(6)[part], torch.zeros(6)[part].long())
        objective = classification(4, TrainConfig(**settings), 0, torch.device("cpu"), weights)
        return objective(model, batch)[0]

    weights = torch.tensor([0.5, 0.0, 1.5, 3.0])
    alone = functional.cross_entropy(model(images.float() / 255), labels, reduction="none", label_smoothing=0.1)
    expected = (alone * torch.tensor([0.5, 0.5, 0.5, 1.5, 1.5, 3])).sum() / 6
    assert loss(weights, slice(None), label_smoothing=0.1).item() == pytest.approx(expected.item(), rel=1e-6)
    # Two halves on two ranks have the same mean: the loss is not divided by a batch's own sum of weights.
    halves = [loss(weights, part, label_smoothing=0.1).item() for part in (slice(3), slice(3, None))]
    assert np.mean(halves) == pytest.approx(expected.item(), rel=1e-6)
    assert loss(torch.ones(4), slice(None)).item() == pytest.approx(loss(None, slice(None)).item(), rel=1e-6)


def test_a_weighted_probe_is_that_of_repeated_images() -> None:
    random = np.random.default_rng(1)
    features = torch.from_numpy(random.normal(size=(9, 5))).float()
    labels = torch.from_numpy(LABELS)
    centred = features - features.mean(0)
    repeated = torch.cat([torch.arange(9), torch.arange(9)[6:], torch.arange(9)[8:]])  # class 2 twice, class 3 thrice
    found = fit_probe(features, labels, 4, 0.5, torch.tensor([1.0, 0.0, 2.0, 3.0]), iterations=1000)
    # Repeating images moves the mean and the scale that features are brought to: undo it by the penalty's scale.
    scale = centred.square().mean() / (features[repeated] - features[repeated].mean(0)).square().mean()
    again = fit_probe(features[repeated], labels[repeated], 4, float(0.5 * scale), iterations=1000)
    logits = [features @ weight.T + bias for weight, bias in (found, again)]
    chances = [each.softmax(1) for each in logits]
    assert torch.allclose(chances[0], chances[1], atol=1e-3)
    plain = fit_probe(features, labels, 4, 0.5, iterations=1000)
    assert not torch.allclose(chances[0], (features @ plain[0].T + plain[1]).softmax(1), atol=0.02)
