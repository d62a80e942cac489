"""The buckets of the histogram behind Locust's own tables and web page."""


def three_significant_digits(response_time_ms: float) -> float:
    """The bucket of a response time. Locust's own are whole milliseconds, too wide for an inference of 0.3 ms."""
    return float(f"{response_time_ms:.3g}")
