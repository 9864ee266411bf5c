"""Agents open pinholes over SIMCO: a client written from RFC 4540 alone, and `turnpike midcom`."""

import contextlib
import json
import os
import signal

from .lab import Lab, expect, until
from .servers import program

PORT = 7626
PSK = "000102030405060708090a0b0c0d0e0f"
SECTION = """
[simco]
zones = ["inside"]
listen = ["{inside}:{port}"]
certificate = "{dir}/box.pem"
key = "{dir}/box.key"
authorities = "{dir}/ca.pem"
clear_text = ["{clear}"]

[[agent]]
name = "proxy.example"
zones = ["inside"]
inside = ["192.168.0.0/24", "fd00:1::/64"]
external_wildcard = true
key = "{dir}/proxy.psk"
"""


def _openssl(lab, *arguments):
    lab.run("subscriber", "openssl", *arguments)


def certificate(lab, folder, name, subject, by="ca", usage="clientAuth"):
    """`name`.pem and `name`.key in the folder of `certificates`, made once: of the DNS name `subject`, signed by `by`."""
    if (folder / f"{name}.pem").exists():
        return
    (folder / "extensions").write_text(f"subjectAltName=DNS:{subject}\nextendedKeyUsage={usage}\n")
    _openssl(lab, "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={subject}",
             "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.csr")
    _openssl(lab, "x509", "-req", "-in", folder / f"{name}.csr", "-CA", folder / f"{by}.pem", "-CAkey", folder / f"{by}.key",
             "-CAcreateserial", "-days", "2", "-extfile", folder / "extensions", "-out", folder / f"{name}.pem")
    # Keys of a test that lasts minutes: the control plane's user has to read them.
    (folder / f"{name}.key").chmod(0o644)


def certificates(lab):
    """An authority, the box's certificate, one of the agent, one of a stranger; made once for a lab."""
    folder = lab.run_dir / "simco"
    if folder.exists():
        return folder
    folder.mkdir()
    folder.chmod(0o755)
    for authority in ("ca", "other"):
        _openssl(lab, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                 "-subj", f"/CN={authority}", "-keyout", folder / f"{authority}.key", "-out", folder / f"{authority}.pem")
    certificate(lab, folder, "box", "box.example", usage="serverAuth")
    certificate(lab, folder, "proxy", "proxy.example")
    certificate(lab, folder, "nobody", "nobody.example")
    certificate(lab, folder, "stranger", "proxy.example", by="other")
    (folder / "proxy.psk").write_text(PSK + "\n")
    return folder


@contextlib.contextmanager
def enabled(lab, clear="127.0.0.0/8", change=lambda section: section):
    """SIMCO with one agent, for as long as the block lasts."""
    folder = certificates(lab)
    path = lab.run_dir / "turnpike.toml"
    sound = path.read_text()
    try:
        section = SECTION.format(inside=Lab.BOX_INSIDE, port=PORT, dir=folder, clear=clear)
        path.write_text(sound + change(section))
        lab.cli("config", "reload")
        yield folder
    finally:
        path.write_text(sound)
        lab.cli("config", "reload")
        for row in json.loads(lab.cli("show", "rules", "--json", check=False).stdout or "{}").get("data", []):
            lab.cli("rule", "delete", row["id"], check=False)


def tls(folder, name="proxy"):
    return ["--cert", folder / f"{name}.pem", "--key", folder / f"{name}.key", "--ca", folder / "ca.pem", "--name", "box.example"]


def converse(lab, how, *requests, host="subscriber"):
    """Everything an agent is told while it makes these requests, and its exit code."""
    result = lab.run(host, *program("simco_agent"), Lab.BOX_INSIDE, PORT, *how, check=False,
                     stdin="".join(json.dumps(request) + "\n" for request in requests))
    expect(not result.stderr, f"the agent: {result.stderr[-300:]}")
    return [json.loads(line) for line in result.stdout.splitlines()], result.returncode


def replies(lab, how, *requests):
    """The replies to these requests, without those of the session itself."""
    said, code = converse(lab, how, *requests)
    expect(code == 0, f"the session ended with {said[-1:]}")
    return [message for message in said if "notification" not in message][1:-1]


