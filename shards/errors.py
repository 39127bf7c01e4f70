"""The error a user can fix: the command line prints its one line and exits with 2."""

AGAIN = "\nshards.errors.UserError: "


class UserError(Exception):
    """A user's mistake in data, config or paths: one line that says what is wrong, where, and what to do."""

    def __init__(self, text: str = "") -> None:
        # torch raises a loader worker's error once more, with its traceback for a text, which ends with the line.
        super().__init__(text.rpartition(AGAIN)[2].strip() if text.startswith("Caught ") else text)
