"""Clients we did not write, through the proxy, with http, inside CONNECT and with TLS that ends at holdoff: every case of the table for every client.

The cases (here) know neither the client nor the transport; `clients/sessions.py` knows the clients, `clients/origin.py`
the peers. `tests/run` runs this; by hand, after `cargo build`:

    .venv/bin/python3 tests/clients.py             everything
    .venv/bin/python3 tests/clients.py curl java   these clients only
"""

import concurrent.futures
import contextlib
import os
import pathlib
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.error
import urllib.request

import trustme

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/clients"))

from origin import PACKED, PIECES, RETRY_AFTER, TEXT, Origin, blob, sha256  # noqa: E402
from sessions import CLIENTS, Answer, Cannot, Git  # noqa: E402

BINARY = os.environ.get("HOLDOFF_BIN", str(ROOT / "target/debug/holdoff"))
SIZE = 64 << 20
GIT_SIZE = 8 << 20
REFUSED_SIZE = 16 << 20
MOST_GROWTH = 16 << 20
DEADLINE = 20.0
AT_ONCE = 6  # rows; each sleeps through its cooldown

CLEAN = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("HOLDOFF_", "GIT_")) and not name.lower().endswith("_proxy")
}


# The cases. `session` is one client over one transport, `peers` the origins that are its own.


def answers(session, peers):
    """204 without a body, 404 and 500 with theirs, a redirect followed."""
    got = session.get(f"{peers.plain.url}/status?code=204")
    assert (got.status, got.size) == (204, 0), got
    for code in (404, 500):
        got = session.get(f"{peers.plain.url}/status?code={code}")
        assert (got.status, got.sha256) == (code, sha256([b"the answer is %d\n" % code])), got


def redirect(session, peers):
    before = peers.plain.count("/status")
    got = session.get(f"{peers.plain.url}/redirect")
    assert (got.status, got.sha256) == (200, sha256([b"the answer is 200\n"])), got
    assert peers.plain.count("/status") == before + 1


def gzip(session, peers):
    """The client decodes what it gets; what it gets are the origin's bytes."""
    got = session.get(f"{peers.plain.url}/gzip")
    assert (got.status, got.sha256) == (200, sha256([TEXT])), got
    got = session.get(f"{peers.plain.url}/gzip", raw=True)
    assert (got.status, got.sha256) == (200, sha256([PACKED])), got


def download(session, peers):
    got = session.get(f"{peers.plain.url}/blob?size={SIZE}")
    assert (got.status, got.size, got.sha256) == (200, SIZE, peers.sum), got
    return SIZE


def download_chunked(session, peers):
    got = session.get(f"{peers.plain.url}/chunked?size={SIZE}")
    assert (got.status, got.size, got.sha256) == (200, SIZE, peers.sum), got
    return SIZE


def upload(session, peers):
    got = session.put(f"{peers.plain.url}/store", peers.file)
    assert (got.status, got.fields.get("x-sha256"), got.fields.get("x-framing")) == (200, peers.sum, "length"), got
    return SIZE


def upload_chunked(session, peers):
    got = session.put(f"{peers.plain.url}/store", peers.file, chunked=True)
    assert (got.status, got.fields.get("x-sha256"), got.fields.get("x-framing")) == (200, peers.sum, "chunked"), got
    return SIZE


def stream(session, peers):
    """The next piece is sent only when the last has arrived."""
    peers.plain.release.release()
    arrived = []
    for piece in session.stream(f"{peers.plain.url}/stream"):
        arrived.append(piece)
        peers.plain.release.release()
    assert arrived == PIECES, arrived


def stream_up(session, peers):
    """The next piece is written only when the last has arrived."""

    def paced():
        for piece in PIECES:
            yield piece
            arrived = peers.plain.received.get(timeout=DEADLINE)
            assert arrived == piece, arrived

    got = session.send(f"{peers.plain.url}/collect", paced())
    assert got.status == 200, got


def cooldown(session, peers):
    """429 first from the peer, then from us, with a wait that shrinks; then the peer again. The peer is asked twice."""
    began, waits, url = time.monotonic(), [], f"{peers.limited.url}/limited"
    peers.begin_cooldown(lambda: session.get(url))
    while (got := session.get(url)).status != 200:
        assert time.monotonic() - began < DEADLINE, got
        waits.append(peers.wait_of(session, got))
        time.sleep(0.2)
    assert time.monotonic() - began >= RETRY_AFTER, waits
    assert len(waits) >= 2, waits
    if waits[0] is not None:
        assert waits == sorted(waits, reverse=True) and waits[-1] < waits[0] <= RETRY_AFTER, waits
    assert peers.limited.count("/limited") == 2, peers.limited.requests


