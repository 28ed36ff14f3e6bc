"""What `make demo` shows: a real gunicorn answers first and works afterwards.

It starts gunicorn with gunicorn.conf.py on a free port, sends sign-ups to
flask_app.py on raw sockets, prints who did what and when, and stops. The exit status
is 1 if a response waited for its calls.
"""

import re
import socket
import subprocess
import sys
import time
from pathlib import Path

HOME = Path(__file__).parent.parent
EMAILS = ["ada@example.org", "grace@example.org", "nonsense"]


def main():
    command = [sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:0",
               "--workers", "2", "--preload", "--no-control-socket",
               "--access-logfile", "/dev/null"]  # fmt: skip
    server = subprocess.Popen(
        command, cwd=HOME, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        port = int(wait_for(server, r"Listening at: \S+:(\d+)"))
        wait_for(server, r"Booting worker.*(\d)")
        print(f"gunicorn with 2 sync workers listens on port {port}.")
        waited = [sign_up(server, port, email) for email in EMAILS]
    finally:
        server.terminate()
        server.wait(30)
    if any(waited):
        print("\nA response waited for its calls. That is a fault.")
        return 1
    print("\nEvery response was complete, and its connection closed, before the work.")
    return 0


def sign_up(server, port, email):
    """Send one request and print what happened. True if the client had to wait."""
    body = f"email={email}"
    sent = time.time()
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(
            "POST /signup HTTP/1.0\r\nContent-Type: application/x-www-form-urlencoded"
            f"\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        with client.makefile("rb") as stream:
            response = stream.read()  # all of it, until the server closes
    received = time.time()
    status = response.split(b"\r\n")[0].decode().split(" ", 1)[1]
    print(f"\n  POST /signup email={email}")
    print_event(sent, sent, "client", "sends the request")
    print_event(sent, received, "client", f"has the whole response: {status}")
    if "201" not in status:
        print(f"{'':12}no call runs, as the request failed")
        return False
    first_done = None
    for marker in ("begins", "has taken it", "call 2"):
        line = wait_for(server, rf"(\d+\.\d+ worker \d+: .*{marker}.*)")
        at = print_line(sent, line)
        if marker == "has taken it":
            first_done = at
    return first_done <= received


def print_line(start, line):
    """Print one line of the example's log, which starts with the time."""
    at, worker, text = re.fullmatch(r"([\d.]+) (worker \d+): (.*)", line).groups()
    print_event(start, float(at), worker, text)
    return float(at)


def print_event(start, at, who, what):
    print(f"  {at - start:6.3f} s  {who:14}{what}", flush=True)


def wait_for(server, pattern):
    """Read the server's output up to the line that matches the pattern."""
    lines = []
    for line in server.stdout:
        lines.append(line)
        if found := re.search(pattern, line):
            return found.group(1)
    sys.exit("gunicorn ended early:\n" + "".join(lines))


if __name__ == "__main__":
    sys.exit(main())
