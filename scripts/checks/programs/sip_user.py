"""What the user of a sipp telephone does: a MESSAGE with the headers of its call. Usage: sip_user.py ADDRESS PORT, headers
on standard input.
"""

import socket
import sys

address, port = sys.argv[1], int(sys.argv[2])
lines = [line for line in sys.stdin.read().splitlines() if line]
text = "\r\n".join(["MESSAGE sip:telephone SIP/2.0", *lines, "Content-Length: 0", "", ""])
hand = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
hand.sendto(text.encode(), (address, port))
