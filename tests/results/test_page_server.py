"""The server of clipfeat-view: where it listens, and to whom. Only harmless markup, and only this machine."""

import socket
import urllib.error
import urllib.request

import pytest

from clipfeat.errors import ConfigError
from clipfeat.results.page_server import as_text, is_own_page, open_server, paragraphs


@pytest.mark.parametrize(
    ("origin", "host", "local", "own"),
    [
        ("http://127.0.0.1:8080", "127.0.0.1:8080", True, True),
        ("http://localhost:9000", "localhost:9000", True, True),  # by ssh -L
        ("http://[::1]:8080", "[::1]:8080", True, True),
        (None, "127.0.0.1:8080", True, True),
        ("http://example.org", "127.0.0.1:8080", True, False),
        ("http://localhost:3000", "localhost:8080", True, False),  # another page of this machine
        ("null", "127.0.0.1:8080", True, False),  # a local file, or a frame without an origin
        ("http://example.org:8080", "example.org:8080", True, False),  # a name that leads here
        (None, "example.org:8080", True, False),
        (None, None, True, False),
        ("http://workstation:8080", "workstation:8080", False, True),
        ("http://example.org", "workstation:8080", False, False),
    ],
)
def test_only_the_page_itself_is_answered(origin, host, local, own):
    assert is_own_page(origin, host, local=local) == own


@pytest.fixture
def server():
    pytest.importorskip("viser")
    opened = open_server("127.0.0.1", 0)
    yield opened
    opened.stop()


def test_pages_of_other_sites_reach_no_socket(server):
    import viser
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    port = server.get_port()
    url, about = f"ws://127.0.0.1:{port}", {"subprotocols": [f"viser-v{viser.__version__}"]}
    with connect(url, origin=f"http://127.0.0.1:{port}", **about) as own:
        assert own.recv()
    with connect(url, **about) as program:
        assert program.recv()
    for origin in ("http://example.org", "null", f"http://localhost:{port}"):
        with pytest.raises(InvalidStatus, match="403"):
            connect(url, origin=origin, **about)


def test_the_page_is_not_given_to_a_name_that_leads_here(server):
    url = f"http://127.0.0.1:{server.get_port()}"
    with urllib.request.urlopen(url) as page:
        assert page.status == 200
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(urllib.request.Request(url, headers={"Host": "example.org"}))


def test_a_port_that_is_taken_gives_the_next_one():
    pytest.importorskip("viser")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = open_server("127.0.0.1", port)
        assert port < server.get_port() < port + 100
        server.stop()


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [
        ("127.0.0.1", 99999, r"--port 99999: expected 0 \(any that is free\) to 65535"),
        ("127.0.0.1", -1, "--port -1: expected 0"),
        ("192.0.2.1", 8080, r"--host 192.0.2.1 --port 0: can't listen there \(.*\)"),
        ("no host", 0, r"--host no host --port 0: can't listen there \(.*\)"),
        ("a" * 70, 8080, r"--host a+ --port 0: can't listen there \(.*\)"),
    ],
)
def test_where_nobody_can_listen_is_said_in_a_line(host, port, message):
    pytest.importorskip("viser")
    with pytest.raises(ConfigError, match=f"^{message}$|^{message}"):
        open_server(host, port)


def test_text_is_no_markup():
    assert as_text('<b>&amp;"') == "&lt;b&gt;&amp;amp;&quot;"
    assert paragraphs() == paragraphs("", "") == ""
    assert "<p style" in paragraphs("a")
