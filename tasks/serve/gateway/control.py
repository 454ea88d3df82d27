"""The gateway as a rollout uses it: set each version's weight, and return once Envoy applies it.

A change is written down (`routes.json`), rendered for Envoy, and awaited: a method returns when Envoy runs the
change. Clusters are added before the routes that name them and removed after these, so that no route leads nowhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime

from pydantic import ValidationError

from tasks.serve.gateway.admin import BackendCounters, ClientCounts
from tasks.serve.gateway.discovery import cluster_name
from tasks.serve.gateway.documents import POLL_SECONDS
from tasks.serve.gateway.envoy_process import EnvoyProcess
from tasks.serve.gateway.keys import DEFAULT, Keys, new_key, record_of
from tasks.serve.gateway.routes import NO_LIMITS, Backend, Limits, LineRoute, Mirror, QueuedRequests, Routes
from weighbridge.errors import GatewayFailed
from weighbridge.files import write_whole
from weighbridge.line import StickyBy
from weighbridge.validation import first_fault

QUIET_SECONDS = 1.0
"""How long a backend must have been idle: requests that Envoy routed just before a shift may still be on their way
from one of its threads to the backend."""


Fence = Callable[[], None]
"""Raises where the caller may not change a line's routes any more."""


def no_fence() -> None:
    """Let every caller change the routes."""


