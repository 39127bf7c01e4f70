"""The launch: cluster profiles, submission to Slurm, requeue, dependent jobs, and a real Slurm to try them on."""
