"""The one error that users of `slurm/` see."""


class SlurmError(Exception):
    """A user's mistake or a missing part of the machine: one line that says what is wrong, where and what to do."""
