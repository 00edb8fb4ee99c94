"""The peers the clients ask: HTTP/1.1 out of the standard library, with or without TLS, one port each."""

import gzip
import hashlib
import http.server
import os
import queue
import random
import subprocess
import tempfile
import threading
import urllib.parse

PATIENCE = 20  # seconds until the next step of a scripted exchange
IDLE = 150  # seconds a connection may be quiet: longer than any row of the table waits for its turn
PIECE = 1 << 20
PIECES = [f"piece {n}" for n in range(5)]
RETRY_AFTER = 3

_SEED = random.Random(7).randbytes(PIECE)
TEXT = b"".join(b"line %d of a text that packs well\n" % n for n in range(2000))
PACKED = gzip.compress(TEXT, mtime=0)


def blob(size):
    """`size` bytes in pieces, no two of them alike: a piece lost, doubled or moved changes the sum."""
    for n in range(0, size, PIECE):
        yield n.to_bytes(8, "big") + _SEED[8 : min(PIECE, size - n)]


def sha256(blocks):
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()


class Origin:
    """One peer. What it saw is counted here; `release` and `received` pace the streaming answers and requests."""

    def __init__(self, tls=None, repositories=None, retry_after=RETRY_AFTER):
        origin = self
        self.tls = tls
        self.repositories = repositories
        self.retry_after = retry_after
        self.connections = 0
        self.requests = []
        self.packed = 0  # bodies that came in gzip
        self.limits = 1  # how many times /limited says 429
        self.release = threading.Semaphore(0)
        self.received = queue.Queue()

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def finish_request(self, request, address):
                request.settimeout(IDLE)
                if tls is not None:
                    request = tls.wrap_socket(request, server_side=True)
                try:
                    Answers(request, address, self, origin)
                finally:
                    request.close()

            def handle_error(self, request, address):
                pass  # a client that goes away is noticed where it is missed

        self.server = Server(("127.0.0.1", 0), None)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        self.port = self.server.server_address[1]
        self.url = f"https://localhost:{self.port}" if tls else f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def count(self, path):
        return sum(each == path for each in self.requests)


class Answers(http.server.BaseHTTPRequestHandler):
    """What an origin answers, by path."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, request, address, server, origin):
        self.origin = origin
        origin.connections += 1
        self.number = origin.connections
        super().__init__(request, address, server)

    def log_message(self, *_):
        pass

    def handle_expect_100(self):
        self.send_response_only(100)
        self.end_headers()
        return True

    def do_GET(self):
        self.route("get")

    def do_PUT(self):
        self.route("put")

    def do_POST(self):
        self.route("post")

    def route(self, method):
        at = urllib.parse.urlsplit(self.path)
        self.origin.requests.append(at.path)
        self.query = dict(urllib.parse.parse_qsl(at.query))
        first = at.path.split("/")[1]
        if first == "git" or first == "old":
            self.git(at, first)
        else:
            getattr(self, f"{method}_{first}")()

    # Answers

    def head(self, status, **fields):
        self.send_response(status)
        self.send_header("X-Connection", str(self.number))
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def whole(self, status, body, **fields):
        self.head(status, Content_Length=str(len(body)), **fields)
        self.wfile.write(body)

    def chunks(self, blocks):
        for block in blocks:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block))
        self.wfile.write(b"0\r\n\r\n")

    def get_blob(self):
        size = int(self.query["size"])
        self.head(200, Content_Length=str(size))
        for block in blob(size):
            self.wfile.write(block)

    def get_chunked(self):
        self.head(200, Transfer_Encoding="chunked")
        self.chunks(blob(int(self.query["size"])))

    def get_status(self):
        status = int(self.query["code"])
        if status == 204:
            self.head(204)
        else:
            self.whole(status, b"the answer is %d\n" % status, Content_Type="text/plain")

    def get_redirect(self):
        scheme = "https" if self.origin.tls else "http"
        self.whole(302, b"moved", Location=f"{scheme}://{self.headers['Host']}/status?code=200")

    def get_gzip(self):
        self.whole(200, PACKED, Content_Encoding="gzip", Content_Type="text/plain")

    def get_stream(self):
        def paced():
            for piece in PIECES:
                if not self.origin.release.acquire(timeout=PATIENCE):
                    raise TimeoutError("nobody read the last piece")
                yield piece.encode() + b"\n"

        self.head(200, Transfer_Encoding="chunked", Content_Type="text/plain")
        self.chunks(paced())

    def get_limited(self):
        if self.origin.limits > 0:
            self.origin.limits -= 1
            self.whole(429, b"slow down\n", Retry_After=str(self.origin.retry_after), Content_Type="text/plain")
        else:
            self.whole(200, b"fine\n")

    # Requests with a body

    def body(self):
        """The body in blocks: whole chunks where there are chunks."""
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline().split(b";")[0], 16):
                left = size
                while left:
                    block = self.rfile.read(min(left, PIECE))
                    if not block:
                        raise ConnectionError("the body ended early")
                    left -= len(block)
                    yield block
                self.rfile.readline()
            while self.rfile.readline() not in (b"\r\n", b""):
                pass
        else:
            left = int(self.headers.get("Content-Length", 0))
            while left:
                block = self.rfile.read(min(left, PIECE))
                if not block:
                    raise ConnectionError("the body ended early")
                left -= len(block)
                yield block

    def put_store(self):
        framing = "chunked" if "Transfer-Encoding" in self.headers else "length"
        self.whole(200, b"stored", X_Sha256=sha256(self.body()), X_Framing=framing)

    def put_collect(self):
        for block in self.body():
            for line in block.decode().splitlines():
                self.origin.received.put(line)
        self.whole(200, b"collected")

    # git

    def git(self, at, first):
        if first == "old":
            self.body_is_over()
            return self.whole(301, b"", Location=f"{self.origin.url}/git{self.path.removeprefix('/old')}")
        if "/limited.git/" in at.path and self.origin.limits > 0:
            self.body_is_over()
            return self.get_limited()
        if "/broken.git/" in at.path:
            self.body_is_over()
            return self.whole(500, b"broken\n", Content_Type="text/plain")
        self.origin.packed += self.headers.get("Content-Encoding") == "gzip"
        environment = {
            **os.environ,
            "GIT_PROJECT_ROOT": self.origin.repositories,
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "REQUEST_METHOD": self.command,
            "PATH_INFO": at.path.removeprefix("/git").replace("/limited.git/", "/repository.git/"),
            "QUERY_STRING": at.query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "REMOTE_ADDR": "127.0.0.1",
            "REMOTE_USER": "somebody",
        }
        with tempfile.TemporaryFile() as asked:
            for block in self.body():
                asked.write(block)
            environment["CONTENT_LENGTH"] = str(asked.tell())
            asked.seek(0)
            with subprocess.Popen(
                ["git", "http-backend"],
                env=environment,
                stdin=asked,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=PIECE,
            ) as backend:
                status, fields = 200, {}
                while line := backend.stdout.readline().strip().decode():
                    name, value = line.split(":", 1)
                    fields[name] = value.strip()
                status = int(fields.pop("Status", "200").split()[0])
                self.head(status, Transfer_Encoding="chunked", **fields)
                self.chunks(iter(lambda: backend.stdout.read1(PIECE), b""))

    def body_is_over(self):
        for _ in self.body():
            pass
