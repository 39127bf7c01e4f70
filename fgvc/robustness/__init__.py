"""Attacks on classifiers, defences, and the checks that an attack was worth its name."""
