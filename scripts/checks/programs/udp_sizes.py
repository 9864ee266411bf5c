"""Sends one datagram of every size from 0 to LARGEST bytes and wants each back unchanged.

Usage: udp_sizes.py ADDRESS PORT LARGEST. Prints how many came back.
"""

import random
import socket
import sys

address, port, largest = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
client = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(2)
client.connect((address, port))
random.seed(1)
for size in range(largest + 1):
    sent = random.randbytes(size)
    client.send(sent)
    try:
        got = client.recv(65535)
    except TimeoutError:
        sys.exit(f"no answer to {size} bytes")
    if got != sent:
        sys.exit(f"{size} bytes came back as {len(got)} others")
print(largest + 1)
