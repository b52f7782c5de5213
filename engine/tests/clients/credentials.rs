//! Credentials for registries: who is let in, and where they are kept.

use std::io::Write;
use std::process::Stdio;

use serde_json::Value;

use crate::daemon::{Client, Daemon};
use crate::hub::{Registry, Setup, Tokens, Trusted, USER, import};

/// Runs a client with a text on its standard input: exit code, stdout, stderr.
fn told(
    daemon: &Daemon,
    client: Client,
    words: &[&str],
    input: &str,
) -> (Option<i32>, String, String) {
    let mut command = daemon.client(client, words);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim_end().to_owned();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_registry_lets_in_who_has_logged_in() {
    const CLOSED: &str = "127.0.0.1:5001";
    let log = ["--log-level", "debug"];
    let daemon = Daemon::start_with_descriptors(1024, &log);
    let _registry = Registry::with_password(&daemon, CLOSED);
    let (name, word) = USER;
    let config = daemon.scratch.path("docker/config.json");
    for client in Client::ALL {
        let image = format!("{CLOSED}/{}:1", format!("{client:?}").to_lowercase());
        import(&daemon, &image, &format!("{client:?}"));
        let (code, _, error) = daemon.ask(client, &["push", &image]);
        assert_eq!((code, error.as_str()), (Some(1), "no basic auth credentials"));
        let words = ["login", "-u", name, "--password-stdin", CLOSED];
        let (code, out, error) = told(&daemon, client, &words, "wrong");
        let text = format!(
            "Error response from daemon: login attempt to http://{CLOSED}/v2/ failed with status: \
             401 Unauthorized"
        );
        assert_eq!((code, out.as_str(), error), (Some(1), "", text), "{client:?}");
        assert!(!config.exists());
        let (code, out, error) = told(&daemon, client, &words, &format!("{word}\n"));
        assert_eq!((code, out.as_str()), (Some(0), "Login Succeeded"), "{client:?} {error}");
        assert!(error.contains("Your credentials are stored unencrypted"), "{error}");
        let text = std::fs::read_to_string(&config).unwrap();
        let auth = "{\n\t\"auths\": {\n\t\t\"127.0.0.1:5001\": {\n\t\t\t\"auth\": \"";
        assert!(text.starts_with(auth), "{client:?}: {text}");
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&config.metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        // Whichever of them logged in, the other is.
        for other in Client::ALL {
            let said = daemon.ok(other, &["push", &image]);
            assert!(said.contains("1: digest: sha256:"), "{other:?} {said}");
            let (code, out, error) = daemon.ask(other, &["login", CLOSED]);
            assert_eq!((code, out.as_str()), (Some(0), "Login Succeeded"), "{error}");
            let told = "Authenticating with existing credentials... [Username: user]";
            assert!(error.starts_with(told), "{other:?} {error}");
        }
        daemon.ok(client, &["rmi", &image]);
        let run = ["run", "--rm", "--network", "none", &image, "/none"];
        let (_, _, error) = daemon.ask(client, &run);
        assert!(error.contains("Downloaded newer image"), "a run pulls with them: {error}");
        let out = daemon.ok(client, &["logout", CLOSED]);
        assert_eq!(out, format!("Removing login credentials for {CLOSED}"));
        assert_eq!(std::fs::read_to_string(&config).unwrap(), "{\n\t\"auths\": {}\n}");
        let (code, _, error) = daemon.ask(client, &["pull", &image]);
        let text = format!("Head \"http://{CLOSED}/v2/");
        assert!(code == Some(1) && error.contains(&text), "{error}");
        std::fs::remove_file(&config).unwrap();
    }
    let log = daemon.log();
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let told = daemon.get(&format!("/events?since=0&until={now}")).text();
    assert!(told.contains("\"push\""), "{told}");
    let encoded =
        base64::Engine::encode(&base64::prelude::BASE64_STANDARD, format!("{name}:{word}"));
    for secret in [word, &encoded] {
        assert!(!log.contains(secret) && !told.contains(secret), "a secret is told of");
    }
}

#[test]
fn mistakes_of_a_login_are_told_before_anything_is_asked() {
    let daemon = Daemon::start(&[]);
    for client in Client::ALL {
        for (words, text) in [
            (
                &["login", "--password-stdin", "127.0.0.1:5001"][..],
                "the --password-stdin option requires --username to be set",
            ),
            (
                &["login", "-u", "user", "-p", "x", "--password-stdin", "127.0.0.1:5001"],
                "conflicting options: cannot specify both --password and --password-stdin",
            ),
            (
                &["login", "-u", "user", "127.0.0.1:5001"],
                "Error: Cannot perform an interactive login from a non TTY device",
            ),
        ] {
            let (code, _, error) = daemon.ask(client, words);
            assert_eq!((code, error.as_str()), (Some(1), text), "{client:?} {words:?}");
        }
    }
}

#[test]
fn a_program_keeps_the_credentials() {
    const CLOSED: &str = "127.0.0.1:5001";
    let daemon = Daemon::start(&[]);
    let _registry = Registry::with_password(&daemon, CLOSED);
    let programs = daemon.scratch.path("programs");
    std::fs::create_dir_all(&programs).unwrap();
    let kept = daemon.scratch.text("kept");
    let script = format!(
        "#!/bin/sh\ncase $1 in\nstore) cat >{kept};;\nerase) rm -f {kept};;\n\
         get) if [ -e {kept} ]; then cat {kept}; else echo credentials not found in native keychain; \
         exit 1; fi;;\nesac\n"
    );
    let program = programs.join("docker-credential-test");
    std::fs::write(&program, script).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&program, mode).unwrap();
    let config = daemon.scratch.path("docker/config.json");
    std::fs::create_dir_all(config.parent().unwrap()).unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let image = format!("{CLOSED}/a:1");
    import(&daemon, &image, "x");
    for (client, setting) in [
        (Client::Docker, r#"{"credsStore": "test"}"#),
        (Client::Rnet, r#"{"credsStore": "test"}"#),
        (Client::Rnet, r#"{"credHelpers": {"127.0.0.1:5001": "test"}}"#),
    ] {
        std::fs::write(&config, setting).unwrap();
        let run = |words: &[&str]| {
            let output = daemon.client(client, words).env("PATH", &path).output().unwrap();
            let error = String::from_utf8(output.stderr).unwrap();
            (output.status.code(), String::from_utf8(output.stdout).unwrap(), error)
        };
        let (code, _, error) = run(&["login", "-u", USER.0, "-p", USER.1, CLOSED]);
        assert_eq!(code, Some(0), "{client:?} {error}");
        assert!(!error.contains("unencrypted"), "{error}");
        let text = std::fs::read_to_string(&config).unwrap();
        assert!(!text.contains("\"auth\""), "{client:?} {text}");
        let stored: Value = serde_json::from_str(&std::fs::read_to_string(&kept).unwrap()).unwrap();
        assert_eq!((&stored["Username"], &stored["Secret"]), (&USER.0.into(), &USER.1.into()));
        let (code, _, error) = run(&["push", &image]);
        assert_eq!(code, Some(0), "{client:?} {error}");
        run(&["logout", CLOSED]);
        assert!(!std::path::Path::new(&kept).exists(), "{client:?}");
        let (code, _, error) = run(&["push", &image]);
        assert_eq!((code, error.trim()), (Some(1), "no basic auth credentials"));
    }
}

#[test]
fn a_program_that_is_broken_stops_nothing_that_needs_no_credentials() {
    let daemon = Daemon::start(&[]);
    let _registry = Registry::open(&daemon);
    let image = format!("{}/a:1", Registry::OPEN);
    import(&daemon, &image, "x");
    let config = daemon.scratch.path("docker/config.json");
    std::fs::create_dir_all(config.parent().unwrap()).unwrap();
    let set = |server: &str| {
        let text = format!(r#"{{"credHelpers": {{"{server}": "that-is-not-there"}}}}"#);
        std::fs::write(&config, text).unwrap();
        format!(
            "WARNING: Failed to get credentials for registry {server}: error getting credentials - \
             err: docker-credential-that-is-not-there get: "
        )
    };
    let warning = set("nobody.example");
    let context = daemon.scratch.path("context");
    std::fs::create_dir(&context).unwrap();
    std::fs::write(context.join("Dockerfile"), "FROM rnet/toolbox\nLABEL a=b\n").unwrap();
    let (code, _, error) = daemon.ask(Client::Rnet, &["build", context.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{error}");
    assert!(error.contains(&warning), "{error}");
    let warning = set(Registry::OPEN);
    for verb in ["push", "pull"] {
        let (code, _, error) = daemon.ask(Client::Rnet, &[verb, &image]);
        assert!(code == Some(0) && error.contains(&warning), "{verb}: {error}");
        daemon.docker_ok(&[verb, &image]);
    }
}

#[test]
fn a_registry_is_believed_for_its_authority_and_shown_a_certificate() {
    // No loopback address: there certificates are not looked at.
    const SECURE: &str = "10.98.0.1:5443";
    let daemon = Daemon::start(&[]);
    let ok = |program: &str, words: &[&str]| {
        let output = daemon.beside(program, words);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    ok("ip", &["address", "add", "10.98.0.1/32", "dev", "lo"]);
    let trusted = Trusted::new(&daemon, SECURE);
    let setup = Setup { http: vec![trusted.tls()], address: SECURE, ..Setup::default() };
    let _registry = Registry::start(&daemon, &setup);
    let image = format!("{SECURE}/team/a:1");
    import(&daemon, &image, "x");
    let (_, error) = daemon.docker_err(&["push", &image]);
    assert!(error.contains("x509: certificate signed by unknown authority"), "{error}");
    trusted.trust(&daemon);
    let (_, error) = daemon.docker_err(&["push", &image]);
    // Which of the two it says is the registry's affair.
    let refused = ["certificate required", "bad certificate"];
    let refused = refused.map(|text| format!("remote error: tls: {text}"));
    assert!(refused.iter().any(|text| error.ends_with(text)), "{error}");
    trusted.identify(&daemon);
    for client in Client::ALL {
        let said = daemon.ok(client, &["push", &image]);
        assert!(said.contains("1: digest: sha256:"), "{client:?} {said}");
    }
}

#[test]
fn tokens_are_got_for_what_is_to_be_done() {
    // Secrets go to a token server over TLS, or without where the registry has none either.
    const PLACE: &str = "127.0.0.1:5003";
    let daemon = Daemon::start(&[]);
    let tokens = Tokens::start(&daemon);
    let setup = Setup { lines: vec![tokens.auth.clone()], address: PLACE, ..Setup::default() };
    let _registry = Registry::start(&daemon, &setup);
    let image = format!("{PLACE}/team/a:1");
    let other = format!("{PLACE}/team/b:1");
    import(&daemon, &image, "x");
    daemon.docker_ok(&["tag", &image, &other]);
    let (_, error) = daemon.docker_err(&["push", &image]);
    assert_eq!(error, "denied: requested access to the resource is denied");
    for client in Client::ALL {
        let words = ["login", "-u", USER.0, "--password-stdin", PLACE];
        let (code, _, error) = told(&daemon, client, &words, "wrong");
        let text = format!(
            "Error response from daemon: Get \"http://{PLACE}/v2/\": unauthorized: incorrect \
             username or password"
        );
        assert_eq!((code, error), (Some(1), text));
        let (code, _, error) = told(&daemon, client, &words, USER.1);
        assert_eq!(code, Some(0), "{client:?} {error}");
        let text = std::fs::read_to_string(daemon.scratch.path("docker/config.json")).unwrap();
        assert!(text.contains("identitytoken") && !text.contains(USER.1), "{client:?} {text}");
        let said = daemon.ok(client, &["push", &image]);
        assert!(said.contains("1: digest: sha256:"), "{client:?} {said}");
        daemon.ok(client, &["logout", PLACE]);
    }
    let (code, _, error) =
        told(&daemon, Client::Rnet, &["login", "-u", USER.0, "--password-stdin", PLACE], USER.1);
    assert_eq!(code, Some(0), "{error}");
    let said = daemon.ok(Client::Rnet, &["push", &other]);
    assert!(said.contains(": Mounted from team/a\n"), "{said}");
    let asked = tokens.stand.asked();
    let scopes = asked.iter().map(|asked| format!("{}{}", asked.line, asked.body));
    let both = "team%2Fb%3Apull%2Cpush+repository%3Ateam%2Fa%3Apull";
    assert!(scopes.into_iter().any(|scope| scope.contains(both)), "{asked:?}");
    daemon.docker_ok(&["rmi", &image, &other]);
    // To read nobody has to be known.
    daemon.ok(Client::Rnet, &["logout", PLACE]);
    daemon.ok(Client::Rnet, &["pull", &image]);
}
