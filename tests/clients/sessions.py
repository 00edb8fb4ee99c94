"""One way to ask for all clients: `get`, `put`, `stream`, `send`, `many`.

A `Session` is one client over one transport. What a client cannot do raises `Cannot`; what went wrong on the wire is no
exception but an `Answer` with `error`, in the client's own words.
"""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import queue
import re
import subprocess
import sys
import tempfile
import threading

HERE = pathlib.Path(__file__).resolve().parent
DEADLINE = 40  # seconds for any one order


class Cannot(Exception):
    """The client has no way to do this."""


@dataclasses.dataclass
class Answer:
    status: int = 0
    fields: dict = dataclasses.field(default_factory=dict)
    sha256: str = ""
    size: int = 0
    error: str = ""


def parse_fields(lines):
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {name.strip().lower(): value.strip() for name, value in pairs}


class Program:
    """A client that is a program of ours around a library: it lives as long as the session, see lines.py."""

    # The client's own error when the proxy refuses a tunnel with 429.
    refused = r"429"
    # How many it may open for requests one after the other.
    connections = 1

    def __init__(self, environment, command):
        self.wrong = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            command,
            cwd=HERE,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.wrong,
            text=True,
            bufsize=1,
        )
        self.lines = queue.Queue()
        threading.Thread(target=self.pump, daemon=True).start()

    def pump(self):
        for line in self.process.stdout:
            self.lines.put(line.rstrip("\n"))
        self.lines.put(None)

    def close(self):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.wrong.close()

    def order(self, *words):
        self.process.stdin.write("\t".join(map(str, words)) + "\n")
        self.process.stdin.flush()

    def line(self):
        try:
            line = self.lines.get(timeout=DEADLINE)
        except queue.Empty:
            raise AssertionError(f"no word from the client in {DEADLINE} s") from None
        if line is None:
            self.wrong.seek(0)
            raise AssertionError(f"the client ended with {self.process.wait()}: {self.wrong.read()[-2000:]}")
        return line.split("\t")

    def answer(self):
        kind, *words = self.line()
        if kind == "error":
            return Answer(error=words[0])
        assert kind == "answer", f"unexpected {kind} {words}"
        return Answer(int(words[0]), parse_fields(words[3:]), words[1], int(words[2]))

    def get(self, url, raw=False):
        self.order("raw" if raw else "get", url)
        return self.answer()

    def many(self, urls):
        return [self.get(url) for url in urls]

    def put(self, url, path, chunked=False):
        self.order("chunked" if chunked else "put", url, path)
        return self.answer()

    def stream(self, url):
        """Yields the pieces as they arrive, then the answer."""
        self.order("stream", url)
        while True:
            kind, *words = self.line()
            if kind == "piece":
                yield words[0]
            elif kind == "error":
                raise AssertionError(words[0])
            else:
                return

    def send(self, url, pieces):
        self.order("send", url)
        for piece in pieces:
            self.order("piece", piece)
        self.order("end")
        return self.answer()


class Command:
    """A client that is a command: one process an order."""

    connections = 1

    def __init__(self, environment):
        self.environment = environment

    def close(self):
        pass

    def start(self, command, **options):
        return subprocess.Popen(
            command,
            env=self.environment,
            stdin=options.pop("stdin", subprocess.DEVNULL),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,
        )

    def run(self, command, **options):
        """The exit code, the output's sum and size, and the messages."""
        process = self.start(command, **options)
        messages = []
        reader = threading.Thread(target=lambda: messages.append(process.stderr.read().decode(errors="replace")))
        reader.start()
        alarm = threading.Timer(DEADLINE, process.kill)
        alarm.start()
        digest, size = hashlib.sha256(), 0
        while block := process.stdout.read1(1 << 16):
            digest.update(block)
            size += len(block)
        code = process.wait()
        alarm.cancel()
        reader.join()
        process.stdout.close()
        process.stderr.close()
        return code, digest.hexdigest(), size, messages[0]

    def pieces(self, command):
        process = self.start(command)
        alarm = threading.Timer(DEADLINE, process.kill)
        alarm.start()
        try:
            for line in process.stdout:
                yield line.decode().rstrip("\n")
            said = process.stderr.read().decode()
            code = process.wait()
            assert code == 0, f"ended with {code}: {said}"
        finally:
            alarm.cancel()
            process.kill()
            process.wait()
            process.stdout.close()
            process.stderr.close()


