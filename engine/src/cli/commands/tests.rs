//! The grammar of the command line, read from lines that people type.

use super::*;

fn parse(line: &str) -> Command {
    Cli::try_parse_from(line.split(' ')).unwrap_or_else(|e| panic!("{line}: {e}")).command
}

#[test]
fn the_grammar_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn flags_after_the_image_belong_to_the_command() {
    let Command::Run(run) = parse("rnet run -it --rm --name x img ls -l --name y") else {
        panic!("not run");
    };
    assert_eq!(run.create.rest, ["img", "ls", "-l", "--name", "y"]);
    assert_eq!(run.create.name.as_deref(), Some("x"));
    assert!(run.create.interactive && run.create.tty && run.create.rm);
}

#[test]
fn a_flag_of_truth_does_not_swallow_the_image() {
    let Command::Run(run) = parse("rnet run --init img") else { panic!("not run") };
    assert_eq!(
        (run.create.init, run.create.rest.as_slice()),
        (Some(true), &["img".to_owned()][..])
    );
    let Command::Run(run) = parse("rnet run --init=false img") else { panic!("not run") };
    assert_eq!(run.create.init, Some(false));
    let Command::Run(run) = parse("rnet run img") else { panic!("not run") };
    assert_eq!(run.create.init, None);
}

#[test]
fn ports_are_listed_as_docker_does_and_changed_by_commands() {
    let Command::Port(port) = parse("rnet port web 80/tcp") else { panic!("not port") };
    assert_eq!((port.list.container.as_deref(), port.change.is_none()), (Some("web"), true));
    let Command::Port(port) = parse("rnet port add web 8080:80 53:53/udp") else {
        panic!("not port")
    };
    let Some(PortChangeCommand::Add(add)) = port.change else { panic!("not add") };
    assert_eq!((add.container.as_str(), add.ports.len()), ("web", 2));
    assert!(Cli::try_parse_from(["rnet", "port"]).is_err());
    assert!(Cli::try_parse_from(["rnet", "port", "add", "web"]).is_err());
}

#[test]
fn short_flags_combine_and_take_values() {
    let Command::Run(run) = parse("rnet run -dp8080:80 -eA=b img") else { panic!("not run") };
    assert!(run.detach);
    assert_eq!(run.create.publish, ["8080:80"]);
    assert_eq!(run.create.env, ["A=b"]);
}
