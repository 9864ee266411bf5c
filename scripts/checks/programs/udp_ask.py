"""One datagram and its answer. Usage: udp_ask.py ADDRESS PORT TEXT [SECONDS [SOURCE_PORT]].
Prints "SENDER PORT TEXT"; code 1 without answer.
"""

import socket
import sys

address, port, text = sys.argv[1], int(sys.argv[2]), sys.argv[3]
client = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(float(sys.argv[4]) if len(sys.argv) > 4 else 3)
if len(sys.argv) > 5:
    client.bind(("", int(sys.argv[5])))
client.sendto(text.encode(), (address, port))
try:
    payload, sender = client.recvfrom(2048)
except (TimeoutError, ConnectionRefusedError) as error:
    sys.exit(f"no answer from {address} port {port}: {error}")
print(sender[0], sender[1], payload.decode())
