"""Who is measured: rnet, and beside it whatever of its peers is installed."""

import json
import os
import resource
import shutil
import signal
import subprocess
import tarfile
from contextlib import contextmanager
from pathlib import Path

from api import Api
from lab import CLIENT, HYBRID, hybrid, pids, sh, wait_for

IMAGE = "rnet/toolbox:latest"

RUN = Path("/run/bench")

PACKAGES = {"dockerd": "docker.io iptables", "podman": "podman iptables", "crun": "crun",
            "runc": "runc"}


def missing():
    """A line for each peer that is not installed."""
    return [
        f"{name} is not installed: apt-get install --no-install-recommends {package}"
        for name, package in PACKAGES.items()
        if not shutil.which(name)
    ]


class Engine:
    """A daemon that speaks the Docker Engine API."""

    ours = False

    def __init__(self, lab):
        self.lab = lab
        self.directory = lab.directory / self.name
        self.directory.mkdir()
        # What lasts no longer than the machine is up is on a tmpfs, as everybody's /run is.
        self.run = RUN / self.name
        self.run.mkdir(parents=True)
        self.host = lab.host(self.name)
        self.socket = str(self.directory / "api.sock")
        self.api = Api(self.socket)
        self.process = None
        self.image = None

    def start(self):
        command = self.host.enter(self.command())
        self.process = self.lab.spawn(command, f"{self.name}.log", env=self.environment(),
                                      preexec_fn=many_files)
        try:
            wait_for(self.name, self.answers, 60, self.process)
        except RuntimeError as error:
            raise RuntimeError(f"{error}\n{self.lab.log(self.name + '.log')}") from None
        # What the peers leave at a minute would fill the table of connections.
        self.host.sysctl(net__netfilter__nf_conntrack_tcp_timeout_time_wait=1)

    def environment(self):
        return os.environ | {"TMPDIR": str(self.directory)}

    def answers(self):
        try:
            return self.api.call("GET", "/version")
        except OSError:
            return None

    def load(self, archive):
        with open(archive, "rb") as file:
            self.api.raw("POST", "/images/load?quiet=1", file.read(),
                         {"Content-Type": "application/x-tar"})
        self.find_image()

    def find_image(self):
        self.image = self.api.call("GET", "/images/json")[0]["Id"].removeprefix("sha256:")

    def create(self, command, **options):
        return self.api.create(self.image, command, self.lab.parent, **options)

    def shims(self):
        """The processes that stand by containers."""
        return pids(self.shim)

    def run_line(self, *arguments):
        return self.cli("run", "--rm", "--cgroup-parent", self.lab.parent, *arguments)


class Rnet(Engine):
    name = "rnet"
    ours = True
    shim = "rnet-shim"

    def __init__(self, lab, binaries):
        super().__init__(lab)
        self.binaries = binaries
        self.config = self.directory / "daemon.json"
        self.level("warn")
        self.version = sh(binaries / "rnet", "--version").strip()

    def command(self):
        return [self.binaries / "rnet", "daemon", "-H", f"unix://{self.socket}",
                "--data-root", self.directory / "data", "--exec-root", self.run,
                "--pidfile", self.directory / "pid", "--config-file", self.config]

    def cli(self, *arguments):
        return [str(self.binaries / "rnet"), "-H", f"unix://{self.socket}", *arguments]

    def find_image(self):
        self.image = self.api.call("GET", f"/images/{IMAGE}/json")["Id"].removeprefix("sha256:")

    @contextmanager
    def log_of(self, lines):
        """Has the daemon log all it does, and puts into `lines` what it wrote meanwhile."""
        log = self.lab.directory / f"{self.name}.log"
        self.level("debug")
        begin = log.stat().st_size
        try:
            yield
        finally:
            self.level("warn")
            with open(log, "rb") as file:
                file.seek(begin)
                lines += file.read().decode(errors="replace").splitlines()

    def level(self, level):
        self.config.write_text(
            json.dumps({"log-level": level, "insecure-registries": [f"{CLIENT}:5000"]}))
        if self.process:
            # `nsenter` became the daemon.
            self.process.send_signal(signal.SIGHUP)

    def daemons(self):
        """The processes that are there without a container, by what to call them."""
        return {"daemon": pids("rnet", self.binaries), "rnet-dns": pids("rnet-dns", self.binaries)}

    def shims(self):
        return pids(self.shim, self.binaries)


