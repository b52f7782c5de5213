"""The Docker Engine API over a unix socket: just what the benches call."""

import http.client
import json
import socket
import urllib.parse


class ApiError(Exception):
    """A refusal, with the server's sentence."""


class Connection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout, blocksize=1 << 20)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Api:
    """One kept connection. Not to be shared between threads: `again()` makes another."""

    def __init__(self, path, timeout=300):
        self.path = path
        self.timeout = timeout
        self.connection = None

    def again(self):
        return Api(self.path, self.timeout)

    def close(self):
        if self.connection:
            self.connection.close()
            self.connection = None

    def raw(self, method, path, body=None, headers=None):
        kept = self.connection is not None
        if not kept:
            self.connection = Connection(self.path, self.timeout)
        try:
            self.connection.request(method, "/v1.41" + path, body, headers or {})
            answer = self.connection.getresponse()
            content = answer.read()
        except (BrokenPipeError, ConnectionResetError):
            self.close()
            if not kept:
                raise
            # The server closed it meanwhile, for nobody asked anything.
            return self.raw(method, path, body, headers)
        except (OSError, http.client.HTTPException):
            self.close()
            raise
        if answer.will_close:
            self.close()
        if answer.status >= 400:
            text = content.decode(errors="replace").strip()
            try:
                text = json.loads(text)["message"]
            except (ValueError, KeyError, TypeError):
                pass
            raise ApiError(f"{method} {path.split('?')[0]}: {answer.status} {text}")
        return content

    def call(self, method, path, value=None):
        body = None if value is None else json.dumps(value)
        headers = {} if value is None else {"Content-Type": "application/json"}
        content = self.raw(method, path, body, headers)
        return json.loads(content) if content[:1] in (b"{", b"[") else content

    def create(self, image, command, parent, name=None, network="none", ports=(),
               address="0.0.0.0"):
        """A container; `ports` are host ports that are published to its port 80, of IPv4 unless
        `address` says otherwise."""
        host = {
            "NetworkMode": network,
            "CgroupParent": parent,
            "PortBindings": {
                "80/tcp": [{"HostIp": address, "HostPort": str(port)} for port in ports]
            },
        }
        if not ports:
            del host["PortBindings"]
        body = {"Image": image, "Cmd": command, "HostConfig": host}
        if ports:
            body["ExposedPorts"] = {"80/tcp": {}}
        query = "?" + urllib.parse.urlencode({"name": name}) if name else ""
        return self.call("POST", "/containers/create" + query, body)["Id"]

    def start(self, key):
        self.raw("POST", f"/containers/{key}/start")

    def stop(self, key):
        self.raw("POST", f"/containers/{key}/stop")

    def remove(self, key):
        self.raw("DELETE", f"/containers/{key}?force=1&v=1")

    def execute(self, key, command):
        """Runs a command in a container and returns what it wrote, frames and all."""
        spec = {"Cmd": command, "AttachStdout": True, "AttachStderr": True}
        id = self.call("POST", f"/containers/{key}/exec", spec)["Id"]
        body = json.dumps({"Detach": False, "Tty": False})
        stream = self.again()
        try:
            output = stream.raw(
                "POST", f"/exec/{id}/start", body, {"Content-Type": "application/json"}
            )
        finally:
            stream.close()
        return output

    def create_network(self, name, subnet=None, driver="bridge", options=None, more=None):
        body = {"Name": name, "CheckDuplicate": True, "Driver": driver, "Options": options or {}}
        body |= more or {}
        if subnet:
            body["IPAM"] = {"Config": [{"Subnet": subnet}]}
        return self.call("POST", "/networks/create", body)["Id"]

    def remove_network(self, key):
        self.raw("DELETE", f"/networks/{key}")
