#!/usr/bin/env python3
"""A plain http listener mapped onto an https upstream: holdoff beside nginx and HAProxy doing the same, in the same run.

    cargo build --release
    python3 benches/tls.py [--rounds 3] [--seconds 4] [--binary target/release/holdoff]

Needs nginx, haproxy, wrk and openssl (Debian: nginx-light haproxy wrk openssl). The load (wrk, 64 connections) and the upstream
(nginx over TLS) share CPU 0, each proxy has CPU 1 to itself. Only loopback is used, and only what was started here is ended.

`req/s` says what comes through, `CPU` what a request costs the proxy; both are also given as a ratio to HAProxy of the same
round, and the median of the rounds is printed. `holdoff` speaks HTTP/1.1 to the upstream like the other two, `holdoff h2` has
one HTTP/2 connection.
"""

import argparse
import os
import pathlib
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

LOAD, PROXY = {0}, {1}


def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start(command, cpus, at, log):
    process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=lambda: os.sched_setaffinity(0, cpus))
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        if process.poll() is not None:
            sys.exit(f"{command[0]} ended with {process.returncode}; its output is in {log.name}")
        try:
            socket.create_connection(("127.0.0.1", at), 0.2).close()
            return process
        except OSError:
            time.sleep(0.02)
    sys.exit(f"{command[0]} does not listen on port {at}")


def stop(process):
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def children(pid):
    found = [pid]
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += children(int(child))
    return found


def cpu_seconds(pid):
    ticks = 0
    for one in children(pid):
        fields = pathlib.Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def certificates(work):
    run = lambda *args: subprocess.run(args, check=True, cwd=work, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    run("openssl", "req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=bench ca",
        "-addext", "basicConstraints=critical,CA:TRUE")
    run("openssl", "req", *curve, "-keyout", "leaf.key", "-out", "leaf.csr", "-subj", "/CN=localhost")
    (work / "ext").write_text("subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n")
    run("openssl", "x509", "-req", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
        "-extfile", "ext", "-out", "leaf.pem")


def nginx(work, name, server, upstream=""):
    config = work / f"{name}.conf"
    config.write_text(f"""worker_processes 1; daemon off; pid {work}/{name}.pid; error_log {work}/{name}.err;
events {{ worker_connections 2048; }}
http {{ access_log off; keepalive_requests 1000000; client_body_temp_path {work}/{name}-body; proxy_temp_path {work}/{name}-proxy;
fastcgi_temp_path {work}/{name}-f; uwsgi_temp_path {work}/{name}-u; scgi_temp_path {work}/{name}-s;
{upstream} server {{ {server} }} }}
""")
    return ["nginx", "-c", str(config), "-p", str(work), "-e", str(work / f"{name}.err")]


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--seconds", type=int, default=4)
    options.add_argument("--binary", default="target/release/holdoff")
    options = options.parse_args()
    for tool in ["nginx", "haproxy", "wrk", "openssl"]:
        if not shutil.which(tool):
            sys.exit(f"expected {tool} on the path, found none")
    work = pathlib.Path(tempfile.mkdtemp(prefix="holdoff-tls-"))
    log = open(work / "log", "w")
    certificates(work)
    origin = port()
    tls = f"ssl_certificate {work}/leaf.pem; ssl_certificate_key {work}/leaf.key; location / {{ return 200 'hello'; }}"
    upstream = start(nginx(work, "origin", f"listen 127.0.0.1:{origin} ssl http2; {tls}"), LOAD, origin, log)

    def holdoff(at, http2):
        config = work / f"holdoff-{http2}.toml"
        config.write_text(f"""[listen]
address = ["127.0.0.1:{port()}"]
[admin]
address = ["127.0.0.1:{port()}"]
[upstream]
platform_roots = false
ca_files = ["{work}/ca.pem"]
max_idle_per_host = 256
http2 = {str(http2).lower()}
[[reverse]]
address = ["127.0.0.1:{at}"]
upstream = "https://localhost:{origin}"
""")
        return [options.binary, "run", "--config", str(config)]

    def haproxy(at):
        config = work / "haproxy.cfg"
        config.write_text(f"""global
  nbthread 1
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  option http-keep-alive
  http-reuse always
frontend f
  bind 127.0.0.1:{at}
  default_backend b
backend b
  server s localhost:{origin} ssl verify required ca-file {work}/ca.pem sni str(localhost) verifyhost localhost alpn http/1.1
""")
        return ["haproxy", "-f", str(config)]

    def reverse(at):
        pool = f"upstream u {{ server localhost:{origin}; keepalive 256; keepalive_requests 1000000; }}"
        server = (f"listen 127.0.0.1:{at}; location / {{ proxy_pass https://u; proxy_http_version 1.1; "
                  "proxy_set_header Connection ''; proxy_set_header Host localhost; proxy_ssl_name localhost; proxy_ssl_server_name on; "
                  f"proxy_ssl_verify on; proxy_ssl_trusted_certificate {work}/ca.pem; proxy_ssl_session_reuse on; }}")
        return nginx(work, "reverse", server, pool)

    targets = {
        "haproxy": haproxy,
        "nginx": reverse,
        "holdoff": lambda at: holdoff(at, False),
        "holdoff h2": lambda at: holdoff(at, True),
    }
    figures = {name: [] for name in targets}
    try:
        for _ in range(options.rounds):
            for name, command in targets.items():
                at = port()
                process = start(command(at), PROXY, at, log)
                load = lambda seconds: subprocess.run(
                    ["wrk", "-t1", "-c64", f"-d{seconds}", f"http://127.0.0.1:{at}/"], check=True, capture_output=True,
                    text=True, preexec_fn=lambda: os.sched_setaffinity(0, LOAD)).stdout
                load(1)
                before = cpu_seconds(process.pid)
                out = load(options.seconds)
                spent = cpu_seconds(process.pid) - before
                stop(process)
                if "Non-2xx" in out or "Socket errors" in out:
                    sys.exit(f"{name} failed requests:\n{out}")
                requests = int(re.search(r"(\d+) requests in", out).group(1))
                figures[name].append((requests / options.seconds, spent / requests * 1e6))
    finally:
        stop(upstream)
        shutil.rmtree(work, ignore_errors=True)
    base = figures["haproxy"]
    print(f"{'':12}{'req/s':>10}{'ratio':>8}{'CPU us':>10}{'ratio':>8}")
    for name, rounds in figures.items():
        rate = statistics.median(rate for rate, _ in rounds)
        cost = statistics.median(cost for _, cost in rounds)
        rates = statistics.median(mine[0] / its[0] for mine, its in zip(rounds, base))
        costs = statistics.median(mine[1] / its[1] for mine, its in zip(rounds, base))
        print(f"{name:12}{rate:10.0f}{rates:8.2f}{cost:10.1f}{costs:8.2f}")


if __name__ == "__main__":
    main()
