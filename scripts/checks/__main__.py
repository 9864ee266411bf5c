"""Runs the checks against a lab that is up and started. One line each; the last is "N passed, N failed"."""

import argparse
import json
import subprocess
import sys
import time
import traceback

from . import (
    failures, filtering, malformed, many_flows, nat_log, operations, pcp, scenarios, scenarios_calls, scenarios_ipv6,
    servers, simco, traffic,
)
from .lab import Failure, Lab, Skipped, expect, until


class Box:
    """What the checks share beside the lab."""

    def __init__(self, lab, garbage_seconds):
        self.lab = lab
        self.garbage_seconds = garbage_seconds
        self.nginx, self.far_nginx = servers.start_all(lab)
        self._inside_nginx = None

    def inside_nginx(self):
        """A web server at the subscriber."""
        if self._inside_nginx is None:
            self._inside_nginx = servers.Nginx(self.lab, "subscriber", blob_bytes=1000)
        return self._inside_nginx

    def servers(self):
        """Processes that checks share."""
        return [nginx.process for nginx in (self.nginx, self.far_nginx, self._inside_nginx) if nginx is not None]


def _unaccounted(row):
    """Packets that came into a worker less those it accounts for."""
    came = row["receive"]["packets"] + row["injected"] + row["crossed_in"] + row["generated"]
    went = row["transmit"]["packets"] + row["punted"] + row["crossed_out"] + row["dropped"] + row["held"]
    return came - went


def conservation(lab, _box):
    """Every packet in is a packet out or a named drop, for each worker."""
    rows = lab.show("workers")
    for row in rows:
        expect(_unaccounted(row) == 0, f"worker {row['worker']}: {_unaccounted(row)} packets unaccounted for: {row}")
    total = lab.show("drops")
    expect(sum(reason["packets"] for reason in total["reasons"]) == total["packets"], "the reasons do not add up")
    return f"{sum(row['receive']['packets'] for row in rows)} packets received, all accounted for"


def free_buffers(lab):
    """Packet buffers that nobody holds."""
    return lab.show("status")["buffers"]["available"]


def has_back(lab, wanted):
    """Whether that many packet buffers are free again."""
    if lab.driver == "af_xdp":
        # Its driver takes back what it has sent when it sends again: a packet each way makes it do so.
        lab.run("subscriber", "ping", "-n", "-c1", "-W1", Lab.INTERNET, check=False)
    return free_buffers(lab) == wanted


# Accounts are taken before the dataplane is killed: its successor counts from nothing.
CHECKS = [
    *traffic.CHECKS, *filtering.CHECKS, *malformed.CHECKS, *operations.CHECKS, *many_flows.CHECKS, *nat_log.CHECKS, *pcp.CHECKS, *simco.CHECKS,
    *scenarios.CHECKS, *scenarios_calls.CHECKS, *scenarios_ipv6.CHECKS,
    failures.controlplane_killed, failures.hostile_controlplane, conservation, failures.dataplane_killed,
]


def arguments():
    parser = argparse.ArgumentParser(prog="checks", description=__doc__)
    parser.add_argument("--name", required=True, help="name of the lab")
    parser.add_argument("--only", help="comma-separated words: checks whose names contain one of them")
    parser.add_argument("--garbage-seconds", type=int, default=10)
    parser.add_argument("--list", action="store_true", help="print the names and end")
    return parser.parse_args()


def run(check, lab, box):
    """Runs one check and prints its line; whether it passed, None if it was skipped."""
    name = check.__name__.replace("_", " ")
    began = time.monotonic()
    there = lab.started()
    try:
        detail = check(lab, box)
        # A leak shows at the check that made it. Packets that wait for a next hop are given up after three seconds.
        wanted = box.buffers_before
        until(lambda: has_back(lab, wanted), 8, f"{wanted} packet buffers free again", lambda: free_buffers(lab))
    except Failure as failure:
        print(f"FAIL {name}: {failure}", flush=True)
    except Skipped as why:
        print(f"skip {name}: {why}", flush=True)
        return None
    except (subprocess.TimeoutExpired, json.JSONDecodeError, OSError, KeyError, ValueError, IndexError) as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        print(f"FAIL {name}: {type(error).__name__}: {error} ({where.name}, line {where.lineno})", flush=True)
    else:
        print(f"ok   {name} ({detail}; {time.monotonic() - began:.1f} s)", flush=True)
        return True
    finally:
        # A check that failed leaves nothing in the way of the next one.
        for process in lab.started():
            if process not in there and process not in box.servers():
                lab.end(process)
    return False


def main():
    options = arguments()
    chosen = [check for check in CHECKS if not options.only
              or any(word in check.__name__.replace("_", " ") for word in options.only.split(","))]
    if options.list:
        print("\n".join(check.__name__.replace("_", " ") for check in chosen))
        return 0
    lab = Lab(options.name)
    results = []
    try:
        box = Box(lab, options.garbage_seconds)
        # A port takes its buffers with its first packets, and net_af_xdp gives transmitted ones back in lots.
        lab.run("subscriber", "ping", "-q", "-c", 200, "-i", 0.005, Lab.INTERNET, check=False)
        box.buffers_before = free_buffers(lab)
        for check in chosen:
            results.append(run(check, lab, box))
    except Failure as failure:
        print(f"FAIL servers: {failure}")
    finally:
        lab.end_all()
    passed, skipped = results.count(True), results.count(None)
    failed = len(chosen) - passed - skipped
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return 0 if failed == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
