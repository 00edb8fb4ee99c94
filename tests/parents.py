"""Parent proxies we did not write: tinyproxy with a user and a password, and microsocks. `tests/run` runs this; by hand,
after `cargo build`:

    .venv/bin/python3 tests/parents.py
"""

import contextlib
import os
import pathlib
import socket
import ssl
import subprocess
import sys
import tempfile
import time

import trustme

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/clients"))

from origin import TEXT, Origin  # noqa: E402

BINARY = os.environ.get("HOLDOFF_BIN", str(ROOT / "target/debug/holdoff"))
DEADLINE = 20.0
USER, PASSWORD = "node", "not-so-secret"
CLEAN = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith("HOLDOFF_") and not name.lower().endswith("_proxy")
}


def free_port():
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        return each.getsockname()[1]


@contextlib.contextmanager
def running(command, port, **more):
    """A program, once it listens."""
    process = subprocess.Popen(command, env=CLEAN, stdout=subprocess.DEVNULL, **more)
    try:
        end = time.monotonic() + DEADLINE
        while True:
            assert process.poll() is None, f"{command[0]} ended with {process.returncode}"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert time.monotonic() < end, f"{command[0]} does not listen"
            time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        process.wait(DEADLINE)


@contextlib.contextmanager
def tinyproxy(folder, password=PASSWORD):
    """HTTP: absolute-form and CONNECT."""
    port, file = free_port(), folder / "tinyproxy.conf"
    file.write_text(f"Port {port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 20\nBasicAuth {USER} {password}\n")
    with running(["tinyproxy", "-d", "-c", str(file)], port):
        yield f"http://{USER}@127.0.0.1:{port}"


@contextlib.contextmanager
def microsocks(_folder, password=PASSWORD):
    port = free_port()
    with running(["microsocks", "-i", "127.0.0.1", "-p", str(port), "-u", USER, "-P", password], port, stderr=subprocess.DEVNULL):
        yield f"socks5://{USER}@127.0.0.1:{port}"


@contextlib.contextmanager
def holdoff(folder, parent, *more):
    port, secret, config = free_port(), folder / "password", folder / "holdoff.toml"
    secret.write_text(f"{PASSWORD}\n")
    config.write_text(
        f'[listen]\naddress = ["127.0.0.1:{port}"]\n[admin]\naddress = ["127.0.0.1:{free_port()}"]\n'
        f'[log]\nlevel = "warn"\n[egress]\nconnect_ports = ["1-65535"]\n'
        f'[upstream]\nproxy = "{parent}"\nproxy_password_file = "{secret}"\n' + "\n".join(more)
    )
    with running([BINARY, "run", "--config", str(config)], port):
        yield f"http://127.0.0.1:{port}"


def curl(proxy, url, ca):
    """Status, `Holdoff` of the last answer, body."""
    words = ["curl", "-sS", "-x", proxy, "--cacert", str(ca), "-m", str(DEADLINE), "-D", "-", url]
    got = subprocess.run(words, env=CLEAN, capture_output=True)
    assert got.returncode in (0, 56), got.stderr
    *heads, body = got.stdout.split(b"\r\n\r\n")
    status = int(heads[-1].split()[1])
    return status, heads[-1].decode().lower(), body


def passes(kind, folder, origins, ca):
    plain, secure = origins
    with kind(folder) as parent, holdoff(folder, parent) as proxy:
        for origin in origins:
            for _ in range(2):
                status, _, body = curl(proxy, f"{origin.url}/gzip", ca)
                assert status == 200 and body, (origin.url, status)
        assert "via" not in curl(proxy, f"{secure.url}/status?code=404", ca)[1]
        # The host's own 429 through the parent cools the host alone.
        assert curl(proxy, f"{plain.url}/limited", ca)[0] == 429
        status, head, _ = curl(proxy, f"{plain.url}/gzip", ca)
        assert status == 429 and "holdoff: short-circuit; reason=rate_limited" in head and f":{plain.port}\"" in head, head
        assert curl(proxy, f"{secure.url}/status?code=204", ca)[0] == 204


def refused(kind, folder, origins, ca):
    """A wrong password is our error, not a question to the client."""
    with kind(folder, "another") as parent, holdoff(folder, parent) as proxy:
        for origin in origins:
            status, head, _ = curl(proxy, f"{origin.url}/gzip", ca)
            if kind is tinyproxy and not origin.tls:
                # tinyproxy says this as a host would, and so it passes.
                assert status == 401 and "server: tinyproxy" in head, head
                continue
            assert status == 502 and "kind=parent_auth" in head and "proxy-authenticate" not in head, head


def dead_host(kind, folder, origins, ca):
    """The parent is there, the host behind it is not: the parent is not blamed."""
    with kind(folder) as parent, holdoff(folder, parent, "[defaults.breaker]", "failure_threshold = 1") as proxy:
        for scheme in "http", "https":
            status, head, _ = curl(proxy, f"{scheme}://127.0.0.1:{free_port()}/", ca)
            assert status >= 500, head
        assert curl(proxy, f"{origins[0].url}/gzip", ca)[0] == 200


def main():
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        ca = folder / "ca.pem"
        authority.cert_pem.write_to_path(ca)
        for kind in tinyproxy, microsocks:
            for case in passes, refused, dead_host:
                with Origin(None, str(folder), retry_after=600) as plain, Origin(context, str(folder), retry_after=600) as secure:
                    try:
                        case(kind, folder, (plain, secure), ca)
                        print(f"ok      {kind.__name__:12}{case.__name__}", flush=True)
                    except AssertionError as error:
                        failed += 1
                        print(f"FAILED  {kind.__name__:12}{case.__name__}: {error}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
