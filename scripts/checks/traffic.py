"""Ordinary traffic of ordinary programs through the box."""

import hashlib
import json

from .lab import Lab, Skipped, endpoint, expect, until
from .servers import ECHO_PORT, REPORT_PORT, program


def curl_100_megabytes(lab, box):
    """One large download, body compared."""
    for url in (f"http://{Lab.INTERNET}/blob",):
        body = lab.run("subscriber", "curl", "-sS", "--fail", "--max-time", 60, url, timeout=70, text=False).stdout
        expect(hashlib.sha256(body).hexdigest() == box.nginx.digest, f"{len(body)} bytes with another sha256")
    return f"{len(body)} bytes, sha256 equal"


def curl_200_in_parallel(lab, box):
    """Two hundred connections at once."""
    before = len(box.nginx.requests())
    result = lab.run("subscriber", "curl", "-sS", "--fail", "--parallel", "--parallel-immediate", "--parallel-max", 200,
                     "--max-time", 60, "--no-keepalive", "--write-out", "%{http_code} %{size_download}\\n",
                     *[part for number in range(200) for part in ("-o", "/dev/null", f"http://{Lab.INTERNET}/page?{number}")],
                     timeout=70)
    answers = result.stdout.split("\n")[:-1]
    expect(answers.count("200 7") == 200, f"{answers.count('200 7')} of 200 answered: {sorted(set(answers))[:5]}")
    sources = {(address, port) for address, port, *_ in box.nginx.requests()[before:]}
    expect(all(address in Lab.POOL for address, _ in sources), f"not from the pool: {sorted(sources)[:3]}")
    return f"200 answers over {len(sources)} connections"


def udp_echo_of_every_size(lab, _box):
    """Payloads of 0 to 1472 bytes, the last filling the link."""
    count = lab.run("subscriber", *program("udp_sizes"), Lab.INTERNET, ECHO_PORT, 1472, timeout=120).stdout.strip()
    return f"{count} sizes"


def ping_sizes(lab, _box):
    """Echo requests with 0, 56 and 1472 bytes, not to be fragmented."""
    for size in (0, 56, 1472):
        lab.run("subscriber", "ping", "-n", "-c3", "-i0.2", "-W2", "-Mdo", f"-s{size}", Lab.INTERNET)
    return "0, 56 and 1472 bytes"


def datagrams_in_fragments(lab, _box):
    """UDP up to 60000 bytes and pings of 4000 both ways, in both families, in fragments."""
    if lab.driver != "af_xdp":
        raise Skipped("over AF_PACKET the kernel joins fragments before DPDK sees them; --driver af_xdp runs this")
    before = lab.drops()
    for address in (Lab.INTERNET, Lab.INTERNET_V6):
        lab.run("subscriber", "ping", "-n", "-c5", "-i0.2", "-W2", "-s4000", address)
        lab.run("subscriber", *program("udp_sizes"), address, ECHO_PORT, 1600, 1450, timeout=60)
        lab.run("subscriber", *program("udp_sizes"), address, ECHO_PORT, 60000, 2000, 1987, timeout=60)
    # To the box itself they are the kernel's.
    for address in (Lab.BOX_INSIDE, Lab.BOX_INSIDE_V6):
        lab.run("subscriber", "ping", "-n", "-c3", "-i0.2", "-W2", "-s4000", address)
    lost = {name: count for name, count in lab.drops().items() if name.startswith("frag_") and count > before.get(name, 0)}
    expect(not lost, f"fragments were dropped: {lost}")
    return "1450 to 60000 bytes, IPv4 and IPv6"


def ping_the_box(lab, _box):
    """The box's own addresses answer, from both sides and in both families."""
    for host, address in (("subscriber", Lab.BOX_INSIDE), ("subscriber", Lab.BOX_INSIDE_V6),
                          ("internet", Lab.BOX_OUTSIDE), ("internet", Lab.BOX_OUTSIDE_V6)):
        answer = lab.run(host, "ping", "-n", "-c3", "-i0.2", "-W2", address).stdout
        expect("DUP!" not in answer, f"{address} answers twice")
    return "4 addresses"


def traceroute(lab, _box):
    """The box shows as the first hop."""
    for kind, target, hop in (("", Lab.INTERNET, Lab.BOX_INSIDE), ("-I", Lab.INTERNET, Lab.BOX_INSIDE),
                              ("", Lab.INTERNET_V6, Lab.BOX_INSIDE_V6), ("-I", Lab.INTERNET_V6, Lab.BOX_INSIDE_V6)):
        arguments = ["-n", "-q1", "-N1", "-w2", "-m4", *([kind] if kind else []), target]
        hops = [line.split()[1] for line in lab.run("subscriber", "traceroute", *arguments).stdout.splitlines()[1:]]
        expect(hops == [hop, target], f"{kind or 'UDP'} to {target}: hops {hops}")
    return "UDP and ICMP, IPv4 and IPv6"


def _forget_path_mtu(lab):
    for family in ("-4", "-6"):
        lab.run("subscriber", "ip", family, "route", "flush", "cache")


