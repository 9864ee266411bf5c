"""The scenarios of draft-ietf-midcom-scenarios with IPv4, one by one: servers (2.1) and peers that meet by themselves (2.2).

Each has its negative: before the rule, for whom it is not, and when it is over.
"""

import select
import socket
import struct
import subprocess

from .agents import Connection, asked, domain, fetch, refused, shut, silent
from .lab import SCRIPTS, Lab, endpoint, expect, until
from .servers import program

WEB = f"{Lab.SUBSCRIBER}:80"


def _checksum(octets):
    total = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


def _segments(lab, host, box, sources, to, source_port=40000):
    """A SYN from each source to an end, as frames that `host` sends to the box; scapy would take seconds for thousands."""
    station, destination = bytes.fromhex(lab.station(host, box).replace(":", "")), socket.inet_aton(to["address"])
    for source in map(socket.inet_aton, sources):
        tcp = struct.pack("!HHIIBBHHH", source_port, to["port"], 1, 0, 0x50, 0x02, 8192, 0, 0)
        pseudo = source + destination + struct.pack("!HH", 6, len(tcp))
        tcp = tcp[:16] + struct.pack("!H", _checksum(pseudo + tcp)) + tcp[18:]
        head = struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0, 64, 6, 0) + source + destination
        head = head[:10] + struct.pack("!H", _checksum(head)) + head[12:]
        yield station + b"\x02\0\0\0\0\x01" + b"\x08\x00" + head + tcp


def scenario_2_1_tcp_server(lab, box):
    """A web server learns where it is reached, and everybody reaches it there: not before, and not afterwards."""
    box.inside_nginx()
    wanted = f"{Lab.POOL[4]}:8080"
    with domain(lab) as agents:
        host = agents("host")
        shut(lab, "internet", wanted, "no_mapping")
        rule = host.enable("tcp", WEB, "--outside", wanted, "--strict")
        end = endpoint(rule["outside"])
        expect(end == wanted, f"asked for {wanted} (extension 0x8005), got {end}")
        # Whoever reads it in the DNS, subscribers of the same domain too (hairpin).
        for reader in ("internet", "far", "subscriber2"):
            expect(fetch(lab, reader, end), f"{end} is not reached from {reader}")
        host.ask("delete", rule["rule"])
        shut(lab, "internet", end, "no_mapping")
        # What is not renewed ends by itself.
        rule = host.enable("tcp", WEB, lifetime=2)
        end = endpoint(rule["outside"])
        expect(fetch(lab, "far", end), f"{end} is not reached while its rule lives")
        until(lambda: not fetch(lab, "far", end, 0.5), 10, f"{end} is closed when 2 s are over")
        expect(host.gone(rule["rule"]), f"rule {rule['rule']} is still there after its lifetime")
    return f"{wanted}, then 2 s of {end}"


def scenario_2_1_any_number_of_hosts(lab, _box):
    """Row F-21-a: ten thousand hosts try, all arrive; and the server itself opens nothing by its rule."""
    sources = [f"198.18.{n >> 8}.{n & 255}" for n in range(10000)]
    with domain(lab, closed=True) as agents:
        # Nobody listens: the host's kernel answers each with a reset, so that no flow stays.
        rule = agents("host").enable("tcp", f"{Lab.SUBSCRIBER}:8081")
        counter = lab.start("subscriber", *program("syn_sources"), 8081, len(sources), 20, stdout=subprocess.PIPE)
        expect(counter.stdout.readline() == "counting\n", "the counter of SYN segments did not start")
        # Who gets no answer tries again.
        for _ in range(3):
            lab.send_frames("internet", _segments(lab, "internet", Lab.BOX_OUTSIDE, sources, rule["outside"]), 10000)
            if select.select([counter.stdout], [], [], 2)[0]:
                break
        came = int(counter.stdout.readline())
        expect(came == len(sources), f"of {len(sources)} hosts {came} arrived at {Lab.SUBSCRIBER}:8081")
        to = {"address": Lab.INTERNET, "port": 80}
        segments = _segments(lab, "subscriber", Lab.BOX_INSIDE, [Lab.SUBSCRIBER], to, source_port=8081)
        refused(lab, "pinhole_one_way", f"a SYN from {Lab.SUBSCRIBER}:8081", lambda: lab.send_frames("subscriber", segments))
    return f"{came} hosts"


