#!/usr/bin/env python3
"""
test/regions/simulate.py [--calls N] [--nodes N] [--keys N] [--seed N] [--svg FILE]: what the
size of portions costs.

Nodes decide calls whose keys follow Zipf's law.  One of them is the home of all keys, and the
others lease from it as scale/region does: Lease follows src/leases.c and src/consume.c, Home
follows src/home.c.  Calls come at random times, and each at a random node.  Everything is
drawn from the seed, so two runs print the same.

The size of a portion is what a key's calls use in lease_span, or "least" tokens if that is more,
but not more than the server's part of SHARE of what the bucket has (src/home.c).  scale/region has
least = 10 and SHARE = 0.5.  For each "least" without SHARE, and for each SHARE with a "least" that is
large, it prints

used      of the tokens that there were for keys that want more than they may, the part that
          calls have used
unfair    how differently nodes fare: the standard deviation of what they were allowed of such a
          key, in parts of the mean, without what chance alone does (that of "no leases")
in vain   calls that were denied while there was a token for them somewhere
here      calls that were decided without waiting for the home
asked     portions that the home was asked for, per 100 calls

--svg writes them as a plot.
"""

import argparse
import bisect
import heapq
import itertools
import math
import random

SWEEP = 0.2         # seconds between two sweeps of the worker
LEAST = 10
GROWTH = 4
STALE = 1.0
MUCH = 100          # tokens


class Trace:
    """Calls: when, at which node, of which key.  Keys are numbered by their demand."""

    def __init__(self, calls, nodes, keys, rate, exponent, seed):
        self.calls, self.nodes, self.keys, self.rate = calls, nodes, keys, rate
        self.exponent, self.seed = exponent, seed
        self.weights = list(itertools.accumulate(1 / k**exponent for k in range(1, keys + 1)))
        self.seconds = calls / rate

    def __iter__(self):
        chance = random.Random(self.seed)
        total = self.weights[-1]
        at = 0.0
        for _ in range(self.calls):
            at += chance.expovariate(self.rate)
            yield at, chance.randrange(self.nodes), bisect.bisect(self.weights, chance.random() * total)


class Home:
    def __init__(self, capacity, refill, share):
        self.capacity, self.refill, self.share = capacity, refill, share
        self.buckets = {}
        self.servers = set()

    def level(self, key, at):
        tokens, since = self.buckets.get(key, (self.capacity, at))
        tokens = min(self.capacity, tokens + (at - since) * self.refill)
        self.buckets[key] = (tokens, at)
        return tokens

    def take(self, key, at, tokens):
        self.buckets[key] = (self.level(key, at) - tokens, at)

    def portion(self, node, key, at, needed, wanted):
        """What rl_lease_take() gives, and what is left."""
        self.servers.add(node)
        servers = len(self.servers) + 1
        level = self.level(key, at)
        tokens = max(math.floor(min(wanted, level * self.share / servers)), needed, 1)
        if tokens > level:
            tokens = math.floor(level)
        self.take(key, at, tokens)
        return tokens, level - tokens


class Lease:
    __slots__ = ("tokens", "portion", "asking", "demand", "demand_asked", "asked", "low", "rate",
                 "sweep", "demand_swept", "answered", "remaining", "short", "empty_until", "waiting",
                 "called", "checked")

    def __init__(self, at):
        self.tokens = 0
        self.portion = 1
        self.asking = False
        self.demand = self.demand_asked = self.demand_swept = 0
        self.asked = self.answered = -1.0
        self.low = self.rate = 0.0
        self.sweep = int(at / SWEEP)
        self.remaining = 0
        self.short = False
        self.empty_until = 0.0
        self.waiting = 0
        self.called = at
        self.checked = False

    def sweeps(self, at):
        """The sweeps since the last call: the first of them sees its demand, the others none."""
        n = int(at / SWEEP) - self.sweep
        if n > 0:
            self.rate += ((self.demand - self.demand_swept) / SWEEP - self.rate) / 4
            self.rate *= 0.75 ** (n - 1)
            self.demand_swept = self.demand
            self.sweep += n


