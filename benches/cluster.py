"""Two machines of a cluster beside the engines that are measured alone: a cable between them, etcd on the client's side."""

import json
import os
import shutil

from lab import CLIENT, Host, sh, wait_for
from peers import Rnet

ENDPOINT = f"http://{CLIENT}:2379"

UNDERLAY = "10.234.0"
"""The net of the cable between the machines: the first has `.1` there, the second `.2`."""

RECORDS = "/rnet/v1/default"
"""Where the cluster's records are."""

BATCH = 60
"""Endpoints of one transaction: etcd takes 128 operations."""


class Member(Rnet):
    """rnet on a machine of the cluster."""

    def __init__(self, lab, binaries, number):
        self.name = f"rnet-{number}"
        super().__init__(lab, binaries)
        self.underlay = f"{UNDERLAY}.{number}"

    def command(self):
        return [*super().command(), "--cluster", ENDPOINT.replace("http", "etcd"),
                "--advertise-addr", self.underlay]


class Cluster:
    """Two machines, each with a daemon, and etcd."""

    def __init__(self, bench):
        if not shutil.which("etcd") or not shutil.which("etcdctl"):
            raise RuntimeError("etcd is not installed: apt-get install etcd-server etcd-client")
        self.lab = bench.lab
        binaries = bench.rnet().binaries
        directory = bench.lab.directory / "etcd"
        command = ["etcd", "--data-dir", directory, "--listen-client-urls", ENDPOINT,
                   "--advertise-client-urls", ENDPOINT, "--listen-peer-urls", "http://127.0.0.1:2380"]
        self.etcd = bench.lab.spawn(bench.lab.client.enter(command), "etcd.log")
        wait_for("etcd", self.healthy, 60, self.etcd)
        self.members = [Member(bench.lab, binaries, number) for number in (1, 2)]
        connect([member.host for member in self.members], "eth1", UNDERLAY)
        for member in self.members:
            member.start()
            member.find_image()

    def etcdctl(self, *arguments, **options):
        command = ["etcdctl", "--endpoints", ENDPOINT, *arguments]
        environment = os.environ | {"ETCDCTL_API": "3"}
        return sh(*self.lab.client.enter(command), env=environment, **options)

    def healthy(self):
        try:
            self.etcdctl("endpoint", "health")
        except RuntimeError:
            return False
        return True

    def network(self, name, options=None):
        """An overlay network, as soon as both machines have it; its id."""
        id = self.members[0].api.create_network(name, driver="overlay", options=options, more={"Attachable": True})
        for member in self.members:
            wait_for(name, lambda member=member: has(member, name))
        return id

    def invent(self, network, number):
        """Writes so many endpoints of a machine that is not there, each with an address of its own."""
        node = "f" * 32
        record = {"version": 1, "name": "nobody", "number": 99, "address": f"{UNDERLAY}.99",
                  "mtu": 1500, "epoch": 1}
        self.write({f"nodes/{node}": record})
        keys = {}
        for at in range(number):
            address = f"10.{140 + (at >> 16)}.{at >> 8 & 255}.{at & 255}"
            keys[f"eps/{network}/{at:064x}"] = {
                "version": 1, "node": node, "epoch": 1, "name": f"nobody{at}",
                "mac": "02:99:{:02x}:{:02x}:{:02x}:00".format(*at.to_bytes(3, "big")),
                "addresses": [f"{address}/9"],
            }
            if len(keys) == BATCH:
                self.write(keys)
                keys = {}
        self.write(keys)

    def forget(self, network):
        """Takes them away again."""
        self.etcdctl("del", "--prefix", f"{RECORDS}/eps/{network}/{'0' * 48}")
        self.etcdctl("del", f"{RECORDS}/nodes/{'f' * 32}")

    def write(self, keys):
        # Quoted as in Go: a string of JSON is one.
        puts = [f"put {RECORDS}/{key} {json.dumps(json.dumps(value))}"
                for key, value in keys.items()]
        if puts:
            self.etcdctl("txn", input="\n" + "\n".join(puts) + "\n\n\n")

    def end(self):
        for process in [*(member.process for member in self.members), self.etcd]:
            process.terminate()
            process.wait()


