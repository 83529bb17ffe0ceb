"""Gathers the calls of one turn of the event loop, and runs each lot of them as one query.

How many queries are under way at a time, and so how many calls are in each, is found from
load. Of the calls that are not answered yet, a query takes 1/n if n queries may be under
way. More of them overlap the work of this process with that of the server, and fewer cost
both of them less for each call: which is better depends on the machine and on what else it
does. So n is tried out. While there is load, short stretches with n and with one more or
one less alternate, and what makes a call take less time on average is kept. That serves
both kinds of load: callers that wait for answers before they call again make most calls
when a call takes least.

The calls of a query are in the order in which they were made. Queries that are under way at
the same time may be decided in any order.

Nothing here knows what the calls are. Each has an attribute "since", which is the gatherer's,
and "future", for which its caller waits.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any, Awaitable, Callable, Optional, Sequence

FEW = 8  # calls that go into one query at any rate
STRETCH = 16  # queries until n changes when it is tried out
ROUNDS = 6  # stretches with either
BETTER = 0.97  # of the time: then it is kept
NOT_WORSE = 1.01  # of the time: then fewer queries are kept
PAUSE = 2000  # queries after a trial that has changed nothing


class Trial:
    def __init__(self, usual: int, other: int) -> None:
        self.usual = usual
        self.other = other
        self.left = 2 * ROUNDS
        self.queries = 0
        # with the usual n, and with the other one
        self.times = [0.0, 0.0]
        self.calls = [0, 0]


class Gatherer:
    """
    run(calls, seconds) gives the calls' answers, in order; it raises an error if the query
    fails or takes longer than that. settle(calls, answers) or fail(calls, error) tells the
    callers. report(calls, seconds, error) is told of each query.
    """

    def __init__(
        self,
        *,
        run: Callable[[Sequence[Any], float], Awaitable[Sequence[Any]]],
        settle: Callable[[Sequence[Any], Sequence[Any]], None],
        fail: Callable[[Sequence[Any], Exception], None],
        report: Callable[[int, float, Optional[Exception]], None],
        most: int,
        max_calls: int,
        timeout: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.run = run
        self.settle = settle
        self.fail = fail
        self.report = report
        self.most = max(1, most)
        self.max_calls = max_calls
        self.timeout = timeout
        self.now = now
        self.queue: list[Any] = []
        self.scheduled = False
        self.turn = 0.0  # when it was scheduled: the time of the turn's calls
        self.queries: set[asyncio.Task[None]] = set()  # under way
        self.calls = 0  # in them
        self.n = min(2, self.most)
        self.trial: Optional[Trial] = None
        self.pause = 0
        self.step = -1  # what is tried next
        self.failures = 0  # trials in turn that have changed nothing
        # of the stretch: calls that were answered, and the time that they took together
        self.answered = 0
        self.time = 0.0
        self.at = 0.0

    def add(self, call: Any) -> None:
        # all that is ready to run in this turn runs before
        if not self.scheduled:
            self.schedule()
        call.since = self.turn
        self.queue.append(call)

    def schedule(self) -> None:
        self.scheduled = True
        self.turn = self.now()
        asyncio.get_running_loop().call_soon(self.flush)

    def take_all(self) -> list[Any]:
        """Take all calls that are still waiting."""
        calls, self.queue = self.queue, []
        return calls

    def flush(self) -> None:
        self.scheduled = False
        # a call that is cancelled is not sent
        self.queue = [call for call in self.queue if not call.future.done()]
        while self.queue and len(self.queries) < self.n:
            share = math.ceil((len(self.queue) + self.calls) / self.n)
            size = min(max(share, FEW), self.max_calls)
            calls, self.queue = self.queue[:size], self.queue[size:]
            self.pass_until(self.now())
            self.calls += len(calls)
            task = asyncio.create_task(self.send(calls))
            self.queries.add(task)

    def pass_until(self, at: float) -> None:
        """The calls that are not answered have taken some more time."""
        self.time += (len(self.queue) + self.calls) * (at - self.at)
        self.at = at

    async def send(self, calls: list[Any]) -> None:
        began = self.now()
        answers: Sequence[Any] = ()
        failed: Optional[Exception] = None
        try:
            # what waited in the queue has less time left
            answers = await self.run(calls, max(0.001, self.timeout - (began - calls[0].since)))
        except Exception as error:
            failed = error
        except asyncio.CancelledError:
            # the event loop is shutting down
            failed = ConnectionAbortedError("the query is cancelled")
        ended = self.now()
        self.pass_until(ended)
        task = asyncio.current_task()
        assert task is not None
        self.queries.discard(task)
        self.calls -= len(calls)
        self.answered += len(calls)
        self.report(len(calls), ended - began, failed)
        if failed is not None:
            self.fail(calls, failed)
        else:
            self.settle(calls, answers)
        if self.queue and not self.scheduled:
            self.schedule()
        self.adjust(len(calls))

    async def settled(self) -> None:
        """Wait until nothing waits and nothing is under way."""
        while self.queue or self.queries:
            if self.queries:
                await asyncio.wait(self.queries)
            else:
                await asyncio.sleep(0)

    def adjust(self, size: int) -> None:
        """A query has been answered: does n change?"""
        if self.pause > 0:
            self.pause -= 1
            return
        trial = self.trial
        if trial is None:
            # of few calls there is nothing to learn
            if size + self.calls + len(self.queue) <= FEW:
                return
            other = self.n + self.step
            if not 1 <= other <= self.most:
                self.end(None)
                return
            self.trial = Trial(self.n, other)
            self.answered = 0
            self.time = 0.0
            return

        trial.queries += 1
        if trial.queries < STRETCH:
            return
        which = 1 if self.n == trial.other else 0
        trial.times[which] += self.time
        trial.calls[which] += self.answered
        trial.queries = self.answered = 0
        self.time = 0.0
        trial.left -= 1
        if trial.left > 0:
            # usual, other, other, usual: what drifts meets both alike
            self.n = trial.usual if trial.left % 4 in (0, 3) else trial.other
            return
        usual, other_time = (trial.times[i] / max(1, trial.calls[i]) for i in (0, 1))
        self.n = trial.usual
        success = other_time < usual * (NOT_WORSE if trial.other < trial.usual else BETTER)
        self.end(trial.other if success else None)

    def end(self, n: Optional[int]) -> None:
        """A trial has ended. If it was a success, with n, the next one goes further this way."""
        if n is not None:
            self.n = n
            self.failures = 0
        else:
            self.step = -self.step
            self.failures += 1
        # neither way is better
        self.pause = PAUSE if self.failures > 0 and self.failures % 2 == 0 else 0
        self.trial = None
