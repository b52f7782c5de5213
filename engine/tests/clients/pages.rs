//! What shells and manuals know of the commands.

use std::fs;
use std::process::Command;

use crate::daemon::{Scratch, run};

const RNET: &str = env!("CARGO_BIN_EXE_rnet");

#[test]
fn every_command_has_a_manual_page() {
    let scratch = Scratch::new();
    let pages = scratch.path("new/man1");
    let written = run(RNET.as_ref(), &["man", pages.to_str().unwrap()]);
    assert_eq!(written, (Some(0), String::new(), String::new()));
    let page = |name: &str| fs::read_to_string(pages.join(format!("{name}.1"))).unwrap();
    let (_, help, _) = run(RNET.as_ref(), &["--help"]);
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands = commands.take_while(|line| !line.is_empty());
    let names = commands.filter_map(|line| line.split_whitespace().next());
    let names: Vec<_> = names.filter(|name| *name != "help").collect();
    assert!(names.len() > 40, "{help}");
    for name in names {
        assert!(page(&format!("rnet-{name}")).contains(".SH NAME"), "{name}");
    }
    assert!(page("rnet-run").contains("\\-\\-publish"));
    assert!(page("rnet-network-create").contains("\\-\\-subnet"));
    assert!(page("rnet-daemon").contains("\\-\\-registry\\-mirror"));

    let file = scratch.path("file");
    fs::write(&file, "").unwrap();
    let (code, _, error) = run(RNET.as_ref(), &["man", file.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(error.contains("cannot write manual pages into"), "{error}");
}

#[test]
fn shells_take_the_completions() {
    let scratch = Scratch::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, script, _) = run(RNET.as_ref(), &["completion", shell]);
        assert_eq!(code, Some(0), "{shell}");
        assert!(script.contains("network") && script.contains("publish"), "{shell}");
        let file = scratch.path(shell);
        fs::write(&file, script).unwrap();
        if shell == "bash" {
            assert!(Command::new("bash").arg("-n").arg(file).status().unwrap().success());
        }
    }
}
