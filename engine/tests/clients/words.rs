//! Words and shapes that clients compare, request by request.

use std::io::{BufReader, Read, Write};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use crate::daemon::{Daemon, Reply};

const IMAGE: &str = "rnet/toolbox:latest";

/// A container that sleeps.
fn running(daemon: &Daemon, name: &str, network: &str) {
    daemon.docker_ok(&["run", "-d", "--name", name, "--network", network, IMAGE, "sleep", "1000"]);
}

fn refused(daemon: &Daemon, method: &str, path: &str, status: u16, message: &str) {
    let reply = daemon.call(method, path, None);
    assert_eq!((reply.status, reply.message().as_str()), (status, message), "{method} {path}");
}

#[test]
fn paths_are_cleaned_and_a_slash_at_their_end_counts() {
    let daemon = Daemon::start(&[]);
    for (path, location) in [
        ("//v1.51/version", "/v1.51/version"),
        ("/containers/../version?x=y", "/version?x=y"),
        ("/containers//json", "/containers/json"),
    ] {
        let reply = daemon.get(path);
        assert_eq!((reply.status, reply.header("location")), (301, Some(location)), "{path}");
    }
    for path in ["/info/", "/containers/json/", "/_ping/", "/v1.51/"] {
        refused(&daemon, "GET", path, 404, "page not found");
    }
    assert!(daemon.get("/v1.40/networks/").json().as_array().unwrap().len() >= 3);
    refused(&daemon, "GET", "/volumes/", 404, "get: no such volume");
    refused(&daemon, "DELETE", "/containers/", 400, "invalid name or ID supplied: \"\"");
    refused(&daemon, "DELETE", "/images/", 400, "image name cannot be blank");
}

#[test]
fn a_network_in_use_names_its_containers() {
    let daemon = Daemon::start(&[]);
    daemon.docker_ok(&["network", "create", "n1"]);
    running(&daemon, "web", "n1");
    let shown = daemon.get("/networks/n1").json();
    let members = shown["Containers"].as_object().unwrap();
    let endpoint = members.values().next().unwrap()["EndpointID"].as_str().unwrap().to_owned();
    let message = format!(
        "error while removing network: network n1 has active endpoints (name:\"web\" id:\"{}\")",
        &endpoint[..12]
    );
    refused(&daemon, "DELETE", "/networks/n1", 403, &message);
    let connect = json!({"Container": ""});
    let reply = daemon.post("/networks/n1/connect", &connect);
    assert_eq!(
        (reply.status, reply.message()),
        (400, "invalid name or ID supplied: \"\"".to_owned())
    );
    let connect = json!({"Container": "nobody"});
    let reply = daemon.post("/networks/nope/connect", &connect);
    assert_eq!((reply.status, reply.message()), (404, "No such container: nobody".to_owned()));
}

#[test]
fn who_cannot_be_attached_is_told_in_text_and_cut_off() {
    let daemon = Daemon::start(&[]);
    running(&daemon, "c1", "none");
    daemon.docker_ok(&["pause", "c1"]);
    for (path, status, text) in [
        ("/containers/nope/attach?stream=1&stdout=1", 404, "No such container: nope\r\n"),
        (
            "/containers/c1/attach?stream=1&stdout=1",
            409,
            "container c1 is paused, unpause the container before attach\r\n",
        ),
        (
            "/containers/c1/attach?stdout=1&detachKeys=foo",
            400,
            "Invalid detach keys (foo) provided\r\n",
        ),
    ] {
        for headers in ["", "Connection: Upgrade\r\nUpgrade: tcp\r\n"] {
            let mut stream = daemon.open("POST", path, headers, b"");
            let mut reader = BufReader::new(&mut stream);
            let head = Reply::read_head(&mut reader);
            assert_eq!(head.status, status, "{path}");
            assert_eq!(head.header("content-type"), Some("application/vnd.docker.raw-stream"));
            let mut told = String::new();
            reader.read_to_string(&mut told).unwrap();
            assert_eq!(told, text, "{path}");
        }
    }
}

