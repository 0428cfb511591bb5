"""Every error that a user can fix, on one page. A command prints the message alone and exits with its exit code.

A message states what is wrong, where (file, line, key), what was expected, what was received, and how to fix it.
"""

from tasks.addresses import redact


class UserError(ValueError):
    """The base class: something outside the code is wrong, so that a traceback does not help.

    Passwords in the message, which errors of libraries may repeat, are replaced.
    """

    exit_code = 1

    def __init__(self, message: object = "") -> None:
        super().__init__(redact(str(message)))


class BadParams(UserError):
    """An unknown key, a value out of range, or the name of a plug-in that does not exist or is incomplete."""

    exit_code = 2


class BadInput(UserError):
    """A source or file that is missing, empty, damaged, or not in the expected format."""

    exit_code = 3


class BadArgument(BadInput):
    """What an argument of a command names does not exist, is empty, or cannot be read."""

    exit_code = 2


class DamagedJson(BadInput):
    """A file of ours that is not JSON; readers that know what the file belongs to replace the message."""


class LostRows(UserError):
    """Rows were read that are neither in a table nor in quarantine: an error of a reader, never accepted silently."""

    exit_code = 1


class NothingLeft(UserError):
    """Every record was dropped before the stage could use one."""

    exit_code = 4


class BadModel(UserError):
    """A model folder that is incomplete or damaged, or a model that does not fit its use."""

    exit_code = 5


class GateFailed(UserError):
    """The work is complete and written, but a result is below the minimum that params.yaml requires."""

    exit_code = 6
