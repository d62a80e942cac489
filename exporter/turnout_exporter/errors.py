"""What can go wrong, by what the caller can do about it."""


class ExportError(Exception):
    """Nothing was published. The text names the value at fault and the fix.

    Attributes:
        detail: what is too long for one message, such as the traceback in a child process; may be empty.
    """

    exit_code = 1

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


class SpecError(ExportError):
    """An argument doesn't say what it should: write it otherwise."""

    exit_code = 2


class SourceError(ExportError):
    """The model can't be built or its weights don't fit: change the factory, its arguments or the file."""


class ConversionError(ExportError):
    """PyTorch can't run or export the model at these sizes: change the model or the sizes."""


class Refused(ExportError):
    """The exported model isn't the one that PyTorch runs: change the model; publishing it would serve wrong answers."""


class PublishError(ExportError):
    """The repository holds something that would be broken: another version or name, or --force."""


class ChildDied(ExportError):
    """A child process ended without an answer: the text says how."""


KINDS: dict[str, type[ExportError]] = {
    kind.__name__: kind for kind in (ExportError, SpecError, SourceError, ConversionError, Refused, PublishError)
}