def cooldown_upload(session, peers):
    """Refused while it is on its way: the client reads the answer, even if it does so only behind its last byte."""
    peers.learn(peers.frozen)
    for path in peers.small, peers.medium:
        got = session.put(f"{peers.frozen.url}/store", path)
        peers.wait_of(session, got)
    assert peers.frozen.requests == ["/limited"], peers.frozen.requests


def keep_alive(session, peers):
    """One connection carries every kind of answer."""
    paths = ["/blob?size=70000", "/status?code=204", "/status?code=404", "/status?code=500", "/gzip"]
    urls = [peers.plain.url + path for path in [*paths, "/chunked?size=70000", *paths]]
    before = peers.holdoff.connections()
    got = session.many(urls)
    assert [each.status for each in got] == [200, 204, 404, 500, 200, 200, 200, 204, 404, 500, 200], got
    used = {int(each.fields["x-connection"]) for each in got}
    assert max(used) <= session.connections, used
    assert 1 <= peers.holdoff.connections() - before <= session.connections, peers.holdoff.connections() - before


def cooldown_keep_alive(session, peers):
    """A 429 of ours leaves the connection as usable as any answer."""
    if not peers.visible:
        raise Cannot("a refused tunnel has no connection to keep")
    before = peers.holdoff.connections()
    got = session.many([f"{peers.brief.url}/limited"] * 4)
    assert [each.status for each in got] == [429] * 4, got
    assert ["holdoff" in each.fields for each in got] == [False, True, True, True], got
    assert peers.holdoff.connections() - before <= session.connections, peers.holdoff.connections() - before


ALONE = [keep_alive, cooldown_keep_alive]  # connections are counted: nobody else may make any
CASES = [
    answers,
    redirect,
    gzip,
    download,
    download_chunked,
    upload,
    upload_chunked,
    stream,
    stream_up,
    cooldown,
    cooldown_upload,
]


# git's own.


def git_answers(git, peers):
    got = git.ask("ls-remote", f"{peers.plain.url}/git/missing.git")
    assert "not found" in got.error, got
    got = git.ask("ls-remote", f"{peers.plain.url}/git/broken.git")
    assert "500" in got.error, got


def git_clone(git, peers, path="git"):
    """What arrives is checked by git itself, object by object."""
    folder = tempfile.mkdtemp(dir=peers.folder)
    got = git.ask("clone", "-q", f"{peers.plain.url}/{path}/repository.git", folder)
    assert got.status, got
    assert git.ask("-C", folder, "fsck", "--full", "--strict").status
    assert git.ask("-C", folder, "rev-parse", "HEAD").fields["said"] == peers.head


def git_redirect(git, peers):
    git_clone(git, peers, "old")


def git_gzip(git, peers):
    """git packs what it asks for when it wants many branches."""
    before = peers.plain.packed
    git_clone(git, peers)
    assert peers.plain.packed == before + 1, peers.plain.packed


def git_download(git, peers):
    git_clone(git, peers)
    return GIT_SIZE


def git_push(git, peers, buffer):
    """A large file goes up and is found in the repository there."""
    folder = tempfile.mkdtemp(dir=peers.folder)
    assert git.ask("clone", "-q", "--shared", peers.folder / "work", folder).status
    pathlib.Path(folder, "more").write_bytes(os.urandom(GIT_SIZE))
    branch = f"pushed-{id(peers)}-{buffer}"
    for words in (["checkout", "-q", "-b", branch], ["add", "more"], ["commit", "-q", "-m", "more"]):
        assert git.ask("-C", folder, *words).status
    got = git.ask("-C", folder, "-c", f"http.postBuffer={buffer}", "push", "-q", f"{peers.plain.url}/git/repository.git", branch)
    assert got.status, got
    here = git.ask("-C", folder, "rev-parse", branch).fields["said"]
    there = git.ask("-C", peers.folder / "repository.git", "rev-parse", branch).fields["said"]
    assert here == there != "", (here, there)
    return GIT_SIZE


def git_upload(git, peers):
    return git_push(git, peers, 4 * GIT_SIZE)


def git_upload_chunked(git, peers):
    return git_push(git, peers, 1 << 20)


