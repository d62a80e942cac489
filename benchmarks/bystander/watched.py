"""The server, with a thread that notices how long the interpreter is held by others: `python -m benchmarks.bystander.watched`.

The thread sleeps for `SLEEP_S` again and again. By how much it wakes up late, less its time of waiting for a core (Linux:
/proc/*/schedstat), is appended to the file that the variable `HELD_FILE` names: the monotonic clock and milliseconds.
"""

import os
import threading
import time
from pathlib import Path

from turnout_server.entry import main

SLEEP_S = 0.002
#: Shorter ones aren't noted.
NOTED_S = 0.001


def watch(file: Path) -> None:
    """Notes what the interpreter keeps this thread waiting for, for ever."""
    schedule = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
    waited_s = _waited_s(schedule)
    while True:
        began_s = time.monotonic()
        time.sleep(SLEEP_S)
        late_s = time.monotonic() - began_s - SLEEP_S
        before_s, waited_s = waited_s, _waited_s(schedule)
        held_s = late_s - (waited_s - before_s)
        if held_s > NOTED_S:
            with file.open("a") as notes:
                notes.write(f"{time.monotonic():.6f} {held_s * 1e3:.3f}\n")


def _waited_s(schedule: Path) -> float:
    """How long a thread has waited for a core."""
    return int(schedule.read_text().split()[1]) * 1e-9


if __name__ == "__main__":
    threading.Thread(target=watch, args=(Path(os.environ["HELD_FILE"]),), daemon=True).start()
    main()
