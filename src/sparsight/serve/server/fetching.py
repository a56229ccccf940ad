"""Fetches remote images under limits: addresses, ports, redirects, types, bytes, seconds.

A host's name is looked up once, its addresses are checked, and the connection goes to the address
that was checked; so for each redirect. A name that changes its address in between gains nothing.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable
from urllib.parse import urljoin

import httpx

from sparsight.errors import InputError
from sparsight.serve.server.settings import Limits

TYPES = ("image/png", "image/jpeg", "image/webp", "image/gif")
PORTS = {"http": 80, "https": 443}
REDIRECTS = (301, 302, 303, 307, 308)
MOST_REDIRECTS = 3
LONGEST_URL = 2048
TRANSLATED = ipaddress.ip_network("64:ff9b::/96")  # IPv4 addresses behind NAT64

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Awaitable[list[str]]]


class Fetcher:
    """Fetches images.

    Args:
        limits: of the server.
        resolve: returns the addresses of a host; None asks the system.
        is_allowed: whether an address may be connected to; None allows public ones.
        ports: that may be connected to, by scheme.
        transport: of httpx; None for the network.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        resolve: Resolve | None = None,
        is_allowed: Callable[[Address], bool] | None = None,
        ports: Iterable[int] = tuple(PORTS.values()),
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._limits = limits
        self._resolve = resolve or look_up
        self._is_allowed = is_allowed or is_public
        self._ports = tuple(ports)
        self._transport = transport

    async def fetch_all(self, urls: Iterable[str]) -> dict[str, bytes]:
        """Return the bytes of images, by URL, one after the other.

        Raises: InputError: one cannot be fetched, or is refused.
        """
        seconds = self._limits.fetch_seconds
        fetched: dict[str, bytes] = {}
        wanted = tuple(dict.fromkeys(urls))
        if not wanted:  # to open a client takes longer than to refuse a request
            return fetched
        try:
            async with asyncio.timeout(seconds), self._open() as client:
                for url in wanted:
                    left = self._limits.fetch_bytes - sum(map(len, fetched.values()))
                    fetched[url] = await self._fetch(client, url, left)
        except TimeoutError:
            raise InputError(f"images did not arrive in {seconds:g} seconds.") from None
        return fetched

    async def _fetch(self, client: httpx.AsyncClient, url: str, most: int) -> bytes:
        shown = url[:60]
        try:
            return await self._follow(client, url, most)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError, ValueError) as error:
            if isinstance(error, InputError | TimeoutError):
                raise
            raise InputError(f"{shown} cannot be fetched ({type(error).__name__}).") from None

    def _open(self) -> httpx.AsyncClient:
        # no proxy or password of the environment: they would lead around the checks
        return httpx.AsyncClient(
            transport=self._transport,
            trust_env=False,
            follow_redirects=False,
            timeout=self._limits.fetch_seconds,
        )

    async def _follow(self, client: httpx.AsyncClient, url: str, most: int) -> bytes:
        for _ in range(MOST_REDIRECTS + 1):
            answer = await self._get(client, url, most)
            if isinstance(answer, bytes):
                return answer
            url = urljoin(url, answer)
        raise InputError(f"{url[:60]} is redirected more than {MOST_REDIRECTS} times.")

    async def _get(self, client: httpx.AsyncClient, url: str, most: int) -> bytes | str:
        """Return an image, or the URL that it is redirected to."""
        target, host = await self._pin(url)
        headers = {"Host": host, "Accept": ", ".join(TYPES), "Accept-Encoding": "identity"}
        names = {"sni_hostname": httpx.URL(url).raw_host.decode("ascii")}
        async with client.stream("GET", target, headers=headers, extensions=names) as response:
            if response.status_code in REDIRECTS and "location" in response.headers:
                return str(response.headers["location"])
            if response.status_code != httpx.codes.OK:
                raise InputError(f"{url[:60]} answers with status {response.status_code}.")
            kind = response.headers.get("content-type", "nothing").partition(";")[0].strip()
            if kind.lower() not in TYPES:
                raise InputError(f"{url[:60]} is {kind[:40]}; {', '.join(TYPES)} are allowed.")
            if response.headers.get("content-encoding", "identity").lower() != "identity":
                raise InputError(f"{url[:60]} is compressed once more, which is refused.")
            return await _read(url, response, most)

    async def _pin(self, url: str) -> tuple[httpx.URL, str]:
        """Return a URL with the address of its host, which was checked, and the host's name."""
        parsed = httpx.URL(url) if len(url) <= LONGEST_URL else None
        if parsed is None or parsed.scheme not in PORTS or not parsed.host or parsed.userinfo:
            raise InputError(f"{url[:60]} is refused; give an http or https URL of an image.")
        port = parsed.port or PORTS[parsed.scheme]
        if port not in self._ports:
            raise InputError(f"{url[:60]}: port {port} is refused.")
        found = await self._resolve(parsed.host, port)
        addresses = [ipaddress.ip_address(text.partition("%")[0]) for text in found]
        if not addresses or not all(map(self._is_allowed, addresses)):
            raise InputError(f"{url[:60]}: its host has no public address.")
        host = parsed.netloc.decode("ascii")
        return parsed.copy_with(host=str(addresses[0]), port=port), host


async def _read(url: str, response: httpx.Response, most: int) -> bytes:
    """Return the body of a response, read no further than allowed."""
    data = bytearray()
    async for part in response.aiter_raw():
        data += part
        if len(data) > most:
            raise InputError(f"{url[:60]} has more bytes than the {most} that are left.")
    return bytes(data)


async def look_up(host: str, port: int) -> list[str]:
    """Return the addresses of a host, as the system knows them."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


def is_public(address: Address) -> bool:
    """Return whether an address, and any other that it stands for, is on the open internet."""
    inner: list[Address | None] = []
    if isinstance(address, ipaddress.IPv6Address):
        inner = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
        if address in TRANSLATED:
            inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    plain = address.is_global and not address.is_multicast and not address.is_reserved
    return plain and all(is_public(other) for other in inner if other is not None)
