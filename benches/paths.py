"""What the drivers for networks on one host cost: a start on each, and the way from container to container."""

import subprocess
import sys
from pathlib import Path

from lab import Host, sh

ENDS = Path(__file__).resolve().parent / "stream.py"

PARENT = "eth0"
"""The link that each peer's host has to the outside."""


class Kind:
    """A kind of network: its driver and options, and the subnet it has with every engine."""

    def __init__(self, title, driver, number, ours=False, **options):
        self.title = title
        self.driver = driver
        self.name = f"paths{number}"
        self.subnet = f"10.232.{number}.0/24"
        self.options = options
        self.ours = ours

    def create(self, engine):
        if self.ours and not engine.ours:
            raise RuntimeError("it has no such network")
        engine.api.create_network(self.name, self.subnet, self.driver, self.options)


BRIDGE = Kind("bridge", "bridge", 1)
ROUTED = Kind("no bridge, routed by the host", "bridge", 2, ours=True,
              **{"rnet.bridge.topology": "l3"})
MACVLAN = Kind("macvlan", "macvlan", 3, parent=PARENT)
IPVLAN = Kind("ipvlan", "ipvlan", 4, parent=PARENT)


class Veth:
    """Two network namespaces with a pair of links between them, and no engine: as fast as can be."""

    name = "veth alone"
    ours = False

    def __init__(self):
        self.ends = []
        hosts = [Host("veth-a"), Host("veth-b")]
        sh("ip", "link", "add", "eth0", "netns", "veth-a", "type", "veth",
           "peer", "name", "eth0", "netns", "veth-b")
        for number, host in enumerate(hosts, 1):
            sh("ip", "-n", host.name, "address", "add", f"10.233.0.{number}/24", "dev", "eth0")
            sh("ip", "-n", host.name, "link", "set", "eth0", "up")
            self.ends.append((host.keeper.pid, f"10.233.0.{number}"))


def kinds(bench):
    """Those that this kernel has."""
    found = [BRIDGE, ROUTED, MACVLAN]
    client = ("ip", "-n", "client", "link")
    # Not on the loopback: no kernel has that.
    sh(*client, "add", "base", "type", "veth", "peer", "name", "end")
    try:
        sh(*client, "add", "probe", "link", "base", "type", "ipvlan")
        found.append(IPVLAN)
    except RuntimeError:
        bench.say("this kernel has no ipvlan: its rows are left out")
    finally:
        sh(*client, "delete", "base")
    return found


def starts(bench):
    """A start on a link of the host. rnet asks the LAN first whether somebody has the address already."""
    for kind in kinds(bench):
        if kind in (BRIDGE, ROUTED):
            continue
        row = bench.row(f"API start, {kind.title} + name")
        able = bench.each(row, kind.create)
        bench.turns(
            row,
            able,
            lambda engine, kind=kind: bench.start_once(engine, network=kind.name, name=bench.name()),
        )
        for engine in able:
            engine.api.remove_network(kind.name)


def paths(bench):
    """Both ends are Python, for everybody: what is measured is the difference of the ways."""
    plain = Veth()
    for kind in kinds(bench):
        rate = bench.row(f"TCP from container to container, {kind.title}", "Gbit/s")
        back = bench.row(f"UDP to a container and back, {kind.title}: p50")
        pairs = bench.each(rate, lambda engine, kind=kind: pair(bench, engine, kind))
        ends = {plain: plain.ends} | {engine: found for engine, (_, found) in pairs.items()}

        def once(peer, ends=ends, back=back):
            give, take = ends[peer]
            back.add(peer.name, float(between(give, take, "answer", "ask", "3000")[1]))
            return float(between(give, take, "take", "give", "1")[0])

        bench.turns(rate, ends, once, 2 if bench.quick else 10)
        for engine, (ids, _) in pairs.items():
            for id in ids:
                engine.api.remove(id)
            engine.api.remove_network(kind.name)


def pair(bench, engine, kind):
    """Two containers on a network of a kind, and where their ends are."""
    kind.create(engine)
    ids, ends = [], []
    for _ in range(2):
        _, id = bench.start(engine, network=kind.name, name=bench.name())
        ids.append(id)
        told = engine.api.call("GET", f"/containers/{id}/json")
        address = told["NetworkSettings"]["Networks"][kind.name]["IPAddress"]
        ends.append((told["State"]["Pid"], address))
    return ids, ends


def between(near, far, serve, use, *arguments):
    """What both programs wrote."""
    server = subprocess.Popen(inside(far, serve), stdout=subprocess.PIPE, text=True)
    try:
        server.stdout.readline()
        used = sh(*inside(near, use, far[1], *arguments))
        served, _ = server.communicate(timeout=30)
    finally:
        server.kill()
        server.wait()
    return served, used


def inside(end, *arguments):
    return ["nsenter", "-t", str(end[0]), "-n", "--", sys.executable, "-B", str(ENDS), *arguments]


ROWS = {"paths": paths, "starts": starts}