def scenario_2_1_1_udp_server(lab, _box):
    """A UDP server in a closed domain: one rule lets questions in, a second of the group lets answers out, as A2."""
    inside = f"{Lab.SUBSCRIBER}:7353"
    server = lab.start("subscriber", *program("udp_echo"), 7353)
    lab.listening("subscriber", 7353, "u")
    with domain(lab, closed=True) as agents:
        host = agents("host")
        rule = host.enable("udp", inside)
        end = rule["outside"]
        # The question arrives: its answer is what is dropped.
        silent(lab, "internet", end, "pinhole_one_way")
        way_out = host.enable("udp", inside, "--direction", "out", "--group", rule["group"])
        expect(way_out["outside"] == end, f"outwards {way_out['outside']}, inwards {end}: one inside end has one outside end")
        for reader in ("internet", "far"):
            answered = asked(lab, reader, end)
            expect(answered == endpoint(end), f"{reader} asked {endpoint(end)}, answered by {answered}")
        host.ask("delete", way_out["rule"])
        silent(lab, "internet", end, "pinhole_one_way")
        host.ask("extend-group", rule["group"], 0)
        silent(lab, "internet", end, "no_mapping")
    lab.end(server)
    return f"{endpoint(end)} for {inside}"


def scenario_2_1_2_third_party(lab, box):
    """A management server opens for a web server that knows nothing of it; who has no right can neither open nor close."""
    box.inside_nginx()
    with domain(lab) as agents:
        management = agents("management")
        # Rights are a matter of the domain: hosts, and what for (row F-21-b).
        agents("outsider").ask("enable", "--protocol", "tcp", "--internal", WEB, code=5)
        agents("neighbour").ask("enable", "--protocol", "udp", "--internal", f"{Lab.SUBSCRIBER}:53", code=5)
        agents("neighbour").ask("enable", "--protocol", "tcp", "--internal", f"{Lab.SUBSCRIBER2}:80", code=5)
        agents("neighbour").enable("udp", f"{Lab.SUBSCRIBER2}:7353")
        rule = management.enable("tcp", WEB)
        end = endpoint(rule["outside"])
        expect(fetch(lab, "internet", end), f"{end} is not reached")
        # The host is no agent of this rule.
        agents("host").ask("delete", rule["rule"], code=5)
        expect(fetch(lab, "internet", end), f"{end} is not reached after somebody else tried to close it")
        agents("successor").ask("delete", rule["rule"])
        shut(lab, "internet", end, "no_mapping")
    return f"{end} by management.example, closed by its successor"


def scenario_2_2_peer_to_peer_tcp(lab, _box):
    """A host opens for the one peer it met elsewhere, for one connection; the hole closes with it, or on request."""
    port = 7500
    inside, far = f"{Lab.SUBSCRIBER}:{port}", ["--external", Lab.FAR]
    listener = lab.start("subscriber", *program("tcp_peer"), "listen", port, stdout=subprocess.PIPE)
    lab.listening("subscriber", port)
    with domain(lab) as agents:
        host = agents("host")
        rule = host.enable("tcp", inside, *far, "--max-flows", 1, "--close-on-fin")
        end = rule["outside"]
        tries = lambda host: lambda: Connection(lab, host, end, 0.6).says("hello")
        refused(lab, "filtered_remote", f"internet to {endpoint(end)}", tries("internet"))
        peer = Connection(lab, "far", end)
        expect(peer.says("hello") == "hello", f"the peer at far does not reach {endpoint(end)}")
        refused(lab, "pinhole_sessions", "a second connection of the peer", tries("far"))
        expect(peer.says("still there") == "still there", "the connection ended with the second attempt")
        peer.close()
        until(lambda: host.gone(rule["rule"]), 5, f"rule {rule['rule']} ended with its connection")
        refused(lab, "filtered_remote", "the peer once more, after its connection", tries("far"))
        # On request: what is established is cut, unless the domain says that it may end by itself.
        rule = host.enable("tcp", inside, *far)
        end = rule["outside"]
        peer = Connection(lab, "far", end)
        expect(peer.says("hello") == "hello", f"the peer at far does not reach {endpoint(end)}")
        host.ask("delete", rule["rule"])
        refused(lab, "no_mapping", "the established connection of a deleted rule", lambda: peer.says("hello"))
        lab.end(peer.process)
    with domain(lab, more='\n[midcom]\nending = "drain"\n') as agents:
        host = agents("host")
        rule = host.enable("tcp", inside, *far)
        end = rule["outside"]
        peer = Connection(lab, "far", end)
        expect(peer.says("hello") == "hello", f"the peer at far does not reach {endpoint(end)}")
        host.ask("delete", rule["rule"])
        expect(peer.says("hello") == "hello", "with ending = drain, an established connection was cut")
        refused(lab, "filtered_remote", "a new connection while another drains", tries("far"))
        peer.close()
    lab.end(listener)
    return f"one of {Lab.FAR} at {endpoint(end)}; cut and drained"


