"""Where holdoff may go, with the real resolver: mixed DNS answers, names that change between two look-ups, own addresses.

The program runs in a network and mount namespace of its own with a scripted DNS server. Every address in here (metadata
service, public and private hosts) is on the namespace's loopback interface, every connection to it is counted, and nothing
on the machine is touched. Needs root, sudo or unprivileged user namespaces, and fails without. `tests/run` runs this; by
hand: `cargo build && python3 tests/destinations.py`. No Python packages are needed.

What holds, and is shown here:

- Every address of an answer is checked, and only those that passed are dialled: a mixed answer serves its allowed part.
  One of our own listeners among them refuses the whole.
- One look-up per connection at most; its checked addresses are the ones dialled. What the name resolves to a moment
  later is for the next look-up, whose answer is checked again.
- A name without a dot goes through the search list of `resolv.conf`, as it does for every program of the node; also one
  written with a dot at its end, since the dot is no part of a key. Rules on names judge the name the client wrote, rules
  on addresses what came of it.
"""

import collections
import contextlib
import http.client
import json
import os
import pathlib
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARY = os.environ.get("HOLDOFF_BIN", str(ROOT / "target/debug/holdoff"))
INSIDE = "HOLDOFF_TEST_NAMESPACE"
DEADLINE = 20.0

METADATA = "169.254.169.254"
METADATA_V6 = "fd00:ec2::254"
PRIVATE = "10.1.2.3"
PUBLIC, PUBLIC_2 = "93.184.216.34", "93.184.216.35"
PUBLIC_V6 = "2606:2800:220:1::34"
ADDRESSES = [METADATA, METADATA_V6, PRIVATE, PUBLIC, PUBLIC_2, PUBLIC_V6]

PROXY, ADMIN, REVERSE, METRICS = 4290, 4291, 4300, 4292
STRICT = '[egress]\nprivate = "deny"\n'
EVERY_LOOK_UP = '[upstream]\ndns_ttl = "0s"\n'


# ---------------------------------------------------------------- the namespace

def ways():
    """Commands that make the namespace: as root, as a user that is root inside only, as a user that may become root."""
    command = ["unshare", "--net", "--mount", "--uts"]
    if os.geteuid() == 0:
        return [command]
    return [[*command, "--user", "--map-root-user"], ["sudo", "-n", *command]]


def enter():
    """Runs this script again inside, and ends with its exit code."""
    for tool in ["unshare", "mount", "ip"]:
        if shutil.which(tool, path=path()) is None:
            sys.exit(f"expected the program `{tool}`, found none; install util-linux, mount and iproute2")
    if not os.access(BINARY, os.X_OK):
        sys.exit(f"expected the program at `{BINARY}`, found none; run `cargo build`")
    complaints = []
    for way in ways():
        try:
            tried = subprocess.run([*way, "true"], capture_output=True, text=True, check=False)
        except OSError as error:
            complaints.append(str(error))
            continue
        if tried.returncode != 0:
            complaints.append(tried.stderr.strip())
            continue
        with tempfile.TemporaryDirectory() as place:
            inside = ["env", f"PATH={path()}", f"{INSIDE}={place}", f"HOLDOFF_BIN={BINARY}"]
            script = [sys.executable, os.path.abspath(__file__), *sys.argv[1:]]
            sys.exit(subprocess.run([*way, *inside, *script], check=False).returncode)
    sys.exit(
        f"expected leave to make a network and a mount namespace, found `{'`, `'.join(complaints)}`; run this as root "
        "or allow unprivileged user namespaces"
    )


def path():
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"expected `{' '.join(command)}` to work inside the namespace, found `{done.stderr.strip()}`")


