//! What a shim does when a child of its ends: a runtime, a process of the container, an orphan.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::super::peer::Role;
use super::super::process::{Phase, Process, RuntimeEnd};
use super::super::program::Program;
use super::super::protocol::{EXIT, Event, Exit, Failure, Reply, SOCKET, Started, Streams};
use super::super::{clock, gate, launch, run, system};
use super::{EXITS, Removal, Server, Word};

impl Server {
    /// Collects children that have ended: runtimes, processes of the container, and orphans.
    pub(super) fn reap(&mut self) {
        loop {
            let (pid, code, signal) = match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid.as_raw(), code, None),
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    (pid.as_raw(), 128 + signal as i32, Some(signal as i32))
                }
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(_) => return,
            };
            self.ended(pid, code, signal);
        }
    }

    pub(super) fn ended(&mut self, pid: i32, code: i32, signal: Option<i32>) {
        if matches!(self.removal, Removal::Running { pid: runtime, .. } if runtime == pid) {
            return self.removed();
        }
        let launching = |process: &Process| matches!(process.phase, Phase::Launching { runtime, .. } if runtime == pid);
        if let Some(index) = self.processes.iter().position(launching) {
            return self.launched(index, RuntimeEnd::Exited(code));
        }
        let ran = |process: &Process| process.pid() == Some(pid);
        if self.processes.iter().any(|process| ran(process) && process.released().is_some()) {
            // It was quick, or could not be executed: the process has said so itself.
            self.report(&Started::Running { pid });
        }
        if let Some(process) = self.processes.iter_mut().find(|process| ran(process)) {
            let (time, at) = (clock::now(), Instant::now());
            process.phase = Phase::Ended { code, signal, time, at, published: false };
            self.keep_time(at);
            return;
        }
        self.strangers.push_back((pid, code, signal));
        if self.strangers.len() > EXITS {
            self.strangers.pop_front();
        }
    }

    /// Ends the runtimes that have been at work for too long, and does what follows their end. The
    /// kernel may keep one that waits for a file system; nobody else is to wait for that.
    pub(super) fn end_late_runtimes(&mut self, now: Instant) {
        let limit = self.config.runtime.limit;
        for index in 0..self.processes.len() {
            if self.processes[index].lose_patience(now, limit) {
                self.launched(index, RuntimeEnd::Late(limit));
            }
        }
        if let Removal::Running { pid, since } = self.removal
            && now.duration_since(since) >= limit
        {
            let _ = system::kill(-pid, libc::SIGKILL);
            self.removed();
        }
    }

    /// The runtime has forgotten the container, or never will. Whoever is told so may start another
    /// shim in this directory, for a container of the same name: from here on nothing there is ours.
    fn removed(&mut self) {
        self.removal = Removal::Done(Instant::now());
        let _ = std::fs::remove_file(SOCKET);
        if let Some(failure) = self.failed.take() {
            self.report(&Started::Failed(failure));
        }
        for peer in &mut self.peers {
            peer.finish();
        }
    }

    /// A runtime has ended; its process runs, or does not.
    pub(super) fn launched(&mut self, index: usize, end: RuntimeEnd) {
        let id = self.processes[index].id;
        let result = self.processes[index].launched(end);
        if id == 0 {
            return match result {
                Ok(_) => self.proceed(),
                Err(failure) => self.fail(failure),
            };
        }
        let asked = self
            .peers
            .iter()
            .position(|peer| matches!(peer.role, Role::Waiting { process, .. } if process == id));
        match result {
            Ok(pid) => {
                if let Some(asked) = asked {
                    self.join(asked, index, &Reply::Running { pid });
                }
                self.meet(pid);
            }
            Err(failure) => {
                self.processes[index].give_up();
                if let Some(asked) = asked {
                    self.reply(asked, &Reply::Failed(failure));
                }
            }
        }
    }

    /// Lets the container run once it is made and the daemon has said so, or takes it away again if
    /// the daemon has hung up instead.
    pub(super) fn proceed(&mut self) {
        let Some(word) = self.starter.as_ref().map(|starter| starter.word) else { return };
        let Some(process) = self.processes.iter_mut().find(|process| process.id == 0) else {
            return;
        };
        let Phase::Held { pid } = process.phase else { return };
        match word {
            Word::None => {}
            Word::Go => {
                let (runtime, id) = (&self.config.runtime, &self.config.id);
                let before = Program::of(pid);
                let opened = gate::open(runtime, id, pid, self.oom_score);
                match opened.and(before) {
                    Ok(before) => {
                        process.phase = Phase::Released { pid, before, since: Instant::now() };
                        self.meet(pid);
                        self.look();
                    }
                    Err(error) => {
                        let error = format!("failed to start the container: {error}");
                        self.fail(Failure { error, code: 128 });
                    }
                }
            }
            // The socket is closed when we end: somebody may wait for that.
            Word::Stop => {
                process.give_up();
                self.remove();
            }
        }
    }

    /// Tells the daemon as soon as the container's first process runs its own program.
    pub(super) fn look(&mut self) {
        let Some(process) = self.processes.iter_mut().find(|process| process.id == 0) else {
            return;
        };
        if process.look()
            && let Some(pid) = process.pid()
        {
            self.report(&Started::Running { pid });
        }
    }

    /// There will be no container. The daemon hears of it when nothing is left.
    fn fail(&mut self, failure: Failure) {
        self.failed = Some(failure);
        for process in self.processes.iter_mut().filter(|process| process.id == 0) {
            process.give_up();
        }
        self.remove();
    }

    fn report(&mut self, started: &Started) {
        if let Some(mut starter) = self.starter.take() {
            run::report(&mut starter.socket, started);
            if matches!(started, Started::Running { .. }) {
                self.shortage.begin();
            }
        }
    }

    /// Deals with the end of a process, if it came before it was known what the process is.
    fn meet(&mut self, pid: i32) {
        let known = self.strangers.iter().position(|(stranger, ..)| *stranger == pid);
        if let Some((pid, code, signal)) = known.and_then(|at| self.strangers.remove(at)) {
            self.ended(pid, code, signal);
        }
    }

    /// The connection on which an exec was asked for becomes its stream.
    pub(super) fn join(&mut self, asked: usize, index: usize, reply: &Reply) {
        let peer = &mut self.peers[asked];
        peer.say(reply);
        let Role::Waiting { process, streams, framed, early } =
            std::mem::replace(&mut peer.role, Role::Answered)
        else {
            return;
        };
        if streams == Streams::default() {
            peer.finish();
            return;
        }
        peer.role = Role::Streaming { process, streams, framed };
        if streams.stdin {
            self.processes[index].feed(&early);
        }
    }

    /// Tells of a process's end.
    pub(super) fn publish(&mut self, index: usize) {
        let oom_kills = self.tell_of_kills();
        let oom = oom_kills > self.oom_kills;
        self.oom_kills = oom_kills;
        let process = &mut self.processes[index];
        let Phase::Ended { code, signal, time, published, .. } = &mut process.phase else { return };
        *published = true;
        let (code, signal, time) = (*code, *signal, time.clone());
        let is_init = process.id == 0;
        // The container was short of memory if any of its processes was killed for it.
        let oom = if is_init { oom_kills > 0 } else { oom };
        let exit = Exit { exec: process.exec.clone(), code, signal, time, oom };
        if is_init {
            // Whoever comes later finds it here; who is here is told even if the disk is full.
            let _ = write_exit(&exit);
        }
        self.tell(&Event::Exit(exit.clone()));
        self.exits.push_back(exit);
        if self.exits.len() > EXITS {
            self.exits.pop_front();
        }
        if is_init {
            self.remove();
        }
    }

    pub(super) fn tell(&mut self, event: &Event) {
        for peer in self.peers.iter_mut().filter(|peer| matches!(peer.role, Role::Watching)) {
            peer.say(event);
        }
    }

    /// Tells of kills for want of memory that nobody was told of. Gives back how many there were.
    pub(super) fn tell_of_kills(&mut self) -> u64 {
        let kills = self.shortage.count();
        if self.shortage.is_news(kills, Instant::now()) {
            self.tell(&Event::Oom);
        }
        kills
    }

    /// Has the runtime forget the container and kill what is left of it.
    pub(super) fn remove(&mut self) {
        if self.removal != Removal::No {
            return;
        }
        let mut command = launch::command(&self.config.runtime);
        system::restore_signals(&mut command, self.oom_score);
        command.args(["delete", "--force", &self.config.id]).process_group(0);
        match command.spawn() {
            Ok(child) => {
                let (pid, since) = (child.id().cast_signed(), Instant::now());
                self.removal = Removal::Running { pid, since };
            }
            Err(_) => self.removed(),
        }
    }
}

/// Writes `exit.json` so that it is there completely or not at all.
fn write_exit(exit: &Exit) -> io::Result<()> {
    let new = format!("{EXIT}.new");
    let mut file = File::create(&new)?;
    file.write_all(&serde_json::to_vec(exit)?)?;
    file.sync_all()?;
    std::fs::rename(new, EXIT)?;
    File::open(".")?.sync_all()
}
