"""From rows of images to a table: a method's figures with their 95 % intervals, and what is compared with what."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fgvc.explanation.config import BASELINES
from fgvc.explanation.examination import Found
from fgvc.explanation.funnybirds import AREA, QUESTIONS, SHARES, best_share, completeness_of
from fgvc.explanation.sanity import floor
from fgvc.explanation.scores import max_box_accuracy
from fgvc.runtime.chunks import Arrays
from fgvc.study.statistics import interval_over_images

MEANS = ("pointing", "energy", "telling", "insertion", "deletion", "road", "empty", "seconds")
PERTURBED = ("insertion", "deletion", "road")  # are measured on few images, of all methods
DRAWS = 2000
LEAST_IMAGES = 5  # of a class, to say where its maps lie
CLEARLY = 0.5  # of what the other classes' maps gain; it names none of 50 real classes (docs/explain.md)
LARGER = ("pointing", "energy", "max_box_acc", "telling", "insertion", "road", "funnybirds")  # is better


def bootstrapped(rows: int, figure: Callable[[np.ndarray], float], seed: int = 0) -> list[float]:
    """[low, high] of a figure of images that is no mean: 95 %, percentile bootstrap. figure: rows -> value."""
    random = np.random.default_rng(seed)
    drawn = [figure(random.integers(rows, size=rows)) for _ in range(DRAWS)]
    return [round(float(bound), 5) for bound in np.nanquantile(drawn, [0.025, 0.975])]


def with_interval(values: np.ndarray) -> dict[str, Any]:
    """{mean, interval, images} of the images that have a value; empty where none has."""
    known = values[~np.isnan(values)]
    if not len(known):
        return {}
    found = interval_over_images(known.astype(float), DRAWS)
    return {"mean": found.middle, "interval": [round(found.low, 5), round(found.high, 5)], "images": len(known)}


def method_figures(rows: Arrays, name: str) -> dict[str, Any]:
    """A method's figures: {score: mean, score_interval: [low, high], ...}; those that nothing is known of left out."""
    figures: dict[str, Any] = {"images": len(rows["entries"])}
    for score in MEANS:
        if (values := rows.get(f"{name}/{score}")) is not None and (found := with_interval(values)):
            figures[score] = found["mean"]
            if score not in ("seconds", "empty"):
                figures[f"{score}_interval"] = found["interval"]
    ious = rows[f"{name}/ious"]
    known = ious[~np.isnan(ious).any((1, 2))]
    if len(known):
        figures |= max_box_accuracy(known)
        right = lambda picked: float((known[picked, 0] >= 0.5).mean(0).max())  # noqa: E731
        figures["max_box_acc_interval"] = bootstrapped(len(known), right)
    return figures


def difference(rows: Arrays, ours: str, theirs: str, score: str) -> dict[str, Any]:
    """Of two methods over the images that both have a value of: {mean, interval, images}."""
    return with_interval(rows[f"{ours}/{score}"].astype(float) - rows[f"{theirs}/{score}"].astype(float))


def sanity_figures(correlations: np.ndarray, maps: np.ndarray) -> dict[str, Any]:
    """From (N, stages) correlations, NaN where a map was flat, and the trained maps (N, D): the mean |rho| at the end
    and by stage, the share of flat maps at the end, and the mean |rho| of two images' trained maps."""
    sizes = np.abs(correlations)
    figures: dict[str, Any] = {"sanity_flat": float(np.isnan(sizes[:, -1]).mean())}
    figures |= _named("sanity", with_interval(sizes[:, -1]))
    figures["sanity_cascade"] = [with_interval(stage).get("mean") for stage in sizes.T]
    if found := with_interval(floor(maps)):
        figures["sanity_floor"] = found["mean"]
    return figures


def answers_of(measured: Arrays, pairs: Arrays, name: str) -> list[np.ndarray]:
    """A method's answers to QUESTIONS, a row a bird, NaN where a bird is not asked."""
    return [np.concatenate([rows[f"{name}/{key}"] for rows in (measured, pairs) if rows]) for key in QUESTIONS]


def asked_of(measured: Arrays, pairs: Arrays, name: str) -> dict[str, int]:
    """How many birds each question rests on."""
    firsts = [values.reshape(len(values), -1)[:, 0] for values in answers_of(measured, pairs, name)]
    return {key: int((~np.isnan(values)).sum()) for key, values in zip(QUESTIONS, firsts, strict=True)}


def protocol_figures(validation: Arrays, measured: Arrays, pairs: Arrays, name: str) -> dict[str, Any]:
    """FunnyBirds' figures of a method: the share of a map that makes a part important is chosen on `validation`.

    pairs: rows of more birds, of which only contrastivity is known. asked: how many birds each question rests on.
    """
    if not (validation["right"].any() and measured["right"].any()):
        return {}
    share = best_share(validation[f"{name}/completeness"])
    checks, order, targets = answers_of(measured, pairs, name)

    def three(rows: np.ndarray) -> list[float]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of means over nothing: NaN is what they are
            return [completeness_of(checks[rows])[share], np.nanmean(order[rows]), np.nanmean(targets[rows])]

    complete, correct, contrastive = three(np.arange(len(order)))
    csdc, pc, dc, distractors = np.nanmean(checks, axis=0)[:, share].tolist()
    figures: dict[str, Any] = {
        "funnybirds": np.mean([complete, correct, contrastive]), "completeness": complete, "csdc": csdc, "pc": pc,
        "dc": dc, "distractors": distractors, "correctness": correct, "contrastivity": contrastive,
        "share": SHARES[share],
    }  # fmt: skip
    known: dict[str, Any] = {key: float(value) for key, value in figures.items() if np.isfinite(value)}
    known["asked"] = asked_of(measured, pairs, name)
    if "funnybirds" in known:
        known["funnybirds_interval"] = bootstrapped(len(order), lambda rows: float(np.mean(three(rows))))
    return known


