"""Models that hide their gradients are caught, and broken by attacks that go past what hides them; honest ones pass."""

import numpy as np
import pytest
import torch
from torch import nn

from fgvc.robustness.attack_config import AttackConfig, AutoAttackConfig
from fgvc.robustness.attacked import Attacked, answers, jpeg, quantize
from fgvc.robustness.attacks import away_from, fgsm, gradient
from fgvc.robustness.checks import finds_planted, gradients_alive, vanishing
from fgvc.robustness.planted import planted
from fgvc.robustness.suite import Images, Victim, as_arrays, outcome, perturb, smallest

EPSILON = 16 / 255
CONFIG = AttackConfig(steps=10)


class Network(nn.Module):
    """Trained to tell which half of an image is brighter: accurate, and easily misled."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 16), nn.ReLU())
        self.head = nn.Linear(16, 4)
        images, labels = halves(256)
        optimizer = torch.optim.Adam(self.parameters(), 0.01)
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(self(images * 255), labels).backward()
            optimizer.step()
        self.scale = scale

    scale = 1.0

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.scale * self.head(self.body(pixels / 255 - 0.5))


def halves(count: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    images = 0.4 + 0.2 * torch.rand(count, 3, 16, 16, generator=draw)
    labels = torch.randint(0, 4, (count,), generator=draw)
    for image, label in zip(images, labels, strict=True):
        part = (image[:, :8], image[:, 8:], image[:, :, :8], image[:, :, 8:])[label]
        part += 0.06
    return images, labels


def attacked(**settings: object) -> tuple[Victim, Images]:
    network = Network(settings.pop("scale", 1.0))  # type: ignore[arg-type]
    model = Attacked(network, **settings)  # type: ignore[arg-type]
    images, labels = halves(64, seed=2)
    with torch.no_grad():
        right = model(images).argmax(1) == labels
    assert right.float().mean() > 0.9
    few = Images(images[right][:24], labels[right][:24], torch.arange(24))
    return Victim(model, Attacked(network, straight_through=True, **settings), None, 4), few  # type: ignore[arg-type]


def right_under(name: str, victim: Victim, images: Images) -> float:
    torch.manual_seed(0)
    found, _ = perturb(name, victim, images, EPSILON, CONFIG, AutoAttackConfig(20, 3, 300))
    told = outcome(victim.model, images, found, CONFIG)
    return (told["predicted"] == images.labels).float().mean().item()


def checked(victim: Victim, images: Images) -> tuple[bool | None, bool | None]:
    """(gradients alive, planted perturbations found)"""
    alive = gradients_alive(as_arrays(vanishing(victim.model, images))["vanished"])
    return alive.passed, finds_planted(as_arrays(planted(victim.model, images, EPSILON, CONFIG))).passed


def test_an_honest_model_passes_and_breaks() -> None:
    victim, images = attacked()
    assert checked(victim, images) == (True, True)
    assert right_under("fgsm", victim, images) < 0.1


def test_quantised_input_is_caught_and_broken_past_the_rounding() -> None:
    victim, images = attacked(preprocess="quantize")
    assert right_under("fgsm", victim, images) == 1.0  # no gradient, no step
    assert right_under("pgd", victim, images) > 0.7
    assert checked(victim, images) == (False, False)
    assert right_under("adaptive", victim, images) < 0.3


@pytest.mark.parametrize("preprocess", ["quantize", "jpeg"])
def test_autoattack_goes_through_what_has_no_gradient(preprocess: str) -> None:
    """APGD and FAB see past it, not Square alone: no more survives than under the adaptive attack."""
    victim, images = attacked(preprocess=preprocess)
    assert right_under("autoattack", victim, images) <= right_under("adaptive", victim, images)
    torch.manual_seed(0)
    _, more = perturb("autoattack", victim, images, EPSILON, CONFIG, AutoAttackConfig(20, 3, 300))
    assert (more["broken_by"] == 0).float().mean() > 0.5  # APGD on the cross-entropy, blind without a way through


def test_saturated_logits_as_of_distillation_at_a_high_temperature_are_caught_and_broken() -> None:
    victim, images = attacked(scale=1000.0)
    assert right_under("fgsm", victim, images) > 0.9
    assert checked(victim, images)[0] is False
    assert right_under("adaptive", victim, images) < 0.1
    assert right_under("autoattack", victim, images) < 0.1


def test_a_random_model_is_attacked_over_its_randomness() -> None:
    victim, images = attacked(preprocess="noise", strength=0.05)
    assert victim.model.random
    assert not torch.equal(victim.model(images.pixels), victim.model(images.pixels))
    assert right_under("adaptive", victim, images) < 0.2
    assert right_under("autoattack", victim, images) < 0.2


def test_noise_is_drawn_once_an_image_so_that_the_worst_of_many_tries_is_not_chance() -> None:
    """Twenty attacks that change nothing break no image that is right as it is, and 8 draws know it better than one."""
    victim, images = attacked(preprocess="noise", strength=0.25)
    before = outcome(victim.model, images, images.pixels, CONFIG)["predicted"]
    single = [victim.model(images.pixels).argmax(1) for _ in range(20)]
    assert (torch.stack(single) == before).all(0).float().mean() < 0.9  # by new noise some are lost to chance
    for size in (24, 5):  # in any chunk
        few = Images(images.pixels[:size], images.labels[:size], images.entries[:size])
        again = [outcome(victim.model, few, few.pixels, CONFIG)["predicted"] for _ in range(20)]
        assert (torch.stack(again) == before[:size]).all()
    assert not torch.equal(
        answers(victim.model, images.pixels, [0] * 24, 1, 8), answers(victim.model, images.pixels, [0] * 24, 2, 8)
    )
    still = smallest(victim.model, images, images.pixels, CONFIG)
    assert torch.equal(still["smallest"].isfinite(), before != images.labels)


def test_what_autoattack_says_it_broke_is_broken_under_the_noise_it_is_judged_by() -> None:
    victim, images = attacked(preprocess="noise", strength=0.1)
    torch.manual_seed(0)
    found, more = perturb("autoattack", victim, images, 6 / 255, CONFIG, AutoAttackConfig(10, 3, 30))
    right = outcome(victim.model, images, images.pixels, CONFIG)["predicted"] == images.labels
    lost = outcome(victim.model, images, found, CONFIG)["predicted"] != images.labels
    assert 0 < lost.sum() < len(lost)
    unbroken = more["broken_by"] < 0
    assert not lost[unbroken & right].any()
    assert lost[~unbroken].all()


def test_a_transfer_attack_is_made_on_the_other_model() -> None:
    victim, images = attacked(preprocess="quantize")
    plain, _ = attacked()
    both = Victim(victim.model, victim.adaptive, plain.model, 4)
    assert right_under("transfer", both, images) < right_under("mi_fgsm", victim, images) - 0.5


def test_what_has_no_gradient_passes_it_through_only_where_asked() -> None:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1])
    network = Network()
    for name, transform in (("quantize", quantize), ("jpeg", jpeg)):
        blind = Attacked(network, preprocess=name)  # type: ignore[arg-type]
        through = Attacked(network, preprocess=name, straight_through=True)  # type: ignore[arg-type]
        assert torch.equal(blind(images), through(images))
        assert gradient(blind, images, away_from(labels)).abs().max() == 0
        changed = transform(images, blind.strength)
        expected = gradient(Attacked(network), changed, away_from(labels))
        assert torch.allclose(gradient(through, images, away_from(labels)), expected, atol=1e-9)
        assert 0.001 < (changed - images).abs().mean() < 0.3
    assert torch.equal(quantize(torch.tensor([0.0, 0.2, 0.6, 1.0]), 3), torch.tensor([0.0, 0.0, 0.5, 1.0]))


def test_the_mirror_images_mean_is_what_is_attacked() -> None:
    images, labels = halves(4)
    network = Network()
    model = Attacked(network, flip=True)
    expected = (Attacked(network)(images) + Attacked(network)(images.flip(3))) / 2
    assert torch.allclose(model(images), expected)
    assert model.features(images).shape == (4, 16)  # what the last linear layer reads
    assert torch.allclose(network.head(model.features(images)), expected, atol=1e-5)
    found = fgsm(model, images, away_from(labels), EPSILON)
    assert (found - images).abs().max() == pytest.approx(EPSILON, rel=1e-5)


def test_a_planted_perturbation_is_what_the_readout_answers_to() -> None:
    """An attack with no step at all finds none: the readout takes the image and its surroundings for one class."""
    victim, images = attacked()
    still = as_arrays(planted(victim.model, images, EPSILON, AttackConfig(steps=1, step_size=1e-6)))
    assert still["possible"].all()
    assert still["found"].mean() < 0.2
    assert still["random"].mean() <= 0.5
    assert finds_planted(still).passed is False
    nothing = {name: np.zeros(3, bool) for name in ("possible", "found", "random")}
    assert finds_planted(nothing).passed is None
