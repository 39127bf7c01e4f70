"""Settings of an attack: what is run, how large, how thoroughly. Imports nothing heavy."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt

from shards.options import option

ATTACKS = ("fgsm", "pgd", "mi_fgsm", "adaptive", "autoattack", "square", "transfer")


@dataclass
class AutoAttackConfig:
    """The budget of AutoAttack's parts; the defaults are its standard version."""

    steps: Annotated[int, Gt(0)] = option(100, "of APGD and FAB")
    targets: Annotated[int, Gt(0)] = option(9, "classes that its targeted parts try, the likeliest first")
    queries: Annotated[int, Gt(0)] = option(5000, "of Square")


@dataclass
class AttackConfig:
    """Which attacks, on which images."""

    norm: Literal["linf", "l2"] = option("linf", "how a perturbation is measured: largest change of a pixel | length")
    epsilon: str | float = option("4/255", "size of the perturbation on pixels in [0, 1], such as 4/255 or 0.0157")
    curve: list[Annotated[float, Gt(0)]] = option(
        [0.25, 0.5, 2.0], "FGSM and PGD at these multiples of epsilon too: accuracy against epsilon"
    )
    attacks: list[str] = option(
        ["fgsm", "pgd", "mi_fgsm", "adaptive", "autoattack"],
        f"of {' | '.join(ATTACKS)}; adaptive: PGD on the logits' margin, through what has no gradient, over randomness",
    )
    steps: Annotated[int, Gt(0)] = option(20, "of PGD, MI-FGSM, adaptive, transfer")
    step_size: Annotated[float, Ge(0)] = option(0.0, "of PGD, as a share of epsilon (0: 2.5 / steps)")
    restarts: Annotated[int, Gt(0)] = option(1, "random starts of PGD and adaptive; the strongest counts")
    target: str = option("", "a class: PGD towards it too, on the images of all others")
    transfer: str = option("", "another classifier's weights file, for the attack 'transfer': MI-FGSM made on it")
    preprocess: Literal["none", "quantize", "jpeg", "noise"] = option(
        "none", "a transform in front of the classifier that is to defend it, attacked with it"
    )
    preprocess_strength: Annotated[float, Ge(0)] = option(
        0.0, "quantize: levels a channel; jpeg: quality; noise: standard deviation (0: 8, 50, 16/255)"
    )
    draws: Annotated[int, Gt(0)] = option(
        8, "passes that a random model's answer is the mean of, and adaptive's gradients"
    )
    images: Annotated[int, Ge(0)] = option(200, "images drawn from the split by seed (0: all)")
    seed: Annotated[int, Ge(0)] = option(0, "of the drawn images and of all random starts")
    corruptions: bool = option(True, "measure noise, blur, JPEG, brightness and fog in five strengths too")
    checks: bool = option(True, "check whether the attacks can be believed")
    check_images: Annotated[int, Gt(0)] = option(32, "images of the checks that need many passes")
    check_queries: Annotated[int, Gt(0)] = option(1000, "of Square in the check against the black box")
