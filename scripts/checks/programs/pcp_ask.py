"""A PCP client (RFC 6887, RFC 7753), written from the RFCs alone. Prints what it gets as JSON, a line for each message.

pcp_ask.py announce SERVER
pcp_ask.py map SERVER PROTOCOL PORT [OPTIONS]
pcp_ask.py peer SERVER PROTOCOL PORT --remote ADDRESS PORT [OPTIONS]
pcp_ask.py listen SECONDS            announcements, and updates for --local-port

Code 1 without an answer. SERVER may have a zone, such as fe80::1%eth0.
"""

import argparse
import ipaddress
import json
import os
import select
import socket
import struct
import sys
import time

SERVER_PORT, CLIENT_PORT = 5351, 5350
VERSION = 2
OPCODES = {"announce": 0, "map": 1, "peer": 2}
PROTOCOLS = {"tcp": 6, "udp": 17, "all": 0}
RESULTS = [
    "SUCCESS", "UNSUPP_VERSION", "NOT_AUTHORIZED", "MALFORMED_REQUEST", "UNSUPP_OPCODE", "UNSUPP_OPTION", "MALFORMED_OPTION",
    "NETWORK_FAILURE", "NO_RESOURCES", "UNSUPP_PROTOCOL", "USER_EX_QUOTA", "CANNOT_PROVIDE_EXTERNAL", "ADDRESS_MISMATCH",
    "EXCESSIVE_REMOTE_PEERS",
]
THIRD_PARTY, PREFER_FAILURE, FILTER, PORT_SET = 1, 2, 3, 130


def to_field(text):
    """An address in 128 bits (section 5)."""
    address = ipaddress.ip_address(text.split("%")[0])
    return b"\0" * 10 + b"\xff\xff" + address.packed if address.version == 4 else address.packed


def from_field(field):
    """The same the other way: every one of the first 96 bits counts."""
    if field[:12] == b"\0" * 10 + b"\xff\xff":
        return str(ipaddress.IPv4Address(field[12:]))
    return str(ipaddress.IPv6Address(field))


def option(code, data=b""):
    """Figure 4: the length does not count the padding."""
    return struct.pack("!BBH", code, 0, len(data)) + data + b"\0" * (-len(data) % 4)


def request(arguments, client):
    """Figures 2, 9 and 11."""
    lifetime = 0 if arguments.what == "announce" else arguments.lifetime
    message = struct.pack("!BBHI", VERSION, OPCODES[arguments.what], 0, lifetime) + to_field(client)
    if arguments.what == "announce":
        return message
    family_zero = "::" if ":" in client else "0.0.0.0"
    address, port = arguments.suggest or (family_zero, 0)
    message += bytes.fromhex(arguments.nonce)
    message += struct.pack("!B3xHH", protocol(arguments.protocol), arguments.port, int(port)) + to_field(address)
    if arguments.what == "peer":
        address, port = arguments.remote
        message += struct.pack("!H2x", int(port)) + to_field(address)
    if arguments.third_party:
        message += option(THIRD_PARTY, to_field(arguments.third_party))
    if arguments.prefer_failure:
        message += option(PREFER_FAILURE)
    for prefix, port in arguments.filter or []:
        address, _, length = prefix.partition("/")
        bits = 0 if length == "none" else int(length or 128) + (96 if length and ":" not in address else 0)
        message += option(FILTER, struct.pack("!xBH", bits, int(port)) + to_field(address))
    if arguments.port_set:
        message += option(PORT_SET, struct.pack("!HHB", arguments.port_set, arguments.port, 1 if arguments.parity else 0))
    return message


def protocol(name):
    return PROTOCOLS.get(name, None) if name in PROTOCOLS else int(name)


def options(data):
    """The options of a response."""
    found = []
    while data:
        code, _, length = struct.unpack_from("!BBH", data)
        value = data[4:4 + length]
        data = data[4 + length + -length % 4:]
        if code == THIRD_PARTY:
            found.append({"option": "THIRD_PARTY", "address": from_field(value)})
        elif code == PREFER_FAILURE:
            found.append({"option": "PREFER_FAILURE"})
        elif code == FILTER:
            bits, port = struct.unpack_from("!xBH", value)
            found.append({"option": "FILTER", "bits": bits, "port": port, "address": from_field(value[4:])})
        elif code == PORT_SET:
            size, first, flags = struct.unpack("!HHB", value)
            found.append({"option": "PORT_SET", "size": size, "first": first, "parity": bool(flags & 1)})
        else:
            found.append({"option": code, "data": value.hex()})
    return found


