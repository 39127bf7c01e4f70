"""AutoAttack on linear models, whose smallest perturbation is known, and against the library's own run."""

import os
from pathlib import Path

import pyautoattack
import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.examples.resnet import ResNet18
from torch import nn
from torch.nn import functional

from fgvc.robustness.attack_config import AttackConfig, AutoAttackConfig
from fgvc.robustness.attacked import Attacked
from fgvc.robustness.attacks import away_from, margin, pgd
from fgvc.robustness.autoattack import STANDARD, _adversary, autoattack, parts_of
from fgvc.robustness.suite import Images, smallest

CLASSES, SIDE = 6, 8


@pytest.fixture(scope="module")
def linear() -> tuple[Attacked, torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """A linear classifier, images in the middle of the pixels' range, their labels, by norm the smallest epsilons."""
    torch.manual_seed(5)
    layer = nn.Linear(3 * SIDE * SIDE, CLASSES)
    network = nn.Sequential(nn.Flatten(), layer)
    images = 0.35 + 0.3 * torch.rand(24, 3, SIDE, SIDE)
    model = Attacked(nn.Sequential(_Scaled(), network))
    with torch.no_grad():
        logits = model(images)
    labels = logits.argmax(1)
    least = {}
    for norm, dual in (("linf", 1), ("l2", 2)):
        lead = logits.gather(1, labels[:, None]) - logits
        lengths = (layer.weight[labels][:, None] - layer.weight).norm(p=dual, dim=2)
        least[norm] = (lead / lengths).scatter(1, labels[:, None], float("inf")).amin(1).detach()
    return model, images, labels, least


class _Scaled(nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels / 255


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_breaks_just_those_images_whose_smallest_perturbation_fits(linear: tuple, norm: str) -> None:
    model, images, labels, least = linear
    epsilon = least[norm].median().item() * 1.0001
    clear = (least[norm] / epsilon - 1).abs() > 0.02  # an iterative attack comes close, not all the way
    found, by = autoattack(
        model, images, labels, epsilon, norm, classes=CLASSES, seed=0, config=AutoAttackConfig(30, 5, 50)
    )  # fmt: skip
    assert ((by >= 0) == (least[norm] < epsilon))[clear].all()
    assert 6 <= (by >= 0).sum() <= 18
    change = (found - images).flatten(1)
    assert (change.abs().amax(1) if norm == "linf" else change.norm(dim=1)).max() <= epsilon * (1 + 1e-5)
    assert ((model(found).argmax(1) != labels) == (by >= 0)).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_smallest_perturbation_is_found_within_a_few_percent(linear: tuple, norm: str) -> None:
    model, images, labels, least = linear
    epsilon = least[norm].max().item() * 1.5
    found = pgd(model, images, lambda logits: margin(logits, labels), epsilon, norm=norm, steps=40)
    told = smallest(model, Images(images, labels, torch.arange(24)), found, AttackConfig(norm=norm))
    ratio = told["smallest"] / least[norm]
    assert ratio.min() >= 0.999
    assert ratio.median() < 1.05
    assert (told["taken_for"] != labels).all()
    none = smallest(model, Images(images, labels, torch.arange(24)), images, AttackConfig(norm=norm))
    assert none["smallest"].isinf().all()


def test_the_same_seed_gives_the_same_images(linear: tuple) -> None:
    model, images, labels, least = linear
    epsilon = least["linf"].median().item()
    budget = AutoAttackConfig(5, 2, 200)
    runs = [
        autoattack(model, images, labels, epsilon, "linf", classes=CLASSES, seed=seed, config=budget, parts=("square",))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(runs[0][0], runs[1][0])
    assert not torch.equal(runs[0][0], runs[2][0])


def test_few_classes_and_random_models_have_parts_of_their_own() -> None:
    assert parts_of(50, False) == STANDARD
    assert parts_of(3, False) == ("apgd-ce", "fab-t", "square")  # the targeted DLR loss needs four
    assert parts_of(50, True) == ("apgd-ce", "apgd-dlr")
    assert parts_of(2, True) == ("apgd-ce",)
    torch.manual_seed(0)
    for classes in (2, 3, 4):
        model = Attacked(nn.Sequential(nn.Flatten(), nn.Linear(12, classes)))
        images = torch.rand(6, 3, 2, 2)
        labels = model(images).argmax(1)
        _, by = autoattack(
            model, images, labels, 0.5, "linf", classes=classes, seed=0, config=AutoAttackConfig(5, 9, 10)
        )  # fmt: skip
        assert (by >= 0).all()


@pytest.mark.parametrize(("steps", "schedule"), [(100, (22, 6, 3)), (50, (11, 3, 1)), (20, (4, 1, 1))])
def test_a_reduced_budget_has_the_schedule_that_the_library_gives_it(steps: int, schedule: tuple) -> None:
    model, budget, device = Attacked(nn.Flatten()), AutoAttackConfig(steps), torch.device("cpu")
    ours = _adversary(model, 0.1, "linf", 10, 0, budget, "apgd-ce", device)
    for part, kind in ((ours.apgd, APGDAttack), (ours.apgd_targeted, APGDAttack_targeted)):
        theirs = kind(model, n_iter=steps, norm="Linf", eps=0.1, device=device)
        for name in ("n_iter", "n_iter_orig", "n_iter_2", "n_iter_min", "size_decr"):
            assert getattr(part, name) == getattr(theirs, name), name
        assert (part.n_iter_2, part.n_iter_min, part.size_decr) == schedule


@pytest.mark.slow
def test_agrees_with_the_library_on_its_own_network() -> None:
    """On real birds, shrunk to the 32 px of CIFAR-10, which that ResNet-18 takes for birds."""
    root = os.environ.get("FGVC_REAL_DATA")
    if not root:
        pytest.skip("FGVC_REAL_DATA is not set: no real birds here")
    from torchvision.io import ImageReadMode, decode_image

    files = sorted((Path(root) / "cub50/images").glob("*/*.jpg"))[::40]
    images = torch.stack([
        functional.interpolate(decode_image(str(file), ImageReadMode.RGB)[None].float(), (32, 32), antialias=True,
                               mode="bilinear")[0] for file in files
    ]) / 255  # fmt: skip
    network = ResNet18()
    weights = Path(pyautoattack.__file__).parent / "examples/model_test.pt"
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    model = Attacked(nn.Sequential(_Scaled(), network.eval()))
    bird = 2
    with torch.no_grad():
        images = images[model(images).argmax(1) == bird][:6]
    labels = torch.full((len(images),), bird)
    assert len(images) == 6
    epsilon, budget = 8 / 255, AutoAttackConfig(4, 2, 10)
    _, by = autoattack(model, images, labels, epsilon, "linf", classes=10, seed=3, config=budget)
    theirs = pyautoattack.AutoAttack(model, norm="Linf", eps=epsilon, seed=3, device="cpu")
    theirs.verbose = False
    about = {"n_restarts": 1, "n_iter": 4, "verbose": False, "eps": epsilon, "seed": 3, "device": "cpu"}
    theirs.apgd = APGDAttack(model, logger=theirs.logger, norm="Linf", **about)
    theirs.apgd_targeted = APGDAttack_targeted(model, logger=theirs.logger, norm="Linf", **about)
    theirs.fab.n_iter = 4
    theirs.apgd_targeted.n_target_classes = theirs.fab.n_target_classes = 2
    theirs.square.n_queries = 10
    broken, _ = theirs.run_standard_evaluation(images, labels, batch_size=6)
    assert torch.equal(by >= 0, model(broken).argmax(1) != labels)
    one_step = pgd(model, images, away_from(labels), epsilon, steps=1, step_size=epsilon)
    assert (by < 0).sum() <= (model(one_step).argmax(1) == labels).sum()
