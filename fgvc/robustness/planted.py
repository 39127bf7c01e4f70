"""The attack's own unit test: models into which a perturbation was planted that is known to mislead them.

After Zimmermann et al. 2022 (arXiv:2206.13991): for every image a two-class readout of the model's own features, which
tells the image and its near surroundings from one perturbed version of it. An attack that works finds a perturbation of
that kind; one that is misled by the model (no gradients, saturated ones) finds none, whatever its accuracy figures say.
"""

import torch

from fgvc.robustness.attack_config import AttackConfig
from fgvc.robustness.attacked import Attacked
from fgvc.robustness.attacks import away_from, pgd, random_start
from fgvc.robustness.suite import Images

INNER = 31  # points around every image that belong to it, within INSIDE epsilon of it
INSIDE = 0.5
CLOSE = 0.95  # where the two classes meet on the way from the nearest inner point's score to the planted one's
SCALE = 10.0  # logits between the inner points and the planted one


def planted(model: Attacked, images: Images, epsilon: float, config: AttackConfig) -> dict[str, torch.Tensor]:
    """(N,) bool each. possible: a readout that tells the planted perturbation from the image's surroundings was found;
    found: PGD, as configured, misleads it; random: one of INNER random perturbations does."""
    x, count = images.pixels, len(images.pixels)
    corner = _on_the_edge(x, epsilon, config, images.entries.tolist())
    inner = [x, *(_around(images, INSIDE * epsilon, config, number) for number in range(1, INNER + 1))]
    with torch.no_grad():
        inside = torch.stack([model.features(points) for points in inner], 1).double()  # (N, INNER + 1, D)
        outside = model.features(corner).double()
    weights, bias, possible = _readout(inside, outside)

    def readout(points: torch.Tensor) -> torch.Tensor:
        score = (model.features(points) * weights.to(points.dtype)).sum(1) + bias.to(points.dtype)
        return torch.stack([torch.zeros_like(score), score], 1)

    own = torch.zeros(count, dtype=torch.long, device=x.device)
    misled = torch.zeros(count, dtype=torch.bool, device=x.device)
    for restart in range(config.restarts):
        start = random_start(
            x, epsilon, config.norm, [(config.seed, e, 1000 + restart) for e in images.entries.tolist()]
        )
        size = config.step_size * epsilon if config.step_size else None
        found = pgd(
            readout, x, away_from(own), epsilon, norm=config.norm, steps=config.steps, step_size=size, start=start
        )  # fmt: skip
        with torch.no_grad():
            misled |= readout(found).argmax(1) == 1
    by_chance = torch.zeros_like(misled)
    with torch.no_grad():
        for number in range(INNER):
            by_chance |= readout(_around(images, epsilon, config, 2000 + number)).argmax(1) == 1
    return {"entries": images.entries, "possible": possible, "found": misled, "random": by_chance}


def _around(images: Images, radius: float, config: AttackConfig, number: int) -> torch.Tensor:
    seeds = [(config.seed, entry, 3000 + number) for entry in images.entries.tolist()]
    return random_start(images.pixels, radius, config.norm, seeds)


def _on_the_edge(x: torch.Tensor, epsilon: float, config: AttackConfig, entries: list[int]) -> torch.Tensor:
    """A corner of the box, or a point of the sphere, around every image, clipped to [0, 1]."""
    grey = torch.full_like(x, 0.5)
    change = random_start(grey, 0.25, config.norm, [(config.seed, entry, 4000) for entry in entries]) - grey
    if config.norm == "linf":
        return (x + epsilon * change.sign()).clamp(0, 1)
    return (x + epsilon * change / change.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).clamp(0, 1)


def _readout(inside: torch.Tensor, outside: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights (N, D) and bias (N,) of a linear readout, above 0 for the planted features only, and whether there is
    one. inside: (N, M, D); outside: (N, D). By ridge regression of "planted" on the features."""
    mean = inside.mean(1, keepdim=True)
    rows = torch.cat([inside, outside[:, None]], 1) - mean  # (N, M + 1, D)
    gram = rows @ rows.mT
    ridge = 1e-3 * gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-30)
    aim = torch.zeros_like(gram[:, :, :1])
    aim[:, -1] = 1
    solved = torch.linalg.solve(gram + ridge[:, None, None] * torch.eye(gram.shape[1]).to(gram), aim)
    weights = (rows.mT @ solved)[:, :, 0]
    scores = (rows @ weights[:, :, None])[:, :, 0]
    nearest, top = scores[:, :-1].amax(1), scores[:, -1]
    possible = top > nearest + 1e-9
    gap = (top - nearest).clamp_min(1e-9)
    weights = weights * (SCALE / gap)[:, None]
    bias = -SCALE * (nearest / gap + CLOSE) - (mean[:, 0] * weights).sum(1)
    return weights, bias, possible
