"""Selects the device of a request: forecasts from the executors, and the routing decision."""

import time
from collections.abc import Mapping

from turnout_server.core.errors import DeviceLost, Overloaded, ServingError
from turnout_server.devices.device import Device
from turnout_server.devices.engines import Engines
from turnout_server.models.deployments import Deployment
from turnout_server.scheduling import routing
from turnout_server.scheduling.routing import Forecast, Preferences, Route
from turnout_server.serving.executor import Executor
from turnout_server.serving.flight import Flight
from turnout_server.serving.plans import Plan


class Selector:
    """Selects devices for requests.

    Args:
        executors: by device name.
    """

    def __init__(self, engines: Engines, executors: Mapping[str, Executor]) -> None:
        self._engines = engines
        self._executors = executors

    def select(self, flight: Flight, plan: Plan) -> tuple[Route, bool]:
        """The route of a request, and whether it runs inline.

        Raises:
            FailedPrecondition, Unavailable, Overloaded: no device that it may run on can take it.
        """
        return self._undisturbed(flight, plan) or self._chosen(flight, plan)

    def preferences(self, flight: Flight, plan: Plan) -> Preferences:
        """What a request asks of its device."""
        deadline_us = None if flight.deadline_s is None else (flight.deadline_s - time.monotonic()) * 1e6
        target_us = flight.model.configuration.latency_target_us
        last = flight.model.last_routes.get(plan.requested, "")
        return Preferences(plan.targets, plan.effective_objective, deadline_us, target_us, last)

    def forecasts(self, flight: Flight, plan: Plan) -> dict[str, Forecast]:
        """A forecast for every device that a request may run on, by name."""
        choice = not plan.targets.only
        return {name: self.forecast(name, flight, plan, choice=choice) for _, names in plan.targets.entries for name in names}

    def forecast(self, device: str, flight: Flight, plan: Plan, *, choice: bool) -> Forecast:
        """What would happen to a request on a device.

        Args:
            choice: whether it could run elsewhere; only then its effect on other requests is of interest.
        """
        reason = self._unavailable_reason(device, flight)
        if reason is not None:
            return Forecast(device, reason)
        deployment, executor = flight.model.deployments[device], self._executors[device]
        if _runs_inline(deployment, flight, plan):  # it won't wait in the queue
            alone_us = deployment.predict_us(plan.rows) or 0.0
            fastest_us = deployment.fastest_us(plan.rows) or alone_us
            forecast = Forecast(device, None, 0.0, alone_us, alone_us, alone_us, fastest_us)
        else:
            start_by_s = deployment.start_by_s(plan.rows, flight.deadline_s, flight.start_by_s)
            batch_key, max_waiting = flight.request.layout.batch_key, plan.policy.max_size
            forecast = executor.forecast(deployment, batch_key, plan.rows, plan.priority, start_by_s, max_waiting)
        if forecast.queued_us:
            forecast = forecast._replace(caution=deployment.confidence.factor, stands=deployment.standing.stands)
        if not choice or not forecast.measured:
            return forecast
        return forecast._replace(
            rate=_rate(self._engines.by_name[device].device, plan.effective_objective),
            occupancy_us=min(forecast.added_us, deployment.longest_chunk_us(plan.rows)),
            arrivals=executor.arrivals(plan.priority),
        )

    def _undisturbed(self, flight: Flight, plan: Plan) -> tuple[Route, bool] | None:
        """The route of a request with one possible device, no deadline and nothing to wait for; None for any other."""
        device = plan.targets.only
        if not device or flight.deadline_s is not None or self._unavailable_reason(device, flight) is not None:
            return None
        deployment = flight.model.deployments[device]
        inline = _runs_inline(deployment, flight, plan)
        if not inline and not self._executors[device].idle:
            return None
        predicted_us = deployment.predict_us(plan.rows)
        return None if predicted_us is None else (Route(device, plan.targets.only_reason, predicted_us), inline)

    def _chosen(self, flight: Flight, plan: Plan) -> tuple[Route, bool]:
        preferences, forecasts = self.preferences(flight, plan), self.forecasts(flight, plan)
        try:
            route = routing.choose(preferences, forecasts, self._engines.missing)
        except Overloaded:
            _watch(flight, forecasts, preferences.deadline_us, refused=True)
            raise
        _watch(flight, forecasts, preferences.deadline_us, refused=False)
        if route.device != preferences.last and len(forecasts) > 1:
            flight.model.remember(plan.requested, route.device)
        inline = _runs_inline(flight.model.deployments[route.device], flight, plan)
        return (route._replace(reason="retried") if flight.lost else route), inline

    def _unavailable_reason(self, device: str, flight: Flight) -> ServingError | None:
        """Why a request can't run on a device now, however busy it is; None if it can."""
        model = flight.model
        if device == flight.lost:
            return DeviceLost(f"device '{device}' was lost with the request in it")
        if flight.ran and not self._engines.by_name[device].device.isolated:
            return DeviceLost(
                f"device '{device}' is in the server's process, where a request whose device was lost isn't run again"
            )
        reason = model.unavailable.get(device) or self._engines.by_name[device].unavailable_reason()
        if reason is None and model.deployments[device].looks_at_values:
            reason = model.deployments[device].refusal(flight.request.inputs)
        return reason


def _watch(flight: Flight, forecasts: Mapping[str, Forecast], deadline_us: float | None, *, refused: bool) -> None:
    """Has the queues that a request may have waited in watched, if it has a deadline."""
    if deadline_us is not None:
        deployments = flight.model.deployments
        routing.watch(
            forecasts.values(), lambda device: deployments[device].standing, deadline_us, time.monotonic(), refused=refused
        )


def _runs_inline(deployment: Deployment, flight: Flight, plan: Plan) -> bool:
    return flight.inline is not None and flight.inline.accepts(deployment, plan.rows)


def _rate(device: Device, objective: str) -> float | None:
    """What an hour of a device's time costs by an objective; None if it isn't set."""
    if objective == routing.LATENCY:
        return None
    return device.price_per_hour if objective == routing.COST else device.extra_w
