"""Endpoint settings that cannot be right are rejected without showing what may be secret."""

from __future__ import annotations

import pytest

from talaria.coder.errors import UsageError
from talaria.lsp.endpoint_settings import EndpointSettings, check, is_loopback

KEY = "sk-a-very-secret-key-0123456789"


def settings(
    url: str = "https://host/v1/completions",
    *,
    key_variable: str | None = "TALARIA_TEST_KEY",
    timeout_seconds: float = 5.0,
) -> EndpointSettings:
    """Valid settings, except for what a test names."""
    return EndpointSettings(url, "coder", key_variable, timeout_seconds)


BAD: list[tuple[EndpointSettings, str]] = [
    (settings("ftp://host/x"), "begins with ftp"),
    (settings("file:///etc/passwd"), "is not a URL"),
    (settings("host/v1"), "is not a URL"),
    (settings(""), "is not a URL"),
    (settings("https://"), "is not a URL"),
    (settings("https://ho st/"), "is not a URL"),
    (settings("https://host:99999/"), "is not a URL"),
    (settings("https://host:x/"), "is not a URL"),
    (settings("https://[::1/"), "is not a URL"),
    (settings("https://host/\r\nX: y"), "is not a URL"),
    (settings("javascript://host/x"), "begins with javascript"),
    (settings("https://user:pw12345@host/"), "a user name or password"),
    (settings(key_variable=KEY), "current value is not shown"),
    (settings(key_variable="abcdef0123456789abcdef0123456789"), "current value is not shown"),
    (settings(timeout_seconds=0), "endpoint_timeout_ms is 0"),
    (settings(timeout_seconds=float("nan")), "endpoint_timeout_ms is nan"),
    (settings(timeout_seconds=float("inf")), "endpoint_timeout_ms is inf"),
]


@pytest.mark.parametrize(("wrong", "said"), BAD)
def test_invalid_settings(wrong: EndpointSettings, said: str) -> None:
    """They are rejected before any request, and nothing secret is shown."""
    with pytest.raises(UsageError, match=said) as raised:
        check(wrong)
    for secret in ("pw12345", KEY, "abcdef0123456789"):
        assert secret not in str(raised.value)


def test_loopback_hosts() -> None:
    """Addresses of the loopback network and `localhost`."""
    here = ("127.0.0.1", "127.9.9.9", "::1", "localhost", "a.localhost")
    there = ("10.0.0.1", "localhost.example.org", "128.0.0.1", "")
    assert all(is_loopback(host) for host in here)
    assert not any(is_loopback(host) for host in there)
