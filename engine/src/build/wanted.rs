//! `RUN --mount=…`: what is asked for.

use super::caches::Sharing;
use dockerfile::config;
use engine_error::{Error, Result};

/// One mount.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    /// `bind`, `cache`, `tmpfs`, `secret` or `ssh`.
    pub(super) kind: String,
    /// Where it is in the step; empty for a secret that is a variable only.
    pub(super) target: String,
    pub(super) source: String,
    pub(super) from: Option<String>,
    pub(super) id: String,
    pub(super) sharing: Sharing,
    pub(super) readonly: bool,
    pub(super) mode: Option<u32>,
    pub(super) owner: (u32, u32),
    pub(super) size: Option<String>,
    /// Whether a step fails without this secret or agent.
    pub(super) required: bool,
    /// The variable that a secret is.
    pub(super) env: Option<String>,
}

impl Wanted {
    /// Reads one, of a stage with a configuration, after so many mounts of agents.
    pub(super) fn read(
        text: &str,
        stage_config: &serde_json::Value,
        agents: usize,
    ) -> Result<Self> {
        let mut wanted = Self { kind: "bind".to_owned(), ..Self::default() };
        let mut writable = None;
        for field in text.split(',') {
            let (name, value) = field.split_once('=').unwrap_or((field, "true"));
            let name = name.to_ascii_lowercase();
            match name.as_str() {
                "target" | "dst" | "destination" => {
                    wanted.target = config::absolute(stage_config, value);
                }
                "ro" | "readonly" => writable = Some(value != "true"),
                "rw" | "readwrite" => writable = Some(value == "true"),
                _ => wanted.field(&name, value, (text, field))?,
            }
        }
        wanted.check_keys(text)?;
        match wanted.kind.as_str() {
            "cache" if wanted.from.is_some() || !wanted.source.is_empty() => {
                return Err(Error::invalid(
                    "RUN --mount=type=cache begins empty: from and source are for bind",
                ));
            }
            "bind" | "cache" | "tmpfs" => {}
            "secret" => wanted.secret()?,
            "ssh" => wanted.agent(agents),
            kind => return Err(Error::invalid(format!("unsupported mount type \"{kind}\""))),
        }
        wanted.readonly = !writable.unwrap_or(wanted.kind != "bind");
        let nowhere = wanted.target.is_empty() && wanted.env.is_none();
        if nowhere || wanted.target == "/" {
            return Err(Error::invalid(format!("invalid mount target in --mount={text}")));
        }
        Ok(wanted)
    }

    fn field(&mut self, name: &str, value: &str, (text, field): (&str, &str)) -> Result<()> {
        let wrong = || Error::invalid(format!("invalid value of {name} in --mount={text}"));
        match name {
            "type" => self.kind = value.to_ascii_lowercase(),
            "source" | "src" => value.clone_into(&mut self.source),
            "from" => self.from = Some(value.to_owned()),
            "id" => value.clone_into(&mut self.id),
            "mode" => {
                let mode = u32::from_str_radix(value, 8).ok().filter(|mode| *mode <= 0o7777);
                self.mode = Some(mode.ok_or_else(wrong)?);
            }
            "uid" => self.owner.0 = value.parse().map_err(|_| wrong())?,
            "gid" => self.owner.1 = value.parse().map_err(|_| wrong())?,
            "size" => self.size = Some(value.to_owned()),
            "sharing" => {
                self.sharing = match value {
                    "shared" => Sharing::Shared,
                    "private" => Sharing::Private,
                    "locked" => Sharing::Locked,
                    _ => return Err(wrong()),
                }
            }
            "required" => {
                self.required = match value.to_ascii_lowercase().as_str() {
                    "true" | "1" | "t" => true,
                    "false" | "0" | "f" => false,
                    _ => return Err(wrong()),
                }
            }
            "env" if value.is_empty() || value.contains(['=', '\0']) => return Err(wrong()),
            "env" => self.env = Some(value.to_owned()),
            _ => return Err(Error::invalid(format!("unexpected key '{name}' in '{field}'"))),
        }
        Ok(())
    }

