"""A few images that PGD misleads, perturbed once more to be looked at."""

from collections.abc import Sequence

import numpy as np

from fgvc.robustness.evaluation import Bench, Findings
from fgvc.robustness.pictures import Example
from fgvc.robustness.suite import Images, outcome, perturb

MOST = 5


def examples(bench: Bench, found: Findings, classes: Sequence[str]) -> list[Example]:
    """Up to 5 images that PGD misleads at the headline's epsilon, each of another species where there are so many."""
    arrays = found.attacks.get(("pgd", bench.epsilon))
    if arrays is None:
        return []
    labels = found.labels[found.right]
    broken = arrays["predicted"] != labels
    entries, truths = arrays["entries"][broken], labels[broken]
    _, firsts = np.unique(truths, return_index=True)
    rest = np.setdiff1d(np.arange(len(entries)), firsts)
    chosen = np.sort(np.concatenate([firsts, rest])[:MOST]).astype(int)
    if not len(chosen):
        return []
    batch = next(iter(bench.load([entries[chosen].tolist()])))
    pixels = batch.images.to(bench.device).contiguous().float() / 255  # planes: sums keep their order
    images = Images(pixels, batch.labels.to(bench.device), batch.entries)
    changed, _ = perturb("pgd", bench.victim, images, bench.epsilon, bench.config, bench.budget)
    told = outcome(bench.victim.model, images, changed, bench.config)
    before, after = (pixels.permute(0, 2, 3, 1).cpu().numpy() for pixels in (images.pixels, changed))
    return [
        Example(image, perturbed, classes[truth], classes[guess], size)
        for image, perturbed, truth, guess, size in zip(
            before, after, batch.labels.tolist(), told["predicted"].tolist(), told["size"].tolist(), strict=True
        )
    ]