class Etc:
    """The resolver's files, our own; everything else of /etc stays as it is."""

    OWN = ("hosts", "resolv.conf", "nsswitch.conf")

    def __init__(self, place):
        # Gone with the namespace.
        run("mount", "-t", "tmpfs", "none", place)
        old, self.new = pathlib.Path(place) / "old", pathlib.Path(place) / "new"
        old.mkdir()
        self.new.mkdir()
        run("mount", "--rbind", "/etc", str(old))
        for each in old.iterdir():
            if each.name not in self.OWN:
                (self.new / each.name).symlink_to(each)
        (self.new / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")
        (self.new / "hosts").write_text(f"127.0.0.1 localhost\n::1 localhost\n{PRIVATE} sidecar\n")
        self.resolver()
        run("mount", "--bind", str(self.new), "/etc")
        if os.path.isdir("/run/nscd"):
            run("mount", "-t", "tmpfs", "none", "/run/nscd")

    def resolver(self, *more):
        lines = ["nameserver 127.0.0.1", "options timeout:5 attempts:1", *more]
        (self.new / "resolv.conf").write_text("\n".join(lines) + "\n")


def set_up():
    """Interfaces, addresses, the resolver's files; returns the latter."""
    run("ip", "link", "set", "lo", "up")
    for address in ADDRESSES:
        if ":" in address:
            run("ip", "-6", "address", "add", f"{address}/128", "dev", "lo", "nodad")
        else:
            run("ip", "address", "add", f"{address}/32", "dev", "lo")
    socket.sethostname("sidecar")
    return Etc(os.environ[INSIDE])


# ---------------------------------------------------------------- the scripted peers

A, CNAME, AAAA = 1, 5, 28
SERVFAIL, NXDOMAIN = 2, 3


class Dns:
    """Answers by script. `names[name]` is given the type, and the number of questions of this type so far, from 1; it gives
    records `(type, value)`, a response code, or None for silence. Names that are not there do not exist. TTLs are 0."""

    def __init__(self):
        self.names = {}
        self.asked = collections.Counter()
        self.lock = threading.Lock()
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 53))
        threading.Thread(target=self.serve, daemon=True).start()

    def reset(self):
        with self.lock:
            self.names.clear()
            self.asked.clear()

    def look_ups(self, name):
        """How often a name was asked for; each look-up asks for A and AAAA."""
        with self.lock:
            return max(self.asked[name, A], self.asked[name, AAAA])

    def serve(self):
        while True:
            message, peer = self.socket.recvfrom(4096)
            answer = self.answer(message)
            if answer is not None:
                self.socket.sendto(answer, peer)

    def answer(self, message):
        labels, at = [], 12
        while message[at]:
            labels.append(message[at + 1 : at + 1 + message[at]].decode("ascii").lower())
            at += 1 + message[at]
        name, question = ".".join(labels), message[12 : at + 5]
        (kind,) = struct.unpack("!H", message[at + 1 : at + 3])
        with self.lock:
            self.asked[name, kind] += 1
            script = self.names.get(name)
            found = NXDOMAIN if script is None else script(kind, self.asked[name, kind])
        if found is None:
            return None
        code, records = (found, []) if isinstance(found, int) else (0, found)
        body, owner = b"", b"\xc0\x0c"
        for what, value in records:
            if what == CNAME:
                data = b"".join(bytes([len(part)]) + part.encode() for part in value.split(".")) + b"\0"
            else:
                data = socket.inet_pton(socket.AF_INET if what == A else socket.AF_INET6, value)
            body += owner + struct.pack("!HHIH", what, 1, 0, len(data)) + data
            if what == CNAME:
                owner = data
        header = message[:2] + struct.pack("!HHHHH", 0x8180 | code, 1, len(records), 0, 0)
        return header + question + body


def addresses(*texts):
    """A script that always gives these addresses, in this order."""
    return lambda kind, _: [(AAAA if ":" in text else A, text) for text in texts if (":" in text) == (kind == AAAA)]


def in_turn(*answers):
    """A script that gives one list of addresses per look-up, the last one again and again."""
    return lambda kind, nth: addresses(*answers[min(nth, len(answers)) - 1])(kind, nth)


def alias(to, *texts):
    """A script for an alias: the chain, and the addresses at its end."""
    chain = [(CNAME, each) for each in to]
    return lambda kind, nth: [*chain, *addresses(*texts)(kind, nth)]


