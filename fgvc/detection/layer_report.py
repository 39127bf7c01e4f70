"""What a boxes layer is worth, in words: quality by split, and warnings. Imports nothing heavy."""

from typing import Any

MANY_WHOLE, FAR_WORSE = 0.2, 0.1  # shares from which `warnings` speaks


def describe_layer(boxes: dict[str, dict[str, Any]], unmeasured: str) -> list[str]:
    """A line a split. boxes: split -> figures of `layer_quality`; unmeasured: a split that was not to be compared with
    its true boxes."""
    lines = []
    for split, figures in boxes.items():
        quality = "no true boxes: quality unknown"
        if figures.get("with_truth"):
            quality = (
                f"top box right (IoU >= 0.5) on {figures['right']:.2%} of {figures['with_truth']} images with true "
                f"boxes, mean IoU {figures['mean_iou']:.3f}"
            )
        elif split == unmeasured:
            quality = "not measured (evaluate_test=true does)"
        name = f"{split}{' (out of fold)' if figures['out_of_fold'] else ''}"
        lines.append(f"{name}: {quality}; nothing found on {figures['without_box']} of {figures['images']}")
    return lines


def warnings(boxes: dict[str, dict[str, Any]]) -> list[str]:
    """What makes a layer a poor one to crop by, a line each."""
    lines = [
        f"{split}: {figures['without_box']} of {figures['images']} images stay whole, nothing was found on them: lower "
        "min_score=, or train the detector longer"
        for split, figures in boxes.items()
        if figures["without_box"] > MANY_WHOLE * figures["images"]
    ]
    for train, own in boxes.items():
        for split, other in boxes.items():
            if not own["out_of_fold"] or other["out_of_fold"]:
                continue
            for key, what in (("right", "right on"), ("score", "of a mean score of")):
                if key in own and key in other and own[key] < other[key] - FAR_WORSE:
                    lines.append(
                        f"out-of-fold boxes are far worse: {what} {own[key]:.0%} in {train}, {other[key]:.0%} in "
                        f"{split}; crops in training will not look like those that are measured: more folds=, or train "
                        "the detectors longer"
                    )
                    break
    return lines
