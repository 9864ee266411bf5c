"""Scenarios 2.3 and 2.4.3: calls with sipp at both ends, a SIP proxy that is a MIDCOM agent, and their RTP through the box."""

import ipaddress
import json

from .agents import asked, domain, silent
from .lab import Lab, endpoint, expect, until
from .servers import program
from .telephones import PORT, Proxy, Stream, Telephone, passes, stopped

RTP = 6000


class Four:
    """A call over IPv4: translated."""

    translated = True
    phone, server, net = Lab.SUBSCRIBER, Lab.SUBSCRIBER2, "192.168.0.0/24"
    far, stranger = Lab.FAR, Lab.INTERNET
    # Why nothing passes without a rule, and for whom the rule is not.
    closed, foreign = "no_mapping", "filtered_remote"


class Six(Four):
    """The same over IPv6, which the box does not translate."""

    translated = False
    phone, server, net = Lab.SUBSCRIBER_V6, Lab.SUBSCRIBER2_V6, "fd00:1::/64"
    far, stranger = Lab.FAR_V6, Lab.INTERNET_V6
    closed, foreign = "fw_default_deny", "fw_default_deny"


class Stage:
    """Streams of the two telephones and of a stranger; they end with the block."""

    def __init__(self, lab, kind):
        self.inside = Stream(lab, "subscriber", kind.phone, RTP, 1111)
        self.outside = Stream(lab, "far", kind.far, RTP + 100, 2222)
        self.stranger = Stream(lab, "internet", kind.stranger, RTP + 200, 3333)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for stream in (self.inside, self.outside, self.stranger):
            stream.end()

    def talk(self, when, inner, outer, public):
        """Media both ways, each to where its telephone was told; the box shows the inside as `public`."""
        passes(f"{when}, outwards", self.inside, public, inner.media(), self.outside)
        passes(f"{when}, inwards", self.outside, self.outside.here, outer.media(), self.inside)

    def closed(self, kind, when, public):
        """Nothing comes in at `public`."""
        stopped(kind.closed, f"media of the other end {when}", self.outside, public, self.inside)


def _proxy(lab, agents, kind):
    users = {"alice": endpoint({"address": kind.phone, "port": PORT})}
    return Proxy(lab, "subscriber2", kind.server, kind.net, users, agents("sip-proxy"))


def _hidden(kind, message, public):
    """What the outside is told: the outside end, and nothing of the inside."""
    described = message[message.index("v=0"):]
    expect(f" {public['address']}\n" in described.replace("\r", ""), f"SDP without {public['address']}: {described}")
    expect(not kind.translated or kind.phone not in described, f"SDP with an address of the inside: {described}")


def _end(text):
    """`address:port` as the two."""
    address, _, port = text.rpartition(":")
    return {"address": address.strip("[]"), "port": int(port)}


def _call_from_inside(lab, kind):
    """Reserved before the INVITE leaves, enabled with the answer, given back with BYE."""
    with domain(lab, closed=True) as agents, Stage(lab, kind) as stage:
        proxy = _proxy(lab, agents, kind)
        server = endpoint({"address": kind.server, "port": PORT})
        target = f"callee@{endpoint({'address': kind.far, 'port': PORT})}"
        callee = Telephone(lab, "far", "callee", kind.far, proxy.public, stage.outside.here)
        caller = Telephone(lab, "subscriber", "caller", kind.phone, server, stage.inside.here, target, "from-inside")
        reserved = proxy.event("reserved")
        public = _end(reserved["outside"]) if kind.translated else stage.inside.here
        expect(public["port"] % 2 == 0, f"RTP at an even port, RTCP at the next: reserved was {public}")
        expect(not kind.translated or public["address"] in Lab.POOL, f"reserved was {public}, no address of the pool")
        _hidden(kind, callee.heard("INVITE"), public)
        caller.heard("SIP/2.0 180")
        stage.closed(kind, "while it rings", public)
        # Early media.
        callee.act()
        caller.heard("SIP/2.0 183")
        rules = [row["id"] for row in lab.show("rules")]
        _talk_and_hang_up(kind, stage, proxy, (caller, callee), (caller, callee), public)
        left = [row["id"] for row in lab.show("rules")]
        expect(len(left) == 2, f"after BYE the two rules of the proxy itself are expected; of {rules} there are {left}")
        proxy.end()
    return f"RTP and RTCP at {endpoint(public)}"


def _talk_and_hang_up(kind, stage, proxy, parties, ends, public):
    """From early media to BYE; `parties` are caller and callee, `ends` the telephone inside and the other one."""
    caller, callee = parties
    enabled = proxy.event("enabled")
    expect(_end(enabled["public"]) == public, f"reserved {public}, enabled {enabled['public']}")
    stage.talk("early media", *ends, public)
    callee.act()
    caller.heard("SIP/2.0 200")
    stage.talk("the call", *ends, public)
    stopped(kind.foreign, "media of a stranger", stage.stranger, public, stage.inside)
    caller.act()
    proxy.event("released")
    callee.ended()
    caller.ended()
    stage.closed(kind, "after BYE", public)