def _fetch(lab, end, host="internet", seconds=3):
    page = lab.run(host, "curl", "-sS", "--max-time", seconds, f"http://{end}/page", check=False)
    return page.stdout == "a page\n"


def _outside(reply):
    end = reply["tuples"]["outside"]
    return f"{end['address']}:{end['port']}"


def _per_tcp(**more):
    return {"do": "per", "protocol": 6, "internal": {"address": Lab.SUBSCRIBER, "port": 80}, "external": "any4", "lifetime": 60} | more


def simco_off_by_default(lab, _box):
    """Nobody listens until the operator says so (seed, section 3)."""
    said, code = converse(lab, [])
    expect(code == 2, f"somebody answers: {said}")
    return said[0]["failed"]


def simco_who_is_let_in(lab, _box):
    """TLS with a certificate of the authority and a configured name, or a key where clear text is allowed."""
    with enabled(lab) as folder:
        said, code = converse(lab, tls(folder))
        expect(code == 0 and said[0]["reply"] == "se", f"with a good certificate: {said}")
        kind = said[0]["capabilities"]["type"]
        expect(kind == 0xC1, f"capabilities {kind:#x}: firewall, NAT and port translation are 0xc1")
        _, code = converse(lab, tls(folder, "stranger"))
        expect(code != 0, "let in with a certificate of another authority")
        said, code = converse(lab, tls(folder, "nobody"))
        expect(said[0].get("refused") == "0x24", f"a name that is no agent: {said}")
        said, code = converse(lab, [])
        expect(said[0].get("refused") == "0x26", f"clear text: {said}")
    with enabled(lab, clear="192.168.0.0/24"):
        said, code = converse(lab, ["--agent", "proxy.example", "--psk", PSK])
        expect(code == 0 and said[1]["reply"] == "se", f"with the key: {said}")
        said, code = converse(lab, [])
        expect(said[0].get("refused") == "0x26", f"without name: {said}")
    return "0x24 and 0x26 refused, TLS 1.3 and a key let in"


def simco_tcp_server(lab, box):
    """Scenario 2.1: a web server of the subscriber is reached at A2; not before, and not after."""
    box.inside_nginx()
    with enabled(lab) as folder:
        enabled_rule, status = replies(lab, tls(folder), _per_tcp(), {"do": "prl"})
        expect(enabled_rule.get("reply") == "per", f"PER: {enabled_rule}")
        end, pid = _outside(enabled_rule), enabled_rule["pids"][0]
        expect(end.split(":")[0] in Lab.POOL, f"A2 {end} is no address of the pool")
        expect(status["pids"] == [pid], f"PRL: {status}")
        for host in ("internet", "far"):
            expect(_fetch(lab, end, host), f"{end} cannot be reached from {host}")
        # A session later: the rule lived on, and its status is what was asked for (PES).
        (status,) = replies(lab, tls(folder), {"do": "prs", "pid": pid})
        expect(status["reply"] == "pes" and status["owner"] == "proxy.example", f"PRS: {status}")
        expect(status["tuples"]["external"] == {"location": "external", "protocol": 6, "prefix": 0, "any": 4}, f"A3: {status}")
        (gone,) = replies(lab, tls(folder), {"do": "plc", "pid": pid, "lifetime": 0})
        expect(gone["reply"] == "prd", f"PLC 0: {gone}")
        expect(not _fetch(lab, end, seconds=1), f"{end} answers after its rule was deleted")
        (status,) = replies(lab, tls(folder), {"do": "prs", "pid": pid})
        expect(status.get("refused") == "0x43", f"PRS of a deleted rule: {status}")
    return f"{end} open for its rule's life"


