"""Leases: this process takes tokens in portions, and decides calls by itself while it has some.

A portion is taken from the bucket before any call uses it, with rl_consume_upto(). So the
calls that all processes allow take no more tokens than the bucket has given, also if a
process is killed: then what it had left is lost. A portion is what the key's calls have
used in "seconds" lately, and more, for up to ten times "idle", if that is a small part of what
the bucket has. It at most doubles each time, and is at most a share of the capacity. A key's
first portion is one token, or what other keys use in ten times "idle" if that is a small part
of the capacity.

If the bucket has less than was asked for, it is empty, and calls are denied here for a
short time before it is asked again. It has room for what comes in that time, so nothing is
lost.

What a key has left that has not been called for "idle" seconds is given back, with
rl_reward(), or after ten times as long if that is a small part of what the bucket has. So is
what is left of a portion that was much too large, and everything when the limiter is closed.

AsyncLeases asks for the next portion before the last one is used up. With ThreadLeases the
thread that finds it used up asks, and others wait for it.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import math
import os
import threading
import time
import weakref
from dataclasses import dataclass
from typing import Any, Awaitable, Callable, Optional, Sequence, Union

from ._away import sqlstate_of
from ._result import Result
from ._rule import Rule, check_number
from ._statements import Call

SHARE = 0.25  # of the capacity, that one portion may have
PLENTY = 0.01  # of what the bucket has: a small part
LONG = 10  # times "idle", for which a small part may be held
RECENT = 0.25  # the weight of the last sweep in a rate
LOW = 0.25  # of a portion: when that is left, the next one is asked for
MOST_PAUSE = 0.02  # seconds for which an empty bucket is not asked again
MAX_KEYS = 100_000
INSUFFICIENT_PRIVILEGE = "42501"

log = logging.getLogger("ratelimit_postgresql")


@dataclass(frozen=True)
class Lease:
    """How a limiter leases."""

    #: How long a portion lasts.
    seconds: float = 0.1
    #: Seconds without a call after which the rest of a portion goes back.
    idle: float = 1.0


def lease_of(lease: Union[bool, Lease], rule: Rule) -> Optional[Lease]:
    if lease is False:
        return None
    if rule.capacity is None:
        raise TypeError("lease must be given with capacity and refill only")
    if lease is True:
        return Lease()
    if not isinstance(lease, Lease):
        raise TypeError(f"lease must be True, False or a Lease, not {type(lease).__name__}")
    return Lease(check_number("lease.seconds", lease.seconds), check_number("lease.idle", lease.idle))


class Portion:
    """What this process has of one key's bucket."""

    def __init__(self, now: float) -> None:
        self.begun = now
        self.tokens = 0.0
        self.size = 1.0  # how many to ask for
        self.low = 0.0  # the next portion is asked for below this
        self.used = 0.0  # by calls, so far
        self.used_asked = 0.0  # of them when the last portion was asked for
        self.used_swept = 0.0  # and at the last sweep
        self.rate = 0.0  # calls use so many a second, as of the last sweeps
        self.called = now  # the last sweep before which there was a call
        self.at = 0.0  # when the last portion came
        self.asked = 0.0  # when it was asked for; 0: never
        self.asking = False
        self.until = 0.0  # an empty bucket is not asked before
        self.remaining = 0.0  # in the bucket, when it was last asked
        self.blocked = 0.0  # the key is blocked until
        self.waiting: list[Any] = []  # calls that need the portion that is asked for


