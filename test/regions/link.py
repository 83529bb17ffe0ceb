#!/usr/bin/env python3
"""
test/regions/link.py MILLISECONDS LOSS: two network namespaces with a link between them that
takes so long in each direction, and loses such a part of the packets.

Where the kernel has it, tc's netem does both.  Where it does not, this program passes the packets
on between the two ends of the link: it reads and writes them as they are, with the kernel's
notes on them (PACKET_VNET_HDR), so TCP does what it does on any link that is slow and loses
packets.

It works in namespaces of its own, which any user may make unless the kernel forbids it, and so
changes nothing outside.  It prints one line, "HOW PID PID", the processes that hold the two
namespaces open, and ends when its standard input is closed.  A line of its input is another part
of the packets to lose, from when it has printed that line.  The addresses are 10.19.0.1 and
10.19.0.2.  If namespaces cannot be had it prints "none: REASON".
"""

import heapq
import itertools
import os
import random
import select
import socket
import subprocess
import sys
import time

SOL_PACKET = 263
PACKET_VNET_HDR = 15
ETH_P_ALL = 3
OUTGOING = 4


def run(*command):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")


def namespace():
    """A process in a network namespace of its own."""
    mine = os.readlink("/proc/self/ns/net")
    # it ends with this one, however this one does
    process = subprocess.Popen(["unshare", "-n", "cat"], stdin=subprocess.PIPE)
    while os.readlink(f"/proc/{process.pid}/ns/net") == mine:
        if process.poll() is not None:
            raise OSError("unshare has failed")
        time.sleep(0.01)
    return process


def inside(process, *command):
    run("nsenter", "-t", str(process.pid), "-n", *command)


def bring_up(process, device, address):
    run("ip", "link", "set", "dev", device, "netns", str(process.pid))
    inside(process, "ip", "link", "set", "dev", "lo", "up")
    inside(process, "ip", "addr", "add", f"{address}/24", "dev", device)
    inside(process, "ip", "link", "set", "dev", device, "up")


def qdisc(process, device, milliseconds, loss):
    inside(process, "tc", "qdisc", "replace", "dev", device, "root", "netem", "delay",
           f"{milliseconds}ms", "loss", f"{100 * loss}%")


def netem(regions, milliseconds, loss):
    """A cable between the two, with netem at both ends."""
    run("ip", "link", "add", "name", "left", "type", "veth", "peer", "name", "right")
    try:
        run("tc", "qdisc", "add", "dev", "left", "root", "netem")
    except OSError:
        run("ip", "link", "del", "dev", "left")
        return False
    for process, device, address in zip(regions, ("left", "right"), ("10.19.0.1", "10.19.0.2")):
        bring_up(process, device, address)
        # a device that moves loses its qdisc
        qdisc(process, device, milliseconds, loss)
    return True


def cables(regions):
    """A cable from each of the two to here: sockets that see their packets."""
    ends = []
    for process, name, address in zip(regions, ("a", "b"), ("10.19.0.1", "10.19.0.2")):
        run("ip", "link", "add", "name", f"here{name}", "type", "veth", "peer", "name", f"end{name}")
        bring_up(process, f"end{name}", address)
        run("ip", "link", "set", "dev", f"here{name}", "up", "promisc", "on")
        end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        end.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        end.bind((f"here{name}", ETH_P_ALL))
        end.setblocking(False)
        ends.append(end)
    return ends


def pass_on(ends, delay, loss):
    chance = random.Random(19)
    waiting = []
    number = itertools.count()
    while True:
        timeout = max(0, waiting[0][0] - time.monotonic()) if waiting else None
        ready, _, _ = select.select([*ends, sys.stdin], [], [], timeout)
        if sys.stdin in ready:
            line = sys.stdin.readline()
            if not line:
                return
            loss = float(line)
            print(line, end="", flush=True)
        now = time.monotonic()
        for end in ends:
            while end in ready:
                try:
                    packet, address = end.recvfrom(1 << 17)
                except OSError:
                    break
                # not those that were written here
                if address[2] != OUTGOING and chance.random() >= loss:
                    other = ends[1 - ends.index(end)]
                    heapq.heappush(waiting, (now + delay, next(number), other, packet))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, other, packet = heapq.heappop(waiting)
            try:
                other.send(packet)
            except OSError:
                pass


def main():
    milliseconds, loss = float(sys.argv[1]), float(sys.argv[2])
    if "in" not in sys.argv[3:]:
        os.execvp("unshare", ["unshare", "-Un", "--map-current-user", "--keep-caps", sys.executable,
                              "-B", os.path.abspath(__file__), *sys.argv[1:3], "in"])
    regions = []
    try:
        regions = [namespace(), namespace()]
        if netem(regions, milliseconds, loss):
            ends = None
        else:
            ends = cables(regions)
        print("netem" if ends is None else "relay", *(process.pid for process in regions), flush=True)
        if ends is None:
            for line in sys.stdin:
                for process, device in zip(regions, ("left", "right")):
                    qdisc(process, device, milliseconds, float(line))
                print(line, end="", flush=True)
        else:
            pass_on(ends, milliseconds / 1000, loss)
    except OSError as error:
        print(f"none: {error}", flush=True)
    finally:
        for process in regions:
            process.kill()


main()
