"""The commands that compose no job; those that do are the verbs of dmq_cli.cli. Imports no torch at the top."""

from dmq_cli.commands.clean import clean
from dmq_cli.commands.listing import list_choices
from dmq_cli.commands.measuring import measure
from dmq_cli.commands.obtaining import doctor, fetch, import_file
from dmq_cli.commands.reference import reference
from dmq_cli.commands.report import compare, report
from dmq_cli.commands.verify import verify

COMMANDS = (list_choices, report, compare, clean, verify, import_file, doctor, fetch, reference, measure)
