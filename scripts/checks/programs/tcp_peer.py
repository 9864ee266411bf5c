"""One end of a TCP connection between peers.

tcp_peer.py listen PORT                       prints "from ADDRESS PORT" for each connection, and sends every line back
tcp_peer.py connect ADDRESS PORT SECONDS [SOURCE_PORT]
                                              prints "open ADDRESS PORT", its own end, or "failed WHY" after so many
                                              seconds; then sends each line of standard input and prints what came back,
                                              or "nothing" after so many seconds, or "closed"
"""

import socket
import sys
import threading


def serve(connection, peer):
    print("from", peer[0].removeprefix("::ffff:"), peer[1], flush=True)
    with connection, connection.makefile("rwb") as stream:
        try:
            for line in stream:
                stream.write(line)
                stream.flush()
        except OSError:
            pass


def listen(port):
    server = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    while True:
        threading.Thread(target=serve, args=server.accept(), daemon=True).start()


def connect(address, port, seconds, source_port):
    client = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    client.settimeout(seconds)
    try:
        if source_port:
            client.bind(("", source_port))
        client.connect((address, port))
    except OSError as error:
        print("failed", error, flush=True)
        return
    print("open", *client.getsockname()[:2], flush=True)
    for line in sys.stdin:
        try:
            client.sendall(line.encode())
            said = b""
            while not said.endswith(b"\n"):
                more = client.recv(4096)
                if not more:
                    break
                said += more
            print(said.decode().strip() or "closed", flush=True)
        except TimeoutError:
            print("nothing", flush=True)
        except OSError:
            print("closed", flush=True)
    client.close()


if sys.argv[1] == "listen":
    listen(int(sys.argv[2]))
else:
    connect(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]) if len(sys.argv) > 5 else 0)
