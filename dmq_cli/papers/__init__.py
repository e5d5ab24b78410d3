"""The papers' tables: their printed numbers as data, the jobs that measure their rows, both side by side."""

from dmq_cli.papers.overview import overview
from dmq_cli.papers.page import write_table
from dmq_cli.papers.runnable import jobs
from dmq_cli.papers.transcript import names

__all__ = ["jobs", "names", "overview", "write_table"]
