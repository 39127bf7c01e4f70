"""Temperatures: a known one is found, a probe's comes from folds it has not seen, a run's from its held-out fold."""

import numpy as np
import torch

from fgvc.classification.calibration import calibration_folds, fit_temperature
from fgvc.classification.metrics import Predictions, summary
from fgvc.classification.probe import fit_probe, probe_temperature
from shards.manifest import Manifest


def answers(random: np.random.Generator, count: int, temperature: float) -> Predictions:
    """Logits that are right when divided by `temperature`."""
    exact = random.normal(0, 2, (count, 6))
    chances = np.exp(exact) / np.exp(exact).sum(axis=1, keepdims=True)
    labels = (chances.cumsum(axis=1) > random.random((count, 1))).argmax(axis=1)
    return Predictions((exact * temperature).astype(np.float32), labels, np.arange(count))


def test_a_known_temperature_is_found_and_calibrates_other_answers() -> None:
    random = np.random.default_rng(0)
    for temperature in (0.4, 3.0):
        fitted = answers(random, 20_000, temperature)
        found = fit_temperature(fitted.logits, fitted.labels)
        assert abs(found / temperature - 1) < 0.04
        figures = summary(answers(random, 20_000, temperature), tuple("abcdef"), found)
        assert figures["temperature"] == found
        assert figures["ece_calibrated"] < 0.015 < 0.1 < figures["ece"]
        assert figures["nll_calibrated"] < figures["nll"]
        plain = summary(answers(random, 100, temperature), tuple("abcdef"))
        assert plain["temperature"] is None
        assert "ece_calibrated" not in plain


def test_always_right_and_always_wrong_stay_finite() -> None:
    logits = np.eye(3, dtype=np.float32)[[0, 1, 2]] * 5
    assert 0.01 < fit_temperature(logits, np.array([0, 1, 2])) < 0.2
    assert 45 < fit_temperature(logits, np.array([1, 2, 0])) < 51


def test_a_probe_is_calibrated_by_images_it_was_not_fitted_to() -> None:
    """On features that say nothing a probe answers its own images right: only held-out folds show what it is worth."""
    random = torch.Generator().manual_seed(0)
    images, width, classes = 60, 200, 3
    views = torch.randn(2, 2, images, width, generator=random)
    labels = torch.arange(images) % classes
    folds = torch.arange(images) // 3 % 4
    found = probe_temperature(views, labels, folds, classes, 1e-3, flip=False)
    weight, bias = fit_probe(views.flatten(0, 2), labels.repeat(4), classes, 1e-3)
    own = fit_temperature((views[:, 0].mean(0) @ weight.T + bias).numpy(), labels.numpy())
    assert own < 0.5
    assert found > 5

    # The same by hand: of evaluation's logits, here the mean over views and mirror images.
    logits = torch.zeros(images, classes)
    for fold in range(4):
        kept = torch.cat([view[folds != fold] for pair in views for view in pair])
        weight, bias = fit_probe(kept, labels[folds != fold].repeat(4), classes, 1e-3)
        mean = torch.stack([view @ weight.T + bias for pair in views for view in pair]).mean(0)
        logits[folds == fold] = mean[folds == fold]
    by_hand = fit_temperature(logits.numpy(), labels.numpy())
    assert abs(probe_temperature(views, labels, folds, classes, 1e-3, flip=True) / by_hand - 1) < 1e-3


def test_folds_are_as_many_as_the_smallest_class_allows(guide: Manifest) -> None:
    train = guide.split("train")
    of = {label: [index for index in train if guide.entries[index].label == label] for label in range(4)}
    for kept, folds in ((20, 5), (3, 3), (1, None)):
        found = calibration_folds(guide, sorted([*of[0], *of[1][:kept]]))
        assert (None if found is None else len(np.unique(found))) == folds
