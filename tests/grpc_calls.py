"""A real gRPC client and server with holdoff between them: grpcio speaks HTTP/2 to a `[[reverse]]` listener by prior
knowledge, holdoff HTTP/2 over TLS to the server. `tests/run` runs this; by hand, after `cargo build`:

    .venv/bin/python3 tests/grpc_calls.py                  everything
    .venv/bin/python3 tests/grpc_calls.py limited retried   these cases only
"""

import concurrent.futures
import contextlib
import hashlib
import json
import pathlib
import queue
import sys
import tempfile
import threading
import time
import traceback
import types

import grpc
import trustme

from clients import DEADLINE, Holdoff, opened

PUSHBACK = 1.5  # seconds
SLACK = 0.05  # two clocks, two roundings
PIECES = [b"piece %d" % n for n in range(20)]
LARGE = bytes(range(256)) * 12_000  # 3 MB: many windows of flow control, within what gRPC takes for a message


class Peer(grpc.GenericRpcHandler):
    """One server, hence one key. `methods` are by name; `calls` says who was here."""

    def __init__(self, stack, authority):
        self.calls, self.ended, self.left = [], threading.Event(), 1
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(8))
        self.server = grpc.server(pool, handlers=[self], options=[("grpc.so_reuseport", 0)])
        issued = authority.issue_cert("127.0.0.1")
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        credentials = grpc.ssl_server_credentials([(issued.private_key_pem.bytes(), chain)])
        self.port = self.server.add_secure_port("127.0.0.1:0", credentials)
        self.server.start()
        stack.callback(lambda: self.server.stop(0).wait())

    def service(self, call):
        name = call.method.rsplit("/", 1)[1]
        self.calls.append(name)
        self.metadata = dict(call.invocation_metadata)
        return getattr(self, name)()

    def echo(self):
        def act(request, context):
            context.send_initial_metadata((("x-initial", "one"),))
            context.set_trailing_metadata((("x-trailing", "two"), ("x-bytes-bin", b"\x00\xff")))
            return request

        return grpc.unary_unary_rpc_method_handler(act)

    def down(self):
        def act(request, context):
            yield from [request] * 20

        return grpc.unary_stream_rpc_method_handler(act)

    def up(self):
        def act(requests, context):
            return hashlib.sha256(b"".join(requests)).digest()

        return grpc.stream_unary_rpc_method_handler(act)

    def talk(self):
        def act(requests, context):
            context.add_callback(self.ended.set)
            for request in requests:
                yield request[::-1]

        return grpc.stream_stream_rpc_method_handler(act)

    def missing(self):
        def act(request, context):
            context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: 100 % ü")

        return grpc.unary_unary_rpc_method_handler(act)

    def remaining(self):
        def act(request, context):
            return json.dumps(context.time_remaining()).encode()

        return grpc.unary_unary_rpc_method_handler(act)

    def slow(self):
        def act(request, context):
            context.add_callback(self.ended.set)
            self.ended.wait(DEADLINE)
            return request

        return grpc.unary_unary_rpc_method_handler(act)

    def _limited(self, context, code, pushback):
        """Says no as often as `left` says."""
        if self.left:
            self.left -= 1
            if pushback is not None:
                context.set_trailing_metadata((("grpc-retry-pushback-ms", str(pushback)),))
            context.abort(code, "the quota is used up")

    def limited(self, code=grpc.StatusCode.RESOURCE_EXHAUSTED, pushback=int(PUSHBACK * 1000)):
        """In a head alone: nothing was sent before."""

        def act(request, context):
            self._limited(context, code, pushback)
            return request

        return grpc.unary_unary_rpc_method_handler(act)

    def limited_behind(self):
        """In trailers, behind a message."""

        def act(request, context):
            yield request
            self._limited(context, grpc.StatusCode.RESOURCE_EXHAUSTED, int(PUSHBACK * 1000))

        return grpc.unary_stream_rpc_method_handler(act)

    def unavailable(self):
        return self.limited(grpc.StatusCode.UNAVAILABLE)

    def unavailable_bare(self):
        return self.limited(grpc.StatusCode.UNAVAILABLE, None)