def simco_reserve_and_enable(lab, _box):
    """Scenario 2.3.1's media: an even pair is reserved, enabled for one peer, and others stay outside."""
    with enabled(lab) as folder:
        ports = (5004, 5005)
        servers = [lab.start("subscriber", *program("udp_echo"), port) for port in ports]
        for port in ports:
            lab.listening("subscriber", port, "u")
        # Both ways needs the peer's port, so one way each (RFC 4540 section 8.3.1).
        (reserved,) = replies(lab, tls(folder), {"do": "prr", "range": 2, "parity": "even", "lifetime": 60})
        outside, pid, group = reserved["tuples"]["outside"], reserved["pids"][0], reserved["gid"]
        expect(outside["range"] == 2 and outside["port"] % 2 == 0, f"reserved {outside}")
        address, port = outside["address"], outside["port"]

        def answers(host, offset):
            asked = lab.run(host, *program("udp_ask"), address, port + offset, "hello", check=False)
            return asked.returncode == 0 and asked.stdout.split()[:2] == [address, str(port + offset)]

        expect(not answers("internet", 0), "a reservation lets packets through")
        media = {"internal": {"address": Lab.SUBSCRIBER, "port": 5004, "range": 2},
                 "external": {"address": Lab.INTERNET, "port": 0, "range": 2}, "lifetime": 60}
        inward, outward = replies(
            lab, tls(folder), {"do": "pea", "pid": pid, **media}, {"do": "per", "gid": group, "direction": "out", **media})
        expect(inward.get("reply") == "per" and inward["pids"] == [pid], f"PEA: {inward}")
        expect(inward["tuples"]["outside"] == outside, f"PEA gave {inward['tuples']['outside']}, reserved was {outside}")
        expect(outward.get("reply") == "per" and outward["tuples"]["outside"] == outside, f"PER out: {outward}")
        for offset in (0, 1):
            expect(answers("internet", offset), f"no answer at {address}:{port + offset}")
            expect(not answers("far", offset), f"{address}:{port + offset} answers a foreign source")
        for server in servers:
            lab.end(server)
    return f"{address}:{port}-{port + 1}, reserved and enabled"


def simco_notifications(lab, _box):
    """Another session of the agent hears of rules made, changed, expired; the one that asked has its reply alone."""
    with enabled(lab) as folder:
        listener = lab.start("subscriber", *program("simco_agent"), Lab.BOX_INSIDE, PORT, *tls(folder), stdin=-1, stdout=-1)
        expect(json.loads(listener.stdout.readline())["reply"] == "se", "the listener's session")
        said, _ = converse(lab, tls(folder), _per_tcp(lifetime=30), _per_tcp(lifetime=1))
        first, second = [message["pids"][0] for message in said if message.get("reply") == "per"]
        expect(not any("notification" in message for message in said[:3]), f"the requester was notified: {said}")
        replies(lab, tls(folder), {"do": "plc", "pid": first, "lifetime": 20}, {"do": "plc", "pid": first, "lifetime": 0})
        heard = []
        while len(heard) < 5:
            message = json.loads(listener.stdout.readline())
            expect(message.get("notification") == "are", f"instead of an ARE: {message}")
            heard.append((message["pids"][0], message["lifetime"]))
        of = lambda pid: [lifetime for heard_of, lifetime in heard if heard_of == pid]
        expect(of(first) == [30, 20, 0], f"of the rule that was deleted: {of(first)}")
        expect(of(second) == [1, 0], f"of the rule that expired: {of(second)}")
        # The end of its input ends the session (ST).
        listener.stdin.close()
        listener.stdin = None
        expect(listener.wait(10) == 0, "the listener's session did not end well")
        lab.end(listener)
    return "made, shortened, deleted and expired"


def simco_agent_removed(lab, _box):
    """An agent that is removed from the configuration loses its session at once (AST), its rules live on."""
    with enabled(lab) as folder:
        path = lab.run_dir / "turnpike.toml"
        with_agent = path.read_text()
        (rule,) = replies(lab, tls(folder), _per_tcp())
        session = lab.start("subscriber", *program("simco_agent"), Lab.BOX_INSIDE, PORT, *tls(folder), stdin=-1, stdout=-1)
        expect(json.loads(session.stdout.readline())["reply"] == "se", "the session")
        path.write_text(with_agent.replace('name = "proxy.example"', 'name = "elsewhere.example"'))
        lab.cli("config", "reload")
        told = json.loads(session.stdout.readline())
        expect(told.get("notification") == "ast", f"instead of an AST: {told}")
        expect(session.wait(10) == 4, "the connection stays open")
        session.stdin = None
        said, _ = converse(lab, tls(folder))
        expect(said[0].get("refused") == "0x24", f"let in again: {said}")
        path.write_text(with_agent)
        lab.cli("config", "reload")
        (status,) = replies(lab, tls(folder), {"do": "prs", "pid": rule["pids"][0]})
        expect(status.get("reply") == "pes", f"the rule is gone: {status}")
    return "terminated, refused, and its rule is there"


