"""Whether the host can be reached: proxy, name, port and certificate, each told apart. No key is sent."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from multiembed.cli.checkup import certificate
from multiembed.cli.checkup.findings import Finding, milliseconds
from multiembed.cli.checkup.route import TunnelError, bracketed, dial, is_number, resolve, route_to, tunnel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from multiembed.cli.checkup.route import Route

_NAMELESS = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}


def look(url: str, timeout: float, *, own: bool) -> Iterator[Finding]:
    """Go the way to a URL step by step; the first step that fails is the last finding.

    Args:
        url: where requests go.
        timeout: seconds for each step.
        own: whether the user named the address.
    """
    try:
        route = route_to(url, own=own)
    except ValueError as error:
        advice = "Name an http:// or https:// proxy there. From Python, a SOCKS proxy works in your own http_client."
        yield Finding(name="proxy", state="fail", says=str(error), advice=advice)
        return
    if route.proxy:
        yield Finding(name="proxy", state="ok", says=f"{route.proxy}", facts={"variable": route.proxy.variable})
    elif route.spared:
        yield Finding(name="proxy", state="ok", says="one is named, but not used for this host")
    name = _name(route, timeout)
    if name is not None:
        yield name
        if name.state == "fail":
            return
    yield from _connect(route, timeout)


def _name(route: Route, timeout: float) -> Finding | None:
    """Whether the name of the next stop is known; None for a number."""
    host, _ = route.next_stop
    if is_number(host):
        return None
    begun = time.perf_counter()
    spelling = f"the spelling in {route.setting}, and " if route.setting else ""
    advice = f"Check {spelling}this machine's network and name service (DNS)."
    if route.proxy is None:
        advice += " In a company's network, a proxy may be needed: HTTPS_PROXY=http://host:port."
    try:
        found = resolve(host, timeout)
    except TimeoutError:
        says = f"no answer about {host} within {timeout:g} s"
    except OSError as error:
        says = f"{host} is unknown" if error.errno in _NAMELESS else f"no name service answers about {host}"
    else:
        seconds = time.perf_counter() - begun
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        says = f"{host} is {found[0]}{more} ({milliseconds(seconds)})"
        return Finding(name="DNS", state="ok", says=says, facts={"addresses": found, "seconds": seconds})
    return Finding(name="DNS", state="fail", says=says, advice=advice)


def _connect(route: Route, timeout: float) -> Iterator[Finding]:
    """Connect, go through the proxy, and shake hands."""
    host, port = route.next_stop
    begun = time.perf_counter()
    try:
        sock = dial(route, timeout)
    except OSError as error:
        yield Finding(name="TCP", state="fail", says=_refusal(error, host, port, timeout), advice=_way(route, error))
        return
    with sock:
        seconds = time.perf_counter() - begun
        says = f"port {port} of {bracketed(host)} is open ({milliseconds(seconds)})"
        yield Finding(name="TCP", state="ok", says=says, facts={"seconds": seconds})
        if not route.secure:
            yield Finding(name="TLS", state="skip", says="not used: the address begins with http://")
        elif route.proxy and route.proxy.scheme == "https":
            says = "the proxy is spoken to by https, so the certificate is left to the call"
            yield Finding(name="TLS", state="skip", says=says)
        else:
            failed = _tunnelled(sock, route, timeout)
            yield certificate.look(sock, route, timeout) if failed is None else failed


def _tunnelled(sock: socket.socket, route: Route, timeout: float) -> Finding | None:
    try:
        tunnel(sock, route)
    except TunnelError as error:
        if error.status == 407:
            says = "it refuses the login (407)" if route.proxy and route.proxy.login else "it wants a login (407)"
            advice = f"Put user and password into {route.setting}: http://user:password@host:port, with %40 for @."
        elif error.status is None:
            says, advice = "what answers there is no http proxy", f"Check host and port in {route.setting}."
        else:
            says = f"it does not connect us to {route.host} (status {error.status})"
            advice = f"Ask who runs it to allow {route.host}:{route.port}, or except the host in NO_PROXY."
    except OSError as error:
        says = f"it does not answer within {timeout:g} s" if isinstance(error, TimeoutError) else "it breaks off"
        advice = f"Check {route.setting}: is this a proxy, and does it know {route.host}?"
    else:
        return None
    return Finding(name="proxy", state="fail", says=says, advice=advice)


def _refusal(error: OSError, host: str, port: int, timeout: float) -> str:
    if isinstance(error, ConnectionRefusedError):
        return f"port {port} of {bracketed(host)} is closed"
    if isinstance(error, TimeoutError):
        return f"no answer from port {port} of {bracketed(host)} within {timeout:g} s"
    return f"port {port} of {bracketed(host)} cannot be reached ({error.strerror or type(error).__name__})"


def _way(route: Route, error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        there = f"Check host and port in {route.setting}." if route.setting else "A firewall may refuse it."
        return f"Nothing listens there. {there}"
    if route.proxy:
        return f"Check host and port in {route.setting}, and the network."
    return "A firewall may be in the way. In a company's network, set HTTPS_PROXY=http://host:port to its proxy."