def git_keep_alive(git, peers):
    before = peers.holdoff.connections()
    git_clone(git, peers)
    assert peers.plain.connections == 1, peers.plain.connections
    assert peers.holdoff.connections() - before == 1


def git_cooldown(git, peers):
    def look():
        return git.ask("ls-remote", f"{peers.limited.url}/git/limited.git", "HEAD")

    def first():
        got = look()
        assert "error: 429" in got.error, got
        return Answer(429, {"retry-after": str(RETRY_AFTER)})

    began, refusals = time.monotonic(), 0
    peers.begin_cooldown(first)
    while not (got := look()).status:
        assert time.monotonic() - began < DEADLINE, got
        assert re.search(peers.git_refusal(git), got.error), got
        refusals += 1
        time.sleep(0.2)
    assert refusals and time.monotonic() - began >= RETRY_AFTER, refusals
    assert got.fields["said"].split()[0] == peers.head.strip()


def git_cooldown_upload(git, peers):
    peers.learn(peers.frozen)
    got = git.ask("-C", peers.folder / "work", "push", f"{peers.frozen.url}/git/repository.git", "HEAD:refs/heads/refused")
    assert re.search(peers.git_refusal(git), got.error), got


OWN_CASES = {
    "git": {
        answers: git_answers,
        redirect: git_redirect,
        gzip: git_gzip,
        download: git_download,
        upload: git_upload,
        upload_chunked: git_upload_chunked,
        keep_alive: git_keep_alive,
        cooldown: git_cooldown,
        cooldown_upload: git_cooldown_upload,
    }
}


# The transports.


class Peers:
    """http: absolute-form requests, whose answers holdoff sees. The origins are one row's own."""

    visible = True
    transport = "http"

    def __init__(self, stack, shared):
        self.shared, self.holdoff = shared, None
        self.sum, self.file, self.medium, self.small = shared.sum, shared.file, shared.medium, shared.small
        self.folder, self.head = shared.folder, shared.head
        tls = self.tls()
        self.plain = stack.enter_context(Origin(tls, str(shared.folder)))
        self.limited = stack.enter_context(Origin(tls, str(shared.folder)))
        self.frozen = stack.enter_context(Origin(tls, retry_after=600))
        self.brief = stack.enter_context(Origin(tls, retry_after=600))

    def tls(self):
        return None

    def config(self, holdoff):
        """What the configuration needs for this row."""
        return []

    def intercepted(self):
        """The hosts whose TLS ends at holdoff."""
        return []

    def ca(self):
        """Whom the client trusts."""
        return self.shared.ca

    def learn(self, origin):
        """holdoff sees the origin's 429, from somebody else."""
        got = self.holdoff.raw_get(f"{origin.url}/limited")
        assert got == 429, got

    def begin_cooldown(self, ask):
        """The client itself sees the origin's 429, as the origin sent it."""
        got = ask()
        assert (got.status, got.fields.get("retry-after")) == (429, str(RETRY_AFTER)), got
        assert "holdoff" not in got.fields, got

    def wait_of(self, session, got):
        """The wait that a refusal of ours names, as far as the client shows it."""
        assert got.status == 429, got
        assert got.fields.get("holdoff", "").startswith("short-circuit; reason=rate_limited;"), got
        return int(got.fields["retry-after"])

    def git_refusal(self, git):
        return r"error: 429"


class Tunnelled(Peers):
    """https inside CONNECT: what we know of the peer we learned elsewhere, from a `[[reverse]]` route to it."""

    visible = False
    transport = "connect"

    def tls(self):
        return self.shared.tls

    def config(self, holdoff):
        lines = []
        for each in self.limited, self.frozen:
            lines += ["[[reverse]]", f'address = ["{holdoff.reverse}"]', f'path = "/{each.port}"']
            lines += [f'upstream = "{each.url}"']
        return lines

    def learn(self, origin):
        got = status(f"http://{self.holdoff.reverse}/{origin.port}/limited")
        assert got == 429, got

    def begin_cooldown(self, ask):
        self.learn(self.limited)

    def wait_of(self, session, got):
        assert not got.status and re.search(session.refused, got.error, re.DOTALL), got
        named = re.search(r"retry-after (\d+)", got.error)
        return int(named[1]) if named else None

    def git_refusal(self, git):
        return git.refused


