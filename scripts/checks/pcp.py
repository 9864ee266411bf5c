"""Hosts open their own mappings: PCP with a client written from the RFCs alone, NAT-PMP with natpmpc."""

import contextlib
import json
import os
import re
import signal
import socket

from .lab import Lab, expect, until
from .servers import program

SECTION = """
[pcp]
zones = ["inside"]
nat_pmp = ["inside"]
lifetime_min = 2
rate = 200

[[third_party]]
clients = "192.168.0.11/32"
hosts = ["192.168.0.0/24"]
"""
METRICS = "http://127.0.0.1:9464/metrics"


@contextlib.contextmanager
def enabled(lab, section=SECTION, change=lambda text: text):
    """PCP as `section` says, for as long as the block lasts."""
    path = lab.run_dir / "turnpike.toml"
    sound = path.read_text()
    try:
        path.write_text(change(sound) + section)
        lab.cli("config", "reload")
        until(lambda: _ask(lab, "subscriber", "announce", Lab.BOX_INSIDE) is not None, 10, "an answer to ANNOUNCE")
        yield
    finally:
        # Packets may keep them for longer than the next check waits; the server hears that they are gone.
        for row in _rules(lab):
            lab.cli("rule", "delete", row["id"], check=False)
        path.write_text(sound)
        lab.cli("config", "reload")


def _rules(lab):
    """Rules that hosts made."""
    return [row for row in lab.show("rules") if row["owner"].startswith(("pcp:", "nat-pmp:"))]


def _asked(lab, host, what, server, *arguments):
    """Every answer to one request."""
    result = lab.run(host, *program("pcp_ask"), what, server, *arguments, check=False)
    return [json.loads(line) for line in result.stdout.splitlines()]


def _ask(lab, host, what, server, *arguments):
    """The first answer, None without."""
    return next(iter(_asked(lab, host, what, server, *arguments)), None)


def granted(lab, host, what, server, *arguments):
    """The answer, which has to be a success."""
    answer = _ask(lab, host, what, server, *arguments)
    expect(answer is not None, f"{what} {arguments} at {host}: no answer")
    expect(answer["result"] == "SUCCESS", f"{what} {arguments} at {host}: {answer['result']}")
    expect(answer["from"]["address"].split("%")[0] == server.split("%")[0], f"asked {server}, answered by {answer['from']}")
    return answer


def refused(lab, result, host, what, server, *arguments):
    """The answer, which has to be that error."""
    answer = _ask(lab, host, what, server, *arguments)
    expect(answer is not None and answer["result"] == result, f"{what} {arguments} at {host}: {answer and answer['result']}, not {result}")
    return answer


def _end(answer):
    address, port = answer["external"]["address"], answer["external"]["port"]
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _fetch(lab, host, end, seconds=5):
    return lab.run(host, "curl", "-sS", "--max-time", seconds, f"http://{end}/page", check=False).stdout == "a page\n"


def _nonce():
    return os.urandom(12).hex()


def _map_fetch_delete(lab, box, server, closed):
    """TCP port 80 of the subscriber from outside: not before, then yes, not after."""
    box.inside_nginx()
    nonce = _nonce()
    suggested = (Lab.POOL[3], 8088) if ":" not in server else ("::", 0)
    before = f"{suggested[0]}:{suggested[1]}" if ":" not in server else f"[{Lab.SUBSCRIBER_V6}]:80"
    drops = lab.drops().get(closed, 0)
    expect(not _fetch(lab, "internet", before, 1), f"{before} answers before anybody mapped it")
    expect(lab.drops().get(closed, 0) > drops, f"refused, but no {closed} was counted")
    ask = ["map", server, "tcp", 80, "--nonce", nonce]
    answer = granted(lab, "subscriber", *ask, "--suggest", *suggested)
    expect(_end(answer) == before, f"suggested {before}, got {_end(answer)}")
    # Nobody used it yet: it goes at once, and is there again for its client.
    gone = granted(lab, "subscriber", *ask, "--lifetime", 0)
    expect(gone["lifetime"] == 0, f"deleted without a packet, but it lives for {gone['lifetime']} s")
    expect(not _fetch(lab, "internet", before, 1), f"{before} answers after it was deleted")
    answer = granted(lab, "subscriber", *ask, "--suggest", *suggested)
    end = _end(answer)
    for host in ("internet", "far"):
        expect(_fetch(lab, host, end), f"{end} cannot be reached from {host}")
    other = refused(lab, "NOT_AUTHORIZED", "subscriber", "map", server, "tcp", 80, "--lifetime", 0)
    expect(0 < other["lifetime"] <= 600, f"another nonce: lifetime {other['lifetime']}")
    # RFC 6887 section 15: packets keep it, so a deletion has to wait for them.
    kept = granted(lab, "subscriber", *ask, "--lifetime", 0)
    expect(kept["lifetime"] > 0, "deleted under its connections (RFC 6887 section 15)")
    expect(_fetch(lab, "internet", end), f"{end} is gone though packets keep it")
    return f"{end}, kept for {kept['lifetime']} s after its last packet"


