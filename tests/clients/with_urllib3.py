"""urllib3, with one pool manager for the proxy."""

import os

import urllib3

import lines

pools = urllib3.ProxyManager(
    os.environ["http_proxy"], ca_certs=os.environ["SSL_CERT_FILE"], retries=False, timeout=urllib3.Timeout(20)
)


def perform(kind, url, body, sink):
    answer = pools.request(
        "GET" if body is None else "PUT",
        url,
        body=body,
        headers={"Content-Length": str(os.fstat(body.fileno()).st_size)} if kind == "put" else {},
        preload_content=False,
        redirect=True,
        retries=urllib3.Retry(total=3, connect=0, read=0, status=0, other=0, redirect=3, raise_on_status=False),
    )
    decode = kind != "raw"
    if kind == "stream":
        for block in answer.stream(decode_content=decode):
            sink.take(block)
    else:
        while block := answer.read(1 << 16, decode_content=decode):
            sink.take(block)
    answer.release_conn()
    return answer.status, answer.headers.items()


lines.serve(perform)