class Client:
    """Calls of one peer through holdoff; `retry` lets gRPC call again by itself."""

    def __init__(self, stack, holdoff, port, retry=False):
        self.holdoff = holdoff
        options = [("grpc.enable_retries", int(retry)), ("grpc.use_local_subchannel_pool", 1)]
        if retry:
            policy = {
                "maxAttempts": 5,
                "initialBackoff": "0.01s",
                "maxBackoff": "0.01s",
                "backoffMultiplier": 1,
                "retryableStatusCodes": ["RESOURCE_EXHAUSTED", "UNAVAILABLE"],
            }
            config = {"methodConfig": [{"name": [{}], "retryPolicy": policy}]}
            options.append(("grpc.service_config", json.dumps(config)))
        self.channel = stack.enter_context(grpc.insecure_channel(holdoff.reverse, options))
        self.prefix = f"/{port}/peer.Peer/"

    def unary(self, name, request=b"hello", timeout=DEADLINE, **rest):
        return self.channel.unary_unary(self.prefix + name).with_call(request, timeout=timeout, **rest)

    def refused(self, name):
        """The error of a call, and how long it took."""
        began = time.monotonic()
        try:
            self.unary(name)
        except grpc.RpcError as error:
            return error, time.monotonic() - began
        raise AssertionError(f"expected `{name}` to fail, found an answer")


def trailing(call):
    return dict(call.trailing_metadata() or ())


def is_ours(error, code, remaining):
    """An answer of holdoff's own: its marks, and the wait that is left."""
    metadata = trailing(error)
    assert error.code() == code, error
    assert metadata["holdoff"].startswith("short-circuit; reason="), metadata
    assert error.details().startswith("holdoff answered this request itself and did not contact "), error.details()
    pushback = int(metadata["grpc-retry-pushback-ms"]) / 1000
    assert 0 < pushback <= remaining + SLACK, (pushback, remaining)
    assert float(metadata["retry-after"]) >= pushback, metadata
    return pushback


# The cases.


def unary(peer, client, stack):
    answer, call = client.unary("echo", metadata=(("x-mine", "three"),))
    assert answer == b"hello"
    assert dict(call.initial_metadata())["x-initial"] == "one"
    assert (trailing(call)["x-trailing"], trailing(call)["x-bytes-bin"]) == ("two", b"\x00\xff")
    assert (peer.metadata["x-mine"], peer.metadata["user-agent"][:11]) == ("three", "grpc-python"), peer.metadata
    assert client.unary("echo", LARGE)[0] == LARGE
    assert client.unary("echo", b"")[0] == b""


def down(peer, client, stack):
    assert list(client.channel.unary_stream(client.prefix + "down")(LARGE[:300_000])) == [LARGE[:300_000]] * 20


def up(peer, client, stack):
    pieces = [LARGE[:300_000]] * 20
    digest = client.channel.stream_unary(client.prefix + "up")(iter(pieces), timeout=DEADLINE)
    assert digest == hashlib.sha256(b"".join(pieces)).digest()


def talk(peer, client, stack):
    """Each side speaks only when it has heard the other."""
    said = queue.SimpleQueue()
    answers = client.channel.stream_stream(client.prefix + "talk")(iter(said.get, None), timeout=DEADLINE)
    for piece in PIECES:
        said.put(piece)
        assert next(answers) == piece[::-1]
    said.put(None)
    assert list(answers) == [] and answers.code() == grpc.StatusCode.OK


def left(peer, client, stack):
    """A client that leaves a stream is noticed by the server; nothing else is disturbed."""
    said = queue.SimpleQueue()
    answers = client.channel.stream_stream(client.prefix + "talk")(iter(said.get, None), timeout=DEADLINE)
    said.put(b"ab")
    assert next(answers) == b"ba"
    answers.cancel()
    assert peer.ended.wait(DEADLINE), "the server was not told"
    said.put(None)
    assert client.unary("echo")[0] == b"hello"


def statuses(peer, client, stack):
    """Other statuses are the server's own affair: they pass, and nothing cools."""
    for _ in range(3):
        error, _ = client.refused("missing")
        assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "no such thing: 100 % ü"), error
    assert peer.calls == ["missing"] * 3, peer.calls


def deadlines(peer, client, stack):
    """`grpc-timeout` passes untouched; a client that gives up is noticed by the server."""
    remaining = json.loads(client.unary("remaining", timeout=7)[0])
    assert 5 < remaining <= 7, remaining
    try:
        client.unary("slow", timeout=0.3)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
    assert peer.ended.wait(DEADLINE), "the server was not told"


def cools(peer, client, first, name, code):
    """The server's own no, then ours at once, then the server again."""
    began = time.monotonic()
    first()
    error, took = client.refused(name)
    pushback = is_ours(error, code, PUSHBACK)
    assert took < PUSHBACK / 2 and pushback > PUSHBACK / 2, (took, pushback)
    called = len(peer.calls)
    assert called == 1, peer.calls
    while True:
        try:
            assert client.unary(name)[0] == b"hello"
            break
        except grpc.RpcError as error:
            is_ours(error, code, began + PUSHBACK + SLACK - time.monotonic())
            assert time.monotonic() < began + DEADLINE
            time.sleep(0.1)
    assert time.monotonic() - began >= PUSHBACK - SLACK
    assert len(peer.calls) == 2, peer.calls


