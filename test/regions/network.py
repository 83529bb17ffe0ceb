"""
Two network namespaces, and a link between them: link.py, for the tests of regions and of scaling out.
"""

import os
import subprocess
import sys


class Link:
    """
    A link that takes so many milliseconds in each direction, and loses such a part of the packets.
    "regions": what starts programs in the one namespace and in the other, whose addresses are
    10.19.0.1 and 10.19.0.2.  "how" is None if there are no namespaces here: "why".
    """

    def __init__(self, milliseconds, loss):
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "link.py")
        self.process = subprocess.Popen(
            [sys.executable, "-B", script, str(milliseconds), str(loss)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        answer = self.process.stdout.readline().split()
        self.how = answer[0] if answer and answer[0] in ("netem", "relay") else None
        self.why = " ".join(answer)
        self.regions = [
            ("nsenter", "-t", pid, "-U", "--preserve-credentials", "-n")
            for pid in answer[1:3]
        ] if self.how else []

    def lose(self, loss):
        """From now on such a part of the packets is lost; 1: both ends fall silent."""
        self.process.stdin.write(f"{loss}\n")
        self.process.stdin.flush()
        self.process.stdout.readline()

    def close(self):
        self.process.stdin.close()
        self.process.wait()
