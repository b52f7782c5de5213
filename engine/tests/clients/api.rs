//! What the wire looks like, to the byte where clients depend on it.

use std::io::{BufReader, Read, Write};
use std::net::Shutdown;
use std::thread;

use serde_json::json;

use crate::daemon::{Daemon, Reply, read_chunk};

const IMAGE: &str = "rnet/toolbox:latest";

fn create(daemon: &Daemon, command: &[&str], host: &serde_json::Value) -> String {
    let body = json!({"Image": IMAGE, "Cmd": command, "HostConfig": host});
    let reply = daemon.post("/v1.51/containers/create", &body);
    assert_eq!(reply.status, 201, "{}", reply.text());
    reply.json()["Id"].as_str().unwrap().to_owned()
}

#[test]
fn requests_without_containers_have_docker_s_answers() {
    let daemon = Daemon::start(&[]);
    ping_tells_the_version(&daemon);
    versions_are_negotiated(&daemon);
    unknown_things_are_404(&daemon);
    bodies_are_checked(&daemon);
    web_pages_are_refused(&daemon);
    networks_have_a_life(&daemon);
    volumes_have_a_life(&daemon);
    info_tells_of_the_daemon(&daemon);
    the_past_has_events(&daemon);
}

fn ping_tells_the_version(daemon: &Daemon) {
    for (method, body) in [("GET", "OK"), ("HEAD", "")] {
        let reply = daemon.call(method, "/_ping", None);
        assert_eq!((reply.status, reply.text().as_str()), (200, body));
        assert_eq!(reply.header("api-version"), Some("1.51"));
        assert_eq!(reply.header("ostype"), Some("linux"));
        assert_eq!(reply.header("builder-version"), Some("1"));
        assert_eq!(reply.header("swarm"), Some("inactive"));
        assert_eq!(reply.header("cache-control"), Some("no-cache, no-store, must-revalidate"));
        assert_eq!(reply.header("pragma"), Some("no-cache"));
        assert!(reply.header("server").unwrap().starts_with("Docker/"));
    }
}

fn versions_are_negotiated(daemon: &Daemon) {
    let refused = |version: &str| {
        let reply = daemon.get(&format!("/{version}/version"));
        assert_eq!(reply.status, 400);
        reply.message()
    };
    assert_eq!(
        refused("v1.99"),
        "client version 1.99 is too new. Maximum supported API version is 1.51"
    );
    assert_eq!(
        refused("v1.20"),
        "client version 1.20 is too old. Minimum supported API version is 1.24, please upgrade \
         your client to a newer version"
    );
    for path in ["/version", "/v1.24/version", "/v1.51/version"] {
        assert_eq!(daemon.get(path).json()["ApiVersion"], "1.51");
    }
}

fn unknown_things_are_404(daemon: &Daemon) {
    for (method, path) in [("GET", "/nope"), ("DELETE", "/v1.41/info"), ("PATCH", "/images/a/b")] {
        let reply = daemon.call(method, path, None);
        assert_eq!((reply.status, reply.message().as_str()), (404, "page not found"));
        assert_eq!(reply.header("content-type"), Some("application/json"));
    }
    for (path, message) in [
        ("/containers/nope/json", "No such container: nope"),
        ("/images/nope/json", "No such image: nope:latest"),
        ("/images/127.0.0.1:5000/a/b:1/json", "No such image: 127.0.0.1:5000/a/b:1"),
        ("/networks/nope", "network nope not found"),
        ("/volumes/nope", "get nope: no such volume"),
        ("/plugins/nope/json", "plugin \"nope\" not found"),
        ("/exec/nope/json", "No such exec instance: nope"),
    ] {
        let reply = daemon.get(path);
        assert_eq!((reply.status, reply.message().as_str()), (404, message), "{path}");
    }
    let reply = daemon.get("/services");
    assert_eq!(reply.status, 503);
    assert!(reply.message().starts_with("This node is not a swarm manager."));
    let reply = daemon.post("/containers/create", &json!({"Image": "nope:1"}));
    assert_eq!((reply.status, reply.message().as_str()), (404, "No such image: nope:1"));
}

