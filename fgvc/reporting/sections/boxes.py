"""Crops before and after, how good boxes are, and detectors with their best and worst images."""

from collections.abc import Sequence

from fgvc.reporting.blocks import Row, RunLink, Section, Table, cell, table
from fgvc.reporting.runs import Run
from fgvc.reporting.sections.shared import courses, galleries, share_interval

CROPS = {
    "crops.png": "Before and after: images with the top box, and what a square crop keeps of them",
    "boxes.png": "By split: images drawn evenly, and the worst ones; truth in white, the layer's boxes in orange",
}
DETECTIONS = {
    "best.png": "Best: the top box (red) overlaps the truth (green) most",
    "worst.png": "Worst of those found",
    "missed.png": "Missed: nothing found, or the top box is wrong",
}
PANELS = (
    ("loss", (("loss", "training", False),), False),
    ("held out", (("val_AP50", "AP50", True), ("val_top_right", "top box right", True)), True),
)
RIGHT = ("top box right", "IoU of at least 0.5 with a true box")
FIGURES = (  # key, form, heading
    ("top_iou", "decimal", ("mean IoU", "of the top box with the nearest true one")),
    ("AP", "percent", ("AP", "COCO's, over IoU 0.5 to 0.95")),
    ("AP50", "percent", "AP50"), ("AP75", "percent", "AP75"),
    ("AR", "percent", ("AR", "COCO's, of at most 100 boxes")), ("nothing", "count", "nothing found"),
)  # fmt: skip


def crops(runs: Sequence[Run]) -> Section:
    """Runs of crop."""
    chosen = [run for run in runs if run.job == "crop"]
    lead = "The object was found in every image; in training images by a detector that has not seen them."
    made = Section("crops", "Crops", (lead,), runs=chosen)
    made.blocks += galleries(chosen, CROPS, wide=True)
    if measured := [run for run in chosen if run.table("boxes")]:
        made.blocks.append(_quality(measured))
    return made


def _quality(runs: Sequence[Run]) -> Table:
    rows = []
    for run in runs:
        for split in run.table("boxes"):
            at = ("boxes", split)
            right, images = run.number("percent", *at, "right"), run.number("count", *at, "with_truth")
            by = "out of fold" if run.get(*at, "out_of_fold") else "another part"
            unmeasured = "not compared with the truth" if split == run.get("unmeasured") else "no true boxes"
            rows.append(Row((
                cell(RunLink(run.key)), cell(split), cell(by), cell(run.number("count", *at, "images")),
                cell(right or unmeasured, *share_interval(right, images)), cell(run.number("decimal", *at, "mean_iou")),
                cell(run.number("count", *at, "without_box")), cell(run.number("decimal", *at, "per_image")),
                cell(run.number("decimal", *at, "score")),
            )))  # fmt: skip
    trained = ("detector trained", "out of fold: each image's boxes by a detector that was not trained on it")
    headings = ("run", "split", trained, "images", RIGHT, "mean IoU", "nothing found", "boxes an image", "mean score")
    return table("The boxes layer against the true boxes", headings, rows, runs)


def detectors(runs: Sequence[Run]) -> Section:
    """Runs of detect."""
    chosen = [run for run in runs if run.job == "detect"]
    made = Section("detectors", "Detector", runs=chosen)
    if measured := [run for run in chosen if run.splits("top_right")]:
        made.blocks.append(_figures(measured))
    made.blocks += [*courses(chosen, PANELS), *galleries(chosen, DETECTIONS)]
    return made


def _figures(runs: Sequence[Run]) -> Table:
    rows = []
    for run in runs:
        for split in run.splits("top_right"):
            right, images = run.number("percent", split, "top_right"), run.number("count", split, "count")
            rows.append(Row((
                cell(RunLink(run.key)), cell(split), cell(images), cell(right, *share_interval(right, images)),
                *(cell(run.number(form, split, key)) for key, form, _ in FIGURES),
                cell(run.number("millions", "parameters")),
            )))  # fmt: skip
    headings = ("run", "split", "images", RIGHT, *(heading for _, _, heading in FIGURES), "parameters")
    return table("Detection", headings, rows, runs)