class Leases:
    """Portions, and what is decided by them. Who asks for them is for subclasses."""

    def __init__(
        self,
        rule: Rule,
        lease: Lease,
        take: Callable[[Call], Any],
        give_back: Callable[[Sequence[Call]], Any],
        decide: Callable[[Call, BaseException], Any],
        count: Callable[[bool, str, str], None],
        report: Callable[..., None],
    ) -> None:
        assert rule.capacity is not None and rule.refill is not None
        self.capacity = rule.capacity
        self.refill = rule.refill
        self.limiter = rule.limiter
        self.lease = lease
        self.take = take
        self.give_back = give_back
        self.decide = decide
        self.count = count
        self.report = report
        self.most = max(1, math.floor(self.capacity * SHARE))
        self.pause = MOST_PAUSE
        if self.refill > 0:
            self.pause = min(MOST_PAUSE, max(self.capacity / self.refill / 4, 0.001))
        self.portions: dict[str, Portion] = {}
        # what a key's calls use in ten times "idle": a mean of logarithms, so few of them do not matter
        self.usual = 1.0
        self.swept = time.monotonic()  # when the last sweep was
        self.returns = True  # False: this role may not call rl_reward()
        self.closed = False

    def spend(self, portion: Portion, tokens: float) -> bool:
        if portion.tokens < tokens:
            return False
        portion.tokens -= tokens
        portion.used += tokens
        return True

    def denies(self, portion: Portion, tokens: float) -> bool:
        """Is a call denied without asking the bucket?"""
        return tokens > self.capacity or self.capacity == 0 or (not portion.asking and time.monotonic() < portion.until)

    def answer(self, portion: Portion, call: Call, allowed: bool) -> Any:
        self.count(allowed, call.key, "lease")
        return self.result(portion, call, allowed) if call.kind == "throttle" else allowed

    def wanted(self, portion: Portion, needed: float) -> float:
        """The bucket is asked for so many, if calls that wait need so many."""
        now = time.monotonic()
        if portion.asked == 0:
            portion.size = max(1.0, math.floor(min(self.usual, self.capacity * PLENTY, self.most)))
        else:
            rate = (portion.used - portion.used_asked) / max(now - portion.asked, 1e-6)
            size = max(rate * self.lease.seconds, min(rate * self.lease.idle * LONG, portion.remaining * PLENTY))
            portion.size = max(1.0, min(math.ceil(size), 2 * portion.size, self.most))
        portion.used_asked = portion.used
        portion.asked = now
        portion.asking = True
        return max(portion.size, float(math.ceil(needed)))

    def taken(self, portion: Portion, wanted: float, row: Sequence[Any]) -> None:
        """The bucket has answered."""
        taken, remaining, retry_after = row
        now = time.monotonic()
        portion.asking = False
        portion.at = now
        portion.tokens += taken
        portion.low = 0.0 if taken < 4 else taken * LOW
        portion.remaining = max(0.0, remaining)
        portion.blocked = now + retry_after if retry_after is not None and retry_after > 0 else 0.0
        if taken < wanted:
            portion.until = now + self.pause

    def useless(self, key: str, portion: Portion) -> list[Call]:
        """What is too little for a call here may be enough for another process."""
        if portion.tokens < 1 or not self.returns:
            return []
        tokens, portion.tokens = portion.tokens, 0.0
        return [Call("give back", key, tokens)]

    def result(self, portion: Portion, call: Call, allowed: bool) -> Result:
        """What is known of the bucket: what it had when it was last asked, and has gained since."""
        capacity, refill = self.capacity, self.refill
        now = time.monotonic()
        tokens = min(capacity, portion.remaining + (now - portion.at) * refill + portion.tokens)
        retry_after: Optional[float] = 0.0
        if not allowed:
            missing = call.tokens - tokens
            if call.tokens > capacity or capacity == 0 or (missing > 0 and refill == 0):
                retry_after = None
            else:
                wait = missing / refill if missing > 0 else 0.0
                retry_after = max(wait, portion.until - now, portion.blocked - now, 0.0)
        return Result(
            allowed=allowed,
            capacity=capacity,
            remaining=tokens,
            retry_after=retry_after,
            reset_after=0.0 if tokens >= capacity else None if refill == 0 else (capacity - tokens) / refill,
            limiter=self.limiter,
            shadowed=False,
            by="lease",
        )

    def sweep(self, all_of_them: bool) -> list[Call]:
        """What is to be given back of what is not used, or of all portions."""
        now = time.monotonic()
        idle = self.lease.idle
        since = max(min(idle, now - self.swept), 1e-6)
        self.swept = now
        calls = []
        logarithms = 0.0
        for key, portion in list(self.portions.items()):
            if portion.used > portion.used_swept:
                portion.called = now
            portion.rate += ((portion.used - portion.used_swept) / since - portion.rate) * RECENT
            portion.used_swept = portion.used
            part = min(1.0, idle * LONG / max(now - portion.begun, 1e-6))
            logarithms += math.log(max(1.0, portion.used * part))
            # what this role cannot give back is used later
            if portion.asking or (portion.tokens >= 1 and not self.returns and not self.closed):
                continue
            plenty = portion.remaining * PLENTY
            quiet = now - max(portion.called, portion.at)
            if all_of_them or quiet > idle * LONG or (quiet > idle and portion.tokens > plenty):
                if portion.tokens > 0:
                    calls.append(Call("give back", key, portion.tokens))
                del self.portions[key]
            elif now - portion.at > idle:
                expected = 2 * portion.rate * idle
                rest = math.floor(portion.tokens - max(expected, min(expected * LONG, plenty)))
                if rest >= 1 and rest >= portion.tokens / 2:
                    portion.tokens -= rest
                    calls.append(Call("give back", key, rest))
        if self.portions:
            self.usual = math.exp(logarithms / len(self.portions))
        return calls if self.returns else []

    def returned(self, calls: Sequence[Call], error: Optional[BaseException]) -> None:
        tokens = sum(call.tokens for call in calls)
        if error is None:
            self.report("returned", keys=len(calls), tokens=tokens)
            return
        if sqlstate_of(error) == INSUFFICIENT_PRIVILEGE:
            self.returns = False
            log.warning("this role may not call rl_reward(), so portions that are not used cannot be given back")
        self.report("lost", keys=len(calls), tokens=tokens, error=error)


