#!/usr/bin/env python3
"""Measures rnet beside the container engines that are installed and prints a table.

Needs root and nothing but Python's own library. Everything happens in process, network and mount
namespaces made for it; when it ends, whichever way, they end with all that ran in them.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True

import api
import images
import lab
import networks
import overlay
import paths
import peers
import report
import rows

ROWS = rows.ROWS | networks.ROWS | paths.ROWS | overlay.ROWS | images.ROWS

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binaries", type=Path, help="directory with rnet, rnet-shim and rnet-dns")
    parser.add_argument("--before", type=Path, metavar="DIRECTORY",
                        help="another build of rnet, which takes its turns beside this one")
    parser.add_argument("--rows", help=f"some of: {','.join(ROWS)}")
    parser.add_argument("--peers", help="some of: rnet,dockerd,podman,crun,runc")
    parser.add_argument("--runs", type=int, default=None, help="runs of each row [20]")
    parser.add_argument("--quick", action="store_true", help="3 runs, 50 containers for 500")
    parser.add_argument("--write", action="store_true", help="keep the table in docs/")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.runs is None:
        options.runs = 3 if options.quick else 20
    wanted = options.rows.split(",") if options.rows else list(ROWS)
    if unknown := set(wanted) - set(ROWS):
        parser.error(f"unknown row: {', '.join(sorted(unknown))}")
    options.rows = [name for name in ROWS if name in wanted]
    options.peers = options.peers.split(",") if options.peers else None
    options.say = lambda text: print(f"  {text}", file=sys.stderr, flush=True)
    if not (options.binaries / "rnet").is_file():
        parser.error(f"no rnet in {options.binaries}: run `make release` first")
    options.binaries = options.binaries.resolve()
    if options.before:
        if not (options.before / "rnet").is_file():
            parser.error(f"no rnet in {options.before}")
        options.before = options.before.resolve()
    return options


def outside():
    """Runs this program in namespaces and removes what outlives them."""
    directory = Path(tempfile.mkdtemp(prefix="rnet-bench-"))
    command = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
               "--propagation", "private", sys.executable, *sys.argv, "--inside", str(directory)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    process = subprocess.Popen(command)
    try:
        # An interrupt reaches the process inside as well: it cleans up and says so.
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue
    finally:
        process.kill()
        process.wait()
        lab.remove(directory)


def first_process(options):
    """The first process of the namespace: it has orphans to bury while a child does the work."""
    child = os.fork()
    if child == 0:
        os._exit(inside(options))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        pid, status = os.wait()
        if pid == child:
            return os.waitstatus_to_exitcode(status)


def inside(options):
    code = 1
    place = None
    try:
        place = lab.Lab(options.inside)
        code = measure(place, options)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except (RuntimeError, OSError, api.ApiError) as error:
        print(f"bench: {error}", file=sys.stderr)
    finally:
        if place:
            place.end()
        sys.stdout.flush()
    return code


def measure(place, options):
    def wanted(name):
        return not options.peers or name in options.peers

    for text in peers.missing():
        print(text, file=sys.stderr)
    lab.forget_the_past()
    report.BURDEN.extend(lab.burden())
    rnet = peers.Rnet(place, options.binaries)
    engines = [rnet]
    if options.before:
        engines.append(peers.Before(place, options.before))
    for engine in engines:
        engine.start()
        engine.find_image()
    archive = place.directory / "image.tar"
    archive.write_bytes(rnet.api.raw("GET", f"/images/{peers.IMAGE}/get"))
    files = place.directory / "files"
    peers.unpack(archive, files)
    options.tool = files / "bin" / "toolbox"
    for kind in (peers.Dockerd, peers.Podman):
        if wanted(kind.name) and shutil.which(kind.name):
            engine = kind(place)
            engine.start()
            engine.load(archive)
            engines.append(engine)
    for engine in engines:
        engine.api.create_network(rows.NETWORK, rows.SUBNET)
    names = [name for name in ("crun", "runc") if wanted(name) and shutil.which(name)]
    runtimes = [peers.Runtime(place, name, files) for name in names]
    bench = rows.Bench(place, engines, runtimes, options)
    for name in options.rows:
        lab.forget_the_past()
        ROWS[name](bench)
    return tell(bench, [*engines, *runtimes], options)


def tell(bench, measured, options):
    names = [peer.name for peer in measured]
    # Who has no version is no program, and is beside the others where it was measured.
    names += sorted({name for row in bench.rows for name in row.samples} - set(names))
    versions = [peer.version for peer in measured]
    text = report.document(bench.rows, names, versions, options.runs)
    if options.write:
        DOCUMENT.parent.mkdir(exist_ok=True)
        DOCUMENT.write_text(text)
    print(report.machine(versions))
    print(report.table(bench.rows, names), end="")
    failed = [row for row in bench.rows if "rnet" in row.failures]
    for row in failed:
        print(f"rnet failed: {row.title}: {row.failures['rnet']}", file=sys.stderr)
    return 1 if failed else 0


def main():
    options = arguments()
    if os.geteuid() != 0:
        sys.exit("bench: must be root: namespaces and containers are made")
    sys.exit(first_process(options) if options.inside else outside())


if __name__ == "__main__":
    main()
