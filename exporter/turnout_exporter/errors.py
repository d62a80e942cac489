"""The errors of an export. The class says what the user can do about it."""


class ExportError(Exception):
    """Nothing was published. The text names the wrong value and the fix.

    Attributes:
        detail: what is too long for a message, such as a child process's traceback; may be empty.
    """

    exit_code = 1

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


class SpecError(ExportError):
    """An argument is wrong: correct it."""

    exit_code = 2


class SourceError(ExportError):
    """The model can't be built or its weights don't fit: change the factory, its arguments or the file."""


class ConversionError(ExportError):
    """The model can't be run or exported at these sizes: change the model or the sizes."""


class ValueBranch(ConversionError):
    """`forward` decides by a value. An exporter that records one run would keep that decision for all inputs."""


class Refused(ExportError):
    """The exported model doesn't compute what the original computes. Published, it would give wrong outputs."""


class PublishError(ExportError):
    """Publishing would break something in the repository: choose another version or name, or use --force."""


class ChildDied(ExportError):
    """A child process ended without an answer; the text says how."""


class ChildTimedOut(ExportError):
    """A child process took longer than it may."""


KINDS: dict[str, type[ExportError]] = {
    kind.__name__: kind for kind in (ExportError, SpecError, SourceError, ConversionError, ValueBranch, Refused, PublishError)
}
