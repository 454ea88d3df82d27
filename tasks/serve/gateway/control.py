"""The gateway as the rollout sees it: say which version gets how much, and know when that is so.

A change is written down (`routes.json`), rendered for Envoy, and awaited: a method returns when Envoy
runs the change. Clusters come before the routes that name them and go after these, so that no request
meets a route into nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime

from pydantic import ValidationError

from tasks.serve.gateway.admin import Answered, BackendCounters
from tasks.serve.gateway.discovery import cluster_name
from tasks.serve.gateway.documents import POLL_SECONDS
from tasks.serve.gateway.envoy_process import Installation
from tasks.serve.gateway.keys import DEFAULT, Keys, new_key, record_of
from tasks.serve.gateway.routes import NO_LIMITS, Backend, Limits, LineRoute, Mirror, QueuedRequests, Routes
from weighbridge.errors import GatewayFailed
from weighbridge.files import write_whole
from weighbridge.line import StickyBy

QUIET_SECONDS = 1.0
"""How long a backend must have had nothing to do: requests that Envoy routed just before a shift may still
be on their way from one of its threads to the backend."""


class Gateway(Installation):
    """The installation's gateway; several may be made, in several processes, at once.

    Args:
        settings: the installation's by default.
    """

    # --- routes -----------------------------------------------------------------------------

    def routes(self) -> Routes:
        """What is meant to be served, whether or not Envoy runs."""
        return self._file.load()

    def set_line(
        self,
        line: str,
        backends: Sequence[Backend],
        *,
        back_at: datetime | None = None,
        queued: QueuedRequests | None = None,
        wait: bool = True,
    ) -> None:
        """Give a line exactly these backends and weights.

        Args:
            back_at: of a line that gets no weight, when it is expected to have one again; its 503s tell.
            queued: the same line's requests wait for this version, and go to it once it is among the backends.
            wait: whether Envoy must be there to take it; otherwise it takes it when it starts.

        Raises:
            GatewayFailed: the backends contradict each other, Envoy is not up (nothing is changed then), or
                it did not take the change in time (the change stays written down: repeat it or write another).
        """
        self._change(line, lambda route: _with_backends(route, backends, back_at, queued), wait)

    def shift(self, line: str, weights: dict[str, int], *, wait: bool = True) -> None:
        """Share a line's requests out anew among the backends that it has.

        Args:
            weights: version to per cent, 100 in all, or 0 for none; versions not named get nothing.

        Raises:
            GatewayFailed: the line has no such version; else as `set_line`.
        """

        def shifted(route: LineRoute) -> LineRoute:
            for version in weights:
                route.backend(version)
            return _with_backends(
                route,
                [backend.model_copy(update={"weight": weights.get(backend.version, 0)}) for backend in route.backends],
            )

        self._change(line, shifted, wait)

    def remove_backend(self, line: str, version: str, *, wait: bool = True) -> None:
        """Take a drained backend away; one that is not there is no matter.

        Raises:
            GatewayFailed: it still gets requests or still answers some; else as `set_line`.
        """

        def without(route: LineRoute) -> LineRoute:
            if version not in [backend.version for backend in route.backends]:
                return route
            if weight := route.backend(version).weight:
                raise self._busy(line, version, f"gets {weight} per cent of the requests")
            if (wait or self._admin.up()) and (active := self.active_requests(line, version)):
                raise self._busy(line, version, f"still answers {active} requests")
            return _with_backends(route, [backend for backend in route.backends if backend.version != version])

        self._change(line, without, wait)

    def set_sticky(self, line: str, sticky_by: StickyBy, *, wait: bool = True) -> None:
        """Keep a conversation, or all that a key asks, with one version of a line while the weights stay.

        Raises:
            GatewayFailed: as `set_line`.
        """
        self._change(line, lambda route: route.model_copy(update={"sticky_by": sticky_by}), wait)

    def set_mirror(self, line: str, mirror: Mirror | None, *, wait: bool = True) -> None:
        """Ask a version too, beside the one that answers, and drop what it says; None ends it.

        Its requests count in `counters`, not in the access log, which tells what clients met.

        Raises:
            GatewayFailed: the line has no such version; else as `set_line`.
        """

        def mirrored(route: LineRoute) -> LineRoute:
            if mirror:
                route.backend(mirror.version)
            return route.model_copy(update={"mirror": mirror})

        self._change(line, mirrored, wait)

    def set_limits(self, line: str, limits: Limits, *, wait: bool = True) -> None:
        """Limit what each client may ask of a line; a client's own record goes before.

        Raises:
            GatewayFailed: as `set_line`.
        """
        self._change(line, lambda route: route.model_copy(update={"limits": limits}), wait)

    # --- what goes on -----------------------------------------------------------------------

    def counters(self, line: str, version: str) -> BackendCounters:
        """How a backend has fared since Envoy started.

        Raises:
            GatewayFailed: Envoy does not answer or does not run this version.
        """
        return self._admin.counters(cluster_name(line, version))

    def answered(self) -> dict[tuple[str, str], Answered]:
        """What clients have met since Envoy started, by line and version.

        Raises:
            GatewayFailed: Envoy does not answer.
        """
        return self._admin.answered()

    def active_requests(self, line: str, version: str) -> int:
        """Requests that a backend is answering, streams included."""
        return self.counters(line, version).active

    def wait_drained(self, line: str, version: str, timeout_seconds: float) -> bool:
        """Wait until a backend has had nothing to do for QUIET_SECONDS.

        Returns:
            Whether that came within the time.

        Raises:
            GatewayFailed: the backend still gets new requests, or Envoy does not answer.
        """
        if weight := self.routes().line(line).backend(version).weight:
            raise self._busy(line, version, f"gets {weight} per cent of the requests")
        deadline = time.monotonic() + timeout_seconds
        quiet_since: float | None = None
        while True:
            now = time.monotonic()
            if self.active_requests(line, version):
                quiet_since = None
            else:
                quiet_since = now if quiet_since is None else quiet_since
                if now - quiet_since >= QUIET_SECONDS:
                    return True
            if now >= deadline:
                return False
            time.sleep(POLL_SECONDS)

    # --- keys -------------------------------------------------------------------------------

    def key(self) -> str:
        """The installation's own API key, named `default`; the first use makes it.

        Raises:
            GatewayFailed: it was removed.
        """
        self.keys()
        try:
            return self._keys.own.read_text().strip()
        except FileNotFoundError:
            raise GatewayFailed(
                "This installation has no API key of its own any more.",
                f"Make it again with `weighbridge key add {DEFAULT}`, or use a client's.",
                where=str(self._keys.own),
            ) from None

    def keys(self) -> Keys:
        """All clients' keys, as digests."""
        if self._keys.path.exists():
            return self._keys.load()
        with self._file.writing():
            return self._keys.load()

    def add_key(
        self, name: str, expires: datetime | None = None, limits: Limits = NO_LIMITS, *, wait: bool = True
    ) -> str:
        """A new API key for a client, known to Envoy on return; what is kept of it is a digest.

        Args:
            expires: from when on it is refused.

        Raises:
            GatewayFailed: the name cannot be used, or has a key; else as `set_line`.
        """
        key = new_key()
        record = record_of(key, expires, limits)
        self._change_keys(lambda keys: keys.add(name, record), wait)
        if name == DEFAULT:
            write_whole(self._keys.own, f"{key}\n")
        return key

    def remove_key(self, name: str, *, wait: bool = True) -> None:
        """Take a client's key away; from the return on it is refused.

        Raises:
            GatewayFailed: no client is called so; else as `set_line`.
        """

        self._change_keys(lambda keys: keys.without(name), wait)

    # --- behind the door --------------------------------------------------------------------

    def _change_keys(self, changed: Callable[[Keys], Keys], wait: bool) -> None:
        self._require_up(wait)
        with self._file.writing():
            self._keys.save(changed(self._keys.load()))
            self._render(wait)

    def _change(self, line: str, changed: Callable[[LineRoute], LineRoute], wait: bool) -> None:
        self._require_up(wait)
        with self._file.writing():
            before = self._file.load()
            try:
                # Copies have not been checked yet.
                route = LineRoute.model_validate(changed(before.line(line)).model_dump())
            except ValidationError as error:
                raise GatewayFailed(
                    f"This route of {line} cannot be: {error.errors()[0]['msg']}.",
                    "Name every version once, with weights that sum to 100 or to 0.",
                    where=line,
                ) from None
            if route != before.line(line) or line not in [known.line for known in before.lines]:
                self._file.save(before.with_line(route))
            # Rendered even when nothing changed: the writer before may have been killed between the two.
            self._render(wait)

    @staticmethod
    def _busy(line: str, version: str, why: str) -> GatewayFailed:
        return GatewayFailed(
            f"Version {version} of {line} {why}.",
            "Shift its requests to another version and wait until it is drained.",
            where=f"{line}@{version}",
        )


def _with_backends(
    route: LineRoute, backends: Sequence[Backend], back_at: datetime | None = None, queued: QueuedRequests | None = None
) -> LineRoute:
    """A route with other backends; a mirror goes with its version."""
    versions = [backend.version for backend in backends]
    mirror = route.mirror if route.mirror and route.mirror.version in versions else None
    now = {"backends": tuple(backends), "mirror": mirror, "back_at": back_at, "queued": queued}
    return route.model_copy(update=now)