def its_own(client, name, code):
    def first():
        error, _ = client.refused(name)
        assert (error.code(), error.details()) == (code, "the quota is used up"), error
        assert "holdoff" not in trailing(error), trailing(error)
        assert trailing(error)["grpc-retry-pushback-ms"] == str(int(PUSHBACK * 1000)), trailing(error)

    return first


def limited(peer, client, stack):
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    cools(peer, client, its_own(client, "limited", code), "limited", code)


def limited_behind(peer, client, stack):
    def first():
        answers = client.channel.unary_stream(client.prefix + "limited_behind")(b"hello", timeout=DEADLINE)
        assert next(answers) == b"hello", "a message comes before the trailers"
        try:
            next(answers)
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and "holdoff" not in trailing(error), error
        else:
            raise AssertionError("expected the server's no")

    cools(peer, client, first, "echo", grpc.StatusCode.RESOURCE_EXHAUSTED)


def unavailable(peer, client, stack):
    code = grpc.StatusCode.UNAVAILABLE
    cools(peer, client, its_own(client, "unavailable", code), "unavailable", code)


def unavailable_bare(peer, client, stack):
    """Without a wait it is no signal, as a 503 without `Retry-After` is none."""
    error, _ = client.refused("unavailable_bare")
    assert error.code() == grpc.StatusCode.UNAVAILABLE
    assert client.unary("unavailable_bare")[0] == b"hello"


def retried(peer, client, stack):
    """gRPC's own retries wait as we say: one call, one refusal of ours, one call of the server."""
    its_own(client, "limited", grpc.StatusCode.RESOURCE_EXHAUSTED)()
    patient = Client(stack, client.holdoff, peer.port, retry=True)
    began = time.monotonic()
    assert patient.unary("limited")[0] == b"hello"
    took = time.monotonic() - began
    assert PUSHBACK / 2 < took < PUSHBACK + 2, took
    assert peer.calls == ["limited"] * 2, peer.calls
    assert client.holdoff.sample("holdoff_short_circuited_total", f"127.0.0.1:{peer.port}") == 1


def gone(peer, client, stack):
    """An error on the way, from us, in gRPC's words."""
    peer.server.stop(0).wait()
    error, _ = client.refused("echo")
    assert error.code() == grpc.StatusCode.UNAVAILABLE, error
    assert "This answer is from holdoff (stage: connect, fault: upstream)" in error.details(), error.details()
    assert trailing(error)["holdoff"].startswith("error; kind=connect_refused;"), trailing(error)


CASES = [
    unary,
    down,
    up,
    talk,
    left,
    statuses,
    deadlines,
    limited,
    limited_behind,
    unavailable,
    unavailable_bare,
    retried,
    gone,
]


class Sidecar(Holdoff):
    def sample(self, family, host):
        """The sum of the samples of a family that are about `host`."""
        with opened(f"http://{self.admin}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(family) and f'host="{host}"' in line)


class Routes:
    """What the configuration needs."""

    def __init__(self, peers):
        self.peers = peers

    def intercepted(self):
        return []

    def config(self, holdoff):
        lines = []
        for peer in self.peers:
            lines += ["[[reverse]]", f'address = ["{holdoff.reverse}"]', f'path = "/{peer.port}"']
            lines += [f'upstream = "https://127.0.0.1:{peer.port}"']
        return lines


def main(wanted):
    cases = [case for case in CASES if not wanted or case.__name__ in wanted]
    failed = []
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        authority = trustme.CA()
        shared = types.SimpleNamespace(folder=folder, ca=folder / "ca.pem")
        authority.cert_pem.write_to_path(shared.ca)
        peers = {case: Peer(stack, authority) for case in cases}
        holdoff = stack.enter_context(Sidecar(shared, [Routes(peers.values())]))

        def run(case):
            began = time.monotonic()
            try:
                with contextlib.ExitStack() as own:
                    client = Client(own, holdoff, peers[case].port)
                    case(peers[case], client, own)
            except Exception:
                failed.append(case.__name__)
                return f"FAIL {case.__name__}\n{traceback.format_exc(limit=-3)}"
            return f"{time.monotonic() - began:4.1f} s {case.__name__}"

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for line in pool.map(run, cases):
                print(line)
        if failed:
            print(holdoff.said())
    return 1 if failed or not cases else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