class Before(Rnet):
    """Another build of rnet, to see what a change has changed."""

    name = "before"


class Dockerd(Engine):
    name = "dockerd"
    shim = "containerd-shim"

    def __init__(self, lab):
        super().__init__(lab)
        # The client of the same package, where another one is first in the path.
        self.client = "/usr/bin/docker" if os.access("/usr/bin/docker", os.X_OK) else "docker"
        self.version = sh("dockerd", "--version").strip().replace("Docker version", "dockerd")

    def command(self):
        return ["dockerd", "-H", f"unix://{self.socket}", "--data-root", self.directory / "data",
                "--exec-root", self.run, "--pidfile", self.directory / "pid",
                "--log-level", "warn", "--insecure-registry", f"{CLIENT}:5000"]

    def cli(self, *arguments):
        return [self.client, "-H", f"unix://{self.socket}", *arguments]

    def daemons(self):
        return {"dockerd": pids("dockerd"), "containerd": pids("containerd")}


class Podman(Engine):
    name = "podman"
    shim = "conmon"

    def __init__(self, lab):
        super().__init__(lab)
        self.version = sh("podman", "--version").strip()
        self.host.hide_hybrid()
        networks = self.directory / "networks"
        networks.mkdir()
        (self.directory / "policy.json").write_text(
            json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
        # What its network plugins remember has one place on a machine.
        os.makedirs("/var/lib/cni", exist_ok=True)
        sh("mount", "-t", "tmpfs", "tmpfs", "/var/lib/cni")

    def environment(self):
        registries = self.directory / "registries.conf"
        registries.write_text(f'[[registry]]\nlocation = "{CLIENT}:5000"\ninsecure = true\n')
        return super().environment() | {"CONTAINERS_REGISTRIES_CONF": str(registries)}

    def options(self):
        place = self.directory
        return ["podman", "--root", place / "data", "--runroot", self.run / "root",
                "--tmpdir", self.run / "tmp", "--network-config-dir", place / "networks",
                "--storage-driver", "overlay", "--cgroup-manager", "cgroupfs",
                "--events-backend", "file", "--log-level", "error"]

    def command(self):
        return [*self.options(), "system", "service", "--time", "0", f"unix://{self.socket}"]

    def cli(self, *arguments):
        return self.host.enter([*self.options(), *arguments])

    def daemons(self):
        return {"podman system service": [self.process.pid]}


class Runtime:
    """A runtime alone, with the image's files as its bundle."""

    ours = False

    def __init__(self, lab, name, rootfs):
        self.name = name
        self.version = sh(name, "--version").splitlines()[0].replace(" version", "")
        self.state = lab.directory / name
        self.run_directory = RUN / name
        self.bundle = self.state / "bundle"
        self.bundle.mkdir(parents=True)
        sh(name, "spec", cwd=self.bundle)
        config = json.loads((self.bundle / "config.json").read_text())
        config["process"]["terminal"] = False
        config["process"]["args"] = ["trap", "0"]
        config["root"] = {"path": str(rootfs), "readonly": True}
        config["linux"]["cgroupsPath"] = f"{lab.parent}/{name}"
        (self.bundle / "config.json").write_text(json.dumps(config))
        self.count = 0
        # Every host has its own mounts by now: this concerns the runtimes alone.
        if hybrid():
            sh("umount", HYBRID)

    def run(self):
        """Returns the id of a container that runs."""
        self.count += 1
        id = f"c{self.count}"
        # Without pipes: the container would keep them open.
        subprocess.run(
            [self.name, "--root", self.run_directory, "run", "--detach",
             "--bundle", self.bundle, id],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            check=True,
        )
        return id

    def remove(self, id):
        sh(self.name, "--root", self.run_directory, "delete", "--force", id)


def many_files():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def unpack(archive, directory):
    """The files of an image of one layer."""
    with tarfile.open(archive) as tar:
        manifest = json.load(tar.extractfile("manifest.json"))
        for layer in manifest[0]["Layers"]:
            with tarfile.open(fileobj=tar.extractfile(layer)) as files:
                files.extractall(directory)
