"""Scenarios 2.4: IPv6 through the firewall, a 6to4 router behind the translator, and IPsec between two hosts."""

import ipaddress
import os
import subprocess

from .agents import Connection, asked, domain, fetch, refused, shut, silent
from .lab import Lab, endpoint, expect, until
from .servers import program

WEB = f"[{Lab.SUBSCRIBER_V6}]:80"
KEY_EXCHANGE = """
[[rule]]
from = "outside"
to = "inside"
family = 6
protocol = "udp"
destination_ports = "500"
action = "accept"
"""


def scenario_2_4_1_ipv6_server(lab, box):
    """TCP and UDP servers with global addresses: the rule authorizes, nothing is translated; a third party may ask for it."""
    box.inside_nginx()
    server = lab.start("subscriber", *program("udp_echo"), 7353)
    lab.listening("subscriber", 7353, "u")
    own = {"address": Lab.SUBSCRIBER_V6, "port": 7353}
    with domain(lab) as agents:
        host, management = agents("host"), agents("management")
        shut(lab, "internet", WEB, "fw_default_deny")
        rule = host.enable("tcp", WEB)
        expect(endpoint(rule["outside"]) == WEB, f"A2 of {WEB} is {rule['outside']}, but a firewall translates nothing")
        for reader in ("internet", "far"):
            expect(fetch(lab, reader, WEB), f"{WEB} is not reached from {reader}")
        host.ask("delete", rule["rule"])
        shut(lab, "internet", WEB, "fw_default_deny")
        # UDP, authorized by a third party, for a short time.
        silent(lab, "far", own, "fw_default_deny")
        rule = management.enable("udp", endpoint(own), lifetime=3)
        management.enable("udp", endpoint(own), "--direction", "out", "--group", rule["group"], lifetime=3)
        answered = asked(lab, "far", own)
        expect(answered == endpoint(own), f"asked {endpoint(own)}, answered by {answered}")
        host.ask("delete", rule["rule"], code=5)
        until(lambda: management.gone(rule["rule"]), 10, f"rule {rule['rule']} ends after 3 s")
        silent(lab, "far", own, "fw_default_deny")
    lab.end(server)
    return f"{WEB} as itself"


def scenario_2_4_2_ipv6_peers(lab, _box):
    """Both peers behind firewalls of their own know the whole five-tuple: nothing has to be predicted."""
    second = lab.second()
    here = {"address": Lab.SUBSCRIBER_V6, "port": 7700}
    listener = lab.start("subscriber", *program("tcp_peer"), "listen", here["port"], stdout=subprocess.PIPE)
    lab.listening("subscriber", here["port"])
    with domain(lab) as agents, domain(second) as peers:
        host = agents("host")
        peer_end = {"address": second.SUBSCRIBER_V6, "port": 7701}
        from_peer = lambda port: lambda: Connection(second, "subscriber", here, 0.6, source_port=port).says("hello")
        refused(lab, "fw_default_deny", "the peer before there is a rule", from_peer(7701))
        rule = host.enable("tcp", endpoint(here), "--external", endpoint(peer_end), "--direction", "both")
        expect(endpoint(rule["outside"]) == endpoint(here), f"A2 of {endpoint(here)} is {rule['outside']}")
        peers("host").enable("tcp", endpoint(peer_end), "--external", endpoint(here), "--direction", "both")
        refused(lab, "fw_default_deny", "the peer from another port", from_peer(7702))
        direct = Connection(second, "subscriber", here, source_port=7701)
        expect(direct.says("hello") == "hello", f"{endpoint(peer_end)} does not reach {endpoint(here)}")
        seen = listener.stdout.readline().split()[1:]
        expect(seen == [peer_end["address"], "7701"], f"the peer was seen as {seen}, not as {peer_end}")
        other = Connection(lab, "far", here, 0.6, source_port=7701)
        refused(lab, "fw_default_deny", "another host from the peer's port", lambda: other.says("hello"))
        host.ask("delete", rule["rule"])
        refused(lab, "syn_required", "the connection after its rule was deleted", lambda: direct.says("hello"))
        lab.end(direct.process)
    lab.end(listener)
    return f"{endpoint(peer_end)} to {endpoint(here)}"


def _address_of(router):
    """The first address of the 6to4 prefix that an IPv4 address gives (RFC 3056 section 2)."""
    return str(ipaddress.IPv6Address(0x2002 << 112 | int(ipaddress.IPv4Address(router)) << 80 | 1))


def _six_to_four(lab, host, address):
    """A 6to4 router at a host, with the prefix that `address` gives it; its own address."""
    router = lab.start(host, *program("six_to_four"), "sixto4", stdout=subprocess.PIPE)
    expect(router.stdout.readline() == "ready\n", f"the 6to4 router at {host} did not start")
    own = _address_of(address)
    for command in (("address", "add", f"{own}/16", "dev", "sixto4"), ("link", "set", "sixto4", "mtu", 1280, "up")):
        lab.run(host, "ip", *command)
    return router, own


def _ping(lab, host, address, count=1):
    result = lab.run(host, "ping", "-6", "-n", "-q", "-c", count, "-i", "0.05", "-W", "0.6" if count == 1 else "2", address, check=False)
    return result.returncode == 0 and f"{count} received" in result.stdout


