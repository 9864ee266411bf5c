"""One datagram and its answer. Usage: udp_ask.py ADDRESS PORT TEXT. Prints "SENDER PORT TEXT"; code 1 without answer."""

import socket
import sys

address, port, text = sys.argv[1], int(sys.argv[2]), sys.argv[3]
client = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(3)
client.sendto(text.encode(), (address, port))
try:
    payload, sender = client.recvfrom(2048)
except (TimeoutError, ConnectionRefusedError) as error:
    sys.exit(f"no answer from {address} port {port}: {error}")
print(sender[0], sender[1], payload.decode())
