"""What is said over a WebSocket (RFC 6455), without sockets: the handshake, and frames, from bytes and into bytes.

Of the server's side only: what comes is masked, what goes is not. Compression and subprotocols are not offered.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from hashlib import sha1
from typing import NamedTuple

LONGEST_MESSAGE = 64 * 1024  # bytes

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
FINAL, RESERVED, MASKED = 0x80, 0x70, 0x80
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
GOING_AWAY, PROTOCOL_ERROR, UNSUPPORTED, INVALID, TOO_BIG = 1001, 1002, 1003, 1007, 1009
CODES = {1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)}  # that may be sent


class Refused(Exception):
    """The handshake fails, with this status."""


class Failed(Exception):
    """The connection fails, with this code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def upgrade(head: bytes) -> bytes:
    """The answer to a request (without its empty line) for a WebSocket (section 4.2). Raises `Refused`."""
    request, *lines = head.decode("latin-1").split("\r\n")
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip()
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    if not (
        request.startswith("GET /")
        and request.endswith(" HTTP/1.1")
        and "host" in fields
        and "websocket" in tokens(fields.get("upgrade", ""))
        and "upgrade" in tokens(fields.get("connection", ""))
    ):
        raise Refused("400 Bad Request")
    if fields.get("sec-websocket-version") != "13":
        raise Refused("426 Upgrade Required\r\nSec-WebSocket-Version: 13")
    key = fields.get("sec-websocket-key", "")
    try:
        if len(b64decode(key, validate=True)) != 16:
            raise Refused("400 Bad Request")
    except ValueError:
        raise Refused("400 Bad Request") from None
    accept = b64encode(sha1(key.encode() + GUID).digest())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept
    )


def tokens(value: str) -> list[str]:
    """The words of a field that lists some, in small letters."""
    return [word.strip() for word in value.lower().split(",")]


class Frame(NamedTuple):
    """A frame that a client sent, unmasked; `size` is what it took on the wire."""

    final: bool
    opcode: int
    payload: bytes
    size: int


def frame(opcode: int, payload: bytes = b"") -> bytes:
    """A message in one frame, or a control frame, as a server sends it (section 5.2)."""
    size = len(payload)
    if size < 126:
        return bytes((FINAL | opcode, size)) + payload
    mark, width = (126, 2) if size < 1 << 16 else (127, 8)
    return bytes((FINAL | opcode, mark)) + size.to_bytes(width) + payload


def first_frame(data: bytes) -> Frame | None:
    """The frame that the data begins with, None while it isn't whole. Raises `Failed` for one that may not be."""
    if len(data) < 2:
        return None
    opcode, size = data[0] & 0x0F, data[1] & 0x7F
    is_control = opcode >= CLOSE
    if data[0] & RESERVED or not data[1] & MASKED or opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
        raise Failed(PROTOCOL_ERROR)
    if is_control and (size > 125 or not data[0] & FINAL):
        raise Failed(PROTOCOL_ERROR)
    key = 2 + {126: 2, 127: 8}.get(size, 0)  # where the masking key begins
    if len(data) < key:
        return None
    if key > 2:
        size = int.from_bytes(data[2:key])
    if size > LONGEST_MESSAGE:
        raise Failed(TOO_BIG)
    begin, end = key + 4, key + 4 + size
    if len(data) < end:
        return None
    return Frame(bool(data[0] & FINAL), opcode, masked(data[begin:end], data[key:begin]), end)


def masked(payload: bytes, key: bytes) -> bytes:
    """The payload, each byte combined with one of the key's four; twice is as if not at all (section 5.3)."""
    size = len(payload)
    mask = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload) ^ int.from_bytes(mask)).to_bytes(size)


def answer_to_close(payload: bytes) -> bytes:
    """A client's reason to close as it is sent back. Raises `Failed` for one that may not be."""
    if not payload:
        return b""
    if len(payload) < 2 or int.from_bytes(payload[:2]) not in CODES:
        raise Failed(PROTOCOL_ERROR)
    text(payload[2:])
    return payload[:2]


def text(payload: bytes) -> str:
    """The payload as text. Raises `Failed`."""
    try:
        return payload.decode()
    except UnicodeDecodeError:
        raise Failed(INVALID) from None