def path_mtu_ping(lab, _box):
    """A large ping over the smaller link behind the internet host comes back as an error with that link's MTU."""
    _forget_path_mtu(lab)
    for target, size, words in ((Lab.FAR, 1472, f"mtu = {Lab.FAR_MTU}"), (Lab.FAR_V6, 1452, f"mtu={Lab.FAR_MTU}")):
        result = lab.run("subscriber", "ping", "-n", "-c1", "-W2", "-Mdo", f"-s{size}", target, check=False)
        said = result.stdout + result.stderr
        expect(words in said, f"{target}: {' / '.join(said.splitlines()[:3])}")
        fits = Lab.FAR_MTU - (48 if ":" in target else 28)
        lab.run("subscriber", "ping", "-n", "-c1", "-W2", "-Mdo", f"-s{fits}", target)
    return f"IPv4 and IPv6 learn {Lab.FAR_MTU}"


def path_mtu_tcp(lab, box):
    """TCP to and from the far host, which promises more than its link carries, so that only discovery helps."""
    _forget_path_mtu(lab)
    lab.run("far", "ip", "route", "change", "default", "via", "198.51.100.1", "advmss", 1460)
    try:
        got = lab.run("subscriber", "curl", "-sS", "--fail", "--max-time", 30, f"http://{Lab.FAR}/blob", text=False).stdout
        expect(hashlib.sha256(got).hexdigest() == box.far_nginx.digest, "download: another sha256")
        blob = box.far_nginx.dir / "www" / "blob"
        sink = lab.start("far", "sh", "-c", "socat -u TCP-LISTEN:9000,reuseaddr - | sha256sum", stdout=-1)
        lab.listening("far", 9000)
        lab.run("subscriber", "socat", "-u", f"OPEN:{blob},rdonly", f"TCP:{Lab.FAR}:9000")
        sink.wait(20)
        expect(sink.communicate()[0].split()[0] == box.far_nginx.digest, "upload: another sha256")
        route = json.loads(lab.run("subscriber", "ip", "-j", "route", "get", Lab.FAR).stdout)[0]
        learned = [metric.get("mtu") for metric in route.get("metrics", [])]
        expect(Lab.FAR_MTU in learned, f"the sender did not learn the MTU: {route}")
    finally:
        lab.run("far", "ip", "route", "change", "default", "via", "198.51.100.1")
    return "5 MB both ways"


def ipv6_without_translation(lab, box):
    """IPv6 passes the firewall with its own address."""
    lab.run("subscriber", "ping", "-n", "-c3", "-i0.2", "-W2", Lab.INTERNET_V6)
    before = len(box.nginx.requests())
    lab.run("subscriber", "curl", "-sS", "--fail", "--max-time", 60, "-o", "/dev/null", f"http://[{Lab.INTERNET_V6}]/blob", timeout=70)
    sources = {address for address, *_ in box.nginx.requests()[before:]}
    expect(sources == {Lab.SUBSCRIBER_V6}, f"the server saw {sources}")
    return f"the server saw {Lab.SUBSCRIBER_V6}"


def hairpin(lab, _box):
    """Two subscribers talk through their external addresses."""
    peer = lab.start("subscriber2", *program("hairpin_peer"), Lab.INTERNET, REPORT_PORT, stdout=-1)
    address, port = peer.stdout.readline().split()
    expect(address in Lab.POOL, f"external address {address} is not of the pool")
    answer = lab.run("subscriber", *program("udp_ask"), address, port, "hello").stdout.split()
    expect(answer == [address, port, "answer", "to", "hello"], f"the answer came as {answer}")
    seen, _ = peer.stdout.readline().split()
    expect(seen in Lab.POOL, f"the other subscriber was seen as {seen}, not by its external address (RFC 4787 REQ-9)")
    lab.end(peer)
    return f"{Lab.SUBSCRIBER} to {Lab.SUBSCRIBER2}, seen as {seen}"


def flow_filters(lab, _box):
    """`show flows` finds a flow by each of its filters, and only that."""
    lab.run("subscriber", *program("udp_ask"), Lab.INTERNET, ECHO_PORT, "here")

    def flow():
        rows = lab.show("flows", "--subscriber", Lab.SUBSCRIBER, "--protocol", "udp")
        return next((row for row in rows if endpoint(row["remote"]) == f"{Lab.INTERNET}:{ECHO_PORT}"), None)

    external = endpoint(until(flow, 5, "the flow in show flows")["external"])
    rows = lab.show("flows", "--external", external)
    expect(rows and all(endpoint(row["external"]) == external for row in rows), f"--external {external} shows {rows}")
    expect(not lab.show("flows", "--subscriber", "192.168.0.99"), "--subscriber 192.168.0.99 shows flows")
    return external


CHECKS = [
    ping_the_box, ping_sizes, curl_100_megabytes, curl_200_in_parallel, udp_echo_of_every_size, datagrams_in_fragments,
    traceroute, path_mtu_ping, path_mtu_tcp, ipv6_without_translation, hairpin, flow_filters,
]
