"""Takes models out of the wrappers that training leaves around them: torch.compile, DataParallel."""

from torch import jit, nn
from torch._dynamo import OptimizedModule

from turnout_exporter.errors import SourceError


def unwrap(model: object, source: str) -> tuple[nn.Module, list[str]]:
    """The model in a factory's answer, and what was removed around it or around its parts.

    Raises:
        SourceError: it isn't a torch.nn.Module, or is TorchScript.
    """
    if isinstance(model, jit.ScriptModule):
        raise SourceError(f"{source} is TorchScript, which can't be exported: give the model that was scripted or traced")
    if not isinstance(model, nn.Module):
        raise SourceError(f"{source} made {_kind(model)}, not a torch.nn.Module; let it return the model")
    removed: list[str] = []
    inner = _without_wrappers(model, removed)
    for module in list(inner.modules()):
        for name, child in list(module.named_children()):
            bare = _without_wrappers(child, removed)
            if bare is not child:
                setattr(module, name, bare)
        if getattr(module, "_compiled_call_impl", None) is not None:  # model.compile() works in place
            module._compiled_call_impl = None
            removed.append("torch.compile")
    return inner, [f"exported without {name}, which changes no result" for name in dict.fromkeys(removed)]


def _without_wrappers(module: nn.Module, removed: list[str]) -> nn.Module:
    while True:
        if isinstance(module, OptimizedModule):
            removed.append("torch.compile")
            module = module._orig_mod
        elif isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            removed.append(type(module).__name__)
            module = module.module
        else:
            return module


def _kind(value: object) -> str:
    if isinstance(value, dict):
        return "a dict (weights, maybe: they go to --weights)"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {', '.join(type(item).__name__ for item in value)}"
    return f"a {type(value).__name__}"