class Host:
    """Listens on one address, counts connections, and answers each request with the address; or does not even accept."""

    def __init__(self, address, port=80, silent=False, location=None, only_v6=False):
        self.address, self.location, self.connections = address, location, 0
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if only_v6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        self.socket.bind((address, port))
        self.socket.listen(0 if silent else 128)
        self.waiting = []
        if silent:
            # A full queue: the kernel answers no further SYN.
            while True:
                each = socket.socket(family, socket.SOCK_STREAM)
                each.settimeout(0.3)
                self.waiting.append(each)
                try:
                    each.connect((address, port))
                except TimeoutError:
                    return
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                stream, _ = self.socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self.talk, args=(stream,), daemon=True).start()

    def talk(self, stream):
        with stream, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                piece = stream.recv(4096)
                if not piece:
                    return
                head += piece
            status = f"302 Found\r\nLocation: {self.location}" if self.location else "200 OK"
            body = self.address
            stream.sendall(
                f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
            )

    def close(self):
        # Wakes the thread that accepts.
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        for each in [self.socket, *self.waiting]:
            each.close()


# ---------------------------------------------------------------- the program

class Answer:
    """What the client got: status, `Location`, and of an error of holdoff's own the kind and the stage."""

    def __init__(self, status, headers, body):
        self.status, self.text, self.location = status, body.decode(), headers.get("Location")
        self.kind = self.stage = None
        if "Holdoff" in headers:
            problem = json.loads(body)
            self.kind, self.stage = problem["kind"], problem["stage"]

    def __repr__(self):
        return f"{self.status} {self.text}"