def _call_from_outside(lab, kind):
    """Reserved before the telephone rings, enabled for the host that answers."""
    with domain(lab, closed=True) as agents, Stage(lab, kind) as stage:
        proxy = _proxy(lab, agents, kind)
        server = endpoint({"address": kind.server, "port": PORT})
        callee = Telephone(lab, "subscriber", "callee", kind.phone, server, stage.inside.here)
        caller = Telephone(lab, "far", "caller", kind.far, proxy.public, stage.outside.here, f"alice@{proxy.public}", "from-outside")
        reserved = proxy.event("reserved")
        public = _end(reserved["outside"]) if kind.translated else stage.inside.here
        callee.heard("INVITE")
        caller.heard("SIP/2.0 180")
        stage.closed(kind, "while it rings", public)
        callee.act()
        _hidden(kind, caller.heard("SIP/2.0 183"), public)
        _talk_and_hang_up(kind, stage, proxy, (caller, callee), (callee, caller), public)
        proxy.end()
    return f"RTP and RTCP at {endpoint(public)}"


def scenario_2_3_1_call_from_inside(lab, _box):
    """The internal server reserves, rewrites the INVITE, and enables when it knows both ends; row F-231."""
    detail = _call_from_inside(lab, Four)
    # A call that nobody answers: what was reserved ends, and the agent hears of it.
    with domain(lab) as agents:
        agent = agents("sip-proxy")
        watch = agent.watch()
        reserved = agent.ask("reserve", "--protocol", "udp", "--ports", 2, "--parity", "even", "--lifetime", 1)
        heard = []
        while not heard or heard[-1]["lifetime_seconds"] != 0:
            line = watch.stdout.readline()
            expect(line, f"midcom watch ended; the end of rule {reserved['rule']} was expected, {heard} came")
            event = json.loads(line)
            heard += [event] if event["event"] == "rule" and event["rule"] == reserved["rule"] else []
        expect([event["lifetime_seconds"] for event in heard] == [1, 0], f"made and ended was expected, heard was {heard}")
        lab.end(watch)
    return detail


def scenario_2_3_2_call_from_outside(lab, _box):
    """The internal server reserves before it relays the INVITE, and enables what the host that answered says."""
    return _call_from_outside(lab, Four)


def scenario_2_3_2_no_void_telephone_line(lab, _box):
    """Row F-232: where no ports are left the caller hears so, and no telephone rings."""
    few = lambda text: text.replace('addresses = ["203.0.113.16/28"]', f'addresses = ["{Lab.POOL[-1]}"]\nports = "1024-1535"')
    with domain(lab, change=few) as agents:
        proxy = _proxy(lab, agents, Four)
        hog, held = agents("management"), 0
        for ports in (64, 32, 16, 8, 4, 2):
            ask = ["reserve", "--protocol", "udp", "--ports", ports, "--lifetime", 60]
            while lab.run(hog.host, *hog.command, *ask, check=False).returncode == 0:
                held += ports
                expect(held <= 512, f"{held} ports of 512 were reserved")
        media = {"address": Four.phone, "port": RTP}
        callee = Telephone(lab, "subscriber", "callee", Four.phone, f"{Four.server}:{PORT}", media)
        caller = Telephone(lab, "far", "caller", Four.far, proxy.public, media | {"address": Four.far}, f"alice@{proxy.public}", "void")
        proxy.event("refused")
        caller.heard("SIP/2.0 503")
        caller.ended()
        expect(not callee.received(), f"the telephone rang: {callee.received()[:1]}")
        lab.end(callee.process)
        proxy.end()
    return f"503 when {held} of 512 ports are reserved"


