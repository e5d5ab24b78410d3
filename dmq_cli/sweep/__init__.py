"""Resumable sweeps: jobs named by their configuration, a record of each, finished ones skipped, failures collected.

hydra_plugins/dmq_sweeper.py is the class that Hydra instantiates. Imports no torch and no Hydra at the top.
"""

from dmq_cli.sweep.current import CURRENT, Command
from dmq_cli.sweep.jobs import Job

__all__ = ["CURRENT", "Command", "Job"]
