"""What players see and minimise: losses by hand, penalties by finite differences, DiffAugment's gradients, draws."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from fgvc.generation.augment import DRAWS, diff_augment
from fgvc.generation.collapse import collapsed
from fgvc.generation.config import GanModelConfig, GanTrainConfig
from fgvc.generation.draws import normals, uniforms
from fgvc.generation.game import Game, _diversity
from fgvc.generation.losses import DISCRIMINATOR, GENERATOR, squared_gradient
from shards.reading.loader import Batch

REAL, GENERATED = torch.tensor([[2.0], [-0.5]]), torch.tensor([[0.5], [-3.0]])


@pytest.mark.parametrize(
    ("name", "discriminator", "generator"),
    [
        ("hinge", (0 + 1.5) / 2 + (1.5 + 0) / 2, 1.25),
        (
            "softplus", np.mean(np.log1p(np.exp([-2, 0.5])) + np.log1p(np.exp([0.5, -3]))),
            np.mean(np.log1p(np.exp([-0.5, 3]))),
        ),
        ("relativistic", np.mean(np.log1p(np.exp([-1.5, -2.5]))), np.mean(np.log1p(np.exp([1.5, 2.5])))),
    ],
)  # fmt: skip
def test_losses_by_hand(name: str, discriminator: float, generator: float) -> None:
    assert float(DISCRIMINATOR[name](REAL, GENERATED)) == pytest.approx(discriminator)
    assert float(GENERATOR[name](REAL, GENERATED)) == pytest.approx(generator)


def test_the_penalty_is_the_squared_gradient_by_finite_differences() -> None:
    """And its own gradient by the discriminator's weights, which trains it."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softplus(), nn.Flatten(), nn.Linear(4 * 4, 2)).double()
    images = torch.randn(3, 3, 4, 4, dtype=torch.double)

    def by_differences() -> float:
        step, total = 1e-5, 0.0
        for index in np.ndindex(*images.shape):
            sides = []
            for sign in (1, -1):
                moved = images.clone()
                moved[index] += sign * step
                sides.append(float(network(moved).mean(1).sum()))
            total += ((sides[0] - sides[1]) / (2 * step)) ** 2
        return 0.5 * total / len(images)

    with torch.no_grad():
        expected = by_differences()
    penalty = squared_gradient(network, images)
    assert penalty.item() == pytest.approx(expected, rel=1e-6)
    penalty.backward()
    weight = network[0].weight
    with torch.no_grad():
        weight[1, 2, 0, 1] += 1e-4
        above = by_differences()
        weight[1, 2, 0, 1] -= 2e-4
        below = by_differences()
    assert float(weight.grad[1, 2, 0, 1]) == pytest.approx((above - below) / 2e-4, rel=1e-3)  # type: ignore[index]


@pytest.mark.parametrize("kind", ["color", "translation", "cutout"])
def test_diff_augment_passes_gradients(kind: str) -> None:
    images, draws = (
        torch.randn(3, 3, 8, 8, dtype=torch.double).requires_grad_(),
        uniforms(0, [(i,) for i in range(3)], DRAWS),
    )
    assert torch.autograd.gradcheck(lambda x: diff_augment(x, draws, [kind]), images)
    assert not diff_augment(images, draws, [kind]).equal(images)


def test_diff_augment_by_hand() -> None:
    images = torch.arange(2 * 3 * 16 * 16, dtype=torch.float32).view(2, 3, 16, 16)
    same = torch.tensor([0.5] * DRAWS).repeat(2, 1)
    assert diff_augment(images, same, ["translation"]).equal(images)
    brighter = same.clone()
    brighter[:, 0] = 1.0
    found = diff_augment(images, brighter, ["color"])
    assert torch.allclose(found, images + 0.5, atol=1e-2)
    moved = same.clone()
    moved[0, 3:5] = torch.tensor([0.0, 0.999])  # rows by -2, columns by 2, of the 16 / 8 = 2 at most
    found = diff_augment(images, moved, ["translation"])
    assert found[0, :, 2:, :14].equal(images[0, :, :14, 2:])
    assert not found[0, :, :2].any()
    assert found[1].equal(images[1])
    holes = diff_augment(torch.ones(1, 3, 16, 16), torch.tensor([[0.5] * DRAWS]), ["cutout"])
    assert (holes == 0).sum() == 3 * 8 * 8
    assert not holes[0, :, 4:12, 4:12].any()


def test_draws_are_normal_functions_of_their_keys_and_truncated_ones_stay_inside() -> None:
    keys = [(1, epoch, entry) for epoch in range(10) for entry in range(40)]
    found = normals(3, keys, 64)
    assert normals(3, keys[5:9], 64).equal(found[5:9])
    assert not normals(4, keys[:4], 64).equal(found[:4])
    assert stats.kstest(found.flatten().numpy(), "norm").pvalue > 0.001
    assert len(np.unique(found.numpy())) > 25_000
    inside = normals(3, keys, 64, truncation=0.7)
    assert inside.abs().max() <= 0.7
    assert stats.kstest(inside.flatten().numpy(), stats.truncnorm(-0.7, 0.7).cdf).pvalue > 0.001


class Recorder(nn.Module):
    """Stands for a player: keeps what it was called with."""

    def __init__(self, answer: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.answer, self.calls = answer, list[tuple[Any, ...]]()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, *inputs: Any) -> torch.Tensor:
        self.calls.append(inputs)
        return self.answer(*inputs) * self.weight


