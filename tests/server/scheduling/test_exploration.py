from turnout_server.scheduling.exploration import LONG_PAUSE, SHORT_PAUSE, Exploration

KNOWN_US = {1: 1000.0, 2: 2000.0, 4: 4000.0, 8: 8000.0}


def tried(exploration: Exploration, periods: int, known_us: dict[int, float], gains: float = 1.0) -> list[tuple[int, int]]:
    """(period, rows) of each trial while 4 rows are best; a trial multiplies the known time of its size by `gains`."""
    trials = []
    for period in range(periods):
        rows = exploration.rows(4, [8, 2], known_us.get)
        if rows != 4:
            trials.append((period, rows))
            known_us[rows] *= gains
    return trials


def test_other_sizes_take_turns_and_are_rarely_tried_while_nothing_changes() -> None:
    assert [rows for _, rows in tried(Exploration(), 4 * LONG_PAUSE, KNOWN_US.copy())] == [8, 2, 8, 2]


def test_the_first_trial_comes_soon_because_machines_are_busy_when_servers_start() -> None:
    assert tried(Exploration(), LONG_PAUSE, KNOWN_US.copy()) == [(SHORT_PAUSE - 1, 8)]


def test_a_size_that_has_become_faster_is_tried_again_soon() -> None:
    exploration, known_us = Exploration(), KNOWN_US.copy()

    assert tried(exploration, 3 * SHORT_PAUSE, known_us, gains=0.8) == [
        (SHORT_PAUSE - 1, 8),
        (2 * SHORT_PAUSE - 1, 8),
        (3 * SHORT_PAUSE - 1, 8),
    ]
    assert tried(exploration, SHORT_PAUSE + LONG_PAUSE, known_us) == [(SHORT_PAUSE - 1, 8), (SHORT_PAUSE + LONG_PAUSE - 1, 2)]


def test_a_size_that_has_become_slower_is_tried_again_soon() -> None:
    assert [rows for _, rows in tried(Exploration(), 2 * SHORT_PAUSE, KNOWN_US.copy(), gains=1.2)] == [8, 8]


def test_without_other_sizes_the_best_one_is_always_used() -> None:
    exploration = Exploration()

    assert {exploration.rows(1, [], KNOWN_US.get) for _ in range(2 * LONG_PAUSE)} == {1}
