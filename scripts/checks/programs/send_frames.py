"""Sends Ethernet frames as they are. Usage: send_frames.py DEVICE, frames as hexadecimal lines on standard input."""

import socket
import sys

device = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
device.bind((sys.argv[1], 0))
for line in sys.stdin:
    device.send(bytes.fromhex(line))
