"""The one exception that means: the input, not the program, is wrong."""


class InputError(ValueError):
    """A value, file or combination that cannot be used.

    The message is one sentence with the cause and the remedy, quoting what was given and what is
    allowed. The command line prints it on one line and exits with code 2; from Python it is a
    `ValueError`. Anything else that escapes is a defect of crossbar-sim and shows its traceback.
    """
