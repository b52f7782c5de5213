#!/usr/bin/env python3
"""Compares rnet with a genuine Docker daemon, command by command.

    tests/compare/run.py --docker /var/run/docker.sock --rnet /run/rnet/rnet.sock [--only WORD] [--all]

Every scenario of `cases*.txt` runs against both daemons at the same time. What is compared is what a
user or a program sees: exit codes, output, complaints, statuses, the fields of JSON and their values.
What differs from run to run (ids, times, addresses) is made equal first. Differences that are known and
meant are in `known.txt` with the reason; all others are printed, and make the exit code 1.

Needs the docker command, and a genuine daemon that may be littered for a moment: names begin with
`cmp`, and all that has them is removed. The image is rnet's own, copied over.
"""

import argparse
import concurrent.futures
import difflib
import http.client
import json
import os
import pathlib
import re
import shlex
import socket
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent
IMAGE = "rnet/toolbox"

# Fields whose values belong to one daemon or one run: only their kinds are compared.
OWN = {
    "Id", "ID", "Created", "CreatedAt", "Pid", "StartedAt", "FinishedAt", "ResolvConfPath", "HostnamePath",
    "HostsPath", "LogPath", "SandboxID", "SandboxKey", "EndpointID", "NetworkID", "MacAddress", "Gateway",
    "IPAddress", "GlobalIPv6Address", "IPv6Gateway", "Image", "ImageID", "Mountpoint", "Source", "Hostname",
    "Status", "IPv4Address", "BuildTime", "IPv6Address", "Subnet", "ExecIDs", "Start", "End", "Time", "time", "timeNano",
    "from", "execID", "container", "DeviceInfo", "Root",
}
# Fields that are not compared at all.
OPAQUE = {"GraphDriver", "Data", "Descriptor", "ImageManifestDescriptor", "Storage"}


class Http(http.client.HTTPConnection):
    """A connection to a unix socket."""

    def __init__(self, path):
        super().__init__("docker", timeout=60)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(60)
        self.sock.connect(self.path)


