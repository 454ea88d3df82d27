"""`manifests`: a line's versions for a Kubernetes cluster, as YAML for kubectl, Argo CD or Flux."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from cli.output import JsonOption, LineArgument, show_json

WEIGHT = re.compile(r"(\d+)=(\d{1,3})")
HOW = "Write it as --weight 7=90 --weight 8=10."

if TYPE_CHECKING:
    from tasks.serve.fleet.kubernetes import PlacedVersion
    from weighbridge.line import Line


def manifests(
    line: LineArgument,
    image: Annotated[str, typer.Option(help="Container image with the engine in it, best by digest.")],
    weight: Annotated[
        list[str] | None, typer.Option(help="VERSION=PERCENT, 100 in all. [default: production=100, previous=0]")
    ] = None,
    namespace: Annotated[str, typer.Option(help="Of everything that is made.")] = "default",
    gateway: Annotated[str, typer.Option(help="Gateway that the route hangs on.")] = "weighbridge",
    claim: Annotated[str, typer.Option(help="PersistentVolumeClaim that holds the store.")] = "weighbridge-store",
    gpu_resource: Annotated[str, typer.Option(help="What the device plug-in calls a GPU.")] = "nvidia.com/gpu",
    as_json: JsonOption = False,
) -> None:
    """Print Deployments, Services and the HTTPRoute of a line's versions. Nothing is applied.

    weighbridge manifests llama --image vllm/vllm-openai@sha256:… | kubectl diff -f -
    """
    import yaml
    from pydantic import ValidationError

    from tasks.serve.fleet.kubernetes import Cluster
    from tasks.serve.fleet.kubernetes import manifests as made_of
    from weighbridge.errors import OptionInvalid
    from weighbridge.line import Line
    from weighbridge.settings import load_settings, use_libraries

    use_libraries(load_settings())
    configured = Line.load(line)
    try:
        cluster = Cluster(image=image, namespace=namespace, gateway=gateway, claim=claim, gpu_resource=gpu_resource)
        found = made_of(configured, _placed(configured, weight or []), cluster)
    except ValidationError as error:
        first = error.errors()[0]
        raise OptionInvalid(
            f"{first['msg']}.", "Correct the option named.", f"--{'.'.join(map(str, first['loc']))}"
        ) from None
    except ValueError as error:
        raise OptionInvalid(f"{error}.", HOW, "--weight") from None
    if as_json:
        show_json({"apiVersion": "v1", "kind": "List", "items": found})
        return
    print(yaml.safe_dump_all(found, sort_keys=False), end="")


def _placed(line: Line, weights: list[str]) -> list[PlacedVersion]:
    from cli.output import note
    from registry.models.registry import Registry
    from registry.store import Store
    from tasks.serve.fleet.kubernetes import PlacedVersion
    from tasks.serve.memory_check import planned_rows
    from weighbridge.errors import OptionInvalid, VersionUnknown

    registry, store = Registry(), Store()
    if weights:
        shares = [WEIGHT.fullmatch(one) for one in weights]
        if not all(shares):
            raise OptionInvalid(f"{' '.join(weights)} is no version and its per cent.", HOW, "--weight")
        wanted = [(registry.version(line.name, int(one[1])), int(one[2])) for one in shares if one]
    else:
        production, previous = registry.production(line.name), registry.previous(line.name)
        wanted = [(one, share) for one, share in ((production, 100), (previous, 0)) if one]
    if not wanted:
        raise VersionUnknown(f"No version of {line.name} is in production.", "Name one: --weight VERSION=100.")
    placed = []
    for version, share in wanted:
        folder = store.path(store.get(line.name, version.digest))
        rows = planned_rows(line, version.scheme, folder, lambda said: note("memory", said))
        row = next((one for one in rows if one.verdict != "no"), None)
        fields = {"version": version.version, "digest": version.digest, "scheme": version.scheme}
        placed.append(PlacedVersion(**fields, weight=share, row=row))
    return placed


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(manifests)