def scenario_2_2_1_peer_to_peer_udp(lab, _box):
    """Both ends are known to the port: one rule, both ways, nobody else."""
    server = lab.start("subscriber", *program("udp_echo"), 7510)
    lab.listening("subscriber", 7510, "u")
    with domain(lab) as agents:
        host = agents("host")
        rule = host.enable("udp", f"{Lab.SUBSCRIBER}:7510", "--external", f"{Lab.FAR}:7511", "--direction", "both", lifetime=3)
        end = rule["outside"]
        answered = asked(lab, "far", end, source_port=7511)
        expect(answered == endpoint(end), f"the peer asked {endpoint(end)}, answered by {answered}")
        silent(lab, "far", end, "filtered_remote", source_port=7512)
        silent(lab, "internet", end, "filtered_remote", source_port=7511)
        # A wildcard has one way (RFC 4540 section 8.3.1).
        host.ask("enable", "--protocol", "udp", "--internal", f"{Lab.SUBSCRIBER}:7510", "--direction", "both", code=2)
        until(lambda: host.gone(rule["rule"]), 10, f"rule {rule['rule']} ends after 3 s")
        silent(lab, "far", end, "no_mapping", source_port=7511)
    lab.end(server)
    return f"{endpoint(end)} for {Lab.FAR}:7511"


def _peers(lab):
    """The second box, and a listener of the peer behind the first; its prints are who connects."""
    second = lab.second()
    listener = lab.start("subscriber", *program("tcp_peer"), "listen", 7600, stdout=subprocess.PIPE)
    lab.listening("subscriber", 7600)
    return second, listener


INSIDE_A = f"{Lab.SUBSCRIBER}:7600"


def scenario_2_2_2_option_1_any_source(lab, _box):
    """Both peers are behind boxes of their own: the one opens for anybody, since it cannot know how the other will look."""
    second, listener = _peers(lab)
    with domain(lab) as agents:
        host = agents("host")
        end = {"address": Lab.POOL[5], "port": 7600}
        peer = lambda: Connection(second, "subscriber", end, 0.6).says("hello")
        refused(lab, "no_mapping", "the peer before there is a rule", peer)
        rule = host.enable("tcp", INSIDE_A, "--outside", endpoint(end), "--strict", lifetime=3)
        expect(peer() == "hello", f"the peer behind the second box does not reach {endpoint(end)}")
        seen = listener.stdout.readline().split()[1]
        expect(seen in second.POOL, f"the peer was seen as {seen}, not as an address of its box")
        # What is open for any source is open for others too: applications have a token for that.
        expect(Connection(lab, "far", end).says("hello") == "hello", "another source is not let in")
        until(lambda: host.gone(rule["rule"]), 10, f"rule {rule['rule']} ends after 3 s")
        refused(lab, "no_mapping", "the peer after the rule's lifetime", peer)
    lab.end(listener)
    return f"{second.SUBSCRIBER} came as {seen} to {endpoint(end)}"


