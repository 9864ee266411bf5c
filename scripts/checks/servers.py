"""Real servers at the lab's hosts."""

import hashlib
import os

from .lab import Lab

NGINX = """
user root;
daemon off;
pid {dir}/nginx.pid;
error_log {dir}/error.log;
worker_processes 1;
events {{ worker_connections 1024; }}
http {{
    log_format address "$remote_addr $remote_port $request_uri $status";
    access_log {dir}/access.log address;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    sendfile on;
    server {{
        listen 80;
        listen [::]:80;
        root {dir}/www;
    }}
}}
"""

ECHO_PORT, REPORT_PORT, IPERF_PORT = 7007, 7008, 5201
BLOB_BYTES = 100_000_000


class Nginx:
    """nginx at a host, with a blob of BLOB_BYTES random bytes and a small page."""

    def __init__(self, lab: Lab, host: str, blob_bytes=BLOB_BYTES):
        self.dir = lab.run_dir / f"nginx-{host}"
        www = self.dir / "www"
        www.mkdir(parents=True, exist_ok=True)
        self.dir.chmod(0o755)
        blob = os.urandom(blob_bytes)
        (www / "blob").write_bytes(blob)
        (www / "page").write_text("a page\n")
        self.digest = hashlib.sha256(blob).hexdigest()
        configuration = self.dir / "nginx.conf"
        configuration.write_text(NGINX.format(dir=self.dir))
        self.process = lab.start(host, "nginx", "-e", self.dir / "error.log", "-c", configuration, "-p", self.dir)
        lab.listening(host, 80)

    def requests(self):
        """The access log: (address, port, path, status) a request."""
        return [tuple(line.split()) for line in (self.dir / "access.log").read_text().splitlines()]


def program(name):
    """Path of a program in checks/programs."""
    return ["/usr/bin/python3", str(Lab.PROGRAMS / f"{name}.py")]


def start_all(lab: Lab):
    """The servers most checks talk to, all at the internet host but one nginx at the far one."""
    lab.start("internet", *program("udp_echo"), ECHO_PORT)
    lab.start("internet", *program("udp_echo"), REPORT_PORT, "report")
    lab.start("internet", "iperf3", "--server", "--port", IPERF_PORT)
    for port in (ECHO_PORT, REPORT_PORT):
        lab.listening("internet", port, "u")
    lab.listening("internet", IPERF_PORT)
    return Nginx(lab, "internet"), Nginx(lab, "far", blob_bytes=5_000_000)
