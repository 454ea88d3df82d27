"""A stand-in for the Hugging Face Hub on this machine, for the real `huggingface_hub` client.

    python -m examples.hub publish ROOT ORG/MODEL DIR     # prints the commit
    python -m examples.hub serve ROOT --port 8300         # then: HF_ENDPOINT=http://127.0.0.1:8300

It has models, their files at a commit, ranges, large files behind a redirect, gated repositories, the Hub's own error
codes, and an author's models, newest first. It does *not* have uploads, search,
pull requests, datasets or Xet.

The repositories' layout on disk is described in examples/hub_repository.py.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse, StreamingResponse

from examples.faults import Fault, Faults, Served
from examples.hub_listing import list_models
from examples.hub_repository import HubError, Repository, publish

LOOPBACK = "127.0.0.1"
BLOCK_BYTES = 256 * 1024
SLOW_BLOCK_BYTES = 16 * 1024
PAUSE_SECONDS = 0.005
LONGEST_HANG_SECONDS = 600.0

__all__ = ["create_app", "publish", "serving"]


def create_app(root: Path, faults: Faults | None = None) -> FastAPI:
    """Build the stand-in's web application.

    Args:
        root: folder of the repositories, as `publish` writes them.
        faults: for tests.
    """
    active = faults or Faults()

    async def apply_faults(request: Request) -> None:
        fault = active.take(request.method, request.url.path)
        request.state.fault = fault
        if fault and fault.delay_seconds:
            await asyncio.sleep(fault.delay_seconds)
        if fault and fault.status:
            active.served.append(Served(request.method, request.url.path, fault.status))
            raise HubError(fault.status, "", "The stand-in was told to fail here.", fault.headers)

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, dependencies=[Depends(apply_faults)])

    @app.exception_handler(HubError)
    async def refuse(request: Request, error: HubError) -> Response:
        reason = {"X-Error-Message": error.message} | ({"X-Error-Code": error.code} if error.code else {})
        return JSONResponse({"error": error.message}, error.status, headers={**reason, **error.headers})

    @app.get("/")
    def repositories() -> list[str]:
        return sorted(str(refs.parent.relative_to(root)) for refs in root.glob("*/*/refs"))

    @app.get("/api/models")
    def listing(author: str = "", limit: int = 1000) -> list[dict[str, Any]]:
        return list_models(root, author, limit)

    @app.get("/api/models/{org}/{name}")
    def newest(org: str, name: str, blobs: bool = False) -> dict[str, Any]:
        return at_revision(org, name, "main", blobs)

    @app.get("/api/models/{org}/{name}/revision/{revision}")
    def at_revision(org: str, name: str, revision: str, blobs: bool = False) -> dict[str, Any]:
        repository = Repository(root, org, name)
        return repository.describe(repository.commit_of(revision), blobs)

    @app.get("/api/models/{org}/{name}/refs")
    def refs(org: str, name: str) -> dict[str, Any]:
        folder = Repository(root, org, name).folder / "refs"
        branches = [
            {"name": path.name, "ref": f"refs/heads/{path.name}", "targetCommit": path.read_text()}
            for path in sorted(folder.iterdir())
            if not path.name.startswith(".")
        ]
        return {"branches": branches, "tags": [], "converts": []}

    @app.get("/api/models/{org}/{name}/tree/{revision}")
    def tree(org: str, name: str, revision: str) -> list[dict[str, Any]]:
        repository = Repository(root, org, name)
        blobs = repository.blobs(repository.commit_of(revision))
        return [{"type": "file", "path": path, **blob.in_tree(path)} for path, blob in blobs.items()]

    @app.api_route("/{org}/{name}/resolve/{revision}/{path:path}", methods=["GET", "HEAD"])
    def resolve(request: Request, org: str, name: str, revision: str, path: str) -> Response:
        repository = Repository(root, org, name)
        commit = repository.commit_of(revision)
        repository.require_access(request.headers.get("authorization", ""))
        blob = repository.blobs(commit).get(path)
        at_commit = {"X-Repo-Commit": commit}
        if blob is None:
            raise HubError(404, "EntryNotFound", "Entry not found", at_commit)
        if blob.is_lfs(path):
            linked = {"X-Linked-Size": str(blob.size), "X-Linked-ETag": f'"{blob.sha256}"', **at_commit}
            location = request.url.replace(path=f"/cdn/{repository.id}/{commit}/{path}")
            return RedirectResponse(location, 302, headers=linked)
        headers = {"ETag": f'"{blob.git_oid}"', **at_commit}
        return _send(request, repository.folder / commit / path, headers, active)

    @app.api_route("/cdn/{org}/{name}/{commit}/{path:path}", methods=["GET", "HEAD"])
    def large(request: Request, org: str, name: str, commit: str, path: str) -> Response:
        # The Hub signs these addresses. The stand-in checks the permission again, which is simpler.
        repository = Repository(root, org, name)
        repository.require_access(request.headers.get("authorization", ""))
        blob = repository.blobs(repository.commit_of(commit)).get(path)
        if blob is None:
            raise HubError(404, "EntryNotFound", "Entry not found")
        headers = {"ETag": f'"{blob.sha256}"', "X-Repo-Commit": commit}
        return _send(request, repository.folder / commit / path, headers, active)

    return app


def _send(request: Request, path: Path, headers: dict[str, str], active: Faults) -> Response:
    """Send a file or a range of it, with the effects of the request's fault."""
    fault: Fault = request.state.fault or Fault()
    size = path.stat().st_size if fault.truncated_to_bytes is None else fault.truncated_to_bytes
    start, stop = _requested_range(request.headers.get("range"), size)
    status = 206 if (start, stop) != (0, size) else 200
    headers = {**headers, "Accept-Ranges": "bytes", "Content-Length": str(stop - start)}
    if status == 206:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    served = Served(request.method, request.url.path, status)
    active.served.append(served)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)

    async def body() -> AsyncIterator[bytes]:
        async for block in _blocks(path, start, stop, fault):
            served.sent_bytes += len(block)
            yield block

    return StreamingResponse(body(), status, headers, media_type="application/octet-stream")


