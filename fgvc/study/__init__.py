"""Comparing and searching: statistics, comparisons of runs, hyperparameter search."""
