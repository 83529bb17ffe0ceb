"""What the middleware for ASGI and for WSGI have in common."""

from __future__ import annotations

from typing import Any, Callable, Optional, Union

from ._fields import rate_limit_fields
from ._result import Result
from ._rule import Rule, check_number

BODY = "Too many requests\n"
#: Where a request has its Result: in ASGI's scope, or in WSGI's environ.
RESULT = "ratelimit_postgresql.result"


class Options:
    """Options, checked: see docs/clients.md."""

    def __init__(
        self,
        rule: Rule,
        key: Optional[Callable[[Any], Any]],
        cost: Union[None, float, Callable[[Any], Any]],
        skip: Optional[Callable[[Any], Any]],
        hops: int,
        ipv6_prefix: int,
        name: Optional[str],
        unit: Optional[str],
        fields: bool,
        body: str,
        denied: Optional[Callable[..., Any]],
    ) -> None:
        for option, value, most in (("hops", hops, 100), ("ipv6_prefix", ipv6_prefix, 128)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{option} must be an int, not {type(value).__name__}")
            if not 0 <= value <= most:
                raise ValueError(f"{option} must be from 0 to {most}, not {value}")
        for option, function in (("key", key), ("skip", skip), ("denied", denied)):
            if function is not None and not callable(function):
                raise TypeError(f"{option} must be a function")
        if cost is not None and not callable(cost):
            check_number("cost", cost)
        self.refill = rule.refill
        self.key = key
        self.cost = cost
        self.skip = skip
        self.hops = hops
        self.ipv6_prefix = ipv6_prefix
        self.name = name
        self.unit = unit
        self.with_fields = fields
        self.body = body.encode()
        self.denied = denied

    def fields(self, result: Result) -> list[tuple[str, str]]:
        fields = rate_limit_fields(result, name=self.name, unit=self.unit, refill=self.refill)
        return [(name, value) for name, value in fields.items() if self.with_fields or name == "Retry-After"]
