"""The two exceptions whose message is all a user needs."""


class InputError(ValueError):
    """Something the user gave (a flag, a file, a folder, a configuration) cannot be used.

    The message is one line that names what was given and what would work. The scripts print it as
    `error: <message>` and exit with status 2; anything else that is raised is a fault of the program.
    """


class TrainingFailure(RuntimeError):
    """Training cannot go on although nothing that was given is wrong in itself; the message says what to try."""