    /// Keys that only some kinds have. The kind may stand behind them.
    fn check_keys(&self, text: &str) -> Result<()> {
        let names = text.split(',').map(|field| field.split('=').next().unwrap_or_default());
        for name in names {
            let kinds: &[&str] = match name.to_ascii_lowercase().as_str() {
                "required" => &["secret", "ssh"],
                "env" => &["secret"],
                _ => continue,
            };
            if !kinds.contains(&self.kind.as_str()) {
                let kind = &self.kind;
                return Err(Error::invalid(format!(
                    "unexpected key '{name}' for mount type '{kind}'"
                )));
            }
        }
        Ok(())
    }

    /// A secret is called by its id, or as it is where it goes, and goes to a place of its own.
    fn secret(&mut self) -> Result<()> {
        let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
        if !self.source.is_empty() {
            self.id.clone_from(&self.source);
        }
        if self.id.is_empty() {
            self.id = last(&self.target);
        }
        if self.id.is_empty() {
            return Err(Error::invalid("one of source, target required"));
        }
        if self.target.is_empty() && self.env.is_none() {
            self.target = format!("/run/secrets/{}", last(&self.id));
        }
        Ok(())
    }

    fn agent(&mut self, agents: usize) {
        if self.id.is_empty() {
            "default".clone_into(&mut self.id);
        }
        if self.target.is_empty() {
            self.target = format!("/run/buildkit/ssh_agent.{agents}");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Result<Wanted, String> {
        Wanted::read(text, &json!({"WorkingDir": "/w"}), 1).map_err(|error| error.to_string())
    }

    #[test]
    fn a_secret_is_called_as_it_is_where_it_goes_and_goes_where_it_is_called() {
        for (text, id, target, required) in [
            ("type=secret,id=npmrc", "npmrc", "/run/secrets/npmrc", false),
            ("type=secret,id=a/b,required", "a/b", "/run/secrets/b", true),
            ("type=secret,target=/x/y", "y", "/x/y", false),
            ("dst=rel,type=secret,required=false", "rel", "/w/rel", false),
            ("type=secret,source=s,id=i,required=1", "s", "/run/secrets/s", true),
            ("type=secret,id=v,env=V", "v", "", false),
            ("type=secret,id=v,env=V,target=/v", "v", "/v", false),
            ("type=ssh", "default", "/run/buildkit/ssh_agent.1", false),
            ("type=ssh,id=git,target=/s,required=true", "git", "/s", true),
        ] {
            let wanted = read(text).unwrap();
            assert_eq!((&*wanted.id, &*wanted.target, wanted.required), (id, target, required));
        }
        let wanted = read("type=secret,id=x,mode=0440,uid=1,gid=2").unwrap();
        assert_eq!((wanted.mode, wanted.owner), (Some(0o440), (1, 2)));
    }

    #[test]
    fn what_is_wrong_with_a_mount_is_said_in_buildkit_s_words() {
        for (text, said) in [
            ("type=secret", "one of source, target required"),
            ("type=cache,target=/c,required", "unexpected key 'required' for mount type 'cache'"),
            ("env=X,target=/c,type=ssh", "unexpected key 'env' for mount type 'ssh'"),
            ("type=nope,target=/c", "unsupported mount type \"nope\""),
            ("type=ssh,what=1", "unexpected key 'what' in 'what=1'"),
            ("type=ssh,mode=99999", "invalid value of mode in --mount=type=ssh,mode=99999"),
            ("type=secret,id=x,env=", "invalid value of env in --mount=type=secret,id=x,env="),
            ("type=bind", "invalid mount target in --mount=type=bind"),
            (
                "type=secret,id=x,target=/",
                "invalid mount target in --mount=type=secret,id=x,target=/",
            ),
        ] {
            assert_eq!(read(text).unwrap_err(), said);
        }
    }
}
