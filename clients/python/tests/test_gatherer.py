"""Calls of one turn are one query, and how many queries are under way is found from load."""

from __future__ import annotations

import asyncio
import unittest
from typing import Any, Sequence

from support import AsyncTestCase

from ratelimit_postgresql._gatherer import Gatherer


class Call:
    def __init__(self, number: int) -> None:
        self.number = number
        self.since = 0.0
        self.future = asyncio.get_running_loop().create_future()


class Simulation:
    """A clock, and queries that take as long as "cost" says."""

    def __init__(self, cost: Any, most: int = 8) -> None:
        self.time = 0.0
        self.cost = cost
        self.sent: list[list[int]] = []
        self.running: list[tuple[float, asyncio.Future[None]]] = []
        self.gatherer = Gatherer(
            run=self.run,
            settle=self.settle,
            fail=self.fail,
            report=lambda *details: None,
            most=most,
            max_calls=1000,
            timeout=10,
            now=lambda: self.time,
        )

    async def run(self, calls: Sequence[Call], seconds: float) -> Sequence[int]:
        self.sent.append([call.number for call in calls])
        done = asyncio.get_running_loop().create_future()
        self.running.append((self.time + self.cost(len(calls), len(self.running) + 1), done))
        await done
        return [call.number for call in calls]

    def settle(self, calls: Sequence[Call], answers: Sequence[int]) -> None:
        for call, answer in zip(calls, answers):
            if not call.future.done():
                call.future.set_result(answer)

    def fail(self, calls: Sequence[Call], error: Exception) -> None:
        for call in calls:
            call.future.set_exception(error)

    async def settled(self) -> None:
        """Let what is ready run, and then what ends first end."""
        for _ in range(5):
            await asyncio.sleep(0)
        if self.running:
            first = min(self.running, key=lambda entry: entry[0])
            self.running.remove(first)
            self.time = max(self.time, first[0])
            first[1].set_result(None)


class Gathering(AsyncTestCase):
    async def test_one_turn_one_query_in_order(self) -> None:
        s = Simulation(lambda size, running: 0.001)
        calls = [Call(i) for i in range(8)]
        for call in calls:
            s.gatherer.add(call)
        calls[3].future.cancel()
        await s.settled()
        await asyncio.sleep(0)
        self.assertEqual(s.sent, [[0, 1, 2, 4, 5, 6, 7]], "one that is cancelled is not sent")
        s.gatherer.add(Call(8))
        await s.settled()
        self.assertEqual(s.sent[1:], [[8]], "the next turn is another one")

    async def test_many_calls_are_several_queries(self) -> None:
        s = Simulation(lambda size, running: 0.001)
        calls = [Call(i) for i in range(100)]
        for call in calls:
            s.gatherer.add(call)
        for _ in range(10):
            await s.settled()
        self.assertEqual([call.future.result() for call in calls], list(range(100)))
        self.assertEqual(sorted(map(len, s.sent), reverse=True)[0], 50)

    async def load(self, s: Simulation, callers: int, queries: int) -> int:
        """So many callers, each of which calls again when it is answered."""

        async def caller() -> None:
            while len(s.sent) < queries:
                call = Call(0)
                s.gatherer.add(call)
                await call.future

        tasks = [asyncio.create_task(caller()) for _ in range(callers)]
        while not all(task.done() for task in tasks):
            await s.settled()
        await asyncio.gather(*tasks)
        return s.gatherer.n

    async def test_what_costs_least_is_found(self) -> None:
        # a query that costs as much whatever else runs: more of them at a time are better
        parallel = Simulation(lambda size, running: 0.001 + 0.0001 * size)
        self.assertGreaterEqual(await self.load(parallel, 64, 1000), 4)
        # a server that does one after the other: fewer are better
        serial = Simulation(lambda size, running: (0.002 + 0.00001 * size) * running * running)
        self.assertEqual(await self.load(serial, 64, 600), 1)

    async def test_few_calls_teach_nothing(self) -> None:
        s = Simulation(lambda size, running: 0.001)
        self.assertEqual(await self.load(s, 4, 300), 2)

    async def test_settled(self) -> None:
        s = Simulation(lambda size, running: 0.001)
        await s.gatherer.settled()
        call = Call(1)
        s.gatherer.add(call)
        waiting = asyncio.create_task(s.gatherer.settled())
        await s.settled()
        await waiting
        self.assertEqual(call.future.result(), 1)


if __name__ == "__main__":
    unittest.main()