class Holdoff:
    """`holdoff run` with a configuration; killed at the end whatever happens."""

    def __init__(self, place, toml="", listen="127.0.0.1", admin="127.0.0.1"):
        self.at = f"[{listen}]" if ":" in listen else listen
        tables = [
            f'[listen]\naddress = ["{self.at}:{PROXY}"]\n',
            "" if listen.startswith("127.") else 'clients = ["127.0.0.0/8", "::1"]\n',
            f'[admin]\naddress = ["{admin}:{ADMIN}"]\n',
            toml,
        ]
        self.file = pathlib.Path(place) / "holdoff.toml"
        self.file.write_text("".join(tables))
        self.output = tempfile.TemporaryFile(mode="w+")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HOLDOFF_")}
        self.process = subprocess.Popen(
            [BINARY, "run", "--config", str(self.file)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=subprocess.STDOUT,
        )
        self.wait()

    def wait(self):
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise AssertionError(f"holdoff ended with {self.process.returncode}:\n{self.said()}")
            with contextlib.suppress(OSError):
                connection = http.client.HTTPConnection("127.0.0.1", ADMIN, timeout=2)
                with contextlib.closing(connection):
                    connection.request("GET", "/readyz")
                    if connection.getresponse().status == 200:
                        return
            time.sleep(0.01)
        raise AssertionError(f"expected holdoff to be ready:\n{self.said()}")

    def sample(self, name):
        """The value of one sample of `/metrics`; 0 when it is not there."""
        connection = http.client.HTTPConnection("127.0.0.1", ADMIN, timeout=DEADLINE)
        with contextlib.closing(connection):
            connection.request("GET", "/metrics")
            lines = connection.getresponse().read().decode().splitlines()
        return next((float(line.split()[-1]) for line in lines if line.startswith(f"{name} ")), 0)

    def said(self):
        self.output.seek(0)
        return self.output.read()

    def close(self):
        self.process.kill()
        self.process.wait()
        self.output.close()

    def get(self, url):
        """GET in absolute form on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", PROXY, timeout=DEADLINE)
        with contextlib.closing(connection):
            host = url.split("/")[2]
            connection.putrequest("GET", url, skip_host=True)
            connection.putheader("Host", host)
            connection.endheaders()
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())

    def connect(self, authority):
        """CONNECT, and a GET through the tunnel if there is one."""
        connection = http.client.HTTPConnection("127.0.0.1", PROXY, timeout=DEADLINE)
        with contextlib.closing(connection):
            connection.putrequest("CONNECT", authority, skip_host=True, skip_accept_encoding=True)
            connection.putheader("Host", authority)
            connection.endheaders()
            stream = connection.sock
            answer = http.client.HTTPResponse(stream, method="CONNECT")
            answer.begin()
            if answer.status != 200:
                # As a GET's: the body of a refusal is there to be read.
                return Answer(answer.status, answer.headers, answer.read())
            stream.sendall(f"GET / HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
            inner = http.client.HTTPResponse(stream, method="GET")
            inner.begin()
            return Answer(inner.status, inner.headers, inner.read())

    def both(self, host, port):
        """The same destination in absolute form and by CONNECT."""
        return [self.get(f"http://{host}:{port}/"), self.connect(f"{host}:{port}")]


class Case(unittest.TestCase):
    def setUp(self):
        dns.reset()
        etc.resolver()

    def holdoff(self, toml="", **more):
        holdoff = Holdoff(os.environ[INSIDE], toml, **more)
        self.addCleanup(holdoff.close)
        return holdoff

    def host(self, address, port=8080, **more):
        host = Host(address, port, **more)
        self.addCleanup(host.close)
        return host

    def refused(self, answer, status=403, kind="destination_denied", stage="destination"):
        self.assertEqual((answer.status, answer.kind, answer.stage), (status, kind, stage), answer)

    def served(self, answer, address):
        self.assertEqual((answer.status, answer.text, answer.kind), (200, address, None), answer)


# ---------------------------------------------------------------- what is shown

class MixedAnswers(Case):
    """Allowed and forbidden addresses in one answer."""

    def test_only_the_allowed_addresses_are_dialled(self):
        forbidden = [self.host(address) for address in [METADATA, METADATA_V6, PRIVATE, "127.0.0.1", "::1"]]
        self.host(PUBLIC)
        holdoff = self.holdoff(STRICT + EVERY_LOOK_UP)
        others = [host.address for host in forbidden] + [f"::ffff:{METADATA}", f"64:ff9b::{METADATA}", "0.0.0.0", "::"]
        for place in range(len(others) + 1):
            dns.names["mixed.test"] = addresses(*others[:place], PUBLIC, *others[place:])
            for answer in holdoff.both("mixed.test", 8080):
                self.served(answer, PUBLIC)
        self.assertEqual([host.connections for host in forbidden], [0] * len(forbidden))

    def test_a_dead_allowed_address_does_not_lead_to_a_forbidden_one(self):
        forbidden = [self.host(address) for address in [METADATA, PRIVATE, "127.0.0.1", "::1"]]
        holdoff = self.holdoff(STRICT)
        dns.names["dead.test"] = addresses(METADATA, PUBLIC, PRIVATE, "127.0.0.1", "::1")
        for answer in holdoff.both("dead.test", 8080):
            self.refused(answer, 502, "connect_refused", "connect")
        self.assertEqual([host.connections for host in forbidden], [0] * len(forbidden))

    def test_an_answer_with_nothing_allowed_is_refused(self):
        forbidden = [self.host(address) for address in [METADATA, PRIVATE]]
        dns.names["bad.test"] = addresses(METADATA, PRIVATE, f"::ffff:{METADATA}", "::1")
        for answer in self.holdoff(STRICT).both("bad.test", 8080):
            self.refused(answer)
        self.assertEqual([host.connections for host in forbidden], [0, 0])

    def test_by_default_private_addresses_are_allowed_and_metadata_is_not(self):
        metadata = [self.host(METADATA), self.host(METADATA_V6)]
        self.host(PRIVATE)
        dns.names["mixed.test"] = addresses(METADATA, METADATA_V6, PRIVATE)
        dns.names["metadata.test"] = addresses(METADATA, METADATA_V6)
        holdoff = self.holdoff()
        for answer in holdoff.both("mixed.test", 8080):
            self.served(answer, PRIVATE)
        for answer in holdoff.both("metadata.test", 8080):
            self.refused(answer)
        self.assertEqual([host.connections for host in metadata], [0, 0])

    def test_a_listener_of_ours_among_the_answers_refuses_the_whole(self):
        public = self.host(PUBLIC, PROXY)
        dns.names["mixed.test"] = addresses(PUBLIC, "127.0.0.1")
        for answer in self.holdoff().both("mixed.test", PROXY):
            self.refused(answer, 508, "own_listener")
        self.assertEqual(public.connections, 0)

    def test_more_addresses_than_are_used_are_no_way_around_the_check(self):
        metadata = self.host(METADATA)
        dns.names["many.test"] = addresses(*[f"10.9.0.{n}" for n in range(1, 90)], METADATA)
        for answer in self.holdoff(STRICT).both("many.test", 8080):
            self.refused(answer)
        self.assertEqual(metadata.connections, 0)

    def test_addresses_beyond_the_bound_are_left_out_and_counted(self):
        last = self.host("127.1.0.99")
        holdoff = self.holdoff()
        counted = 'holdoff_bounds_reached_total{bound="addresses"}'
        # Of 64 the one that lives is tried, behind all that refuse; of 65 it is not.
        dns.names["full.test"] = addresses(*[f"127.1.0.{n}" for n in range(36, 100)])
        dns.names["more.test"] = addresses(*[f"127.1.0.{n}" for n in range(35, 100)])
        self.served(holdoff.get("http://full.test:8080/"), "127.1.0.99")
        self.assertEqual(holdoff.sample(counted), 0)
        self.refused(holdoff.get("http://more.test:8080/"), 502, "connect_refused", "connect")
        self.assertEqual((holdoff.sample(counted), last.connections), (1, 1))


class Rebinding(Case):
    """A name whose answer changes behind the check."""

    def test_the_checked_addresses_are_the_ones_dialled(self):
        self.host(PUBLIC)
        forbidden = [self.host(address) for address in [METADATA, "127.0.0.1"]]
        holdoff = self.holdoff(STRICT + EVERY_LOOK_UP)
        for name, ask in [
            ("absolute.test", lambda: holdoff.get("http://absolute.test:8080/")),
            ("tunnel.test", lambda: holdoff.connect("tunnel.test:8080")),
        ]:
            # Whoever looks up twice for one connection dials what was not checked.
            dns.names[name] = in_turn([PUBLIC], [METADATA, "127.0.0.1"])
            self.served(ask(), PUBLIC)
            self.assertEqual(dns.look_ups(name), 1)
            # The next connection asks anew, and what it gets is checked anew.
            self.refused(ask())
            self.assertEqual(dns.look_ups(name), 2)
        self.assertEqual([host.connections for host in forbidden], [0, 0])

    def test_a_connection_that_fails_is_not_tried_at_another_answer(self):
        metadata = self.host(METADATA)
        holdoff = self.holdoff(STRICT + EVERY_LOOK_UP)
        dns.names["dead.test"] = in_turn([PUBLIC], [METADATA])
        self.refused(holdoff.get("http://dead.test:8080/"), 502, "connect_refused", "connect")
        self.assertEqual((dns.look_ups("dead.test"), metadata.connections), (1, 0))

    def test_a_remembered_answer_is_checked_for_each_port(self):
        self.host(PRIVATE)
        other = self.host(PRIVATE, 8081)
        dns.names["peer.test"] = addresses(PRIVATE)
        holdoff = self.holdoff('[egress]\ndeny = ["10.0.0.0/8:8081"]\n')
        self.served(holdoff.get("http://peer.test:8080/"), PRIVATE)
        self.refused(holdoff.get("http://peer.test:8081/"))
        self.assertEqual((dns.look_ups("peer.test"), other.connections), (1, 0))


class TimeToLive(Case):
    def test_an_answer_is_used_for_dns_ttl(self):
        self.host(PUBLIC)
        self.host(PUBLIC_2)
        dns.names["peer.test"] = in_turn([PUBLIC], [PUBLIC_2])
        holdoff = self.holdoff('[upstream]\ndns_ttl = "2s"\n')
        asked = time.monotonic()
        while True:
            answer = holdoff.get("http://peer.test:8080/")
            if answer.text == PUBLIC_2:
                break
            self.served(answer, PUBLIC)
            self.assertEqual(dns.look_ups("peer.test"), 1)
            self.assertLess(time.monotonic() - asked, DEADLINE, "expected a second look-up")
            time.sleep(0.05)
        self.assertGreaterEqual(time.monotonic() - asked, 1.9)
        self.assertEqual(dns.look_ups("peer.test"), 2)


class Ranges(Case):
    """Whole blocks, with every address of both families on this machine: what is let through does arrive."""

    PRIVATE = [
        *["0.1.2.3", "0.255.255.255", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.255", "127.0.0.9"],
        *["172.16.0.1", "172.31.255.255", "192.0.0.8", "192.0.0.255", "192.168.0.1", "192.168.255.255"],
        *["198.18.0.1", "198.19.255.255", "fc00::1", "fdff:ffff::1", "64:ff9b::10.0.0.1", "64:ff9b:1::10.0.0.1"],
        *["64:ff9b:1:a01:2:300:0:1", "2002:7f00:1::1", "2001:0:102:304:8000:63bf:80ff:fffe", "::10.0.0.1"],
    ]
    OPEN = [
        *["1.0.0.1", "9.255.255.255", "11.0.0.1", "100.63.255.255", "100.128.0.1", "126.255.255.255", "128.0.0.1"],
        *["169.253.255.255", "169.255.0.1", "172.15.255.255", "172.32.0.1", "192.0.1.1", "192.167.255.255"],
        *["192.169.0.1", "198.17.255.255", "198.20.0.1", "223.255.255.254", "2606:4700::1", "64:ff9b::1.1.1.1"],
        *["64:ff9b:1::1.1.1.1", "64:ff9b:1:fffe::1.1.1.1", "2002:101:101::1", "2001:0:102:304:8000:63bf:fefe:fefe"],
    ]
    NEVER = [
        *[METADATA, "169.254.0.1", "169.254.255.254", METADATA_V6, "fd00:ec2::23", "fd20:ce::254", "fe80::1"],
        *[f"64:ff9b::{METADATA}", f"64:ff9b:1::{METADATA}", "64:ff9b:1:a9fe:a9:fe00:0:1", "2002:a9fe:a9fe::1"],
        *["2001:0:102:304:8000:63bf:5601:5601", "2001:0:a9fe:a9fe:8000:63bf:fefe:fefe", f"::{METADATA}"],
        *["0.0.0.0", "::", "224.0.0.1", "ff0e::1", "255.255.255.255"],
    ]

    def setUp(self):
        super().setUp()
        # Every address is the machine's own.
        for family, everything in [("-4", "0.0.0.0/0"), ("-6", "::/0")]:
            run("ip", family, "route", "add", "local", everything, "dev", "lo")
            self.addCleanup(run, "ip", family, "route", "del", "local", everything, "dev", "lo")

    def test_each_block_by_literal_and_by_name(self):
        everywhere = [self.host("0.0.0.0"), self.host("::", only_v6=True)]
        for number, address in enumerate([*self.PRIVATE, *self.OPEN, *self.NEVER]):
            dns.names[f"n{number}.test"] = addresses(address)
        for toml, allowed, denied in [
            ("", [*self.PRIVATE, *self.OPEN], self.NEVER),
            (STRICT, self.OPEN, [*self.PRIVATE, *self.NEVER]),
        ]:
            holdoff = Holdoff(os.environ[INSIDE], toml)
            with contextlib.closing(holdoff):
                for number, address in enumerate([*self.PRIVATE, *self.OPEN, *self.NEVER]):
                    literal = f"[{address}]" if ":" in address else address
                    for host in [literal, f"n{number}.test"]:
                        before = sum(each.connections for each in everywhere)
                        for answer in holdoff.both(host, 8080):
                            with self.subTest(address=address, host=host, toml=toml):
                                if address in allowed:
                                    self.assertEqual((answer.status, answer.kind), (200, None), answer)
                                else:
                                    self.assertIn(address, denied)
                                    self.refused(answer)
                        arrived = sum(each.connections for each in everywhere) - before
                        self.assertEqual(arrived, 2 if address in allowed else 0, address)


class Ourselves(Case):
    """Our own listeners, by whatever name."""

    def own(self, answer):
        self.refused(answer, 508, "own_listener")

    EVERY_PORT = (
        f'[[reverse]]\naddress = ["127.0.0.1:{REVERSE}"]\nupstream = "http://peer.test"\n'
        f'[metrics]\naddress = ["127.0.0.1:{METRICS}"]\n'
    )

    def test_a_name_that_resolves_to_us(self):
        dns.names["us.test"] = addresses("127.0.0.1")
        dns.names["mapped.test"] = addresses("::ffff:127.0.0.1")
        dns.names["alias.test"] = alias(["localhost.test"], "127.0.0.1")
        holdoff = self.holdoff(self.EVERY_PORT)
        for port in [PROXY, ADMIN, REVERSE, METRICS]:
            for host in ["us.test", "US.test.", "mapped.test", "alias.test", "localhost", "LocalHost."]:
                for answer in holdoff.both(host, port):
                    self.own(answer)

    def test_every_address_of_the_machine_when_listening_everywhere(self):
        dns.names["us.test"] = addresses(PUBLIC)
        for listen, more in [("0.0.0.0", []), ("::", ["[::1]", f"[{PUBLIC_V6}]"])]:
            # Private addresses are allowed, so that it is not that rule which refuses.
            at = f"[{listen}]" if ":" in listen else listen
            metrics = f'[metrics]\naddress = ["{at}:{METRICS}"]\n'
            holdoff = Holdoff(os.environ[INSIDE], '[egress]\nprivate = "allow"\n' + metrics, listen=listen)
            with contextlib.closing(holdoff):
                here = ["127.0.0.1", "127.0.0.2", PRIVATE, PUBLIC, f"[::ffff:{PRIVATE}]"]
                for host in [*here, "localhost", "sidecar", "us.test", *more]:
                    for port in [PROXY, METRICS]:
                        for answer in holdoff.both(host, port):
                            self.own(answer)
        self.assertEqual(socket.gethostname(), "sidecar")

    def test_another_program_on_our_port_number_is_no_listener_of_ours(self):
        self.host(PRIVATE, PROXY)
        for answer in self.holdoff().both("sidecar", PROXY):
            self.served(answer, PRIVATE)


class Names(Case):
    """What the resolver can say."""

    def test_aliases_are_followed_and_their_end_is_checked(self):
        self.host(PUBLIC)
        metadata = self.host(METADATA)
        dns.names["good.test"] = alias(["b.test", "c.test"], PUBLIC)
        dns.names["bad.test"] = alias(["b.test", "c.test"], METADATA)
        holdoff = self.holdoff(STRICT)
        for answer in holdoff.both("good.test", 8080):
            self.served(answer, PUBLIC)
        for answer in holdoff.both("bad.test", 8080):
            self.refused(answer)
        self.assertEqual(metadata.connections, 0)

    def test_each_failure_names_its_stage(self):
        dns.names["broken.test"] = lambda *_: SERVFAIL
        dns.names["empty.test"] = lambda *_: []
        dns.names["silent.test"] = lambda *_: None
        with contextlib.closing(Holdoff(os.environ[INSIDE])) as holdoff:
            for name in ["missing.test", "broken.test", "empty.test"]:
                for answer in holdoff.both(name, 8080):
                    self.refused(answer, 502, "dns", "dns")
        for answer in self.holdoff('[upstream]\ndns_timeout = "300ms"\n').both("silent.test", 8080):
            self.refused(answer, 504, "dns_timeout", "dns")

    def test_a_failure_is_not_remembered(self):
        self.host(PUBLIC)
        for name, failure in [("missing.test", NXDOMAIN), ("broken.test", SERVFAIL)]:
            dns.names[name] = lambda kind, nth, failure=failure: (
                failure if nth == 1 else addresses(PUBLIC)(kind, nth)
            )
        holdoff = self.holdoff()
        for name in ["missing.test", "broken.test"]:
            self.refused(holdoff.get(f"http://{name}:8080/"), 502, "dns", "dns")
            self.served(holdoff.get(f"http://{name}:8080/"), PUBLIC)

    def test_the_search_list_is_the_resolvers_and_the_check_holds_behind_it(self):
        etc.resolver("search corp.test")
        metadata = self.host(METADATA)
        self.host(PRIVATE)
        dns.names["peer.corp.test"] = addresses(PRIVATE)
        dns.names["meta.corp.test"] = addresses(METADATA)
        holdoff = self.holdoff()
        for host in ["peer", "peer."]:
            for answer in holdoff.both(host, 8080):
                self.served(answer, PRIVATE)
        for answer in holdoff.both("meta", 8080):
            self.refused(answer)
        # A whole name is itself first; it is never looked for elsewhere when it exists.
        dns.names["peer.test"] = addresses(PRIVATE)
        self.served(holdoff.get("http://peer.test:8080/"), PRIVATE)
        self.assertEqual((dns.look_ups("peer.test"), dns.look_ups("peer.test.corp.test")), (1, 0))
        self.assertEqual(metadata.connections, 0)

    def test_rules_on_names(self):
        private = self.host(PRIVATE)
        for name in ["a.allowed.test", "metadata.allowed.test", "denied.test", "allowed.test", "xallowed.test"]:
            dns.names[name] = addresses(METADATA if name.startswith("metadata") else PRIVATE)
        holdoff = self.holdoff(STRICT + 'allow = ["*.allowed.test"]\ndeny = ["bad.allowed.test"]\n')
        for answer in holdoff.both("A.Allowed.test.", 8080):
            self.served(answer, PRIVATE)
        for answer in holdoff.both("metadata.allowed.test", 8080):
            self.refused(answer)
        for name in ["denied.test", "allowed.test", "xallowed.test", "a.allowed.test.other.test", "bad.allowed.test"]:
            for answer in holdoff.both(name, 8080):
                self.refused(answer)
            self.assertEqual(dns.look_ups(name), 0, f"{name}: a name that no rule lets through is not looked up")
        self.assertEqual(private.connections, 2)


class TwoFamilies(Case):
    """IPv6 and IPv4, one of them dead."""

    def quick(self, ask, address):
        started = time.monotonic()
        self.served(ask(), address)
        # One silent address alone is waited for much longer.
        self.assertLess(time.monotonic() - started, 5.0)

    def test_a_silent_family_does_not_hold_up_the_other(self):
        for silent, alive in [(PUBLIC_V6, PUBLIC), (PUBLIC, PUBLIC_V6)]:
            dead, good = Host(silent, 8080, silent=True), Host(alive, 8080)
            name = "v6.test" if silent == PUBLIC else "v4.test"
            dns.names[name] = addresses(PUBLIC, PUBLIC_V6)
            with contextlib.closing(dead), contextlib.closing(good):
                holdoff = Holdoff(os.environ[INSIDE])
                with contextlib.closing(holdoff):
                    self.quick(lambda: holdoff.get(f"http://{name}:8080/"), alive)
                    self.quick(lambda: holdoff.connect(f"{name}:8080"), alive)

    def test_a_refusing_family_does_not_hold_up_the_other(self):
        dns.names["peer.test"] = addresses(PUBLIC, PUBLIC_V6)
        holdoff = self.holdoff()
        for alive in [PUBLIC, PUBLIC_V6]:
            with contextlib.closing(Host(alive, 8080)):
                for answer in holdoff.both("peer.test", 8080):
                    self.served(answer, alive)

    def test_both_dead(self):
        dns.names["peer.test"] = addresses(PUBLIC, PUBLIC_V6)
        for answer in self.holdoff().both("peer.test", 8080):
            self.refused(answer, 502, "connect_refused", "connect")


class Redirects(Case):
    def test_a_redirect_goes_to_the_client_and_is_checked_when_it_comes_back(self):
        metadata = self.host(METADATA)
        dns.names["metadata.test"] = addresses(METADATA)
        dns.names["peer.test"] = addresses(PUBLIC)
        for port, location in [(8081, f"http://{METADATA}:8080/"), (8082, "http://metadata.test:8080/")]:
            self.host(PUBLIC, port, location=location)
            holdoff = Holdoff(os.environ[INSIDE])
            with contextlib.closing(holdoff):
                answer = holdoff.get(f"http://peer.test:{port}/")
                self.assertEqual((answer.status, answer.location), (302, location))
                self.refused(holdoff.get(answer.location))
        self.assertEqual(metadata.connections, 0)


if __name__ == "__main__":
    if INSIDE not in os.environ:
        enter()
    etc = set_up()
    dns = Dns()
    unittest.main()
