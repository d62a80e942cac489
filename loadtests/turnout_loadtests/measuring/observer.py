"""Watches machine, server and power while a load runs: a reading when its window begins and one when it ends."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from turnout_loadtests.judging.cells import Surroundings
from turnout_loadtests.measuring import energy, machine, server_metrics
from turnout_loadtests.measuring.devices import DeviceFacts
from turnout_loadtests.measuring.energy import Energy, RaplCounter
from turnout_loadtests.measuring.machine import Reading
from turnout_loadtests.measuring.server import ServerAddress
from turnout_loadtests.measuring.server_metrics import Page

#: Between two readings of a GPU's power, for those without a counter of energy.
POWER_EVERY_S = 0.5


@dataclass(frozen=True)
class Glance:
    """All counters at one moment."""

    machine: Reading
    page: Page | None
    rapl: Mapping[str, RaplCounter] = field(default_factory=dict)


class Observer:
    """Takes readings of one server, on a thread of its own for each load."""

    def __init__(self, server: ServerAddress, senders: Callable[[], Sequence[int]]) -> None:
        self._server = server
        self._senders = senders
        self._cores = machine.usable_cores()

    def glance(self) -> Glance:
        """Reads all counters now."""
        local = self._server.is_local
        return Glance(
            machine=machine.read(self._senders(), self._server.processes()),
            page=server_metrics.fetch(self._server.metrics) if self._server.metrics else None,
            rapl=energy.read_rapl() if local else {},
        )

    def watch(self, begin_s: float, end_s: float) -> "Watch":
        """Watches a window that begins and ends at these times of `time.perf_counter`."""
        return Watch(self, begin_s, end_s)

    def idle(self, duration_s: float, tick: Callable[[], None]) -> tuple[Energy, Energy]:
        """The energy of GPUs and CPU while nothing is sent, measured only."""
        watch = self.watch(time.perf_counter(), time.perf_counter() + duration_s)
        while watch.is_alive():
            tick()
            time.sleep(0.2)
        before, after, watts = watch.finished()
        return _gpu(before, after, watts), energy.rapl_energy(before.rapl, after.rapl)

    def surroundings(self, watch: "Watch", facts: DeviceFacts, cpu: DeviceFacts | None) -> Surroundings:
        """What a finished watch says of a load on this device; `cpu` is the CPU device, whose power may be modelled."""
        before, after, watts = watch.finished()
        use = machine.between(before.machine, after.machine, self._cores)
        passed_s = after.machine.at_s - before.machine.at_s
        busy, source = _busy_share(before.page, after.page, facts)
        gpu, processor = _gpu(before, after, watts), energy.rapl_energy(before.rapl, after.rapl)
        if facts.is_gpu:
            gpu = energy.first_known(gpu, energy.modelled(facts.power, busy, passed_s, facts.power_source))
        model = facts if facts.is_cpu else cpu
        if model is not None:
            share = use.busy_percent / 100 if self._server.is_local and use.busy_percent is not None else busy
            processor = energy.first_known(processor, energy.modelled(model.power, share, passed_s, model.power_source))
        return Surroundings(machine=use, busy_share=busy, busy_source=source, gpu=gpu, cpu=processor)


class Watch(threading.Thread):
    """One window's readings. `stop` ends it before its time."""

    def __init__(self, observer: Observer, begin_s: float, end_s: float) -> None:
        super().__init__(daemon=True, name="watch")
        self._observer, self._begin_s, self._end_s = observer, begin_s, end_s
        self._stopped = threading.Event()
        self._glances: list[Glance] = []
        self._watts: list[tuple[float, Mapping[str, float]]] = []
        self.start()

    def run(self) -> None:
        self._stopped.wait(max(0.0, self._begin_s - time.perf_counter()))
        self._look()
        while not self._stopped.is_set() and (left_s := self._end_s - time.perf_counter()) > 0:
            needs_power = self._watts and not (self._glances[0].page and self._glances[0].page.gpu_j)
            if needs_power and left_s > POWER_EVERY_S:
                self._stopped.wait(POWER_EVERY_S)
                self._look()
            else:
                self._stopped.wait(left_s)
        self._look()

    def stop(self) -> None:
        """Ends the window now, if it hasn't ended."""
        self._stopped.set()
        self.join()

    def finished(self) -> tuple[Glance, Glance, list[tuple[float, Mapping[str, float]]]]:
        """The first and the last reading, and the powers in between, once the window has ended."""
        self.join()
        return self._glances[0], self._glances[-1], self._watts

    def _look(self) -> None:
        glance = self._observer.glance()
        self._glances.append(glance)
        if glance.page and glance.page.gpu_w:
            self._watts.append((glance.page.at_s, glance.page.gpu_w))


def _gpu(before: Glance, after: Glance, watts: Sequence[tuple[float, Mapping[str, float]]]) -> Energy:
    if before.page is None or after.page is None:
        return Energy()
    return energy.gpu_energy(before.page.gpu_j, after.page.gpu_j, watts)


def _busy_share(before: Page | None, after: Page | None, facts: DeviceFacts) -> tuple[float | None, str]:
    """How busy the device was by the server's metrics; None if they don't tell."""
    if before is None or after is None:
        return None, ""
    shares = server_metrics.busy_shares(before, after, lambda device: facts.instances or 1)
    device = facts.answers_as or facts.name
    return (shares[device], "metrics") if device in shares else (None, "")