def _error_comes_back(lab):
    """An ICMP error about a packet of protocol 41 reaches the router that sent it."""
    def unreachable():
        names, values = [line.split() for line in lab.run("subscriber", "grep", "^Icmp:", "/proc/net/snmp").stdout.splitlines()]
        return int(dict(zip(names, values))["InDestUnreachs"])
    nowhere = "198.51.100.77"
    lab.run("internet", "ip", "route", "add", "unreachable", nowhere)
    try:
        before = unreachable()
        expect(not _ping(lab, "subscriber", _address_of(nowhere)), f"{nowhere} answers, though it is unreachable")
        came = unreachable() - before
        expect(came == 1, f"one ICMP error about protocol 41 to {nowhere} was expected at {Lab.SUBSCRIBER}, {came} came")
    finally:
        lab.run("internet", "ip", "route", "del", "unreachable", nowhere)


def scenario_2_4_4_six_to_four_router(lab, _box):
    """A 6to4 router learns the global IPv4 address of its prefix, and has protocol 41 of it for itself; row F-244."""
    routers = []
    with domain(lab) as agents:
        host, neighbour = agents("host"), agents("management")
        reserved = host.ask("reserve", "--protocol", "6in4", "--internal", Lab.SUBSCRIBER)
        public = reserved["outside"]["address"]
        expect(public in Lab.POOL, f"the router got {public}, no address of the pool")
        try:
            router, here = _six_to_four(lab, "subscriber", public)
            routers.append(router)
            router, there = _six_to_four(lab, "far", Lab.FAR)
            routers.append(router)
            refused(lab, "proto_unsupported", "6in4 from outside before the rule", lambda: _ping(lab, "far", here))
            own = ["--protocol", "6in4", "--internal", Lab.SUBSCRIBER, "--lifetime", 60]
            rule = host.ask("enable-reserved", reserved["rule"], *own)
            outwards = host.ask("enable", *own, "--direction", "out", "--group", reserved["group"])
            both = (rule["outside"]["address"], outwards["outside"]["address"])
            expect(both == (public, public), f"reserved {public}, in and out enabled are {both}")
            # The address is its own: another gets another, and not this one.
            claim = ["enable", "--protocol", "6in4", "--internal", Lab.SUBSCRIBER2]
            other = neighbour.ask(*claim)["outside"]["address"]
            expect(other != public, f"{public} was given to a second host for protocol 41")
            neighbour.ask("enable", "--protocol", "6in4", "--internal", "192.168.0.99", "--outside", public, "--strict", code=8)
            for place, target in (("subscriber", there), ("far", here)):
                expect(_ping(lab, place, target, 5), f"5 pings from {place} to {target} through protocol 41 are not all answered")
            _error_comes_back(lab)
            host.ask("extend-group", reserved["group"], 0)
            refused(lab, "proto_unsupported", "6in4 from outside after the rule", lambda: _ping(lab, "far", here))
            refused(lab, "proto_unsupported", "6in4 from inside after the rule", lambda: _ping(lab, "subscriber", there))
        finally:
            for router in routers:
                lab.end(router)
    return f"{here} and {there}, both ways"


def scenario_2_4_5_ipsec_between_hosts(lab, _box):
    """Key exchange passes by the domain's policy; ESP passes for the one peer that the host names, until it is done; row F-245."""
    key = os.urandom(20).hex()
    association = lambda what, local, remote: [*program("esp_end"), what, local, remote, key]
    ends = []
    with domain(lab, more=KEY_EXCHANGE) as agents:
        host = agents("host")
        ends.append(lab.start("subscriber", *association("answer", Lab.SUBSCRIBER_V6, Lab.FAR_V6), stdout=subprocess.PIPE))
        for place, local in (("far", Lab.FAR_V6), ("internet", Lab.INTERNET_V6)):
            ask = [*association("ask", local, Lab.SUBSCRIBER_V6), 0.6]
            ends.append(lab.start(place, *ask, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        for exchange in ("subscriber", "far"):
            ends.append(lab.start(exchange, *program("udp_echo"), 500))
            lab.listening(exchange, 500, "u")
        for process in ends[:3]:
            expect(process.stdout.readline() == "ready\n", "an end of the association did not start")

        def says(process, line="behind the cipher"):
            process.stdin.write(line + "\n")
            process.stdin.flush()
            return process.stdout.readline().strip() == line

        peer, stranger = ends[1], ends[2]
        for place, target in (("subscriber", Lab.FAR_V6), ("far", Lab.SUBSCRIBER_V6)):
            end = {"address": target, "port": 500}
            expect(asked(lab, place, end) == endpoint(end), f"key exchange from {place} with {target} does not pass by policy")
        refused(lab, "fw_default_deny", "ESP before the rule", lambda: says(peer))
        own = ["--protocol", "esp", "--internal", Lab.SUBSCRIBER_V6, "--external", Lab.FAR_V6, "--direction", "both"]
        rule = host.ask("enable", *own, "--lifetime", 60)
        for number in range(3):
            expect(says(peer, f"packet {number}"), f"packet {number} of the association was not answered")
        refused(lab, "fw_default_deny", "ESP of a stranger", lambda: says(stranger))
        host.ask("delete", rule["rule"])
        refused(lab, "fw_default_deny", "ESP after the rule", lambda: says(peer))
        rule = host.ask("enable", *own, "--lifetime", 2)
        expect(says(peer), "the association does not pass for the second time")
        until(lambda: host.gone(rule["rule"]), 10, f"rule {rule['rule']} ends after 2 s")
        refused(lab, "fw_default_deny", "ESP after the lifetime", lambda: says(peer))
        agents("neighbour").ask("enable", *own, code=5)
        for process in ends:
            lab.end(process)
    return f"AES-GCM between {Lab.SUBSCRIBER_V6} and {Lab.FAR_V6}"


CHECKS = [
    scenario_2_4_1_ipv6_server, scenario_2_4_2_ipv6_peers, scenario_2_4_4_six_to_four_router, scenario_2_4_5_ipsec_between_hosts,
]
