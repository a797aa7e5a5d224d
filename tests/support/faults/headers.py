"""Responses of proxies and load balancers: redirects, HTML, and values of `Retry-After`."""

from __future__ import annotations

import time
from email.utils import formatdate
from http import HTTPStatus
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from multiembed.simulator.fault_injection.base import InjectedFault
from multiembed.simulator.fault_injection.faults import rate_limit_with
from multiembed.simulator.messages import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from multiembed.simulator.fault_injection.base import Occasion

    Settings = Mapping[str, Any]

_HTML = (("content-type", "text/html"),)
# A name that no resolver knows (RFC 2606), for when no other target is set.
_NOWHERE = "https://elsewhere.invalid"


def _page(status: int, server: str, *headers: tuple[str, str]) -> Callable[[Occasion], Answer]:
    title = f"{status} {HTTPStatus(status).phrase}"
    body = f"<html><head><title>{title}</title></head><body><h1>{title}</h1><hr>{server}</body></html>\n"
    return lambda _occasion: Answer(status, (*_HTML, *headers), body.encode())


def _redirect(location: Callable[[Occasion], str]) -> Callable[[Occasion], Answer]:
    def alter(occasion: Occasion) -> Answer:
        return Answer(occasion.settings["status"], (("location", location(occasion)),), b"")

    return alter


def _retry_after(name: str, description: str, value: Callable[[Settings], str], **settings: Any) -> InjectedFault:
    return rate_limit_with(name, description, "retry-after", value, **settings)


PROXIES = (
    InjectedFault("bad-gateway-html", "502 with a load balancer's HTML.", "status", alter=_page(502, "nginx")),
    InjectedFault("gateway-timeout-html", "504 with a load balancer's HTML.", "status", alter=_page(504, "nginx")),
    InjectedFault("server-error-empty", "500 without a body.", "status", alter=lambda _: Answer(500, (), b"")),
    InjectedFault(
        "proxy-407",
        "A proxy wants a password: 407 with HTML.",
        "status",
        alter=_page(407, "squid", ("proxy-authenticate", 'Basic realm="proxy"')),
        on_connect=True,
    ),
    InjectedFault(
        "proxy-502",
        "A proxy does not reach the server: 502 with HTML.",
        "status",
        alter=_page(502, "squid", ("via", "1.1 proxy (squid)"), ("x-squid-error", "ERR_CONNECT_FAIL 111")),
        on_connect=True,
    ),
    InjectedFault(
        "redirect-same-host",
        "A redirect (`status`) to another path of this server.",
        "headers",
        settings=MappingProxyType({"status": 307}),
        alter=_redirect(lambda occasion: f"/moved{occasion.request.path}"),
    ),
    InjectedFault(
        "redirect-other-host",
        "A redirect (`status`) to the same path of `target`, for instance a second simulator's url.",
        "headers",
        settings=MappingProxyType({"status": 307, "target": _NOWHERE}),
        alter=_redirect(lambda occasion: occasion.settings["target"].rstrip("/") + occasion.request.path),
    ),
)

RETRY_AFTERS = (
    _retry_after(
        "retry-after-date",
        "429 with a date as Retry-After, `delay` seconds from now; dates count whole seconds.",
        lambda settings: formatdate(time.time() + settings["delay"], usegmt=True),
        delay=2,
    ),
    _retry_after(
        "retry-after-past", "429 with a date as Retry-After that is past.", lambda _: formatdate(0, usegmt=True)
    ),
    _retry_after("retry-after-zero", "429 with Retry-After: 0.", lambda _: "0"),
    _retry_after("retry-after-negative", "429 with Retry-After: -5.", lambda _: "-5"),
    _retry_after("retry-after-huge", "429 with Retry-After: 1000000000.", lambda _: "1000000000"),
    _retry_after(
        "retry-after-infinite", "429 with Retry-After: inf, which some parsers take for a number.", lambda _: "inf"
    ),
    _retry_after("retry-after-garbage", "429 with a word as Retry-After.", lambda _: "soon"),
    rate_limit_with(
        "retry-after-ms",
        "429 with retry-after-ms: `delay` seconds, in milliseconds.",
        "retry-after-ms",
        lambda settings: f"{settings['delay'] * 1000:g}",
        delay=0.05,
    ),
)
