"""What happens while the database is away.

A query that gets no answer, because there is no connection, the server is shutting down, or
it takes too long, means that the database is away. From then on calls are decided at once,
as the application has chosen, and a query that decides nothing is sent from time to time.
Once it is answered, the database is back.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import OrderedDict
from typing import Any, Awaitable, Callable, Literal, Optional, Union

from ._result import RateLimitUnavailableError, Result
from ._rule import LocalBucket

FIRST_PROBE = 0.05  # seconds after the database went away
LAST_PROBE = 5.0  # seconds between two probes at most
MAX_BUCKETS = 100_000  # of a process, while the database is away

# Whatever the caller or the administrator has to correct: classes of SQLSTATE.
MISTAKES = ("0A", "22", "28", "3D", "3F", "42", "54")
# Whatever means that other calls do not get an answer either.
NO_ANSWER = ("08", "53", "57")
CANCELLED = "57014"


def sqlstate_of(error: BaseException) -> Optional[str]:
    """Errors of the server have one in both drivers."""
    sqlstate = getattr(error, "sqlstate", None)
    return sqlstate if isinstance(sqlstate, str) else None


def cannot_decide(error: BaseException) -> bool:
    """Is an error one that the application's choice is for?"""
    sqlstate = sqlstate_of(error)
    if sqlstate is not None:
        return sqlstate[:2] not in MISTAKES
    return isinstance(error, Exception) and not isinstance(error, (TypeError, ValueError, AttributeError))


def is_away(error: BaseException) -> bool:
    """Does it mean that the database is away, for other calls as well?"""
    sqlstate = sqlstate_of(error)
    if sqlstate is not None and (sqlstate[:2] not in NO_ANSWER or sqlstate == CANCELLED):
        return False
    return cannot_decide(error)


def unavailable(error: BaseException) -> RateLimitUnavailableError:
    raised = RateLimitUnavailableError(f"the database cannot decide: {error}")
    raised.__cause__ = error
    return raised


class LocalBuckets:
    """Buckets of this process, of one rule."""

    def __init__(self, rule: LocalBucket) -> None:
        self.rule = rule
        self.lock = threading.Lock()
        # tokens, and when there were so many; the oldest first
        self.buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def throttle(self, key: str, cost: float, limiter: str) -> Result:
        capacity, refill = self.rule.capacity, self.rule.refill
        with self.lock:
            now = time.monotonic()
            tokens, at = self.buckets.pop(key, (capacity, now))
            tokens = min(capacity, tokens + (now - at) * refill)
            allowed = capacity > 0 and tokens >= cost
            if allowed:
                tokens -= cost
            self.buckets[key] = (tokens, now)
            # of all buckets the oldest is most likely to be full
            if len(self.buckets) > MAX_BUCKETS:
                self.buckets.popitem(last=False)
        retry_after: Optional[float] = 0.0
        if not allowed:
            retry_after = None if cost > capacity or capacity == 0 or refill == 0 else (cost - tokens) / refill
        return Result(
            allowed=allowed,
            capacity=capacity,
            remaining=tokens,
            retry_after=retry_after,
            reset_after=0.0 if tokens == capacity else None if refill == 0 else (capacity - tokens) / refill,
            limiter=limiter,
            shadowed=False,
            by="local",
        )


class Away:
    """What is known, and decisions. How the database is tried again is for subclasses."""

    def __init__(
        self,
        choice: Union[Literal["raise", "allow", "deny"], LocalBucket],
        limiter: str,
        probe: Callable[[], Any],
        report: Callable[..., None],
    ) -> None:
        self.choice = choice
        self.limiter = limiter
        self.probe = probe
        self.report = report
        self.lock = threading.Lock()
        #: Why the database is away; None: it is there.
        self.error: Optional[BaseException] = None
        self.since = 0.0
        self.local: Optional[LocalBuckets] = None
        self.closed = False

    def failed(self, error: BaseException) -> None:
        """A query has failed: is the database away?"""
        if not is_away(error):
            return
        with self.lock:
            if self.error is not None or self.closed:
                return
            self.error = error
            self.since = time.monotonic()
        self.report("away", error=error)
        self.try_again()

    def is_back(self) -> None:
        with self.lock:
            self.error = self.local = None
            seconds = time.monotonic() - self.since
        self.report("back", seconds=seconds)

    def try_again(self) -> None:
        raise NotImplementedError

    def decide(self, key: str, cost: float, error: BaseException) -> Result:
        """A decision of its own on a call that the database cannot decide because of an error."""
        choice = self.choice
        if not cannot_decide(error):
            raise error
        if choice == "raise":
            raise unavailable(error)
        if choice == "allow" or choice == "deny":
            return Result(
                allowed=choice == "allow",
                capacity=None,
                remaining=None,
                retry_after=0.0 if choice == "allow" else None,
                reset_after=None,
                limiter=self.limiter,
                shadowed=False,
                by=choice,
            )
        with self.lock:
            local = self.local = self.local or LocalBuckets(choice)
        return local.throttle(key, cost, self.limiter)


def _longer(seconds: float) -> float:
    return min(LAST_PROBE, seconds * (1.5 + random.random()))


class ThreadAway(Away):
    """A thread tries the database while it is away. The process ends without it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.thread: Optional[threading.Thread] = None
        self.ended = threading.Event()

    def try_again(self) -> None:
        with self.lock:
            # after a fork, the thread is not in this process
            if self.error is None or self.closed or (self.thread is not None and self.thread.is_alive()):
                return
            self.thread = threading.Thread(target=self._run, name="ratelimit probe", daemon=True)
            self.thread.start()

    def _run(self) -> None:
        seconds = FIRST_PROBE
        while not self.ended.wait(seconds):
            try:
                self.probe()
            except Exception as error:
                if is_away(error):
                    seconds = _longer(seconds)
                    continue
                # whatever it says, it is there
            with self.lock:
                self.thread = None
            self.is_back()
            return

    def decide(self, key: str, cost: float, error: BaseException) -> Result:
        if self.thread is not None and not self.thread.is_alive():
            self.try_again()
        return super().decide(key, cost, error)

    def close(self) -> None:
        with self.lock:
            self.closed = True
            thread = self.thread
        self.ended.set()
        if thread is not None:
            thread.join()


class TaskAway(Away):
    """A task tries the database while it is away."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.task: Optional[asyncio.Task[None]] = None

    def try_again(self) -> None:
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        probe: Callable[[], Awaitable[Any]] = self.probe
        seconds = FIRST_PROBE
        while True:
            await asyncio.sleep(seconds)
            try:
                await probe()
            except Exception as error:
                if is_away(error):
                    seconds = _longer(seconds)
                    continue
            self.is_back()
            return

    async def close(self) -> None:
        self.closed = True
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait({self.task})
