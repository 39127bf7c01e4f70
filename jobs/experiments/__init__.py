"""Many runs: comparisons, sweeps, and what runs their trials."""
