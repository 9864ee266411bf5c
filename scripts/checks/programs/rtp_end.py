"""One end of an audio stream: RTP at a port, RTCP at the next (RFC 3550). Usage: rtp_end.py ADDRESS PORT SSRC

Commands on standard input:
  send ADDRESS PORT COUNT   so many packets of 20 ms PCMU to a port, and a sender report to the next
  heard                     prints what came so far: for each sender and SSRC the packets, and the highest sequence number
"""

import json
import os
import select
import socket
import struct
import sys
import time

address, port, ssrc = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
INTERVAL = 0.005  # seconds between packets: four times real time
sockets = {}
for name, at in (("rtp", port), ("rtcp", port + 1)):
    sockets[name] = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    sockets[name].bind((address, at))
heard = {"rtp": {}, "rtcp": {}}
sequence = 0
waiting = []  # (address, port, packets left)


def hear(name):
    octets, sender = sockets[name].recvfrom(2048)
    if len(octets) < 12 or octets[0] >> 6 != 2:
        return
    if name == "rtp":
        _, _, number, _, source = struct.unpack("!BBHII", octets[:12])
    else:
        number, source = octets[1], struct.unpack("!I", octets[4:8])[0]
    key = f"{sender[0]} {sender[1]} {source}"
    row = heard[name].setdefault(key, {"packets": 0, "last": 0})
    row["packets"] += 1
    row["last"] = max(row["last"], number)


def send_one(to):
    global sequence
    sequence += 1
    packet = struct.pack("!BBHII", 0x80, 0, sequence & 0xFFFF, sequence * 160 & 0xFFFFFFFF, ssrc) + bytes([0xFF]) * 160
    sockets["rtp"].sendto(packet, to)


def report(to):
    now = time.time() + 2208988800
    body = struct.pack("!IIIII", int(now), int(now % 1 * 2**32), sequence * 160 & 0xFFFFFFFF, sequence, sequence * 160)
    sockets["rtcp"].sendto(struct.pack("!BBHI", 0x80, 200, 6, ssrc) + body, (to[0], to[1] + 1))


print("ready", flush=True)
buffered, next_at = b"", 0.0
while True:
    pause = max(0.0, next_at - time.monotonic()) if waiting else None
    ready, _, _ = select.select([0, *sockets.values()], [], [], pause)
    for name, at in sockets.items():
        if at in ready:
            hear(name)
    if waiting and time.monotonic() >= next_at:
        to, left = waiting[0]
        if left:
            send_one(to)
            waiting[0] = (to, left - 1)
        else:
            report(to)
            waiting.pop(0)
        next_at = time.monotonic() + INTERVAL
    if 0 in ready:
        octets = os.read(0, 65536)
        if not octets:
            break
        *lines, buffered = (buffered + octets).split(b"\n")
        for line in lines:
            word, *rest = line.decode().split()
            if word == "send":
                waiting.append(((rest[0], int(rest[1])), int(rest[2])))
            else:
                print(json.dumps(heard), flush=True)
