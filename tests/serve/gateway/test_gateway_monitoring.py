"""The shipped Prometheus rules and Grafana dashboard, checked against a real Envoy's metrics."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path

import pytest

from tasks.serve.endpoint import Endpoint
from tasks.serve.gateway import Backend, Limits
from tests.serve.gateway.gateway_support import FakeEngine, Running, ask_admin
from tests.support.ports import free_ports
from tests.support.waiting import wait_for
from weighbridge.documents import read_yaml

MONITORING = Path(__file__).parents[3] / "examples" / "monitoring"
RULES = [rule["expr"] for group in read_yaml(MONITORING / "rules.yaml")["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((MONITORING / "grafana.json").read_text())
PANELS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
# Prometheus's own: whether a scrape succeeded.
OWN = {"up"}


@pytest.fixture(scope="module")
def metric_labels(running: Running) -> dict[str, set[str]]:
    """Envoy's metrics after traffic of every kind: metric -> names of its labels."""
    fake = FakeEngine()
    (unused_port,) = free_ports(1)
    gateway = running.gateway
    try:
        gateway.set_line("good", [fake.backend("1", 100)])
        gateway.set_line(
            "bad",
            [
                Backend(
                    version="1", digest="a" * 64, endpoints=(Endpoint(host="127.0.0.1", port=unused_port),), weight=100
                )
            ],
        )
        key = gateway.add_key("limited", limits=Limits(requests_per_minute=1))
        statuses = [running.request("/v1/chat/completions", {"model": "good"}, key=key).status_code for _ in range(2)]
        running.request("/v1/chat/completions", {"model": "good", "stream": True})
        assert [*statuses, running.chat("bad").status_code] == [200, 429, 503]
        text = ""

        def all_there() -> bool:
            nonlocal text
            text = ask_admin(gateway, "/stats/prometheus").text
            return all(f'status="{status}"' in text for status in (200, 429, 503))

        wait_for(all_there, seconds=15)
    finally:
        fake.stop()
    found: dict[str, set[str]] = defaultdict(set)
    for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? ", text, re.MULTILINE):
        found[name] |= set(re.findall(r'(\w+)="', labels))
    return dict(found)


def metrics(expression: str) -> set[str]:
    """Metrics in an expression: words that are neither functions nor in braces, brackets or quotes."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^]]*\]|\b(?:by|without|on) *\([^)]*\)', " ", expression)
    return set(re.findall(r"\b[a-z_]\w*\b(?! *\()", bare)) - {"by", "offset", "and", "or", "unless"}


@pytest.mark.parametrize("expression", [*RULES, *PANELS])
def test_every_used_metric_and_label_exists(metric_labels: dict[str, set[str]], expression: str) -> None:
    named = metrics(expression)
    assert named and named <= set(metric_labels) | OWN
    if named & OWN:
        return
    labels = {
        label for selector in re.findall(r"\{([^}]*)\}", expression) for label in re.findall(r"(\w+)[=!]", selector)
    }
    assert labels <= set().union(*(metric_labels[name] for name in named))


def test_a_missing_metric_is_detected(metric_labels: dict[str, set[str]]) -> None:
    assert metrics('sum by (line) (rate(envoy_weighbridge_answer{a="b"}[5m])) > 0.01') == {"envoy_weighbridge_answer"}
    assert "envoy_weighbridge_answer" not in metric_labels


def test_all_variables_of_the_dashboard_are_defined(metric_labels: dict[str, set[str]]) -> None:
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = {name for name in re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD)) if not name.startswith("__")}
    assert used == variables == {"source", "line"}
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    query = DASHBOARD["templating"]["list"][1]["query"]["query"]
    assert metrics(query) - {"line"} <= set(metric_labels)
