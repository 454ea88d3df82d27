"""The gateway: one Envoy before all engines, with keys, health checks and weighted versions.

routes.py      what is meant to be served (`routes.json`, the single truth)
discovery.py   that, as Envoy's clusters and routes
documents.py   these, written and awaited until Envoy runs them
bootstrap.py   Envoy's fixed configuration and its command line
filters.py     what a request passes: keys, sizes, limits, token counts (two of these in lua/)
tls.py         TLS on the listener
mirrors.py     the path of requests that are mirrored to a version; its responses are discarded
logs.py        the access log, and counts for Prometheus
answers.py     what the gateway says by itself, in the shapes of OpenAI's API
keys.py        the clients' API keys
admin.py       what a running Envoy says of itself
installation.py  the files of all this, and the Envoy that reads them
control.py     all of it in one class, for the rollout and the command line
"""

from tasks.serve.gateway.admin import Answered, BackendCounters
from tasks.serve.gateway.control import Gateway
from tasks.serve.gateway.discovery import DIGEST_HEADER, VERSION_HEADER, cluster_name
from tasks.serve.gateway.keys import KeyRecord, Keys
from tasks.serve.gateway.logs import access_log, mirror_log
from tasks.serve.gateway.routes import Backend, Limits, LineRoute, Mirror, QueuedRequests, Routes

__all__ = [
    "DIGEST_HEADER",
    "VERSION_HEADER",
    "Answered",
    "Backend",
    "BackendCounters",
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
