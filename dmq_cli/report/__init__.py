"""From metrics.json files to what people read: a summary in the terminal, tables, pictures."""

from dmq_cli.report.picture import picture
from dmq_cli.report.summary import describe, headline
from dmq_cli.report.tables import table

__all__ = ["describe", "headline", "picture", "table"]
