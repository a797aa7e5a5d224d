"""Recognises a response that a server has already sent for another request: a late copy on a kept connection.

A server or proxy that sends an answer twice, the second time a moment later, makes the copy the answer to the next
request on that connection: well-formed, of the right length, and of another text. Of 300 calls, 44 to 151 got another
text's vector so (2026-11-28); any HTTP/1.1 client would. So the checksums of a host's last responses are kept, each
with that of its request. An equal response to a different request is not used.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, TypeAlias
from zlib import crc32

from multiembed.providers import PROVIDERS

if TYPE_CHECKING:
    from multiembed.transport.types import HttpResponse

    Checksum: TypeAlias = tuple[object, ...]

_REMEMBERED = 512
"""Responses of a host."""
_CONFIRMED_AT_MOST = 16
"""Responses that a server repeats also on a fresh connection, after which the host is trusted: it is a test double."""
_ENDS = 1 << 10
"""Bytes at the beginning and at the end of a response that its checksum covers: its id and its usage stand there."""
_STRIDE = 61
"""Of all of it, every so many bytes: vectors of different texts differ in nearly each digit, and batches may begin and
end with the same texts. For 220 KB that takes 4 us; 2 x 16 KiB took 10, and all of it 56 (2026-11-28)."""
_VECTOR_KEY = b'embedding"'
"""A response without it holds no vector and is retried anyway. It may be the same for all requests: an empty body."""
_KEY_WITHIN = 1 << 14
"""Bytes within which it stands, at the latest."""
_RETRIED = (408, 425, 429)
"""Refusals that are retried anyway."""
_REQUEST_IDS = tuple(dict.fromkeys(name for each in PROVIDERS.values() for name in each.request_id_headers))


class DuplicateGuard:
    """The last responses of one host. Used on the I/O thread alone."""

    def __init__(self) -> None:
        self._requests: OrderedDict[Checksum, Checksum] = OrderedDict()
        """Of each response, the request that it answered."""
        self._confirmed: set[Checksum] = set()

    def is_duplicate(self, request: bytes, response: HttpResponse) -> bool:
        """Whether the response came before, for another request's body. If not, it is remembered for this one."""
        answer = _checksum_of(response)
        if answer is None or len(self._confirmed) >= _CONFIRMED_AT_MOST or answer in self._confirmed:
            return False
        asked = (len(request), crc32(request))
        known = self._requests.setdefault(answer, asked)
        self._requests.move_to_end(answer)
        while len(self._requests) > _REMEMBERED:
            self._requests.popitem(last=False)
        return known != asked

    def confirm(self, response: HttpResponse) -> None:
        """The server gave the same response on a fresh connection, too: it repeats itself by nature."""
        answer = _checksum_of(response)
        if answer is not None:
            self._confirmed.add(answer)


def _checksum_of(response: HttpResponse) -> Checksum | None:
    """What a copy of the response shares with it; None where no copy does harm, or where copies look alike.

    The first are answers without vectors, and failures that are retried anyway; the second are refusals without an id,
    as these are all alike.
    """
    ids = tuple(response.headers[name] for name in _REQUEST_IDS if name in response.headers)
    status, body = response.status, response.body
    if status == 200:
        matters = body.find(_VECTOR_KEY, 0, _KEY_WITHIN) >= 0
    else:
        matters = bool(ids) and status < 500 and status not in _RETRIED
    if not matters:
        return None
    return (status, len(body), crc32(body[:_ENDS]), crc32(body[::_STRIDE]), crc32(body[-_ENDS:]), *ids)


_guards: dict[str, DuplicateGuard] = {}


def guard_for(host: str) -> DuplicateGuard:
    """The guard of a host in this process, shared by all embedders that use it."""
    return _guards.get(host) or _guards.setdefault(host, DuplicateGuard())