#[test]
fn filters_have_one_shape_and_known_values() {
    let daemon = Daemon::start(&[]);
    let check = |path: &str, filters: &str, message: &str| {
        let encoded = filters.replace('{', "%7B").replace('"', "%22").replace('}', "%7D");
        refused(&daemon, "GET", &format!("{path}?filters={encoded}"), 400, message);
    };
    check("/containers/json", r#"{"name":["a"],"label":{"b":true}}"#, "invalid filter");
    check("/containers/json", "x", "invalid filter");
    check(
        "/containers/json",
        r#"{"status":["x"]}"#,
        "invalid filter 'status=x': invalid value for state (x): must be one of created, running, \
         paused, restarting, removing, exited, dead",
    );
    check("/containers/json", r#"{"is-task":["x","y"]}"#, "invalid filter 'is-task=[x y]'");
    check(
        "/networks",
        r#"{"dangling":["x"]}"#,
        "invalid value for filter 'dangling', must be \"true\" (or \"1\"), or \"false\" (or \"0\")",
    );
    let prune = "/networks/prune?filters=%7B%22until%22:[%22x%22]%7D";
    refused(&daemon, "POST", prune, 400, "failed to parse value as time or duration: \"x\"");
    let twice = "/containers/prune?filters=%7B%22until%22:[%221h%22,%222h%22]%7D";
    refused(&daemon, "POST", twice, 400, "more than one until filter specified");
}

#[test]
fn what_cannot_be_done_to_a_container_is_told_in_docker_s_words() {
    let daemon = Daemon::start(&[]);
    running(&daemon, "c1", "none");
    let post = |path: &str, status, message: &str| {
        refused(&daemon, "POST", &format!("/containers/c1/{path}"), status, message);
    };
    post("resize", 400, "invalid resize height \"\": invalid syntax");
    post("resize?h=10", 400, "invalid resize width \"\": invalid syntax");
    post("resize?h=-1&w=1", 400, "invalid resize height \"-1\": value out of range");
    post(
        "kill?signal=65",
        400,
        "cannot kill container: c1: the linux daemon does not support signal 65",
    );
    post(
        "rename?name=a%2Fb",
        400,
        "Error when allocating new name: Invalid container name (/a/b), only \
         [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
    );
    refused(&daemon, "POST", "/session", 400, "no upgrade proto in request");
    refused(&daemon, "POST", "/plugins/x/disable", 404, "plugin \"x\" not found");
    refused(
        &daemon,
        "POST",
        "/swarm/update",
        400,
        "invalid swarm version '': strconv.ParseUint: parsing \"\": invalid syntax",
    );
    let waited = daemon.call("POST", "/v1.29/containers/c1/kill", None);
    assert_eq!(waited.status, 204);
    assert_eq!(daemon.call("POST", "/v1.29/containers/c1/wait?condition=bogus", None).status, 200);
    post("wait?condition=bogus", 400, "invalid condition: \"bogus\"");
}

#[test]
fn old_clients_are_told_what_they_rely_on() {
    let daemon = Daemon::start(&[]);
    let create = |version: &str, name: &str, more: Value| {
        let mut body = json!({"Image": IMAGE, "HostConfig": {}});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        daemon.post(&format!("/{version}/containers/create?name={name}"), &body)
    };
    assert_eq!(create("v1.39", "old", json!({})).status, 201);
    assert_eq!(create("v1.40", "new", json!({})).status, 201);
    let mode =
        |name: &str| daemon.get(&format!("/containers/{name}/json")).json()["HostConfig"].clone();
    assert_eq!(mode("old")["IpcMode"], "shareable");
    assert_eq!(mode("new")["IpcMode"], "private");
    assert_eq!(mode("new")["PortBindings"], Value::Null);
    let two = json!({"NetworkingConfig": {"EndpointsConfig": {"bridge": {}, "none": {}}}});
    let reply = create("v1.43", "two", two);
    assert_eq!(reply.status, 400);
    assert!(
        reply.message().starts_with("Container cannot be created with multiple network endpoints")
    );
    let mac = json!({"MacAddress": "02:00:00:00:00:07"});
    let warned = create("v1.44", "mac", mac.clone()).json();
    assert!(warned["Warnings"][0].as_str().unwrap().contains("MacAddress field is now deprecated"));
    assert_eq!(create("v1.43", "mac43", mac).json()["Warnings"], json!([]));
    // It is told before the container runs.
    let shown = daemon.get("/containers/mac/json").json();
    assert_eq!(shown["NetworkSettings"]["Networks"]["bridge"]["MacAddress"], "02:00:00:00:00:07");
    let image = |version: &str| daemon.get(&format!("/{version}/images/{IMAGE}/json")).json();
    assert!(image("v1.43")["VirtualSize"].is_u64());
    assert!(image("v1.44").get("VirtualSize").is_none());
    assert_eq!(image("v1.49")["Config"]["AttachStdin"], false);
    assert!(image("v1.50")["Config"].get("AttachStdin").is_none());
}

#[test]
fn an_image_is_of_the_platform_that_is_meant() {
    let daemon = Daemon::start(&[]);
    let path = |platform: &str| {
        let platform = platform.replace('{', "%7B").replace('"', "%22").replace('}', "%7D");
        format!("/images/rnet/toolbox/json?platform={platform}")
    };
    let own = daemon.get(&path(r#"{"os":"linux","architecture":"riscv"}"#));
    assert_eq!(own.status, 404);
    assert!(
        own.message().starts_with("image with reference rnet/toolbox was found but its platform (")
    );
    let text = "failed to parse platform: invalid character 'x' looking for beginning of value";
    refused(&daemon, "GET", &path("x"), 400, text);
    refused(&daemon, "GET", &path("{}"), 400, "both OS and Architecture must be provided");
    let tag = "/images/rnet/toolbox/tag?repo=x&tag=b%20c";
    refused(&daemon, "POST", tag, 400, "invalid tag format");
}

/// One frame of a web socket's client, masked with zeros.
fn masked(text: &[u8]) -> Vec<u8> {
    let length = 0x80 | u8::try_from(text.len()).unwrap();
    [&[0x82, length, 0, 0, 0, 0], text].concat()
}

#[test]
fn a_web_socket_is_attached_to_a_container() {
    let daemon = Daemon::start(&[]);
    refused(&daemon, "GET", "/containers/nope/attach/ws", 404, "No such container: nope");
    daemon.docker_ok(&["create", "-i", "--name", "c1", "--network", "none", IMAGE, "cat"]);
    daemon.docker_ok(&["start", "c1"]);
    let asked = "Connection: Upgrade\r\nUpgrade: websocket\r\nOrigin: http://localhost\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let path = "/containers/c1/attach/ws?stream=1&stdin=1&stdout=1";
    let stream: UnixStream = daemon.open("GET", path, asked, b"");
    let mut writer = stream.try_clone().unwrap();
    let mut reader = BufReader::new(stream);
    let head = Reply::read_head(&mut reader);
    assert_eq!((head.status, head.header("upgrade")), (101, Some("websocket")));
    assert_eq!(head.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    writer.write_all(&masked(b"question\n")).unwrap();
    let mut frame = [0; 11];
    reader.read_exact(&mut frame).unwrap();
    assert_eq!(&frame, b"\x82\x09question\n");
    daemon.docker_ok(&["kill", "c1"]);
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap();
    assert_eq!(rest.first(), Some(&0x88), "{rest:?}");
}

/// What is posted, to what it is posted, and the status and the words of the refusal.
type Refusal<'a> = (&'a str, Value, u16, &'a str);

fn post_refused(daemon: &Daemon, refusals: &[Refusal<'_>]) {
    for (path, body, status, told) in refusals {
        let reply = daemon.post(path, body);
        assert_eq!((reply.status, reply.message().as_str()), (*status, *told), "{path} {body}");
    }
}

#[test]
fn a_network_s_refusal_has_docker_s_lines() {
    let bridge = |asked: Value| {
        let networks = json!({"EndpointsConfig": {"bridge": asked}});
        json!({"Image": IMAGE, "NetworkingConfig": networks})
    };
    let create = "/containers/create";
    let daemon = Daemon::start(&[]);
    post_refused(
        &daemon,
        &[
            (
                create,
                bridge(json!({"Aliases": ["x"]})),
                400,
                "invalid config for network bridge: invalid endpoint settings:\nnetwork-scoped alias \
                 is supported only for containers in user defined networks",
            ),
            (
                create,
                bridge(json!({"IPAMConfig": {"IPv4Address": "10.0.0.5"}})),
                400,
                "invalid config for network bridge: invalid endpoint settings:\n* user specified IP \
                 address is supported on user defined networks only\n* user specified IP address is \
                 supported only when connecting to networks with user configured subnets",
            ),
            (
                create,
                bridge(json!({"MacAddress": "x"})),
                400,
                "invalid config for network bridge: invalid MAC address x",
            ),
            (
                "/networks/create",
                json!({"Name": "n", "Scope": "swarm"}),
                403,
                "cannot create a swarm scoped network when swarm is not active",
            ),
        ],
    );
}

#[test]
fn what_a_container_cannot_have_is_told_in_docker_s_words() {
    let daemon = Daemon::start(&[]);
    let host = |asked: Value| json!({"Image": IMAGE, "HostConfig": asked});
    let create = "/containers/create";
    post_refused(
        &daemon,
        &[
            (
                create,
                host(json!({"VolumesFrom": [""]})),
                400,
                "volumes-from specification cannot be an empty string",
            ),
            (
                create,
                host(json!({"Binds": ["a:/x:nocopy,shared"]})),
                400,
                "invalid volume specification: 'a:/x:nocopy,shared': invalid mount config for type \
                 \"volume\": field BindOptions must not be specified",
            ),
            (
                "/v1.39/containers/create",
                host(json!({"KernelMemory": 4096})),
                400,
                "Minimum kernel memory limit allowed is 6MB",
            ),
            (
                "/containers/create?platform=x",
                host(json!({})),
                400,
                "\"x\": unknown operating system or architecture: invalid argument",
            ),
        ],
    );
    let runtime = daemon.post(create, &host(json!({"Runtime": "x"}))).message();
    assert!(runtime.starts_with("unknown or invalid runtime name: x: install"), "{runtime}");
    let other = daemon.post("/containers/create?platform=linux/s390x", &host(json!({})));
    assert_eq!(other.status, 404);
    let words = "does not match the specified platform (linux/s390x)";
    assert!(other.message().ends_with(words), "{}", other.message());
    // One capability needs no list.
    let capability = host(json!({"CapAdd": "NET_ADMIN"}));
    assert_eq!(daemon.post(create, &capability).status, 201);
}

#[test]
fn images_volumes_and_events_refuse_in_docker_s_words() {
    let daemon = Daemon::start(&[]);
    let short =
        "create b: volume name is too short, names should be at least two alphanumeric characters";
    post_refused(&daemon, &[("/volumes/create", json!({"Name": "b"}), 400, short)]);
    refused(&daemon, "GET", "/images/nope/get", 404, "No such image: nope");
    refused(&daemon, "POST", "/images/create?fromImage=x&tag=b%20c", 400, "invalid tag format");
    let platforms =
        "failed to parse platform: invalid character 'x' looking for beginning of value";
    refused(&daemon, "DELETE", "/images/rnet/toolbox?platforms=x", 400, platforms);
    let times = "`since` time (5) cannot be after `until` time (1)";
    refused(&daemon, "GET", "/events?since=5&until=1", 400, times);
    let filters = "error reading volume filters: invalid filter";
    refused(&daemon, "GET", "/volumes?filters=x", 400, filters);
    let swarm = "volume update only valid for cluster volumes, but swarm is unavailable";
    refused(&daemon, "PUT", "/volumes/x", 503, swarm);
    let first = daemon.post("/volumes/create", &json!({"Name": "there"}));
    let again = json!({"Name": "there", "DriverOpts": {"size": "1m"}});
    assert_eq!((first.status, daemon.post("/volumes/create", &again).status), (201, 201));
}

#[test]
fn who_attaches_without_an_upgrade_is_told_of_raw_bytes_until_the_connection_ends() {
    let daemon = Daemon::start(&[]);
    let log = ["--log-opt", "tag=x", "--log-opt", "labels=l", "-l", "l=v"];
    let run = [&["run", "--name", "c1", "--network", "none"], &log[..], &[IMAGE, "echo", "hi"]];
    daemon.docker_ok(&run.concat());
    let mut stream = daemon.open("POST", "/containers/c1/attach?logs=1&stdout=1", "", b"");
    let mut reader = BufReader::new(&mut stream);
    let head = Reply::read_head(&mut reader);
    assert_eq!(head.header("content-type"), Some("application/vnd.docker.raw-stream"));
    assert_eq!(head.header("connection"), Some("close"));
    let mut told = Vec::new();
    reader.read_to_end(&mut told).unwrap();
    assert!(told.windows(3).any(|piece| piece == b"hi\n"), "{told:?}");
    let details = daemon.get("/containers/c1/logs?stdout=1&details=1");
    assert!(details.body.ends_with(b"l=v,tag=x hi\n"), "{:?}", details.body);
}