class Curl(Command):
    refused = r"curl: \(56\).*429"
    # The heads go to a file of their own; what a tunnel's CONNECT was answered is none of the answer's.
    base = ["curl", "-sSL", "--suppress-connect-headers", "-m", str(DEADLINE), "-D"]

    def head(self, text):
        """The last head in the text."""
        heads = re.split(r"\r?\n\r?\n", text.strip())
        lines = heads[-1].splitlines()
        return int(lines[0].split()[1]), parse_fields(lines[1:])

    def ask(self, *more):
        with tempfile.NamedTemporaryFile("r") as heads:
            code, sha256, size, said = self.run([*self.base, heads.name, *more])
            text = heads.read()
        if code != 0:
            return Answer(error=said.strip())
        return Answer(*self.head(text), sha256, size)

    def get(self, url, raw=False):
        return self.ask(*([] if raw else ["--compressed"]), url)

    def many(self, urls):
        with tempfile.NamedTemporaryFile("r") as heads:
            outputs = [word for url in urls for word in ("-o", os.devnull, url)]
            code, _, _, said = self.run([*self.base, heads.name, *outputs])
            assert code == 0, said
            return [Answer(*self.head(text)) for text in re.split(r"\r?\n\r?\n", heads.read().strip())]

    def put(self, url, path, chunked=False):
        return self.ask(*(["-H", "Transfer-Encoding: chunked"] if chunked else []), "-T", str(path), url)

    def stream(self, url):
        return self.pieces(["curl", "-sSN", "-m", str(DEADLINE), url])

    def send(self, url, pieces):
        process = self.start(["curl", "-sS", "-m", str(DEADLINE), "-w", "%{http_code}", "-T", "-", url], stdin=subprocess.PIPE)
        for piece in pieces:
            process.stdin.write(f"{piece}\n".encode())
            process.stdin.flush()
        said, wrong = process.communicate(timeout=DEADLINE)
        return Answer(int(said[-3:]), error=wrong.decode())


class Wget(Command):
    refused = r"Proxy tunneling failed: Too Many Requests"

    def __init__(self, environment):
        super().__init__(environment)
        # Built with GnuTLS it knows no environment variable for the CA.
        self.command = ["wget", "--ca-certificate", environment["SSL_CERT_FILE"], "--tries=1", f"--timeout={DEADLINE}"]
        self.base = [*self.command, "-S", "-nv", "--content-on-error", "-O"]

    def heads(self, said):
        found = []
        for line in said.splitlines():
            if begun := re.match(r"\s+HTTP/1\.1 (\d+)", line):
                found.append((int(begun[1]), {}))
            elif found and (field := re.match(r"\s+([\w-]+): (.*)", line)):
                found[-1][1][field[1].lower()] = field[2]
        return found

    def ask(self, *more):
        code, sha256, size, said = self.run([*self.base, "-", *more])
        heads = self.heads(said)
        if not heads or code not in (0, 8) or (code == 8 and heads[-1][0] < 400):
            return Answer(error=f"{code}: {said}")
        return Answer(*heads[-1], sha256, size)

    def get(self, url, raw=False):
        return self.ask(*([] if raw else ["--compression=auto"]), url)

    def many(self, urls):
        *_, said = self.run([*self.base, "-", *urls])
        return [Answer(*each) for each in self.heads(said)]

    def put(self, url, path, chunked=False):
        if chunked:
            raise Cannot("wget sends no chunked body")
        return self.ask("--method=PUT", f"--body-file={path}", url)

    def stream(self, url):
        return self.pieces([*self.command, "-q", "-O", "-", url])

    def send(self, url, pieces):
        raise Cannot("wget sends files only")


class Git(Command):
    """git asks for repositories, not for documents: it has cases of its own."""

    refused = r"CONNECT tunnel failed, response 429"
    plain = ["-c", "core.compression=0", "-c", "core.bigFileThreshold=1m", "-c", "user.name=x", "-c", "user.email=x@x"]

    def ask(self, *words):
        """What it printed on success, else its own error."""
        process = self.start(["git", *self.plain, *map(str, words)])
        try:
            said, wrong = process.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        return Answer(200 if process.returncode == 0 else 0, error=wrong.decode(), fields={"said": said.decode()})


class Java(Program):
    """The JDK says that a body has ended a moment before its connection can be used again."""

    connections = 2

    def __init__(self, environment):
        super().__init__(environment, ["java", "-XX:TieredStopAtLevel=1", str(HERE / "Client.java")])


def python(name):
    return lambda environment: Program(environment, [sys.executable, str(HERE / f"with_{name}.py")])


CLIENTS = {
    "curl": Curl,
    "wget": Wget,
    "requests": python("requests"),
    "urllib3": python("urllib3"),
    "httpx": python("httpx"),
    "aiohttp": python("aiohttp"),
    "fetch": lambda environment: Program(environment, ["node", str(HERE / "fetch.mjs")]),
    "node http": lambda environment: Program(environment, ["node", str(HERE / "node_http.mjs")]),
    "git": Git,
    "java": Java,
}
