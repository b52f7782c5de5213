#!/usr/bin/env python3
"""A small plugin for networks and addresses, in Docker's protocol, for tests.

    plugin.py SOCKET LOG [BEHAVIOUR...]

It writes down each call as one line of JSON: the path without its slash, and the body. As a driver it
makes a bridge for each network and a veth pair for each endpoint; as an IPAM driver it hands out
addresses one after the other. What it made is in the kernel and what it gave in the file LOG.state, so
that a plugin that was killed goes on where it was. Its process id is in LOG.pid.

Behaviours: `hang=CALL` (never answers), `fail=CALL` (answers with an error), `die=CALL` (ends without
an answer), `only=KIND` (implements NetworkDriver or IpamDriver), `mac` (wants hardware addresses before it gives addresses),
`replay` (wants its requests again from each new daemon), `global` (says that it is of a cluster). A file
LOG.behaviour replaces them while it runs, one a line.
"""

import ipaddress
import json
import os
import socketserver
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler

KINDS = ["NetworkDriver", "IpamDriver"]
GATEWAY = "com.docker.network.gateway"
MAC = "com.docker.network.endpoint.macaddress"


class Refused(Exception):
    """What the plugin will not do, in words."""


def ip(*words):
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode != 0:
        raise Refused(f"ip {' '.join(words)}: {done.stderr.strip()}")


