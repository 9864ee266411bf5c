"""What each failure does (and does not do) to traffic."""

import json
import os
import signal
import time

from .lab import Failure, Lab, endpoint, expect, until
from .servers import ECHO_PORT, IPERF_PORT, program


def _echo_stream(lab):
    """1000 datagrams a second from the subscriber, already flowing."""
    stream = lab.start("subscriber", *program("udp_rate"), Lab.INTERNET, ECHO_PORT, 1000, stdout=-1)
    return stream


def _result(lab, stream):
    return json.loads(lab.end(stream, seconds=10))


def _new_flow(lab, text):
    answer = lab.run("subscriber", *program("udp_ask"), Lab.INTERNET, ECHO_PORT, text, check=False)
    return answer.returncode == 0


def controlplane_killed(lab, _box):
    """kill -9 of the control plane under load: nothing is lost, and the next one knows everything."""
    dataplane = lab.pid("dataplane")
    inside = f"{Lab.SUBSCRIBER}:8099"
    pinhole = json.loads(lab.cli("pinhole", "add", "--protocol", "tcp", "--inside", inside, "--json").stdout)["data"]
    try:
        until(lambda: _new_flow(lab, "warm"), 10, "an answer before the kill")
        stream = _echo_stream(lab)
        bulk = lab.start("subscriber", "iperf3", "--json", "--client", Lab.INTERNET, "--port", IPERF_PORT, "--time", 8,
                         "--bitrate", "300M", stdout=-1)
        until(lambda: any(endpoint(row["remote"]) == f"{Lab.INTERNET}:{IPERF_PORT}" for row in lab.show("flows", "--protocol", "tcp")),
              10, "iperf3's flow")
        lab.hold("controlplane")
        os.kill(lab.pid("controlplane"), signal.SIGKILL)
        until(lambda: lab.pid("controlplane") == 0, 5, "the control plane is gone")
        for number in range(20):
            expect(_new_flow(lab, f"new {number}"), f"new flow {number} was not set up without the control plane")
        lab.run("subscriber", "curl", "-sS", "--fail", "--max-time", 10, "-o", "/dev/null", f"http://{Lab.INTERNET}/page")
        lab.release("controlplane")
        until(lambda: lab.pid("controlplane") != 0, 5, "the control plane is started again")
        began = time.monotonic()
        until(lambda: lab.ready(), 10, "the new control plane is attached")
        attached = time.monotonic() - began
        expect(attached < 1, f"attached only after {attached:.2f} s")
        expect(lab.pid("dataplane") == dataplane, "the dataplane was restarted as well")
        rows = json.loads(lab.cli("pinhole", "list", "--json").stdout)["data"]
        same = [row for row in rows if row["id"] == pinhole["id"]]
        expect(same and same[0]["external"] == pinhole["external"], f"the pinhole did not survive: {rows}")
        expect(any(endpoint(row["remote"]) == f"{Lab.INTERNET}:{ECHO_PORT}" for row in lab.show("flows", "--protocol", "udp")), "show flows is not right")
        bulk.wait(30)
        rate = json.loads(bulk.communicate()[0])["end"]["sum_received"]["bits_per_second"]
        echoed = _result(lab, stream)
        lost = echoed["sent"] - echoed["received"]
        expect(lost == 0, f"{lost} of {echoed['sent']} datagrams lost, the first: {echoed['missing'][:5]}")
    finally:
        lab.release("controlplane")
        until(lambda: lab.ready(), 10, "the control plane is ready")
        lab.cli("pinhole", "remove", pinhole["id"])
    return f"0 of {echoed['sent']} lost, attached in {attached * 1000:.0f} ms, iperf3 {rate / 1e9:.1f} Gb/s"


def dataplane_killed(lab, _box):
    """kill -9 of the dataplane: started again, traffic flows again, nothing leaks."""
    pages = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"
    before = int(open(pages).read())
    links = _links(lab)
    stream = _echo_stream(lab)
    until(lambda: lab.show("flows", "--protocol", "udp"), 5, "the stream's flow")
    killed = lab.pid("dataplane")
    os.kill(killed, signal.SIGKILL)
    began = time.monotonic()
    until(lambda: lab.pid("dataplane") not in (0, killed), 10, "the dataplane is started again")
    until(lambda: lab.ready(), 20, "both daemons are ready again")
    until(lambda: _new_flow(lab, "after"), 10, "a new flow after the restart")
    outage = time.monotonic() - began
    lab.run("subscriber", "curl", "-sS", "--fail", "--max-time", 30, "-o", "/dev/null", f"http://{Lab.INTERNET}/blob")
    echoed = _result(lab, stream)
    until(lambda: int(open(pages).read()) == before, 5, f"{before} free hugepages again")
    expect(_links(lab) == links, f"interfaces before {links}, after {_links(lab)}")
    return f"forwarding again after {outage:.1f} s, the echo stream paused {echoed['longest_gap_ms']} ms"


def _links(lab):
    return sorted(row["ifname"] for row in json.loads(lab.run("box", "ip", "-j", "link").stdout))


def hostile_controlplane(lab, box):
    """A control plane that writes garbage into its segment is put out; the dataplane forwards on."""
    peer = lab.binaries / "examples" / "garbage_peer"
    if not peer.exists():
        raise Failure(f"{peer} is missing: cargo build --release -p turnpike-client --example garbage_peer")
    dataplane = lab.pid("dataplane")
    # The next hop is resolved by the control plane, so while there is one.
    until(lambda: _new_flow(lab, "warm"), 10, "an answer before the garbage")
    lab.hold("controlplane")
    try:
        os.kill(lab.pid("controlplane"), signal.SIGTERM)
        until(lambda: lab.pid("controlplane") == 0, 10, "the control plane is gone")
        stream = _echo_stream(lab)
        lab.run("box", peer, lab.run_dir / "dataplane.sock", box.garbage_seconds,
                timeout=box.garbage_seconds + 30)
        answered = _new_flow(lab, "after")
        echoed = _result(lab, stream)
        lost = echoed["sent"] - echoed["received"]
        expect(answered and lost == 0, f"new flow after the garbage: {answered}; {lost} of {echoed['sent']} datagrams of the old one lost")
        expect(lab.pid("dataplane") == dataplane, "the dataplane was restarted")
    finally:
        lab.release("controlplane")
        until(lambda: lab.ready(), 10, "the control plane is ready")
    violations = sum(row["peer_violations"] for row in lab.show("workers"))
    expect(violations > 0, "no violation was counted")
    return f"{box.garbage_seconds} s, {violations} violations counted, 0 of {echoed['sent']} lost"


CHECKS = [controlplane_killed, hostile_controlplane, dataplane_killed]
