"""A token server over TLS, as registries name one: who knows the password may do what he asks for.

Usage: token.py HOST PORT DIRECTORY_OF_THE_CERTIFICATE USER:PASSWORD
"""

import base64
import http.server
import json
import ssl
import subprocess
import sys
import time
import urllib.parse

HOST, PORT, PLACE, SECRET = sys.argv[1:]


def encoded(raw):
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def token(service, scopes):
    """A token for what is asked, signed with the key of the server."""
    with open(f"{PLACE}/server.cert", encoding="ascii") as file:
        certificate = base64.b64encode(ssl.PEM_cert_to_DER_cert(file.read())).decode()
    access = []
    for scope in scopes:
        kind, rest = scope.split(":", 1)
        name, actions = rest.rsplit(":", 1)
        access.append({"type": kind, "name": name, "actions": actions.split(",")})
    now = int(time.time())
    head = {"typ": "JWT", "alg": "RS256", "x5c": [certificate]}
    claims = {"iss": "test", "sub": "user", "aud": service, "iat": now, "nbf": now - 10, "exp": now + 300,
              "jti": str(time.time_ns()), "access": access}
    text = b".".join(encoded(json.dumps(part).encode()) for part in (head, claims))
    sign = ["openssl", "dgst", "-sha256", "-sign", f"{PLACE}/server.key"]
    signature = subprocess.run(sign, input=text, capture_output=True, check=True).stdout
    return (text + b"." + encoded(signature)).decode()


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        query = urllib.parse.parse_qs(urllib.parse.urlparse(self.path).query)
        said = self.headers.get("Authorization")
        known = said == "Basic " + base64.b64encode(SECRET.encode()).decode()
        status, told = 200, {"token": token(query["service"][0], query.get("scope", []) if known else [])}
        if said and not known:
            status, told = 401, {"details": "incorrect username or password"}
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(f"{PLACE}/server.cert", f"{PLACE}/server.key")
server = http.server.ThreadingHTTPServer((HOST, int(PORT)), Answer)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
