"""What a decision is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Optional

DecidedBy = Literal["database", "lease", "local", "allow", "deny"]


@dataclass(frozen=True)
class Result:
    """A decision. What is not known is None, and so is a time that never comes."""

    allowed: bool
    #: The most tokens that the bucket holds, or the allowance of the period.
    capacity: Optional[float]
    #: Tokens that the call has left.
    remaining: Optional[float]
    #: Seconds until such a call would be allowed. 0: it was. None: waiting does not help,
    #: or it is not known.
    retry_after: Optional[float]
    #: Seconds until the bucket is full.
    reset_after: Optional[float]
    limiter: Optional[str]
    #: Allowed only because the limit is in shadow.
    shadowed: bool
    by: DecidedBy


class RateLimitUnavailableError(Exception):
    """The database cannot decide. __cause__ says why."""
