"""The one error that users see as a line instead of a traceback."""


class UserError(Exception):
    """A problem that the caller can mend: the message says what, where and what to do."""
