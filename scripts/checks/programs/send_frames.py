"""Sends Ethernet frames as they are. Usage: send_frames.py DEVICE [PER_SECOND], frames as hexadecimal lines on standard input."""

import socket
import sys
import time

device = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
device.bind((sys.argv[1], 0))
interval = 1 / float(sys.argv[2]) if len(sys.argv) > 2 else 0
due = time.monotonic()
for line in sys.stdin:
    device.send(bytes.fromhex(line))
    due += interval
    # In small lots: a sleep takes longer than a packet.
    ahead = due - time.monotonic()
    if interval and ahead > 0.002:
        time.sleep(ahead)
