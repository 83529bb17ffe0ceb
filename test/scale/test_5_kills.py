"""Nodes are killed at random, and partitions are moved, while keys are called."""

import random
import time
import unittest

from servers import MOVE_WAIT, NODES, SECONDS, SEED, error_of, key_on, make_servers, node_of, servers, until
from test_3_exact import Callers


class Kills(unittest.TestCase):
    def test_random_kills(self) -> None:
        """A node that crashes has the buckets of its last saved state, if any: so of each key, at
        most its tokens are taken between two crashes of the node that has it.
        """
        make_servers()
        proxy = servers["proxy"]
        proxy.ask("UPDATE rate_limit_proxy SET on_error = 'deny', move_wait = '5s'")
        chance = random.Random(SEED)
        capacity = 300
        keys = [key_on(node, f"chaos{i}-") for node in NODES for i in range(4)]
        most = dict.fromkeys(keys, capacity)
        callers = Callers(keys, capacity)
        end = time.monotonic() + SECONDS
        kills = moves = 0
        while time.monotonic() < end:
            name = chance.choice(NODES)
            if chance.random() < 0.5:
                for key in keys:
                    if node_of(key) == name:
                        most[key] += capacity
                servers[name].kill()
                time.sleep(chance.random() * 0.3)
                servers[name].start_again()
                kills += 1
            else:
                key = chance.choice(keys)
                error = error_of("proxy", f"CALL rl_move_partition(_rl_partition('{key}', 'default'), '{name}')")
                # 55P03: a call on the node takes longer than a second
                self.assertRegex(str(error[0]), "^(no error|08|57P|XX|55P03)", error)
                moves += error == ("no error",)
            time.sleep(chance.random() * 0.3)
        # all are there again, moves that failed are undone, and each key is decided
        for partition, node in proxy.ask(
                "SELECT DISTINCT p.partition, node FROM rate_limit_partitions p JOIN unnest(%s::text[]) k"
                " ON p.partition = _rl_partition(k, 'default')", keys):
            until(lambda: error_of("proxy", f"CALL rl_move_partition({partition}, '{node}')") == ("no error",))
        # no caller has to wait any more
        proxy.ask("UPDATE rate_limit_proxy SET on_error = 'error', move_wait = %s", MOVE_WAIT)
        for node in NODES:
            until(lambda: error_of("proxy", f"SELECT rl_consume('{key_on(node, 'after')}', 9, 0)") == ("no error",))
        until(lambda: min(callers.allowed.values()) > 0 or callers.failed)
        callers.end()
        self.assertGreater(kills, 0)
        self.assertGreater(min(callers.allowed.values()), 0)
        over = {key: (callers.allowed[key], most[key]) for key in keys if callers.allowed[key] > most[key]}
        self.assertEqual(over, {})
        print(f"# random kills: seed {SEED}, {SECONDS} s: {kills} kills, {moves} moves, {callers.calls} calls,"
              f" {sum(callers.allowed.values())} tokens, longest call {callers.longest:.2f} s", flush=True)
