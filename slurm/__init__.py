"""Launching on Slurm: cluster profiles, submission, requeueing, dependent jobs, and a real Slurm to try them on."""
