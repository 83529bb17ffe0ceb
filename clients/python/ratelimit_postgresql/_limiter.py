"""RateLimiter and AsyncRateLimiter: what an application calls.

They check arguments, send calls to where they are decided, and count. _gatherer.py gathers
the calls of an event loop into queries, _leases.py decides calls by portions, and _away.py
does while the database is away.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from dataclasses import dataclass, replace
from typing import Any, Optional, Protocol, Sequence, Union

from ._away import Away as _Away
from ._away import TaskAway, ThreadAway, cannot_decide, unavailable
from ._drivers import async_driver_for, driver_for
from ._gatherer import Gatherer
from ._leases import AsyncLeases, Lease, ThreadLeases, lease_of
from ._result import RateLimitUnavailableError, Result
from ._rule import Away, Rule, away_of, check_key, check_name, check_number, rule_of
from ._statements import Call, Kind, statements_for

MAX_CALLS = 1000  # in a query
MAX_QUERIES = 8  # under way, of a kind

log = logging.getLogger("ratelimit_postgresql")


class Metrics(Protocol):
    """Is told of events.

    query: kind, calls, seconds, error (None: it was answered)
    decision: allowed, key, by
    away: error
    back: seconds
    returned: keys, tokens; lost: keys, tokens, error: the rest of portions
    """

    def __call__(self, event: str, /, **details: Any) -> None:
        ...


@dataclass
class Stats:
    """Counts since the limiter was made."""

    allowed: int = 0
    denied: int = 0
    #: Calls that ended with an error.
    failed: int = 0
    queries: int = 0
    #: Queries that ended with an error.
    errors: int = 0
    #: Whether the database is away.
    away: bool = False


class _Limiter:
    """What both have in common."""

    _away: _Away

    def __init__(
        self,
        db: Any,
        *,
        capacity: Optional[float] = None,
        refill: Optional[float] = None,
        limiter: Optional[str] = None,
        policy: Optional[str] = None,
        allowance: Optional[float] = None,
        period: Optional[str] = None,
        slots: Optional[int] = None,
        cost: float = 1,
        timeout: float = 1.0,
        away: Away = "raise",
        lease: Union[bool, Lease] = False,
        metrics: Optional[Metrics] = None,
        schema: Optional[str] = None,
        prepare: Optional[bool] = None,
    ) -> None:
        self._rule = rule_of(
            {
                "capacity": capacity,
                "refill": refill,
                "limiter": limiter,
                "policy": policy,
                "allowance": allowance,
                "period": period,
                "slots": slots,
            }
        )
        self._cost = check_number("cost", cost)
        self._timeout = check_number("timeout", timeout)
        self._choice = away_of(away, self._rule)
        self._lease = lease_of(lease, self._rule)
        if metrics is not None and not callable(metrics):
            raise TypeError("metrics must be a function")
        self._metrics = metrics
        if schema is not None:
            check_name("schema", schema, 63)
        self._statements = statements_for(self._rule, schema)
        self._stats = Stats()
        self._lock = threading.Lock()
        self._closed = False
        self._start(db, prepare)

    def _start(self, db: Any, prepare: Optional[bool]) -> None:
        raise NotImplementedError

    @property
    def rule(self) -> Rule:
        return self._rule

    @property
    def stats(self) -> Stats:
        """What this limiter has decided since it was made, and whether the database is away."""
        return replace(self._stats, away=self._away.error is not None)

    def _kind(self, kind: str) -> Kind:
        if kind not in self._statements:
            if self._rule.slots is not None and kind in ("consume", "throttle"):
                raise TypeError("slots are acquired, not consumed")
            raise TypeError(f"{kind}() needs another rule")
        return self._statements[kind]

    def _call(self, kind: str, key: str, tokens: float, seconds: float = 0.0) -> Call:
        self._kind(kind)
        call = Call(kind, check_key(key), tokens, seconds)
        if self._closed:
            raise RuntimeError("the limiter is closed")
        return call

    def _cost_of(self, cost: Optional[float]) -> float:
        return self._cost if cost is None else check_number("cost", cost)

    def _count(self, allowed: bool, key: str, by: str) -> None:
        with self._lock:
            if allowed:
                self._stats.allowed += 1
            else:
                self._stats.denied += 1
        if self._metrics is not None:
            self._report("decision", allowed=allowed, key=key, by=by)

    def _count_answer(self, call: Call, answer: Any) -> None:
        if call.kind == "consume":
            self._count(answer, call.key, "database")
        elif call.kind == "throttle":
            self._count(answer.allowed, call.key, "database")
        elif call.kind in ("reserve", "acquire"):
            self._count(answer is not None, call.key, "database")

    def _count_query(self, kind: str, calls: int, seconds: float, error: Optional[BaseException]) -> None:
        with self._lock:
            self._stats.queries += 1
            if error is not None:
                self._stats.errors += 1
        if self._metrics is not None:
            self._report("query", kind=kind, calls=calls, seconds=seconds, error=error)

    def _decide(self, call: Call, error: BaseException) -> Any:
        """Decide a call that the database cannot decide."""
        if isinstance(error, RateLimitUnavailableError) and error.__cause__ is not None:
            error = error.__cause__
        if call.kind in ("settle", "release", "renew", "take"):
            # it is not for a decision
            if cannot_decide(error):
                raise unavailable(error)
            raise error
        try:
            result = self._away.decide(call.key, call.tokens, error)
        except BaseException:
            with self._lock:
                self._stats.failed += 1
            raise
        self._count(result.allowed, call.key, result.by)
        if call.kind in ("reserve", "acquire"):
            # nothing is held, so there is nothing to give back
            return 0 if result.allowed else None
        return result if call.kind == "throttle" else result.allowed

    def _report(self, event: str, /, **details: Any) -> None:
        """An error of the application's hook is not one of the call. Without a hook, the log says that the database is away."""
        if self._metrics is None:
            if event == "away":
                log.warning('the database of limiter "%s" is away: %s', self._rule.limiter, details["error"])
            return
        try:
            self._metrics(event, **details)
        except Exception:
            log.exception("the function for metrics has failed")