def players() -> dict[str, nn.Module]:
    def image(noise: torch.Tensor, labels: torch.Tensor, known: torch.Tensor | None) -> torch.Tensor:
        return noise[:, :1, None, None].expand(-1, 3, 16, 16)

    return {"generator": Recorder(image), "discriminator": Recorder(lambda x, *rest: x.mean((1, 2, 3))[:, None])}


def batch(epoch: int, entries: list[int]) -> Batch:
    images = torch.arange(len(entries), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 16, 16) * 40
    return Batch(images, torch.tensor(entries) % 3, torch.tensor(entries), torch.full((len(entries),), epoch))


def test_what_a_sample_meets_is_its_own_whatever_batch_it_is_in() -> None:
    """Latents and augmentations are functions of (seed, epoch, entry): half a batch sees what the whole one does."""
    game = Game(GanModelConfig(size=32, latent=4), GanTrainConfig(), 0, torch.device("cpu"))
    whole, half = players(), players()
    game.discriminator(whole, batch(2, [5, 6, 7, 8]))
    game.discriminator(half, batch(2, [5, 6]))
    for name in whole:
        for ours, theirs in zip(whole[name].calls, half[name].calls, strict=True):  # type: ignore[union-attr]
            assert ours[0][:2].equal(theirs[0])
    again = players()
    game.discriminator(again, batch(3, [5, 6]))
    assert not again["generator"].calls[0][0].equal(half["generator"].calls[0][0])  # type: ignore[union-attr]


def test_classes_come_in_after_an_unconditional_start() -> None:
    train = GanTrainConfig(unconditional_epochs=2, ramp_epochs=3)
    game = Game(GanModelConfig(size=32, latent=4), train, 0, torch.device("cpu"))
    known = []
    for epoch in range(7):
        both = players()
        game.generator(both, batch(epoch, [0, 1]))
        weights = {float(call[2][0]) for player in both.values() for call in player.calls}  # type: ignore[union-attr]
        assert len(weights) == 1, "both players know the same"
        known += weights
    assert known == pytest.approx([0, 0, 0.25, 0.5, 0.75, 1, 1])


def test_diversity_is_one_for_real_images_and_falls_when_all_are_alike() -> None:
    game = Game(GanModelConfig(size=32, latent=4), GanTrainConfig(augment=[]), 0, torch.device("cpu"))
    both, given = players(), batch(0, [0, 1, 2, 3])
    both["generator"] = Recorder(lambda noise, *rest: game._real(given) * 0.25)
    assert float(game.generator(both, given)[1]["diversity"]) == pytest.approx(0.25)
    both["generator"] = Recorder(lambda noise, *rest: torch.zeros(4, 3, 16, 16))
    assert float(game.generator(both, given)[1]["diversity"]) == 0


@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 1, 2]])
def test_one_image_a_class_is_no_diversity(labels: list[int]) -> None:
    """However much the classes differ; real images have theirs, and other real images about as much."""
    random = torch.Generator().manual_seed(0)
    of_class = torch.randn(3, 3, 1, 1, generator=random)[labels] * 3
    real, other = (of_class + 0.3 * torch.randn(6, 3, 8, 8, generator=random) for _ in range(2))
    classes = torch.tensor(labels)
    assert float(_diversity(of_class.expand(-1, -1, 8, 8), real, classes)) < 0.001
    assert float(_diversity(real, real, classes)) == pytest.approx(1)
    assert float(_diversity(other, real, classes)) == pytest.approx(1, abs=0.15)
    alone = torch.arange(6)  # a class each: images of all classes are compared
    assert float(_diversity(real[:1].expand(6, -1, -1, -1), real, alone)) < 0.001
    assert float(_diversity(other, real, alone)) == pytest.approx(1, abs=0.15)


def rows(diversity: Callable[[int], float], right: float, count: int = 100) -> list[dict]:
    told = {"real_discriminator": right, "generated_discriminator": right}
    return [{"step": step, "diversity_generator": diversity(step)} | told for step in range(1, count + 1)]


def test_a_collapse_is_called_one_only_when_it_lasts() -> None:
    assert "all alike for 50 steps: they differ by 5%" in collapsed(rows(lambda step: 0.05, 0.7), 50)
    assert collapsed(rows(lambda step: 0.05 if step > 60 else 0.5, 0.7), 50) == ""
    assert "right about 100.0% of real" in collapsed(rows(lambda step: 0.9 - step / 500, 1.0), 50)
    assert collapsed(rows(lambda step: 0.5 + step / 500, 1.0), 50) == "", "images become more different still"
    assert collapsed(rows(lambda step: 0.9 - step / 500, 0.95), 50) == ""
    assert collapsed(rows(lambda step: 0.05, 0.7, count=40), 50) == "", "too early to say"
    assert collapsed(rows(lambda step: 0.05, 0.7, count=90), 50) == "", "the first steps make grey images"
    assert "all alike" in collapsed(rows(lambda step: 0.05, 0.7, count=100), 50)
    assert collapsed(rows(lambda step: 0.05, 0.7), 0) == ""
    every_fifth = [row for row in rows(lambda step: 0.05, 0.7) if row["step"] % 5 == 0]
    assert "all alike" in collapsed(every_fifth, 50)
