"""Speed and memory against the targets of the project: ratios of two things timed in one run. `make bench` prints them.

Nothing here fails because it is slow; what is asserted is that the right thing was measured.
"""
