"""UDP server of every address of its host, which answers from the one it was asked at. Usage: many_echo.py PORT"""

import socket
import sys

IP_PKTINFO = 8
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
server.bind(("0.0.0.0", int(sys.argv[1])))
while True:
    payload, ancillary, _, peer = server.recvmsg(2048, 64)
    server.sendmsg([payload], ancillary, 0, peer)