def scenario_2_2_2_first_source_locks(lab, _box):
    """The variation: open for anybody, until somebody's handshake is complete. SYN segments alone lock nothing."""
    second, listener = _peers(lab)
    with domain(lab) as agents:
        rule = agents("host").enable("tcp", INSIDE_A, "--lock", "address")
        end = rule["outside"]
        # Spoofed sources, which never answer: they are candidates, and no more.
        lab.send_frames("internet", _segments(lab, "internet", Lab.BOX_OUTSIDE, [f"198.18.1.{n}" for n in range(4)], end))
        racers = {"internet": Connection(lab, "internet", end, 1), "far": Connection(lab, "far", end, 1),
                  "peer": Connection(second, "subscriber", end, 1)}
        # Their last ACKs race; a loser's data goes nowhere.
        answers = {name: racer.says("hello") for name, racer in racers.items()}
        winners = [name for name, answer in answers.items() if answer == "hello"]
        expect(len(winners) == 1, f"of three that raced exactly one has the hole; answered were {winners or 'none'}")
        for name in racers:
            host, of = ("subscriber", second) if name == "peer" else (name, lab)
            if name in winners:
                expect(Connection(of, host, end).says("again") == "again", f"{name} locked the hole, but has no second connection")
            else:
                attempt = lambda of=of, host=host: Connection(of, host, end, 0.6).says("hello")
                refused(lab, "pinhole_locked", f"{name}, when {winners[0]} has locked the hole", attempt)
        for racer in racers.values():
            racer.lab.end(racer.process)
    lab.end(listener)
    return f"{winners[0]} won of {', '.join(racers)}"


def scenario_2_2_2_option_2_predicted_address(lab, _box):
    """The peer asks its own box how it will look from outside; the other opens for just that."""
    second, listener = _peers(lab)
    with domain(lab) as agents, domain(second) as peers:
        host, peer = agents("host"), peers("host")
        # The peer's box promises an outside end for its port, and the first box opens for that end.
        promised = peer.ask("reserve", "--protocol", "tcp", "--internal", second.SUBSCRIBER)
        expect(promised["outside"]["address"] in second.POOL, f"the prediction is {promised['outside']}, no address of that box")
        rule = host.enable("tcp", INSIDE_A, "--external", endpoint(promised["outside"]))
        end = rule["outside"]
        own = ["--protocol", "tcp", "--internal", f"{second.SUBSCRIBER}:7601", "--external", endpoint(end), "--direction", "out"]
        kept = peer.ask("enable-reserved", promised["rule"], *own)
        expect(kept["outside"] == promised["outside"], f"promised {promised['outside']}, enabled {kept['outside']}")
        # From another port the peer looks otherwise, and without prediction it is nobody.
        stray = lambda: Connection(second, "subscriber", end, 0.6, source_port=7602).says("hello")
        refused(lab, "filtered_remote", "the peer from a port that nothing was predicted for", stray)
        refused(lab, "filtered_remote", "a host of the internet", lambda: Connection(lab, "internet", end, 0.6).says("hello"))
        direct = Connection(second, "subscriber", end, source_port=7601)
        expect(direct.says("hello") == "hello", f"the peer does not reach {endpoint(end)} as {endpoint(promised['outside'])}")
        seen = listener.stdout.readline().split()[1:]
        expect(":".join(seen) == endpoint(promised["outside"]), f"predicted {endpoint(promised['outside'])}, seen {seen}")
        host.ask("delete", rule["rule"])
        refused(lab, "no_mapping", "the connection after its rule was deleted", lambda: direct.says("hello"))
        lab.end(direct.process)
    lab.end(listener)
    return f"{':'.join(seen)}, as predicted, to {endpoint(end)}"


def the_demos_two_pinholes(lab, _box):
    """What the demo shows a person: one opened by `turnpike midcom`, one by natpmpc."""
    shown = subprocess.run([SCRIPTS / "lib/show-pinholes", lab.name, "--close"], capture_output=True, text=True, timeout=60,
                           stdin=subprocess.DEVNULL, check=False)
    expect(shown.returncode == 0, f"show-pinholes ended with code {shown.returncode}: {(shown.stderr or shown.stdout)[-300:]}")
    for words in ("MIDCOM opened the way", "NAT-PMP opened the way", "simco:demo", f"nat-pmp:inside/{Lab.SUBSCRIBER}"):
        expect(words in shown.stdout, f"'{words}' was expected, but was not shown: {shown.stdout[-600:]}")
    expect(not lab.show("rules"), "with --close, rules are left")
    return "MIDCOM and NAT-PMP"


CHECKS = [
    the_demos_two_pinholes,
    scenario_2_1_tcp_server, scenario_2_1_any_number_of_hosts, scenario_2_1_1_udp_server, scenario_2_1_2_third_party,
    scenario_2_2_peer_to_peer_tcp, scenario_2_2_1_peer_to_peer_udp, scenario_2_2_2_option_1_any_source,
    scenario_2_2_2_first_source_locks, scenario_2_2_2_option_2_predicted_address,
]
