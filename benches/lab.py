"""Throw-away machines: each peer's daemon has namespaces of its own and an uplink to a client.

Everything here runs inside a process, network and mount namespace that `run.py` made, so the
end of its first process is the end of all of it.
"""

import os
import shutil
import subprocess
import time
from pathlib import Path

CLIENT = "192.0.2.53"
"""The client's address: the resolver of every host, and where connections come from."""

HYBRID = "/sys/fs/cgroup/unified"


def sh(*command, **options):
    """Runs a command; its failure is told with what it wrote."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        output = (done.stderr or done.stdout).strip()
        raise RuntimeError(f"{' '.join(map(str, command[:6]))}: {output or done.returncode}")
    return done.stdout


def wait_for(what, condition, seconds=60, process=None):
    """Polls: the peers tell nobody when they are ready."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"{what}: ended with {process.returncode}")
        if time.monotonic() > end:
            raise RuntimeError(f"{what}: not within {seconds} s")
        time.sleep(0.01)


def hybrid():
    return os.path.exists(f"{HYBRID}/cgroup.controllers")


def forget_the_past():
    """Has the kernel let go of cached pages and names.

    A memory cgroup that was removed stays as long as a page of its files is cached, and a thousand
    of them slow every new one down: a row would pay for the containers of the row before.
    """
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def burden():
    """What slows a machine down that seems to be at rest, in words."""
    listed = Path("/proc/cgroups")
    lines = listed.read_text().splitlines() if listed.exists() else []
    cgroups = [line.split()[2] for line in lines if line.startswith("memory")]
    mounts = len(Path("/proc/self/mountinfo").read_text().splitlines())
    return [*(f"{count} memory cgroups" for count in cgroups), f"{mounts} mounts"]


class Host:
    """A network and a mount namespace, kept by a process that sleeps."""

    def __init__(self, name, uplink=None):
        self.name = name
        sh("ip", "netns", "add", name)
        sh("ip", "-n", name, "link", "set", "lo", "up")
        keeper = ["nsenter", f"--net=/run/netns/{name}"]
        keeper += ["unshare", "--mount", "--propagation", "private", "sleep", "infinity"]
        self.keeper = subprocess.Popen(keeper, stdin=subprocess.DEVNULL)
        ours = os.readlink("/proc/self/ns/mnt")
        theirs = Path(f"/proc/{self.keeper.pid}/ns/mnt")
        comm = Path(f"/proc/{self.keeper.pid}/comm")
        wait_for(
            name,
            lambda: comm.read_text() == "sleep\n" and os.readlink(theirs) != ours,
            process=self.keeper,
        )
        self.address = None
        if uplink is not None:
            self.connect(*uplink)

    def connect(self, client, number):
        """A link to the client, and by it to everything else."""
        near, far = f"10.231.{number}.2", f"10.231.{number}.1"
        sh("ip", "link", "add", "eth0", "netns", self.name, "type", "veth",
           "peer", "name", f"to-{self.name}", "netns", client.name)
        sh("ip", "-n", client.name, "address", "add", f"{far}/24", "dev", f"to-{self.name}")
        sh("ip", "-n", client.name, "link", "set", f"to-{self.name}", "up")
        sh("ip", "-n", client.name, "route", "replace", f"10.231.{number}.0/24",
           "dev", f"to-{self.name}", "src", CLIENT)
        sh("ip", "-n", self.name, "address", "add", f"{near}/24", "dev", "eth0")
        sh("ip", "-n", self.name, "link", "set", "eth0", "up")
        sh("ip", "-n", self.name, "route", "add", "default", "via", far)
        self.address = near

    def enter(self, command):
        """The command line that runs a command on this host."""
        return ["nsenter", "-t", str(self.keeper.pid), "-m", "-n", "--", *map(str, command)]

    def hide_hybrid(self):
        """Without cgroup v2's hierarchy beside v1's, which crun refuses if it has controllers."""
        if hybrid():
            sh(*self.enter(["umount", HYBRID]))

    def sysctl(self, **values):
        text = " && ".join(
            f"echo {value} > /proc/sys/{name.replace('__', '/')}" for name, value in values.items()
        )
        sh(*self.enter(["sh", "-c", text]))


class Lab:
    """The client and what the peers share: a /run, a resolver, a directory, a cgroup's name."""

    def __init__(self, directory):
        self.directory = directory
        self.parent = f"/{directory.name}"
        sh("mount", "--make-rprivate", "/")
        sh("mount", "-t", "tmpfs", "tmpfs", "/run")
        os.makedirs("/run/lock", exist_ok=True)
        sh("ip", "link", "set", "lo", "up")
        resolv = directory / "resolv.conf"
        resolv.write_text(f"nameserver {CLIENT}\n")
        sh("mount", "--bind", resolv, os.path.realpath("/etc/resolv.conf"))
        self.client = Host("client")
        # Its address whatever link it answers by.
        sh("ip", "-n", "client", "address", "add", f"{CLIENT}/32", "dev", "lo")
        self.client.sysctl(net__ipv4__ip_local_port_range='"1024 65535"')
        self.hosts = 0
        self.processes = []

    def host(self, name):
        self.hosts += 1
        return Host(name, (self.client, self.hosts))

    def spawn(self, command, log, **options):
        """A process that goes on; its output is in the log."""
        with open(self.directory / log, "ab") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, **options
            )
        self.processes.append(process)
        return process

    def log(self, name):
        path = self.directory / name
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return "\n".join(lines[-5:])

    def end(self):
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def remove(directory):
    """What outlives the namespaces: the directory and the cgroups named after it."""
    roots = [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").glob("*/")]
    for root in roots:
        top = root / directory.name
        for path, _, _ in os.walk(top, topdown=False):
            try:
                os.rmdir(path)
            except OSError:
                pass
    shutil.rmtree(directory, ignore_errors=True)


def memory(pid, field):
    """A figure of a process in MiB: `VmRSS`, or `Pss`, which needs the kernel to count."""
    name = "status" if field == "VmRSS" else "smaps_rollup"
    for line in Path(f"/proc/{pid}/{name}").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has no {field}")


def pids(comm, directory=None):
    """The processes of a name, of those in this process namespace: all of them are ours. With a
    directory, those whose program is in it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            if path.read_text().strip() != comm[:15]:
                continue
            if directory and Path(os.readlink(path.parent / "exe")).parent != directory:
                continue
            found.append(int(path.parent.name))
        except OSError:
            continue
    return found
