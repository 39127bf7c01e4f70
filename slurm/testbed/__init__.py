"""A real Slurm on one machine, several nodes with fake GPUs, to test on and to try jobs with."""
