"""The one exception that a user can cause and mend."""


class InputError(ValueError):
    """Something given to the project is wrong: a file, a setting, a parameter.

    The message names the offending file, row or value and says what to do. The command line
    prints it without a traceback and exits with code 2.
    """

    def __init__(self, message: str) -> None:
        """Make it printable: names of files need not be UTF-8."""
        super().__init__(str(message).encode("utf-8", "backslashreplace").decode())
