"""The threads that poll gRPC: one, and a stand-in for each that gRPC doesn't let go.

A thread that works for a connection inside a poll goes on for as long as there is work. A client that sends pings and reads no
answers makes work without end, and the server would answer nobody else meanwhile (gRPC closes such a connection only once its
last write is done). Another thread that polls is given the events of all others.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress

logger = logging.getLogger(__name__)

#: Seconds between two looks at the threads.
WATCH_S = 0.25
#: A thread is stuck if it used a core for more than this share of that time, and ended no round.
BUSY_SHARE = 0.5
#: A round waits for events so long at most, a stand-in's not as long. So a thread notices the end if another one was told.
LONGEST_WAIT_S, STAND_IN_WAIT_S = 1.0, 0.1
#: As many connections would have to be attacked through.
MAX_THREADS = 8


class PollingThreads:
    """Runs rounds in a thread, in further threads while it is stuck, and watches them from another one.

    Args:
        round_: polls for so many seconds at most and handles what there is. Several threads call it.
        ended: whether the threads are to end.
        look: is called every `WATCH_S` seconds.
    """

    def __init__(self, round_: Callable[[float], None], ended: Callable[[], bool], look: Callable[[], None]) -> None:
        self._round, self._ended, self._look = round_, ended, look
        self._polling: list[_Polling] = []
        self._first = threading.Thread(target=self._poll, args=(LONGEST_WAIT_S, []), name="transport", daemon=True)
        self._watching = threading.Thread(target=self._watch, name="watch", daemon=True)

    def start(self) -> None:
        """Starts polling."""
        self._first.start()
        self._watching.start()

    @property
    def started(self) -> bool:
        """Whether `start` was called."""
        return self._first.ident is not None

    @property
    def alive(self) -> bool:
        """Whether the first thread still runs."""
        return self._first.is_alive()

    def join(self, timeout_s: float) -> None:
        """Waits for the end of the first thread."""
        self._first.join(timeout_s)

    def _poll(self, longest_s: float, stuck: "list[tuple[_Polling, int]]") -> None:
        """Polls until the end, or until one of those that are stuck does so again."""
        mine = _Polling()
        self._polling.append(mine)
        while not self._ended() and all(each.rounds == rounds for each, rounds in stuck):
            self._round(longest_s)
            mine.rounds += 1
        self._polling.remove(mine)

    def _watch(self) -> None:
        while not self._ended():
            before = [(each, each.rounds, each.cpu_s()) for each in tuple(self._polling)]
            time.sleep(WATCH_S)
            self._look()
            stuck = [(each, rounds) for each, rounds, _ in before if each.rounds == rounds]
            busy = any(each.cpu_s() - cpu_s > BUSY_SHARE * WATCH_S for each, _, cpu_s in before)
            if busy and len(stuck) == len(self._polling) < MAX_THREADS:
                logger.warning("gRPC keeps a polling thread busy with one connection; another one takes its place")
                threading.Thread(target=self._poll, args=(STAND_IN_WAIT_S, stuck), name="stand-in", daemon=True).start()


class _Polling:
    """The thread that makes it, which polls.

    Attributes:
        rounds: how many it has ended.
    """

    def __init__(self) -> None:
        self.rounds = 0
        self._clock: int | None = None
        if hasattr(time, "pthread_getcpuclockid"):  # elsewhere than on Linux nobody is stuck
            self._clock = time.pthread_getcpuclockid(threading.get_ident())

    def cpu_s(self) -> float:
        """The time for which it has used a core; 0 where that isn't known, and once it has ended."""
        if self._clock is not None:
            with suppress(OSError):
                return time.clock_gettime(self._clock)
        return 0.0
