"""The command line: the only part that catches our errors. Imports no torch at the top."""