class Intercepted(Tunnelled):
    """https whose TLS ends at holdoff: it sees all answers, and the client trusts nobody but holdoff's authority."""

    visible = True
    transport = "inside"
    begin_cooldown = Peers.begin_cooldown

    def config(self, holdoff):
        return []

    def intercepted(self):
        return [f"localhost:{each.port}" for each in (self.plain, self.limited, self.frozen, self.brief)]

    def ca(self):
        return self.holdoff.exported

    def learn(self, origin):
        proxy = urllib.request.ProxyHandler({"https": self.holdoff.proxy})
        tls = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=self.ca()))
        got = status_by(urllib.request.build_opener(proxy, tls), f"{origin.url}/limited")
        assert got == 429, got

    def wait_of(self, session, got):
        """A session that is open is answered inside, a new one at its CONNECT."""
        return (Peers if got.status else Tunnelled).wait_of(self, session, got)


TRANSPORTS = [Peers, Tunnelled, Intercepted]


# What runs around them.


def opener(proxy=None):
    return urllib.request.build_opener(urllib.request.ProxyHandler({"http": proxy} if proxy else {}))


def opened(url):
    return opener().open(url, timeout=DEADLINE)


def status(url, proxy=None):
    return status_by(opener(proxy), url)


def status_by(opener, url):
    try:
        with opener.open(url, timeout=DEADLINE) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Shared:
    """What all rows have in common: the CA, the files to send, the repository to clone."""

    def __init__(self, folder):
        self.folder = folder
        authority = trustme.CA()
        self.ca = folder / "ca.pem"
        authority.cert_pem.write_to_path(self.ca)
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(self.tls)
        self.sum = sha256(blob(SIZE))
        self.file, self.medium, self.small = folder / "large", folder / "medium", folder / "small"
        for path, size in (self.file, SIZE), (self.medium, REFUSED_SIZE):
            with open(path, "wb") as file:
                file.writelines(blob(size))
        self.small.write_bytes(b"x" * 5000)
        self.head = self.repository()

    def repository(self):
        """One large file and many branches."""
        git = Git({**CLEAN, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull})
        work, bare = self.folder / "work", self.folder / "repository.git"

        def run(*words):
            got = git.ask(*words)
            assert got.status, got
            return got.fields["said"]

        run("init", "-q", "-b", "main", work)
        (work / "large").write_bytes(b"".join(blob(GIT_SIZE)))
        run("-C", work, "add", "large")
        for n in range(40):
            run("-C", work, "commit", "-q", "--allow-empty", "-m", f"change {n}")
            run("-C", work, "branch", f"branch-{n}")
        run("clone", "-q", "--bare", work, bare)
        settings = {"http.receivepack": "true", "receive.unpackLimit": "1", "core.compression": "0"}
        for name, value in settings.items():
            run("-C", bare, "config", name, value)
        return run("-C", bare, "rev-parse", "HEAD")


class Holdoff:
    """The sidecar; killed at the end whatever happens."""

    def __init__(self, shared, rows):
        ports = free_ports(3)
        address, self.admin, self.reverse = (f"127.0.0.1:{port}" for port in ports)
        self.proxy = f"http://{address}"
        config = shared.folder / "holdoff.toml"
        lines = [
            "[listen]",
            f'address = ["{address}"]',
            "[admin]",
            f'address = ["{self.admin}"]',
            "[upstream]",
            "platform_roots = false",
            f'ca_files = ["{shared.ca}"]',
            # Nothing is drawn, and nothing holds back after a cooldown: what is seen is what the peer asked for.
            "[defaults.cooldown]",
            "hint_jitter = false",
            'ramp = "0s"',
        ]
        intercepted = [host for peers in rows for host in peers.intercepted()]
        if intercepted:
            lines += ["[intercept]", f"hosts = {intercepted}", f'ca_dir = "{shared.folder}/authority"']
        for peers in rows:
            lines += peers.config(self)
            peers.holdoff = self
        config.write_text("\n".join(lines) + "\n")
        self.log = open(shared.folder / "holdoff.log", "w+")
        self.process = subprocess.Popen(
            [BINARY, "run", "--config", str(config)],
            env={**CLEAN, "XDG_STATE_HOME": str(shared.folder / "state")},
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
        )
        end = time.monotonic() + DEADLINE
        while not self.is_ready():
            if time.monotonic() > end or self.process.poll() is not None:
                raise AssertionError(f"holdoff is not ready:\n{self.said()}")
            time.sleep(0.02)
        if intercepted:
            self.exported = shared.folder / "exported.pem"
            words = ["ca", "export", "--config", config, "--out", self.exported]
            subprocess.run([BINARY, *words], env=CLEAN, check=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.log.close()

    def is_ready(self):
        try:
            return status(f"http://{self.admin}/readyz") == 200
        except OSError:
            return False

    def said(self):
        self.log.seek(0)
        return self.log.read()

    def raw_get(self, url):
        return status(url, self.proxy)

    def connections(self):
        """Connections clients have opened to the proxy, ever."""
        with opened(f"http://{self.admin}/metrics") as answer:
            text = answer.read().decode()
        return int(re.search(r'^holdoff_connections_total\{listener="proxy"\} (\d+)', text, re.MULTILINE)[1])

    def memory(self, name):
        """`VmRSS` (now) or `VmHWM` (the most since `forget_peak`), in bytes."""
        text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)[1]) * 1024

    def forget_peak(self):
        pathlib.Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")


