"""Middleware: real requests to WSGI and ASGI applications."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from socketserver import ThreadingMixIn
from typing import Any, Iterator
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.validate import validator

from support import AMPLE, POOLS, AsyncTestCase, fresh, needs, new_pool

from ratelimit_postgresql import AsyncRateLimiter, RateLimiter
from ratelimit_postgresql import asgi, wsgi


class ThreadingServer(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 300


class Quiet(WSGIRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@contextlib.contextmanager
def serving(app: Any) -> Iterator[int]:
    server = make_server("127.0.0.1", 0, app, server_class=ThreadingServer, handler_class=Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def get(port: int, path: str = "/", method: str = "GET", **headers: str) -> Any:
    conn = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        conn.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        response = conn.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        conn.close()


def hello(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


@needs("psycopg", "psycopg_pool")
class Wsgi(unittest.TestCase):
    def test_fields_and_429(self) -> None:
        with new_pool() as pool:
            limiter = RateLimiter(pool, capacity=2, refill=0.01, limiter="wsgi", timeout=AMPLE)
            options = {
                "key": lambda environ: environ["HTTP_WHO"],
                "skip": lambda environ: environ["PATH_INFO"] == "/health",
            }
            options["cost"] = lambda environ: 2 if environ["REQUEST_METHOD"] == "POST" else None
            who = fresh("who")
            with serving(validator(wsgi.RateLimitMiddleware(validator(hello), limiter, **options))) as port:
                status, headers, body = get(port, who=who)
                self.assertEqual((status, body), (200, b"hello"))
                self.assertEqual(headers["RateLimit"], '"wsgi";r=1;t=100')
                self.assertEqual(headers["RateLimit-Policy"], '"wsgi";q=2;w=200')
                self.assertNotIn("Retry-After", headers)
                status, headers, body = get(port, method="POST", who=who)
                self.assertEqual((status, body), (429, b"Too many requests\n"))
                self.assertTrue(40 <= int(headers["Retry-After"]) <= 100, headers)
                self.assertEqual(headers["Content-Type"], "text/plain; charset=utf-8")
                self.assertEqual(get(port, who=who)[0], 200)
                self.assertEqual(get(port, method="HEAD", who=who)[::2], (429, b""))
                status, headers, _ = get(port, "/health", who=who)
                self.assertEqual((status, "RateLimit" in headers), (200, False))

    def test_behind_proxies_and_an_answer_of_its_own(self) -> None:
        def denied(environ: Any, start_response: Any) -> list[bytes]:
            result = environ["ratelimit_postgresql.result"]
            start_response("503 Service Unavailable", [("Content-Type", "text/plain")])
            return [f"{result.limiter} {result.allowed}".encode()]

        with new_pool() as pool:
            limiter = RateLimiter(pool, capacity=1, refill=0.01, limiter=fresh("proxy"), timeout=AMPLE)
            app = wsgi.RateLimitMiddleware(hello, limiter, hops=1, name="n", unit="u", fields=False, denied=denied)
            with serving(app) as port:
                self.assertEqual(get(port, X_Forwarded_For="1.2.3.4, 2001:db8::1")[0], 200)
                self.assertEqual(get(port, X_Forwarded_For="1.2.3.5, 2001:db8::2")[0], 503, "the same network")
                self.assertEqual(get(port, X_Forwarded_For="2001:db8:0:1::2")[0], 200)
                status, headers, body = get(port, X_Forwarded_For="2001:db8::1")
                self.assertEqual(body.decode(), f"{limiter.rule.limiter} False")
                self.assertTrue(90 <= int(headers["Retry-After"]) <= 100)
                self.assertNotIn("RateLimit", headers)

    def test_many_requests_at_once(self) -> None:
        with new_pool() as pool:
            limiter = RateLimiter(pool, capacity=40, refill=0.5, limiter=fresh("many"), timeout=AMPLE)
            with serving(wsgi.RateLimitMiddleware(hello, limiter)) as port, ThreadPoolExecutor(50) as executor:
                began = time.monotonic()
                answers = list(executor.map(lambda i: get(port), range(200)))
                allowed = sum(status == 200 for status, _, _ in answers)
                self.assertLessEqual(40, allowed)
                self.assertLessEqual(allowed, 40 + 0.5 * (time.monotonic() - began))
                denied = [headers for status, headers, _ in answers if status == 429]
                self.assertEqual(allowed + len(denied), 200)
                self.assertTrue(all(1 <= int(headers["Retry-After"]) <= 2 for headers in denied))
                # what it says holds
                while (answer := get(port))[0] == 200:
                    pass
                time.sleep(int(answer[1]["Retry-After"]))
                self.assertEqual(get(port)[0], 200)

    def test_bad_options(self) -> None:
        with new_pool() as pool:
            limiter = RateLimiter(pool, capacity=1, refill=1)
            for options, error in (
                ({"hops": -1}, ValueError),
                ({"hops": "1"}, TypeError),
                ({"ipv6_prefix": 129}, ValueError),
                ({"key": "a"}, TypeError),
                ({"cost": -1}, ValueError),
                ({"skip": True}, TypeError),
            ):
                with self.subTest(options), self.assertRaises(error):
                    wsgi.RateLimitMiddleware(hello, limiter, **options)


async def ok(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
    else:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"1")]})
        await send({"type": "http.response.body", "body": b"hello"})


async def ask(
    app: Any, kind: str = "http", path: str = "/", headers: Any = (), client: Any = ("203.0.113.7", 1), **more: Any
) -> Any:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect" if kind == "websocket" else "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": kind, "path": path, "method": "GET", "headers": list(headers), "client": client, **more}
    await app(scope, receive, send)
    return sent


class Asgi(AsyncTestCase):
    async def each(self) -> Any:
        for make in POOLS:
            async with contextlib.AsyncExitStack() as stack:
                with self.subTest(make.__name__):
                    yield await make(stack)

    async def test_fields_and_429(self) -> None:
        async for db in self.each():
            limiter = AsyncRateLimiter(db, capacity=2, refill=0.01, limiter="asgi", timeout=AMPLE)
            who = fresh("who")

            async def key(scope: Any) -> str:
                return who

            app = asgi.RateLimitMiddleware(ok, limiter, key=key, skip=lambda scope: scope["path"] == "/health")
            start, body = await ask(app)
            self.assertEqual((start["status"], body["body"]), (200, b"hello"))
            self.assertEqual(
                start["headers"],
                [(b"x-own", b"1"), (b"ratelimit", b'"asgi";r=1;t=100'), (b"ratelimit-policy", b'"asgi";q=2;w=200')],
            )
            answers = await asyncio.gather(*(ask(app) for _ in range(20)))
            self.assertEqual(sorted(start["status"] for start, _ in answers), [200] + [429] * 19)
            start, body = answers[-1]
            headers = dict(start["headers"])
            self.assertEqual(body["body"], b"Too many requests\n")
            self.assertTrue(40 <= int(headers[b"retry-after"]) <= 100, headers)
            self.assertEqual(headers[b"content-length"], b"18")
            (start, _) = await ask(app, path="/health")
            self.assertEqual((start["status"], start["headers"]), (200, [(b"x-own", b"1")]))

    async def test_websockets_lifespan_and_proxies(self) -> None:
        async for db in self.each():
            limiter = AsyncRateLimiter(db, capacity=1, refill=0.01, limiter=fresh("ws"), timeout=AMPLE)
            app = asgi.RateLimitMiddleware(ok, limiter, hops=1, cost=1)
            forwarded = [(b"x-forwarded-for", b"1.1.1.1"), (b"x-forwarded-for", b"198.51.100.9")]
            (accept,) = await ask(app, "websocket", headers=forwarded)
            self.assertEqual([name for name, _ in accept["headers"]], [b"ratelimit", b"ratelimit-policy"])
            self.assertEqual(await ask(app, "websocket", headers=forwarded), [{"type": "websocket.close"}])
            start, body = await ask(app, "websocket", headers=forwarded, extensions={"websocket.http.response": {}})
            self.assertEqual((start["type"], start["status"]), ("websocket.http.response.start", 429))
            self.assertEqual(body["type"], "websocket.http.response.body")
            (start, _) = await ask(app, client=None)
            self.assertEqual(start["status"], 200)
            seen = []

            async def lifespan(scope: Any, receive: Any, send: Any) -> None:
                seen.append(scope["type"])

            await asgi.RateLimitMiddleware(lifespan, limiter)({"type": "lifespan"}, None, None)
            self.assertEqual(seen, ["lifespan"])

    async def test_an_answer_of_its_own(self) -> None:
        async def denied(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 503})
            await send({"type": "http.response.body", "body": scope["ratelimit_postgresql.result"].limiter.encode()})

        async for db in self.each():
            limiter = AsyncRateLimiter(db, capacity=0, refill=0, limiter="never", timeout=AMPLE)
            start, body = await ask(asgi.RateLimitMiddleware(ok, limiter, denied=denied))
            self.assertEqual((start["status"], body["body"]), (503, b"never"))


if __name__ == "__main__":
    unittest.main()
