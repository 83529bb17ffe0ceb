"""
What is no home, though it looks like one at first: it speaks PostgreSQL's protocol, and "answer"
says what comes in place of portions.
"""

import os
import socket
import struct
import threading


def message(kind, body=b""):
    return kind + struct.pack("!i", len(body) + 4) + body


def rows(*values):
    """An answer with these rows of texts; None is null."""
    columns = len(values[0]) if values else 4
    column = b"c\0" + struct.pack("!ihihih", 0, 0, 25, -1, -1, 0)
    answer = [message(b"T", struct.pack("!h", columns) + column * columns)]
    for row in values:
        cells = b"".join(
            struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + value.encode()
            for value in row
        )
        answer.append(message(b"D", struct.pack("!h", columns) + cells))
    return b"".join(answer) + message(b"C", b"SELECT\0")


class Liar:
    port = 5432

    def __init__(self, folder):
        self.folder = folder
        self.answer = rows(("10", "10", "0", "7"))
        self.asked = 0
        os.makedirs(folder, exist_ok=True)
        os.chmod(folder, 0o777)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(f"{folder}/.s.PGSQL.{self.port}")
        self.listener.listen(16)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            threading.Thread(target=self.talk, args=(client.makefile("rwb"),), daemon=True).start()

    def talk(self, file):
        try:
            size = struct.unpack("!i", file.read(4))[0]
            file.read(size - 4)
            file.write(message(b"R", struct.pack("!i", 0)) + message(b"Z", b"I"))
            query = b""
            while True:
                file.flush()
                kind = file.read(1)
                if kind in (b"", b"X"):
                    return
                body = file.read(struct.unpack("!i", file.read(4))[0] - 4)
                if kind == b"P":
                    query = body
                if kind != b"S":
                    continue
                file.write(message(b"1") + message(b"2"))
                if b"pg_extension" in query:
                    file.write(rows(("public", "")))
                elif b"rl_lease_epoch" in query:
                    file.write(rows(("7",)))
                elif b"rl_lease_take" in query:
                    self.asked += 1
                    file.write(self.answer)
                else:
                    file.write(rows(("0",)))
                file.write(message(b"Z", b"I"))
        except (OSError, struct.error):
            pass
