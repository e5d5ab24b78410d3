"""Processes as threads of which one runs at a time, up to its next step, chosen by a test; some are stopped, some killed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dmq_cli.store.lease import Lease
from tests.listening import Killed

_here = threading.local()


class Process:
    """A program in a thread that waits at every step. error: what ended it, if something did. awake: the time it sleeps to."""

    def __init__(self, program: Callable[[], None]) -> None:
        self.leases: list[Lease] = []
        self.over = self.killed = self.stopped = False
        self.awake = 0.0
        self.error: Exception | None = None
        self._turn, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._program = program
        threading.Thread(target=self._main, daemon=True).start()

    def advance(self) -> None:
        """Let it run to its next step."""
        if not self.over:
            self._turn.release()
            self._back.acquire()

    def kill(self) -> None:
        """Nothing that it does from here on has an effect."""
        self.killed = True
        self.leases.clear()
        self.advance()

    def wait(self) -> None:
        """In its thread: wait for the next turn."""
        if self.killed:
            raise Killed
        self._back.release()
        self._turn.acquire()
        if self.killed:
            raise Killed

    def _main(self) -> None:
        _here.process = self
        self._turn.acquire()
        try:
            if not self.killed:
                self._program()
        except Killed:
            pass
        except Exception as error:
            self.error = error
        self.over = True
        self._back.release()


def step() -> None:
    """Called before whatever other processes can see: in a process, wait for the next turn."""
    if (process := current()) is not None:
        process.wait()


def current() -> Process | None:
    """The process whose thread this is; None for the test's own."""
    return getattr(_here, "process", None)


class Machine:
    """Processes, and the time that passes for them. silence: of their leases, in seconds."""

    def __init__(self, silence: float) -> None:
        self.silence, self.now, self._beats = silence, 0.0, 0
        self.processes: list[Process] = []

    def start(self, program: Callable[[], None]) -> Process:
        """Add a process, which has not done anything yet."""
        self.processes.append(Process(program))
        return self.processes[-1]

    def sleep(self, seconds: float) -> None:
        """In a process: wait until the time has come."""
        if (process := current()) is not None:
            process.awake = self.now + seconds
            process.wait()

    def can_run(self) -> list[Process]:
        """The processes that a turn would do something for."""
        return [
            process for process in self.processes if not (process.over or process.stopped or process.awake > self.now)
        ]

    def pass_time(self, seconds: float) -> None:
        """Let time pass; whoever is not stopped renews its leases when it should, as their threads do."""
        self.now += seconds
        due = int(self.now / (self.silence / 8))
        if due > self._beats:
            self._beats = due
            for process in self.processes:
                for lease in () if process.stopped or process.over else process.leases:
                    if not lease._end.is_set():
                        lease.beat()

    def pass_to_the_next(self) -> bool:
        """Let time pass until some process wakes up; False where none will."""
        sleeping = [process.awake for process in self.processes if not (process.over or process.stopped)]
        if not sleeping:
            return False
        while (ahead := min(sleeping) - self.now) > 0:
            self.pass_time(min(ahead, self.silence / 8) + 1e-6)
        return True

    @contextmanager
    def ended(self) -> Iterator[None]:
        """At the end of the block no thread is left."""
        try:
            yield
        finally:
            for process in self.processes:
                process.kill()
