"""The one exception that a user can cause and mend."""


class InputError(ValueError):
    """Something given to the project is wrong: a file, a setting, a parameter.

    The message names the offending file, row or value and says what to do. The command line
    prints it without a traceback and exits with code 2.
    """
