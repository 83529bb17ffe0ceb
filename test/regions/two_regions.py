"""
Two regions, in network namespaces, 80 ms apart and with a link that loses packets: exactness,
and the share of calls that are decided without waiting for the other region.
"""

import random
import threading
import time

from network import Link
from servers import Callers, Server, consume, wait_until

ROUND_TRIP = 80     # milliseconds
LOSS = 0.02
SECONDS = 20
SESSIONS = 8


class Traffic:
    """Sessions that call with keys of Zipf's law, and note how long each call takes."""

    def __init__(self, server, function, keys, seed):
        self.times = []
        self.until = time.monotonic() + SECONDS
        weights = [1 / k for k in range(1, keys + 1)]
        threads = [
            threading.Thread(target=self.run, args=(server, function, weights, seed + i))
            for i in range(SESSIONS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.times.sort()

    def run(self, server, function, weights, seed):
        chance = random.Random(seed)
        keys = chance.choices(range(len(weights)), weights, k=200000)
        times = []
        with server.connect() as connection:
            for key in keys:
                began = time.monotonic()
                if began > self.until:
                    break
                connection.execute(f"SELECT {function}(%s, 1000, 200, 1, 'traffic')", (f"user:{key}",))
                times.append(time.monotonic() - began)
                time.sleep(0.002)
        self.times += times

    def at(self, part):
        return 1000 * self.times[int(part * (len(self.times) - 1))]


def two_regions():
    link = Link(ROUND_TRIP / 2, LOSS)
    if not link.how:
        link.close()
        return f"there are no network namespaces here ({link.why})"
    try:
        here, there = link.regions
        home = Server("frankfurt", prefix=here, listen_addresses="10.19.0.1", ratelimit_region__timeout="1s")
        home.be_home("10.19.0.0/24")
        far = Server("oregon", prefix=there, ratelimit_region__timeout="1s")
        far.create()
        far.lease_from(home, host="10.19.0.1", port=home.port)
        print(f"#   {ROUND_TRIP} ms, {100 * LOSS:g} % of packets lost each way, by "
              f"{'netem' if link.how == 'netem' else 'a relay of packets, as this kernel has no netem'}")
        exactness(home, far)
        locality(far)
        silence(far, link)
        for server in (far, home):
            server.stop()
            if server.crashed():
                raise AssertionError(server.crashed())
    finally:
        link.close()


def exactness(home, far):
    capacity = 5000
    callers = Callers([home, far], 4, key="exact", capacity=capacity, limiter="exact")
    time.sleep(10)
    used = callers.stop()
    with far.connect() as connection:
        connection.execute("SET client_min_messages = error; SET ratelimit.on_error = deny")
        until = time.monotonic() + 20
        while used < capacity and time.monotonic() < until:
            used += consume(connection, 100, "exact", capacity=capacity, limiter="exact")
            time.sleep(0.1)
    lost, failed = far.query("SELECT lost, failed FROM rate_limit_home_states")[0]
    print(f"#   {used} of {capacity} tokens used in both regions, {lost:g} lost, "
          f"{failed} portions without an answer")
    if used > capacity or (used < capacity and not lost and not failed):
        raise AssertionError(f"{used} of {capacity} tokens")


def locality(far):
    columns = "here, waited, denied, undecided"
    before = far.query(f"SELECT {columns} FROM rate_limit_home_states")[0]
    for keys in (100, 10000):
        traffic = Traffic(far, "rl_consume_leased", keys, seed=keys)
        after = far.query(f"SELECT {columns} FROM rate_limit_home_states")[0]
        here, waited, _, undecided = (b - a for a, b in zip(before, after))
        before = after
        calls = here + waited + undecided
        print(f"#   {keys} keys, {len(traffic.times) / SECONDS:.0f} calls a second: "
              f"{100 * here / calls:.1f} % decided in the region, {100 * waited / calls:.1f} % waited, "
              f"{undecided} undecided; p50 {traffic.at(0.5):.2f} ms, p90 {traffic.at(0.9):.2f} ms, "
              f"p99 {traffic.at(0.99):.1f} ms")
        if len(traffic.times) < 100:
            raise AssertionError("hardly any calls were made")
        if keys == 100 and here < 0.9 * calls:
            raise AssertionError(f"only {here} of {calls} calls were decided in the region")


def silence(far, link):
    """All packets are lost, and no connection is closed."""
    with far.connect() as connection:
        connection.execute("SET client_min_messages = error; SET ratelimit.on_error = deny")
        consume(connection, 20, "silence", capacity=100000, limiter="silence")
        link.lose(1)
        times = {True: [], False: []}
        while len(times[False]) < 10:
            began = time.monotonic()
            allowed = consume(connection, 1, "silence", capacity=100000, limiter="silence") == 1
            times[allowed].append(time.monotonic() - began)
        link.lose(LOSS)
        began = time.monotonic()
        wait_until(lambda: consume(connection, 1, "silence", capacity=100000, limiter="silence"), 20)
        back = time.monotonic() - began
    print(f"#   silent: {len(times[True])} calls by the lease, the longest {1000 * max(times[True], default=0):.1f} ms; then on_error, "
          f"the first after {times[False][0]:.2f} s, others after {1000 * max(times[False][1:]):.1f} ms; back after {back:.2f} s")
    if not times[True] or max(times[True]) > 0.3 or times[False][0] > 1.5 or max(times[False][1:]) > 0.3:
        raise AssertionError("calls take too long")
