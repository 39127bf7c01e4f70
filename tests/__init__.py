"""A package, so that another package's tests among the installed ones are not taken for these by spawned processes."""
