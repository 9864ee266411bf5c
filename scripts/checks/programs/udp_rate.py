"""A steady stream of datagrams against an echo server, until SIGTERM.

Usage: udp_rate.py ADDRESS PORT PACKETS_A_SECOND
Prints at the end {"sent", "received", "longest_gap_ms", "missing": first sequence numbers that did not come back}.
"""

import json
import selectors
import signal
import socket
import sys
import time

address, port, rate = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
client = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
client.connect((address, port))
client.setblocking(False)
running = True


def end(*_):
    global running
    running = False


signal.signal(signal.SIGTERM, end)
selector = selectors.DefaultSelector()
selector.register(client, selectors.EVENT_READ)
sent, seen = 0, set()
longest_gap, last = 0.0, time.monotonic()
began = last


def receive(seconds):
    """Takes what comes within `seconds`."""
    global longest_gap, last
    if not selector.select(max(seconds, 0)):
        return
    try:
        while True:
            seen.add(int.from_bytes(client.recv(2048)[:8], "big"))
            now = time.monotonic()
            longest_gap, last = max(longest_gap, now - last), now
    except (BlockingIOError, ConnectionRefusedError):
        pass


while running:
    due = began + sent / rate
    if time.monotonic() >= due:
        try:
            client.send(sent.to_bytes(8, "big") + bytes(92))
            sent += 1
        except (BlockingIOError, ConnectionRefusedError):
            pass
    receive(due + 1 / rate - time.monotonic())
deadline = time.monotonic() + 2
while len(seen) < sent and time.monotonic() < deadline:
    receive(0.1)
missing = [number for number in range(sent) if number not in seen]
print(json.dumps({"sent": sent, "received": len(seen), "longest_gap_ms": round(longest_gap * 1000), "missing": missing[:20]}))
