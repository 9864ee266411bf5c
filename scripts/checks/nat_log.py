"""The log of external ports: who had which when (RFC 6888 section 4), asked as the README tells an operator to ask."""

import json
import os
import re
import signal
from datetime import datetime, timedelta, timezone

from .lab import SCRIPTS, Lab, endpoint, expect, until
from .servers import ECHO_PORT

# Subscribers of these checks alone, so that nothing else has or takes their ports.
FIRST, SECOND, ABSENT = "192.168.0.71", "192.168.0.72", "192.168.0.73"
# Flows that end within the check, and blocks that come back with the last of theirs.
LOGGED = '[[pool]]\nname = "public"\n', """
[log]
flows = true
destinations = true

[options]
allow_noncompliant = true

[timeouts]
udp = 2

[[pool]]
name = "public"
quarantine = 0
"""


def _now(later=0):
    """Now, or so many seconds later, as the log writes it."""
    moment = datetime.now(timezone.utc) + timedelta(seconds=later)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _program():
    """The jq program of the README's question."""
    text = (SCRIPTS.parent / "README.md").read_text()
    found = re.search(r"^jq -rn --arg address [^']*'\n(.*?)' ", text, re.MULTILINE | re.DOTALL)
    expect(found, "the README has no jq program that looks into nat.jsonl")
    return found[1]


def _file(lab):
    return lab.run_dir / "state" / "nat.jsonl"


def _lines(lab):
    """The log so far; a line that is being written is not there yet."""
    return [json.loads(line) for line in _file(lab).read_text().split("\n")[:-1]]


def _who(lab, external, at, protocol="udp"):
    """Who had an external end at a time; None if nobody."""
    address, port = external.rsplit(":", 1)
    said = lab.run("box", "jq", "-rn", "--arg", "address", address, "--argjson", "port", port, "--arg", "protocol", protocol,
                   "--arg", "at", at, _program(), _file(lab)).stdout.strip()
    return None if said == "nobody" else said.split()[0]


def _ask(lab, source):
    """A datagram of `source` and its answer: the external end it had."""
    lab.run("subscriber", "socat", "-T3", "-u", "STDIN", f"UDP4:{Lab.INTERNET}:{ECHO_PORT},bind={source}", stdin="who")

    def flow():
        rows = lab.show("flows", "--subscriber", source, "--protocol", "udp")
        return next((row for row in rows if endpoint(row["remote"]) == f"{Lab.INTERNET}:{ECHO_PORT}"), None)

    return endpoint(until(flow, 5, f"the flow of {source}")["external"])


def _logged(lab, event, inside):
    """The one line of this kind about this subscriber, or inside end, waited for."""
    return until(lambda: next((line for line in _lines(lab) if (line["event"], line["inside"]) == (event, inside)), None),
                 10, f"a line {event} of {inside}")


def nat_log_names_the_subscriber(lab, _box):
    """Blocks with their times, the question of an abuse request, and the log of flows where it is asked for."""
    with lab.subscribers(FIRST, SECOND):
        before = _now(-1)
        with lab.configured(*LOGGED):
            first, second = _ask(lab, FIRST), _ask(lab, SECOND)
            during = _now()
            for source, external in ((FIRST, first), (SECOND, second)):
                line = _logged(lab, "ports_assigned", source)
                expect(line["external"] == external.split(":")[0] and line["pool"] == "public", f"{external} is not in {line}")
                expect(before <= line["since"] <= line["time"] <= _now(1), f"not between {before} and now: {line}")
                expect(_who(lab, external, during) == source, f"{external} at {during} is {_who(lab, external, during)}, not {source}")
                expect(_who(lab, external, before) != source, f"{external} was {source}'s at {before} already")
            ended = until(lambda: next((line for line in _lines(lab) if line.get("external") == first), None), 10, f"a line of the flow {first}")
            expect(ended["event"] == "flow_ended" and ended["cause"] == "timeout" and ended["protocol"] == "udp"
                   and ended["inside"].split(":")[0] == FIRST and ended["remote"] == f"{Lab.INTERNET}:{ECHO_PORT}"
                   and ended["packets_out"] == 1, f"not the flow that was: {ended}")
            released = _logged(lab, "ports_released", FIRST)
            expect(ended["time"] <= released["time"], f"the block came back before its flow ended at {ended['time']}: {released}")
            expect(_who(lab, first, released["time"]) is None, f"{first} is somebody's after {released['time']}")
            expect(_who(lab, first, during) == FIRST, f"{first} at {during} is nobody's any more")
            _logged(lab, "ports_released", SECOND)
    return f"{first} was {FIRST}, {second} was {SECOND}; the flow took {ended['bytes_out']} bytes"


def nat_log_after_a_kill(lab, _box):
    """kill -9 of the control plane: what is held is in the log, also what was taken while nobody wrote."""
    with lab.subscribers(FIRST, ABSENT):
        early = _ask(lab, FIRST)
        lab.hold("controlplane")
        try:
            os.kill(lab.pid("controlplane"), signal.SIGKILL)
            until(lambda: lab.pid("controlplane") == 0, 5, "the control plane is gone")
            lab.run("subscriber", "socat", "-u", "STDIN", f"UDP4:{Lab.INTERNET}:{ECHO_PORT},bind={ABSENT}", stdin="who")
        finally:
            lab.release("controlplane")
            until(lambda: lab.ready(), 10, "the control plane is ready")
        late = _ask(lab, ABSENT)
        held = _logged(lab, "ports_held", ABSENT)
        bindings = [row for row in lab.show("bindings") if row["external"] and row["protocol"] in ("udp", "tcp", "icmp")]
        missing = []
        for row in bindings:
            external, inside = endpoint(row["external"]), row["inside"]["address"]
            # A binding may end while the others are asked for.
            if _who(lab, external, _now(), row["protocol"]) != inside:
                missing.append(f"{external} of {inside}")
        expect({early, late} <= {endpoint(row["external"]) for row in bindings}, f"{early} and {late} are not bindings")
        expect(not missing, f"held, but not in the log: {missing[:5]}")
        expect(_who(lab, late, held["time"]) == ABSENT, f"{late} is not {ABSENT}'s from {held}")
    return f"{len(bindings)} bindings, all in the log; {late} was taken meanwhile"


CHECKS = [nat_log_names_the_subscriber, nat_log_after_a_kill]
