"""asyncpg_process.py I HOST PORT LIMITER: ask for many decisions on one bucket of 100, through a pooler.

It prints how many were allowed. Process I runs I queries of its own before, without the pooler,
so that its statements have other numbers than those of the other processes.
"""

import asyncio
import sys

import asyncpg
from support import AMPLE

from ratelimit_postgresql import AsyncRateLimiter


async def main() -> None:
    before, host, port, name = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
    direct = await asyncpg.connect(host=host, user="app", database="postgres")
    for i in range(before):
        await direct.fetch(f"SELECT {i}")
    await direct.close()
    conns = [await asyncpg.connect(host=host, port=port, user="app", database="transaction") for _ in range(20)]
    limiters = [AsyncRateLimiter(conn, capacity=100, refill=0, limiter=name, timeout=AMPLE) for conn in conns]
    allowed = 0
    for _ in range(5):
        for limiter in limiters:
            await limiter.throttle("other key")
        allowed += sum(await asyncio.gather(*(limiter.consume("a") for limiter in limiters for _ in range(2))))
    print(allowed)
    for conn in conns:
        conn.terminate()


asyncio.run(main())
