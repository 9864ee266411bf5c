"""The lab as Python sees it: hosts, processes on them, and Turnpike's own tables."""

import json
import os
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent.parent


class Failure(Exception):
    """A check found something else than it expected."""


class Skipped(Exception):
    """A check cannot be done in this lab."""


def expect(condition, why):
    """Fails the check with `why` unless `condition` holds."""
    if not condition:
        raise Failure(why)


def until(probe, seconds, what, found=None):
    """Polls `probe` until it returns something true, which is returned; fails after `seconds`, with what is `found`."""
    deadline = time.monotonic() + seconds
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Failure(f"{what}: not within {seconds} s" + (f", but {found()}" if found else ""))
        time.sleep(0.02)


def endpoint(end):
    """An address and a port of the JSON output as `address:port`; None stays None."""
    if end is None:
        return None
    address = f"[{end['address']}]" if ":" in end["address"] else end["address"]
    return f"{address}:{end['port']}"


class Lab:
    """One lab of `scripts/lab`. Every process started through it ends with it."""

    SUBSCRIBER, SUBSCRIBER2 = "192.168.0.10", "192.168.0.11"
    SUBSCRIBER_V6, SUBSCRIBER2_V6 = "fd00:1::10", "fd00:1::11"
    INTERNET, INTERNET_V6 = "203.0.113.1", "2001:db8:1::1"
    FAR, FAR_V6, FAR_MTU = "198.51.100.2", "2001:db8:2::2", 1400
    BOX_INSIDE, BOX_INSIDE_V6 = "192.168.0.1", "fd00:1::1"
    BOX_OUTSIDE, BOX_OUTSIDE_V6 = "203.0.113.2", "2001:db8:1::2"
    PROGRAMS = SCRIPTS / "checks" / "programs"
    POOL = [f"203.0.113.{last}" for last in range(16, 32)]
    # Whether it is the second box, with one subscriber.
    SECOND = False

    def __init__(self, name):
        self.name = name
        self.beside = None
        self.run_dir = Path(f"/run/turnpike-lab-{name}")
        self._started = []

    def script(self, *arguments, timeout=120):
        """Runs `scripts/lab`."""
        verb, *rest = arguments
        # The checks have core 0; a worker that is started has one of all.
        result = subprocess.run(
            ["taskset", "-c", f"0-{os.cpu_count() - 1}", SCRIPTS / "lab", verb, "--name", self.name, *rest],
            capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL,
        )
        expect(result.returncode == 0, f"scripts/lab {verb}: {result.stderr.strip() or result.stdout.strip()}")
        return result.stdout

    def _at(self, host, command):
        return ["ip", "netns", "exec", f"{self.name}-{host}", *map(str, command)]

    def second(self):
        """A box of its own for another subscriber, at the same internet host; up from its first use on."""
        if self.beside is None:
            beside = SecondLab(f"{self.name}-2")
            huge = [] if "no_huge = false" in (self.run_dir / "turnpike.toml").read_text() else ["--no-huge"]
            beside.script("up", "--beside", self.name)
            self.beside = beside
            beside.script("start", "--driver", self.driver, "--bin", self.binaries, *huge)
        return self.beside

    def run(self, host, *command, timeout=30, check=True, text=True, stdin=None):
        """Runs a command at a host and returns its result; fails the check if the command does."""
        try:
            result = subprocess.run(
                self._at(host, command), capture_output=True, text=text, timeout=timeout,
                input=stdin, **({} if stdin is not None else {"stdin": subprocess.DEVNULL}),
            )
        except subprocess.TimeoutExpired:
            raise Failure(f"{command[0]} at {host} did not end within {timeout} s") from None
        if check and result.returncode != 0:
            said = (result.stderr or result.stdout).strip() if text else ""
            raise Failure(f"{command[0]} at {host} ended with code {result.returncode}: {said[-300:]}")
        return result

    def start(self, host, *command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL):
        """Starts a command at a host; `end` or `end_all` ends it."""
        process = subprocess.Popen(
            self._at(host, command), stdout=stdout, stderr=stderr, stdin=stdin, text=True, start_new_session=True,
        )
        self._started.append(process)
        return process

    def end(self, process, seconds=5):
        """Ends a started process and what it started; returns what it wrote."""
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        if process in self._started:
            self._started.remove(process)
        if process.stdout is None or process.stdout.closed:
            return ""
        return process.communicate()[0]

    def started(self):
        """What was started and not ended."""
        return list(self._started)

    def end_all(self):
        """Ends everything that is still running."""
        for process in list(self._started):
            self.end(process)
        if self.beside is not None:
            self.beside.end_all()
            self.beside.script("down")
            self.beside = None

    def listening(self, host, port, protocol="t", seconds=10):
        """Waits until something listens on `port` at `host`."""
        def probe():
            return self.run(host, "ss", f"-Hln{protocol}", f"sport = :{port}").stdout.strip()
        until(probe, seconds, f"a listener on port {port} at {host}")

    # Turnpike.

    @property
    def driver(self):
        """How DPDK reaches the lab's links: `af_packet` or `af_xdp`."""
        return "af_xdp" if "net_af_xdp" in (self.run_dir / "turnpike.toml").read_text() else "af_packet"

    @property
    def binaries(self):
        """Directory of the three binaries."""
        return self.run_dir / "bin"

    def cli(self, *arguments, check=True, timeout=20, socket=None):
        """Runs the CLI against this lab's control plane."""
        result = subprocess.run(
            [self.binaries / "turnpike", "--socket", socket or self.run_dir / "control/control.sock", *map(str, arguments)],
            capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL,
        )
        if check and result.returncode != 0:
            said = result.stderr.strip() or result.stdout.strip()
            raise Failure(f"turnpike {' '.join(map(str, arguments))} ended with code {result.returncode}: {said[-300:]}")
        return result

    def show(self, what, *arguments):
        """`turnpike show WHAT --json`: its data, envelope checked."""
        result = self.cli("show", what, *arguments, "--json", check=False)
        # 3 is "nothing fits the filter": an answer too.
        expect(result.returncode in (0, 3), f"turnpike show {what} ended with code {result.returncode}: {result.stdout[-300:]}")
        answer = json.loads(result.stdout)
        for key in ("schema", "host", "generated_at", "data", "next_cursor", "truncated", "warnings"):
            expect(key in answer, f"show {what} --json: the envelope lacks {key}")
        return answer["data"]

    def drops(self):
        """Drops by reason since the dataplane started."""
        return {row["reason"]: row["packets"] for row in self.show("drops")["reasons"]}

    def station(self, host, address):
        """Ethernet address of the box as `host` knows it for `address`."""
        def probe():
            for row in json.loads(self.run(host, "ip", "-j", "neigh", "show", address).stdout):
                if "lladdr" in row:
                    return row["lladdr"]
            self.run(host, "ping", "-n", "-c1", "-W1", address, check=False)
            return None
        return until(probe, 10, f"the box's station address for {address} at {host}")

    def send_frames(self, host, frames, per_second=None):
        """Sends Ethernet frames, as bytes, from a host's link; as fast as it can, unless told otherwise."""
        program = self.PROGRAMS / "send_frames.py"
        rate = [per_second] if per_second else []
        self.run(host, "/usr/bin/python3", program, "eth0", *rate, stdin="".join(bytes(frame).hex() + "\n" for frame in frames))

    @contextmanager
    def configured(self, old, new):
        """The configuration with `new` in place of the first `old`: in force at every worker as long as it is needed."""
        path = self.run_dir / "turnpike.toml"
        sound = path.read_text()
        expect(old in sound, f"turnpike.toml has no {old}")
        try:
            self._reload(path, sound.replace(old, new, 1))
            yield
        finally:
            self._reload(path, sound)

    @contextmanager
    def subscribers(self, *addresses):
        """More addresses of the subscriber, for as long as they are needed."""
        for address in addresses:
            self.run("subscriber", "ip", "address", "add", f"{address}/32", "dev", "eth0")
        try:
            yield
        finally:
            for address in addresses:
                self.run("subscriber", "ip", "address", "delete", f"{address}/32", "dev", "eth0", check=False)

    def _reload(self, path, text):
        def generations():
            return [row["policy_generation"] for row in self.show("workers")]
        before = generations()
        path.write_text(text)
        self.cli("config", "reload")
        until(lambda: all(now > then for now, then in zip(generations(), before)), 5, "the workers have the new policy", generations)

    def pid(self, daemon):
        """Process id of `dataplane` or `controlplane`, 0 while it does not run."""
        try:
            pid = int((self.run_dir / f"{daemon}.pid").read_text())
            os.kill(pid, 0)
            return pid
        except (FileNotFoundError, ValueError, ProcessLookupError):
            return 0

    def ready(self):
        """Whether the control plane answers, is attached, and the workers forward."""
        result = self.cli("show", "status", "--json", check=False)
        return result.returncode == 0 and json.loads(result.stdout)["data"].get("ready") is True

    def hold(self, daemon):
        """From now on the supervisor does not start `daemon` again."""
        (self.run_dir / f"{daemon}.hold").touch()

    def release(self, daemon):
        """Ends `hold`."""
        (self.run_dir / f"{daemon}.hold").unlink(missing_ok=True)


class SecondLab(Lab):
    """The lab beside another: `scripts/lab up --beside`."""

    SECOND = True
    SUBSCRIBER_V6, BOX_INSIDE_V6 = "fd00:2::10", "fd00:2::1"
    BOX_OUTSIDE, BOX_OUTSIDE_V6 = "192.0.2.2", "2001:db8:3::2"
    POOL = [f"192.0.2.{last}" for last in range(16, 32)]


def checksum_errors(lab, host):
    """Packets a host's kernel dropped for a wrong transport checksum."""
    total = 0
    lines = lab.run(host, "cat", "/proc/net/snmp").stdout.splitlines()
    for names, values in zip(lines[::2], lines[1::2]):
        for name, value in zip(names.split(), values.split()):
            if name == "InCsumErrors":
                total += int(value)
    for line in lab.run(host, "cat", "/proc/net/snmp6").stdout.splitlines():
        name, value = line.split()
        if name.endswith("InCsumErrors"):
            total += int(value)
    return total