def simco_cli_agent(lab, box):
    """`turnpike midcom` over TLS: enable, list, extend, delete, and an exit code for each outcome."""
    box.inside_nginx()
    with enabled(lab) as folder:
        def midcom(*arguments, code=0):
            result = lab.run("subscriber", lab.binaries / "turnpike", "--json", "midcom", "--box", f"{Lab.BOX_INSIDE}:{PORT}",
                             "--certificate", folder / "proxy.pem", "--key", folder / "proxy.key",
                             "--authorities", folder / "ca.pem", "--server-name", "box.example", *arguments, check=False)
            expect(result.returncode == code, f"midcom {arguments}: code {result.returncode}, not {code}: {result.stdout[-300:]}")
            return json.loads(result.stdout).get("data")

        expect(midcom("session")["nat"] is True, "the middlebox does not say that it translates")
        midcom("list", code=3)
        rule = midcom("enable", "--protocol", "tcp", "--internal", f"{Lab.SUBSCRIBER}:80", "--lifetime", 60)
        outside = rule["outside"]
        end = f"{outside['address']}:{outside['port']}"
        expect(_fetch(lab, end), f"{end} cannot be reached")
        expect([row["rule"] for row in midcom("list")] == [rule["rule"]], "the list")
        expect(midcom("extend", rule["rule"], 600)["lifetime_seconds"] == 600, "the extended lifetime")
        expect(midcom("status", rule["rule"])["owner"] == "proxy.example", "the owner")
        # The operator sees the same rule.
        rows = lab.show("rules")
        expect(any(row["id"] == rule["rule"] for row in rows), f"show rules: {rows}")
        midcom("enable", "--protocol", "tcp", "--internal", "192.0.2.9:80", code=5)
        midcom("delete", rule["rule"])
        midcom("delete", rule["rule"], code=3)
        expect(not _fetch(lab, end, seconds=1), f"{end} answers after it was deleted")
        reserved = midcom("reserve", "--protocol", "udp", "--ports", 2, "--parity", "even")
        expect(reserved["outside"]["port"] % 2 == 0, f"an even pair: {reserved}")
        midcom("enable-reserved", reserved["rule"], "--protocol", "udp", "--ports", 2,
               "--internal", f"{Lab.SUBSCRIBER}:5004", "--external", Lab.INTERNET)
        midcom("delete", reserved["rule"])
    return f"{end} opened and closed"


def simco_controlplane_killed(lab, box):
    """kill -9: the rule, its owner and its outside end are there again, and agents find them by PRL."""
    box.inside_nginx()
    with enabled(lab) as folder:
        (rule,) = replies(lab, tls(folder), _per_tcp(lifetime=600))
        end, pid = _outside(rule), rule["pids"][0]
        expect(_fetch(lab, end), f"{end} cannot be reached")
        before = lab.pid("controlplane")
        os.kill(before, signal.SIGKILL)
        until(lambda: lab.pid("controlplane") not in (0, before) and lab.ready(), 15, "the next control plane")
        expect(_fetch(lab, end), f"{end} cannot be reached after the restart")
        listed, status = replies(lab, tls(folder), {"do": "prl"}, {"do": "prs", "pid": pid})
        expect(listed["pids"] == [pid], f"PRL after the restart: {listed}")
        expect(_outside(status) == end and status["owner"] == "proxy.example", f"PES after the restart: {status}")
        expect(500 < status["lifetime"] <= 600, f"the lifetime after the restart: {status['lifetime']}")
        replies(lab, tls(folder), {"do": "plc", "pid": pid, "lifetime": 0})
    return f"{end} as before"


CHECKS = [
    simco_off_by_default, simco_who_is_let_in, simco_tcp_server, simco_reserve_and_enable, simco_notifications,
    simco_agent_removed, simco_cli_agent, simco_controlplane_killed,
]
