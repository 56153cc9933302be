"""Where a fill-in-the-middle endpoint is, and whether that can be right."""

from __future__ import annotations

import ipaddress
import math
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from talaria.coder.errors import UsageError


@dataclass(frozen=True)
class EndpointSettings:
    """Address, model and credentials of an endpoint.

    model         name of the model, as the endpoint calls it; None if it serves only one
    key_variable  name of the environment variable that holds the API key, never the key itself;
                  None if the endpoint needs no key
    """

    url: str
    model: str | None
    key_variable: str | None
    timeout_seconds: float


def check(settings: EndpointSettings) -> None:
    """Reject settings that cannot be right; the URL is not shown, since it may hold a secret.

    Raises:
        UsageError: names the option and says what it must be.
    """
    url = settings.url
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or not url.isprintable() or " " in url:
        raise UsageError("endpoint is not a URL: give one like https://host/v1/completions")
    if parts.scheme not in ("http", "https"):
        raise UsageError(f"endpoint begins with {parts.scheme}: give an http or https URL")
    if "@" in parts.netloc:
        raise UsageError(
            "endpoint contains a user name or password: put the key into an environment variable "
            "and set endpoint_key_variable to its name"
        )
    variable = settings.key_variable
    if variable is not None and not re.fullmatch(r"[A-Z][A-Z0-9_]{0,63}", variable):
        raise UsageError(
            "endpoint_key_variable must be the name of an environment variable in capitals, like "
            "MISTRAL_API_KEY; its current value is not shown, since it may be a key"
        )
    if not 0 < settings.timeout_seconds < math.inf:
        raise UsageError(
            f"endpoint_timeout_ms is {1000 * settings.timeout_seconds}; it must be positive "
            "and finite"
        )


def is_loopback(host: str) -> bool:
    """Whether a host name refers to this machine, without asking DNS."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