def best_of(figures: dict[str, dict[str, Any]], scores: Sequence[str] = LARGER) -> dict[str, str]:
    """The method with the largest value of every score among those measured on the same images, baselines left out."""
    most = max(row["images"] for row in figures.values())
    candidates = {name: row for name, row in figures.items() if name not in BASELINES}
    best = {}
    for score in scores:
        known = {
            name: row[score]
            for name, row in candidates.items()
            if score in row and (row["images"] == most or score in PERTURBED)
        }
        if known:
            best[score] = max(known, key=lambda name: known[name])
    return best


def figures_of(found: Found, classes: Sequence[str], sheets_by: str) -> dict[str, Any]:
    """What result.json holds of a split. sheets_by: the method that the sheets show and classes are compared by."""
    methods: dict[str, dict[str, Any]] = {}
    for name in found.methods:
        row = method_figures(found.of(name), name)
        for score in PERTURBED:
            if f"{name}/{score}" in found.few:
                row |= _named(score, with_interval(found.few[f"{name}/{score}"]))
        if name in found.sanity:
            row |= sanity_figures(found.sanity[name], found.sanity[f"{name}/small"])
        if f"{name}/completeness" in found.birds:
            row |= protocol_figures(found.validation, found.birds, found.pairs, name)
        methods[name] = row
    rows = found.rows
    figures: dict[str, Any] = {"images": len(rows["entries"])}
    first = found.methods[0]
    if "pointing" in methods[first]:
        figures |= {"pointing": methods[first]["pointing"], "pointing_by": first}
    if (rows["labels"] >= 0).all():
        figures["top1"] = float((rows["labels"] == rows["predicted"]).mean())
    figures |= {"sheets_by": sheets_by, "methods": methods, "best": best_of(methods)} | _chance(rows)
    if found.birds:
        figures["birds"] = {
            "measured": int(found.birds["right"].sum()), "drawn": len(found.birds["right"]),
            "thresholds_by": int(found.validation["right"].sum()),
        }  # fmt: skip
        for key, score in (("background", "background_independence"), (AREA, "correctness_of_area")):
            if known := with_interval(found.birds[key]):
                figures["birds"][score] = known["mean"]
        figures["birds"]["asked"] = asked_of(found.birds, found.pairs, "oracle")
    return figures | _comparisons(found, figures["best"]) | off_object(found.of(sheets_by), classes, sheets_by)


def _named(score: str, found: dict[str, Any]) -> dict[str, Any]:
    return {score: found["mean"], f"{score}_interval": found["interval"]} if found else {}


def _chance(rows: Arrays) -> dict[str, Any]:
    """What boxes alone give: the mean share of the image in them, which is the pointing of a pixel drawn anywhere and
    the energy of an even map; and the box accuracies of the whole image as its box."""
    known = ~np.isnan(rows["area"])
    if not known.any():
        return {}
    whole = max_box_accuracy(np.repeat(rows["whole"][known][:, None, None], 2, axis=1))
    return {
        "chance": {
            "pointing": float(rows["area"][known].mean()), "energy": float(rows["area"][known].mean()),
            "max_box_acc": whole["max_box_acc"], "max_box_acc_v2": whole["max_box_acc_v2"],
        }
    }  # fmt: skip


def _comparisons(found: Found, best: dict[str, str]) -> dict[str, Any]:
    """The best method of some scores against plain CAM and the centre: the mean difference with its interval."""
    rows: dict[str, Any] = {}
    for score in ("pointing", "energy", "telling"):
        for other in ("cam", "centre"):
            ours = best.get(score)
            if ours and ours != other and all(f"{name}/{score}" in found.rows for name in (ours, other)):
                rows[f"{score}: {ours} - {other}"] = difference(found.rows, ours, other, score)
    return {"differences": {name: row for name, row in rows.items() if row}}


def off_object(rows: Arrays, classes: Sequence[str], method: str) -> dict[str, Any]:
    """Which predicted classes a method's maps leave the object for: what a class that is told by something else does.

    excess_by_class: share of the maps in the boxes less the boxes' share of the image (small objects hold less of any
    map), of classes of LEAST_IMAGES or more, the lowest first. off_object: those that gain clearly less than all other
    images together: as a share of what there was to gain (large boxes leave little), the upper end of their interval,
    corrected for the number of classes, is below CLEARLY times that of the others.
    """
    excess, room = rows[f"{method}/energy"] - rows["area"], 1 - rows["area"]
    known, random = ~np.isnan(excess), np.random.default_rng(0)
    groups = {int(label): known & (rows["predicted"] == label) for label in np.unique(rows["predicted"][known])}
    groups = {label: picked for label, picked in groups.items() if picked.sum() >= LEAST_IMAGES}
    means = {label: float(excess[picked].mean()) for label, picked in groups.items()}
    order = sorted(groups, key=lambda label: means[label])
    low = []
    for label in order:
        own, others = groups[label], known & ~groups[label]
        if not others.any():
            continue
        chosen = random.integers(own.sum(), size=(DRAWS, own.sum()))
        gained = excess[own][chosen].mean(1) / np.maximum(room[own][chosen].mean(1), 1e-6)
        expected = excess[others].mean() / max(room[others].mean(), 1e-6)
        if np.quantile(gained, 1 - 0.025 / len(groups)) < CLEARLY * expected:
            low.append(classes[label])
    named = {classes[label]: round(means[label], 5) for label in order}
    return {"excess_by_class": named, "off_object": low} if named else {}
