"""Makes the model that a source names, the same one in every child process."""

import importlib
import json
import random
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.export import ExportedProgram
from torch.nn.parameter import is_lazy

from turnout_exporter import children
from turnout_exporter.errors import SourceError
from turnout_exporter.importing import load
from turnout_exporter.jobs import ModelJob
from turnout_exporter.pytorch import torchvision_ops
from turnout_exporter.pytorch.unwrap import unwrap
from turnout_exporter.pytorch.weights import WeightsFile
from turnout_exporter.spec.sources import Kind, Source
from turnout_exporter.spec.tasks import AUTO_CLASSES

TESTED_TORCH = "2.13.0"
_SEED = 0
_SHOWN_KEYS = 3


@dataclass(frozen=True)
class Built:
    """A model that was made.

    Attributes:
        file: the file that defines it; None if there is none.
        notes: what the user should know about how it was made.
        program: the exported program that it is, if it comes from one.
    """

    model: nn.Module
    file: Path | None = None
    notes: list[str] = field(default_factory=list)
    program: ExportedProgram | None = None


def build(job: ModelJob) -> Built:
    """Makes the model, loads its weights, and puts it into evaluation mode.

    Raises:
        SourceError: the source can't be loaded, or the weights don't fit it.
    """
    _prepare_process()
    source = Source.parse(job.source)
    built = {Kind.PROGRAM: _from_program, Kind.PRETRAINED: _from_folder}.get(source.kind, _from_python)(source, job)
    _check_complete(built.model, source)
    if job.weights:
        weights = WeightsFile(Path(job.weights), job.weights_key, job.strip_prefix)
        built.notes.extend(weights.load_into(built.model))
    if (installed := str(torch.__version__).partition("+")[0]) != TESTED_TORCH:
        built.notes.append(f"torch {installed} isn't the version that is tested, {TESTED_TORCH}: look at the comparison")
    if any(parameter.dtype == torch.bfloat16 for parameter in built.model.parameters()):
        built.model.float()
        built.notes.append("the weights are bfloat16, which ONNX Runtime's CPU can't run: they were converted to float32")
    config = getattr(built.model, "config", None)
    if config is not None and getattr(config, "use_cache", False):
        config.use_cache = False
        built.notes.append("use_cache is off: the keys and values of earlier tokens are neither taken nor returned")
    return built


def fingerprint(model: nn.Module) -> int:
    """A checksum of all weights."""
    checksum = 0
    for value in model.state_dict().values():
        if isinstance(value, torch.Tensor):
            checksum = zlib.crc32(bytes_of(value).numpy().data, checksum)
    return checksum


def bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor's elements, in memory order: one dimension, uint8."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def weight_bytes(model: nn.Module) -> int:
    """The bytes of all weights, each counted once."""
    tensors = {tensor.data_ptr(): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(tensor.nbytes for tensor in tensors.values())


def precision(model: nn.Module) -> str:
    """The precision of the weights, such as `fp32`."""
    floats = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    return "fp16" if torch.float16 in floats else "fp64" if floats == {torch.float64} else "fp32"


def _check_complete(model: nn.Module, source: Source) -> None:
    """Raises SourceError for weights that get their shape from the first inputs: before, nothing can be loaded or compared."""
    tensors = (*model.named_parameters(), *model.named_buffers())
    if lazy := [name for name, tensor in tensors if is_lazy(tensor)]:
        raise SourceError(
            f"{source} has weights without a shape, {', '.join(lazy[:_SHOWN_KEYS])}: the first run gives lazy layers theirs. "
            f"Let the function that makes the model run it once"
        )


def _prepare_process() -> None:
    """Makes random weights come out the same in every child, and attention compute what it computed in training."""
    torch.set_num_threads(children.THREADS)
    torch.manual_seed(_SEED)
    np.random.seed(_SEED)
    random.seed(_SEED)
    # The fast path of nn.TransformerEncoder writes zeros where a mask ignores an element, and has no ONNX operator.
    torch.backends.mha.set_fastpath_enabled(False)
    torchvision_ops.make_importable()


def _from_python(source: Source, job: ModelJob) -> Built:
    found, file = load(source)
    if not isinstance(found, nn.Module):
        found = _call(found, source, job)
    elif job.kwargs:
        raise SourceError(f"{source} is a model already, so --kwarg {next(iter(job.kwargs))} has nothing to go to")
    model, notes = unwrap(found, str(source))
    return Built(model.cpu().eval(), file, notes)


def _call(factory: object, source: Source, job: ModelJob) -> object:
    if not callable(factory):
        kind = "a dict (weights, maybe: they go to --weights)" if isinstance(factory, dict) else f"a {type(factory).__name__}"
        raise SourceError(f"{source} is {kind}, not a class, a function or a model")
    try:
        return factory(**job.kwargs)
    except Exception as error:  # the user's code may raise anything
        arguments = ", ".join(f"{key}={value!r}" for key, value in job.kwargs.items())
        raise SourceError(f"{source}({arguments}) raised {type(error).__name__}: {error}") from error


def _from_program(source: Source, job: ModelJob) -> Built:
    """An exported program is a model already; loading it can run code, as importing a Python file does."""
    if job.kwargs or job.weights:
        raise SourceError(f"{source} has its weights and arguments inside: --kwarg and --weights are for code")
    try:
        program = torch.export.load(source.place)
    except Exception as error:  # the file may be anything
        raise SourceError(f"{source} can't be loaded as an exported program: {type(error).__name__}: {error}") from error
    return Built(program.module(), program=program)


def _from_folder(source: Source, job: ModelJob) -> Built:
    """A folder of `save_pretrained`, loaded by the class that its configuration names, or by the one for the task."""
    try:
        transformers = importlib.import_module("transformers")  # optional: only these folders need it
    except ImportError as error:
        raise SourceError(f"{source} is a folder of transformers, which isn't installed: {error}") from error
    architectures = json.loads((Path(source.place) / "config.json").read_text()).get("architectures") or [""]
    name = AUTO_CLASSES[job.task] if job.task else architectures[0]
    factory = getattr(transformers, name, None)
    if factory is None:
        raise SourceError(f"{source}: transformers has no class {name!r}, which config.json names; choose one with --task")
    try:
        model, loading = factory.from_pretrained(source.place, local_files_only=True, output_loading_info=True, **job.kwargs)
    except Exception as error:  # the library raises anything
        raise SourceError(f"{source} can't be loaded as {name}: {type(error).__name__}: {error}") from error
    if missing := sorted(loading["missing_keys"]):
        raise SourceError(
            f"{source} has no weights for {', '.join(missing[:_SHOWN_KEYS])}, so {name} would answer at random: it was saved "
            f"for another task ({', '.join(architectures)})"
        )
    return Built(model.float().cpu().eval())
