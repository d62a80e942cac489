"""The histogram that Locust's own tables and web page are made from."""


def three_significant_digits(response_time_ms: float) -> float:
    """Replaces Locust's bucket of a whole millisecond, in which an inference of 0.3 ms can't be seen."""
    return float(f"{response_time_ms:.3g}")
