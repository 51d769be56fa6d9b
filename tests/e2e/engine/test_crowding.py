"""Fewer threads while other processes need the cores."""

import subprocess
import sys
import time
from pathlib import Path

from cdlm.scheduler.steps.crowding import CROWDED, FIRST_HOLD_S, LONGEST_HOLD_S, Crowding, waiting_seconds


class Machine:
    """Its steps take 10 ms; where others are busy, several threads wait a share of that for a core."""

    def __init__(self) -> None:
        self.now, self.waited, self.busy = 0.0, 0.0, False
        self.crowding = Crowding(lambda: self.now, lambda: self.waited)

    def steps(self, seconds: float, wanted: int) -> list[int]:
        """The threads of each step for that long."""
        used = []
        end = self.now + seconds
        while self.now < end:
            threads = self.crowding.limited(wanted)
            used.append(threads)
            self.now += 0.01
            self.waited += 0.01 * (2 * CROWDED if self.busy and threads > 1 else CROWDED / 2)
        return used


def test_an_idle_machine_lends_all_threads() -> None:
    assert set(Machine().steps(30, wanted=8)) == {8}


def test_beside_a_busy_process_threads_are_halved_and_tried_again_ever_more_seldom() -> None:
    machine = Machine()
    machine.busy = True
    used = machine.steps(60, wanted=2)
    assert used[:5] == [2] * 5
    assert used.count(2) / len(used) < 0.02
    tries = [at * 0.01 for at, (before, now) in enumerate(zip(used, used[1:], strict=False)) if (before, now) == (1, 2)]
    pauses = [later - earlier for earlier, later in zip(tries, tries[1:], strict=False)]
    assert [round(pause) for pause in pauses] == sorted(round(pause) for pause in pauses)
    assert FIRST_HOLD_S < pauses[-1] <= LONGEST_HOLD_S + 0.2
    machine.busy = False
    assert set(machine.steps(LONGEST_HOLD_S + 1, wanted=2)[-20:]) == {2}
    machine.busy = True
    machine.steps(0.2, wanted=2)
    assert set(machine.steps(FIRST_HOLD_S - 0.2, wanted=2)) == {1}


def test_many_threads_are_halved_until_there_is_room() -> None:
    machine = Machine()
    machine.busy = True
    assert machine.steps(1.0, wanted=8)[-1] == 1
    machine.busy = False
    assert machine.steps(30, wanted=8)[-1] == 8


def test_a_step_that_is_worth_one_thread_reads_nothing() -> None:
    read: list[None] = []
    crowding = Crowding(lambda: 0.0, lambda: read.append(None))
    assert [crowding.limited(1) for _ in range(9)] == [1] * 9
    assert read == []


def test_a_pause_between_requests_is_no_crowd() -> None:
    machine = Machine()
    for _ in range(20):
        machine.waited += 100.0  # Whatever happened meanwhile.
        machine.now += 5.0
        assert set(machine.steps(0.04, wanted=2)) == {2}


def test_a_kernel_that_tells_nothing_limits_nothing(tmp_path: Path) -> None:
    assert waiting_seconds(tmp_path / "none") is None
    crowding = Crowding(time.monotonic, lambda: None)
    assert [crowding.limited(4) for _ in range(9)] == [4] * 9


def test_the_kernel_tells_how_long_threads_wait() -> None:
    """Two processes that are bound to one core wait for it half of the time."""
    code = (
        "import os, sys, time; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "end = time.monotonic() + 1.5\nwhile time.monotonic() < end: pass\n"
        "from cdlm.scheduler.steps.crowding import waiting_seconds; print(waiting_seconds())"
    )
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    waited = [float(process.communicate()[0]) for process in both]
    assert sum(waited) > 1.0