fn bodies_are_checked(daemon: &Daemon) {
    let json = "Content-Type: application/json\r\n";
    for (headers, body, message) in [
        ("Content-Type: text/plain\r\n", "{}", "unsupported Content-Type header"),
        (json, "{} {}", "unexpected content after JSON"),
        (json, "{}}", "config cannot be empty in order to create a container"),
        (json, "{\"Image\":\"\"}", "no command specified"),
        ("", "{}", "malformed Content-Type header (): mime: no media type"),
        (json, "{", "invalid JSON: unexpected EOF"),
        (
            json,
            "{i: 1}",
            "invalid JSON: invalid character 'i' looking for beginning of object key string",
        ),
        (json, "", "invalid JSON: got EOF while reading request body"),
        (json, "null", "config cannot be empty in order to create a container"),
        (
            json,
            "{\"Image\": 5}",
            "invalid JSON: json: cannot unmarshal number into Go struct field CreateRequest.Image of \
             type string",
        ),
    ] {
        let reply = daemon.send("POST", "/containers/create", headers, body.as_bytes());
        assert_eq!(reply.status, 400, "{body}");
        assert!(reply.message().contains(message), "{body}: {}", reply.message());
    }
    let reply = daemon.get("/containers/json?filters=%7B%22bogus%22%3A%5B%5D%7D");
    assert_eq!((reply.status, reply.message().as_str()), (400, "invalid filter 'bogus'"));
}

fn web_pages_are_refused(daemon: &Daemon) {
    for header in ["Origin: http://evil.example\r\n", "Sec-Fetch-Site: cross-site\r\n"] {
        assert_eq!(daemon.send("POST", "/containers/create", header, b"").status, 403);
        assert_eq!(daemon.send("GET", "/info", header, b"").status, 403);
    }
}

