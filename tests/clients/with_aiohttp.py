"""aiohttp, with one session; the proxy from the environment."""

import asyncio
import os
import ssl

import aiohttp

import lines


async def perform(session, kind, url, path, sink):
    body, headers = None, {}
    if kind == "put":
        body, headers = open(path, "rb"), {"Content-Length": str(os.path.getsize(path))}
    elif kind == "chunked":
        body = aside(lines.read(path))
    elif kind == "send":
        body = aside(lines.pieces())
    method = "GET" if body is None else "PUT"
    async with session.request(method, url, data=body, headers=headers) as answer:
        async for block in answer.content.iter_any():
            sink.take(block)
        return answer.status, answer.headers.items()


async def aside(blocks):
    """What blocks is read in a thread."""
    while (block := await asyncio.to_thread(next, blocks, None)) is not None:
        yield block


def session(**options):
    tls = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=tls),
        trust_env=True,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=20, sock_read=20),
        **options,
    )


async def main():
    async with session() as decoding, session(auto_decompress=False) as raw:
        orders = lines.orders()
        while (order := await asyncio.to_thread(next, orders, None)) is not None:
            kind, url, *path = order
            sink = lines.Sink(kind == "stream")
            try:
                status, fields = await perform(
                    raw if kind == "raw" else decoding, kind, url, path[0] if path else None, sink
                )
                lines.answer(status, fields, sink.digest, sink.size)
            except Exception as error:
                lines.failed(error)


asyncio.run(main())
