"""The commands that compose no job; those that do are the verbs of dmq_cli.cli. Imports no torch at the top."""

from dmq_cli.commands.listing import list_choices
from dmq_cli.commands.obtaining import doctor, fetch, import_file

COMMANDS = (list_choices, import_file, doctor, fetch)
