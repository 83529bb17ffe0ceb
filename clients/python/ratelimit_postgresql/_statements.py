"""The statements that the client sends.

Each decides a lot of calls, in order: its parameters are the keys, what differs from call
to call, and the rule. Its columns are of the types text, boolean, double precision and
bigint only.

Whatever others have created in a schema of search_path, it does not match better than what
is used here: unnest() of several arrays is always PostgreSQL's, other functions are
qualified, and operators have exactly the types of PostgreSQL's.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Callable, Iterable, Optional, Sequence

from ._result import Result
from ._rule import Rule

Row = Sequence[Any]


class Statement:
    """A text, and the name with which it is prepared."""

    __slots__ = ("name", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.name = "ratelimit_" + sha256(text.encode()).hexdigest()[:24]


@dataclass(eq=False)
class Call:
    """What a statement is asked for: "tokens" is its number, whatever it stands for."""

    kind: str
    key: str
    tokens: float = 0.0
    seconds: float = 0.0
    id: int = 0
    #: When it was made, and who waits for it: for the gatherer.
    since: float = 0.0
    future: Any = None


@dataclass(frozen=True)
class Kind:
    """How calls of a kind are asked, and what they are answered."""

    ask: Callable[[Sequence[Call]], tuple[Statement, list[Any]]]
    answers: Callable[[Sequence[Row], Sequence[Call]], list[Any]]


# An rl_result r as columns.  Times are seconds.
RESULT = """r.allowed, r.capacity, r.remaining,
    extract(epoch FROM r.retry_after)::float8, extract(epoch FROM r.reset_after)::float8,
    r.limiter, r.shadowed"""
EACH_KEY = "unnest($1::text[], $2::text::float8[]) AS k (key, n)"


def function_names(schema: Optional[str]) -> Callable[[str], str]:
    if schema is None:
        return lambda name: name
    quoted = '"' + schema.replace('"', '""') + '"'
    return lambda name: f"{quoted}.{name}"


def keys(calls: Sequence[Call]) -> list[str]:
    return [call.key for call in calls]


def numbers(values: Iterable[float]) -> str:
    """The text of an array.

    asyncpg would look the type of an array of numbers up, on each new connection and with a
    query that takes longer than anything else here.
    """
    return "{" + ",".join(map(repr, values)) + "}"


def tokens(calls: Sequence[Call]) -> str:
    return numbers(call.tokens for call in calls)


def seconds(calls: Sequence[Call]) -> str:
    return numbers(call.seconds for call in calls)


def ids(calls: Sequence[Call]) -> str:
    return numbers(call.id for call in calls)


def first_column(rows: Sequence[Row], calls: Sequence[Call]) -> list[Any]:
    return [row[0] for row in rows]


def results(rows: Sequence[Row], calls: Sequence[Call]) -> list[Result]:
    return [Result(*row, by="database") for row in rows]  # type: ignore[misc]


def columns(rows: Sequence[Row], calls: Sequence[Call]) -> list[Row]:
    """The rows whose columns are in one row, as texts of arrays of numbers."""
    texts = (text[1:-1].split(",") for text in rows[0])
    return list(zip(*([None if number == "NULL" else float(number) for number in text] for text in texts)))


def statements_for(rule: Rule, schema: Optional[str] = None) -> dict[str, Kind]:
    """By kind. The one that is named "nothing" asks nothing, of no calls."""
    f = function_names(schema)
    if rule.policy is not None:
        return _policy(rule, f)
    if rule.slots is not None:
        return _slots(rule, f)
    if rule.period is not None:
        return _period(rule, f)
    return _bucket(rule, f)


def _kind(text: str, values: Callable[[Sequence[Call]], list[Any]], answers: Any = first_column) -> Kind:
    statement = Statement(text)
    return Kind(lambda calls: (statement, values(calls)), answers)


def _settle(f: Callable[[str], str]) -> Kind:
    return _kind(
        f"SELECT {f('rl_settle')}(k.id, k.n) FROM unnest($1::text::bigint[], $2::text::float8[]) AS k (id, n)",
        lambda calls: [ids(calls), tokens(calls)],
    )


def _bucket(rule: Rule, f: Callable[[str], str]) -> dict[str, Kind]:
    own = [rule.capacity, rule.refill]
    limiter = rule.limiter
    one = Statement(f"SELECT {f('rl_consume')}($1, $2, $3, $4, $5)")
    each = Statement(f"SELECT {f('rl_consume_each')}($1, $2, $3, $4, $5)::text")
    consume = Statement(f"SELECT {f('rl_consume')}(k.key, $3, $4, k.n, $5) FROM {EACH_KEY}")

    def ask(calls: Sequence[Call]) -> tuple[Statement, list[Any]]:
        cost = calls[0].tokens if calls else 1.0
        if len(calls) == 1:
            return one, [calls[0].key, *own, cost, limiter]
        # the server does the usual case in one call
        if all(call.tokens == cost for call in calls):
            return each, [keys(calls), *own, cost, limiter]
        return consume, [keys(calls), tokens(calls), *own, limiter]

    def answers(rows: Sequence[Row], calls: Sequence[Call]) -> list[bool]:
        # one row of one array, {t,f}, or a row for each call
        if isinstance(rows[0][0], str):
            return [letter == "t" for letter in rows[0][0][1:-1:2]]
        return [row[0] for row in rows]

    return {
        "consume": Kind(ask, answers),
        "throttle": _kind(
            f"SELECT {RESULT} FROM {EACH_KEY}, LATERAL {f('rl_throttle')}(k.key, $3, $4, k.n, $5) AS r",
            lambda calls: [keys(calls), tokens(calls), *own, limiter],
            results,
        ),
        # rl_peek comes after rl_consume_upto: it needs its answer. One row costs the least here
        "take": _kind(
            f"""SELECT pg_catalog.array_agg(t.taken)::text, pg_catalog.array_agg((p.r).remaining)::text,
                    pg_catalog.array_agg(pg_catalog.date_part('epoch', (p.r).retry_after))::text
                FROM {EACH_KEY}, LATERAL (SELECT {f('rl_consume_upto')}(k.key, $3, $4, k.n, $5) OFFSET 0) AS t (taken),
                    LATERAL (SELECT {f('rl_peek')}(CASE WHEN t.taken IS NOT NULL THEN k.key END, $3, $4, 0, $5) OFFSET 0)
                        AS p (r)""",
            lambda calls: [keys(calls), tokens(calls), *own, limiter],
            columns,
        ),
        "give back": _kind(
            f"SELECT {f('rl_reward')}(k.key, k.n, $3) FROM {EACH_KEY}",
            lambda calls: [keys(calls), tokens(calls), limiter],
        ),
        "reserve": _kind(
            f"""SELECT {f('rl_reserve')}(k.key, $3, $4, k.n, pg_catalog.make_interval(secs => k.expires), $5)
                FROM unnest($1::text[], $2::text::float8[], $6::text::float8[]) AS k (key, n, expires)""",
            lambda calls: [keys(calls), tokens(calls), *own, limiter, seconds(calls)],
        ),
        "settle": _settle(f),
        "nothing": Kind(ask, answers),
    }


def _period(rule: Rule, f: Callable[[str], str]) -> dict[str, Kind]:
    def values(calls: Sequence[Call]) -> list[Any]:
        return [keys(calls), tokens(calls), rule.allowance, rule.period, rule.limiter]

    consume = _kind(f"SELECT {f('rl_consume_period')}(k.key, $3, $4, k.n, $5) FROM {EACH_KEY}", values)
    return {
        "consume": consume,
        "throttle": _kind(
            f"SELECT {RESULT} FROM {EACH_KEY}, LATERAL {f('rl_throttle_period')}(k.key, $3, $4, k.n, $5) AS r",
            values,
            results,
        ),
        "nothing": consume,
    }


def _policy(rule: Rule, f: Callable[[str], str]) -> dict[str, Kind]:
    def values(calls: Sequence[Call]) -> list[Any]:
        return [keys(calls), tokens(calls), rule.policy]

    consume = _kind(f"SELECT {f('rl_consume_policy')}($3, k.key, k.n) FROM {EACH_KEY}", values)
    return {
        "consume": consume,
        "throttle": _kind(
            f"SELECT {RESULT} FROM {EACH_KEY}, LATERAL {f('rl_throttle_policy')}($3, k.key, k.n) AS r",
            values,
            results,
        ),
        "reserve": _kind(
            f"""SELECT {f('rl_reserve_policy')}($3, k.key, k.n, pg_catalog.make_interval(secs => k.expires))
                FROM unnest($1::text[], $2::text::float8[], $4::text::float8[]) AS k (key, n, expires)""",
            lambda calls: [keys(calls), tokens(calls), rule.policy, seconds(calls)],
        ),
        "settle": _settle(f),
        "nothing": consume,
    }


def _slots(rule: Rule, f: Callable[[str], str]) -> dict[str, Kind]:
    release = _kind(
        f"SELECT {f('rl_release')}(k.id) FROM pg_catalog.unnest($1::text::bigint[]) AS k (id)",
        lambda calls: [ids(calls)],
    )
    return {
        "acquire": _kind(
            f"""SELECT {f('rl_acquire')}(k.key, $4, k.n::integer, pg_catalog.format('%s s', k.hold), '0', $5)
                FROM unnest($1::text[], $2::text::float8[], $3::text::float8[]) AS k (key, n, hold)""",
            lambda calls: [keys(calls), tokens(calls), seconds(calls), rule.slots, rule.limiter],
        ),
        "renew": _kind(
            f"""SELECT {f('rl_renew')}(k.id, pg_catalog.make_interval(secs => k.n))
                FROM unnest($1::text::bigint[], $2::text::float8[]) AS k (id, n)""",
            lambda calls: [ids(calls), seconds(calls)],
        ),
        "release": release,
        "nothing": release,
    }
