"""Classifiers: objective, mixing, probe, inference, metrics, pictures."""
