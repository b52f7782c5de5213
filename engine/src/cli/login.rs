//! `login` and `logout`.

use std::io::{BufRead, Read, Write};

use super::client::Client;
use super::commands::{LoginArgs, LogoutArgs};
use super::credentials::{self, Credentials, HUB};
use super::docker_config::DockerConfig;
use super::error::CliError;
use super::{Outcome, complain, say, terminal};

/// The most that is read as a password.
const LONGEST: u64 = 64 << 10;

/// `login`.
pub(crate) async fn login(client: &Client, args: LoginArgs) -> Outcome {
    let mut config = DockerConfig::read()?;
    let server = credentials::server(args.server.as_deref().unwrap_or_default());
    let given = given(&args)?;
    if given.is_none()
        && args.username.is_none()
        && let Some(kept) = credentials::get(&config, &server).await?
    {
        complain(&format!(
            "Authenticating with existing credentials... [Username: {}]\n\n \
             Info -> To login with a different account, run 'rnet logout' followed by 'rnet login'\n\n",
            kept.username
        ));
        match try_at(client, &server, kept).await {
            Ok(kept) => return keep(&mut config, &server, &kept).await,
            Err(error) if error.status == Some(401) => {
                complain("Stored credentials invalid or expired");
            }
            Err(error) => return Err(error),
        }
    }
    let asked = match given {
        Some(given) => given,
        None => ask(&server, args.username.as_deref())?,
    };
    let proven = try_at(client, &server, asked).await?;
    keep(&mut config, &server, &proven).await
}

/// What the flags say.
fn given(args: &LoginArgs) -> Result<Option<Credentials>, CliError> {
    if args.password.is_some() && args.password_stdin {
        let text = "conflicting options: cannot specify both --password and --password-stdin";
        return Err(CliError::new(text));
    }
    if args.password_stdin {
        let Some(username) = &args.username else {
            let text = "the --password-stdin option requires --username to be set";
            return Err(CliError::new(text));
        };
        let mut password = String::new();
        std::io::stdin().lock().take(LONGEST).read_to_string(&mut password)?;
        let password = password.strip_suffix('\n').unwrap_or(&password);
        let password = password.strip_suffix('\r').unwrap_or(password);
        // Without one it would have to be asked for.
        return Ok((!password.is_empty()).then(|| Credentials::of(username, password)));
    }
    let Some(password) = &args.password else { return Ok(None) };
    complain("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
    let username = args.username.as_deref().filter(|name| !name.is_empty());
    Ok(username.map(|username| Credentials::of(username, password)))
}

/// Asks the user.
fn ask(server: &str, username: Option<&str>) -> Result<Credentials, CliError> {
    if !terminal::is_terminal() {
        let text = "Error: Cannot perform an interactive login from a non TTY device";
        return Err(CliError::new(text));
    }
    if username.is_none() && server == HUB {
        say("Log in with your Docker ID to push and pull images from Docker Hub.");
    }
    let username = username.map_or_else(|| prompt("Username: "), |name| Ok(name.to_owned()))?;
    if username.is_empty() {
        return Err(CliError::new("Error: username is required"));
    }
    let password = {
        let _quiet = terminal::Quiet::enter()?;
        prompt("Password: ")?
    };
    say("");
    if password.is_empty() {
        return Err(CliError::new("Error: password is required"));
    }
    Ok(Credentials::of(&username, &password))
}

fn prompt(text: &str) -> Result<String, CliError> {
    let mut out = std::io::stdout();
    write!(out, "{text}").and_then(|()| out.flush())?;
    let mut line = String::new();
    std::io::stdin().lock().take(LONGEST).read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Tries credentials; a token that the registry gives takes the place of the password.
async fn try_at(
    client: &Client,
    server: &str,
    mut credentials: Credentials,
) -> Result<Credentials, CliError> {
    let answer = client.post("/auth", Some(&credentials.json(server))).await?;
    if let Some(token) = answer["IdentityToken"].as_str().filter(|token| !token.is_empty()) {
        token.clone_into(&mut credentials.identity_token);
        credentials.password.clear();
    }
    Ok(credentials)
}

async fn keep(config: &mut DockerConfig, server: &str, proven: &Credentials) -> Outcome {
    if credentials::store(config, server, proven).await? {
        complain(&format!(
            "\nWARNING! Your credentials are stored unencrypted in '{}'.\n\
             Configure a credential helper to remove this warning. See\n\
             https://docs.docker.com/go/credential-store/\n",
            config.path().display()
        ));
    }
    say("Login Succeeded");
    Ok(0)
}

/// `logout`.
pub(crate) async fn logout(args: LogoutArgs) -> Outcome {
    let mut config = DockerConfig::read()?;
    let server = credentials::server(args.server.as_deref().unwrap_or_default());
    say(&format!("Removing login credentials for {server}"));
    if let Err(error) = credentials::erase(&mut config, &server).await {
        complain(&format!("WARNING: could not erase credentials:\n{}", error.message));
        return Ok(1);
    }
    Ok(0)
}
