#!/usr/bin/python3
"""A SIP proxy inside a domain that is a MIDCOM agent: it asks the box for the media of each call and rewrites SDP to it.

lab-sip-proxy.py --listen ADDRESS --inside PREFIX --user NAME=END [OPTIONS] [-- COMMAND...]

COMMAND is `turnpike --json midcom` with its connection. Without it no box is asked and SDP passes as it is: then hosts
are agents themselves (scenario 2.3.3), and --public says where the outside reaches this proxy.

A call from inside (scenario 2.3.1): a pair of ports is reserved before the INVITE leaves, and enabled when the answer
says for whom. A call from outside (2.3.2): the pair is reserved before the INVITE is relayed, so that no telephone rings
that could not talk, and enabled for the host that answered. BYE gives everything back. Each of these is a JSON line on
standard output.
"""

import argparse
import hashlib
import ipaddress
import json
import re
import signal
import socket
import subprocess
import sys
import time

LONG_NAMES = {"v": "via", "i": "call-id", "m": "contact", "c": "content-type", "l": "content-length", "f": "from", "t": "to"}
PORT = 5060


def end(address, port):
    """An address and a port as they stand in a URI."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def read_end(text):
    """`ADDRESS[:PORT]`, IPv6 in brackets."""
    found = re.fullmatch(r"\[([^\]]+)\](?::(\d+))?|([^:]+)(?::(\d+))?", text)
    if not found:
        raise ValueError(f"not an end: {text}")
    return found.group(1) or found.group(3), int(found.group(2) or found.group(4) or PORT)


def tell(event, **more):
    print(json.dumps({"event": event, **more}), flush=True)


class Message:
    """A SIP message (RFC 3261 section 7)."""

    def __init__(self, octets):
        head, _, body = octets.decode().partition("\r\n\r\n")
        self.start, *lines = head.split("\r\n")
        self.headers = []
        for line in lines:
            name, _, value = line.partition(":")
            name = name.strip()
            values = value.split(",") if name.lower() in ("v", "via") else [value]
            self.headers += [[LONG_NAMES.get(name.lower(), name), one.strip()] for one in values]
        self.body = body

    def all(self, name):
        """Every value of a header, by its long name in lower case."""
        return [value for known, value in self.headers if known.lower() == name]

    def first(self, name):
        return next(iter(self.all(name)), "")

    def replace(self, name, value):
        for header in self.headers:
            if header[0].lower() == name:
                header[1] = value

    @property
    def status(self):
        """Of a response; None of a request."""
        return int(self.start.split()[1]) if self.start.startswith("SIP/2.0 ") else None

    @property
    def method(self):
        return self.first("cseq").split()[-1]

    def octets(self):
        self.replace("content-length", str(len(self.body.encode())))
        return "\r\n".join([self.start, *(f"{name}: {value}" for name, value in self.headers), "", self.body]).encode()

    def answer(self, status, reason):
        """A response to this request."""
        copied = [f"{name}: {value}" for name, value in self.headers if name.lower() in ("via", "from", "to", "call-id", "cseq")]
        return Message("\r\n".join([f"SIP/2.0 {status} {reason}", *copied, "Content-Length: 0", "", ""]).encode())

    # The one audio stream of its SDP (RFC 4566).

    @property
    def media(self):
        """Address and port the media is expected at; None without SDP."""
        address = re.search(r"^c=IN IP[46] (\S+)", self.body, re.MULTILINE)
        port = re.search(r"^m=audio (\d+)", self.body, re.MULTILINE)
        return (address.group(1), int(port.group(1))) if address and port else None

    def move_media(self, address, port):
        """The media is expected at another end; nobody outside learns the one inside."""
        place = f"IN IP{ipaddress.ip_address(address).version} {address}"
        self.body = re.sub(r"^c=IN IP[46] \S+", f"c={place}", self.body, flags=re.MULTILINE)
        self.body = re.sub(r"^(o=.*)IN IP[46] \S+", rf"\g<1>{place}", self.body, flags=re.MULTILINE)
        self.body = re.sub(r"^m=audio \d+", f"m=audio {port}", self.body, flags=re.MULTILINE)


class Refused(Exception):
    """The box does not give what was asked for."""


class Box:
    """The middlebox, asked by the CLI's agent."""

    def __init__(self, command, lifetime):
        self.command, self.lifetime = command, lifetime

    def ask(self, *arguments):
        result = subprocess.run([*self.command, *map(str, arguments)], capture_output=True, text=True, timeout=10, check=False)
        if result.returncode != 0:
            raise Refused((result.stderr or result.stdout).strip())
        return json.loads(result.stdout)["data"]

    def serve(self, address, port):
        """Lets anybody reach this proxy: one rule each way, since a wildcard has one way (RFC 4540 section 8.3.1)."""
        what = ["--protocol", "udp", "--internal", end(address, port), "--lifetime", 3600]
        rule = self.ask("enable", *what)
        self.ask("enable", *what, "--direction", "out", "--group", rule["group"])
        return rule

    def reserve(self, address, host):
        """An even port and the next; for a host, if it is known already."""
        known = ["--internal", host] if host else ["--family", 6 if ":" in address else 4]
        return self.ask("reserve", "--protocol", "udp", "--ports", 2, "--parity", "even", "--lifetime", self.lifetime, *known)

    def enable(self, reserved, inside, outside):
        """RTP and RTCP between two ends. Translated, the remote ports are left open: its host may be behind a NAT too."""
        media = ["--protocol", "udp", "--ports", 2, "--internal", end(*inside), "--lifetime", self.lifetime]
        rule = reserved["rule"]
        if reserved["outside"] is None:
            self.ask("enable-reserved", rule, *media, "--external", end(*outside), "--direction", "both")
            return inside
        enabled = self.ask("enable-reserved", rule, *media, "--external", outside[0], "--direction", "in")
        self.ask("enable", *media, "--external", end(*outside), "--direction", "out", "--group", reserved["group"])
        return enabled["outside"]["address"], enabled["outside"]["port"]


