//! What a shim does when it is asked.

use std::io;

use super::super::peer::Role;
use super::super::process::{Launch, Phase, Process};
use super::super::protocol::{Event, Exec, Failure, Reply, Request, Status, Stdin, Streams};
use super::super::system;
use super::{PROCESSES, Server};

impl Server {
    pub(super) fn answer(&mut self, index: usize, line: &[u8], rest: Vec<u8>) {
        let request = match serde_json::from_slice(line) {
            Ok(request) => request,
            Err(error) => return self.reply(index, &Reply::Error { message: error.to_string() }),
        };
        match request {
            Request::Attach(streams) => self.attach(index, streams, &rest),
            Request::Exec(exec) => self.exec(index, exec, rest),
            Request::Watch => {
                self.peers[index].role = Role::Watching;
                self.peers[index].say(&Reply::Done);
                for exit in &self.exits {
                    self.peers[index].say(&Event::Exit(exit.clone()));
                }
            }
            Request::Status => {
                let reply = Reply::Status(self.status());
                self.reply(index, &reply);
            }
            Request::Resize { exec, rows, columns } => {
                let reply = match self.named(exec.as_deref()) {
                    None => Reply::NotRunning,
                    Some(process) => done(process.resize(rows, columns)),
                };
                self.reply(index, &reply);
            }
            Request::Kill { exec, signal } => {
                let reply = match self.named(exec.as_deref()).and_then(|process| process.pid()) {
                    None => Reply::NotRunning,
                    Some(pid) => done(system::kill(pid, signal)),
                };
                self.reply(index, &reply);
            }
        }
    }

    /// The only answer on a connection.
    pub(super) fn reply(&mut self, index: usize, reply: &Reply) {
        let peer = &mut self.peers[index];
        peer.role = Role::Answered;
        peer.say(reply);
        peer.finish();
    }

    pub(super) fn attach(&mut self, index: usize, streams: Streams, rest: &[u8]) {
        match self.named(None) {
            None => self.reply(index, &Reply::NotRunning),
            Some(process) => {
                let framed = !process.tty;
                if streams.stdin {
                    process.feed(rest);
                }
                self.peers[index].role = Role::Streaming { process: 0, streams, framed };
                self.peers[index].say(&Reply::Done);
            }
        }
    }

    pub(super) fn exec(&mut self, index: usize, exec: Exec, early: Vec<u8>) {
        if self.named(None).is_none_or(|init| init.pid().is_none()) {
            return self.reply(index, &Reply::NotRunning);
        }
        if self.named(Some(&exec.id)).is_some() || self.processes.len() >= PROCESSES {
            let message = format!("exec {} runs already, or too many do", exec.id);
            return self.reply(index, &Reply::Error { message });
        }
        let id = self.next;
        self.next += 1;
        let launch = Launch {
            config: &self.config,
            id,
            tty: exec.tty,
            size: exec.console_size,
            stdin: if exec.streams.stdin { Stdin::Once } else { Stdin::Closed },
            log: None,
            view: Vec::new(),
            exec: Some((exec.id, &exec.process)),
            oom_score: self.oom_score,
        };
        match launch.start() {
            Ok(process) => {
                self.processes.push(process);
                let framed = exec.framed.unwrap_or(!exec.tty);
                self.peers[index].role =
                    Role::Waiting { process: id, streams: exec.streams, framed, early };
            }
            Err(error) => {
                let error = format!("OCI runtime exec failed: {error}: unknown");
                self.reply(index, &Reply::Failed(Failure { error, code: 128 }));
            }
        }
    }

    pub(super) fn status(&self) -> Status {
        let running = |process: &Process| Some((process.exec.clone()?, process.pid()?));
        Status {
            pid: self.process(0).and_then(Process::pid),
            execs: self.processes.iter().filter_map(running).collect(),
            exits: self.exits.iter().cloned().collect(),
        }
    }

    pub(super) fn process(&self, id: u64) -> Option<&Process> {
        self.processes.iter().find(|process| process.id == id)
    }

    /// The process of an exec's id, or the container's first one; only while it has not ended.
    pub(super) fn named(&mut self, exec: Option<&str>) -> Option<&mut Process> {
        self.processes.iter_mut().find(|process| {
            process.exec.as_deref() == exec && !matches!(process.phase, Phase::Ended { .. })
        })
    }
}

fn done(result: io::Result<()>) -> Reply {
    match result {
        Ok(()) => Reply::Done,
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Reply::NotRunning,
        Err(error) => Reply::Error { message: error.to_string() },
    }
}
