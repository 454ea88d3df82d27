"""Health checks of servers, without a proxy, because an installation's servers are on its own network."""

from __future__ import annotations

TIMEOUT_SECONDS = 2.0


def answers(url: str, timeout_seconds: float = TIMEOUT_SECONDS) -> bool:
    """Return whether an address answers with status 200.

    Args:
        url: Usually the address of a health check.
        timeout_seconds: Longest wait for the answer.
    """
    import httpx  # takes half a second, which is paid only by callers that ask

    try:
        return httpx.get(url, timeout=timeout_seconds, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
