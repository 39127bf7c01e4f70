"""The error type of `slurm/`."""


class SlurmError(Exception):
    """A user's mistake or something the machine lacks: one line that says what is wrong, where, and what to do."""