def response(data):
    """Figure 3, with figures 10 and 12 behind it."""
    if len(data) < 24 or len(data) > 1100 or len(data) % 4 or data[0] != VERSION or not data[1] & 0x80:
        return {"malformed": data.hex()}
    version, opcode, reserved, result, lifetime, epoch = struct.unpack_from("!BBBBII", data)
    names = {value: name for name, value in OPCODES.items()}
    answer = {
        "opcode": names.get(opcode & 0x7F, opcode & 0x7F), "result": RESULTS[result] if result < len(RESULTS) else result,
        "lifetime": lifetime, "epoch": epoch, "reserved": data[12:24].hex(),
    }
    rest = data[24:]
    if answer["opcode"] in ("map", "peer") and len(rest) >= 36:
        number, internal, external = struct.unpack_from("!B3xHH", rest, 12)
        answer |= {
            "nonce": rest[:12].hex(), "protocol": number, "internal_port": internal,
            "external": {"address": from_field(rest[20:36]), "port": external},
        }
        rest = rest[36:]
        if answer["opcode"] == "peer" and len(rest) >= 20:
            (port,) = struct.unpack_from("!H", rest)
            answer["remote"] = {"address": from_field(rest[4:20]), "port": port}
            rest = rest[20:]
        answer["options"] = options(rest)
    return answer


def say(answer, sender):
    print(json.dumps(answer | {"from": {"address": sender[0], "port": sender[1]}}), flush=True)


def ask(arguments):
    """One request, sent again as section 8.1.1 says, though sooner: the lab is near."""
    family, kind, number, _, server = socket.getaddrinfo(arguments.server, SERVER_PORT, type=socket.SOCK_DGRAM)[0]
    client = socket.socket(family, kind, number)
    if arguments.source or arguments.local_port:
        client.bind((arguments.source or ("::" if family == socket.AF_INET6 else "0.0.0.0"), arguments.local_port))
    client.connect(server)
    message = request(arguments, arguments.claim or client.getsockname()[0])
    answered = False
    for wait in arguments.wait:
        client.send(message)
        end = time.monotonic() + wait
        while not answered or len(arguments.wait) == 1:
            left = end - time.monotonic()
            if left <= 0 or not select.select([client], [], [], left)[0]:
                break
            try:
                data = client.recv(2048)
            except ConnectionRefusedError:
                sys.exit("connection refused")
            say(response(data), client.getpeername())
            answered = True
            if not arguments.all:
                return
        if answered:
            return
    sys.exit("no answer")


def listen(arguments):
    """Announcements to everybody (sections 14.1.3; NAT-PMP's too), and responses to a port of ours."""
    sockets = []
    for family, address in ((socket.AF_INET, "224.0.0.1"), (socket.AF_INET6, "ff02::1")):
        listener = socket.socket(family, socket.SOCK_DGRAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        scope = (0, socket.if_nametoindex(arguments.interface)) if family == socket.AF_INET6 else ()
        listener.bind((address, CLIENT_PORT, *scope))
        sockets.append(listener)
    if arguments.local_port:
        listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listener.bind(("0.0.0.0", arguments.local_port))
        sockets.append(listener)
    print("listening", flush=True)
    end = time.monotonic() + arguments.seconds
    while (left := end - time.monotonic()) > 0:
        for listener in select.select(sockets, [], [], left)[0]:
            data, sender = listener.recvfrom(2048)
            if data[:1] == b"\0":
                result, epoch = struct.unpack_from("!HI", data, 2)
                say({"nat_pmp": data[1], "result": result, "epoch": epoch, "address": socket.inet_ntoa(data[8:12])}, sender)
            else:
                say(response(data), sender)


def main():
    parser = argparse.ArgumentParser(prog="pcp_ask.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    verbs = parser.add_subparsers(dest="what", required=True)
    for name in OPCODES:
        verb = verbs.add_parser(name)
        verb.add_argument("server")
        verb.add_argument("--source", help="address to send from")
        verb.add_argument("--claim", help="client address in the header, if it is not the source")
        verb.add_argument("--local-port", type=int, default=0)
        verb.add_argument("--wait", type=float, nargs="+", default=[0.5, 1, 2, 4], help="seconds to wait for each copy")
        verb.add_argument("--all", action="store_true", help="print every answer of the time to wait")
        if name == "announce":
            continue
        verb.add_argument("protocol", help="tcp, udp, all or a number")
        verb.add_argument("port", type=int, help="internal port")
        verb.add_argument("--lifetime", type=int, default=600)
        verb.add_argument("--nonce", default=os.urandom(12).hex())
        verb.add_argument("--suggest", nargs=2, metavar=("ADDRESS", "PORT"))
        verb.add_argument("--third-party")
        verb.add_argument("--prefer-failure", action="store_true")
        verb.add_argument("--filter", nargs=2, action="append", metavar=("PREFIX", "PORT"), help="ADDRESS/none clears")
        verb.add_argument("--port-set", type=int)
        verb.add_argument("--parity", action="store_true")
        if name == "peer":
            verb.add_argument("--remote", nargs=2, required=True, metavar=("ADDRESS", "PORT"))
    verb = verbs.add_parser("listen")
    verb.add_argument("seconds", type=float)
    verb.add_argument("--interface", default="eth0")
    verb.add_argument("--local-port", type=int, default=0)
    arguments = parser.parse_args()
    listen(arguments) if arguments.what == "listen" else ask(arguments)


if __name__ == "__main__":
    main()