class Result:
    def __init__(self, nodes):
        self.nodes = nodes
        self.offered = {}
        self.allowed = {}       # by key, a list by node
        self.calls = self.allowed_calls = self.here = self.waited = self.asked = self.in_vain = 0
        self.end = 0.0          # when the home has given the last portion


class Simulation:
    def __init__(self, trace, capacity, refill, round_trip, span, share, least=LEAST, idle=5.0, central=False):
        self.trace, self.capacity, self.refill = trace, capacity, refill
        self.round_trip, self.span, self.idle, self.central = round_trip, span, idle, central
        self.least = least
        self.home = Home(capacity, refill, share)
        self.leases = [{} for _ in range(trace.nodes)]
        self.held = {}          # tokens of leases, and of portions under way, by key
        self.events = []
        self.number = itertools.count()
        self.result = Result(trace.nodes)

    def run(self):
        result = self.result
        for at, node, key in self.trace:
            while self.events and self.events[0][0] <= at:
                when, _, what, args = heapq.heappop(self.events)
                what(when, *args)
            result.calls += 1
            result.end = at
            result.offered[key] = result.offered.get(key, 0) + 1
            if node == 0 or self.central:
                result.here += node == 0
                allowed = self.home.level(key, at) >= 1
                if allowed:
                    self.home.take(key, at, 1)
                self.decided(at, node, key, allowed)
            else:
                self.call(at, node, key)
        # those that wait still get their answer; nothing else comes
        while self.events:
            when, _, what, args = heapq.heappop(self.events)
            if what == self.answer or what == self.question:
                what(when, *args)
        return result

    def later(self, when, what, *args):
        heapq.heappush(self.events, (when, next(self.number), what, args))

    def decided(self, at, node, key, allowed):
        result = self.result
        if allowed:
            result.allowed_calls += 1
            nodes = result.allowed.get(key)
            if nodes is None:
                nodes = result.allowed[key] = [0] * result.nodes
            nodes[node] += 1
        elif self.held.get(key, 0) >= 1 or self.home.level(key, at) >= 1:
            result.in_vain += 1

    def call(self, at, node, key):
        lease = self.leases[node].get(key)
        if lease is None:
            lease = self.leases[node][key] = Lease(at)
        lease.sweeps(at)
        lease.demand += 1
        lease.called = at
        if lease.tokens >= 1:
            lease.tokens -= 1
            self.held[key] -= 1
            self.result.here += 1
            self.decided(at, node, key, True)
            if lease.tokens < lease.low and not lease.asking and at >= lease.empty_until:
                self.ask(at, node, key, lease)
            return
        if lease.short and self.empty(lease, at):
            self.result.here += 1
            self.decided(at, node, key, False)
            if at >= lease.empty_until and not lease.asking:
                self.ask(at, node, key, lease)
            return
        lease.waiting += 1
        self.result.waited += 1
        if not lease.asking:
            self.ask(at, node, key, lease)

    def empty(self, lease, at):
        if at < lease.empty_until:
            return True
        if at - lease.answered > STALE:
            return False
        gained = self.refill * (at - lease.answered + self.round_trip)
        return lease.waiting + 1 > lease.remaining + lease.tokens + gained

    def ask(self, at, node, key, lease):
        rate = 0
        if lease.asked >= 0:
            rate = max(lease.rate, (lease.demand - lease.demand_asked) / max(at - lease.asked, 0.001))
        wanted = math.ceil(rate * (self.span + self.round_trip))
        lease.portion = max(self.least, min(wanted, GROWTH * lease.portion))
        lease.asking = True
        lease.asked = at
        lease.demand_asked = lease.demand
        needed = min(max(0, lease.waiting - lease.tokens), self.capacity)
        self.result.asked += 1
        self.later(at + self.round_trip / 2, self.question, node, key, lease, needed,
                   max(lease.portion, needed))

    def question(self, at, node, key, lease, needed, wanted):
        taken, remaining = self.home.portion(node, key, at, needed, wanted)
        self.result.end = max(self.result.end, at)
        self.held[key] = self.held.get(key, 0) + taken
        self.later(at + self.round_trip / 2, self.answer, node, key, lease, needed, taken, remaining)

    def answer(self, at, node, key, lease, needed, taken, remaining):
        lease.sweeps(at)
        lease.tokens += taken
        lease.remaining = remaining
        lease.answered = at
        lease.short = taken < needed or taken == 0
        pause = self.capacity / self.refill / 8 if self.refill > 0 else 0.05
        lease.empty_until = at + max(0.001, min(pause, 0.05)) if lease.short else 0.0
        rate = max(lease.rate, (lease.demand - lease.demand_asked) / max(at - lease.asked, 0.01))
        lease.low = min(lease.tokens / 2, rate * (0.02 + 2 * self.round_trip))
        lease.asking = False
        while lease.waiting and (lease.tokens >= 1 or lease.short):
            lease.waiting -= 1
            allowed = lease.tokens >= 1
            if allowed:
                lease.tokens -= 1
                self.held[key] -= 1
            self.decided(at, node, key, allowed)
        if lease.waiting:
            self.ask(at, node, key, lease)
        if not lease.checked:
            lease.checked = True
            self.later(at + self.idle, self.check, node, key, lease)

    def check(self, at, node, key, lease):
        """What the sweeps of the worker give back."""
        lease.sweeps(at)
        tokens = 0
        if at - lease.called >= self.idle and not lease.asking:
            tokens = lease.tokens
            del self.leases[node][key]
        else:
            if at - lease.asked >= self.idle:
                expected = 1 + 2 * lease.rate * (self.span + self.idle)
                if lease.tokens > 2 * expected:
                    tokens = math.floor(lease.tokens - expected)
            self.later(max(lease.called + self.idle, at + SWEEP), self.check, node, key, lease)
        if tokens:
            lease.tokens -= tokens
            self.later(at + self.round_trip / 2, self.back, key, tokens)

    def back(self, at, key, tokens):
        self.held[key] -= tokens
        level = self.home.level(key, at)
        self.home.buckets[key] = (min(self.capacity, level + tokens), at)


