"""Gradient attacks: against a reference library on a float64 model, inside ball and pixel range, keyed by sample."""

from collections.abc import Callable

import pytest
import torch
import torchattack
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fgvc.robustness.attacks import away_from, fgsm, gradient, margin, pgd, project, random_start, strongest, towards

EPSILON = 4 / 255


def network(dtype: torch.dtype = torch.float64) -> nn.Module:
    """A small network without kinks: a reference and we can then differ by rounding only."""
    torch.manual_seed(3)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.Softplus(), nn.Conv2d(8, 8, 3, 2, 1), nn.Softplus(), nn.Flatten(),
        nn.Linear(8 * 4 * 4, 5),
    )  # fmt: skip
    for parameter in layers.parameters():
        parameter.data *= 3
    return layers.to(dtype).eval()


def batch(count: int = 16, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    images = torch.rand(count, 3, 16, 16, generator=draw, dtype=torch.float64).to(dtype)
    return images, torch.randint(0, 5, (count,), generator=draw)


CPU = torch.device("cpu")
Reference = Callable[[nn.Module], torchattack.attack.Attack]
SAME: dict[str, tuple[Reference, Callable[..., torch.Tensor]]] = {
    "fgsm": (lambda m: torchattack.FGSM(m, device=CPU, eps=EPSILON), lambda m, x, y: fgsm(m, x, away_from(y), EPSILON)),
    "fgsm targeted": (
        lambda m: torchattack.FGSM(m, device=CPU, eps=EPSILON, targeted=True),
        lambda m, x, y: fgsm(m, x, towards(y), EPSILON),
    ),
    "pgd": (
        lambda m: torchattack.PGD(m, device=CPU, eps=EPSILON, steps=10, alpha=1 / 255, random_start=False),
        lambda m, x, y: pgd(m, x, away_from(y), EPSILON, steps=10, step_size=1 / 255),
    ),
    "pgd targeted": (
        lambda m: torchattack.PGD(m, device=CPU, eps=EPSILON, steps=5, random_start=False, targeted=True),
        lambda m, x, y: pgd(m, x, towards(y), EPSILON, steps=5, step_size=EPSILON / 5),
    ),
    "pgd l2": (
        lambda m: torchattack.PGDL2(m, device=CPU, eps=0.5, steps=10, alpha=0.1, random_start=False),
        lambda m, x, y: pgd(m, x, away_from(y), 0.5, norm="l2", steps=10, step_size=0.1),
    ),
    "mi-fgsm": (
        lambda m: torchattack.MIFGSM(m, device=CPU, eps=EPSILON, steps=10),
        lambda m, x, y: pgd(m, x, away_from(y), EPSILON, steps=10, step_size=EPSILON / 10, momentum=1.0),
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_agrees_with_the_reference_library(name: str) -> None:
    reference, ours = SAME[name]
    images, labels = batch()
    model = network()
    theirs = reference(model)(images.clone(), labels).detach()
    mine = ours(model, images, labels)
    assert (mine - theirs).abs().max() < 1e-6
    assert (mine - images).abs().max() > EPSILON / 2  # it moved
    fooled = [(network(torch.float32)(found.float()).argmax(1) != labels).sum() for found in (mine, theirs)]
    assert fooled[0] == fooled[1]
    single = ours(network(torch.float32), images.float(), labels)
    theirs_single = reference(network(torch.float32))(images.float(), labels).detach()
    counts = [(network(torch.float32)(found).argmax(1) != labels).sum() for found in (single, theirs_single)]
    assert counts[0] == counts[1]


@settings(max_examples=40, deadline=None)
@given(
    epsilon=st.floats(0, 2), steps=st.integers(1, 4), norm=st.sampled_from(["linf", "l2"]), seed=st.integers(0, 99),
    momentum=st.sampled_from([0.0, 1.0]), targeted=st.booleans(), extreme=st.booleans(),
)  # fmt: skip
def test_stays_in_the_ball_and_in_the_pixels_range(
    epsilon: float, steps: int, norm: str, seed: int, momentum: float, targeted: bool, extreme: bool
) -> None:
    images, labels = batch(3, torch.float32)
    if extreme:
        images = images.round()  # pixels of 0 and 1: every other step points outside
    loss = (towards if targeted else away_from)(labels)
    start = random_start(images, epsilon, norm, [(seed, i) for i in range(3)])
    found = pgd(network(torch.float32), images, loss, epsilon, norm=norm, steps=steps, start=start, momentum=momentum)
    for result in (start, found):
        assert result.min() >= 0
        assert result.max() <= 1
        change = (result - images).flatten(1)
        size = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
        assert size.max() <= epsilon * (1 + 1e-5) + 1e-7


def test_a_start_outside_is_brought_inside_first() -> None:
    images, _ = batch(2)
    assert (project(images + 1, images, EPSILON, "linf") - images).abs().max() <= EPSILON + 1e-12


def test_random_starts_depend_on_their_seeds_alone() -> None:
    images, _ = batch(4)
    seeds = [(0, entry, 1) for entry in (7, 3, 9, 12)]
    for norm in ("linf", "l2"):
        whole = random_start(images, 0.1, norm, seeds)
        assert torch.equal(whole[2:3], random_start(images[2:3], 0.1, norm, seeds[2:3]))
        other = random_start(images, 0.1, norm, [(0, entry, 2) for entry in (7, 3, 9, 12)])
        assert not torch.equal(whole, other)
    spread = (random_start(torch.full((1, 3, 64, 64), 0.5), 0.1, "linf", [(1,)]) - 0.5).flatten()
    assert spread.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.02)  # uniform in the box


def test_an_images_perturbation_does_not_depend_on_its_neighbours() -> None:
    images, labels = batch(6)
    model = network()
    whole = pgd(model, images, away_from(labels), 0.1, norm="l2")
    alone = pgd(model, images[4:5], away_from(labels[4:5]), 0.1, norm="l2")
    assert (whole[4:5] - alone).abs().max() < 1e-12


def test_the_strongest_of_several_is_kept_for_every_image() -> None:
    logits = {0.0: [[2.0, 1.0], [0.0, 3.0]], 1.0: [[1.0, 4.0], [0.0, 2.0]], 2.0: [[1.0, 4.0], [0.0, 1.0]]}
    candidates = [torch.full((2, 3, 1, 1), value) for value in logits]
    labels = torch.tensor([0, 1])
    best = strongest(lambda x: torch.tensor(logits[x.max().item()]), candidates, lambda found: margin(found, labels))
    assert best[:, 0, 0, 0].tolist() == [1.0, 2.0]  # of equals the first; the second by the smaller lead
    assert margin(torch.tensor(logits[1.0]), labels).tolist() == [3.0, -2.0]


def test_a_random_models_gradient_is_averaged() -> None:
    images, _ = batch(2)
    passes = iter([1.0, 2.0, 6.0])
    weights = torch.zeros(768, 5, dtype=torch.float64).index_fill_(1, torch.tensor(0), 1)

    def model(x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ weights * next(passes)

    found = gradient(model, images, lambda logits: logits[:, 0], draws=3)
    assert torch.allclose(found, torch.full_like(found, 3.0))
