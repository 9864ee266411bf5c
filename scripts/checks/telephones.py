"""Telephones for the scenarios: sipp at a host, the streams of its calls, and the lab's SIP proxy."""

import json
import re
import subprocess

from .agents import refused
from .lab import SCRIPTS, Failure, Lab, endpoint, expect, until
from .servers import program

PORT = 5060
PACKETS = 20


class Telephone:
    """sipp with one call. Its user acts by `pick_up` and `hang_up`; its messages are those sipp has logged."""

    def __init__(self, lab: Lab, host, kind, address, proxy, media, target="", call=""):
        self.lab, self.host, self.address = lab, host, address
        self.moves = 0
        folder = lab.run_dir / "sip"
        folder.mkdir(exist_ok=True)
        self.log, errors = folder / f"{kind}.messages", folder / f"{kind}.errors"
        for file in (self.log, errors):
            file.unlink(missing_ok=True)
        self.process = lab.start(
            host, "sipp", proxy, "-sf", lab.PROGRAMS / f"sip_{kind}.xml", "-i", address, "-p", PORT, "-m", 1, "-nostdin",
            "-trace_msg", "-message_file", self.log, "-trace_err", "-error_file", errors, "-timeout", "30s", "-timeout_error",
            "-key", "media_address", media["address"], "-key", "rtp_port", media["port"], "-key", "target", target,
            *(["-cid_str", call] if call else []))
        lab.listening(host, PORT, "u")

    def received(self):
        """The messages that came so far."""
        if not self.log.exists():
            return []
        parts = re.split(r"^-{40,}[^\n]*\n", self.log.read_text(), flags=re.MULTILINE)
        return [part.partition("\n\n")[2] for part in parts if re.match(r"\S+ message received", part)]

    def heard(self, start):
        """Waits for a message that starts so, and returns it."""
        def found():
            return next((message for message in self.received() if message.startswith(start)), None)
        try:
            return until(found, 5, start)
        except Failure:
            starts = [message.partition("\n")[0].strip() for message in self.received()]
            expect(False, f"the telephone at {self.host} waits for {start}; so far it has {starts}")

    def media(self):
        """Where the other end expects its media, as this telephone was told."""
        described = [message for message in self.received() if "m=audio" in message]
        expect(described, f"the telephone at {self.host} was never told where media go")
        address = re.search(r"^c=IN IP[46] (\S+)", described[-1], re.MULTILINE).group(1)
        return {"address": address, "port": int(re.search(r"^m=audio (\d+)", described[-1], re.MULTILINE).group(1))}

    def act(self):
        """Its user does the next thing: a callee answers, first by its media's description, a caller hangs up."""
        message = next(iter(self.received()), "")
        headers = [line for line in message.splitlines() if re.match(r"(Via|From|To|Call-ID|CSeq):", line)]
        self.moves += 1
        self.lab.run(self.host, *program("sip_user"), self.address, PORT, stdin="\n".join([*headers, f"X-Move: {self.moves}"]))

    def ended(self):
        """The call is over, and was as it should be."""
        code = self.process.wait(10)
        expect(code == 0, f"sipp at {self.host} ended with code {code}; its last message: {self.received()[-1:]}")


class Stream:
    """RTP and RTCP of one telephone."""

    def __init__(self, lab: Lab, host, address, port, ssrc):
        self.lab, self.host, self.ssrc, self.here = lab, host, ssrc, {"address": address, "port": port}
        self.process = lab.start(host, *program("rtp_end"), address, port, ssrc, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        expect(self.process.stdout.readline() == "ready\n", f"the stream at {host} did not start")

    def _tell(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def send(self, to, count=PACKETS):
        self._tell(f"send {to['address']} {to['port']} {count}")

    def heard(self, kind, sender, ssrc):
        """Packets of `kind` that came from an end."""
        self._tell("heard")
        rows = json.loads(self.process.stdout.readline())
        return rows[kind].get(f"{sender['address']} {sender['port']} {ssrc}", {"packets": 0})["packets"], rows

    def end(self):
        self.lab.end(self.process)


def passes(what, sender, source, to, receiver):
    """RTP and a sender report go from a stream to `to`, and the receiver has them from `source`, the same ports."""
    rtp, _ = receiver.heard("rtp", source, sender.ssrc)
    control = {"address": source["address"], "port": source["port"] + 1}
    rtcp, _ = receiver.heard("rtcp", control, sender.ssrc)
    sender.send(to)
    rows = {}

    def came():
        nonlocal rows
        got, rows = receiver.heard("rtp", source, sender.ssrc)
        reports, _ = receiver.heard("rtcp", control, sender.ssrc)
        return got - rtp == PACKETS and reports - rtcp == 1
    try:
        until(came, 3, what)
    except Failure:
        expect(False, f"{what}: {PACKETS} RTP packets and a report from {endpoint(source)} expected, there are {rows}")


def stopped(reason, what, sender, to, receiver):
    """Nothing of what a stream sends to `to` arrives, and the box says why."""
    def attempt():
        _, before = receiver.heard("rtp", to, sender.ssrc)
        drops = sender.lab.drops().get(reason, 0)
        sender.send(to, 3)
        until(lambda: sender.lab.drops().get(reason, 0) >= drops + 3, 3, f"{what}: 3 packets dropped for {reason}")
        _, after = receiver.heard("rtp", to, sender.ssrc)
        return after != before
    refused(sender.lab, reason, what, attempt)


class Proxy:
    """`scripts/lab-sip-proxy.py`, the internal server of the scenarios."""

    def __init__(self, lab: Lab, host, address, inside, users, agent=None, public=None):
        self.lab = lab
        command = [SCRIPTS / "lab-sip-proxy.py", "--listen", f"[{address}]" if ":" in address else address, "--inside", inside]
        for name, where in users.items():
            command += ["--user", f"{name}={where}"]
        if public:
            command += ["--public", public]
        self.process = lab.start(host, *command, *(["--", *agent.command] if agent else []), stdout=subprocess.PIPE)
        self.public = self.event("listening")["public"]

    def event(self, wanted):
        """The next thing it does, which has to be that."""
        line = self.process.stdout.readline()
        expect(line, f"the SIP proxy ended; {wanted} was expected")
        event = json.loads(line)
        expect(event["event"] == wanted, f"the SIP proxy: {wanted} expected, {event} came")
        return event

    def end(self):
        self.lab.end(self.process)
