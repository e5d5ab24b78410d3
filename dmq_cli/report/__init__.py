"""From metrics.json files to what people read: a summary in the terminal, tables, pictures, the README's numbers."""

from dmq_cli.report.readme import fill, picture
from dmq_cli.report.summary import describe, headline
from dmq_cli.report.tables import table

__all__ = ["describe", "fill", "headline", "picture", "table"]
