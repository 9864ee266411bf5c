"""A 6to4 router (RFC 3056) in user space. Usage: six_to_four.py DEVICE

Makes a TUN device; what is sent to it goes in IPv4, protocol 41, to the address within the destination 2002:V4::/48, and
what comes so goes to the device, if the source within is that of the packet around it (RFC 3964). Prints "ready".
"""

import fcntl
import os
import select
import socket
import struct
import sys

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
device = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", sys.argv[1].encode(), IFF_TUN | IFF_NO_PI))
around = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IPV6)
print("ready", flush=True)


def within(address):
    """The IPv4 address in a 6to4 address; None in others."""
    return socket.inet_ntoa(address[2:6]) if address[:2] == b"\x20\x02" else None


while True:
    ready, _, _ = select.select([device, around], [], [])
    if device in ready:
        packet = os.read(device, 65536)
        to = within(packet[24:40]) if packet[0] >> 4 == 6 else None
        if to:
            around.sendto(packet, (to, 0))
    if around in ready:
        octets, (source, _) = around.recvfrom(65536)
        packet = octets[octets[0] % 16 * 4:]
        if len(packet) >= 40 and packet[0] >> 4 == 6 and within(packet[8:24]) == source:
            os.write(device, packet)
