"""The MIDCOM agents of a domain, for the scenarios: who may open what, and `turnpike midcom` at the hosts they speak from."""

import contextlib
import json
import subprocess

from .lab import endpoint, expect
from .servers import program
from .simco import PORT, certificate, certificates

SECTION = """
[simco]
zones = ["inside"]
listen = ["{box}:{port}"]
certificate = "{dir}/box.pem"
key = "{dir}/box.key"
authorities = "{dir}/ca.pem"
token_key = "{dir}/token.key"
"""
AGENT = """
[[agent]]
name = "{name}.example"
zones = ["inside"]
{rights}
external_wildcard = true
"""
# What each of them may, and the host it speaks from.
AGENTS = {
    "host": ('inside = ["{host}/32", "{host6}/128"]', "subscriber"),
    "neighbour": ('inside = ["{neighbour}/32"]\nprotocols = ["udp"]', "subscriber2"),
    "management": ('inside = ["192.168.0.0/24", "{net6}"]', "subscriber2"),
    "successor": ('inside = ["192.168.0.0/24"]\ntakes_over = ["management.example"]', "subscriber2"),
    "sip-proxy": ('inside = ["192.168.0.0/24", "{net6}"]\nprotocols = ["udp"]', "subscriber2"),
    "visitor": ('inside = ["10.0.0.0/8"]', "subscriber"),
    "outsider": ('inside = ["10.0.0.0/8"]', "subscriber2"),
}
DEFAULT_OUT = '[[policy]]\nfrom = "inside"\nto = "outside"\ndefault = "accept"\n'


class Agent:
    """`turnpike midcom` over TLS, with its own certificate, from its own host."""

    def __init__(self, lab, folder, name):
        self.lab, self.host, self.folder = lab, AGENTS[name][1], folder
        if lab.SECOND and self.host == "subscriber2":
            self.host = "subscriber"
        certificate(lab, folder, name, f"{name}.example")
        self.command = [
            str(part) for part in (
                lab.binaries / "turnpike", "--json", "midcom", "--box", f"{lab.BOX_INSIDE}:{PORT}",
                "--certificate", folder / f"{name}.pem", "--key", folder / f"{name}.key",
                "--authorities", folder / "ca.pem", "--server-name", "box.example")]

    def ask(self, *arguments, code=0):
        """A transaction and its answer; fails the check if it ends with another code."""
        result = self.lab.run(self.host, *self.command, *arguments, check=False)
        said = result.stdout or result.stderr
        asked = " ".join(map(str, arguments))
        expect(result.returncode == code, f"midcom {asked}: code {code} expected, {result.returncode} came: {said[-300:]}")
        answer = json.loads(result.stdout)
        return answer["data"] if code == 0 else answer

    def enable(self, protocol, internal, *more, lifetime=60):
        """PER: from anybody to `internal`, unless `more` says otherwise."""
        return self.ask("enable", "--protocol", protocol, "--internal", internal, "--lifetime", lifetime, *more)

    def gone(self, rule):
        """Whether there is no such rule any more."""
        result = self.lab.run(self.host, *self.command, "status", rule, check=False)
        return result.returncode == 3

    def watch(self):
        """Starts `watch`; its lines are notifications. It is heard from when the session is open."""
        watch = self.lab.start(self.host, *self.command, "watch", stdout=subprocess.PIPE)
        expect(json.loads(watch.stdout.readline())["event"] == "open", "midcom watch: its session did not open")
        return watch


@contextlib.contextmanager
def domain(lab, closed=False, more="", change=lambda text: text):
    """SIMCO for all agents as long as the block lasts. In a closed domain nothing passes without a rule, outwards neither."""
    folder = certificates(lab)
    (folder / "token.key").write_text("a key for authorization tokens\n")
    path = lab.run_dir / "turnpike.toml"
    sound = path.read_text()
    known = {"box": lab.BOX_INSIDE, "port": PORT, "dir": folder, "host": lab.SUBSCRIBER, "host6": lab.SUBSCRIBER_V6,
             "neighbour": lab.SUBSCRIBER2, "net6": lab.SUBSCRIBER_V6.replace("::10", "::/64")}
    text = sound + SECTION.format(**known)
    for name, (rights, _) in AGENTS.items():
        text += AGENT.format(name=name, rights=rights.format(**known))
    if closed:
        expect(DEFAULT_OUT in text, "the lab's configuration has another default from inside to outside")
        text = text.replace(DEFAULT_OUT, DEFAULT_OUT.replace("accept", "drop"))
    try:
        path.write_text(change(text + more))
        lab.cli("config", "reload")
        yield lambda name: Agent(lab, folder, name)
    finally:
        for row in lab.show("rules"):
            lab.cli("rule", "delete", row["id"], check=False)
        path.write_text(sound)
        lab.cli("config", "reload")


# What hosts outside find.


def fetch(lab, host, end, seconds=3):
    """Whether the page of the web server at `end` comes."""
    return lab.run(host, "curl", "-sS", "--max-time", seconds, f"http://{end}/page", check=False).stdout == "a page\n"


def asked(lab, host, end, *, seconds=3.0, source_port=0):
    """Who answers a datagram to `end`, as `address:port`; None if nobody does."""
    text = ["hello", seconds, *([source_port] if source_port else [])]
    result = lab.run(host, *program("udp_ask"), end["address"], end["port"], *text, check=False)
    if result.returncode != 0:
        return None
    address, port, *_ = result.stdout.split()
    return endpoint({"address": address, "port": port})


def refused(lab, reason, what, attempt):
    """`attempt` gets no answer, and packets are dropped for `reason`. `what` says what was tried."""
    before = lab.drops()
    expect(not attempt(), f"{what}: an answer came, but none was expected")
    after = lab.drops()
    grown = {name: count - before.get(name, 0) for name, count in after.items() if count > before.get(name, 0)}
    expect(reason in grown, f"{what}: no answer, as expected, but for {reason} nothing was dropped; dropped was {grown}")


def shut(lab, host, end, reason):
    """No web server is reached at `end` from `host`, and the box says why."""
    refused(lab, reason, f"{host} to http://{end}", lambda: fetch(lab, host, end, 0.6))


def silent(lab, host, end, reason, source_port=0):
    """No datagram is answered at `end`, and the box says why."""
    refused(lab, reason, f"{host} to {endpoint(end)} over UDP", lambda: asked(lab, host, end, seconds=0.6, source_port=source_port))


class Connection:
    """A TCP connection that a host opens and keeps."""

    def __init__(self, lab, host, end, seconds=3.0, source_port=0):
        more = [source_port] if source_port else []
        self.lab = lab
        self.process = lab.start(host, *program("tcp_peer"), "connect", end["address"], end["port"], seconds, *more,
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.opened = None

    def open(self):
        """Whether the handshake is complete; waits for it."""
        if self.opened is None:
            self.opened = self.process.stdout.readline().startswith("open")
        return self.opened

    def says(self, line):
        """What the other end answers; None if nothing comes, or the connection is not there."""
        if not self.open():
            return None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        return None if answer in ("nothing", "closed", "") else answer

    def close(self):
        """Ends it with a FIN, and the process."""
        if self.process.stdin and not self.process.stdin.closed:
            self.process.stdin.close()
            self.process.stdin = None
        try:
            self.process.wait(5)
        finally:
            self.lab.end(self.process)