fn networks_have_a_life(daemon: &Daemon) {
    let create = json!({
        "Name": "n1", "Driver": "bridge", "EnableIPv6": true, "Labels": {"tier": "front"},
        "IPAM": {"Config": [{"Subnet": "10.81.0.0/24"}, {"Subnet": "fd81::/64"}]},
    });
    let reply = daemon.post("/networks/create", &create);
    assert_eq!(reply.status, 201, "{}", reply.text());
    let id = reply.json()["Id"].as_str().unwrap().to_owned();
    let reply = daemon.post("/networks/create", &create);
    assert_eq!(
        (reply.status, reply.message().as_str()),
        (409, "network with name n1 already exists")
    );
    let network = daemon.get(&format!("/networks/{}", &id[..12])).json();
    assert_eq!((&network["Name"], &network["EnableIPv6"]), (&json!("n1"), &json!(true)));
    assert_eq!(network["IPAM"]["Config"][0]["Subnet"], "10.81.0.0/24");
    assert_eq!(network["IPAM"]["Config"][0]["Gateway"], "10.81.0.1");
    let named = |filters: &str| {
        let list = daemon.get(&format!("/networks?filters={filters}")).json();
        let names = list.as_array().unwrap().iter().map(|n| n["Name"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(named("%7B%22label%22%3A%7B%22tier%3Dfront%22%3Atrue%7D%7D"), ["n1"]);
    assert_eq!(named("%7B%22type%22%3A%5B%22builtin%22%5D%7D"), ["bridge", "host", "none"]);
    assert_eq!(daemon.call("DELETE", "/networks/bridge", None).status, 403);
    assert_eq!(daemon.call("DELETE", "/networks/n1", None).status, 204);
    assert_eq!(daemon.get("/networks/n1").status, 404);
}

fn volumes_have_a_life(daemon: &Daemon) {
    let reply = daemon.post("/volumes/create", &json!({"Name": "data", "Labels": {"a": "b"}}));
    assert_eq!((reply.status, &reply.json()["Name"]), (201, &json!("data")), "{}", reply.text());
    assert_eq!(daemon.get("/volumes").json()["Volumes"][0]["Labels"], json!({"a": "b"}));
    assert_eq!(daemon.call("DELETE", "/volumes/data", None).status, 204);
    assert_eq!(daemon.call("DELETE", "/volumes/data", None).status, 404);
    assert_eq!(daemon.call("DELETE", "/volumes/data?force=1", None).status, 204);
}

fn info_tells_of_the_daemon(daemon: &Daemon) {
    let info = daemon.get("/info").json();
    assert_eq!(info["DockerRootDir"], daemon.scratch.text("data"));
    assert_eq!(info["FirewallBackend"]["Driver"], "nftables");
    assert_eq!(info["Swarm"]["LocalNodeState"], "inactive");
    assert_eq!(info["LiveRestoreEnabled"], true);
    assert_eq!(info["Containers"], 0);
    assert!(info["NCPU"].as_i64().unwrap() > 0 && info["MemTotal"].as_i64().unwrap() > 0);
}

fn the_past_has_events(daemon: &Daemon) {
    let reply =
        daemon.get("/events?since=1&until=0s&filters=%7B%22type%22%3A%5B%22network%22%5D%7D");
    let lines: Vec<serde_json::Value> =
        reply.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let actions: Vec<_> = lines.iter().map(|line| line["Action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["create", "destroy"]);
    assert_eq!(lines[0]["Actor"]["Attributes"]["name"], "n1");
}

#[test]
fn wait_answers_before_the_container_starts() {
    let daemon = Daemon::start(&[]);
    let id = create(&daemon, &["exit", "3"], &json!({"NetworkMode": "none"}));
    let path = format!("/containers/{id}/wait?condition=next-exit");
    let mut waiting = BufReader::new(daemon.open("POST", &path, "", b""));
    let head = Reply::read_head(&mut waiting);
    assert_eq!((head.status, head.header("content-type")), (200, Some("application/json")));
    assert_eq!(daemon.call("POST", &format!("/containers/{id}/start"), None).status, 204);
    let chunk = read_chunk(&mut waiting).unwrap();
    let waited: serde_json::Value = serde_json::from_slice(&chunk).unwrap();
    assert_eq!(waited["StatusCode"], 3);
    assert_eq!(daemon.call("POST", &format!("/containers/{id}/stop"), None).status, 304);
}

#[test]
fn attach_is_a_raw_connection_with_half_close() {
    let daemon = Daemon::start(&[]);
    let body = json!({
        "Image": IMAGE, "Cmd": ["cat"], "OpenStdin": true, "StdinOnce": true, "AttachStdin": true,
        "HostConfig": {"NetworkMode": "none"},
    });
    let id = daemon.post("/containers/create", &body).json()["Id"].as_str().unwrap().to_owned();
    let path = format!("/v1.51/containers/{id}/attach?stream=1&stdin=1&stdout=1&stderr=1");
    let upgrade = "Connection: Upgrade\r\nUpgrade: tcp\r\n";
    let mut stream = daemon.open("POST", &path, upgrade, b"");
    let started = thread::scope(|scope| {
        // The bytes follow at once, before the container runs.
        stream.write_all(b"question\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let start = scope.spawn(|| daemon.call("POST", &format!("/containers/{id}/start"), None));
        start.join().unwrap().status
    });
    assert_eq!(started, 204);
    let mut reader = BufReader::new(stream);
    let head = Reply::read_head(&mut reader);
    assert_eq!((head.status, head.reason.as_str()), (101, "UPGRADED"));
    assert_eq!(head.header("content-type"), Some("application/vnd.docker.multiplexed-stream"));
    assert_eq!((head.header("connection"), head.header("upgrade")), (Some("Upgrade"), Some("tcp")));
    let mut output = Vec::new();
    reader.read_to_end(&mut output).unwrap();
    assert_eq!(output, b"\x01\0\0\0\0\0\0\x09question\n");
}

#[test]
fn logs_come_in_frames() {
    let daemon = Daemon::start(&[]);
    let id = create(&daemon, &["echo", "hello"], &json!({"NetworkMode": "none"}));
    daemon.call("POST", &format!("/containers/{id}/start"), None);
    daemon.call("POST", &format!("/containers/{id}/wait"), None);
    let reply = daemon.get(&format!("/v1.51/containers/{id}/logs?stdout=1&stderr=1&tail=all"));
    assert_eq!(reply.header("content-type"), Some("application/vnd.docker.multiplexed-stream"));
    assert_eq!(reply.body, b"\x01\0\0\0\0\0\0\x06hello\n");
    let reply = daemon.get(&format!("/v1.41/containers/{id}/logs?stdout=1"));
    assert_eq!(reply.header("content-type"), Some("application/vnd.docker.raw-stream"));
    let reply = daemon.get(&format!("/containers/{id}/logs"));
    assert_eq!(reply.status, 400);
}