def saturated(result, capacity, refill, seconds):
    """Keys that want clearly more than they may."""
    most = capacity + refill * seconds
    return [key for key, n in result.offered.items() if n > 1.2 * most]


def figures(result, capacity, refill, seconds):
    seconds = max(seconds, result.end)
    keys = saturated(result, capacity, refill, seconds)
    most = (capacity + refill * seconds) * len(keys)
    used = sum(sum(result.allowed.get(key, [])) for key in keys)
    deviation = weight = 0
    for key in keys:
        nodes = result.allowed.get(key, [0] * result.nodes)
        mean = sum(nodes) / len(nodes)
        if mean > 0:
            deviation += math.sqrt(sum((n - mean) ** 2 for n in nodes) / len(nodes))
            weight += mean
    return {
        "used": 100 * used / most if most else float("nan"),
        "deviation": 100 * deviation / weight if weight else float("nan"),
        "in vain": 100 * result.in_vain / result.calls,
        "here": 100 * result.here / result.calls,
        "asked": 100 * result.asked / result.calls,
        "above": sum(1 for key in result.allowed
                     if sum(result.allowed[key]) > capacity + refill * seconds + 1e-6),
    }


def unfair(found, central):
    """The deviation without what chance does."""
    return math.sqrt(max(0, found["deviation"] ** 2 - central["deviation"] ** 2))


COLUMNS = ("used", "unfair", "in vain", "here", "asked")


def line(name, found):
    return f"{name:<14}" + "".join(f"{found[column]:>9.1f}" for column in COLUMNS)