class AsyncLeases(Leases):
    take: Callable[[Call], Awaitable[Any]]
    give_back: Callable[[Sequence[Call]], Awaitable[None]]

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.sweeper: Optional[asyncio.Task[None]] = None
        self.tasks: set[asyncio.Task[None]] = set()  # what asks and gives back

    async def decide_call(self, call: Call) -> Any:
        key = call.key
        portion = self.portions.get(key)
        if portion is None:
            portion = self.begin(key)
        if not portion.waiting and self.spend(portion, call.tokens):
            if portion.tokens < portion.low and not portion.asking:
                self.ask(key, portion)
            return self.answer(portion, call, True)
        if self.denies(portion, call.tokens):
            return self.answer(portion, call, False)
        call.future = asyncio.get_running_loop().create_future()
        portion.waiting.append(call)
        if not portion.asking:
            self.ask(key, portion)
        try:
            return await call.future
        except asyncio.CancelledError:
            if call in portion.waiting:
                portion.waiting.remove(call)
            raise

    def begin(self, key: str) -> Portion:
        if len(self.portions) >= MAX_KEYS:
            self.back(self.sweep(True))
        portion = self.portions[key] = Portion(time.monotonic())
        if self.sweeper is None:
            self.sweeper = asyncio.create_task(self.sweep_often())
        return portion

    def run(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def ask(self, key: str, portion: Portion) -> None:
        needed = sum(call.tokens for call in portion.waiting) - portion.tokens
        self.run(self.ask_bucket(key, portion, self.wanted(portion, needed)))

    async def ask_bucket(self, key: str, portion: Portion, wanted: float) -> None:
        try:
            row = await self.take(Call("take", key, wanted))
        except BaseException as error:
            portion.asking = False
            self.fail(portion, error)
            if not isinstance(error, Exception):
                raise
            return
        self.taken(portion, wanted, row)

        denied = False
        while portion.waiting:
            call = portion.waiting[0]
            allowed = self.spend(portion, call.tokens)
            # more calls have come since the bucket was asked, and it may have more
            if not allowed and row[0] == wanted:
                self.ask(key, portion)
                return
            portion.waiting.pop(0)
            denied = denied or not allowed
            call.future.set_result(self.answer(portion, call, allowed))
        if denied:
            self.back(self.useless(key, portion))

    def fail(self, portion: Portion, error: BaseException) -> None:
        waiting, portion.waiting = portion.waiting, []
        for call in waiting:
            try:
                call.future.set_result(self.decide(call, error))
            except Exception as raised:
                call.future.set_exception(raised)
            except asyncio.CancelledError:
                call.future.cancel()

    async def sweep_often(self) -> None:
        while self.portions:
            await asyncio.sleep(self.lease.idle / 2)
            self.back(self.sweep(False))
        self.sweeper = None

    def back(self, calls: Sequence[Call]) -> None:
        if calls:
            self.run(self.send_back(calls))

    async def send_back(self, calls: Sequence[Call]) -> None:
        try:
            await self.give_back(calls)
        except Exception as error:
            self.returned(calls, error)
        else:
            self.returned(calls, None)

    async def close(self) -> None:
        self.closed = True
        if self.sweeper is not None:
            self.sweeper.cancel()
        while self.tasks:
            await asyncio.wait(self.tasks)
        self.back(self.sweep(True))
        while self.tasks:
            await asyncio.wait(self.tasks)


class ThreadLeases(Leases):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.begin_process()
        _all.add(self)

    def begin_process(self) -> None:
        self.process = os.getpid()
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)  # a bucket has answered
        self.portions = {}
        self.backs = 0  # threads that are giving back
        self.sweeper: Optional[threading.Thread] = None
        self.ended = threading.Event()

    def decide_call(self, call: Call) -> Any:
        if os.getpid() != self.process:
            # what a process has taken is not that of its child as well
            self.begin_process()
        key = call.key
        back: list[Call] = []
        error: BaseException
        try:
            with self.lock:
                while True:
                    # while this thread waited, it may have been given back
                    portion = self.portions.get(key) or self.begin(key)
                    if self.spend(portion, call.tokens):
                        return self.answer(portion, call, True)
                    if self.denies(portion, call.tokens):
                        return self.answer(portion, call, False)
                    if portion.asking:
                        portion.waiting.append(call)
                        self.changed.wait()
                        portion.waiting.remove(call)
                        continue
                    needed = call.tokens + sum(other.tokens for other in portion.waiting) - portion.tokens
                    wanted = self.wanted(portion, needed)
                    try:
                        row = self.outside(lambda: self.take(Call("take", key, wanted)))
                    except BaseException as raised:
                        portion.asking = False
                        self.changed.notify_all()
                        error = raised
                        break
                    self.taken(portion, wanted, row)
                    allowed = self.spend(portion, call.tokens)
                    if not allowed and not portion.waiting:
                        back = self.will_be_back(self.useless(key, portion))
                    self.changed.notify_all()
                    return self.answer(portion, call, allowed)
        finally:
            self.back(back)
        if not isinstance(error, Exception):
            raise error
        return self.decide(call, error)

    def outside(self, work: Callable[[], Any]) -> Any:
        """Do something without the lock, which the caller holds."""
        lock = self.lock
        lock.release()
        try:
            return work()
        finally:
            lock.acquire()

    def begin(self, key: str) -> Portion:
        if len(self.portions) >= MAX_KEYS:
            calls = self.will_be_back(self.sweep(True))
            self.outside(lambda: self.back(calls))
        portion = self.portions.setdefault(key, Portion(time.monotonic()))
        if self.sweeper is None:
            self.sweeper = threading.Thread(
                target=_sweep_often,
                args=(weakref.ref(self), self.ended, self.lease.idle / 2),
                daemon=True,
                name="ratelimit leases",
            )
            self.sweeper.start()
        return portion

    def sweep_now(self) -> bool:
        """Give back what is old. False: nothing is left."""
        with self.lock:
            calls = self.will_be_back(self.sweep(False))
            left = bool(self.portions)
            if not left:
                self.sweeper = None
        self.back(calls)
        return left

    def will_be_back(self, calls: list[Call]) -> list[Call]:
        """They are given back without the lock, which the caller holds; close() waits for that."""
        self.backs += bool(calls)
        return calls

    def back(self, calls: Sequence[Call]) -> None:
        if not calls:
            return
        try:
            self.give_back(calls)
        except Exception as error:
            self.returned(calls, error)
        else:
            self.returned(calls, None)
        finally:
            with self.lock:
                self.backs -= 1
                self.changed.notify_all()

    def close(self) -> None:
        if os.getpid() != self.process:
            return
        self.closed = True
        self.ended.set()
        with self.lock:
            while any(portion.asking for portion in self.portions.values()):
                self.changed.wait()
            calls = self.will_be_back(self.sweep(True))
        self.back(calls)
        with self.lock:
            while self.backs:
                self.changed.wait()


def _sweep_often(reference: weakref.ref[ThreadLeases], ended: threading.Event, seconds: float) -> None:
    while not ended.wait(seconds):
        leases = reference()
        if leases is None or not leases.sweep_now():
            return
        del leases


_all: weakref.WeakSet[ThreadLeases] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """On exit of the process, those limiters that are not closed before."""
    for leases in list(_all):
        if not leases.closed:
            leases.close()
