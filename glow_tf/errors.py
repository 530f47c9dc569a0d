"""The exceptions whose message is all a user needs."""


class InputError(ValueError):
    """A flag, a file, an array or a configuration is invalid.

    The message is one line that names the input and the valid values. The commands print it as
    `error: <message>` and exit with status 2; any other exception is a bug.

    >>> from glow_tf import Glow
    >>> Glow.load("missing.h5")
    Traceback (most recent call last):
    ...
    glow_tf.errors.InputError: missing.h5 does not exist; bundled weights: cifar10, digits, fashion_mnist
    """


class TrainingFailure(RuntimeError):
    """Training cannot continue although its input is valid; the message says what to try.

    Attributes:
        exit_status: the exit status of a command that fails with it.
    """

    exit_status = 1


class WorkerLost(TrainingFailure):
    """Another process of the same run is gone; the run resumes when all of them are restarted.

    Attributes:
        exit_status: tells a supervisor to restart (EX_TEMPFAIL of sysexits.h).
    """

    exit_status = 75