class Row:
    """One client over one transport, and what became of each case."""

    def __init__(self, name, peers):
        self.name, self.peers = name, peers
        self.results, self.failures, self.passed = {}, [], 0
        self.session = None

    def start(self, holdoff, shared):
        environment = {
            **CLEAN,
            "http_proxy": holdoff.proxy,
            "https_proxy": holdoff.proxy,
            "no_proxy": "",
            "LC_ALL": "C.UTF-8",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
            "GIT_TERMINAL_PROMPT": "0",
            "HOME": str(shared.folder),
        }
        for name in ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS"):
            environment[name] = str(self.peers.ca())
        self.session = CLIENTS[self.name](environment)

    def run(self, case):
        began = time.monotonic()
        try:
            own = OWN_CASES.get(self.name)
            act = case if own is None else own.get(case)
            if act is None:
                raise Cannot("not what this client does")
            self.passed += act(self.session, self.peers) or 0
            self.results[case] = f"{time.monotonic() - began:.1f}"
        except Cannot:
            self.results[case] = "-"
        except Exception:
            self.results[case] = "FAIL"
            self.failures.append((case.__name__, traceback.format_exc(limit=-2)))

    def run_all(self):
        for case in CASES:
            self.run(case)


def table(rows):
    """One line a client and transport, one column a case: seconds, `-` for what the client cannot do, or FAIL."""
    cases = ALONE + CASES
    names = [each.__name__.replace("cooldown", "cd").replace("download", "get").replace("upload", "put") for each in cases]
    print(f"{'':18}" + " ".join(f"{name[:14]:>{max(4, len(name[:14]))}}" for name in names))
    for row in rows:
        cells = (f"{row.results.get(case, '?'):>{max(4, len(name[:14]))}}" for case, name in zip(cases, names))
        print(f"{row.name:9} {row.peers.transport:8}" + " ".join(cells))


def main(wanted):
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        shared = Shared(folder)
        rows = [
            Row(name, transport(stack, shared))
            for transport in TRANSPORTS
            for name in CLIENTS
            if not wanted or name in wanted
        ]
        holdoff = stack.enter_context(Holdoff(shared, [row.peers for row in rows]))
        for row in rows:
            row.start(holdoff, shared)
            stack.callback(row.session.close)
        for row in rows:
            for case in ALONE:
                row.run(case)
        holdoff.forget_peak()
        before = holdoff.memory("VmRSS")
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(Row.run_all, rows))
        growth, passed = holdoff.memory("VmHWM") - before, sum(row.passed for row in rows)
        table(rows)
        print(
            f"{passed / 2**30:.1f} GiB passed; holdoff had {before / 2**20:.1f} MiB, "
            f"at most {growth / 2**20:.1f} MiB more meanwhile; {time.monotonic() - began:.0f} s"
        )
        failures = [(row, *failure) for row in rows for failure in row.failures]
        for row, case, text in failures:
            print(f"\nFAIL {row.name} over {row.peers.transport}: {case}\n{text}")
        if holdoff.process.poll() is not None:
            failures.append(holdoff.process.returncode)
            print(f"holdoff ended with {holdoff.process.returncode}")
        if growth > MOST_GROWTH:
            failures.append(growth)
            print(f"expected at most {MOST_GROWTH / 2**20:.0f} MiB more")
        if failures:
            print(f"\nholdoff said:\n{holdoff.said()[-8000:]}")
        return 1 if failures else 0


if __name__ == "__main__":
    unknown = set(sys.argv[1:]) - set(CLIENTS)
    if unknown:
        sys.exit(f"expected some of {', '.join(CLIENTS)}, found {', '.join(unknown)}")
    sys.exit(main(sys.argv[1:]))
