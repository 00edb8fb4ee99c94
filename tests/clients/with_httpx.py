"""httpx, with one client and nothing but the environment to tell it about the proxy and the CA."""

import os

import httpx

import lines

client = httpx.Client(timeout=20, follow_redirects=True)


def perform(kind, url, body, sink):
    headers = {"Content-Length": str(os.fstat(body.fileno()).st_size)} if kind == "put" else {}
    method = "GET" if body is None else "PUT"
    with client.stream(method, url, content=body, headers=headers) as answer:
        for block in answer.iter_raw() if kind == "raw" else answer.iter_bytes():
            sink.take(block)
        return answer.status_code, answer.headers.items()


lines.serve(perform)
