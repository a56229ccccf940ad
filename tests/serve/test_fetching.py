"""Remote images: which addresses are reached, and what is taken from them."""

import asyncio
import ipaddress
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from PIL import Image

from sparsight.errors import InputError
from sparsight.serve.server.fetching import Fetcher, is_public
from sparsight.serve.server.settings import Limits
from tests.support import server
from tests.support.server import answer, asks, encode, picture, post

PUBLIC = "93.184.216.34"
DATA = encode(Image.effect_noise((40, 30), 90).convert("RGB"))
NAMES = {
    "here.test": ["127.0.0.1"],
    "inside.test": ["10.0.0.8"],
    "both.test": [PUBLIC, "192.168.1.1"],
    "nowhere.test": [],
    "open.test": [PUBLIC],
}


async def look_up(host, port):
    del port
    return NAMES.get(host, [host])


def fetcher(handle, **limits):
    return Fetcher(
        Limits(**{"fetch_bytes": 10_000, "fetch_seconds": 0.5, **limits}),
        resolve=look_up,
        transport=httpx.MockTransport(handle),
    )


def fetch(handle, *urls, **limits):
    return asyncio.run(fetcher(handle, **limits).fetch_all(urls))


def image(request):
    del request
    return httpx.Response(200, stream=httpx.ByteStream(DATA), headers={"Content-Type": "image/png"})


@pytest.mark.parametrize(
    "address",
    [
        *["127.0.0.1", "127.1.2.3", "10.1.1.1", "172.16.0.1", "192.168.0.1"],
        *["169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255", "198.18.0.1"],
        *["::1", "::", "fe80::1", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"],
        *["64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001:0:1:1:1:1:80ff:fffe"],
        *["192.0.2.1", "240.0.0.1", "::127.0.0.1"],
    ],
)
def test_addresses_that_are_not_public(address):
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", [PUBLIC, "1.1.1.1", "2606:4700::1111"])
def test_addresses_that_are_public(address):
    assert is_public(ipaddress.ip_address(address))


def test_the_connection_goes_to_the_address_that_was_checked():
    seen = []

    def handle(request):
        seen.append((request.url.host, request.headers["host"], request.extensions))
        return image(request)

    assert fetch(handle, "https://open.test/a.png") == {"https://open.test/a.png": DATA}
    host, name, extensions = seen[0]
    assert (host, name) == (PUBLIC, "open.test")
    assert extensions["sni_hostname"] == "open.test"


REFUSED = {
    "http://here.test/a": "no public address",
    "http://inside.test/a": "no public address",
    "http://both.test/a": "no public address",
    "http://nowhere.test/a": "no public address",
    "http://127.0.0.1/a": "no public address",
    "http://[::1]/a": "no public address",
    "http://[fe80::1%25eth0]/a": "public|cannot|refused",
    "http://169.254.169.254/latest/meta-data": "no public address",
    "http://open.test:22/a": "port 22 is refused",
    "http://me:word@open.test/a": "is refused",
    "http:///a": "is refused",
    "http://open.test/" + "a" * 3_000: "is refused",
    "http://open\u2024test/a": "public|cannot|refused",
    "http://[/a": "cannot be fetched",
    "http://open.test:99999/a": "cannot|refused",
}


@pytest.mark.parametrize("url", REFUSED, ids=lambda url: url[:40])
def test_urls(url):
    def handle(request):
        raise AssertionError(f"{request.url} was fetched")

    with pytest.raises(InputError, match=REFUSED[url]):
        fetch(handle, url)


@pytest.mark.parametrize(
    ("place", "part"),
    [
        ("http://inside.test/a", "no public address"),
        ("//169.254.169.254/a", "no public address"),
        ("file:///etc/passwd", "is refused"),
        ("/again", "redirected more than 3 times"),
    ],
)
def test_redirects_are_checked_again(place, part):
    def handle(request):
        assert request.url.host == PUBLIC
        return httpx.Response(302, headers={"Location": place})

    with pytest.raises(InputError, match=part):
        fetch(handle, "http://open.test/a")


def test_a_redirect_is_followed():
    def handle(request):
        if request.url.path == "/a":
            return httpx.Response(302, headers={"Location": "/b"})
        return image(request)

    assert fetch(handle, "http://open.test/a") == {"http://open.test/a": DATA}


@pytest.mark.parametrize(
    ("response", "part"),
    [
        (httpx.Response(404), "status 404"),
        (httpx.Response(200, content=DATA), "is nothing"),
        (httpx.Response(200, content=DATA, headers={"Content-Type": "text/html"}), "text/html"),
        (
            httpx.Response(
                200,
                stream=httpx.ByteStream(bytes(20_000)),
                headers={"Content-Type": "image/png"},
            ),
            "more bytes than the 10000",
        ),
        (
            httpx.Response(
                200,
                stream=httpx.ByteStream(b"x"),
                headers={"Content-Type": "image/png", "Content-Encoding": "gzip"},
            ),
            "compressed once more",
        ),
    ],
    ids=["404", "no type", "html", "large", "gzip"],
)
def test_responses(response, part):
    with pytest.raises(InputError, match=part):
        fetch(lambda _: response, "http://open.test/a")


def test_limits_hold_for_all_images_together():
    urls = [f"http://open.test/{number}" for number in range(9)]
    assert len(fetch(image, *urls[:2], fetch_bytes=2 * len(DATA))) == 2
    with pytest.raises(InputError, match=r"/2 has more bytes than the 0"):
        fetch(image, *urls, fetch_bytes=2 * len(DATA))

    async def slowly(request):
        await asyncio.sleep(0.2)
        return image(request)

    with pytest.raises(InputError, match=r"did not arrive in 0\.5 seconds"):
        fetch(slowly, *urls, fetch_bytes=10**6)

    def broken(request):
        raise httpx.ReadError("secret", request=request)

    with pytest.raises(InputError, match=r"cannot be fetched \(ReadError\)"):
        fetch(broken, urls[0])


class Images(BaseHTTPRequestHandler):
    """Serves one image to whoever names the right host."""

    def do_GET(self):
        self.send_response(200 if self.headers["Host"].startswith("images.test") else 404)
        self.send_header("Content-Type", "image/png")
        self.end_headers()
        self.wfile.write(DATA)

    def log_message(self, *_):
        pass


def test_served_with_remote_images_over_a_real_connection():
    """The check of addresses is replaced, as a test has no public one."""
    inner = ThreadingHTTPServer(("127.0.0.1", 0), Images)
    threading.Thread(target=inner.serve_forever, daemon=True).start()
    port = inner.server_port

    async def here(host, port):
        del host, port
        return ["127.0.0.1"]

    loose = Fetcher(Limits(), resolve=here, is_allowed=lambda _: True, ports=[port])
    url = f"http://images.test:{port}/a.png"
    with server.serving(*server.tiny_pair(), loose, remote_images=True) as service:
        fetched = answer(post(service, asks(url))[0])
        assert fetched == answer(post(service, asks(server.data_url(DATA)))[0])
        assert post(service, asks(f"http://other.test:{port}/a"))[0].status_code == 400
        assert post(service, asks("ftp://images.test/a"))[0].status_code == 400
    with server.serving(*server.tiny_pair(), remote_images=True) as service:
        reply = post(service, asks(f"http://127.0.0.1:{port}/a", picture()))[0]
        assert reply.status_code == 400
        assert "refused" in reply.json()["error"]["message"]
    inner.shutdown()
    inner.server_close()
