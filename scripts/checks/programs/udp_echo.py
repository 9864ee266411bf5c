"""UDP server on both families. Usage: udp_echo.py PORT [report]

Sends every datagram back; with "report" the sender's address and port instead.
"""

import socket
import sys

port, report = int(sys.argv[1]), sys.argv[2:] == ["report"]
server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
server.bind(("::", port))
while True:
    payload, peer = server.recvfrom(65535)
    if report:
        payload = f"{peer[0].removeprefix('::ffff:')} {peer[1]}".encode()
    server.sendto(payload, peer)
