"""Rules, and the checks of arguments: a bad one must not fail other calls of its query."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Optional, Union

SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}


@dataclass(frozen=True)
class Rule:
    """Which limit: what is not None says of which kind it is."""

    limiter: str = "default"
    #: The most tokens that a bucket holds.
    capacity: Optional[float] = None
    #: Tokens per second that a bucket gains until it is full.
    refill: Optional[float] = None
    #: Tokens in each period.
    allowance: Optional[float] = None
    period: Optional[str] = None
    #: How many at a time.
    slots: Optional[int] = None
    policy: Optional[str] = None


@dataclass(frozen=True)
class LocalBucket:
    """The rule of a bucket of this process, while the database is away."""

    #: Tokens.
    capacity: float
    #: Tokens per second.
    refill: float


Away = Union[Literal["raise", "allow", "deny", "local"], LocalBucket]

CHOICES: dict[str, Literal["raise", "allow", "deny"]] = {"raise": "raise", "allow": "allow", "deny": "deny"}

# Which options make a rule of each kind: the first one says that it is of that kind.
KINDS = (
    ("policy",),
    ("slots", "limiter"),
    ("period", "allowance", "limiter"),
    ("capacity", "refill", "limiter"),
)


def check_number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a finite number not below 0, not {value}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} must be a finite number not below 0, not {value}") from None


def check_name(name: str, value: object, most: int) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    if value == "":
        raise ValueError(f"{name} must not be empty")
    if "\0" in value:
        raise ValueError(f"{name} must not contain a zero byte")
    # also an error if it cannot be UTF-8
    size = len(value.encode())
    if size > most:
        raise ValueError(f"{name} must not be longer than {most} bytes, not {value[:32]!r}... of {size} bytes")
    return value


def check_key(key: object) -> str:
    return check_name("key", key, 255)


def rule_of(options: dict[str, object]) -> Rule:
    """The rule that options make: those that are not given are None."""
    kind = next((kind for kind in KINDS if options.get(kind[0]) is not None), KINDS[-1])
    for name, value in options.items():
        if value is not None and name not in kind:
            raise TypeError(f"{name} must not be given with {kind[0]}")

    if kind[0] == "policy":
        policy = check_name("policy", options["policy"], 63)
        return Rule(limiter=policy, policy=policy)

    limiter = options.get("limiter")
    limiter = "default" if limiter is None else check_name("limiter", limiter, 63)
    if ":" in limiter:
        raise ValueError(f'limiter must not contain ":": "{limiter}"')
    if kind[0] == "slots":
        slots = options["slots"]
        if isinstance(slots, bool) or not isinstance(slots, int):
            raise TypeError(f"slots must be an int, not {type(slots).__name__}")
        if not 0 <= slots < 2**31:
            raise ValueError(f"slots must be from 0 to {2**31 - 1}, not {slots}")
        return Rule(limiter=limiter, slots=slots)
    if kind[0] == "period":
        return Rule(
            limiter=limiter,
            allowance=check_number("allowance", options.get("allowance")),
            period=check_name("period", options["period"], 255),
        )
    return Rule(
        limiter=limiter,
        capacity=check_number("capacity", options.get("capacity")),
        refill=check_number("refill", options.get("refill")),
    )


def away_of(away: object, rule: Rule) -> Union[Literal["raise", "allow", "deny"], LocalBucket]:
    """What decides while the database is away, with the bucket that "local" means."""
    if isinstance(away, str) and away in CHOICES:
        return CHOICES[away]
    if away == "local" and rule.capacity is not None and rule.refill is not None:
        return LocalBucket(rule.capacity, rule.refill)
    if isinstance(away, LocalBucket) and rule.slots is None:
        return LocalBucket(check_number("away.capacity", away.capacity), check_number("away.refill", away.refill))
    raise TypeError(
        "away must be 'raise', 'allow', 'deny', except for slots a LocalBucket, or, with capacity and refill, 'local'"
    )


def per(tokens: float, span: Union[Literal["second", "minute", "hour", "day"], float]) -> float:
    """The refill for so many tokens per span of time, in tokens per second.

    A span that is a number is one of seconds.
    """
    tokens = check_number("tokens", tokens)
    seconds = SECONDS.get(span) if isinstance(span, str) else span
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < math.inf:
        raise ValueError(f"span must be a number of seconds above 0, or {', '.join(SECONDS)}, not {span!r}")
    return tokens / seconds
