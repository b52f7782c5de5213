"""What an engine does beside starting: images in and out, builds, lists, figures, and what it takes to remember a lot."""

import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import tarfile
import time

from lab import CLIENT, memory, wait_for
from rows import Row, clear, line, parallel, timed

REGISTRY = f"{CLIENT}:5000"
NAME = f"{REGISTRY}/bench/big"
LAYERS, FILES, SIZE = 10, 50, 1 << 20


class Tar:
    """`tar`, which only writes the files."""

    name = "tar"
    ours = False


def content(generator):
    """A file that packs to about two thirds of its size."""
    words = b"".join(b"entry %d of a table of little interest\n" % number for number in range(700))
    parts = []
    while sum(map(len, parts)) < SIZE:
        parts += [generator.randbytes(48 << 10), words[: 24 << 10]]
    return b"".join(parts)[:SIZE]


def layers(bench, quick):
    """The layers of a large image as archives. They are the same in every run."""
    directory = bench.lab.directory / "big"
    directory.mkdir(exist_ok=True)
    generator = random.Random(1)
    made = []
    for number in range(LAYERS):
        path = directory / f"{number}.tar"
        made.append(path)
        if path.exists():
            continue
        with tarfile.open(path, "w") as tar:
            for file in range(5 if quick else FILES):
                data = content(generator)
                entry = tarfile.TarInfo(f"layer{number}/file{file}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return made


def archive(bench):
    """The image as `docker save` would write it."""
    path = bench.lab.directory / "big.tar"
    if path.exists():
        return path
    parts = layers(bench, bench.quick)
    digests = ["sha256:" + hashlib.sha256(part.read_bytes()).hexdigest() for part in parts]
    config = json.dumps({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["true"]},
        "rootfs": {"type": "layers", "diff_ids": digests},
        "history": [{"created_by": f"layer {number}"} for number in range(LAYERS)],
    }).encode()
    id = hashlib.sha256(config).hexdigest()
    manifest = [{"Config": f"{id}.json", "RepoTags": [f"{NAME}:latest"],
                 "Layers": [f"{number}/layer.tar" for number in range(LAYERS)]}]
    with tarfile.open(path, "w") as tar:
        for name, data in ((f"{id}.json", config), ("manifest.json", json.dumps(manifest).encode())):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        for number, part in enumerate(parts):
            tar.add(part, f"{number}/layer.tar")
    return path


def told(body):
    """The error that a stream of progress ends with is an error."""
    for text in body.splitlines():
        if b'"error"' in text:
            raise RuntimeError(json.loads(text).get("error"))


def remove(engine):
    engine.api.raw("DELETE", f"/images/{NAME}:latest?force=1")
    os.sync()


def unpacked(layers, place, how):
    """How long `tar` takes for all of them."""
    place.mkdir()
    taken = sum(line(["tar", how, layer, "-C", place]) for layer in layers)
    shutil.rmtree(place)
    os.sync()
    return taken


def load(bench):
    """Files written beside `tar` writing the same ones to the same file system."""
    size = f"{LAYERS} layers of {5 if bench.quick else FILES} MiB"
    row = bench.row(f"load of an archive: {size}", note="tar: `tar -x` of the same layers, one by one")
    path = archive(bench)
    parts = layers(bench, bench.quick)
    place = bench.lab.directory / "unpacked"

    def once(peer):
        if isinstance(peer, Tar):
            return unpacked(parts, place, "-xf")
        with open(path, "rb") as file:
            headers = {"Content-Type": "application/x-tar",
                       "Content-Length": str(path.stat().st_size)}
            begun = time.perf_counter()
            told(peer.api.raw("POST", "/images/load?quiet=1", file, headers))
            taken = time.perf_counter() - begun
        remove(peer)
        return taken

    bench.turns(row, [*bench.engines, Tar()], once, 1 if bench.quick else 5)


def unpack(bench):
    """What writes the files of a layer, beside `tar` writing the same ones from the same archive."""
    size = f"{LAYERS} layers of {5 if bench.quick else FILES} MiB"
    row = bench.row(f"unpacking alone: {size}",
                    note="what `load` and `pull` unpack with, digest "
                         "included; tar: `tar -x`, one by one")
    program = bench.binaries / "examples" / "unpack"
    parts = layers(bench, bench.quick)
    place = bench.lab.directory / "unpacked"

    def once(peer):
        if isinstance(peer, Tar):
            return unpacked(parts, place, "-xf")
        place.mkdir()
        taken = float(subprocess.check_output([program, place, *parts]))
        shutil.rmtree(place)
        os.sync()
        return taken

    bench.turns(row, [bench.rnet(), Tar()], once, 1 if bench.quick else 9)


