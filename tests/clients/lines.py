"""What the Python programs share: orders come in as lines, answers go out as lines, fields separated by tabs.

    get URL             follow redirects, decode the content coding
    raw URL             the bytes as they came
    put URL FILE        with Content-Length
    chunked URL FILE    without
    stream URL          each piece is passed on as it arrives
    send URL            the body is the `piece TEXT` lines that follow, up to `end`; each is sent as it comes

    piece TEXT
    answer STATUS SHA256 BYTES NAME:VALUE …
    error TEXT
"""

import hashlib
import sys


def orders():
    """The orders as lists of words."""
    for line in iter(sys.stdin.readline, ""):
        yield line.rstrip("\n").split("\t")


def pieces():
    """The body of `send`, as it comes in."""
    for order in orders():
        if order[0] == "end":
            return
        yield f"{order[1]}\n".encode()


def read(path):
    """The body of `chunked`."""
    with open(path, "rb") as file:
        while block := file.read(1 << 16):
            yield block


def say(*words):
    print(*words, sep="\t", flush=True)


def answer(status, fields, digest, size):
    say("answer", status, digest.hexdigest(), size, *(f"{name}:{value}" for name, value in fields))


def failed(error):
    text = " ".join(f"{type(error).__module__}.{type(error).__name__}: {error}".split())
    say("error", text[:1000])


class Sink:
    """A body as it comes in: counted and summed up, or passed on."""

    def __init__(self, passes_on):
        self.passes_on = passes_on
        self.digest = hashlib.sha256()
        self.size = 0

    def take(self, block):
        self.digest.update(block)
        self.size += len(block)
        if self.passes_on:
            for line in block.decode().splitlines():
                say("piece", line)


def serve(perform):
    """Carries out every order by `perform(kind, url, body, sink)`, which returns the status and the fields."""
    for kind, url, *path in orders():
        sink = Sink(kind == "stream")
        try:
            if kind == "put":
                with open(path[0], "rb") as body:
                    status, fields = perform(kind, url, body, sink)
            else:
                body = {"chunked": lambda: read(path[0]), "send": pieces}.get(kind, lambda: None)()
                status, fields = perform(kind, url, body, sink)
            answer(status, fields, sink.digest, sink.size)
        except Exception as error:
            failed(error)
