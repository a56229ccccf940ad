"""Settings of the server: what it serves, where, and the limits of every request."""

import ipaddress
from dataclasses import dataclass, field, fields

from sparsight.errors import SettingError
from sparsight.methods import default_method
from sparsight.methods.method import Method

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Limits:
    """What a request may cost, at most.

    Args:
        body_bytes: of a request's body.
        body_seconds: until the whole body has arrived.
        text: characters of all turns together.
        images: in one request.
        pixels: of all images of a request together, checked before they are decoded.
        tokens: that an answer may have; a request may ask for fewer.
        queue: requests that wait; one more is refused.
        queue_seconds: that a request waits before it is refused.
        answer_seconds: from the start of an answer to its end.
        batch: requests of equal settings that are answered together.
        connections: open at the same time.
        stop_seconds: that running requests get to finish after SIGTERM.
        fetch_seconds: to fetch all remote images of a request, redirects included.
        fetch_bytes: of all remote images of a request.
    """

    body_bytes: int = 20 * MEGABYTE
    body_seconds: float = 30.0
    text: int = 100_000
    images: int = 8
    pixels: int = 25_000_000
    tokens: int = 1024
    queue: int = 64
    queue_seconds: float = 60.0
    answer_seconds: float = 300.0
    batch: int = 8
    connections: int = 256
    stop_seconds: float = 30.0
    fetch_seconds: float = 10.0
    fetch_bytes: int = 10 * MEGABYTE

    def __post_init__(self) -> None:
        """Check that every limit lets something through."""
        for limit in fields(self):
            value = getattr(self, limit.name)
            if value <= 0:
                raise SettingError(f"{limit.name}={value} lets nothing through; give more than 0.")


@dataclass(frozen=True)
class Settings:
    """What is served.

    Args:
        name: of the model, as requests give it.
        method: that prunes where a request names none; None for the dense model.
        retain: budget of a method that a request names without one.
        api_key: that requests must bring; None lets everybody in.
        remote_images: whether images are fetched from http and https URLs.
        limits: of every request.
    """

    name: str = "embedded"
    method: Method | None = field(default_factory=lambda: default_method(192))
    retain: float = 192
    api_key: str | None = None
    remote_images: bool = False
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        """Check the key."""
        if self.api_key is not None and not self.api_key.strip():
            raise SettingError("the API key is empty; give one, or leave it out.")


def is_open(host: str) -> bool:
    """Return whether other machines can reach a host name or address that is listened on."""
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"
