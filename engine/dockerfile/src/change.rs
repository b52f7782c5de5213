//! `--change` of `import` and `commit`: lines of a Dockerfile that change a configuration.

use engine_error::Result;
use serde_json::Value;

use crate::config::{self, Applied};
use crate::parse::changes;
use crate::words::Lexer;

/// What may be changed so.
const KNOWN: [&str; 11] = [
    "CMD",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "HEALTHCHECK",
    "LABEL",
    "ONBUILD",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// Applies lines to the `config` of an image, as the steps of a build would be.
pub fn change(config: &mut Value, lines: &str) -> Result<()> {
    if lines.trim().is_empty() {
        return Ok(());
    }
    let (steps, escape) = changes(lines, &KNOWN)?;
    let mut command_is_set = false;
    for step in steps {
        let known = config::variables(config);
        let variables = |name: &str| known.get(name).cloned();
        let instruction = step.instruction.expand(Lexer::new(escape), &variables)?;
        let applied = config::apply(config, &instruction, command_is_set)?;
        if let Some(Applied { sets_command, .. }) = applied {
            command_is_set |= sets_command;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_line_changes_its_field_as_docker_has_it() {
        let mut config = json!({"Env": ["P=/bin"], "Cmd": ["own"]});
        let lines = "CMD [\"a\", \"b c\"]\nentrypoint exec run\nENV A=1 B=\"two words\" \\\n C=$P\n\
                     ENV A three\nLABEL x.y=z\nEXPOSE 80 53/udp 8000-8001\nVOLUME [\"/data\"]\n\
                     USER 1:1\nWORKDIR /srv\nWORKDIR app\nSTOPSIGNAL SIGQUIT\nONBUILD RUN x\n\
                     HEALTHCHECK --interval=1m30s --retries=2 CMD [\"/bin/true\"]\n";
        change(&mut config, lines).unwrap();
        let wanted = json!({
            "Env": ["P=/bin", "A=three", "B=two words", "C=/bin"],
            "Cmd": ["a", "b c"],
            "Entrypoint": ["/bin/sh", "-c", "exec run"],
            "Labels": {"x.y": "z"},
            "ExposedPorts": {"80/tcp": {}, "53/udp": {}, "8000/tcp": {}, "8001/tcp": {}},
            "Volumes": {"/data": {}},
            "User": "1:1",
            "WorkingDir": "/srv/app",
            "StopSignal": "SIGQUIT",
            "OnBuild": ["RUN x"],
            "Healthcheck": {"Test": ["CMD", "/bin/true"], "Interval": 90_000_000_000_i64,
                "Retries": 2},
        });
        assert_eq!(config, wanted);
        change(&mut config, " \n").unwrap();
        assert_eq!(config, wanted);
    }

    #[test]
    fn wrong_changes_are_refused_in_docker_s_words() {
        for (line, wanted) in [
            ("RUN x", "RUN is not a valid change command"),
            ("bogus x", "BOGUS is not a valid change command"),
            ("SHELL [\"x\"]", "SHELL is not a valid change command"),
            ("ENV A", "ENV must have two arguments"),
            ("EXPOSE 80/icmp", "Invalid proto: icmp"),
            ("HEALTHCHECK PING", "Unknown type \"PING\" in HEALTHCHECK (try CMD)"),
        ] {
            let error = change(&mut json!({}), line).unwrap_err();
            assert_eq!(error.to_string(), wanted);
        }
        for line in ["LABEL \"a=b", "# nothing"] {
            assert!(change(&mut json!({}), line).is_err(), "{line}");
        }
    }
}
