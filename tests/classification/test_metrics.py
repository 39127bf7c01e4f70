"""Figures of predictions: what has none is refused, NLL holds for any finite logits, ties favour nobody, images can be
left out."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from fgvc.classification.metrics import Predictions, summary, wilson
from shards.errors import UserError


def predictions(logits: list[list[float]], labels: list[int]) -> Predictions:
    return Predictions(np.array(logits, dtype=np.float32), np.array(labels), np.arange(10, 10 + len(labels)))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_outputs_that_are_not_finite_are_an_error(value: float) -> None:
    found = predictions([[1, 0], [value, 0], [0, value]], [0, 1, 0])
    with pytest.raises(UserError, match=r"not finite for 2 of 3 images, first entry 11; "):
        summary(found, ("a", "b"))
    with pytest.raises(UserError, match=r"first 'bird_7'"):
        found.check_finite({10: "bird_6", 11: "bird_7", 12: "bird_8"}.__getitem__)


def test_nll_of_sure_and_wrong_answers_is_what_the_logits_say() -> None:
    figures = summary(predictions([[100, 0], [0, 3]], [1, 1]), ("a", "b"))
    assert figures["nll"] == pytest.approx((100 + math.log(1 + math.exp(-3))) / 2)


def test_equal_logits_are_right_as_often_in_top5_as_in_top1() -> None:
    figures = summary(predictions([[0] * 20] * 20, list(range(20))), tuple("abcdefghijklmnopqrst"))
    assert (figures["top1"], figures["top5"]) == (1 / 20, 5 / 20)
    # four are above it and one beside it: the earlier one is fifth
    beside = [[9, 9, 9, 9, 5, 5, 0]] * 2
    assert summary(predictions(beside, [4, 5]), tuple("abcdefg"))["top5"] == 0.5


def test_an_empty_split_has_no_figures() -> None:
    with pytest.raises(UserError, match="no figures of an empty split"):
        summary(Predictions(np.zeros((0, 2)), np.zeros(0, int), np.zeros(0, int)), ("a", "b"))


def test_images_are_left_out_by_entry() -> None:
    left = predictions([[1, 0], [1, 0], [0, 1]], [0, 1, 1]).without({11, 99})
    assert left.entries.tolist() == [10, 12]
    assert summary(left, ("a", "b"))["top1"] == 1.0


@pytest.mark.parametrize(("right", "of"), [(0, 5), (5, 5), (1, 7), (160, 200), (1131, 1389)])
def test_wilsons_interval_is_scipys(right: int, of: int) -> None:
    expected = binomtest(right, of).proportion_ci(method="wilson")
    assert wilson(right / of, of) == pytest.approx((expected.low, expected.high), abs=1e-12)
