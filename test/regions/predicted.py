"""
What simulate.py predicts for three servers, and what three servers do, with the same calls at
the same moments.
"""

import os
import threading
import time

from relay import Relay
from servers import WORK, Server
from simulate import Simulation, Trace, figures

DELAY = 0.02        # seconds each way
CAPACITY, REFILL = 50, 30
SESSIONS = 16       # of each server


def predicted():
    trace = Trace(calls=9000, nodes=3, keys=300, rate=600, exponent=1.0, seed=19)
    expected = figures(
        Simulation(trace, CAPACITY, REFILL, 2 * DELAY, span=0.5, share=0.5).run(),
        CAPACITY, REFILL, trace.seconds,
    )
    measured, late = run_servers(trace)
    for name, found in (("predicted", expected), ("measured", measured)):
        print(f"#   {name}: {found['used']:.1f} % of the tokens used, {found['here']:.1f} % of calls "
              f"decided without waiting, {found['asked']:.1f} portions per 100 calls, "
              f"deviation between servers {found['deviation']:.1f} %")
    print(f"#   calls were made {1000 * late:.1f} ms late on average")
    if measured["above"]:
        raise AssertionError(f"{measured['above']} keys have used too much")
    for column, most in (("used", 10), ("here", 10)):
        if abs(measured[column] - expected[column]) > most:
            raise AssertionError(f"{column}: predicted {expected[column]}, measured {measured[column]}")


class Measured:
    def __init__(self):
        self.offered, self.allowed = {}, {}
        self.nodes = 3
        self.calls = self.here = self.asked = self.in_vain = 0
        self.end = 0


def run_servers(trace):
    home = Server("first")
    home.be_home()
    servers = [home]
    for name in ("second", "third"):
        server = Server(name)
        server.create()
        relay = Relay(os.path.join(WORK, name[0]), WORK, home.port)
        relay.delay = DELAY
        server.lease_from(home, host=relay.folder, port=relay.port)
        servers.append(server)
    result = Measured()
    lock = threading.Lock()
    lateness = []
    calls = list(trace)
    waiting = [[(at, key) for at, node, key in reversed(calls) if node == n] for n in range(3)]
    # the first connection is made before
    for server in servers:
        server.query("SELECT rl_consume_leased('first', 10, 0)")
    before = [state(server) for server in servers[1:]]
    began = time.monotonic() + 0.2

    def run(node):
        with servers[node].connect() as connection:
            connection.execute("SET ratelimit.on_error = deny; SET client_min_messages = error")
            while True:
                with lock:
                    if not waiting[node]:
                        return
                    at, key = waiting[node].pop()
                pause = began + at - time.monotonic()
                if pause > 0:
                    time.sleep(pause)
                late = max(0, time.monotonic() - began - at)
                allowed = connection.execute(
                    "SELECT rl_consume_leased(%s, %s, %s, 1, 'predicted')", (f"k{key}", CAPACITY, REFILL)
                ).fetchone()[0]
                with lock:
                    lateness.append(late)
                    result.calls += 1
                    result.offered[key] = result.offered.get(key, 0) + 1
                    result.allowed.setdefault(key, [0] * 3)[node] += allowed

    threads = [threading.Thread(target=run, args=(node,)) for node in range(3) for _ in range(SESSIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result.end = time.monotonic() - began
    for server, (here, asked) in zip(servers[1:], before):
        now = state(server)
        result.here += now[0] - here
        result.asked += now[1] - asked
    result.here += sum(1 for _, node, _ in calls if node == 0)
    for server in reversed(servers):
        server.stop()
        if server.crashed():
            raise AssertionError(server.crashed())
    return figures(result, CAPACITY, REFILL, trace.seconds), sum(lateness) / len(lateness)


def state(server):
    return server.query("SELECT here, asked FROM rate_limit_home_states")[0]
