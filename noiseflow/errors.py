"""The error that users see: one sentence that says what was expected, what came and what to do."""


class UserError(Exception):
    """Bad input from outside (files, command line, configuration). The command line prints it and exits 1."""
