"""`manifests`: a line's versions for a Kubernetes cluster, as YAML for kubectl, Argo CD or Flux."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from cli.output import JsonOption, LineArgument, show_json

WEIGHT = re.compile(r"(\d+)=(\d{1,3})")
HOW = "Write it as --weight 7=90 --weight 8=10."

if TYPE_CHECKING:
    from registry.installation import Installation
    from tasks.serve.fleet.kubernetes import PlacedVersion
    from weighbridge.line import Line


def manifests(
    line: LineArgument,
    image: Annotated[str, typer.Option(help="Container image of the engine, best named by digest.")],
    weight: Annotated[
        list[str] | None, typer.Option(help="VERSION=PERCENT, 100 in all. [default: production=100, previous=0]")
    ] = None,
    namespace: Annotated[str, typer.Option(help="Namespace of all objects.")] = "default",
    gateway: Annotated[str, typer.Option(help="Gateway of the route.")] = "weighbridge",
    claim: Annotated[str, typer.Option(help="PersistentVolumeClaim that holds the store.")] = "weighbridge-store",
    gpu_resource: Annotated[str, typer.Option(help="Name of a GPU in the device plug-in.")] = "nvidia.com/gpu",
    as_json: JsonOption = False,
) -> None:
    """Print the Deployments, Services and HTTPRoute of a line's versions. Nothing is applied.

    weighbridge manifests llama --image vllm/vllm-openai@sha256:… | kubectl diff -f -
    """
    import yaml
    from pydantic import ValidationError

    from registry.installation import Installation
    from tasks.serve.fleet.kubernetes import Cluster
    from tasks.serve.fleet.kubernetes import manifests as render_manifests
    from weighbridge.errors import OptionInvalid
    from weighbridge.line import Line
    from weighbridge.settings import use_libraries

    installation = Installation.load()
    use_libraries(installation.settings)
    configured = Line.load(line)
    try:
        cluster = Cluster(image=image, namespace=namespace, gateway=gateway, claim=claim, gpu_resource=gpu_resource)
        documents = render_manifests(configured, _placed(installation, configured, weight or []), cluster)
    except ValidationError as error:
        first = error.errors()[0]
        raise OptionInvalid(
            f"{first['msg']}.", "Correct the option named.", f"--{'.'.join(map(str, first['loc']))}"
        ) from None
    except ValueError as error:
        raise OptionInvalid(f"{error}.", HOW, "--weight") from None
    if as_json:
        show_json({"apiVersion": "v1", "kind": "List", "items": documents})
        return
    print(yaml.safe_dump_all(documents, sort_keys=False), end="")


def _placed(installation: Installation, line: Line, weights: list[str]) -> list[PlacedVersion]:
    from cli.output import note
    from tasks.serve.approval import verify_return
    from tasks.serve.fleet.kubernetes import PlacedVersion
    from tasks.serve.memory_check import planned_rows
    from weighbridge.errors import OptionInvalid, VersionUnknown

    registry, store = installation.registry, installation.store
    if weights:
        shares = [WEIGHT.fullmatch(text) for text in weights]
        if not all(shares):
            raise OptionInvalid(f"{' '.join(weights)} is not VERSION=PERCENT.", HOW, "--weight")
        weighted = [(registry.version(line.name, int(match[1])), int(match[2])) for match in shares if match]
    else:
        production, previous = registry.production(line.name), registry.previous(line.name)
        weighted = [(version, share) for version, share in ((production, 100), (previous, 0)) if version]
    if not weighted:
        raise VersionUnknown(f"No version of {line.name} is in production.", "Name one: --weight VERSION=100.")
    placed = []
    for version, share in weighted:
        folder = store.path(verify_return(installation, line, version))
        rows = planned_rows(line, version.scheme, folder, lambda text: note("memory", text))
        row = next((row for row in rows if row.verdict != "no"), None)
        fields = {"version": version.version, "digest": version.digest, "scheme": version.scheme}
        placed.append(PlacedVersion(**fields, weight=share, row=row))
    return placed


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(manifests)