def registry(bench):
    """Debian's docker-registry on the client's machine, with the image in it."""
    if not shutil.which("docker-registry"):
        raise RuntimeError("docker-registry is not installed: apt-get install docker-registry")
    place = bench.lab.directory / "registry"
    config = bench.lab.directory / "registry.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {place}}}}}\n"
        f"http: {{addr: '{REGISTRY}'}}\n"
    )
    command = bench.lab.client.enter(["docker-registry", "serve", config])
    process = bench.lab.spawn(command, "registry.log")
    rnet = bench.rnet()
    with open(archive(bench), "rb") as file:
        told(rnet.api.raw("POST", "/images/load?quiet=1", file.read(),
                          {"Content-Type": "application/x-tar"}))

    def pushed():
        try:
            told(rnet.api.raw("POST", f"/images/{NAME}/push?tag=latest", b"",
                              {"X-Registry-Auth": "e30="}))
        except RuntimeError as error:
            if "connection refused" not in str(error):
                raise
            return False
        return True

    wait_for("docker-registry", pushed, 120, process)
    remove(rnet)


def pull(bench):
    size = f"{LAYERS} layers of {5 if bench.quick else FILES} MiB"
    row = bench.row(f"pull from a registry on another machine: {size}",
                    note="gzip as rnet pushed it, two thirds of the size; "
                         "tar: `tar -xzf` of the same layers, one by one")
    place = bench.lab.directory / "unpacked"
    try:
        registry(bench)
    except RuntimeError as error:
        for engine in bench.engines:
            row.fail(engine.name, error)
        return

    def once(peer):
        if isinstance(peer, Tar):
            return unpacked(packed(bench), place, "-xzf")
        begun = time.perf_counter()
        told(peer.api.raw("POST", f"/images/create?fromImage={NAME}&tag=latest", b""))
        taken = time.perf_counter() - begun
        remove(peer)
        return taken

    bench.turns(row, [*bench.engines, Tar()], once, 1 if bench.quick else 5)


def packed(bench):
    """The layers as the registry keeps them."""
    blobs = (bench.lab.directory / "registry").glob("docker/registry/v2/blobs/sha256/*/*/data")
    layers = [blob for blob in blobs if blob.read_bytes()[:2] == b"\x1f\x8b"]
    if len(layers) != LAYERS:
        raise RuntimeError(f"the registry has {len(layers)} layers")
    return layers


def build(bench):
    """Twenty steps, every one of them done before."""
    row = bench.row("build of 21 steps, all of them cached (API, classic)")

    def context(engine):
        steps = [f"RUN [\"true\", \"{number}\"]" for number in range(10)]
        steps += [f"ENV name{number}=value" for number in range(5)]
        steps += [f"COPY file /file{number}" for number in range(5)]
        text = "\n".join([f"FROM {engine.image}", *steps, ""]).encode()
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for name, data in (("Dockerfile", text), ("file", b"x" * 1000)):
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
        return packed.getvalue()

    def once(engine):
        begun = time.perf_counter()
        told(engine.api.raw("POST", "/build?t=bench-built&networkmode=none&cgroupparent="
                            + bench.lab.parent, context(engine),
                            {"Content-Type": "application/x-tar"}))
        return time.perf_counter() - begun

    # The first turn, which does not count, fills the cache.
    bench.turns(row, bench.engines, once)


def lists(bench):
    """A thousand containers that are not running: lists, and the daemon's memory."""
    many = 50 if bench.quick else 1000
    row = bench.row(f"list of {many:,} containers by API")
    client = bench.row(f"`ps --all` by CLI with {many:,} containers")
    remembered = Row(f"memory with {many:,} containers, none running: daemons, RSS", "MiB")

    def made(engine):
        ids = []
        until = time.monotonic() + 3 * bench.cap
        while len(ids) < many:
            if time.monotonic() > until and not engine.ours:
                for id in ids:
                    engine.api.remove(id)
                raise RuntimeError(f"only {len(ids)} in {3 * bench.cap} s")
            ids.append(engine.create(["trap", "0"], name=bench.name(), network="none"))
        return ids

    engines = bench.each(row, made)
    bench.turns(row, engines, lambda engine: timed(engine.api.raw, "GET", "/containers/json?all=1"))
    bench.turns(client, engines, lambda engine: line(engine.cli("ps", "--all")))
    for engine, ids in engines.items():
        resting(remembered, engine)
        clear(engine, [(None, id) for id in ids])
    bench.rows.append(remembered)


def resting(row, engine):
    pids = [pid for some in engine.daemons().values() for pid in some]
    row.add(engine.name, sum(memory(pid, "VmRSS") for pid in pids))


def running(bench):
    """A hundred that run: a sample of one's figures, and the daemon's memory."""
    many = 20 if bench.quick else 100
    row = bench.row(f"one sample of a container's figures (`stats`), {many} running")
    remembered = Row(f"memory with {many} running: daemons, RSS", "MiB")
    engines = bench.each(row, lambda engine: parallel(bench, engine, many))
    bench.turns(row, engines, lambda engine: timed(
        engine.api.raw, "GET", f"/containers/{engines[engine][0][1]}/stats?stream=0&one-shot=1"))
    for engine, started in engines.items():
        resting(remembered, engine)
        clear(engine, started)
    bench.rows.append(remembered)


ROWS = {"archive": load, "unpack": unpack, "pull": pull, "build": build, "lists": lists, "running": running}