class Underlay:
    """The two machines themselves, with the cable between them."""

    name = "underlay"
    ours = False

    def __init__(self, cluster):
        self.ends = [(member.host.keeper.pid, member.underlay) for member in cluster.members]


class Routed:
    """What flannel makes: a subnet on each of two machines and routes through one tunnel."""

    name = "vxlan, routed"
    ours = False

    def __init__(self):
        self.ends = []
        for number, other, host, inside in machines("routed", "10.235.0"):
            mac = "02:00:00:00:35:{:02x}".format
            lines = [
                "link add cni0 type bridge", "link set cni0 up",
                f"address add 10.236.{number}.1/24 dev cni0",
                f"link add pod type veth peer name eth0 netns {inside.name}",
                "link set pod master cni0", "link set pod up",
                f"link add tunnel type vxlan id 1 dstport 8472 local 10.235.0.{number} nolearning",
                f"link set tunnel address {mac(number)} up",
                f"address add 10.236.{number}.0/32 dev tunnel",
                f"neighbour add 10.236.{other}.0 lladdr {mac(other)} dev tunnel nud permanent",
                f"route add 10.236.{other}.0/24 via 10.236.{other}.0 dev tunnel onlink",
            ]
            for text in lines:
                sh("ip", "-n", host.name, *text.split())
            sh("bridge", "-n", host.name, "fdb", "add", mac(other), "dev", "tunnel",
               "dst", f"10.235.0.{other}")
            host.sysctl(net__ipv4__ip_forward=1)
            pod = [f"address add 10.236.{number}.2/24 dev eth0", "link set eth0 mtu 1450 up",
                   f"route add default via 10.236.{number}.1"]
            for text in pod:
                sh("ip", "-n", inside.name, *text.split())
            self.ends.append((inside.keeper.pid, f"10.236.{number}.2"))


class Bridged:
    """What people make by hand: a bridge on each of two machines, and a tunnel between them that does not learn."""

    name = "vxlan and bridges, by hand"
    ours = False

    def __init__(self):
        self.ends = []
        for number, other, host, inside in machines("bridged", "10.237.0"):
            mac = "02:00:00:00:37:{:02x}".format
            # Where br_netfilter is on, the host's firewall would have the frames.
            off = "net.bridge.bridge-nf-call-iptables=0"
            sh(*host.enter(["sysctl", "-qew", off]))
            lines = [
                "link add cni0 type bridge", "link set cni0 up",
                f"link add pod type veth peer name eth0 netns {inside.name}",
                "link set pod master cni0 up",
                f"link add tunnel type vxlan id 1 dstport 4789 local 10.237.0.{number} nolearning",
                "link set tunnel master cni0 up",
            ]
            for text in lines:
                sh("ip", "-n", host.name, *text.split())
            sh("bridge", "-n", host.name, "fdb", "append", mac(other), "dev", "tunnel",
               "dst", f"10.237.0.{other}")
            pod = [f"address add 10.238.0.{number}/24 dev eth0",
                   f"link set eth0 address {mac(number)} mtu 1450 up",
                   f"neighbour add 10.238.0.{other} lladdr {mac(other)} dev eth0 nud permanent"]
            for text in pod:
                sh("ip", "-n", inside.name, *text.split())
            self.ends.append((inside.keeper.pid, f"10.238.0.{number}"))


def machines(name, net):
    """Two machines with a cable: the number of each and of the other one, itself, and what is in its container."""
    hosts = [Host(f"{name}-{number}") for number in (1, 2)]
    connect(hosts, "eth1", net)
    return [(number, 3 - number, host, Host(f"{host.name}-pod")) for number, host in enumerate(hosts, 1)]


def connect(hosts, link, net):
    """A cable between two hosts."""
    one, two = hosts
    sh("ip", "link", "add", link, "netns", one.name, "type", "veth",
       "peer", "name", link, "netns", two.name)
    for number, host in enumerate(hosts, 1):
        sh("ip", "-n", host.name, "address", "add", f"{net}.{number}/24", "dev", link)
        sh("ip", "-n", host.name, "link", "set", link, "up")


def has(member, name):
    return any(network["Name"] == name for network in member.api.call("GET", "/networks"))
