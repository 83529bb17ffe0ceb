"""A decision as HTTP header fields.

RateLimit and RateLimit-Policy are as in draft-ietf-httpapi-ratelimit-headers-10. They and
Retry-After are those of the extension's function rl_headers(), whose page in the reference
says what the parameters mean.
"""

from __future__ import annotations

import math
from typing import Optional

from ._result import Result

SF_INTEGER_MAX = 999_999_999_999_999
RESULT_ERROR = 1e-6  # seconds: an rl_result has whole microseconds
ROUNDING = 1e-12  # relative, of a division


def _integer(value: float) -> str:
    """An integer of a structured field, rounded down."""
    return str(math.floor(max(min(value, SF_INTEGER_MAX), 0)))


def _string(text: str) -> str:
    """A string of a structured field. Bytes that it cannot hold become %XX."""
    out = []
    for byte in text.encode():
        if byte < 0x20 or byte > 0x7E:
            out.append(f"%{byte:02X}")
        else:
            out.append("\\" + chr(byte) if byte in b'"\\' else chr(byte))
    return f'"{"".join(out)}"'


def _window(capacity: float, remaining: float, full: Optional[float]) -> Optional[int]:
    """Seconds in which an empty bucket fills, if they are known."""
    missing = capacity - remaining
    if full is None or not (full > 0 and missing > 0):
        return None
    window = capacity * (full / missing)
    error = window * (RESULT_ERROR / full + ROUNDING)
    return None if error > 0.5 else max(math.ceil(window - error), 1)


def _more_after(
    capacity: float, remaining: float, full: Optional[float], retry_after: Optional[float]
) -> Optional[float]:
    """Seconds until there is more, or None if there never is."""
    following = max(math.floor(remaining) + 1, 1)
    if full is None or not following <= capacity:
        return None
    more = full * ((following - remaining) / (capacity - remaining))
    return retry_after if retry_after is not None and 0 < retry_after < more else more


def rate_limit_fields(
    result: Result, *, name: Optional[str] = None, unit: Optional[str] = None, refill: Optional[float] = None
) -> dict[str, str]:
    """The fields of a result of throttle(), without those that say nothing.

    name is what they call the limit (default: its limiter), unit what a token stands for,
    and refill the rule's, in tokens per second, if it is known.
    """
    label = _string(name or result.limiter or "default")
    capacity, full = result.capacity, result.reset_after
    retry_after = 0.0 if result.allowed else result.retry_after
    fields = {}

    if result.remaining is not None and capacity is not None:
        remaining = result.remaining
        more: Optional[float]
        if retry_after is not None and retry_after > max(full if full is not None else -1, 0):
            # a call that has to wait until after the bucket is full is blocked
            remaining, more = 0.0, retry_after
        else:
            more = _more_after(capacity, remaining, full, retry_after)
        fields["RateLimit"] = f"{label};r={_integer(remaining)}"
        if more is not None:
            fields["RateLimit"] += f";t={_integer(math.ceil(more - RESULT_ERROR))}"

        if refill is not None and refill > 0:
            window: Optional[int] = max(math.ceil(capacity / refill * (1 - ROUNDING)), 1)
        else:
            window = _window(capacity, result.remaining, full)
        fields["RateLimit-Policy"] = f"{label};q={_integer(capacity)}"
        if unit is not None:
            fields["RateLimit-Policy"] += f";qu={_string(unit)}"
        if window is not None:
            fields["RateLimit-Policy"] += f";w={_integer(window)}"
    if retry_after is not None and retry_after > 0:
        fields["Retry-After"] = _integer(math.ceil(retry_after))
    return fields
