"""Whether a server answers, asked without a proxy: servers of an installation are on its own network."""

from __future__ import annotations

TIMEOUT_SECONDS = 2.0


def answers(url: str, timeout_seconds: float = TIMEOUT_SECONDS) -> bool:
    """Whether an address answers with status 200.

    Args:
        url: usually of a health check.
        timeout_seconds: longest wait for the answer.
    """
    import httpx  # half a second that callers need not pay before they ask

    try:
        return httpx.get(url, timeout=timeout_seconds, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
