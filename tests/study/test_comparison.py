"""A comparison's figures against hand counts, its table and notes, its files for other programs."""

import csv
import io
import statistics
from dataclasses import replace

import numpy as np
import pytest

from fgvc.study.comparison import Measured, figures, paired_difference, table
from fgvc.study.comparison_files import as_csv, as_latex
from fgvc.study.statistics import holm, paired_interval
from jobs.experiments.compare_results import notes
from shards.errors import UserError


def measured(seed: int, fold: int, right: list[int], images: list[int], **result: object) -> Measured:
    """A run that names the images in `right` rightly."""
    values = np.array([float(image in right) for image in images])
    return Measured(seed, fold, {"parameters": 10} | result, {"val": (np.array(images), values)}, 100.0 + seed, 60.0)


def test_figures_are_those_counted_by_hand():
    first = [
        measured(0, 0, [0, 1], [0, 1, 2]), measured(0, 1, [3], [3, 4]),
        measured(1, 0, [0], [0, 1, 2]), measured(1, 1, [3], [3, 4]),
    ]  # fmt: skip
    second = [
        measured(0, 0, [0, 1, 2], [0, 1, 2]), measured(0, 1, [3, 4], [3, 4]),
        measured(1, 0, [0, 1], [0, 1, 2]), measured(1, 1, [4], [3, 4]),
    ]  # fmt: skip
    one, two = figures({"first": first, "second": second}, "val", 2, 2)
    assert one.per_seed == pytest.approx([3 / 5, 2 / 5])
    assert one.value == pytest.approx(0.5)
    assert one.std == pytest.approx(statistics.stdev([0.6, 0.4]))
    assert two.per_seed == pytest.approx([1, 3 / 5])
    assert two.difference is not None
    assert two.difference[0] == pytest.approx(0.8 - 0.5)
    # images 0-4: shares over seeds 1, 1/2, 0, 1, 0 against 1, 1, 1/2, 1/2, 1
    over_images = paired_interval(np.array([1, 1, 0.5, 0.5, 1]), np.array([1, 0.5, 0, 1, 0]))
    assert two.difference[0] == over_images[0]
    assert two.difference[2] - two.difference[1] > over_images[2] - over_images[1]  # the seeds' spread is in it
    [single] = figures({"first": first[:2]}, "val", 1, 2)
    assert (single.value, single.low, single.high) == paired_interval(np.array([1, 1, 0, 1, 0]), np.zeros(5))
    assert (one.images, one.runs, one.planned, one.images_per_second, one.test_runs) == (5, 4, 4, 100.5, 0)
    text = table([one, two], "top-1")
    assert "+30.00 [" in text
    assert "runs" not in text.splitlines()[0]


def test_many_rows_are_corrected_for_their_number_and_the_best_is_called_that():
    random = np.random.default_rng(0)
    images = list(range(200))
    right = {f"row {i}": random.choice(200, 100 + i, replace=False).tolist() for i in range(12)}
    rows = figures({label: [measured(0, 0, names, images)] for label, names in right.items()}, "val", 1, 1)
    p_values = [row.p for row in rows[1:]]
    assert [row.p_holm for row in rows] == [None, *holm(p_values)]
    assert rows[0].p is None
    text = notes({}, {}, rows)
    assert "row 11 is the best of 12 rows: its figure is partly luck" in text
    assert "corrected for the number of rows (Holm)" in text
    assert "Intervals do not hold the spread between seeds" in text
    assert "p (Holm)" in table(rows, "top-1").splitlines()[0]
    few = notes({}, {}, rows[:2])
    assert "best of" not in few
    assert "Holm" not in few


def test_tables_for_other_programs_hold_the_same_figures():
    rows = figures(
        {"a & b": [measured(0, 0, [0, 1], [0, 1, 2]), measured(1, 0, [0], [0, 1, 2])],
         "c_d, e": [measured(0, 0, [0, 1, 2], [0, 1, 2]), measured(1, 0, [2], [0, 1, 2])], "none": []},
        "val", 2, 1,
    )  # fmt: skip
    lines = list(csv.DictReader(io.StringIO(as_csv(rows, "top1"))))
    assert [line["label"] for line in lines] == ["a & b", "c_d, e", "none"]
    assert [float(line["top1"]) for line in lines[:2]] == [row.value for row in rows[:2]]
    assert float(lines[1]["difference_low"]) == rows[1].difference[1]
    assert lines[1]["per_seed"] == f"{1.0} {1 / 3}"
    assert lines[2]["top1"] == lines[0]["difference"] == ""
    latex = as_latex(rows, "top-1").splitlines()
    assert latex[5].startswith(r"a \& b & 50.00 & ")
    assert latex[6].startswith(r"c\_d, e & 66.67 & ")
    assert all(line.count(" & ") == latex[3].count(" & ") for line in latex[5:8])


def test_rows_with_missing_runs_are_paired_on_what_both_have():
    first = [measured(0, 0, [0], [0, 1]), measured(0, 1, [2], [2, 3])]
    second = [measured(0, 1, [2, 3], [2, 3])]
    _, two = figures({"first": first, "second": second, "third": []}, "val", 1, 2)[:2]
    assert two.difference is not None
    assert two.difference[0] == pytest.approx(0.5)
    assert two.per_seed == []
    assert "1 of 2" in table(figures({"first": first, "second": second, "third": []}, "val", 1, 2), "top-1")
    with pytest.raises(UserError, match="different images"):
        paired_difference([measured(0, 0, [0], [0, 1])], [measured(0, 0, [0], [0, 2])], "val")


def test_rows_on_shards_that_were_made_again_are_not_paired():
    """Images are named by their places, and the new shards have other images there."""
    rows = {name: [measured(0, 0, [0], [0, 1], inputs={"shards": name})] for name in ("old", "new")}
    with pytest.raises(UserError, match="measured on shards that were made again in between; delete"):
        figures(rows, "val", 1, 1)


def test_rows_that_touched_the_test_split_are_named_and_counted():
    run = measured(0, 0, [0], [0, 1])
    tested = replace(run, per_image=run.per_image | {"test": measured(0, 0, [7, 8, 9], [6, 7, 8, 9]).per_image["val"]})
    rows = figures({"kept": [run], "spent": [tested, replace(tested, fold=1)]}, "val", 1, 2)
    assert [(row.test_runs, row.test_value) for row in rows] == [(0, None), (2, 0.75)]
    assert "75.00" in table(rows, "top-1")
    assert "**1 row touched the test split, 2 measurements in all: spent.**" in notes({"spent": 2}, {})
    assert "No row touched the test split." in notes({}, {})


def test_rows_whose_runs_did_not_keep_their_learning_rate_are_named() -> None:
    text = notes({}, {}, (), ["fast", "faster", "fast"])
    assert "fast: 2 of its runs broke and went on at a lower learning rate than optim.lr says." in text
    assert "faster: 1 of its runs broke" in text
    assert "broke" not in notes({}, {})
