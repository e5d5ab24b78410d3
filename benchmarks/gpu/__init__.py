"""Pieces of benchmarks/gpu_check.py: what runs on a device compared with the CPU, and how fast it is there."""
