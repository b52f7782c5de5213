"""What a network over two machines costs, beside the cable between them and beside tunnels without an engine."""

import subprocess
import time

from cluster import Bridged, Cluster, Routed, Underlay
from lab import memory, sh, wait_for
from paths import Veth, between, inside
from rows import timed

NETWORK = "over"

BRIDGED = "over-bridges"
"""The same without the way past the bridges."""


class Way:
    """The way from a container on one machine to one on the other."""

    ours = True

    def __init__(self, bench, cluster, name="rnet", network=NETWORK):
        self.name, self.ends = name, []
        for member in cluster.members:
            _, id = bench.start(member, network=network, name=bench.name())
            self.ends.append(end(member, id, network))


def end(member, id, network=NETWORK):
    told = member.api.call("GET", f"/containers/{id}/json")
    return told["State"]["Pid"], told["NetworkSettings"]["Networks"][network]["IPAddress"]


def overlay(bench):
    """All of it on one cluster, which ends with the rows."""
    rate = bench.row("TCP from machine to machine", "Gbit/s")
    try:
        cluster = Cluster(bench)
    except RuntimeError as error:
        rate.fail("rnet", error)
        return
    try:
        cluster.network(NETWORK)
        cluster.network(BRIDGED, {"rnet.overlay.shortcut": "false"})
        ways(bench, cluster, rate)
        reached(bench, cluster)
        starts(bench, cluster)
        many(bench, cluster)
    finally:
        cluster.end()


def ways(bench, cluster, rate):
    """The peers take turns; both ends are the same program for everybody."""
    back = bench.row("UDP from machine to machine and back: p50", "µs")
    bridged = Way(bench, cluster, "rnet, by its bridges", BRIDGED)
    peers = [Way(bench, cluster), bridged, Underlay(cluster), Routed(), Bridged(), Veth()]

    def once(peer):
        give, take = peer.ends
        back.add(peer.name, float(between(give, take, "answer", "ask", "3000")[1]) * 1e6)
        return float(between(give, take, "take", "give", "1")[0])

    bench.turns(rate, peers, once, 2 if bench.quick else 10)


def reached(bench, cluster):
    """From the answer of a start on one machine to the first datagram that comes back on the other."""
    row = bench.row("a container that was started is reached from the other machine after")
    here, there = cluster.members
    _, id = bench.start(there, network=NETWORK, name=bench.name())
    asker = end(there, id)

    def once(_):
        name = bench.name()
        command = ["echo-server", "-p", "5001"]
        made = here.create(command, name=name, network=NETWORK)
        asking = subprocess.Popen(inside(asker, "await", name), stdout=subprocess.PIPE, text=True)
        asking.stdout.readline()
        here.api.start(made)
        answered = time.monotonic()
        told, _ = asking.communicate(timeout=30)
        here.api.remove(made)
        return max(0.0, float(told) - answered)

    bench.turns(row, [bench.rnet()], once, 5 if bench.quick else 50)


def starts(bench, cluster):
    """On one machine, in turns."""
    row = bench.row("API start on an overlay + name, beside that on a bridge of the same machine")
    member = cluster.members[0]
    member.api.create_network("near")

    class Kind:
        ours = True

        def __init__(self, name, network):
            self.name, self.network = name, network

    def once(kind):
        return bench.start_once(member, network=kind.network, name=bench.name())

    bench.turns(row, [Kind("rnet", NETWORK), Kind("rnet, bridge", "near")], once, warm=True)


def many(bench, cluster):
    """Endpoints of a machine that is not there, on a network of which this one knows nothing yet."""
    number = 1000 if bench.quick else 10_000
    whole = bench.row(f"{number:,} remote endpoints are in the kernel after the start of the first of one's own")
    each = bench.row("memory of the daemon for each of them", "KiB", note="resident, once they are there")
    member = cluster.members[0]
    network = cluster.network("crowd")
    cluster.invent(network, number)
    tunnel = f"vx-{network[:12]}"

    def there():
        listed = sh("bridge", "-n", member.host.name, "fdb", "show", "dev", tunnel)
        return listed.count("nhid") >= number

    def used():
        return sum(memory(pid, "VmRSS") for pid in member.daemons()["daemon"] if pid in own)

    own = descendants(member.process.pid)
    before = used()
    _, id = bench.start(member, network="crowd", name=bench.name())
    whole.add("rnet", timed(wait_for, "endpoints", there))
    after = used()
    each.add("rnet", (after - before) * 1024 / number)
    member.api.remove(id)
    cluster.forget(network)


def descendants(pid):
    """A process with all that it started."""
    found = [pid]
    for one in found:
        try:
            with open(f"/proc/{one}/task/{one}/children", encoding="ascii") as children:
                found += map(int, children.read().split())
        except OSError:
            continue
    return found


ROWS = {"overlay": overlay}