def pcp_off_by_default(lab, _box):
    """Nobody listens on port 5351 until the operator says so."""
    for host, server in (("subscriber", Lab.BOX_INSIDE), ("subscriber", Lab.BOX_INSIDE_V6), ("internet", Lab.BOX_OUTSIDE)):
        expect(_ask(lab, host, "announce", server, "--wait", 0.5) is None, f"{server} answers")
    return "no answer"


def pcp_map_tcp(lab, box):
    """MAP over IPv4: a web server of the subscriber is reached at its external end."""
    with enabled(lab):
        return _map_fetch_delete(lab, box, Lab.BOX_INSIDE, "no_mapping")


def pcp_map_ipv6(lab, box):
    """MAP over IPv6: a hole in the firewall, external end = internal end."""
    with enabled(lab):
        return _map_fetch_delete(lab, box, Lab.BOX_INSIDE_V6, "fw_default_deny")


def pcp_map_udp(lab, _box):
    """MAP is two-way: the answer to a datagram from outside comes from the external end."""
    with enabled(lab):
        echo = lab.start("subscriber", *program("udp_echo"), 7100)
        lab.listening("subscriber", 7100, "u")
        try:
            answer = granted(lab, "subscriber", "map", Lab.BOX_INSIDE, "udp", 7100)
            address, port = answer["external"]["address"], answer["external"]["port"]
            for host in ("internet", "far"):
                said = lab.run(host, *program("udp_ask"), address, port, "hello").stdout.split()
                expect(said == [address, str(port), "hello"], f"asked {address} {port}, answered {said}")
        finally:
            lab.end(echo)
    return f"{address}:{port}"


def pcp_mapping_expires(lab, box):
    """A mapping that is not renewed is gone when its lifetime is over."""
    box.inside_nginx()
    with enabled(lab):
        nonce = _nonce()
        answer = granted(lab, "subscriber", "map", Lab.BOX_INSIDE, "tcp", 80, "--lifetime", 3, "--nonce", nonce)
        expect(answer["lifetime"] == 3, f"asked for 3 s, got {answer['lifetime']}")
        expect(_fetch(lab, "internet", _end(answer)), "not reached while it lives")
        until(lambda: not _fetch(lab, "internet", _end(answer), 1), 10, "nobody is let in any more")
        expect(not _rules(lab), "the rule is still there")
    return "3 s"


def pcp_filter(lab, box):
    """FILTER lets its remote host in and nobody else; cleared, everybody."""
    box.inside_nginx()
    with enabled(lab):
        ask = ["map", Lab.BOX_INSIDE, "tcp", 80, "--nonce", _nonce()]
        answer = granted(lab, "subscriber", *ask, "--filter", f"{Lab.FAR}/32", 0)
        expect([option["option"] for option in answer["options"]] == ["FILTER"], f"options {answer['options']}")
        end = _end(answer)
        expect(_fetch(lab, "far", end), f"{Lab.FAR} is not let in")
        before = lab.drops().get("filtered_remote", 0)
        expect(not _fetch(lab, "internet", end, 1), f"{Lab.INTERNET} is let in")
        expect(lab.drops().get("filtered_remote", 0) > before, "refused, but no filtered_remote was counted")
        granted(lab, "subscriber", *ask, "--filter", f"{Lab.INTERNET}/32", 0)
        expect(_fetch(lab, "internet", end) and _fetch(lab, "far", end), "a second filter is not added to the first")
        granted(lab, "subscriber", *ask, "--filter", "::/none", 0, "--filter", f"{Lab.INTERNET}/32", 0)
        expect(_fetch(lab, "internet", end) and not _fetch(lab, "far", end, 1), "filters are not replaced")
        granted(lab, "subscriber", *ask, "--filter", "::/none", 0)
        expect(_fetch(lab, "far", end), "cleared filters still filter")
        refused(lab, "MALFORMED_OPTION", "subscriber", *ask, "--lifetime", 0, "--filter", f"{Lab.FAR}/32", 0)
        # IPv6.
        ask = ["map", Lab.BOX_INSIDE_V6, "tcp", 80, "--nonce", _nonce()]
        end = _end(granted(lab, "subscriber", *ask, "--filter", f"{Lab.FAR_V6}/128", 0))
        expect(_fetch(lab, "far", end) and not _fetch(lab, "internet", end, 1), "FILTER over IPv6")
    return "one in, added, replaced, cleared"


