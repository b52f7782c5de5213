//! What was built here goes to a registry that wants a password, over TLS, and comes back as it was.

use std::process::{Child, Stdio};

use serde_json::Value;

use crate::busybox;
use crate::daemon::{Client, Daemon};
use crate::hub::{Registry, Setup, Trusted, USER, await_port, passwords};

/// No loopback address: there certificates are not looked at.
const HOST: &str = "10.98.0.1";
const SECURE: &str = "10.98.0.1:5443";
const TOKENS: &str = "10.98.0.1:5444";

const DOCKERFILE: &str = "FROM base AS maker\nARG WORD\nRUN mkdir /out && echo $WORD >/out/word && ln -s word /out/link\n\
                          FROM base\nCOPY --from=maker /out /in\nENV A=b\nWORKDIR /in\nVOLUME /v\n\
                          EXPOSE 80\nCMD [\"cat\", \"link\"]\n";

/// How a registry knows who asks.
#[derive(Clone, Copy, Debug)]
enum Auth {
    Password,
    Token,
}

/// A daemon that trusts a registry, the registry, and who makes its tokens.
struct Site {
    daemon: Daemon,
    _registry: Registry,
    tokens: Option<Child>,
}

impl Site {
    fn new(auth: Auth) -> Self {
        let daemon = Daemon::start(&[]);
        let address = daemon.beside("ip", &["address", "add", HOST, "dev", "lo"]);
        assert!(address.status.success(), "{address:?}");
        let trusted = Trusted::new(&daemon, SECURE);
        let place = daemon.scratch.text("authority");
        let (line, tokens) = match auth {
            Auth::Password => (passwords(&daemon), None),
            Auth::Token => {
                let line = format!(
                    "auth: {{token: {{realm: 'https://{TOKENS}/token', service: test, issuer: test, \
                     rootcertbundle: {place}/ca.crt}}}}"
                );
                (line, Some(serve_tokens(&daemon, &place)))
            }
        };
        let setup = Setup { lines: vec![line], http: vec![trusted.tls()], address: SECURE };
        let registry = Registry::start(&daemon, &setup);
        trusted.trust(&daemon);
        trusted.identify(&daemon);
        Self { daemon, _registry: registry, tokens }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(tokens) = &mut self.tokens {
            let _ = tokens.kill();
            let _ = tokens.wait();
        }
    }
}

fn serve_tokens(daemon: &Daemon, place: &str) -> Child {
    let (script, secret) = (include_str!("token.py"), format!("{}:{}", USER.0, USER.1));
    let port = TOKENS.rsplit_once(':').unwrap().1;
    let mut command = daemon.beside_command("python3", &["-c", script, HOST, port, place, &secret]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    await_port(daemon, TOKENS);
    child
}

/// What an image is: its id, and the digests of its layers.
fn identity(daemon: &Daemon, image: &str) -> (String, Value) {
    let text = daemon.docker_ok(&["image", "inspect", image]);
    let told: Value = serde_json::from_str(&text).unwrap();
    (told[0]["Id"].as_str().unwrap().to_owned(), told[0]["RootFS"]["Layers"].clone())
}

#[test]
fn a_build_is_pushed_and_pulled_back_with_the_same_digests_for_a_password() {
    comes_back(Auth::Password);
}

#[test]
fn a_build_is_pushed_and_pulled_back_with_the_same_digests_for_a_token() {
    comes_back(Auth::Token);
}

fn comes_back(auth: Auth) {
    let site = Site::new(auth);
    let daemon = &site.daemon;
    busybox::import(daemon, "base");
    let context = daemon.scratch.path("context");
    std::fs::create_dir(&context).unwrap();
    std::fs::write(context.join("Dockerfile"), DOCKERFILE).unwrap();
    for client in Client::ALL {
        goes_and_comes(daemon, client, context.to_str().unwrap());
    }
}

/// With a client of its own name: built, pushed, forgotten, pulled and run.
fn goes_and_comes(daemon: &Daemon, client: Client, context: &str) {
    let ok = |words: &[&str]| daemon.ok(client, words);
    let word = format!("{client:?}").to_lowercase();
    let (repository, argument) = (format!("{SECURE}/team/{word}"), format!("WORD={word}"));
    let [one, two] = ["1", "2"].map(|tag| format!("{repository}:{tag}"));
    let words = ["build", "--build-arg", &argument, "-t", &one, "-t", &two, context];
    let built = daemon.client(client, &words).env("DOCKER_BUILDKIT", "0").output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let (code, _, error) = daemon.ask(client, &["push", &one]);
    assert_eq!(code, Some(1), "{client:?} {error}");
    ok(&["login", "-u", USER.0, "-p", USER.1, SECURE]);
    let said = ok(&["push", "-a", &repository]);
    let of = |tag: &str| {
        let line = said.lines().find(|line| line.starts_with(&format!("{tag}: digest: ")));
        line.and_then(|line| line.split(' ').nth(2)).expect(&said).to_owned()
    };
    let digest = of("1");
    assert_eq!(of("2"), digest);
    let before = identity(daemon, &one);
    // Nothing of it is left but in the registry: neither image nor cache.
    ok(&["rmi", "-f", &before.0]);
    ok(&["builder", "prune", "-af"]);
    let pulled = ok(&["pull", "-a", &repository]);
    assert!(pulled.contains(&format!("Digest: {digest}\n")), "{client:?} {pulled}");
    let pinned = format!("{repository}@{digest}");
    for name in [&one, &two, &pinned] {
        assert_eq!(identity(daemon, name), before, "{client:?} {name}");
    }
    let told = daemon.docker_ok(&["image", "inspect", "-f", "{{json .RepoDigests}}", &one]);
    assert_eq!(serde_json::from_str::<Vec<String>>(&told).unwrap(), [pinned.as_str()]);
    assert_eq!(ok(&["run", "--rm", "--network", "none", &one]), word);
    // The next push of the same finds all of it there.
    let again = ok(&["push", &two]);
    assert!(!again.contains("Pushed"), "{again}");
    assert!(again.contains(&format!("2: digest: {digest} ")), "{again}");
    ok(&["rmi", "-f", &before.0]);
    assert_eq!(ok(&["run", "--rm", "--network", "none", &pinned]), word);
    ok(&["logout", SECURE]);
}
