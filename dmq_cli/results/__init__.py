"""Read and describe results: evaluations, runs, sweeps, traces, and the noise of their numbers."""