def pcp_prefer_failure(lab, _box):
    """PREFER_FAILURE takes the suggested end or nothing."""
    with enabled(lab):
        ask = ["map", Lab.BOX_INSIDE, "tcp", 8444, "--suggest", Lab.POOL[5], 443, "--prefer-failure"]
        answer = granted(lab, "subscriber", *ask)
        expect(_end(answer) == f"{Lab.POOL[5]}:443", f"got {_end(answer)}")
        other = refused(lab, "CANNOT_PROVIDE_EXTERNAL", "subscriber2", *ask)
        expect(_end(other) == f"{Lab.POOL[5]}:443", "the suggestion does not come back")
        ask[-1:] = []
        expect(_end(granted(lab, "subscriber2", *ask)) != f"{Lab.POOL[5]}:443", "one external end for two hosts")
        refused(lab, "CANNOT_PROVIDE_EXTERNAL", "subscriber", "map", Lab.BOX_INSIDE, "udp", 99, "--suggest", Lab.POOL[5], 5351, "--prefer-failure")
        refused(lab, "MALFORMED_OPTION", "subscriber", "map", Lab.BOX_INSIDE, "tcp", 99, "--prefer-failure")
    return f"{Lab.POOL[5]}:443"


def pcp_peer(lab, _box):
    """PEER tells the external end that packets to its remote end get."""
    with enabled(lab):
        ask = ["peer", Lab.BOX_INSIDE, "udp", 7200, "--remote", Lab.INTERNET, 7008, "--nonce", _nonce()]
        answer = granted(lab, "subscriber", *ask)
        script = ("import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 7200)); s.settimeout(3); "
                  f"s.sendto(b'?', ('{Lab.INTERNET}', 7008)); print(s.recv(99).decode())")
        seen = lab.run("subscriber", "python3", "-c", script).stdout.split()
        expect(seen == [answer["external"]["address"], str(answer["external"]["port"])], f"promised {_end(answer)}, seen {seen}")
        again = granted(lab, "subscriber", *ask, "--lifetime", 0)
        expect(again["lifetime"] > 500, f"PEER shortened it to {again['lifetime']} s")
        refused(lab, "NOT_AUTHORIZED", "subscriber", *ask[:-1], _nonce())
        refused(lab, "NOT_AUTHORIZED", "subscriber", "map", Lab.BOX_INSIDE, "udp", 7200, "--lifetime", 0)
        refused(lab, "MALFORMED_REQUEST", "subscriber", "peer", Lab.BOX_INSIDE, "udp", 7201, "--remote", "127.0.0.1", 7008)
    return f"{_end(answer)}"


def pcp_third_party(lab, box):
    """THIRD_PARTY is for who is trusted, within the named hosts; scenario 2.1.2."""
    box.inside_nginx()
    with enabled(lab):
        nonce = _nonce()
        ask = ["map", Lab.BOX_INSIDE, "tcp", 80, "--nonce", nonce, "--third-party"]
        refused(lab, "UNSUPP_OPTION", "subscriber", *ask, Lab.SUBSCRIBER2)
        refused(lab, "NOT_AUTHORIZED", "subscriber2", *ask, "10.9.9.9")
        refused(lab, "MALFORMED_REQUEST", "subscriber2", *ask, Lab.SUBSCRIBER2)
        answer = granted(lab, "subscriber2", *ask, Lab.SUBSCRIBER)
        expect(_fetch(lab, "internet", _end(answer)), f"{_end(answer)} does not reach {Lab.SUBSCRIBER}")
        refused(lab, "NOT_AUTHORIZED", "subscriber", "map", Lab.BOX_INSIDE, "tcp", 80, "--lifetime", 0)
    return f"{_end(answer)} for {Lab.SUBSCRIBER}"


