"""bench.py: what a proxy costs, on this machine, as test/scale/run bench prints it.

Nodes, proxy and callers share the processors.  So the figures say how much more work a call is
through a proxy, and not how many calls nodes on machines of their own would decide.
"""

from __future__ import annotations

import os
import statistics
import subprocess
from pathlib import Path

from servers import WORK, Server, make_servers, servers

SECONDS = 4
ROUNDS = 3

CALLS = {
    "nothing": "SELECT 1;",
    "rl_consume": "\\set k random(1, 10000)\nSELECT rl_consume('user:' || :k, 1e6, 1e6);",
    "rl_consume_each, 100 keys": "\\set k random(1, 10000)\nSELECT rl_consume_each(ARRAY(SELECT 'user:' || (:k + i) FROM generate_series(1, 100) i), 1e6, 1e6);",
}


def pgbench(server: Server, call: str, clients: int) -> tuple[float, float, float]:
    """Calls a second, and the milliseconds that half of them, and 99 of 100, take at most."""
    script = WORK / "bench.sql"
    script.write_text(CALLS[call])
    for old in WORK.glob("bench.log.*"):
        old.unlink()
    command = ["pgbench", "-n", "-h", str(WORK), "-p", str(server.port), "-U", "postgres", "-M", "prepared", "-c", str(clients), "-j", "2",
               "-T", str(SECONDS), "-f", str(script), "-l", f"--log-prefix={WORK / 'bench.log'}", "postgres"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    took: list[int] = []
    for log in WORK.glob("bench.log.*"):
        took += [int(line.split()[2]) for line in Path(log).read_text().splitlines()]
    took.sort()
    rate = next(float(line.split()[2]) for line in done.stdout.splitlines() if line.startswith("tps"))
    return rate, took[len(took) // 2] / 1000, took[len(took) * 99 // 100] / 1000


def main() -> None:
    make_servers()
    print(f"medians of {ROUNDS} rounds of {SECONDS} s; {os.cpu_count()} processors for nodes, proxy and pgbench")
    print(f"{'call':28}{'clients':>8}{'server':>26}{'calls/s':>10}{'p50, ms':>10}{'p99, ms':>10}")
    for call in CALLS:
        for clients in (1, 8):
            rounds: dict[str, list[tuple[float, float, float]]] = {"alone": [], "proxy": []}
            for _ in range(ROUNDS):
                for name, results in rounds.items():
                    results.append(pgbench(servers[name], call, clients))
            for name, results in rounds.items():
                rate, p50, p99 = (statistics.median(column) for column in zip(*results))
                title = {"alone": "one server", "proxy": "proxy and three nodes"}[name]
                print(f"{call:28}{clients:8}{title:>26}{rate:10.0f}{p50:10.3f}{p99:10.3f}", flush=True)


if __name__ == "__main__":
    main()
