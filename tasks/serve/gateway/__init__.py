"""The gateway: one Envoy before all engines, with keys, health checks and weighted versions.

routes.py           which versions get which share (`routes.json`, the single source of truth)
clusters.py         the engines of the routes as Envoy's clusters, with their keys
discovery.py        the routes as Envoy's routes
documents.py        these documents, written and awaited until Envoy runs them
bootstrap.py        Envoy's fixed configuration and its command line
filters.py          the filters of a request: keys, sizes, limits, token counts (two of these in lua/)
tls.py              TLS on the listener
mirrors.py          the path of mirrored requests, whose responses are discarded
logs.py             the access log, and counts for Prometheus
error_responses.py  the gateway's own responses, in the shapes of OpenAI's API
keys.py             the clients' API keys
admin.py            a client of Envoy's admin interface
files.py            the format of Envoy's documents
envoy_process.py    the gateway's files, and the Envoy that reads them
control.py          all of it in one class, for the rollout and the command line
"""

from tasks.serve.gateway.admin import BackendCounters, ClientCounts
from tasks.serve.gateway.control import Gateway
from tasks.serve.gateway.discovery import DIGEST_HEADER, VERSION_HEADER, cluster_name
from tasks.serve.gateway.keys import KeyRecord, Keys
from tasks.serve.gateway.logs import access_log, mirror_log
from tasks.serve.gateway.routes import Backend, Limits, LineRoute, Mirror, QueuedRequests, Routes

__all__ = [
    "DIGEST_HEADER",
    "VERSION_HEADER",
    "Backend",
    "BackendCounters",
    "ClientCounts",
    "Gateway",
    "KeyRecord",
    "Keys",
    "Limits",
    "LineRoute",
    "Mirror",
    "QueuedRequests",
    "Routes",
    "access_log",
    "cluster_name",
    "mirror_log",
]
