"""A SIMCO agent written from RFC 4540 alone. Usage: simco_agent.py ADDRESS PORT [--cert F --key F --ca F --name N]
[--agent NAME --psk HEX]

Reads requests as JSON lines from standard input and prints every message it receives as a JSON line, the end of the
connection too. {"do": "wait", "for": N} waits for N notifications, {"do": "sleep", "seconds": S} for so long. At the
end of its input it terminates the session.
"""

import argparse
import hashlib
import hmac
import ipaddress
import json
import os
import select
import socket
import ssl
import struct
import sys
import time

# Section 4.2.2.
REQUESTS = {"se": 0x01, "sa": 0x02, "st": 0x03, "prr": 0x11, "per": 0x12, "pea": 0x13, "pdr": 0x14, "plc": 0x15,
            "prs": 0x21, "prl": 0x22}
REPLIES = {code: name for name, code in REQUESTS.items()} | {0x16: "prd", 0x23: "pes", 0x24: "pds"}
NOTIFICATIONS = {0x01: "bfm", 0x02: "ast", 0x03: "are"}
LOCATIONS = ["internal", "inside", "outside", "external"]


def tlv(kind, value):
    return struct.pack("!HH", kind, len(value)) + value


def number(kind, value):
    return tlv(kind, struct.pack("!I", value))


def tuple_of(location, end, protocol):
    """Section 4.3.8. `end`: "any4", "any6" or {"address", "prefix", "port", "range"}."""
    place = LOCATIONS.index(location)
    if end in ("any4", "any6"):
        return tlv(9, struct.pack("!BBBB", 0x10 | (1 if end == "any4" else 2), 0, protocol, place))
    address = ipaddress.ip_address(end["address"])
    version = 1 if address.version == 4 else 2
    prefix = end.get("prefix", address.max_prefixlen)
    head = struct.pack("!BBBBHH", version, prefix, protocol, place, end.get("port", 0), end.get("range", 1))
    return tlv(9, head + address.packed)


def read_tuple(value):
    first, prefix, protocol, place = struct.unpack("!BBBB", value[:4])
    found = {"location": LOCATIONS[place], "protocol": protocol, "prefix": prefix}
    if first >> 4 == 1:
        return found | {"any": 4 if first & 15 == 1 else 6}
    port, span = struct.unpack("!HH", value[4:8])
    return found | {"address": str(ipaddress.ip_address(value[8:])), "port": port, "range": span}


def attributes(payload):
    """The attributes of a message, by names of section 4.3."""
    found = {"tuples": {}, "pids": []}
    while payload:
        kind, length = struct.unpack("!HH", payload[:4])
        value, payload = payload[4:4 + length], payload[4 + length:]
        if kind == 1:
            found["version"] = f"{value[0]}.{value[1]}"
        elif kind in (2, 3):
            found["challenge" if kind == 2 else "token"] = value.hex()
        elif kind == 4:
            mb, flags, _, lifetime = struct.unpack("!BBHI", value)
            found["capabilities"] = {"type": mb, "flags": flags, "lifetime": lifetime}
        elif kind == 5:
            found["pids"].append(struct.unpack("!I", value)[0])
        elif kind == 6:
            found["gid"] = struct.unpack("!I", value)[0]
        elif kind == 7:
            found["lifetime"] = struct.unpack("!I", value)[0]
        elif kind == 8:
            found["owner"] = value.decode()
        elif kind == 9:
            read = read_tuple(value)
            found["tuples"][read["location"]] = read
        elif kind == 11:
            found["parity"], found["direction"] = value[0], value[1]
        else:
            found.setdefault("unknown", []).append(kind)
    return found


