//! Registries: what is pushed comes back; they are searched and asked.

use serde_json::{Value, json};

use crate::daemon::{Client, Daemon};
use crate::hub::{Registry, Stand, import};

/// The digest that a tag has in the registry, as its own API tells it.
fn digest_there(daemon: &Daemon, name: &str) -> String {
    let path = format!("/distribution/{}/{name}/json", Registry::OPEN);
    daemon.get(&path).json()["Descriptor"]["digest"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn what_is_pushed_comes_back_with_the_same_digest() {
    let daemon = Daemon::start(&[]);
    let _registry = Registry::open(&daemon);
    for client in Client::ALL {
        let ok = |words: &[&str]| daemon.ok(client, words);
        let base = format!("{}/{}", Registry::OPEN, format!("{client:?}").to_lowercase());
        let [one, two, other] = ["a:1", "a:2", "b:1"].map(|name| format!("{base}/{name}"));
        import(&daemon, &one, &format!("{client:?}"));
        ok(&["tag", &one, &two]);
        ok(&["tag", &one, &other]);
        let id = ok(&["images", "-q", "--no-trunc", &one]).lines().next().unwrap().to_owned();
        let said = ok(&["push", &one]);
        let repository = format!("The push refers to repository [{base}/a]\n");
        assert!(said.starts_with(&repository), "{said}");
        assert!(said.contains(": Preparing\n") && said.contains(": Pushed\n"), "{said}");
        let last = said.lines().last().unwrap();
        let (tag, rest) = last.split_once(": digest: ").unwrap();
        let (digest, size) = rest.split_once(" size: ").unwrap();
        assert!(tag == "1" && size.parse::<u32>().is_ok(), "{last}");
        let pinned = format!("{base}/a@{digest}");
        assert_eq!(ok(&["image", "inspect", "-f", "{{index .RepoDigests 0}}", &one]), pinned);
        let all = ok(&["push", "-a", &format!("{base}/a")]);
        assert_eq!(all.matches(": Layer already exists\n").count(), 2, "{all}");
        assert!(all.contains(&format!("\n2: digest: {digest} size: {size}")), "{all}");
        let mounted = ok(&["push", &other]);
        let name = base.rsplit_once('/').unwrap().1;
        assert!(mounted.contains(&format!(": Mounted from {name}/a\n")), "{mounted}");
        assert_eq!(ok(&["push", "-q", &other]), other);
        ok(&["rmi", "-f", &id]);
        let pulled = ok(&["pull", "-a", &format!("{base}/a")]);
        assert!(pulled.contains(&format!("Digest: {digest}\n")), "{pulled}");
        assert!(pulled.ends_with(&format!("\n{base}/a")), "{pulled}");
        let names = ["images", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}", "--no-trunc"];
        let names = ok(&names);
        for name in [&one, &two] {
            assert!(names.contains(&format!("{name} {id}")), "{names}");
        }
        assert!(ok(&["pull", &pinned]).contains(&format!("Digest: {digest}\n")));
    }
}

#[test]
fn what_cannot_be_pushed_is_told_as_docker_tells_it() {
    let daemon = Daemon::start(&[]);
    let _registry = Registry::open(&daemon);
    let name = format!("{}/a", Registry::OPEN);
    import(&daemon, &format!("{name}:1"), "x");
    let elsewhere = "127.0.0.1:5999/a:1";
    daemon.docker_ok(&["tag", &format!("{name}:1"), elsewhere]);
    let nobody =
        "Get \"http://127.0.0.1:5999/v2/\": dial tcp 127.0.0.1:5999: connect: connection refused";
    for client in Client::ALL {
        let fails = |words: &[&str], text: &str| {
            let (code, _, error) = daemon.ask(client, words);
            assert_eq!((code, error.as_str()), (Some(1), text), "{client:?} {words:?}");
        };
        fails(&["push", &name], &format!("tag does not exist: {name}:latest"));
        let nope = format!("{}/nope", Registry::OPEN);
        let text = format!("An image does not exist locally with the tag: {nope}");
        fails(&["push", &format!("{nope}:1")], &text);
        fails(&["push", "-a", &format!("{name}:1")], "tag can't be used with --all-tags/-a");
        fails(&["push", elsewhere], nobody);
    }
    let platform = "%7B%22os%22:%22linux%22,%22architecture%22:%22riscv64%22%7D";
    let path = format!("/images/{name}/push?tag=1&platform={platform}");
    let reply = daemon.call("POST", &path, None);
    assert_eq!(reply.status, 404);
    assert!(reply.message().contains("does not match the specified platform"), "{}", reply.text());
}

#[test]
fn a_mirror_is_asked_first_and_one_that_is_down_or_lacks_an_image_is_passed_over() {
    const LACKS: &str = "127.0.0.1:5001";
    let mirrors = ["127.0.0.1:5999", LACKS, Registry::OPEN];
    let mirrors = mirrors.map(|address| format!("--registry-mirror=http://{address}"));
    let daemon = Daemon::start(&mirrors.each_ref().map(String::as_str));
    let registry = Registry::open(&daemon);
    let lacks = Stand::start(&daemon, LACKS, |asked| match asked.line.as_str() {
        "GET /v2/" => ("200 OK", "{}".to_owned()),
        _ => ("404 No", json!({"errors": [{"code": "MANIFEST_UNKNOWN"}]}).to_string()),
    });
    let there = format!("{}/library/a:1", Registry::OPEN);
    import(&daemon, &there, "of the mirror");
    daemon.docker_ok(&["push", &there]);
    let digest = digest_there(&daemon, "library/a:1");
    let id = daemon.docker_ok(&["images", "-q", "--no-trunc", &there]);
    for client in Client::ALL {
        let ok = |words: &[&str]| daemon.ok(client, words);
        for name in ["a:1".to_owned(), format!("a@{digest}"), "docker.io/library/a:1".to_owned()] {
            ok(&["rmi", "-f", &id]);
            let said = ok(&["pull", &name]);
            assert!(said.contains(&format!("Digest: {digest}\n")), "{client:?} {name}: {said}");
            // It is an image of docker.io, wherever it came from.
            let format = "{{.Id}} {{index .RepoDigests 0}}";
            let known = ok(&["image", "inspect", "-f", format, &format!("a@{digest}")]);
            assert_eq!(known, format!("{id} a@{digest}"), "{client:?} {name}");
        }
        // A mirror stands for nobody else.
        let (code, _, error) = daemon.ask(client, &["pull", "127.0.0.1:5998/library/a:1"]);
        assert!(code == Some(1) && error.contains("127.0.0.1:5998"), "{client:?}: {error}");
    }
    // What no mirror has is asked of docker.io itself, which nobody reaches from here.
    drop(registry);
    let (code, _, error) = daemon.ask(Client::Docker, &["pull", "a:1"]);
    assert!(code == Some(1) && error.contains("registry-1.docker.io"), "{error}");
    daemon.docker_ok(&["image", "inspect", &id]);
    let asked = lacks.asked();
    assert!(asked.iter().any(|one| one.line.contains("/v2/library/a/manifests/")), "{asked:?}");
    assert!(asked.iter().all(|one| !one.headers.contains_key("authorization")));
}

#[test]
fn an_index_is_searched() {
    const INDEX: &str = "127.0.0.1:5002";
    let daemon = Daemon::start(&[]);
    let stand = Stand::start(&daemon, INDEX, |asked| {
        if !asked.line.starts_with("GET /v1/search?q=web&n=") {
            return ("404 No", "{}".to_owned());
        }
        let long = "a web server with a description that is too long to be shown\nwhole";
        let results = json!([
            {"name": "team/web", "description": long, "star_count": 3},
            {"name": "web", "description": "official", "star_count": 70, "is_official": true},
        ]);
        ("200 OK", json!({"num_results": 2, "query": "web", "results": results}).to_string())
    });
    let term = format!("{INDEX}/web");
    for client in Client::ALL {
        let ok = |words: &[&str]| daemon.ok(client, &[&["search"], words].concat());
        let table = "NAME       DESCRIPTION                                     STARS     OFFICIAL\n\
                     team/web   a web server with a description that is too …   3\n\
                     web        official                                        70        [OK]";
        let shown: Vec<_> = ok(&[&term]).lines().map(|line| line.trim_end().to_owned()).collect();
        assert_eq!(shown.join("\n"), table, "{client:?}");
        let names = ["--format", "{{.Name}} {{.StarCount}}", &term];
        assert_eq!(ok(&names), "team/web 3\nweb 70");
        assert_eq!(ok(&["-f", "is-official=true", "--format", "{{.Name}}", &term]), "web");
        assert_eq!(ok(&["-f", "stars=4", "--format", "{{.Name}}", &term]), "web");
        assert!(ok(&["--no-trunc", "--limit", "7", &term]).contains("shown whole"));
        for (words, text) in [
            (&["--limit", "101", "x"][..], "limit 101 is outside the range of [1, 100]"),
            (&["-f", "bogus=1", "x"], "invalid filter 'bogus'"),
            (
                &["-f", "stars=x", "x"],
                "invalid filter 'stars=x': strconv.Atoi: parsing \"x\": invalid syntax",
            ),
            (&[&format!("{INDEX}/other")], "Unexpected status code 404"),
        ] {
            let (code, _, error) = daemon.ask(client, &[&["search"], words].concat());
            let text = format!("Error response from daemon: {text}");
            assert_eq!((code, error), (Some(1), text), "{client:?} {words:?}");
        }
    }
    let asked = stand.asked();
    // Who is nobody says so by saying nothing.
    assert!(asked.iter().all(|one| !one.headers.contains_key("authorization")));
    assert!(asked.iter().all(|one| one.body.is_empty()));
    let lines: Vec<_> = asked.into_iter().map(|asked| asked.line).collect();
    assert!(lines.iter().any(|line| line.ends_with("&n=25")), "{lines:?}");
    assert!(lines.iter().any(|line| line.ends_with("&n=7")), "{lines:?}");
}

#[test]
fn a_registry_tells_of_an_image_without_a_pull() {
    let daemon = Daemon::start(&[]);
    let _registry = Registry::open(&daemon);
    let name = format!("{}/team/a:1", Registry::OPEN);
    import(&daemon, &name, "x");
    let said = daemon.docker_ok(&["push", &name]);
    let size: u64 = said.rsplit_once("size: ").unwrap().1.trim().parse().unwrap();
    let reply = daemon.get(&format!("/distribution/{name}/json"));
    let digest = digest_there(&daemon, "team/a:1");
    assert!(said.contains(&digest), "{said}");
    let os = reply.json()["Platforms"][0]["os"].clone();
    assert_eq!((reply.status, os), (200, json!("linux")));
    let media_type = "application/vnd.docker.distribution.manifest.v2+json";
    let descriptor = json!({"mediaType": media_type, "digest": digest, "size": size});
    assert_eq!(reply.json()["Descriptor"], descriptor);
    let none = daemon.get(&format!("/distribution/{}/team/a:2/json", Registry::OPEN));
    assert_eq!((none.status, none.message().as_str()), (404, "manifest unknown: manifest unknown"));
}

/// A platform in a list, by the digest that it leads to.
fn platforms(list: &str) -> Vec<(String, String)> {
    let list: Value = serde_json::from_str(list).unwrap();
    assert_eq!(list["mediaType"], "application/vnd.docker.distribution.manifest.list.v2+json");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let entries = list["manifests"].as_array().unwrap().iter();
    entries.map(|one| (text(&one["platform"]["architecture"]), text(&one["digest"]))).collect()
}

/// A client in the daemon's network namespace: `manifest …` asks the registry itself.
struct Beside<'a>(&'a Daemon, Client);

impl Beside<'_> {
    fn run(&self, words: &[&str]) -> (Option<i32>, String, String) {
        let plain = self.0.client(self.1, &[&["manifest"], words].concat());
        let mut command = self.0.beside_command(plain.get_program().to_str().unwrap(), &[]);
        command.args(plain.get_args());
        command.envs(plain.get_envs().filter_map(|(key, value)| Some((key, value?))));
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim_end().to_owned();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    fn ok(&self, words: &[&str]) -> String {
        let (code, out, error) = self.run(words);
        assert_eq!(code, Some(0), "{:?} {words:?}: {error}", self.1);
        out
    }

    fn fails(&self, words: &[&str], text: &str) {
        let (code, _, error) = self.run(words);
        assert_eq!((code, error.as_str()), (Some(1), text), "{:?} {words:?}", self.1);
    }
}

fn in_team(name: &str) -> String {
    format!("{}/team/{name}", Registry::OPEN)
}

/// Puts two images into a list and pushes it; the list as it is shown, and its digest.
fn put_together(client: &Beside<'_>, list: &str, images: &[String; 2]) -> (String, String) {
    let nope = in_team("nope:1");
    let create = ["create", "--insecure", list, &images[0], &images[1]];
    assert_eq!(client.ok(&create), format!("Created manifest list {list}"));
    client.fails(&create, "refusing to amend an existing manifest list with no --amend flag");
    let absent = format!("no such manifest: {nope}");
    client.fails(&["inspect", "--insecure", &nope], &absent);
    client.fails(&["create", "--insecure", "-a", list, &nope], &absent);
    let text = "manifest entry for image has unsupported os/arch combination: /nope";
    client.fails(&["annotate", "--arch", "nope", list, &images[1]], text);
    let text = format!("manifest for image {nope} does not exist in {list}");
    client.fails(&["annotate", "--arch", "arm64", list, &nope], &text);
    client.ok(&["annotate", "--arch", "arm64", "--variant", "v8", list, &images[1]]);
    let local = client.ok(&["inspect", list]);
    let said = client.ok(&["push", "--insecure", "--purge", list]);
    let pushed =
        format!("Pushed ref {}@{} with digest: {1}", in_team("list"), platforms(&local)[0].1);
    assert_eq!(said.lines().next(), Some(pushed.as_str()));
    client.fails(&["push", "--insecure", list], &format!("No such manifest: {list}"));
    client.fails(&["rm", list], &format!("No such manifest: {list}"));
    client.fails(&["create", "--insecure", &nope, list], &format!("{list} is a manifest list"));
    (local, said.lines().last().unwrap().to_owned())
}

#[test]
fn lists_of_manifests_are_put_together_and_pulled_by_platform() {
    let daemon = Daemon::start(&[]);
    let _registry = Registry::open(&daemon);
    let images = [in_team("one:1"), in_team("two:1")];
    for image in &images {
        import(&daemon, image, image);
        daemon.docker_ok(&["push", image]);
    }
    let list = in_team("list:1");
    let mut shown = Vec::new();
    for client in Client::ALL {
        let beside = Beside(&daemon, client);
        let (local, digest) = put_together(&beside, &list, &images);
        assert_eq!(beside.ok(&["inspect", "--insecure", &list]), local, "{client:?}");
        let verbose = beside.ok(&["inspect", "-v", "--insecure", &images[0]]);
        let verbose: Value = serde_json::from_str(&verbose).unwrap();
        assert_eq!(verbose["Descriptor"]["platform"]["os"], "linux");
        let plain = beside.ok(&["inspect", "--insecure", &images[0]]);
        let architectures: Vec<_> = platforms(&local).into_iter().map(|(name, _)| name).collect();
        assert_eq!(architectures, [image::Platform::host().architecture.as_str(), "arm64"]);
        daemon.docker_ok(&["rmi", "-f", &images[0], &images[1]]);
        let pulled = daemon.ok(client, &["pull", &list]);
        assert!(pulled.contains(&format!("Digest: {digest}\n")), "{pulled}");
        let words = ["pull", "--platform", "linux/riscv64", &list];
        let (code, _, error) = daemon.ask(client, &words);
        let text = "no matching manifest for linux/riscv64 in the manifest list entries";
        assert!(code == Some(1) && error.ends_with(text), "{client:?} {error}");
        shown.push((local, digest, plain, verbose));
    }
    assert_eq!(shown[0], shown[1], "both write the same and show the same");
}
