"""The one exception that a user of the load tests may see, as a line of text."""


class LoadTestError(Exception):
    """Something the user can act on: the message names the value and what to do."""
