//! `-t` on a real terminal: size, keys, exit codes, with both clients.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::pty::openpty;
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::ttyname;

use crate::daemon::{Client, Daemon, PATIENCE};

const IMAGE: &str = "rnet/toolbox";
const CTRL_C: &[u8] = b"\x03";
const CTRL_D: &[u8] = b"\x04";
const CTRL_P_CTRL_Q: &[u8] = b"\x10\x11";

/// A client on a terminal of its own.
pub struct Terminal {
    child: Child,
    keys: File,
    path: String,
    output: Receiver<Vec<u8>>,
    seen: String,
    /// All that was shown so far.
    shown: String,
}

impl Terminal {
    fn run(daemon: &Daemon, client: Client, arguments: &[&str]) -> Self {
        Self::open(&daemon.client(client, arguments))
    }

    /// Begins a command at a terminal of 30 rows and 90 columns.
    pub fn open(plain: &Command) -> Self {
        let pty = openpty(None, None).unwrap();
        let path = ttyname(&pty.slave).unwrap().to_str().unwrap().to_owned();
        // The terminal is the client's controlling one, so that it hears of changes of size.
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait"]).arg(plain.get_program()).args(plain.get_args());
        command.envs(plain.get_envs().filter_map(|(key, value)| Some((key, value?))));
        let mut keys = File::from(pty.master);
        let mut screen = keys.try_clone().unwrap();
        let stream = || Stdio::from(pty.slave.try_clone().unwrap());
        resize(&path, 30, 90);
        let child = command.stdin(stream()).stdout(stream()).stderr(stream()).spawn().unwrap();
        keys.flush().unwrap();
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = screen.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { child, keys, path, output, seen: String::new(), shown: String::new() }
    }

    pub fn press(&mut self, keys: &[u8]) {
        self.keys.write_all(keys).unwrap();
    }

    /// Reads until the text is shown; what follows it is kept.
    pub fn expect(&mut self, text: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.shows(text, Duration::from_millis(200)) {
            assert!(Instant::now() < end, "{text:?} is not in {:?}", self.seen);
        }
    }

    fn shows(&mut self, text: &str, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        loop {
            if let Some(place) = self.seen.find(text) {
                self.seen.drain(..place + text.len());
                return true;
            }
            let left = end.saturating_duration_since(Instant::now());
            let Ok(bytes) = self.output.recv_timeout(left) else { return false };
            self.hear(&bytes);
        }
    }

    /// Changes the size until the container shows it: a client that has just begun does not hear
    /// of the first change.
    fn resize_until(&mut self, text: &str) {
        let end = Instant::now() + PATIENCE;
        let mut columns = 99;
        while !self.shows(text, Duration::from_millis(300)) {
            assert!(Instant::now() < end, "{text:?} is not in {:?}", self.seen);
            columns = 199 - columns;
            resize(&self.path, 40, columns);
        }
    }

    /// Waits until the client has the terminal to itself: what is typed before is shown by the kernel, too.
    pub fn until_raw(&self) {
        let end = Instant::now() + PATIENCE;
        while tcgetattr(&self.keys).unwrap().local_flags.contains(LocalFlags::ECHO) {
            assert!(Instant::now() < end, "nobody takes the terminal");
            std::thread::yield_now();
        }
    }

    fn hear(&mut self, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        self.seen.push_str(&text);
        self.shown.push_str(&text);
    }

    pub fn resize(&self, rows: u16, columns: u16) {
        resize(&self.path, rows, columns);
    }

    fn code(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// The exit code, and all that was shown from the beginning to the end.
    pub fn end(mut self) -> (Option<i32>, String) {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.output.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.hear(&bytes),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it goes on after {:?}", self.shown),
            }
        }
        (self.child.wait().unwrap().code(), self.shown)
    }
}

fn resize(path: &str, rows: u16, columns: u16) {
    let (rows, columns) = (rows.to_string(), columns.to_string());
    let size = ["-F", path, "rows", &rows, "cols", &columns];
    assert!(Command::new("stty").args(size).status().unwrap().success());
}

/// Waits until an event is told, or was.
fn wait_for(daemon: &Daemon, action: &str) {
    let filter = format!("event={action}");
    let mut events = daemon.client(Client::Docker, &["events", "--since", "0", "-f", &filter]);
    let mut events = events.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(events.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains(action), "{line}");
    events.kill().unwrap();
    events.wait().unwrap();
}

#[test]
fn run_has_the_size_of_the_terminal_and_follows_it() {
    let daemon = Daemon::start(&[]);
    for client in Client::ALL {
        let arguments = ["run", "--rm", "-it", "--name", "size", "--network", "none", IMAGE];
        let arguments = [&arguments[..], &["size", "-w"]].concat();
        let mut terminal = Terminal::run(&daemon, client, &arguments);
        terminal.expect("30 90");
        terminal.resize_until("40 100");
        daemon.ok(client, &["kill", "size"]);
        assert_eq!(terminal.code(), Some(137));
    }
}

