"""The exception whose text the user of a load test sees, as one line."""


class LoadTestError(Exception):
    """A failure that the user can act on; the message names the value that was wrong and what to do."""
