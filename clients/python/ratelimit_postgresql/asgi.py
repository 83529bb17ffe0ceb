"""A limit for ASGI applications, such as those of Starlette, FastAPI and Quart.

    app.add_middleware(RateLimitMiddleware, limiter=AsyncRateLimiter(pool, capacity=100, refill=10))
"""

from __future__ import annotations

import inspect
from typing import Any, Awaitable, Callable, MutableMapping, Optional, TypeVar, Union

from ._client_key import client_key
from ._http import BODY, RESULT, Options
from ._limiter import AsyncRateLimiter

T = TypeVar("T")
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Maybe = Union[T, Awaitable[T]]

STARTS = ("http.response.start", "websocket.accept", "websocket.http.response.start")


class RateLimitMiddleware:
    """An allowed request gets the RateLimit fields and goes on; a denied one gets status 429 and Retry-After.

    A request for a WebSocket is one, too. key, cost and skip get the scope of the request, and
    may be asynchronous. denied is an application that answers in place of 429.
    scope["ratelimit_postgresql.result"] is the Result.
    """

    def __init__(
        self,
        app: App,
        limiter: AsyncRateLimiter,
        *,
        key: Optional[Callable[[Scope], Maybe[str]]] = None,
        cost: Union[None, float, Callable[[Scope], Maybe[Optional[float]]]] = None,
        skip: Optional[Callable[[Scope], Maybe[bool]]] = None,
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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        options = self.options
        if scope["type"] not in ("http", "websocket") or (
            options.skip is not None and await _value(options.skip(scope))
        ):
            await self.app(scope, receive, send)
            return
        key = await _value(options.key(scope)) if options.key is not None else self._key(scope)
        cost = await _value(options.cost(scope)) if callable(options.cost) else options.cost
        result = await self.limiter.throttle(key, cost)
        fields = [(name.lower().encode(), value.encode()) for name, value in options.fields(result)]
        scope[RESULT] = result

        async def send_with_fields(message: Message) -> None:
            if message["type"] in STARTS:
                message = {**message, "headers": [*message.get("headers", ()), *fields]}
            await send(message)

        if result.allowed:
            await self.app(scope, receive, send_with_fields)
        elif options.denied is not None:
            await options.denied(scope, receive, send_with_fields)
        else:
            await self._deny(scope, receive, send_with_fields)

    def _key(self, scope: Scope) -> str:
        client = scope.get("client")
        forwarded = ", ".join(
            value.decode("latin-1") for name, value in scope["headers"] if name.lower() == b"x-forwarded-for"
        )
        return client_key(
            client[0] if client else None, forwarded, hops=self.options.hops, ipv6_prefix=self.options.ipv6_prefix
        )

    async def _deny(self, scope: Scope, receive: Receive, send: Send) -> None:
        prefix = ""
        if scope["type"] == "websocket":
            await receive()
            if "websocket.http.response" not in scope.get("extensions", ()):
                # the server answers with status 403
                await send({"type": "websocket.close"})
                return
            prefix = "websocket."
        body = self.options.body
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
        await send({"type": prefix + "http.response.start", "status": 429, "headers": headers})
        await send({"type": prefix + "http.response.body", "body": body})


async def _value(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value
