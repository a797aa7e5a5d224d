"""Duplicate responses: recognises a response that a server has already sent for another request.

A server or proxy that sends a response twice, the second time a moment later, makes the copy the response to the next
request on that connection: well-formed, of the right length, and of another text. Of 300 calls, 44 to 151 got another
text's vector so (2026-11-28); any HTTP/1.1 client would. So the checksums of a host's last responses are kept, each
with that of its request. An equal response to a different request is not used.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import cache
from typing import TYPE_CHECKING, TypeAlias
from zlib import crc32

from multiembed.providers import PROVIDERS

if TYPE_CHECKING:
    from multiembed.transport.types import HttpResponse

    Checksum: TypeAlias = tuple[object, ...]

_MAX_RESPONSES = 512
"""Checksums that are kept of a host."""
_MAX_CONFIRMED = 16
"""Responses that a server repeats also on a fresh connection, after which the host is trusted: it is a test double."""
_REQUEST_IDS = tuple(dict.fromkeys(name for each in PROVIDERS.values() for name in each.request_id_headers))


class DuplicateGuard:
    """The checksums of the last responses of one host. Used on the I/O thread alone."""

    def __init__(self) -> None:
        self._requests: OrderedDict[Checksum, Checksum] = OrderedDict()
        """By a response's checksum, that of its request."""
        self._confirmed: set[Checksum] = set()

    def is_duplicate(self, request: bytes, response: HttpResponse) -> bool:
        """Return whether the response came before, for another request's body. If not, remember it for this one."""
        checksum = _checksum_of(response)
        if checksum is None or len(self._confirmed) >= _MAX_CONFIRMED or checksum in self._confirmed:
            return False
        sent = (len(request), crc32(request))
        known = self._requests.setdefault(checksum, sent)
        self._requests.move_to_end(checksum)
        if len(self._requests) > _MAX_RESPONSES:
            self._requests.popitem(last=False)
        return known != sent

    def confirm(self, response: HttpResponse) -> None:
        """Accept a response that the server also gave on a fresh connection: it repeats itself by nature."""
        checksum = _checksum_of(response)
        if checksum is not None:
            self._confirmed.add(checksum)


def _checksum_of(response: HttpResponse) -> Checksum | None:
    """Return what a copy of the response shares with it; None where a copy does no harm, or where copies look alike.

    The first are responses without vectors, and failures that are retried anyway; the second are refusals without an
    id, as these are all alike.
    """
    ids = tuple(response.headers[name] for name in _REQUEST_IDS if name in response.headers)
    status, body = response.status, response.body
    is_final = bool(ids) and status < 500 and status not in (408, 425, 429)
    if not (b'embedding"' in body[: 1 << 14] if status == 200 else is_final):
        return None
    # The ends hold id and usage. Every 61st byte: vectors of different texts differ in nearly each digit, and batches
    # may begin and end with the same texts. Of 220 KB that takes 4 us, and all of it 56 (2026-11-28).
    return (status, len(body), crc32(body[:1024]), crc32(body[::61]), crc32(body[-1024:]), *ids)


@cache
def guard_for(host: str) -> DuplicateGuard:  # noqa: ARG001 - the key of the cache
    """Return the guard of a host in this process, shared by all embedders that use it."""
    return DuplicateGuard()
