"""Detectors: mmdet models in the suite's own loop, their boxes, metrics and pictures."""
