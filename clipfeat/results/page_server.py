"""Where the page of ``clipfeat-view`` comes from: its port, who may ask for it, and what text may be in it."""

import errno
import html
import ipaddress
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from clipfeat.errors import ConfigError

log = logging.getLogger(__name__)

_LAST_PORT = 65535
_TRIED_PORTS = 1000


def as_text(text: object) -> str:
    """A text that the page shows as it is, whoever wrote it: nothing in it is markup."""
    return html.escape(str(text), quote=True)


def paragraphs(*texts: str) -> str:
    """HTML of what the page says: each text is HTML already, or made so by ``as_text``."""
    lines = "".join(f'<p style="margin: 0 0 0.5em">{text}</p>' for text in texts if text)
    return f'<div style="padding: 0 1em; font-size: 0.875em; overflow-wrap: anywhere">{lines}</div>' if lines else ""


def open_server(host: str, port: int) -> Any:
    """A viser server that prints nothing of its own; on the next free port, if the port is taken.

    Raises:
        ConfigError: If viser is not installed, or nobody can listen there.
    """
    try:
        import rich
        import viser
    except ImportError as error:
        raise ConfigError('clipfeat-view needs the package viser: pip install "clipfeat[view]"') from error
    port = _free_port(host, port)  # viser ends in a traceback, or waits for ever, where it can't listen
    rich.get_console().quiet = True
    with _own_pages_only(host):
        server = viser.ViserServer(host, port, label="clipfeat", verbose=False)
    # The share button would hand the page over to a server in the internet.
    server.gui.configure_theme(show_logo=False, show_share_button=False, control_width="large")
    return server


def _free_port(host: str, port: int) -> int:
    if not 0 <= port <= _LAST_PORT:
        raise ConfigError(f"--port {port}: expected 0 (any that is free) to {_LAST_PORT}")
    if port == 0:
        _listen(host, 0)
        return 0
    last = min(port + _TRIED_PORTS, _LAST_PORT + 1)
    why: ConfigError | None = None
    for tried in range(port, last):
        try:
            _listen(host, tried)
            return tried
        except ConfigError as error:
            why = why or error
            _listen(host, 0)  # or it is the host
    raise ConfigError(f"{why}; nor at any port up to {last - 1}: give another --port, or 0 for any")


def _listen(host: str, port: int) -> None:
    """Listens there for a moment.

    Raises:
        ConfigError: If that can't be done.
    """
    listens = 0
    why: str | None = "no such address"
    try:
        flags = socket.AI_PASSIVE
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags):
            with socket.socket(family, kind, protocol) as tried:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    tried.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                try:
                    tried.bind(address)
                    tried.listen()
                    listens += 1
                except OSError as error:
                    if error.errno != errno.EADDRNOTAVAIL:  # localhost has an IPv6 address where there is no IPv6
                        raise
                    why = error.strerror
    except (OSError, UnicodeError) as error:  # a name may be too long to be one
        listens, why = 0, getattr(error, "strerror", None) or str(error)
    if not listens:
        raise ConfigError(f"--host {host} --port {port}: can't listen there ({why})")


def is_own_page(origin: str | None, host: str | None, *, local: bool) -> bool:
    """Whether a request comes from the page itself: a page of another site may reach this machine's ports too.

    Args:
        origin: what the browser says of the page that asks; None where nobody says (a program, or the first visit).
        host: by what name, and port, the server was asked for.
        local: whether only this machine is served. Then a name that merely leads here is refused.
    """
    if local and not _is_loopback(urlsplit(f"//{host or ''}").hostname):
        return False
    return origin is None or urlsplit(origin).netloc.lower() == (host or "").lower()


def _is_loopback(name: str | None) -> bool:
    if name is None or name == "localhost" or name.endswith(".localhost"):
        return name is not None
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


@contextmanager
def _own_pages_only(host: str) -> Iterator[None]:
    """Servers that viser starts meanwhile refuse what other pages ask for; viser itself has no word for that."""
    from http import HTTPStatus

    from websockets.asyncio import server

    serve, local, used = server.serve, _is_loopback(host), []

    def guarded(*args: Any, process_request: Callable[[Any, Any], Any] | None = None, **about: Any) -> Any:
        def check(connection: Any, request: Any) -> Any:
            origins, hosts = request.headers.get_all("Origin"), request.headers.get_all("Host")
            once = len(origins) < 2 and len(hosts) == 1
            if not once or not is_own_page(next(iter(origins), None), hosts[0], local=local):
                return connection.respond(HTTPStatus.FORBIDDEN, "clipfeat: asked for by the page of another site\n")
            return None if process_request is None else process_request(connection, request)

        used.append(True)
        return serve(*args, process_request=check, **about)

    server.serve = guarded  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        server.serve = serve  # type: ignore[misc]
    if not used:
        log.warning("WARNING this viser starts its server in a way of its own: pages of other sites are not kept away")
