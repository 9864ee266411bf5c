"""One end of an IPsec association between two IPv6 hosts, in user space: ESP (RFC 4303) with AES-GCM, transport mode.

esp_end.py answer LOCAL REMOTE KEY         sends back the payload of every packet of the association; prints "ready"
esp_end.py ask LOCAL REMOTE KEY SECONDS    prints "ready"; sends each line of standard input, and prints the payload that
                                           comes back, or "nothing" after so many seconds
"""

import socket
import sys

from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import ESP, SecurityAssociation
from scapy.packet import Raw

SPI, PORT = 0x1000, 4242
what, local, remote, key = sys.argv[1:5]
association = SecurityAssociation(ESP, spi=SPI, crypt_algo="AES-GCM", crypt_key=bytes.fromhex(key))
link = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ESP)
link.bind((local, 0))


def send(text):
    packet = association.encrypt(IPv6(src=local, dst=remote) / UDP(sport=PORT, dport=PORT) / Raw(text))
    link.sendto(bytes(packet[ESP]), (remote, 0))


def receive():
    """The payload of the next packet of the association; what does not belong to it is dropped."""
    while True:
        octets, sender = link.recvfrom(65536)
        if sender[0] != remote:
            continue
        try:
            clear = association.decrypt(IPv6(src=remote, dst=local, nh=socket.IPPROTO_ESP) / ESP(octets), verify=True)
        except Exception as error:  # scapy raises what its cipher does
            print(f"not of the association: {error!r}", file=sys.stderr)
            continue
        return bytes(clear[UDP].payload)


if what == "answer":
    print("ready", flush=True)
    while True:
        send(receive())
else:
    print("ready", flush=True)
    link.settimeout(float(sys.argv[5]))
    for line in sys.stdin:
        try:
            send(line.strip().encode())
            print(receive().decode(), flush=True)
        except TimeoutError:
            print("nothing", flush=True)
