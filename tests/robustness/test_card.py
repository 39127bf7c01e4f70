"""Figures by hand, and the card: one file that loads nothing, in which names from data are text."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fgvc.robustness import checks
from fgvc.robustness.attack_config import AutoAttackConfig
from fgvc.robustness.card import write_card
from fgvc.robustness.evaluation import Findings
from fgvc.robustness.figures import figures, flips, share, smallest_epsilons, survivors
from fgvc.robustness.pictures import Example, accuracy_curve, flip_matrix, perturbed_images
from jobs.attack import Config
from jobs.tasks.attack_card import budgets

NASTY = "</script><script>alert(1)</script>"
CLASSES = ("Wren", NASTY, "$Finch$")


def findings() -> Findings:
    """Six images of three classes, the last one misclassified as it is."""
    found = Findings(np.arange(6) * 10, np.array([0, 0, 1, 1, 2, 2]), np.array([0, 0, 1, 1, 2, 0]))
    entries = found.entries[:5]

    def attack(predicted: list[int], smallest: list[float], taken: list[int]) -> dict[str, np.ndarray]:
        return {
            "entries": entries, "predicted": np.array(predicted), "smallest": np.array(smallest),
            "taken_for": np.array(taken),
        }  # fmt: skip

    inf = np.inf
    found.attacks["pgd", 0.01] = attack([1, 0, 1, 1, 2], [0.004, inf, inf, inf, inf], [1, 0, 1, 1, 2])
    found.attacks["pgd", 0.02] = attack([2, 1, 0, 1, 2], [inf, 0.012, 0.018, inf, inf], [2, 1, 0, 1, 2])
    found.attacks["fgsm", 0.02] = {"entries": entries, "predicted": np.array([0, 0, 1, 1, 0])}
    return found


def test_the_headline_counts_what_was_run_on_some_images_only() -> None:
    found = findings()
    assert survivors(found, 0.01, ["pgd"]).tolist() == [False, True, True, True, True, False]
    found.besides["check-square"] = {"entries": np.array([10, 40]), "predicted": np.array([0, 1])}
    found.besides["targeted"] = {"entries": np.array([0, 20, 30]), "predicted": np.array([2, 2, 1])}
    assert survivors(found, 0.01, ["pgd"]).tolist() == [False, True, False, True, False, False]
    bench = SimpleNamespace(config=SimpleNamespace(norm="linf"), epsilon=0.01, target=2)
    told = figures(found, bench, CLASSES)
    assert told["robust"] == 2 / 6
    assert told["robust_besides"] == {
        "check-square": {"of": 2, "broke": 1, "alone": 1}, "targeted": {"of": 3, "broke": 2, "alone": 1},
    }  # fmt: skip
    assert told["targeted"]["taken_for_it"]["right"] == 2


def test_the_card_names_the_budgets_of_what_was_run() -> None:
    config = Config(autoattack=AutoAttackConfig(25, 9, 1000))
    assert budgets(config, ["fgsm"], 10) == {}
    told = budgets(config, ["fgsm", "autoattack"], 6)
    assert told == {"autoattack": "apgd-ce, apgd-t, fab-t, square: 25 steps, 5 target classes, 1000 queries"}
    config.preprocess = "noise"
    told = budgets(config, ["adaptive", "autoattack"], 6)
    assert "20 draws a gradient" in told["autoattack"]
    assert "queries" not in told["autoattack"]
    assert "8 draws a gradient" in told["adaptive"]
    assert "mean softmax over 8 passes" in told["the model's answer"]


def test_figures_by_hand() -> None:
    found = findings()
    assert found.right.tolist() == [True] * 5 + [False]
    assert found.survives("pgd", 0.02).mean() == 2 / 6
    assert survivors(found, 0.02, ["pgd", "fgsm"]).tolist() == [False, False, False, True, False, False]
    least, guess = smallest_epsilons(found)
    assert least.tolist() == [0.004, 0.012, 0.018, np.inf, np.inf]
    assert guess[:3].tolist() == [1, 1, 0]
    pairs = flips(found, CLASSES)
    assert [(pair.truth, pair.guess, pair.count, pair.median_epsilon) for pair in pairs] == [
        (0, 1, 2, pytest.approx(0.008)), (1, 0, 1, 0.018),
    ]  # fmt: skip
    told = share(np.array([True] * 8 + [False] * 2))
    assert told["interval"] == pytest.approx([0.4902, 0.9433], abs=1e-4)  # Wilson's, 8 of 10
    assert share(np.zeros(200, bool))["interval"] == pytest.approx([0.0, 0.01885], abs=1e-4)


def test_checks_turn_red_where_they_should() -> None:
    assert checks.monotone({0.1: 50, 0.2: 30, 0.05: 80}, 100).passed is True
    assert checks.monotone({0.1: 30, 0.2: 50}, 100).passed is False
    assert checks.monotone({0.1: 30}, 100).passed is None  # one epsilon: nothing to compare
    assert checks.reaches_zero(0, 32).passed is True
    assert checks.reaches_zero(1, 32).passed is False
    assert checks.not_weaker_than_fgsm({0.1: 20, 0.2: 30}, {0.1: 40, 0.2: 25}, 100).passed is False
    right, broken = np.ones(20, bool), np.zeros(20, bool)
    assert checks.black_box_not_stronger(broken, right).passed is False
    assert checks.black_box_not_stronger(right, broken).passed is True
    assert checks.budget_suffices(right, broken, "more").passed is False
    assert checks.adaptive_not_stronger(broken, right).passed is False
    assert checks.gradients_alive(np.arange(8) < 4).passed is False
    made = {"one": checks.reaches_zero(0, 4), "two": checks.reaches_zero(2, 4), "three": checks.Check(None, "", "")}
    assert checks.failed(made) == ["two"]


@pytest.mark.parametrize(("images", "allowed"), [(32, 3), (60, 3), (200, 10)])
def test_no_tolerance_is_finer_than_a_few_images(images: int, allowed: int) -> None:
    """5 % of 32 images are 1.6: two images that chance moved would turn a check red."""
    right = np.ones(images, bool)
    for excess in (allowed, allowed + 1):
        fewer, green = np.arange(images) >= excess, excess == allowed
        assert checks.black_box_not_stronger(fewer, right).passed is green
        assert checks.budget_suffices(right, fewer, "more").passed is green
        assert checks.adaptive_not_stronger(fewer, right).passed is green
        assert checks.gradients_alive(~fewer).passed is green
        planted = {"possible": right, "found": fewer, "random": ~right}
        assert checks.finds_planted(planted).passed is green
    for excess, green in ((3, True), (4, False)):  # 1 % of these is at most 2
        assert checks.monotone({1.0: 10, 2.0: 10 + excess}, images).passed is green
        assert checks.not_weaker_than_fgsm({1.0: 10 + excess}, {1.0: 10}, images).passed is green
    shown = checks.budget_suffices(right, fewer, "more").found
    assert shown == f"more: {images - allowed - 1} right instead of {images}, of {images} images"
    assert checks.gradients_alive(np.ones(3, bool)).passed is None  # three images can tell nothing


def card(folder: Path, red: bool, attack: str = "pgd") -> str:
    rows = {"4/255": {"epsilon": 4 / 255, **share(np.array([True, False]))}}
    told = {
        "count": 2, "clean": 1.0, "clean_interval": [0.5, 1.0], "robust": 0.5, "robust_interval": [0.1, 0.9],
        "robust_under": [attack], "robust_besides": {"check-square": {"of": 32, "broke": 9, "alone": 2}},
        "norm": "linf", "epsilon": 4 / 255, "epsilon_shown": "4/255", "attacks": {attack: rows},
        "per_class": {NASTY: {"count": 2, "clean": 1.0, "robust": 0.5, attack: 0.5}},
        "flips": [pair.record() for pair in flips(findings(), CLASSES)] if attack == "pgd" else [],
        "checks": {"reaches_zero": checks.reaches_zero(16 if red else 0, 32).record()},
        "corruptions": {"fog": [0.9, 0.8, 0.7, 0.6, 0.5], "mean": 0.7},
        "targeted": {"class": NASTY, "taken_for_it": share(np.array([True, False]))},
    }  # fmt: skip
    names = ("accuracy_curve", "flip_matrix", "perturbed_images")
    pictures = {name: folder / f"{name}.png" for name in names}
    accuracy_curve(pictures["accuracy_curve"], told)
    flip_matrix(pictures["flip_matrix"], flips(findings(), CLASSES), CLASSES, "linf")
    grey = np.full((8, 8, 3), 0.5)
    perturbed_images(pictures["perturbed_images"], [Example(grey, grey + 0.01, CLASSES[2], NASTY, 0.01)], "linf")
    write_card(folder / "card.html", NASTY, told, {"weights": NASTY}, pictures)
    return (folder / "card.html").read_text()


def test_the_card_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    page = card(tmp_path, red=True)
    assert "<script" not in page
    assert page.count("&lt;/script&gt;&lt;script&gt;alert(1)") >= 5  # title, heading, class, pair, target, weights
    assert "default-src 'none'; img-src data:" in page
    sources = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"'\s>)]+)""", page)
    assert len(sources) == 3
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "Not to be believed" in page
    assert "RED" in page
    assert "under check-square, run on 32 images, 2 of\nwhich it alone misled;" in page
    for shown in ("50.0% [9.5, 90.5]", "4/255", "1 of\n2 images", "fog"):
        assert shown in page


def test_the_card_says_where_pgd_was_not_run(tmp_path: Path) -> None:
    page = card(tmp_path, red=False, attack="fgsm")
    assert "PGD, which tells it, was not run." in page
    assert "misled no image" not in page


def test_a_green_card_does_not_warn(tmp_path: Path) -> None:
    page = card(tmp_path, red=False)
    assert "Not to be believed" not in page
    assert "No check is red" in page
