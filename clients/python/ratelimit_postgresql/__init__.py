"""Rate limits decided by the PostgreSQL extension ratelimit: docs/clients.md says how to use it."""

from ._client_key import client_key
from ._fields import rate_limit_fields
from ._leases import Lease
from ._limiter import (
    AsyncRateLimiter,
    AsyncReservation,
    AsyncSlots,
    Metrics,
    RateLimiter,
    Reservation,
    Slots,
    Stats,
)
from ._result import RateLimitUnavailableError, Result
from ._rule import LocalBucket, Rule, per

__all__ = [
    "AsyncRateLimiter",
    "AsyncReservation",
    "AsyncSlots",
    "Lease",
    "LocalBucket",
    "Metrics",
    "RateLimitUnavailableError",
    "RateLimiter",
    "Reservation",
    "Result",
    "Rule",
    "Slots",
    "Stats",
    "client_key",
    "per",
    "rate_limit_fields",
]