class Agent:
    def __init__(self, options):
        self.connection = socket.create_connection((options.address, options.port), 5)
        if options.cert:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(options.ca)
            context.load_cert_chain(options.cert, options.key)
            self.connection = context.wrap_socket(self.connection, server_hostname=options.name)
        self.connection.settimeout(10)
        self.tid = 0
        self.buffered = b""
        self.notified = 0

    def send(self, name, payload=b""):
        self.tid += 1
        header = struct.pack("!BBHI", 1, REQUESTS[name], len(payload), self.tid)
        self.connection.sendall(header + payload)
        return self.tid

    def message(self, seconds=10):
        """The next message; None at the end of the connection or of the time."""
        deadline = time.monotonic() + seconds
        while True:
            if len(self.buffered) >= 8:
                basic, sub, length, tid = struct.unpack("!BBHI", self.buffered[:8])
                if len(self.buffered) >= 8 + length:
                    payload, self.buffered = self.buffered[8:8 + length], self.buffered[8 + length:]
                    return self.told(basic, sub, tid, payload)
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self.connection.settimeout(left)
            try:
                octets = self.connection.recv(65536)
            except (TimeoutError, ssl.SSLError, ConnectionError):
                return None
            if not octets:
                return None
            self.buffered += octets

    def told(self, basic, sub, tid, payload):
        found = attributes(payload)
        if basic == 2:
            said = {"reply": REPLIES[sub], "tid": tid} | found
        elif basic == 3:
            said = {"refused": f"0x{sub:02x}", "tid": tid} | found
        else:
            said = {"notification": NOTIFICATIONS.get(sub, hex(sub)), "tid": tid} | found
            self.notified += 1
        print(json.dumps(said), flush=True)
        return said

    def reply(self, tid):
        while True:
            said = self.message()
            if said is None:
                print(json.dumps({"closed": True}), flush=True)
                sys.exit(3)
            if "notification" in said:
                if said["notification"] == "ast":
                    sys.exit(4)
                continue
            assert said["tid"] == tid, f"asked {tid}, answered {said['tid']}"
            return said

    def establish(self, options):
        version = tlv(1, bytes([3, 0, 0, 0]))
        if not options.agent:
            return self.reply(self.send("se", version))
        # The middlebox's profile of challenge and response.
        name = options.agent.encode()
        key = bytes.fromhex(options.psk)
        mine = bytes([len(name)]) + name + os.urandom(32)
        said = self.reply(self.send("se", version + tlv(2, mine)))
        if "refused" in said:
            return said
        theirs = bytes.fromhex(said["challenge"])
        proof = hmac.new(key, b"SIMCO3-M" + mine + theirs, hashlib.sha256).hexdigest()
        assert hmac.compare_digest(proof, said["token"]), "the middlebox does not know the key"
        answer = hmac.new(key, b"SIMCO3-A" + mine + theirs, hashlib.sha256).digest()
        return self.reply(self.send("sa", tlv(3, answer)))

    def do(self, asked):
        what = asked["do"]
        if what == "sleep":
            self.message(asked["seconds"])
            return
        if what == "wait":
            deadline = time.monotonic() + asked.get("seconds", 20)
            while self.notified < asked["for"] and time.monotonic() < deadline:
                if self.message(deadline - time.monotonic()) is None:
                    print(json.dumps({"closed": True}), flush=True)
                    sys.exit(3)
            return
        protocol = asked.get("protocol", 17)
        lifetime = number(7, asked.get("lifetime", 60))
        group = number(6, asked["gid"]) if "gid" in asked else b""
        if what == "prr":
            parity = {"any": 0, "odd": 1, "even": 2}[asked.get("parity", "any")]
            version = asked.get("version", 1)
            bits = 1 << 6 | parity << 4 | version << 2 | version
            payload = tlv(10, struct.pack("!BBH", bits, protocol, asked.get("range", 1))) + lifetime + group
        elif what in ("per", "pea"):
            direction = {"in": 1, "out": 2, "both": 3}[asked.get("direction", "in")]
            parameters = tlv(11, bytes([3 if asked.get("same") else 0, direction, 0, 0]))
            tuples = tuple_of("internal", asked["internal"], protocol) + tuple_of("external", asked["external"], protocol)
            last = group if what == "per" else number(5, asked["pid"])
            payload = parameters + tuples + lifetime + last
        elif what == "plc":
            payload = number(5, asked["pid"]) + lifetime
        elif what == "prs":
            payload = number(5, asked["pid"])
        else:
            payload = b""
        self.reply(self.send(what, payload))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    for option in ("cert", "key", "ca", "name", "agent", "psk"):
        parser.add_argument(f"--{option}")
    options = parser.parse_args()
    try:
        agent = Agent(options)
        said = agent.establish(options)
    except (ssl.SSLError, OSError) as error:
        print(json.dumps({"failed": str(error)}), flush=True)
        sys.exit(2)
    if "refused" in said:
        sys.exit(1)
    buffered = b""
    while True:
        # Messages that come between requests are printed as they come.
        ready, _, _ = select.select([sys.stdin.fileno(), agent.connection], [], [])
        if agent.connection in ready:
            said = agent.message(1)
            if said is None or said.get("notification") == "ast":
                print(json.dumps({"closed": True}), flush=True)
                sys.exit(4 if said else 3)
        if sys.stdin.fileno() in ready:
            octets = os.read(sys.stdin.fileno(), 65536)
            if not octets:
                break
            buffered += octets
            *lines, buffered = buffered.split(b"\n")
            for line in lines:
                if line.strip():
                    agent.do(json.loads(line))
    agent.reply(agent.send("st"))


main()
