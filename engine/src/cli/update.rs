//! `update`: other limits for containers that are there.

use serde_json::{Value, json};

use super::client::{Client, escape};
use super::commands::{LimitArgs, UpdateArgs};
use super::error::CliError;
use super::{Outcome, complain, create, say};

/// `update`: prints the names of those that were changed, and what this host cannot give.
pub(crate) async fn update(client: &Client, args: UpdateArgs) -> Outcome {
    let body = body(&args)?;
    let (mut code, mut warnings) = (0, Vec::new());
    for name in &args.names {
        let path = format!("/containers/{}/update", escape(name));
        match client.post(&path, Some(&body)).await {
            Ok(answer) => {
                say(name);
                let told = answer["Warnings"].as_array().into_iter().flatten();
                warnings.extend(told.filter_map(|text| Some(text.as_str()?.to_owned())));
            }
            Err(error) => {
                complain(&error.message);
                code = 1;
            }
        }
    }
    if !warnings.is_empty() {
        say(&warnings.join("\n"));
    }
    Ok(code)
}

fn body(args: &UpdateArgs) -> Result<Value, CliError> {
    if args.restart.is_none() && args.limits == LimitArgs::default() {
        return Err(CliError::new("you must provide one or more flags when using this command"));
    }
    let mut body = args.limits.fields()?;
    let restart = args.restart.as_deref().map(create::restart_policy).transpose()?;
    body.insert("RestartPolicy".to_owned(), json!(restart));
    Ok(body.into())
}
