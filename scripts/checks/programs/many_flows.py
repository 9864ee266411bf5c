"""Many UDP flows, and a steady stream over all of them, until SIGTERM.

Usage: many_flows.py SOURCE FIRST_ADDRESS ADDRESSES PORT SOCKETS PACKETS_A_SECOND
A flow goes from one of SOCKETS ports of SOURCE to PORT of one of ADDRESSES addresses, whose host runs many_echo.py.
Prints "open" when each flow has had its answer, and at the end {"sent", "received"} of the stream.
"""

import ipaddress
import json
import selectors
import signal
import socket
import sys
import time

source, first, addresses, port, sockets, rate = sys.argv[1], *sys.argv[2:]
port, rate = int(port), int(rate)
ends = [(str(ipaddress.ip_address(first) + number), port) for number in range(int(addresses))]
# Answers that may be under way while flows are opened: the ports of a lab hold some hundreds of frames.
WINDOW = 128

clients, selector = [], selectors.DefaultSelector()
for _ in range(int(sockets)):
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    client.bind((source, 0))
    client.setblocking(False)
    selector.register(client, selectors.EVENT_READ)
    clients.append(client)
flows = [(client, end) for client in clients for end in ends]
seen = set()
running = True


def end(*_):
    global running
    running = False


signal.signal(signal.SIGTERM, end)


def receive(seconds):
    """Takes the numbers that come within `seconds`."""
    for key, _ in selector.select(max(seconds, 0)):
        try:
            while True:
                seen.add(int.from_bytes(key.fileobj.recv(64), "big"))
        except BlockingIOError:
            pass


def send(number):
    client, to = flows[number % len(flows)]
    client.sendto(number.to_bytes(8, "big"), to)


deadline = time.monotonic() + 20
for number in range(len(flows)):
    send(number)
    # The first alone: the hosts on the way look for each other with it.
    while number + 1 - len(seen) >= (WINDOW if number else 1) and time.monotonic() < deadline:
        receive(0.05)
while len(seen) < len(flows) and time.monotonic() < deadline:
    receive(0.05)
if len(seen) < len(flows):
    sys.exit(f"{len(flows) - len(seen)} of {len(flows)} flows without an answer")
seen.clear()
print("open", flush=True)
sent, began = 0, time.monotonic()
while running:
    if time.monotonic() >= began + sent / rate:
        send(sent)
        sent += 1
    receive(began + sent / rate - time.monotonic())
deadline = time.monotonic() + 2
while len(seen) < sent and time.monotonic() < deadline:
    receive(0.1)
print(json.dumps({"sent": sent, "received": len(seen)}))