async def _blocks(path: Path, start: int, stop: int, fault: Fault) -> AsyncIterator[bytes]:
    damaged, begun, first = fault.damaged, time.monotonic(), start
    for limit in (fault.cut_after_bytes, fault.hang_after_bytes):
        stop = stop if limit is None else min(stop, start + limit)
    step = BLOCK_BYTES if fault.bytes_per_second is None else min(BLOCK_BYTES, SLOW_BLOCK_BYTES)
    with path.open("rb") as file:
        file.seek(start)
        while start < stop:
            block = file.read(min(step, stop - start))
            start += len(block)
            if damaged:
                block, damaged = block[:-1] + bytes([block[-1] ^ 1]), False
            while fault.paused_while and fault.paused_while():
                await asyncio.sleep(PAUSE_SECONDS)
            yield block
            # Even a wait of 0 lets the server notice that its client has left, and stop counting.
            behind = (start - first) / fault.bytes_per_second if fault.bytes_per_second else 0.0
            await asyncio.sleep(max(0.0, behind - (time.monotonic() - begun)))
    if fault.hang_after_bytes is not None:
        # Ends when the client leaves: the server cancels a response without a reader.
        await asyncio.sleep(LONGEST_HANG_SECONDS)


def _requested_range(header: str | None, size: int) -> tuple[int, int]:
    """Return first byte and end of `bytes=a-b`, `bytes=a-` or `bytes=-n`; the whole file for any other header."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header or "")
    if not match or match[0] == "bytes=-":
        return 0, size
    if not match[1]:
        return max(0, size - int(match[2])), size
    start = int(match[1])
    if start >= size:
        raise HubError(416, "", "Range not satisfiable", {"Content-Range": f"bytes */{size}"})
    return start, min(size, int(match[2]) + 1) if match[2] else size


@contextmanager
def serving(root: Path, faults: Faults | None = None, port: int = 0) -> Iterator[str]:
    """Serve from a thread of this process, for tests; yields the endpoint."""
    listener = socket.create_server((LOOPBACK, port))
    config = uvicorn.Config(create_app(root, faults), log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.005)
        yield f"http://{LOOPBACK}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        listener.close()


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m examples.hub", description="A stand-in for the Hugging Face Hub.")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="serve the repositories of a folder on this machine")
    serve.add_argument("root", type=Path)
    serve.add_argument("--port", type=int, default=8300)
    put = commands.add_parser("publish", help="make a folder the newest commit of a repository")
    put.add_argument("root", type=Path)
    put.add_argument("repo", help="org/model")
    put.add_argument("folder", type=Path)
    options = parser.parse_args(arguments)
    if options.command == "publish":
        print(publish(options.root, options.repo, options.folder))
    else:
        print(f"HF_ENDPOINT=http://{LOOPBACK}:{options.port}", flush=True)
        uvicorn.run(create_app(options.root), host=LOOPBACK, port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
