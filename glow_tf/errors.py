"""The exceptions whose message is all a user needs."""


class InputError(ValueError):
    """Something the user gave (a flag, a file, a folder, a configuration) cannot be used.

    The message is one line that names what was given and what would work. The scripts print it as
    `error: <message>` and exit with status 2; anything else that is raised is a fault of the program.

    >>> from glow_tf import Glow
    >>> Glow.load("missing.h5")
    Traceback (most recent call last):
    ...
    glow_tf.errors.InputError: missing.h5 does not exist; bundled weights: digits
    """


class TrainingFailure(RuntimeError):
    """Training cannot go on although nothing that was given is wrong in itself; the message says what to try.

    Attributes:
        exit_status: of a command that ends by it.
    """

    exit_status = 1


class WorkerLost(TrainingFailure):
    """Another process of the same run is gone; starting all of them again makes the run go on.

    Attributes:
        exit_status: by which a supervisor knows that this is so (EX_TEMPFAIL of sysexits.h).
    """

    exit_status = 75
