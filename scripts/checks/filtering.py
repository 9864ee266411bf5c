"""What must not pass, what a pinhole lets pass, and that each refusal is counted under its reason."""

import json

from .lab import Failure, Lab, endpoint, expect, until
from .servers import program


def dropped(lab, reason, count, send):
    """Runs `send` and waits until exactly `count` more packets were dropped for `reason`."""
    before = lab.drops().get(reason, 0)
    send()
    until(lambda: lab.drops().get(reason, 0) >= before + count, 5,
          f"{count} drops for {reason} (there were {lab.drops().get(reason, 0) - before})")
    after = lab.drops().get(reason, 0) - before
    expect(after == count, f"{after} drops for {reason}, {count} expected")


def _segments(lab, address, family, count):
    """SYN segments from the internet host to `address`, each once."""
    from scapy.layers.inet import IP, TCP
    from scapy.layers.inet6 import IPv6
    from scapy.layers.l2 import Ether

    if family == 4:
        station, network = lab.station("internet", Lab.BOX_OUTSIDE), IP(src=Lab.INTERNET, dst=address)
    else:
        station, network = lab.station("internet", Lab.BOX_OUTSIDE_V6), IPv6(src=Lab.INTERNET_V6, dst=address)
    return [Ether(dst=station) / network / TCP(sport=40000 + n, dport=61000 + n, flags="S", seq=1) for n in range(count)]


def unsolicited_udp(lab, _box):
    """Datagrams to a pool address without a binding."""
    dropped(lab, "no_mapping", 5, lambda: lab.run(
        "internet", "sh", "-c", f"for n in 1 2 3 4 5; do echo x | socat -u - UDP:{Lab.POOL[-1]}:61234; done"))
    return "5 datagrams, 5 no_mapping"


def unsolicited_tcp(lab, _box):
    """SYN segments to a pool address without a binding."""
    frames = _segments(lab, Lab.POOL[-1], 4, 7)
    dropped(lab, "no_mapping", 7, lambda: lab.send_frames("internet", frames))
    return "7 SYN, 7 no_mapping"


def unsolicited_ipv6(lab, _box):
    """SYN segments to an inside host that no rule admits."""
    frames = _segments(lab, Lab.SUBSCRIBER_V6, 6, 6)
    dropped(lab, "fw_default_deny", 6, lambda: lab.send_frames("internet", frames))
    return "6 SYN, 6 fw_default_deny"


def _fetch(lab, host, url, seconds=3):
    return lab.run(host, "curl", "-sS", "--max-time", seconds, url, check=False)


def _pinhole(lab, inside):
    """Opens a TCP pinhole to `inside`, uses it from outside, removes it and sees it closed."""
    added = json.loads(lab.cli("pinhole", "add", "--protocol", "tcp", "--inside", inside, "--note", "check", "--json").stdout)["data"]
    expect(added["state"] == "active", f"added but not active: {added}")
    end = endpoint(added["external"]) or inside
    try:
        listed = json.loads(lab.cli("pinhole", "list", "--json").stdout)["data"]
        expect(added["id"] in [row["id"] for row in listed], "pinhole list does not show it")
        answer = _fetch(lab, "internet", f"http://{end}/page")
        expect(answer.stdout == "a page\n", f"the server inside cannot be reached at {end}: {answer.stderr.strip()}")
        answer = _fetch(lab, "far", f"http://{end}/page")
        expect(answer.stdout == "a page\n", f"the far host cannot reach {end}: {answer.stderr.strip()}")
    finally:
        lab.cli("pinhole", "remove", added["id"])
    reason = "no_mapping" if added["external"] else "fw_default_deny"
    before = lab.drops().get(reason, 0)
    expect(_fetch(lab, "internet", f"http://{end}/page", 2).returncode != 0, f"{end} still answers after remove")
    expect(lab.drops().get(reason, 0) > before, f"closed, but no {reason} was counted")
    expect(lab.cli("pinhole", "remove", added["id"], check=False).returncode == 3, "remove of an unknown id: another exit code than 3")
    return f"{end} to {inside}"


def pinhole_translated(lab, box):
    """IPv4: a binding at a pool address."""
    box.inside_nginx()
    return _pinhole(lab, f"{Lab.SUBSCRIBER}:80")


def pinhole_untranslated(lab, box):
    """IPv6: a hole in the firewall."""
    box.inside_nginx()
    return _pinhole(lab, f"[{Lab.SUBSCRIBER_V6}]:80")


def pinhole_with_remote(lab, box):
    """A pinhole for one remote host admits that one alone."""
    box.inside_nginx()
    added = json.loads(lab.cli("pinhole", "add", "--protocol", "tcp", "--inside", f"{Lab.SUBSCRIBER}:80",
                               "--remote", f"{Lab.FAR}/32", "--json").stdout)["data"]
    try:
        expect(_fetch(lab, "far", f"http://{endpoint(added['external'])}/page").stdout == "a page\n", "its remote host is not let in")
        before = lab.drops().get("filtered_remote", 0)
        expect(_fetch(lab, "internet", f"http://{endpoint(added['external'])}/page", 2).returncode != 0, "another host is let in")
        expect(lab.drops().get("filtered_remote", 0) > before, "refused, but not counted as filtered_remote")
    finally:
        lab.cli("pinhole", "remove", added["id"])
    return f"{Lab.FAR} in, {Lab.INTERNET} out"


def endpoint_independent_filtering(lab, _box):
    """Whoever learns an external end may send to it (RFC 4787 REQ-8, endpoint-independent)."""
    peer = lab.start("subscriber", *program("hairpin_peer"), Lab.INTERNET, 7008, stdout=-1)
    address, port = peer.stdout.readline().split()
    answer = lab.run("far", *program("udp_ask"), address, port, "stranger").stdout.split()
    lab.end(peer)
    if answer[:2] != [address, port]:
        raise Failure(f"the answer came from {answer[:2]}")
    return f"{address}:{port} reached from {Lab.FAR}"


CHECKS = [
    unsolicited_udp, unsolicited_tcp, unsolicited_ipv6, pinhole_translated, pinhole_untranslated, pinhole_with_remote,
    endpoint_independent_filtering,
]