class Call:
    """Both ends of a call, and what the box holds for it."""

    def __init__(self, inside, outside, from_inside, offered):
        self.inside, self.outside, self.from_inside = inside, outside, from_inside
        # Where the caller expects media; both ends of what the box lets pass; where it is reached from outside.
        self.offered, self.enabled, self.public = offered, None, None
        self.reserved, self.renew_at = None, 0
        # Branch of a request that was relayed: who waits for its responses.
        self.branches = {}
        self.over = False


class Proxy:
    def __init__(self, options):
        address, port = read_end(options.listen)
        self.here = (address, port)
        self.public = read_end(options.public) if options.public else self.here
        self.inside = ipaddress.ip_network(options.inside)
        self.users = {name: read_end(where) for name, _, where in (user.partition("=") for user in options.user)}
        self.box = Box(options.command, options.lifetime) if options.command else None
        self.calls, self.branches = {}, {}
        self.socket = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((address, port))
        self.own = None

    def send(self, message, to):
        self.socket.sendto(message.octets(), to)

    def is_inside(self, address):
        return ipaddress.ip_address(address) in self.inside

    def run(self):
        if self.box:
            self.own = self.box.serve(*self.here)
            self.public = self.own["outside"]["address"], self.own["outside"]["port"]
        tell("listening", public=end(*self.public))
        self.socket.settimeout(1)
        while True:
            self.renew()
            try:
                octets, source = self.socket.recvfrom(65535)
            except TimeoutError:
                continue
            source = source[:2]
            try:
                message = Message(octets)
                (self.request if message.status is None else self.response)(message, source)
            except (ValueError, IndexError, AttributeError) as error:
                tell("unreadable", source=end(*source), error=str(error))

    def request(self, message, source):
        key, method = message.first("call-id"), message.method
        call = self.calls.get(key)
        if method == "INVITE":
            self.send(message.answer(100, "Trying"), source)
            if call is None:
                call = self.new_call(message, source)
                if call is None:
                    return
                self.calls[key] = call
        if call is None:
            if method != "ACK":
                self.send(message.answer(481, "Call/Transaction Does Not Exist"), source)
            return
        from_inside = self.is_inside(source[0])
        if method in ("BYE", "CANCEL"):
            self.release(call)
        if method == "INVITE" and from_inside and call.public:
            message.move_media(*call.public)
        self.relay(call, message, source, from_inside)
        if method == "ACK" and call.over:
            del self.calls[key]

    def new_call(self, message, source):
        """Whom an INVITE is for, and the media it will need."""
        target = re.match(r"INVITE sips?:(?:([^@]+)@)?([^;\s]+)\S* SIP/2.0$", message.start)
        if not target:
            self.send(message.answer(400, "Bad Request"), source)
            return None
        name, host = target.groups()
        if self.is_inside(source[0]):
            call = Call(source, self.next_hop(message) or read_end(host), True, message.media)
        elif name in self.users:
            call = Call(self.users[name], source, False, message.media)
        else:
            self.send(message.answer(404, "Not Found"), source)
            return None
        if self.box and call.offered:
            try:
                self.reserve(call)
            except Refused as why:
                tell("refused", why=str(why))
                self.send(message.answer(503, "Service Unavailable"), source)
                return None
        return call

    def next_hop(self, message):
        """The first Route that is not this proxy."""
        routes = [read_end(re.search(r"sips?:(?:[^@>;]+@)?([^;>]+)", route).group(1)) for route in message.all("route")]
        return next((route for route in routes if route != self.here), None)

    def reserve(self, call):
        call.reserved = self.box.reserve(self.here[0], call.offered[0] if call.from_inside else None)
        call.renew_at = time.monotonic() + self.box.lifetime / 2
        at = call.reserved["outside"]
        if call.from_inside:
            call.public = (at["address"], at["port"]) if at else call.offered
        tell("reserved", group=call.reserved["group"], rule=call.reserved["rule"], outside=at and end(at["address"], at["port"]))

    def response(self, message, source):
        call = self.calls.get(message.first("call-id"))
        via = next((header for header in message.headers if header[0].lower() == "via"), ["", ""])
        branch = re.search(r"branch=([^;\s]+)", via[1])
        back = call.branches.get(branch.group(1)) if call and branch else None
        if back is None:
            return
        message.headers.remove(via)
        if message.method == "INVITE":
            if call.reserved and message.media and message.status < 300:
                self.answered(call, message)
            if message.status >= 300:
                self.release(call)
                call.over = True
        self.replace_contact(message, self.is_inside(source[0]))
        self.send(message, back)
        if message.method == "BYE" and message.status >= 200:
            del self.calls[message.first("call-id")]

    def answered(self, call, message):
        """Both ends of the media are known: the box may let it pass. Early media (183) is the same."""
        inside, outside = (call.offered, message.media) if call.from_inside else (message.media, call.offered)
        if call.enabled is None:
            try:
                call.public = self.box.enable(call.reserved, inside, outside)
            except Refused as why:
                tell("refused", why=str(why))
                message.start, message.body = "SIP/2.0 503 Service Unavailable", ""
                return
            call.enabled = (inside, outside)
            tell("enabled", group=call.reserved["group"], inside=end(*inside), public=end(*call.public), outside=end(*outside))
        if not call.from_inside:
            message.move_media(*call.public)

    def relay(self, call, message, source, to_outside):
        digest = hashlib.sha256((message.first("via") + message.first("cseq")).encode()).hexdigest()
        branch = f"z9hG4bK{digest[:24]}"
        call.branches[branch] = source
        message.headers.insert(0, ["Via", f"SIP/2.0/UDP {end(*(self.public if to_outside else self.here))};branch={branch}"])
        message.replace("max-forwards", str(int(message.first("max-forwards") or 70) - 1))
        self.replace_contact(message, to_outside)
        self.send(message, call.outside if to_outside else call.inside)

    def replace_contact(self, message, to_outside):
        """Later requests of the call come this way too."""
        message.replace("contact", f"<sip:{end(*(self.public if to_outside else self.here))}>")

    def renew(self):
        """Calls may last longer than their rules."""
        for call in self.calls.values():
            if call.reserved and time.monotonic() > call.renew_at:
                self.change(call.reserved["group"], self.box.lifetime)
                call.renew_at = time.monotonic() + self.box.lifetime / 2

    def release(self, call):
        if call.reserved:
            group, call.reserved = call.reserved["group"], None
            self.change(group, 0)
            tell("released", group=group)

    def change(self, group, lifetime):
        """The rules of a call live on, or end. What the box refuses now it ends by itself in time."""
        try:
            self.box.ask("extend-group", group, lifetime)
        except Refused as why:
            tell("refused", group=group, why=str(why))

    def end(self):
        for call in self.calls.values():
            self.release(call)
        if self.own:
            self.change(self.own["group"], 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listen", required=True, help="own address, with another port than 5060")
    parser.add_argument("--inside", required=True, help="prefix of the hosts inside")
    parser.add_argument("--user", action="append", default=[], help="NAME=END, a telephone inside")
    parser.add_argument("--public", help="where the outside reaches this proxy, if no box is asked")
    parser.add_argument("--lifetime", type=int, default=120, help="of a call's rules, seconds; extended while it lasts")
    parser.add_argument("command", nargs="*", help="`turnpike --json midcom` with its connection")
    proxy = Proxy(parser.parse_args())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        proxy.run()
    finally:
        proxy.end()


main()
