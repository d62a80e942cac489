"""Loads one model as a server would, and measures it, without serving."""

from collections.abc import Iterator
from contextlib import contextmanager

from turnout_server.core.errors import NotFound
from turnout_server.core.listeners import Listeners
from turnout_server.core.metrics import Metrics
from turnout_server.devices import engines, sessions
from turnout_server.explain.answer import Explanation, Question
from turnout_server.models.loading import Loader
from turnout_server.models.profile_store import ProfileStore
from turnout_server.models.profiler import Profiler
from turnout_server.models.repository import Repository
from turnout_server.serving.dataplane import DataPlane
from turnout_server.serving.executor import Executor
from turnout_server.serving.tracing import Tracer
from turnout_server.settings import Settings


def explain(chosen: Settings, question: Question) -> Explanation:
    """What a server with these settings would answer once it is ready, and nobody has asked it for anything.

    Raises:
        NotFound: there is no such model in the repository.
        ServingError: a declared device doesn't work, the model can't be loaded, or it doesn't answer such requests.
    """
    with _loaded(chosen, question.model) as dataplane:
        return dataplane.explain(question)


@contextmanager
def _loaded(chosen: Settings, name: str) -> Iterator[DataPlane]:
    sessions.check_installation()
    started = engines.bring_up(chosen.declared_devices(), chosen.disabled(), lambda: None)
    store = ProfileStore(chosen.cache_dir)
    profiler = Profiler(store, idle=lambda device: True, budget_s=chosen.profile_budget_s)
    metrics = Metrics(dict)
    executors = {
        name: Executor(name, metrics, engine.device.instances, chosen.max_queue_size)
        for name, engine in started.by_name.items()
    }
    try:
        loader = Loader(started.by_name, store)
        repository = Repository(
            chosen.model_repository, loader, chosen.model_name, loaded=profiler.add, settling=profiler.settle
        )
        if not repository.knows(name):
            known = ", ".join(entry.name for entry in repository.index()) or "no models"
            raise NotFound(f"there is no model '{name}' in {chosen.model_repository}, which has {known}")
        repository.start({name})
        yield DataPlane(
            repository,
            started,
            executors,
            metrics,
            chosen.default_device,
            chosen.objective,
            ready_when="any",
            changes=Listeners(),
            tracer=Tracer(None),
        )
    finally:
        profiler.stop()
        for executor in executors.values():
            executor.stop(timeout_s=0)
        started.stop()
