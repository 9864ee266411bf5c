"""Many flows at once, listed while they carry traffic."""

import json
import time

from .lab import Lab, expect, until
from .servers import program

SOURCE, EXTERNAL = "192.168.0.80", "203.0.113.40"
# Hosts behind the internet host (RFC 2544's addresses), and the subscriber's sockets: each with each.
HOSTS, FIRST_HOST, HOST_COUNT, SOCKETS = "198.18.0.0/22", "198.18.0.1", 500, 200
PORT, PER_SECOND, LISTS = 7009, 5000, 4
# A pool of their own: with it they all end at once.
POOL = "[[nat]]", f"""[[pool]]
name = "many"
addresses = ["{EXTERNAL}"]
zone = "outside"

[[nat]]
from = "inside"
to = "outside"
source = "{SOURCE}/32"
pool = "many"

[[nat]]"""


def _listed(lab):
    """The subscriber's flows in a list of all: each with its socket's port and its host."""
    return [(row["inside"]["port"], row["remote"]["address"]) for row in lab.show("flows", "--all") if row["inside"]["address"] == SOURCE]


def many_flows_listed_under_traffic(lab, _box):
    """`show flows --json --all` over many flows that carry traffic: each once, nothing lost, nothing dropped."""
    wanted = HOST_COUNT * SOCKETS
    lab.run("internet", "ip", "route", "add", "local", HOSTS, "dev", "lo")
    try:
        with lab.subscribers(SOURCE), lab.configured(*POOL):
            lab.start("internet", *program("many_echo"), PORT)
            lab.listening("internet", PORT, "u")
            stream = lab.start("subscriber", *program("many_flows"), SOURCE, FIRST_HOST, HOST_COUNT, PORT, SOCKETS, PER_SECOND,
                               stdout=-1, stderr=-1)
            opened = stream.stdout.readline().strip()
            expect(opened == "open", f"the flows were not opened: {opened or stream.communicate()[1][-300:]}")
            before, seconds = lab.drops(), 0.0
            for _ in range(LISTS):
                began = time.monotonic()
                rows = _listed(lab)
                seconds += time.monotonic() - began
                twice = len(rows) - len(set(rows))
                expect(len(rows) == wanted and twice == 0, f"{len(rows)} of {wanted} flows listed, {twice} of them again")
            carried = json.loads(lab.end(stream))
            lost = carried["sent"] - carried["received"]
            expect(lost == 0, f"{lost} of {carried['sent']} datagrams lost")
            expect(carried["sent"] > seconds * PER_SECOND / 2, f"{carried['sent']} datagrams in {seconds:.1f} s of lists: not beside them")
            dropped = {name: count - before[name] for name, count in lab.drops().items() if count > before[name]}
            expect(not dropped, f"dropped meanwhile: {dropped}")
    finally:
        lab.run("internet", "ip", "route", "delete", "local", HOSTS, "dev", "lo", check=False)
    until(lambda: not lab.show("flows", "--subscriber", SOURCE), 5, "the flows have ended with their pool")
    return f"{wanted} flows listed {LISTS} times in {seconds:.1f} s beside {carried['sent']} datagrams, none lost, none dropped"


CHECKS = [many_flows_listed_under_traffic]
