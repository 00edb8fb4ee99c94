"""requests, with one session and nothing but the environment to tell it about the proxy and the CA."""

import requests

import lines

session = requests.Session()


def perform(kind, url, body, sink):
    method = "GET" if body is None else "PUT"
    with session.request(method, url, data=body, stream=True, timeout=20) as answer:
        if kind == "raw":
            while block := answer.raw.read(1 << 16, decode_content=False):
                sink.take(block)
        else:
            # A size of None gives what has arrived, as it arrives.
            for block in answer.iter_content(None if kind == "stream" else 1 << 16):
                sink.take(block)
        return answer.status_code, answer.headers.items()


lines.serve(perform)