def scenario_2_3_3_host_is_agent(lab, _box):
    """The host itself asks for its media before it rings; the internal server relays SDP as it is."""
    kind = Four
    with domain(lab, closed=True) as agents, Stage(lab, kind) as stage:
        # The internal server is reached from outside as in 2.1.1, and asks for nothing more.
        own = agents("sip-proxy").enable("udp", f"{kind.server}:{PORT}")
        agents("sip-proxy").enable("udp", f"{kind.server}:{PORT}", "--direction", "out", "--group", own["group"])
        users = {"alice": f"{kind.phone}:{PORT}"}
        proxy = Proxy(lab, "subscriber2", kind.server, kind.net, users, public=endpoint(own["outside"]))
        host = agents("host")
        pair = ["--protocol", "udp", "--ports", 2]
        reserved = host.ask("reserve", *pair, "--parity", "even", "--internal", kind.phone)
        public = {key: reserved["outside"][key] for key in ("address", "port")}
        callee = Telephone(lab, "subscriber", "callee", kind.phone, f"{kind.server}:{PORT}", public)
        caller = Telephone(lab, "far", "caller", kind.far, proxy.public, stage.outside.here, f"alice@{proxy.public}", "to-host")
        callee.heard("INVITE")
        stage.closed(kind, "before the host has enabled it", public)
        # Only its own: nobody else's rule, and for nobody else.
        inside = ["--internal", endpoint(stage.inside.here)]
        foreign = ["--internal", f"{Lab.SUBSCRIBER2}:{RTP}"]
        host.ask("enable-reserved", reserved["rule"], *pair, *foreign, "--external", kind.far, code=5)
        agents("neighbour").ask("enable-reserved", reserved["rule"], *pair, *inside, "--external", kind.far, code=5)
        told = callee.media()
        enabled = host.ask("enable-reserved", reserved["rule"], *pair, *inside, "--external", told["address"])
        host.ask("enable", *pair, *inside, "--external", endpoint(told), "--direction", "out", "--group", reserved["group"])
        expect(endpoint(enabled["outside"]) == endpoint(public), f"reserved {public}, enabled {enabled['outside']}")
        callee.act()
        caller.heard("SIP/2.0 183")
        callee.act()
        caller.heard("SIP/2.0 200")
        expect(caller.media() == public, f"the caller was told {caller.media()}, the host has {public}")
        stage.talk("the call", callee, caller, public)
        stopped(kind.foreign, "media of a stranger", stage.stranger, public, stage.inside)
        caller.act()
        callee.ended()
        caller.ended()
        host.ask("extend-group", reserved["group"], 0)
        stage.closed(kind, "after the call", public)
        proxy.end()
    return f"RTP and RTCP at {endpoint(public)}, asked for by {kind.phone}"


def scenario_2_3_3_authorization_token(lab, _box):
    """Row F-233: the internal server hands the host a token; by it the host opens what it could not, and nothing else."""
    server = lab.start("subscriber", *program("udp_echo"), RTP)
    lab.listening("subscriber", RTP, "u")
    with domain(lab, closed=True) as agents:
        internal_server, host = agents("sip-proxy"), agents("visitor")

        def token(*more):
            what = ["--internal", Lab.SUBSCRIBER, "--external", Lab.FAR, "--protocol", "udp", "--lifetime", 60, *more]
            return internal_server.ask("token", "--token-key", internal_server.folder / "token.key", *what)["token"]

        def opens(shown, inside=f"{Lab.SUBSCRIBER}:{RTP}", way=(), code=0):
            what = ["--protocol", "udp", "--internal", inside, "--external", Lab.FAR, *way]
            return host.ask("enable", *what, *(["--token", shown] if shown else []), code=code)

        opens(None, code=5)
        good = token("--rules", 2)
        last = "0" if good[-1] != "0" else "1"
        opens(good[:-1] + last, code=5)
        opens(good, inside=f"{Lab.SUBSCRIBER2}:{RTP}", code=5)
        rule = opens(good)
        opens(good, way=["--direction", "out", "--group", rule["group"]])
        expect(rule["lifetime_seconds"] == 60, f"the token allows 60 s, the rule has {rule['lifetime_seconds']}")
        answered = asked(lab, "far", rule["outside"])
        expect(answered == endpoint(rule["outside"]), f"far asked {endpoint(rule['outside'])}, answered by {answered}")
        silent(lab, "internet", rule["outside"], "filtered_remote")
        # It was good for two rules.
        opens(good, code=5)
        host.ask("extend-group", rule["group"], 0)
        silent(lab, "far", rule["outside"], "no_mapping")
        opens(good, code=5)
        short = token("--valid", 1)
        command = ["enable", "--protocol", "udp", "--internal", f"{Lab.SUBSCRIBER}:{RTP}", "--external", Lab.FAR, "--token", short]
        over = lambda: "has expired" in lab.run(host.host, *host.command, *command, "--lifetime", 1, check=False).stdout
        until(over, 10, "the token of one second is refused since it has expired")
    lab.end(server)
    return "used, replayed, tampered, expired, for another host"


def scenario_2_4_3_calls_over_ipv6(lab, _box):
    """The same calls: SDP keeps its addresses, and the rule is for both ends to the port."""
    details = [_call_from_inside(lab, Six), _call_from_outside(lab, Six)]
    expect(all(ipaddress.ip_address(Six.phone).compressed in detail for detail in details), f"the inside end itself: {details}")
    return f"from inside and outside, {details[0]}"


CHECKS = [
    scenario_2_3_1_call_from_inside, scenario_2_3_2_call_from_outside, scenario_2_3_2_no_void_telephone_line,
    scenario_2_3_3_host_is_agent, scenario_2_3_3_authorization_token, scenario_2_4_3_calls_over_ipv6,
]
