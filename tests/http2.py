"""HTTP/2 with clients we did not write: curl, h2load and httpx ask a `[[reverse]]` listener by prior knowledge.

`tests/run` runs this; by hand, after `cargo build`: `.venv/bin/python3 tests/http2.py`
"""

import asyncio
import hashlib
import http.server
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback

import httpx

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARY = os.environ.get("HOLDOFF_BIN", str(ROOT / "target/debug/holdoff"))
DEADLINE = 60.0
CLEAN = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}


class Peer(http.server.BaseHTTPRequestHandler):
    """Speaks HTTP/1.1, so that everything of HTTP/2 ends in holdoff."""

    protocol_version = "HTTP/1.1"
    asked = []

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        Peer.asked.append(self.path)
        if self.path.startswith("/limited"):
            self.say(429, b"slow down\n", {"Retry-After": "60"})
        elif self.path.startswith("/sum"):
            self.say(200, hashlib.sha256(body).hexdigest().encode())
        elif self.path.startswith("/large"):
            self.say(200, b"x" * (8 << 20))
        else:
            self.say(200, f"{self.path} {self.headers.get('Cookie')} {self.headers.get('Via')}".encode())

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def say(self, status, body, fields={}):
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


def curl(*words):
    found = subprocess.run(
        ["curl", "-sS", "--http2-prior-knowledge", "--max-time", str(DEADLINE), *words],
        env=CLEAN,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=DEADLINE,
    )
    assert found.returncode == 0, found
    return found.stdout


def curl_answers(base):
    said = curl("-w", "\n%{http_version} %{http_code} %{num_connects}", "-b", "a=1; b=2", f"{base}/one?q").decode()
    assert said.startswith("/one?q a=1; b=2 2.0 ") and said.endswith("\n2 200 1"), said
    said = curl("-I", f"{base}/head").decode().lower()
    assert said.startswith("http/2 200") and "\r\ncontent-length: " in said, said
    assert len(curl(f"{base}/large")) == 8 << 20
    with tempfile.NamedTemporaryFile() as file:
        file.write(os.urandom(5 << 20))
        file.flush()
        whole = hashlib.sha256(pathlib.Path(file.name).read_bytes()).hexdigest()
        for words in (["-T", file.name], ["-T", file.name, "-H", "Expect: 100-continue"]):
            assert curl(*words, f"{base}/sum").decode() == whole, words


def curl_many_at_once(base):
    said = curl("-Z", "--parallel-immediate", "--parallel-max", "50", "-w", "%{http_code}\n", "-o", "/dev/null", *[
        word for n in range(50) for word in ([f"{base}/{n}"] if n == 0 else ["-o", "/dev/null", f"{base}/{n}"])
    ]).decode()
    assert said.split() == ["200"] * 50, said


def curl_in_a_cooldown(base):
    said = curl("-i", f"{base}/limited").decode().lower()
    assert said.startswith("http/2 429") and "holdoff:" not in said, said
    said = curl("-i", f"{base}/limited").decode().lower()
    assert said.startswith("http/2 429") and "\r\nholdoff: short-circuit; reason=rate_limited" in said, said
    with tempfile.NamedTemporaryFile() as file:
        for size in (30_000, 3 << 20):
            file.truncate(size)
            said = curl("-w", "%{http_code}", "-o", "/dev/null", "-T", file.name, f"{base}/limited").decode()
            assert said == "429", said


def h2load(base, total, path):
    found = subprocess.run(
        ["h2load", "-n", str(total), "-c", "2", "-m", "100", "-N", "30s", base + path],
        env=CLEAN,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE,
    )
    assert found.returncode == 0, found
    counts = {word: int(count) for count, word in re.findall(r"(\d+) (total|done|succeeded|failed|errored|timeout|[2345]xx)", found.stdout)}
    return counts, found.stdout


def h2load_with_a_hundred_streams(base):
    counts, said = h2load(base, 2000, "/load")
    assert (counts["total"], counts["succeeded"], counts["2xx"]) == (2000, 2000, 2000), said
    assert counts["failed"] == counts["errored"] == counts["timeout"] == 0, said