def pcp_port_set(lab, _box):
    """PORT_SET maps consecutive ports at once (RFC 7753)."""
    with enabled(lab):
        servers = [lab.start("subscriber", *program("udp_echo"), port) for port in range(7300, 7304)]
        try:
            lab.listening("subscriber", 7303, "u")
            ask = ["map", Lab.BOX_INSIDE, "udp", 7300, "--port-set", 4, "--parity", "--nonce", _nonce()]
            answer = granted(lab, "subscriber", *ask)
            sets = [option for option in answer["options"] if option["option"] == "PORT_SET"]
            expect(sets and (sets[0]["size"], sets[0]["first"]) == (4, 7300), f"options {answer['options']}")
            address, first = answer["external"]["address"], answer["external"]["port"]
            expect(first % 2 == 0, f"an even port was asked for, {first} given")
            for port in range(first, first + 4):
                said = lab.run("internet", *program("udp_ask"), address, port, f"port {port}").stdout.split()
                expect(said[:2] == [address, str(port)], f"port {port}: {said}")
        finally:
            for server in servers:
                lab.end(server)
        refused(lab, "MALFORMED_OPTION", "subscriber", "map", Lab.BOX_INSIDE, "udp", 7300, "--port-set", 4,
                "--suggest", address, first, "--prefer-failure")
    return f"{address}:{first}-{first + 3}"


def pcp_spoofing(lab, _box):
    """Requests that lie about their client, and requests from outside."""
    with enabled(lab):
        refused(lab, "ADDRESS_MISMATCH", "subscriber", "map", Lab.BOX_INSIDE, "tcp", 80, "--claim", Lab.SUBSCRIBER2)
        for server in (Lab.BOX_OUTSIDE, Lab.BOX_OUTSIDE_V6):
            expect(_ask(lab, "internet", "announce", server, "--wait", 0.5) is None, f"{server} answers outside")
        lab.run("internet", "ip", "route", "add", f"{Lab.BOX_INSIDE}/32", "via", Lab.BOX_OUTSIDE)
        try:
            expect(_ask(lab, "internet", "announce", Lab.BOX_INSIDE, "--wait", 0.5) is None, "the inside address answers the outside")
        finally:
            lab.run("internet", "ip", "route", "del", f"{Lab.BOX_INSIDE}/32")
        # A source of outside, sent from inside, does not get as far as the server.
        from scapy.layers.inet import IP, UDP
        from scapy.layers.l2 import Ether
        station = lab.station("subscriber", Lab.BOX_INSIDE)
        client = b"\0" * 10 + b"\xff\xff" + socket.inet_aton(Lab.INTERNET)
        payload = bytes([2, 1, 0, 0, 0, 0, 2, 88]) + client + os.urandom(12) + bytes([6, 0, 0, 0, 0, 80, 0, 0]) + client
        lab.send_frames("subscriber", [Ether(dst=station) / IP(src=Lab.INTERNET, dst=Lab.BOX_INSIDE) / UDP(sport=1, dport=5351) / payload])
        granted(lab, "subscriber", "announce", Lab.BOX_INSIDE)
        rules = [row for row in lab.show("rules") if Lab.INTERNET in row["owner"]]
        expect(not rules, f"a spoofed request made a rule: {rules}")
    return "ADDRESS_MISMATCH; nothing from outside"


def nat_pmp_natpmpc(lab, box):
    """NAT-PMP with natpmpc: map, use, delete; and the external address."""
    box.inside_nginx()
    with enabled(lab):
        def natpmpc(*arguments):
            return lab.run("subscriber", "natpmpc", "-g", Lab.BOX_INSIDE, *arguments, check=False).stdout
        said = natpmpc("-a", 8089, 80, "tcp", 600)
        mapped = re.search(r"Mapped public port (\d+) protocol TCP to local port 80 li\w+ (\d+)", said)
        expect(mapped, f"natpmpc said: {said[-300:]}")
        expect(mapped.group(2) == "600", f"lifetime {mapped.group(2)}, 600 asked for")
        address = re.search(r"Public IP address : ([\d.]+)", natpmpc())
        expect(address, "natpmpc does not learn the external address")
        end = f"{address.group(1)}:{mapped.group(1)}"
        expect(_fetch(lab, "internet", end), f"{end} cannot be reached")
        gone = natpmpc("-a", 0, 80, "tcp", 0)
        expect(re.search(r"li\w+ 0\b", gone), f"natpmpc said: {gone[-300:]}")
        until(lambda: not _fetch(lab, "internet", end, 1), 5, f"{end} is closed")
    return end


