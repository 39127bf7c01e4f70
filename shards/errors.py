"""Errors that the command line shows as one line."""

import re

AGAIN = re.compile(r"\nshards\.errors\.\w+: ")


class UserError(Exception):
    """A user's mistake in data, config or paths: one line that says what is wrong, where, and what to do."""

    code = 2  # what the command exits with; a Slurm job is not started again

    def __init__(self, text: str = "") -> None:
        # torch raises a loader worker's error once more, with its traceback for a text, which ends with the line.
        super().__init__(AGAIN.split(text)[-1].strip() if text.startswith("Caught ") else text)


class TransientError(UserError):
    """What no setting is to blame for and may be over soon, such as a server that does not answer. A Slurm job is
    started again."""

    code = 1