def svg(rows, title, path):
    """Two plots, of rows (span or share, figures): one below the other."""
    width, height, left, top, plot = 640, 330, 60, 40, 230
    colours = {"used": "#1b6ca8", "here": "#2e8b57", "unfair": "#c0392b", "in vain": "#8e44ad"}
    out = []
    for n, (name, points) in enumerate(rows):
        dy = n * height
        out.append(f'<text x="{left}" y="{dy + 22}" font-weight="bold">{title[n]}</text>')
        low, high = math.log(points[0][0]), math.log(points[-1][0])

        def x(value):
            return left + (math.log(value) - low) / (high - low) * (width - left - 110)

        def y(value):
            return dy + top + plot * (1 - value / 100)

        for value in (0, 25, 50, 75, 100):
            out.append(f'<line x1="{left}" x2="{width - 110}" y1="{y(value):.0f}" y2="{y(value):.0f}" stroke="#ddd"/>')
            out.append(f'<text x="{left - 8}" y="{y(value) + 4:.0f}" text-anchor="end">{value} %</text>')
        for value, _ in points:
            out.append(f'<text x="{x(value):.0f}" y="{dy + top + plot + 18}" text-anchor="middle">{value:g}</text>')
        out.append(f'<text x="{x(points[0][0]):.0f}" y="{dy + top + plot + 36}">{name}</text>')
        ends = []
        for column, colour in colours.items():
            path_points = " ".join(f"{x(v):.1f},{y(f[column]):.1f}" for v, f in points)
            out.append(f'<polyline points="{path_points}" fill="none" stroke="{colour}" stroke-width="2"/>')
            ends.append((y(points[-1][1][column]), column, colour))
        last = -100
        for end, column, colour in sorted(ends):
            last = max(end, last + 14)
            out.append(f'<text x="{width - 104}" y="{last + 4:.0f}" fill="{colour}">{column}</text>')
    total = height * len(rows)
    with open(path, "w") as file:
        file.write(f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{total}" '
                   f'viewBox="0 0 {width} {total}" font-family="sans-serif" font-size="12">\n'
                   f'<rect width="{width}" height="{total}" fill="white"/>\n'
                   + "\n".join(out) + "\n</svg>\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=400000)
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--keys", type=int, default=1000000)
    parser.add_argument("--rate", type=float, default=30000, help="calls a second, of all nodes")
    parser.add_argument("--exponent", type=float, default=1.0, help="of Zipf's law")
    parser.add_argument("--capacity", type=float, default=1000)
    parser.add_argument("--refill", type=float, default=200)
    parser.add_argument("--round-trip", type=float, default=0.08)
    parser.add_argument("--seed", type=int, default=19)
    parser.add_argument("--short", action="store_true", help="few calls, and only the defaults")
    parser.add_argument("--svg")
    options = parser.parse_args()
    if options.short:
        options.calls, options.keys = min(options.calls, 40000), min(options.keys, 20000)

    trace = Trace(options.calls, options.nodes, options.keys, options.rate, options.exponent, options.seed)

    def simulate(share, least=LEAST, central=False):
        simulation = Simulation(trace, options.capacity, options.refill, options.round_trip, 0.5,
                                share, least=least, central=central)
        return figures(simulation.run(), options.capacity, options.refill, trace.seconds)

    print(f"{options.nodes} nodes, {options.keys} keys, {options.calls} calls in {trace.seconds:.0f} s, "
          f"capacity {options.capacity:g}, refill {options.refill:g}, round trip "
          f"{options.round_trip * 1000:g} ms, seed {options.seed}")
    print(f"{'':<14}" + "".join(f"{column:>9}" for column in COLUMNS))
    central = simulate(0, central=True)
    central["unfair"] = 0.0
    print(line("no leases", central))
    above = central["above"]
    rows = []
    found = simulate(0.5)
    found["unfair"] = unfair(found, central)
    above += found["above"]
    print(line("as it is", found), flush=True)
    for name, values in (("least", [1, 3, 10, 30, 100, 300]), ("SHARE", [0.25, 0.5, 1, 3, 10, 30])):
        points = []
        for value in [] if options.short else values:
            found = simulate(1e9, value) if name == "least" else simulate(value, MUCH)
            found["unfair"] = unfair(found, central)
            above += found["above"]
            points.append((value, found))
            print(line(f"{name} {value:g}", found), flush=True)
        rows.append(("tokens that a portion has at least" if name == "least" else
                     "SHARE: what all servers get at a time, in parts of what the bucket has", points))
    print(f"keys above capacity + refill x t: {above}")
    if options.svg and not options.short:
        svg(rows, (f"Portions of at least so many tokens (capacity {options.capacity:g}, {options.nodes} nodes)",
                   f"Portions of {MUCH} tokens, but at most the share of the server"),
            options.svg)
    return above


if __name__ == "__main__":
    raise SystemExit(main() > 0)
