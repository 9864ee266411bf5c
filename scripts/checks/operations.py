"""The CLI, the metrics and the configuration, from outside."""

import json
import re

from .lab import Lab, expect, until

SHOWN = ("status", "ports", "workers", "flows", "bindings", "pools", "neighbours", "routes", "drops", "config")
METRICS = "http://127.0.0.1:9464/metrics"


def show_as_json(lab, _box):
    """Every `show` prints one JSON document in its envelope, and text without --json."""
    for what in SHOWN:
        lab.show(what)
        expect(lab.cli("show", what, check=False).returncode in (0, 3), f"show {what} as text fails")
    version = json.loads(lab.cli("version", "--json").stdout)["data"]
    expect(version["dataplane"] and version["dpdk"], f"version lacks the dataplane: {version}")
    screen = lab.cli("top", "--once").stdout
    expect("inside" in screen and "outside" in screen, "top --once shows no ports")
    return f"{len(SHOWN)} tables"


def exit_codes(lab, _box):
    """Scripts can tell failures apart."""
    wrong = lab.run_dir / "wrong.toml"
    wrong.write_text("[dataplane]\ncolour = 1\n")
    for arguments, code in (
        (["show", "nothing"], 2), (["show", "flows", "--subscriber", "192.168.0.99"], 3), (["pinhole", "remove", "999999"], 3),
        (["config", "check", wrong], 7),
        (["config", "check", lab.run_dir / "turnpike.toml"], 0),
    ):
        got = lab.cli(*arguments, check=False).returncode
        expect(got == code, f"turnpike {' '.join(map(str, arguments))}: exit code {got}, not {code}")
    got = lab.cli("show", "status", check=False, socket="/nonexistent.sock").returncode
    expect(got == 6, f"turnpike without a control plane: exit code {got}, not 6")
    return "0, 2, 3, 6, 7"


def completions(lab, _box):
    """Bash accepts its completions."""
    script = lab.cli("completions", "bash").stdout
    lab.run("box", "bash", "-n", stdin=script)
    for shell in ("zsh", "fish"):
        expect("pinhole" in lab.cli("completions", shell).stdout, f"no pinhole in the {shell} completions")
    return "bash, zsh, fish"


def promtool_accepts_metrics(lab, _box):
    """`promtool check metrics` finds nothing to say."""
    text = lab.run("box", "curl", "-sS", "--fail", METRICS).stdout
    result = lab.run("box", "promtool", "check", "metrics", stdin=text, check=False)
    expect(result.returncode == 0 and not result.stderr.strip(), f"promtool: {(result.stderr or result.stdout).strip()[:300]}")
    reasons = set(re.findall(r'^turnpike_drops_total\{[^}]*reason="([^"]+)"', text, re.MULTILINE))
    shown = {row["reason"] for row in lab.show("drops")["reasons"]}
    expect(shown <= reasons, f"reasons without a series: {sorted(shown - reasons)}")
    return f"{len([line for line in text.splitlines() if not line.startswith('#')])} series, {len(reasons)} drop reasons"


def prometheus_scrapes(lab, _box):
    """A Prometheus server finds the box up and stores its drops."""
    configuration = lab.run_dir / "prometheus.yml"
    configuration.write_text(
        "global: {scrape_interval: 1s}\n"
        "scrape_configs:\n  - job_name: turnpike\n    static_configs: [{targets: ['127.0.0.1:9464']}]\n"
    )
    server = lab.start("box", "prometheus", f"--config.file={configuration}", f"--storage.tsdb.path={lab.run_dir}/prometheus",
                       "--web.listen-address=127.0.0.1:9090", "--log.level=error")

    def query(expression):
        def probe():
            answer = lab.run("box", "curl", "-sS", "--fail", "-G", "http://127.0.0.1:9090/api/v1/query",
                             "--data-urlencode", f"query={expression}", check=False)
            return answer.returncode == 0 and json.loads(answer.stdout)["data"]["result"]
        return until(probe, 30, f"Prometheus knows {expression}")

    query('up{job="turnpike"} == 1')
    rows = query("turnpike_drops_total")
    ready = query("turnpike_ready == 1")
    lab.end(server)
    return f"up, ready {ready[0]['value'][1]}, {len(rows)} series of turnpike_drops_total"


def wrong_reload_changes_nothing(lab, _box):
    """A configuration that is wrong is refused with file, line and key, and the running one stays."""
    path = lab.run_dir / "turnpike.toml"
    sound = path.read_text()
    before = lab.show("config")
    generation = [row["policy_generation"] for row in lab.show("workers")]
    try:
        path.write_text(sound.replace('pool = "public"', 'pool = "publik"'))
        result = lab.cli("config", "reload", check=False)
        expect(result.returncode == 7, f"reload of a wrong file: exit code {result.returncode}")
        said = result.stderr + result.stdout
        line = sound[:sound.index('pool = "public"')].count("\n") + 1
        expect("publik" in said and re.search(rf"turnpike\.toml:{line}\b", said), f"the message lacks value or line {line}: {said.strip()}")
    finally:
        path.write_text(sound)
    after = lab.show("config")
    expect(after["hash"] == before["hash"] and after["text"] == before["text"], "show config shows another configuration")
    expect([row["policy_generation"] for row in lab.show("workers")] == generation, "the workers got another policy")
    lab.run("subscriber", "ping", "-n", "-c2", "-i0.2", "-W2", Lab.INTERNET)
    return f"refused, hash {before['hash'][:12]} stays"


def reload_takes_effect(lab, _box):
    """A rule that is added to the file and reloaded holds for the next packet; removed, it is gone."""
    path = lab.run_dir / "turnpike.toml"
    sound = path.read_text()
    rule = '\n[[rule]]\nfrom = "inside"\nto = "outside"\nprotocol = "icmp"\nfamily = 4\naction = "drop"\n'
    try:
        path.write_text(sound + rule)
        lab.cli("config", "reload")
        blocked = lambda: lab.run("subscriber", "ping", "-n", "-c1", "-W1", Lab.INTERNET, check=False).returncode != 0  # noqa: E731
        until(blocked, 5, "the new rule blocks ping")
    finally:
        path.write_text(sound)
        lab.cli("config", "reload")
    until(lambda: not blocked(), 5, "ping passes again")
    return "a rule came and went"


CHECKS = [
    show_as_json, exit_codes, completions, promtool_accepts_metrics, prometheus_scrapes, wrong_reload_changes_nothing,
    reload_takes_effect,
]
