"""The error a user can fix: the command line prints its one line and exits with 2."""


class UserError(Exception):
    """A user's mistake in data, config or paths: one line that says what is wrong, where, and what to do."""
