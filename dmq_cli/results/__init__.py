"""What was measured, read back and put into words: evaluations, runs, sweeps, traces, and the noise of their numbers."""
