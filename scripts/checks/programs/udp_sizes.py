"""Sends one datagram of every size from SMALLEST to LARGEST bytes and wants each back unchanged.

Usage: udp_sizes.py ADDRESS PORT LARGEST [SMALLEST [STEP]], from 0 in steps of 1. Prints how many came back.
"""

import random
import socket
import sys

address, port, largest, smallest, step = sys.argv[1], *map(int, [*sys.argv[2:], *("0", "1")[len(sys.argv) - 4:]])
client = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(2)
client.connect((address, port))
random.seed(1)
sizes = range(smallest, largest + 1, step)
for size in sizes:
    sent = random.randbytes(size)
    client.send(sent)
    try:
        got = client.recv(65535)
    except TimeoutError:
        sys.exit(f"no answer to {size} bytes")
    if got != sent:
        sys.exit(f"{size} bytes came back as {len(got)} others")
print(len(sizes))