def h2load_in_a_cooldown(base):
    """More requests on a connection than any bound on misbehaviour: none of these misbehaves."""
    curl("-o", "/dev/null", f"{base}/limited")
    before = len(Peer.asked)
    counts, said = h2load(base, 20_000, "/limited")
    assert (counts["4xx"], counts["errored"], counts["timeout"]) == (20_000, 0, 0), said
    assert len(Peer.asked) == before


def client(**words):
    return httpx.AsyncClient(http1=False, http2=True, timeout=DEADLINE, trust_env=False, **words)


def httpx_many_at_once(base):
    async def ask():
        async with client(limits=httpx.Limits(max_connections=1)) as session:
            found = await asyncio.gather(*[session.get(f"{base}/{n}") for n in range(100)])
            assert [each.http_version for each in found] == ["HTTP/2"] * 100
            assert [each.text.split()[0] for each in found] == [f"/{n}" for n in range(100)]
            body = os.urandom(3 << 20)
            found = await session.post(f"{base}/sum", content=body)
            assert found.text == hashlib.sha256(body).hexdigest()
            async with session.stream("GET", f"{base}/large") as found:
                assert sum([len(piece) async for piece in found.aiter_raw()]) == 8 << 20

    asyncio.run(ask())


def httpx_in_a_cooldown(base):
    async def ask():
        async with client(limits=httpx.Limits(max_connections=1)) as session:
            first = await session.get(f"{base}/limited")
            assert (first.status_code, "holdoff" in first.headers) == (429, False), first.headers
            before = len(Peer.asked)
            bodies = [None, b"small", os.urandom(30_000)] * 10
            found = await asyncio.gather(*[session.request("PUT" if b else "GET", f"{base}/x", content=b) for b in bodies])
            for each in found:
                assert each.status_code == 429, each
                assert each.headers["holdoff"].startswith("short-circuit; reason=rate_limited"), each.headers
            assert len(Peer.asked) == before

    asyncio.run(ask())


CASES = [
    curl_answers,
    curl_many_at_once,
    h2load_with_a_hundred_streams,
    httpx_many_at_once,
    curl_in_a_cooldown,
    h2load_in_a_cooldown,
    httpx_in_a_cooldown,
]


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Holdoff:
    """One for each case, since a cooldown outlives it."""

    def __init__(self, folder, upstream):
        ports = [free_port() for _ in range(3)]
        config = folder / f"holdoff-{ports[0]}.toml"
        config.write_text(
            f'[listen]\naddress = ["127.0.0.1:{ports[0]}"]\n[admin]\naddress = ["127.0.0.1:{ports[1]}"]\n'
            f'[[reverse]]\naddress = ["127.0.0.1:{ports[2]}"]\nupstream = "{upstream}"\n'
        )
        self.base, self.log = f"http://127.0.0.1:{ports[2]}", open(config.with_suffix(".log"), "w+")
        self.process = subprocess.Popen(
            [BINARY, "run", "--config", str(config)],
            env={**CLEAN, "XDG_STATE_HOME": str(folder / "state")},
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
        )
        end = time.monotonic() + DEADLINE
        while True:
            assert time.monotonic() < end and self.process.poll() is None, pathlib.Path(self.log.name).read_text()
            try:
                socket.create_connection(("127.0.0.1", ports[2])).close()
                return
            except OSError:
                time.sleep(0.02)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.log.close()


def main():
    server = Server(("127.0.0.1", 0), Peer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            start = time.monotonic()
            with Holdoff(pathlib.Path(folder), f"http://127.0.0.1:{server.server_address[1]}") as holdoff:
                try:
                    case(holdoff.base)
                except Exception:
                    traceback.print_exc()
                    failed.append(case.__name__)
            print(f"{'FAILED' if case.__name__ in failed else 'ok':<7} {case.__name__:<32} {time.monotonic() - start:6.2f} s")
    print(f"{len(CASES) - len(failed)} of {len(CASES)} passed")
    sys.exit(1 if failed else 0)


main()
