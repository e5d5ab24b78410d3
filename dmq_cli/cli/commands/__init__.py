"""The commands that compose no job; those that do are the verbs of dmq_cli.cli. Imports no torch at the top."""

from dmq_cli.cli.commands.build_reference import reference
from dmq_cli.cli.commands.clean import clean
from dmq_cli.cli.commands.list_choices import list_choices
from dmq_cli.cli.commands.measure import measure
from dmq_cli.cli.commands.new import new
from dmq_cli.cli.commands.obtaining import doctor, fetch, import_file
from dmq_cli.cli.commands.pack import pack
from dmq_cli.cli.commands.report import compare, report
from dmq_cli.cli.commands.verify import verify

COMMANDS = (list_choices, report, compare, clean, verify, pack, import_file, doctor, fetch, reference, measure, new)