def pcp_restart_announced(lab, box):
    """A control plane that starts again says so to everybody, and has every mapping with its external end."""
    box.inside_nginx()
    with enabled(lab):
        nonce = _nonce()
        before = granted(lab, "subscriber", "map", Lab.BOX_INSIDE, "tcp", 80, "--nonce", nonce)
        listener = lab.start("subscriber", *program("pcp_ask"), "listen", 20, stdout=-1)
        expect(listener.stdout.readline() == "listening\n", "no listener")
        os.kill(lab.pid("controlplane"), signal.SIGKILL)
        expect(_fetch(lab, "internet", _end(before)), "not reached while the control plane is away")
        heard = []
        while len({(row.get("opcode"), row.get("nat_pmp"), row["from"]["address"].split("%")[0]) for row in heard}) < 3:
            line = listener.stdout.readline()
            expect(line, f"heard only {heard}")
            heard.append(json.loads(line))
        lab.end(listener)
        expect(all(row["epoch"] >= before["epoch"] for row in heard), f"nothing was lost, but the epoch went back: {heard}")
        until(lab.ready, 10, "the control plane is back")
        refused(lab, "NOT_AUTHORIZED", "subscriber", "map", Lab.BOX_INSIDE, "tcp", 80, "--lifetime", 0)
        after = granted(lab, "subscriber", "map", Lab.BOX_INSIDE, "tcp", 80, "--nonce", nonce)
        expect(after["external"] == before["external"], f"{_end(before)} became {_end(after)}")
        expect(after["epoch"] >= before["epoch"], "the epoch went back though nothing was lost")
        expect(_fetch(lab, "internet", _end(after)), "not reached after the restart")
    return f"{len(heard)} announcements, {_end(after)} kept"


def pcp_renumbering(lab, box):
    """External addresses change: mappings move, their clients are told, and the epoch begins anew."""
    box.inside_nginx()
    with enabled(lab):
        nonce, port = _nonce(), 40111
        ask = ["map", Lab.BOX_INSIDE, "tcp", 80, "--nonce", nonce]
        before = granted(lab, "subscriber", *ask, "--local-port", port)
        listener = lab.start("subscriber", *program("pcp_ask"), "listen", 20, "--local-port", port, stdout=-1)
        expect(listener.stdout.readline() == "listening\n", "no listener")
        path = lab.run_dir / "turnpike.toml"
        text = path.read_text()
        path.write_text(text.replace('"203.0.113.16/28"', '"203.0.113.64/28"'))
        lab.cli("config", "reload")
        update = None
        while update is None or update.get("opcode") != "map":
            line = listener.stdout.readline()
            expect(line, "no Mapping Update")
            update = json.loads(line)
        lab.end(listener)
        expect(update["result"] == "SUCCESS" and update["nonce"] == nonce, f"the update: {update}")
        expect(update["external"]["address"] != before["external"]["address"], f"the update: {update}")
        expect(update["epoch"] <= 3, f"epoch {update['epoch']} after a change of addresses")
        until(lambda: _fetch(lab, "internet", _end(update), 1), 5, f"{_end(update)} reaches the subscriber")
    return f"{_end(before)} became {_end(update)}"


def pcp_is_counted_and_audited(lab, _box):
    """Every request is counted by opcode and result, and rules name their host."""
    with enabled(lab):
        def count(opcode, result):
            text = lab.run("box", "curl", "-sS", "--fail", METRICS).stdout
            row = re.search(rf'^turnpike_pcp_requests_total{{protocol="pcp",opcode="{opcode}",result="{result}"}} (\d+)', text, re.MULTILINE)
            return int(row.group(1)) if row else -1
        before = count("map", "success"), count("map", "unsupp_protocol")
        granted(lab, "subscriber", "map", Lab.BOX_INSIDE, "tcp", 8500)
        refused(lab, "UNSUPP_PROTOCOL", "subscriber", "map", Lab.BOX_INSIDE, "tcp", 0)
        refused(lab, "MALFORMED_REQUEST", "subscriber", "map", Lab.BOX_INSIDE, "all", 80)
        until(lambda: (count("map", "success"), count("map", "unsupp_protocol")) == (before[0] + 1, before[1] + 1), 5, "one more of each")
        owners = {row["owner"] for row in lab.show("rules")}
        expect(f"pcp:inside/{Lab.SUBSCRIBER}" in owners, f"owners {owners}")
        log = (lab.run_dir / "state" / "audit.jsonl").read_text()
        expect(f"pcp:inside/{Lab.SUBSCRIBER}" in log, "the audit log does not name the host")
    return f"pcp:inside/{Lab.SUBSCRIBER}"


CHECKS = [
    pcp_off_by_default, pcp_map_tcp, pcp_map_ipv6, pcp_map_udp, pcp_mapping_expires, pcp_filter, pcp_prefer_failure, pcp_peer,
    pcp_third_party, pcp_port_set, pcp_spoofing, nat_pmp_natpmpc, pcp_restart_announced, pcp_renumbering, pcp_is_counted_and_audited,
]
