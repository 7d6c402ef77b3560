"""The one exception that means: the user's input is wrong, and this line says how to put it right."""


class InputError(ValueError):
    """Bad input or usage: one line that names the file or option, what is wrong, and the remedy.

    The command line prints the line and exits with status 2. Anything else that escapes is a
    failure of this software and exits with status 1.
    """