#[test]
fn run_is_left_by_its_keys_and_attached_again() {
    let daemon = Daemon::start(&[]);
    for client in Client::ALL {
        let arguments = ["run", "-it", "--name", "talk", "--network", "none", IMAGE, "cat"];
        let mut terminal = Terminal::run(&daemon, client, &arguments);
        terminal.press(b"hello\n");
        terminal.expect("hello\r\nhello\r\n");
        terminal.press(CTRL_P_CTRL_Q);
        assert_eq!(terminal.code(), Some(0));
        assert_eq!(daemon.ok(client, &["ps", "--format", "{{.Names}}"]), "talk");
        let mut terminal = Terminal::run(&daemon, client, &["attach", "talk"]);
        terminal.press(b"again\n");
        terminal.expect("again\r\nagain\r\n");
        terminal.press(CTRL_D);
        assert_eq!(terminal.code(), Some(0));
        daemon.ok(client, &["rm", "talk"]);
    }
}

/// Talks to a `cat`, whom the usual keys do not leave, and leaves it by ctrl-a d.
fn leave_by_other_keys(terminal: &mut Terminal) {
    terminal.press(b"one\n");
    terminal.expect("one\r\none\r\n");
    terminal.press(CTRL_P_CTRL_Q);
    terminal.press(b"two\n");
    terminal.expect("two\r\n");
    terminal.press(b"\x01d");
}

#[test]
fn other_keys_leave_and_the_usual_ones_reach_the_container() {
    let daemon = Daemon::start(&[]);
    for client in Client::ALL {
        let run = ["run", "-dit", "--name", "talk", "--network", "none", IMAGE, "cat"];
        daemon.ok(client, &run);
        for words in [
            &["attach", "--detach-keys", "ctrl-a,d", "talk"][..],
            &["exec", "-it", "--detach-keys", "ctrl-a,d", "talk", "cat"],
            &["run", "-it", "--detach-keys", "ctrl-a,d", "--network", "none", IMAGE, "cat"],
        ] {
            let mut terminal = Terminal::run(&daemon, client, words);
            leave_by_other_keys(&mut terminal);
            assert!(terminal.code().is_some(), "{client:?} {words:?}");
        }
        if client == Client::Rnet {
            // Docker's own command leaves without a word.
            wait_for(&daemon, "detach");
            wait_for(&daemon, "exec_detach");
        }
        let running = daemon.ok(client, &["ps", "-q"]);
        assert_eq!(running.lines().count(), 2, "{client:?}");
        daemon.ok(client, &[&["rm", "-f"], &running.lines().collect::<Vec<_>>()[..]].concat());
        let create = ["create", "-it", "--name", "late", "--network", "none", IMAGE, "cat"];
        daemon.ok(client, &create);
        let words = ["start", "-ai", "--detach-keys", "ctrl-a,d", "late"];
        let mut terminal = Terminal::run(&daemon, client, &words);
        leave_by_other_keys(&mut terminal);
        terminal.code();
        assert_eq!(daemon.ok(client, &["ps", "--format", "{{.Names}}"]), "late", "{client:?}");
        daemon.ok(client, &["rm", "-f", "late"]);
    }
}

#[test]
fn exec_on_a_terminal_hears_ctrl_c_and_tells_the_exit_code() {
    let daemon = Daemon::start(&[]);
    for client in Client::ALL {
        daemon.ok(client, &["run", "-d", "--name", "box", IMAGE, "sleep", "infinity"]);
        let mut terminal = Terminal::run(&daemon, client, &["exec", "-it", "box", "size", "-w"]);
        terminal.expect("30 90");
        terminal.resize_until("40 100");
        terminal.press(CTRL_C);
        assert_eq!(terminal.code(), Some(130));
        let terminal = Terminal::run(&daemon, client, &["exec", "-it", "box", "exit", "9"]);
        assert_eq!(terminal.code(), Some(9));
        daemon.ok(client, &["rm", "-f", "box"]);
    }
}

#[test]
fn a_terminal_is_asked_for_where_there_is_none() {
    let daemon = Daemon::start(&[]);
    for client in Client::ALL {
        let (code, _, error) = daemon.ask(client, &["run", "--rm", "-it", IMAGE, "true"]);
        assert_eq!((code, error.as_str()), (Some(1), "the input device is not a TTY"));
    }
}

/// Whether a process of the only container has this command line.
fn runs(daemon: &Daemon, command: &str) -> bool {
    let id = daemon.docker_ok(&["ps", "-q"]);
    let (_, listed, _) = daemon.ask(Client::Docker, &["top", &id, "-eo", "pid,args"]);
    listed.lines().any(|line| line.split_whitespace().skip(1).eq([command]))
}

#[test]
fn under_an_init_process_the_program_has_the_terminal() {
    let daemon = Daemon::start(&[]);
    for client in Client::ALL {
        let flags = ["run", "--rm", "-it", "--init", "--network", "none", IMAGE];
        let mut terminal = Terminal::run(&daemon, client, &[&flags[..], &["cat"]].concat());
        terminal.press(b"hello\n");
        terminal.expect("hello\r\nhello\r\n");
        // Both may be echoes: of this terminal before the client has it, and of the container's before
        // the program has it.
        let end = Instant::now() + PATIENCE;
        while !runs(&daemon, "cat") {
            assert!(Instant::now() < end, "{client:?}: it does not run");
        }
        terminal.press(CTRL_C);
        assert_eq!(terminal.code(), Some(130));
        let words = [&flags[..], &["size", "-w"]].concat();
        let mut terminal = Terminal::run(&daemon, client, &words);
        terminal.expect("30 90");
        terminal.resize_until("40 100");
        terminal.press(CTRL_C);
        assert_eq!(terminal.code(), Some(130));
    }
}
