"""A progress that keeps what it is told."""

from collections.abc import Sequence

from turnout_exporter.compare import Comparison


class Recorded:
    """What was told, by kind."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.details: list[str] = []
        self.notes: list[str] = []
        self.failures = 0
        self.comparisons: list[Comparison] = []

    def step(self, title: str) -> None:
        self.steps.append(title)

    def detail(self, text: str) -> None:
        self.details.append(text)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def tick(self) -> None:
        pass

    def failed(self) -> None:
        self.failures += 1

    def compared(self, comparisons: Sequence[Comparison]) -> None:
        self.comparisons += comparisons
