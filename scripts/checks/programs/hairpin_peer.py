"""An application behind the box that others reach at its external address.

Usage: hairpin_peer.py REPORT_ADDRESS REPORT_PORT
Learns its external end from the report server, prints it, then prints every sender and answers it.
"""

import socket
import sys

peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
peer.settimeout(10)
report = (sys.argv[1], int(sys.argv[2]))
peer.sendto(b"where am I?", report)
print(peer.recv(100).decode(), flush=True)
while True:
    payload, sender = peer.recvfrom(2048)
    print(sender[0], sender[1], flush=True)
    peer.sendto(b"answer to " + payload, sender)
