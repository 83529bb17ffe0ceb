"""
A relay between a server and a home, through sockets of the file system.  It can be cut at any
moment: also after a question has passed, and before its answer has.
"""

import os
import random
import select
import socket
import threading
import time


class Relay:
    def __init__(self, folder, to_folder, to_port, port=5432):
        """Servers connect to "folder" as their host; "delay": seconds in each direction."""
        self.folder = folder
        self.port = port
        self.target = f"{to_folder}/.s.PGSQL.{to_port}"
        os.makedirs(folder, exist_ok=True)
        self.path = f"{folder}/.s.PGSQL.{port}"
        self.delay = 0
        self.down = False
        self.swallow = False  # answers do not come through
        self.cuts = 0
        self.pairs = set()
        self.lock = threading.Lock()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(16)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            home = socket.socket(socket.AF_UNIX)
            try:
                if self.down:
                    raise OSError
                home.connect(self.target)
            except OSError:
                client.close()
                home.close()
                continue
            pair = (client, home)
            with self.lock:
                self.pairs.add(pair)
            threading.Thread(target=self.pass_on, args=(client, home, False, pair), daemon=True).start()
            threading.Thread(target=self.pass_on, args=(home, client, True, pair), daemon=True).start()

    def pass_on(self, source, target, answers, pair):
        waiting = []
        try:
            while True:
                now = time.monotonic()
                timeout = max(0, waiting[0][0] - now) if waiting else None
                if select.select([source], [], [], timeout)[0]:
                    data = source.recv(65536)
                    if not data:
                        break
                    waiting.append((time.monotonic() + self.delay, data))
                while waiting and waiting[0][0] <= time.monotonic():
                    data = waiting.pop(0)[1]
                    if not (answers and self.swallow):
                        target.sendall(data)
        except (OSError, ValueError):
            pass
        self.cut_pair(pair)

    def cut_pair(self, pair):
        with self.lock:
            self.pairs.discard(pair)
        for end in pair:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut(self):
        """Break what is connected."""
        with self.lock:
            pairs = list(self.pairs)
        self.cuts += len(pairs)
        for pair in pairs:
            self.cut_pair(pair)

    def set_down(self, down):
        self.down = down
        if down:
            self.cut()

    def lose_answers(self, seconds):
        """For a while questions pass and answers do not, then the connections break."""
        self.swallow = True
        time.sleep(seconds)
        self.cut()
        self.swallow = False

    def trouble(self, seconds, seed, ready, enough):
        """
        Break the connections at random moments, some of them after answers were lost, and let
        them be ready in between: for so many seconds, or longer until it is enough.
        """
        chance = random.Random(seed)
        began = time.monotonic()
        until = began + seconds
        while time.monotonic() < until or not (enough() or time.monotonic() > began + seconds + 60):
            while not ready() and time.monotonic() < began + seconds + 60:
                time.sleep(0.005)
            time.sleep(chance.uniform(0, 0.2))
            if chance.random() < 0.5:
                self.lose_answers(chance.uniform(0, 0.05))
            else:
                self.cut()
