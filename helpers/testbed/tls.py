"""TLS for the testbed: a certificate of one's own, contexts, and a terminator that gives a PostgreSQL TLS.

The terminator is a program (`helpers.testbed.program`): its encrypting doesn't take the GIL of whoever measures.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

HOST = "127.0.0.1"
CHUNK = 1 << 16  # bytes that are copied at a time

# The first eight bytes of a PostgreSQL connection: their length and a number in place of the protocol's version.
# https://www.postgresql.org/docs/current/protocol-message-formats.html
SSL_REQUEST = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")
GSS_REQUEST = (8).to_bytes(4, "big") + (80877104).to_bytes(4, "big")
YES, NO = b"S", b"N"


@dataclass(frozen=True)
class Identity:
    """A server's certificate for 127.0.0.1 and localhost: paths of its chain, its key, and the CA's certificate."""

    chain: str
    key: str
    ca: str


def make(folder: str) -> Identity:
    """A new identity (ECDSA, P-256), signed by a new CA whose key nobody keeps; its files lie in `folder`."""
    import trustme

    ca = trustme.CA()
    server = ca.issue_cert(HOST, "localhost")
    identity = Identity(*(os.path.join(folder, name) for name in ("server.pem", "server.key", "ca.pem")))
    with open(os.open(identity.key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(server.private_key_pem.bytes())
    for part, blob in enumerate(server.cert_chain_pems):
        blob.write_to_path(identity.chain, append=part > 0)
    ca.cert_pem.write_to_path(identity.ca)
    return identity


@contextlib.contextmanager
def certificate() -> Iterator[Identity]:
    """A new identity in a private folder, which is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="tls-") as folder:
        yield make(folder)


def server_context(identity: Identity, *, curve: str | None = None) -> ssl.SSLContext:
    """The context of a server with this identity.

    `curve` is the only one that it takes for the key exchange, "prime256v1" say (PostgreSQL's own default up to
    version 17); None: OpenSSL's choice, which begins with X25519.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.chain, identity.key)
    if curve is not None:
        context.set_ecdh_curve(curve)
    return context


def client_context(ca: str | None, *, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """The context of a client that trusts the CA in this file alone, and speaks `version` alone (None: any).

    Without a CA whoever answers is believed, as libpq's `sslmode=require` does.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is None:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    else:
        context.load_verify_locations(ca)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


@contextlib.contextmanager
def program(target: tuple[str, int], folder: str, curve: str | None = None) -> Iterator[dict[str, Any]]:
    """A TLS terminator in front of the PostgreSQL at `target`; yields its `port` on 127.0.0.1, and the `ca` to trust.

    A client that asks for TLS gets it; one that doesn't is passed through in plain text, at the same port. The files
    of the new identity lie in `folder`. `curve` as in `server_context`.
    """
    identity = make(folder)
    context = server_context(identity, curve=curve)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
            await _terminate(reader, writer, context, target)
        writer.close()

    with asyncio.Runner() as runner:  # which in the end cancels what is still being served
        server = runner.run(asyncio.start_server(serve, HOST, 0))
        loop = runner.get_loop()
        thread = threading.Thread(target=loop.run_forever, name="TLS terminator", daemon=True)
        thread.start()
        try:
            yield {"port": server.sockets[0].getsockname()[1], "ca": identity.ca}
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()


async def _terminate(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext, target: tuple[str, int]
) -> None:
    """Serve one client: TLS if it asks for it, then everything to and from the target, until both have ended."""
    first = await reader.readexactly(8)
    if first == GSS_REQUEST:
        writer.write(NO)
        first = await reader.readexactly(8)
    if first == SSL_REQUEST:
        writer.write(YES)
        await writer.start_tls(context)
        first = b""
    from_target, to_target = await asyncio.open_connection(*target)
    to_target.write(first)
    await asyncio.gather(_copy(reader, to_target), _copy(from_target, writer))
    to_target.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the end, and pass that on, too."""
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
    else:  # TLS ends in both directions at once
        writer.close()
