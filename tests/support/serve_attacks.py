"""Hostile requests for a server, by a seed: `python tests/support/serve_attacks.py PORT DIM COUNT SEED`."""

import random
import socket
import sys


def _request(rng, dim):
    """Return bytes to send, and whether the client then closes its side."""
    good = bytes(4 * dim)
    paths = (
        "/search /search /search?k=3 / /info /metrics /../../etc/passwd /%00 // /search?k=%ff /\x7f http://evil/search"
    )
    path = rng.choice([*paths.split(" "), "*", "/search#x", "/search?k=9999999999", "/search?" + "a" * 5000])
    method = rng.choice(["POST", "POST", "POST", "GET", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "\x00"])
    kind = rng.choice(["application/json", "application/octet-stream", "text/html", "", "application/json; charset=x"])
    texts = [b"{", b'{"queries": ' + b"[" * 5000, b'{"queries": [NaN]}', b'{"queries": [' + b"1," * dim + b"1]}"]
    noise = [good[:-1], b"", b"\xff" * 4 * dim, rng.randbytes(rng.randrange(2000)), b'{"k": 1e400}']
    body = rng.choice([good, good, good, *texts, *noise])
    length = rng.choice([len(body)] * 4 + [0, len(body) + 7, max(0, len(body) - 3), 10**15, -1, "x", "1, 2", "", "1e3"])
    lines = [f"{method} {path} HTTP/{rng.choice(['1.1', '1.1', '1.1', '1.0', '2.0', '9'])}"]
    lines.append(f"Host: {rng.choice(['localhost', 'localhost', 'evil.example', '', 'a' * 300])}")
    if kind:
        lines.append(f"Content-Type: {kind}")
    what = rng.randrange(8)
    if what == 0:
        lines.append("Transfer-Encoding: chunked")
        body = rng.choice(
            [b"5\r\nabcde\r\n0\r\n\r\n", b"ffffffffffffffff\r\n", b"-1\r\n", b"zz\r\n", b"5\r\nab", b"0\r\n\r\n"]
        )
    elif what == 1:
        lines += [f"Content-Length: {length}", "Transfer-Encoding: chunked"]
    elif what == 2:
        lines += [f"Content-Length: {len(body)}", f"Content-Length: {length}"]
    else:
        lines.append(f"Content-Length: {length}")
    extra = rng.randrange(8)
    if extra == 0:
        lines.append("X-Long: " + "a" * rng.choice([10, 70_000]))
    elif extra == 1:
        lines.append("Expect: 100-continue")
    elif extra == 2:
        lines += ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x"]
    elif extra == 3:
        lines.append("Authorization: Bearer " + "x" * rng.randrange(100))
    elif extra == 4:
        lines.append("no colon here")
    data = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
    if rng.randrange(6) == 0:
        data = data[: rng.randrange(len(data) + 1)]
    if rng.randrange(12) == 0:
        data = rng.randbytes(rng.randrange(3000))
    return data * rng.choice([1, 1, 1, 1, 5])


def attack(port, dim, count, seed):
    """Send requests; return how often each status came back."""
    rng, seen = random.Random(seed), {}
    for _ in range(count):
        data = _request(rng, dim)
        with socket.create_connection(("127.0.0.1", port), 20) as line:
            status = b"none"
            try:
                line.sendall(data)
                if rng.randrange(4):  # else the client is gone at once
                    line.settimeout(0.1)
                    found = line.recv(65536)
                    status = found[9:12] if found.startswith(b"HTTP/") else found[:12] or b"none"
            except TimeoutError:  # the server waits for the rest, which never comes
                status = b"waits"
            except ConnectionError:
                status = b"closed"
        seen[status.decode("latin-1")] = seen.get(status.decode("latin-1"), 0) + 1
    assert "500" not in seen, f"seed {seed}: {seen}"
    return seen


if __name__ == "__main__":
    print(attack(*map(int, sys.argv[1:])))