class Side:
    """One of the daemons."""

    def __init__(self, socket_path, prefix):
        self.socket = socket_path
        self.prefix = prefix
        self.saved = {}
        self.began = 0
        config = tempfile.mkdtemp(prefix="compare")
        self.env = {**os.environ, "DOCKER_HOST": f"unix://{socket_path}", "DOCKER_CONFIG": config}

    def run(self, line):
        """The outcome of one line of a scenario."""
        line = line.replace("@", self.prefix).replace("{began}", str(self.began))
        line = line.replace("{now}", str(int(time.time()) + 1))
        for name, value in self.saved.items():
            line = line.replace("{" + name + "}", value)
        verb = line.split(" ", 1)[0]
        if verb in ("GET", "POST", "DELETE", "HEAD", "PUT", "OPTIONS", "PATCH"):
            return self.http(line)
        if verb == "RAW":
            return self.raw(line.split(" ", 1)[1].encode().decode("unicode_escape").encode("latin-1"))
        if line.startswith("save "):
            _, name, command = line.split(" ", 2)
            self.saved[name] = self.docker(command)["out"].strip()
            return {}
        if line.startswith("keep "):
            _, name, field, request = line.split(" ", 3)
            outcome = self.http(request)
            self.saved[name] = str(json.loads(outcome["out"] or "{}").get(field, "none"))
            return {"code": outcome["code"], "out": "", "err": ""}
        if line.startswith("until "):
            _, wanted, command = line.split(" ", 2)
            end = time.monotonic() + 30
            while wanted not in self.docker(command)["out"] and time.monotonic() < end:
                time.sleep(0.05)
            return {}
        return self.docker(line)

    def docker(self, line):
        done = subprocess.run(["docker", *shlex.split(line)], env=self.env, stdin=subprocess.DEVNULL,
                              capture_output=True, timeout=120, check=False)
        text = lambda raw: raw.decode(errors="replace")
        return {"code": done.returncode, "out": text(done.stdout), "err": text(done.stderr)}

    def http(self, line):
        parts = line.split(" ", 2)
        connection = Http(self.socket)
        body = parts[2] if len(parts) > 2 else None
        headers = {"Content-Type": "application/json"} if body else {}
        try:
            connection.request(parts[0], parts[1], body=body and body.encode(), headers=headers)
            reply = connection.getresponse()
            text = reply.read(1 << 20).decode(errors="replace")
            return {"code": reply.status, "heads": heads(reply.headers.items()), "out": text, "err": ""}
        except (OSError, http.client.HTTPException) as error:
            return {"code": 0, "heads": [], "out": "", "err": type(error).__name__}
        finally:
            connection.close()

    def raw(self, request):
        """What comes back for bytes, until the daemon closes or says nothing more."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(1)
        answer = b""
        with connection:
            try:
                connection.connect(self.socket)
                connection.sendall(request)
                while piece := connection.recv(1 << 16):
                    answer += piece
                end = "closed"
            except TimeoutError:
                end = "open"
            except OSError as error:
                end = type(error).__name__
        head, _, body = answer.partition(b"\r\n\r\n")
        first, *fields = head.decode(errors="replace").split("\r\n")
        fields = [field.split(": ", 1) for field in fields if ": " in field]
        if ["transfer-encoding", "chunked"] in [[name.lower(), value] for name, value in fields]:
            body = b"".join(pieces(body))
        body = body.decode("latin-1")
        return {"code": first, "heads": heads(fields), "out": body, "err": end}


def pieces(body):
    """The chunks of a body, without what frames them."""
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size.split(b";")[0] or b"0", 16)
        yield body[:length]
        body = body[length + 2:]


def heads(fields):
    """The fields of a head that are compared."""
    ignored = ("date", "content-length", "api-version")
    kept = [(name, value) for name, value in fields if name.lower() not in ignored]
    return sorted(re.sub(r"Docker/.*", "Docker", f"{name}: {value}") for name, value in kept)


def plain(text, side):
    """A text without what differs from run to run."""
    text = text.replace(side.prefix, "@").replace(side.socket, "<socket>")
    rules = [
        (r"sha256:[0-9a-f]{64}", "<digest>"),
        (r"\b[0-9a-f]{64}\b", "<id>"),
        (r"\b[0-9a-f]{12}\b", "<short>"),
        (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z| ?[+-]\d\d:?\d\d( \w+)?)?", "<time>"),
        (r"\b(?:\d{1,3}\.){3}\d{1,3}\b(?!/8)", "<ip>"),
        (r"\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b", "<mac>"),
        (r"\bf[de][0-9a-f]{2}:[0-9a-f:]+", "<ip6>"),
        (r"(About )?(\d+|an?|Less than a) (second|minute|hour)s?( ago)?", "<while>"),
        (r"port (\d{5})\b", "port <port>"),
        (r":(3[2-9]|[45]\d|6[0-5])\d{3}\b", ":<port>"),
        (r'"(time|timeNano)":\d+', r'"\1":<when>'),
    ]
    for pattern, replacement in rules:
        text = re.sub(pattern, replacement, text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def shape(value, side, key=""):
    """JSON as lines `path = value`, comparable one by one."""
    if isinstance(value, dict):
        if not value:
            yield f"{key} = {{}}"
        for name, inner in sorted(value.items()):
            if name in OPAQUE:
                continue
            path = f"{key}.{plain(name, side)}"
            if name == "Processes" and inner:
                # Their numbers and times are those of a run: how many there are, and of what.
                yield f"{path} : {len(inner)} of {len(inner[0])}"
                continue
            if name in OWN and not isinstance(inner, (dict, list)):
                yield f"{path} : {type(inner).__name__}{' empty' if not inner else ''}"
            else:
                yield from shape(inner, side, path)
    elif isinstance(value, list):
        if not value:
            yield f"{key} = []"
        for number, inner in enumerate(ordered(value, key)):
            yield from shape(inner, side, f"{key}[{number}]")
    else:
        yield f"{key} = {plain(json.dumps(value), side)}"


def ordered(value, key):
    """Lists whose order is by chance with Docker and its command, as they make them of maps."""
    if key.endswith(".Binds"):
        return sorted(value)
    if key.endswith(".Mounts"):
        return sorted(value, key=lambda mount: mount.get("Destination", mount.get("Target", "")))
    if not key and all(isinstance(one, dict) and "IPAM" in one for one in value):
        return sorted(value, key=lambda network: network["Name"])
    return value


def lines(outcome, side):
    """What is compared of an outcome."""
    if not outcome:
        return []
    found = [f"code {outcome['code']}"]
    found += [f"head {field}" for field in outcome.get("heads", [])]
    text = outcome["out"].strip()
    try:
        value = json.loads(text) if text[:1] in "[{" and text else None
    except ValueError:
        value = None
    if value is None:
        found += [f"out {line}" for line in plain(text, side).splitlines()]
    else:
        found += [f"out {line}" for line in shape(value, side)]
    found += [f"err {line}" for line in plain(outcome["err"], side).splitlines()]
    return found


def scenarios():
    """Titles with their lines."""
    title, block = None, []
    for line in "\n".join(file.read_text() for file in sorted(HERE.glob("cases*.txt"))).splitlines():
        if line.startswith("## "):
            if title:
                yield title, block
            title, block = line[3:].strip(), []
        elif line.strip() and not line.startswith("#"):
            block.append(line.strip())
    if title:
        yield title, block


def known():
    """Pattern of a difference and the reason for it."""
    for line in (HERE / "known.txt").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            pattern, reason = line.split(" ## ")
            yield re.compile(pattern.strip()), reason


def clean(side):
    """Removes all that a scenario has made."""
    def ids(*words):
        return side.docker(" ".join(words))["out"].split()
    for kind, listing in [("container", "ps -aq --no-trunc"), ("network", "network ls -q"),
                          ("volume", "volume ls -q")]:
        found = ids(*listing.split(), "--filter", f"name={side.prefix}")
        if found:
            force = "-fv" if kind == "container" else ""
            side.docker(f"{kind} rm {force} " + " ".join(shlex.quote(one) for one in found))


def compare(title, block, sides):
    """Runs a scenario; yields its differences."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        def walk(side):
            outcomes = []
            side.began = int(time.time())
            try:
                for line in block:
                    outcomes.append(lines(side.run(line), side))
            finally:
                clean(side)
            return outcomes
        theirs, ours = pool.map(walk, sides)
    for line, one, two in zip(block, theirs, ours):
        for d in difflib.ndiff(one, two):
            if d[0] in "+-":
                yield f"{title} | {line} | {d}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--docker", required=True, help="the socket of a genuine daemon")
    parser.add_argument("--rnet", required=True, help="the socket of rnet")
    parser.add_argument("--only", default="", help="scenarios whose title has this word")
    parser.add_argument("--all", action="store_true", help="print known differences too")
    args = parser.parse_args()
    sides = [Side(args.docker, "cmpx"), Side(args.rnet, "cmpx")]
    if sides[0].docker(f"image inspect {IMAGE}")["code"]:
        sides[1].docker(f"create --name cmpx-image {IMAGE}")
        with tempfile.NamedTemporaryFile(suffix=".tar") as archive:
            for side, verb in [(sides[1], f"save -o {archive.name}"), (sides[0], f"load -i {archive.name}")]:
                done = side.docker(f"{verb} {IMAGE}" if "save" in verb else verb)
                if done["code"]:
                    sys.exit(f"cannot copy the image: {done['err']}")
    for side in sides:
        clean(side)
    accepted, commands, met, unmet, last = list(known()), 0, set(), 0, None
    for title, block in scenarios():
        if args.only not in title:
            continue
        commands += len(block)
        for difference in compare(title, block, sides):
            reason = next((r for pattern, r in accepted if pattern.search(difference)), None)
            if reason is None:
                unmet += 1
                command, what = difference.rsplit(" | ", 1)
                if command != last:
                    print(command)
                print(f"        {what}", flush=True)
                last = command
            else:
                met.add(reason)
                if args.all:
                    print(f"{difference}   ({reason})", flush=True)
    print(f"{commands} commands, {unmet} unexplained differences, {len(met)} known reasons", file=sys.stderr)
    sys.exit(1 if unmet else 0)


if __name__ == "__main__":
    main()