class RateLimiter(_Limiter):
    """Decides calls of threads, each with a query of its own, unless it has a lease.

    db is a Connection or ConnectionPool of psycopg 3, or a function that returns a context
    manager of a Connection. The rule is one of capacity (tokens) and refill (tokens per
    second: see per()), policy, allowance and period, or slots. Times are seconds.
    """

    def _start(self, db: Any, prepare: Optional[bool]) -> None:
        self._driver = driver_for(db, prepare)
        self._away: ThreadAway = ThreadAway(self._choice, self._rule.limiter, self._probe, self._report)
        self._leases = None
        if self._lease is not None:
            self._leases = ThreadLeases(
                self._rule, self._lease, self._ask, self._give_back, self._decide, self._count, self._report
            )

    def consume(self, key: str, cost: Optional[float] = None) -> bool:
        """Take tokens. True: go on; False: too many."""
        call = self._call("consume", key, self._cost_of(cost))
        if self._leases is not None:
            allowed: bool = self._leases.decide_call(call)
            return allowed
        return bool(self._ask(call))

    def throttle(self, key: str, cost: Optional[float] = None) -> Result:
        """The same decision, with what an HTTP answer needs."""
        call = self._call("throttle", key, self._cost_of(cost))
        result: Result = self._ask(call) if self._leases is None else self._leases.decide_call(call)
        return result

    def reserve(self, key: str, tokens: float, *, expires: float = 60.0) -> Optional[Reservation]:
        """Take tokens before it is known how many will be used. None: they are not there.

        After expires seconds, all are used.
        """
        call = self._call("reserve", key, check_number("tokens", tokens), check_number("expires", expires))
        number = self._ask(call)
        return None if number is None else Reservation(self, number)

    def acquire(self, key: str, *, weight: int = 1, hold: float = 30.0) -> Optional[Slots]:
        """Hold some of the rule's slots. None: there are not so many.

        They are free by themselves after hold seconds.
        """
        call = self._call("acquire", key, check_number("weight", weight), check_number("hold", hold))
        number = self._ask(call)
        return None if number is None else Slots(self, number)

    def close(self) -> None:
        """Take no more calls, and give back the rest of all portions. The pool stays open."""
        if self._closed:
            return
        self._closed = True
        if self._leases is not None:
            self._leases.close()
        self._away.close()

    def __enter__(self) -> RateLimiter:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def _ask(self, call: Call) -> Any:
        """A decision of the database, if it is there."""
        if self._away.error is not None:
            return self._decide(call, self._away.error)
        try:
            answer = self._ask_all([call])[0]
        except Exception as error:
            return self._decide(call, error)
        self._count_answer(call, answer)
        return answer

    def _ask_all(self, calls: Sequence[Call]) -> Sequence[Any]:
        kind = self._statements[calls[0].kind]
        statement, values = kind.ask(calls)
        began = time.monotonic()
        try:
            answers = kind.answers(self._driver.query(statement, values, self._timeout), calls)
        except Exception as error:
            self._count_query(calls[0].kind, len(calls), time.monotonic() - began, error)
            self._away.failed(error)
            raise
        self._count_query(calls[0].kind, len(calls), time.monotonic() - began, None)
        return answers

    def _give_back(self, calls: Sequence[Call]) -> None:
        for i in range(0, len(calls), MAX_CALLS):
            if self._away.error is not None:
                raise unavailable(self._away.error)
            self._ask_all(calls[i : i + MAX_CALLS])

    def _probe(self) -> None:
        statement, values = self._statements["nothing"].ask([])
        self._driver.query(statement, values, self._timeout)


