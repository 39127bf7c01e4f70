"""The size of a perturbation as people write it."""

import pytest

from fgvc.robustness.epsilon import read_epsilon, shown_epsilon
from shards.errors import UserError


@pytest.mark.parametrize(
    ("text", "size"),
    [("4/255", 4 / 255), (" 8 / 255 ", 8 / 255), ("0.03", 0.03), (0.5, 0.5), (1.0, 1.0), ("1e-3", 0.001)],
)  # fmt: skip
def test_numbers_and_fractions_are_read(text: str | float, size: float) -> None:
    assert read_epsilon(text) == pytest.approx(size, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (4.0, "epsilon=4: pixels are in [0, 1] here, so the largest change is at most 1; did you mean 4/255?"),
        ("8", "did you mean 8/255?"),
        ("400/255", "at most 1"),
        (0.0, "epsilon=0: has to be above 0"),
        ("-1/255", "expected a number or a fraction, such as 0.0157 or 4/255"),
        ("4/0", "expected a number"),
        ("four", "expected a number"),
        ("1/2/3", "expected a number"),
        ("nan", "expected a number"),
    ],
)
def test_what_cannot_be_is_said_with_what_was_meant(text: str | float, says: str) -> None:
    with pytest.raises(UserError, match="epsilon") as error:
        read_epsilon(text)
    assert says in str(error.value)


def test_l2_takes_lengths_above_one_and_names_the_setting() -> None:
    assert read_epsilon("3", "l2") == 3
    with pytest.raises(UserError, match=r"defence\.epsilon=128: .* did you mean 0.502\?"):
        read_epsilon(128.0, "l2", "defence.epsilon")


def test_sizes_are_shown_as_they_are_usually_written() -> None:
    assert [shown_epsilon(4 / 255, "linf"), shown_epsilon(0.5 / 255, "linf")] == ["4/255", "0.5/255"]
    assert shown_epsilon(1.5, "l2") == "1.5"
