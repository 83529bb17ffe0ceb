"""One of several processes that use leases of one bucket: lease_process.py OPTIONS.

It calls more often than the bucket allows, and writes how many calls it was allowed to a
file after each of them, so that the number is there when it is killed. SIGTERM ends it in
order.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
from contextlib import AsyncExitStack

from support import AMPLE, new_pool, psycopg_pool

from ratelimit_postgresql import AsyncRateLimiter, RateLimiter

options = json.loads(sys.argv[1])
out = os.open(options["file"], os.O_WRONLY | os.O_CREAT, 0o600)
allowed = 0
ended = threading.Event()
lock = threading.Lock()


def count() -> None:
    global allowed
    with lock:
        allowed += 1
        os.pwrite(out, allowed.to_bytes(8, "little"), 0)


def threads() -> None:
    with new_pool(max_size=4) as pool, RateLimiter(pool, **options["rule"], lease=True, timeout=AMPLE) as limiter:

        def caller() -> None:
            while not ended.is_set():
                if limiter.consume("bucket"):
                    count()
                else:
                    time.sleep(0.001)

        callers = [threading.Thread(target=caller) for _ in range(options["callers"])]
        for thread in callers:
            thread.start()
        for thread in callers:
            thread.join()


async def tasks() -> None:
    async with AsyncExitStack() as stack:
        pool = await psycopg_pool(stack, max_size=4)
        async with AsyncRateLimiter(pool, **options["rule"], lease=True, timeout=AMPLE) as limiter:

            async def caller() -> None:
                while not ended.is_set():
                    if await limiter.consume("bucket"):
                        count()
                        await asyncio.sleep(0)
                    else:
                        await asyncio.sleep(0.001)

            await asyncio.gather(*(caller() for _ in range(options["callers"])))


signal.signal(signal.SIGTERM, lambda *args: ended.set())
if options["threads"]:
    threads()
else:
    asyncio.run(tasks())
