"""How many devices a load takes and what they cost. Plain arithmetic: each number of a verdict can be worked out by hand.

A device is planned at 70 % of its capacity, because a queue grows without bound as the load comes near it. Devices are whole,
so cost is a step function of the load, and every break-even is found on its steps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

#: The share of a capacity that is planned with.
USABLE = 0.7
SECONDS_OF_HOUR = 3600.0
MILLION = 1e6
#: Steps of the dearer device that are searched for a break-even.
MAX_STEPS = 2000
#: Amounts closer than this are equal.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Offer:
    """A device with what it carries within the latency target, in requests per second, and its price; None if unknown.

    Attributes:
        at_least: the capacity is only known to be this or more, so that fewer devices may do.
        most_per_s: of such a one, what it carries less than; None if nothing is known of that.
    """

    device: str
    capacity_per_s: float
    price_per_hour: float | None = None
    at_least: bool = False
    most_per_s: float | None = None

    @property
    def at_best(self) -> "Offer | None":
        """The device with the most that it may carry; None if that may be anything."""
        if not self.at_least:
            return self
        return None if self.most_per_s is None else Offer(self.device, self.most_per_s, self.price_per_hour)

    @property
    def usable_per_s(self) -> float:
        """What it is planned with."""
        return USABLE * self.capacity_per_s


def needed(load_per_s: float, offer: Offer) -> int | None:
    """How many devices a load takes, at least one; None if no number of them keeps the target."""
    if offer.capacity_per_s <= 0:
        return None
    return max(1, math.ceil(round(load_per_s / offer.usable_per_s, 9)))


def fewest(load_per_s: float, offer: Offer) -> int | None:
    """How many devices a load takes at least: as many as are needed if each carries the most that it may."""
    return needed(load_per_s, offer.at_best) if offer.at_best else 1


def cost_per_hour(load_per_s: float, offer: Offer) -> float | None:
    """What the devices for a load cost in an hour; None without a price, or if no number of them keeps the target."""
    count = needed(load_per_s, offer)
    return None if count is None or offer.price_per_hour is None else count * offer.price_per_hour


def cost_per_million(load_per_s: float, offer: Offer) -> float | None:
    """What a million requests cost at a load."""
    hourly = cost_per_hour(load_per_s, offer)
    return None if hourly is None or load_per_s <= 0 else hourly / (SECONDS_OF_HOUR * load_per_s) * MILLION


def cost_per_million_at_capacity(offer: Offer) -> float | None:
    """What a million requests cost on a device that is always at its capacity: less isn't possible."""
    if offer.price_per_hour is None or offer.capacity_per_s <= 0:
        return None
    return offer.price_per_hour / (SECONDS_OF_HOUR * offer.capacity_per_s) * MILLION


def break_even_per_s(first: Offer, second: Offer) -> float | None:
    """The rate above which the second device always costs less; 0 if it does at any load, None if there is no such rate.

    On a step of the first device's cost the second's is greatest at the end of the step, so only the multiples of the first's
    usable rate have to be looked at; from the greatest at which the second may still cost as much, downwards.
    """
    if first.price_per_hour is None or second.price_per_hour is None or min(first.capacity_per_s, second.capacity_per_s) <= 0:
        return None
    saved = (
        first.price_per_hour - second.price_per_hour * first.usable_per_s / second.usable_per_s
    )  # on each step, at full load
    if saved * MAX_STEPS < second.price_per_hour:
        return None
    for steps in range(math.ceil(second.price_per_hour / saved), 0, -1):
        count = needed(steps * first.usable_per_s, second)
        if count is None or count * second.price_per_hour >= steps * first.price_per_hour * (1 - ROUNDING):
            return steps * first.usable_per_s
    return 0.0


def cheaper_between(first: Offer, second: Offer) -> list[tuple[float, float]]:
    """The ranges of rates in which the second device costs less, ascending: above the one rate, up to the other."""
    if not first.price_per_hour or not second.price_per_hour or min(first.capacity_per_s, second.capacity_per_s) <= 0:
        return []
    found: list[tuple[float, float]] = []
    for steps in range(MAX_STEPS):
        begin, end = steps * first.usable_per_s, (steps + 1) * first.usable_per_s
        count = math.ceil((steps + 1) * first.price_per_hour / second.price_per_hour * (1 - ROUNDING)) - 1  # that cost less
        end = min(end, count * second.usable_per_s)
        if end <= begin * (1 + ROUNDING):
            continue
        if found and found[-1][1] == begin:
            found[-1] = (found[-1][0], end)
        else:
            found.append((begin, end))
    return found


def cheapest(load_per_s: float, offers: Sequence[Offer]) -> tuple[Offer, int] | None:
    """The device that serves a load for the least, and how many of it; by number where a price is unknown. The first of equals.

    None if no device keeps the target.
    """
    able = [(offer, count) for offer in offers if (count := needed(load_per_s, offer)) is not None]
    if not able:
        return None
    if all(offer.price_per_hour is not None for offer, _ in able):
        return min(able, key=lambda pair: pair[1] * (pair[0].price_per_hour or 0.0))
    return min(able, key=lambda pair: pair[1])


def least_cost_per_hour(load_per_s: float, offers: Sequence[Offer]) -> float | None:
    """What a load costs at least on any of these devices, if each carries the most that it may; None if none has a price."""
    counted = [(fewest(load_per_s, offer), offer.price_per_hour) for offer in offers]
    return min((count * price for count, price in counted if count is not None and price is not None), default=None)


def worthwhile_per_s(known: Offer, price_per_hour: float) -> float | None:
    """What another device of this price has to carry to cost less than the known one at full load; None without a price."""
    if not known.price_per_hour:
        return None
    return known.capacity_per_s * price_per_hour / known.price_per_hour


def data_set(rows: float, rows_per_s: float, price_per_hour: float | None) -> tuple[float, float | None]:
    """The hours that a device takes for so many rows, as many in flight as fill it, and what they cost."""
    hours = rows / rows_per_s / SECONDS_OF_HOUR
    return hours, None if price_per_hour is None else hours * price_per_hour


def needed_above(rate_per_s: float, offer: Offer) -> int:
    """How many devices a rate just above this one takes."""
    return math.floor(round(rate_per_s / offer.usable_per_s, 9)) + 1
