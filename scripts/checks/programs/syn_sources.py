"""Counts the hosts that open connections. Usage: syn_sources.py PORT WANTED SECONDS

Prints "counting", then how many sources of SYN segments to the port there were when WANTED had come, or after SECONDS.
"""

import socket
import sys
import time

port, wanted, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
segments = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
SO_RCVBUFFORCE = 33
segments.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
print("counting", flush=True)
sources = set()
deadline = time.monotonic() + seconds
while len(sources) < wanted and time.monotonic() < deadline:
    segments.settimeout(max(0.01, deadline - time.monotonic()))
    try:
        packet = segments.recv(256)
    except TimeoutError:
        break
    header = packet[0] % 16 * 4
    to, flags = int.from_bytes(packet[header + 2:header + 4], "big"), packet[header + 13]
    if to == port and flags & 0x3F == 0x02:
        sources.add(packet[12:16])
print(len(sources), flush=True)
