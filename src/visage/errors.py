"""Errors that a user can fix: one line that names the thing and what to do about it."""


class UserError(Exception):
    """Something outside the code is wrong: a parameter, a file, a device, a server.

    The message is one line: what is wrong, where (file, key, value), and the fix. Stages print it without a traceback.
    """