class AsyncRateLimiter(_Limiter):
    """Decides calls of an event loop: those of one turn of it go into one query.

    db is an AsyncConnection or AsyncConnectionPool of psycopg 3, a Connection or Pool of
    asyncpg, or a function that returns an asynchronous context manager of a connection. The
    rule is one of capacity (tokens) and refill (tokens per second: see per()), policy,
    allowance and period, or slots. Times are seconds.
    """

    def _start(self, db: Any, prepare: Optional[bool]) -> None:
        self._driver = async_driver_for(db, prepare)
        self._away: TaskAway = TaskAway(self._choice, self._rule.limiter, self._probe, self._report)
        self._gatherers: dict[str, Gatherer] = {}
        self._leases = None
        if self._lease is not None:
            self._leases = AsyncLeases(
                self._rule, self._lease, self._ask, self._give_back, self._decide, self._count, self._report
            )

    async def consume(self, key: str, cost: Optional[float] = None) -> bool:
        """Take tokens. True: go on; False: too many."""
        call = self._call("consume", key, self._cost_of(cost))
        if self._leases is not None:
            allowed: bool = await self._leases.decide_call(call)
            return allowed
        return bool(await self._ask(call))

    async def throttle(self, key: str, cost: Optional[float] = None) -> Result:
        """The same decision, with what an HTTP answer needs."""
        call = self._call("throttle", key, self._cost_of(cost))
        result: Result = await (self._ask(call) if self._leases is None else self._leases.decide_call(call))
        return result

    async def reserve(self, key: str, tokens: float, *, expires: float = 60.0) -> Optional[AsyncReservation]:
        """Take tokens before it is known how many will be used. None: they are not there.

        After expires seconds, all are used.
        """
        call = self._call("reserve", key, check_number("tokens", tokens), check_number("expires", expires))
        number = await self._ask(call)
        return None if number is None else AsyncReservation(self, number)

    async def acquire(self, key: str, *, weight: int = 1, hold: float = 30.0) -> Optional[AsyncSlots]:
        """Hold some of the rule's slots. None: there are not so many.

        They are free by themselves after hold seconds.
        """
        call = self._call("acquire", key, check_number("weight", weight), check_number("hold", hold))
        number = await self._ask(call)
        return None if number is None else AsyncSlots(self, number)

    async def close(self) -> None:
        """Take no more calls, wait for those that are under way, and give back the rest of all portions.

        The pool stays open.
        """
        if self._closed:
            return
        self._closed = True
        for gatherer in list(self._gatherers.values()):
            await gatherer.settled()
        if self._leases is not None:
            await self._leases.close()
        await self._away.close()
        await self._driver.close()

    async def __aenter__(self) -> AsyncRateLimiter:
        return self

    async def __aexit__(self, *args: object) -> None:
        await self.close()

    async def _ask(self, call: Call) -> Any:
        """A decision of the database, if it is there. A call that is cancelled is not sent, unless it already is."""
        if self._away.error is not None:
            return self._decide(call, self._away.error)
        gatherer = self._gatherers.get(call.kind)
        if gatherer is None:
            gatherer = self._gatherers[call.kind] = self._gatherer(call.kind)
        call.future = asyncio.get_running_loop().create_future()
        gatherer.add(call)
        return await call.future

    def _gatherer(self, name: str) -> Gatherer:
        kind = self._statements[name]

        async def run(calls: Sequence[Call], seconds: float) -> Sequence[Any]:
            statement, values = kind.ask(calls)
            return kind.answers(await self._driver.query(statement, values, seconds), calls)

        def settle(calls: Sequence[Call], answers: Sequence[Any]) -> None:
            for call, answer in zip(calls, answers):
                self._count_answer(call, answer)
                if not call.future.done():
                    call.future.set_result(answer)

        def fail(calls: Sequence[Call], error: Exception) -> None:
            self._away.failed(error)
            waiting: list[Call] = []
            if self._away.error is not None:
                # all calls that have not been sent
                waiting = [call for gatherer in self._gatherers.values() for call in gatherer.take_all()]
            for call in (*calls, *waiting):
                if call.future.done():
                    continue
                try:
                    call.future.set_result(self._decide(call, error))
                except Exception as raised:
                    call.future.set_exception(raised)

        return Gatherer(
            run=run,
            settle=settle,
            fail=fail,
            report=lambda calls, seconds, error: self._count_query(name, calls, seconds, error),
            most=min(MAX_QUERIES, (self._driver.most + 1) // 2),
            max_calls=MAX_CALLS,
            timeout=self._timeout,
        )

    async def _give_back(self, calls: Sequence[Call]) -> None:
        for i in range(0, len(calls), MAX_CALLS):
            if self._away.error is not None:
                raise unavailable(self._away.error)
            statement, values = self._statements["give back"].ask(calls[i : i + MAX_CALLS])
            await self._driver.query(statement, values, self._timeout)

    async def _probe(self) -> None:
        statement, values = self._statements["nothing"].ask([])
        await self._driver.query(statement, values, self._timeout)


class Reservation:
    """Tokens that are reserved. Number 0: nothing is, and the call is allowed all the same."""

    def __init__(self, limiter: RateLimiter, number: int) -> None:
        self._limiter = limiter
        self.id = number

    def settle(self, used: float) -> Optional[float]:
        """Say how many tokens were used: the others go back.

        Returns the tokens left in the bucket, or None if the reservation is not outstanding.
        """
        call = Call("settle", "", check_number("used", used), id=self.id)
        tokens: Optional[float] = None if self.id == 0 else self._limiter._ask(call)
        return tokens


class Slots:
    """Slots that are held. Number 0: none are, and the call is allowed all the same."""

    def __init__(self, limiter: RateLimiter, number: int) -> None:
        self._limiter = limiter
        self.id = number

    def release(self) -> bool:
        """Free the slots. False: they were not held any more."""
        return True if self.id == 0 else bool(self._limiter._ask(Call("release", "", id=self.id)))

    def renew(self, hold: float = 30.0) -> bool:
        """Hold the slots for so many seconds from now. False: they are not held any more."""
        call = Call("renew", "", seconds=check_number("hold", hold), id=self.id)
        return True if self.id == 0 else bool(self._limiter._ask(call))

    def __enter__(self) -> Slots:
        return self

    def __exit__(self, *args: object) -> None:
        self.release()


class AsyncReservation:
    """Tokens that are reserved. Number 0: nothing is, and the call is allowed all the same."""

    def __init__(self, limiter: AsyncRateLimiter, number: int) -> None:
        self._limiter = limiter
        self.id = number

    async def settle(self, used: float) -> Optional[float]:
        """Say how many tokens were used: the others go back.

        Returns the tokens left in the bucket, or None if the reservation is not outstanding.
        """
        call = Call("settle", "", check_number("used", used), id=self.id)
        tokens: Optional[float] = None if self.id == 0 else await self._limiter._ask(call)
        return tokens


class AsyncSlots:
    """Slots that are held. Number 0: none are, and the call is allowed all the same."""

    def __init__(self, limiter: AsyncRateLimiter, number: int) -> None:
        self._limiter = limiter
        self.id = number

    async def release(self) -> bool:
        """Free the slots. False: they were not held any more."""
        return True if self.id == 0 else bool(await self._limiter._ask(Call("release", "", id=self.id)))

    async def renew(self, hold: float = 30.0) -> bool:
        """Hold the slots for so many seconds from now. False: they are not held any more."""
        call = Call("renew", "", seconds=check_number("hold", hold), id=self.id)
        return True if self.id == 0 else bool(await self._limiter._ask(call))

    async def __aenter__(self) -> AsyncSlots:
        return self

    async def __aexit__(self, *args: object) -> None:
        await self.release()
