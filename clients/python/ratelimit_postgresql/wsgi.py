"""A limit for WSGI applications, such as those of Flask and Django.

    app.wsgi_app = RateLimitMiddleware(app.wsgi_app, RateLimiter(pool, capacity=100, refill=10))
"""

from __future__ import annotations

from typing import Any, Callable, Iterable, Optional, Union

from ._client_key import client_key
from ._http import BODY, RESULT, Options
from ._limiter import RateLimiter

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
App = Callable[[Environ, StartResponse], Iterable[bytes]]


class RateLimitMiddleware:
    """An allowed request gets the RateLimit fields and goes on; a denied one gets status 429 and Retry-After.

    key, cost and skip get the environ of the request. denied is an application that answers
    in place of 429. environ["ratelimit_postgresql.result"] is the Result.
    """

    def __init__(
        self,
        app: App,
        limiter: RateLimiter,
        *,
        key: Optional[Callable[[Environ], str]] = None,
        cost: Union[None, float, Callable[[Environ], Optional[float]]] = None,
        skip: Optional[Callable[[Environ], bool]] = None,
        hops: int = 0,
        ipv6_prefix: int = 64,
        name: Optional[str] = None,
        unit: Optional[str] = None,
        fields: bool = True,
        body: str = BODY,
        denied: Optional[App] = None,
    ) -> None:
        self.app = app
        self.limiter = limiter
        self.options = Options(limiter.rule, key, cost, skip, hops, ipv6_prefix, name, unit, fields, body, denied)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        options = self.options
        if options.skip is not None and options.skip(environ):
            return self.app(environ, start_response)
        if options.key is not None:
            key = options.key(environ)
        else:
            key = client_key(
                environ.get("REMOTE_ADDR"),
                environ.get("HTTP_X_FORWARDED_FOR", ""),
                hops=options.hops,
                ipv6_prefix=options.ipv6_prefix,
            )
        cost = options.cost(environ) if callable(options.cost) else options.cost
        result = self.limiter.throttle(key, cost)
        fields = options.fields(result)
        environ[RESULT] = result

        def start(status: str, headers: list[tuple[str, str]], *args: Any) -> Any:
            return start_response(status, headers + fields, *args)

        if result.allowed:
            return self.app(environ, start)
        if options.denied is not None:
            answer: Iterable[bytes] = options.denied(environ, start)
            return answer
        start(
            "429 Too Many Requests",
            [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(options.body)))],
        )
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else [options.body]
