"""The science: models, training, evaluation, run folders, tracking. Imports nothing heavy at package level."""