class Plugin:
    def __init__(self, log, behaviours):
        self.log, self.behaviours = log, behaviours
        self.lock = threading.Lock()
        try:
            with open(log + ".state") as file:
                self.state = json.load(file)
        except FileNotFoundError:
            self.state = {"networks": {}, "endpoints": {}, "pools": {}}

    def wants(self, behaviour):
        try:
            with open(self.log + ".behaviour") as file:
                return behaviour in file.read().split()
        except FileNotFoundError:
            return behaviour in self.behaviours

    def note(self, call, body):
        with open(self.log, "a") as file:
            file.write(json.dumps({"call": call, "body": body}, sort_keys=True) + "\n")

    def answer(self, call, body):
        with self.lock:
            self.note(call, body)
        while self.wants("hang=" + call):
            time.sleep(0.05)
        if self.wants("die=" + call):
            os._exit(1)
        # The two protocols have different words for it.
        error = "Error" if call.startswith("IpamDriver") else "Err"
        if self.wants("fail=" + call):
            return {error: f"{call} is not for you"}
        name = call.replace(".", "_")
        with self.lock:
            try:
                reply = getattr(self, name)(body)
            except Refused as why:
                return {error: str(why)}
            with open(self.log + ".state.new", "w") as file:
                json.dump(self.state, file)
            os.replace(self.log + ".state.new", self.log + ".state")
            return reply

    def Plugin_Activate(self, _body):
        return {"Implements": [kind for kind in KINDS if self.does(kind)]}

    def does(self, kind):
        only = [other for other in KINDS if self.wants("only=" + other)]
        return not only or kind in only

    # === Networks ===

    def NetworkDriver_GetCapabilities(self, _body):
        return {"Scope": "global" if self.wants("global") else "local", "ConnectivityScope": "local"}

    def NetworkDriver_CreateNetwork(self, body):
        network = body["NetworkID"]
        bridge = "pb" + network[:8]
        ip("link", "add", bridge, "type", "bridge")
        ip("link", "set", bridge, "up")
        gateways = []
        for data in (body.get("IPv4Data") or []) + (body.get("IPv6Data") or []):
            if data.get("Gateway"):
                nodad = ["nodad"] if ":" in data["Gateway"] else []
                ip("addr", "add", data["Gateway"], "dev", bridge, *nodad)
                gateways.append(data["Gateway"])
        self.state["networks"][network] = {"bridge": bridge, "gateways": gateways}
        return {}

    def NetworkDriver_DeleteNetwork(self, body):
        network = self.state["networks"].pop(body["NetworkID"], None)
        if network is None:
            raise Refused("there is no such network")
        ip("link", "del", network["bridge"])
        return {}

    def NetworkDriver_CreateEndpoint(self, body):
        network = self.state["networks"].get(body["NetworkID"])
        if network is None:
            raise Refused("there is no such network")
        endpoint, wanted = body["EndpointID"], body.get("Interface") or {}
        near, far = "pv" + endpoint[:8], "pp" + endpoint[:8]
        ip("link", "add", near, "type", "veth", "peer", "name", far)
        ip("link", "set", near, "master", network["bridge"], "up")
        self.state["endpoints"][endpoint] = {"near": near, "far": far}
        if wanted.get("MacAddress"):
            ip("link", "set", far, "address", wanted["MacAddress"])
            return {"Interface": {}}
        mac = "02:99:" + ":".join(endpoint[i:i + 2] for i in range(0, 8, 2))
        ip("link", "set", far, "address", mac)
        return {"Interface": {"MacAddress": mac}}

    def NetworkDriver_DeleteEndpoint(self, body):
        endpoint = self.state["endpoints"].pop(body["EndpointID"], None)
        if endpoint is None:
            raise Refused("there is no such endpoint")
        try:
            ip("link", "del", endpoint["near"])
        except Refused:
            pass  # It went with its other end.
        return {}

    def NetworkDriver_EndpointOperInfo(self, body):
        return {"Value": {"plugin.endpoint": body["EndpointID"][:8]}}

    def NetworkDriver_Join(self, body):
        endpoint = self.state["endpoints"].get(body["EndpointID"])
        network = self.state["networks"].get(body["NetworkID"])
        if endpoint is None or network is None:
            raise Refused("there is no such endpoint")
        endpoint["sandbox"] = os.path.exists(body["SandboxKey"])
        reply = {"InterfaceName": {"SrcName": endpoint["far"], "DstPrefix": "net"}, "StaticRoutes": [
            {"Destination": "203.0.113.0/24", "RouteType": 1, "NextHop": ""}]}
        for gateway in network["gateways"]:
            address = gateway.split("/")[0]
            reply["GatewayIPv6" if ":" in address else "Gateway"] = address
        return reply

    def NetworkDriver_Leave(self, _body):
        return {}

    def NetworkDriver_ProgramExternalConnectivity(self, _body):
        return {}

    def NetworkDriver_RevokeExternalConnectivity(self, _body):
        return {}

    # === Addresses ===

    def IpamDriver_GetCapabilities(self, _body):
        return {"RequiresMACAddress": self.wants("mac"), "RequiresRequestReplay": self.wants("replay")}

    def IpamDriver_GetDefaultAddressSpaces(self, _body):
        return {"LocalDefaultAddressSpace": "here", "GlobalDefaultAddressSpace": "everywhere"}

    def IpamDriver_RequestPool(self, body):
        default = "fd00:88::/64" if body.get("V6") else "10.88.0.0/24"
        pool = body.get("Pool") or default
        name = f"{body['AddressSpace']}/{pool}"
        self.state["pools"].setdefault(name, {"pool": pool, "given": []})
        return {"PoolID": name, "Pool": pool, "Data": {}}

    def IpamDriver_ReleasePool(self, body):
        if self.state["pools"].pop(body["PoolID"], None) is None:
            raise Refused("there is no such pool")
        return {}

    def IpamDriver_RequestAddress(self, body):
        pool = self.state["pools"].get(body["PoolID"])
        if pool is None:
            raise Refused("there is no such pool")
        options = body.get("Options") or {}
        purpose = options.get("RequestAddressType")
        if self.wants("mac") and not (purpose == GATEWAY or body.get("Address") or options.get(MAC)):
            raise Refused("a hardware address is wanted")
        network = ipaddress.ip_network(pool["pool"])
        if body.get("Address"):
            address = str(ipaddress.ip_address(body["Address"]))
            if address in pool["given"] and not self.wants("replay"):
                raise Refused(f"{address} is taken")
        else:
            # The last ones of the pool, which nobody else would come upon.
            last = int(network.broadcast_address) - 1
            address = next(str(ipaddress.ip_address(n)) for n in range(last, last - 200, -1)
                           if str(ipaddress.ip_address(n)) not in pool["given"])
        if address not in pool["given"]:
            pool["given"].append(address)
        return {"Address": f"{address}/{network.prefixlen}", "Data": {}}

    def IpamDriver_ReleaseAddress(self, body):
        pool = self.state["pools"].get(body["PoolID"])
        if pool is None or body["Address"] not in pool["given"]:
            raise Refused("there is no such address")
        pool["given"].remove(body["Address"])
        return {}


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        size = int(self.headers.get("Content-Length") or 0)
        chunked = self.headers.get("Transfer-Encoding") == "chunked"
        text = self.chunks() if chunked else self.rfile.read(size)
        body = json.loads(text) if text.strip() else None
        call = self.path.lstrip("/")
        if not hasattr(Plugin, call.replace(".", "_")):
            return self.reply(404, b"no such call")
        self.reply(200, json.dumps(self.server.plugin.answer(call, body)).encode())

    def chunks(self):
        text = b""
        while size := int(self.rfile.readline(), 16):
            text += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return text

    def reply(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.docker.plugins.v1.2+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_words):
        pass

    def address_string(self):
        return "the daemon"


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def handle_error(self, _request, _client):
        pass  # Who asked has not waited for the answer.


def main():
    socket, log, *behaviours = sys.argv[1:]
    if os.path.exists(socket):
        os.unlink(socket)
    server = Server(socket, Handler)
    server.plugin = Plugin(log, behaviours)
    with open(log + ".pid", "w") as file:
        file.write(str(os.getpid()))
    server.serve_forever()


if __name__ == "__main__":
    main()