class Gateway(EnvoyProcess):
    """The installation's gateway; several objects, in several processes, may exist at once.

    Args:
        settings: the installation's by default.
    """

    # --- routes -----------------------------------------------------------------------------

    def routes(self) -> Routes:
        """Routes as they are written down, whether or not Envoy runs."""
        return self._file.load()

    def set_line(
        self,
        line: str,
        backends: Sequence[Backend],
        *,
        back_at: datetime | None = None,
        queued: QueuedRequests | None = None,
        wait: bool = True,
        fence: Fence = no_fence,
    ) -> None:
        """Give a line exactly these backends and weights.

        Args:
            back_at: of a line without any weight: when its engine is expected again; `Retry-After` of its 503s.
            queued: of a line without any weight: the version that requests wait for, until it is among the backends.
            wait: whether Envoy must be up to take the change; otherwise it takes it when it starts.
            fence: called while no other process can write the routes, before they are changed.

        Raises:
            GatewayFailed: the backends contradict each other, Envoy is not up (nothing is changed then), or
                it did not take the change in time (the change stays written down: repeat it or write another).
        """
        self._change(line, lambda route: _with_backends(route, backends, back_at, queued), wait, fence)

    def shift(self, line: str, weights: dict[str, int], *, wait: bool = True, fence: Fence = no_fence) -> None:
        """Change the weights of a line's backends.

        Args:
            weights: version to per cent, 100 in all, or 0 for none; versions that are not named get 0.
            fence: as in `set_line`.

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

        self._change(line, shifted, wait, fence)

    def remove_backend(self, line: str, version: str, *, wait: bool = True) -> None:
        """Remove a drained backend; harmless if there is none of this version.

        Raises:
            GatewayFailed: it still has a weight or active requests; else as `set_line`.
        """

        def without(route: LineRoute) -> LineRoute:
            if version not in [backend.version for backend in route.backends]:
                return route
            if weight := route.backend(version).weight:
                raise self._busy(line, version, f"gets {weight} per cent of the requests")
            if (wait or self._admin.up()) and (active := self.active_requests(line, version)):
                raise self._busy(line, version, f"still has {active} active requests")
            return _with_backends(route, [backend for backend in route.backends if backend.version != version])

        self._change(line, without, wait)

    def remove_line(self, line: str, *, wait: bool = True) -> None:
        """Remove a line with all its backends, drained or not; harmless if there is none. Its model is unknown then.

        Raises:
            GatewayFailed: a backend still has a weight; else as `set_line`.
        """
        self._require_up(wait)
        with self._file.writing():
            before = self._file.load()
            for backend in before.line(line).backends:
                if backend.weight:
                    raise self._busy(line, backend.version, f"gets {backend.weight} per cent of the requests")
            self._file.save(before.without_line(line))
            self._render(wait)

    def set_sticky(self, line: str, sticky_by: StickyBy, *, wait: bool = True) -> None:
        """Keep a conversation, or all requests of a key, with one version of a line while the weights stay.

        Raises:
            GatewayFailed: as `set_line`.
        """
        self._change(line, lambda route: route.model_copy(update={"sticky_by": sticky_by}), wait)

    def set_mirror(self, line: str, mirror: Mirror | None, *, wait: bool = True, fence: Fence = no_fence) -> None:
        """Mirror a line's requests to a version, whose responses are discarded; None ends it.

        Mirrored requests count in `counters`; they are in the mirror's log, not in the access log.

        Raises:
            GatewayFailed: the line has no such version; else as `set_line`.
        """

        def mirrored(route: LineRoute) -> LineRoute:
            if mirror:
                route.backend(mirror.version)
            return route.model_copy(update={"mirror": mirror})

        self._change(line, mirrored, wait, fence)

    def set_limits(self, line: str, limits: Limits, *, wait: bool = True) -> None:
        """Limit the requests and tokens of each client at a line; limits in a client's own record go before.

        Raises:
            GatewayFailed: as `set_line`.
        """
        self._change(line, lambda route: route.model_copy(update={"limits": limits}), wait)

    # --- counters ----------------------------------------------------------------------------

    def counters(self, line: str, version: str) -> BackendCounters:
        """Read the counters of a backend since Envoy started.

        Raises:
            GatewayFailed: Envoy does not answer or does not run this version.
        """
        return self._admin.counters(cluster_name(line, version))

    def client_counts(self) -> dict[tuple[str, str], ClientCounts]:
        """Read responses to clients since Envoy started, by line and version.

        Raises:
            GatewayFailed: Envoy does not answer.
        """
        return self._admin.client_counts()

    def active_requests(self, line: str, version: str) -> int:
        """Number of a backend's requests in progress, streams included."""
        return self.counters(line, version).active

    def wait_drained(self, line: str, version: str, timeout_seconds: float) -> bool:
        """Wait until a backend is drained: idle for QUIET_SECONDS.

        Returns:
            True if it was drained within the time.

        Raises:
            GatewayFailed: the backend still has a weight, or Envoy does not answer.
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
        """The installation's own API key, named `default`; created at the first use.

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
        """Create an API key for a client; Envoy knows it on return. Only its digest is kept.

        Args:
            expires: time from which on the key is refused.

        Raises:
            GatewayFailed: the name is invalid, or has a key already; else as `set_line`.
        """
        key = new_key()
        record = record_of(key, expires, limits)
        self._change_keys(lambda keys: keys.add(name, record), wait)
        if name == DEFAULT:
            write_whole(self._keys.own, f"{key}\n")
        return key

    def remove_key(self, name: str, *, wait: bool = True) -> None:
        """Remove a client's key; it is refused from the return on.

        Raises:
            GatewayFailed: there is no client of this name; else as `set_line`.
        """

        self._change_keys(lambda keys: keys.without(name), wait)

    # --- implementation ---------------------------------------------------------------------

    def _change_keys(self, changed: Callable[[Keys], Keys], wait: bool) -> None:
        self._require_up(wait)
        with self._file.writing():
            self._keys.save(changed(self._keys.load()))
            self._render(wait)

    def _change(
        self, line: str, changed: Callable[[LineRoute], LineRoute], wait: bool, fence: Fence = no_fence
    ) -> None:
        self._require_up(wait)
        with self._file.writing():
            fence()
            before = self._file.load()
            try:
                # Copies are not validated.
                route = LineRoute.model_validate(changed(before.line(line)).model_dump())
            except ValidationError as error:
                raise GatewayFailed(
                    f"This route of {line} is invalid: {first_fault(error)}.",
                    "Name every version once, with weights that sum to 100 or to 0.",
                    where=line,
                ) from None
            if route != before.line(line) or line not in [known.line for known in before.lines]:
                self._file.save(before.with_line(route))
            # Rendered even if nothing changed: the previous writer may have been killed between the two.
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
    """Replace a route's backends; a mirror is removed with its version."""
    versions = [backend.version for backend in backends]
    mirror = route.mirror if route.mirror and route.mirror.version in versions else None
    changes = {"backends": tuple(backends), "mirror": mirror, "back_at": back_at, "queued": queued}
    return route.model_copy(update=changes)
