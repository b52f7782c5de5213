//! The states of a container and the restart policies: a pure machine, told what time it is.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::health::Health;
use super::spec::RestartPolicy;

/// The pause before the first restart.
const FIRST_DELAY: Duration = Duration::from_millis(100);

/// The longest pause before a restart.
const LONGEST_DELAY: Duration = Duration::from_secs(60);

/// A container that ran this long is well: the pauses start anew.
const WELL: TimeDelta = TimeDelta::seconds(10);

/// The exit code of a container whose end nobody saw.
const UNKNOWN_END: i32 = 255;

/// Where in its life a container is. Docker's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// Made and never started.
    #[default]
    Created,
    /// Its process runs.
    Running,
    /// Its process is frozen.
    Paused,
    /// Its process ended and is about to be started again.
    Restarting,
    /// It is being removed.
    Removing,
    /// Its process ended.
    Exited,
    /// It could not be removed entirely.
    Dead,
}

impl Status {
    /// Docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }
}

/// The state of a container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Where in its life it is.
    pub status: Status,
    /// The process on the host; 0 if there is none.
    pub pid: i32,
    /// The exit code of the last run.
    pub exit_code: i32,
    /// Why it could not be started.
    pub error: String,
    /// Whether the kernel killed it for want of memory.
    pub oom_killed: bool,
    /// When it was started last.
    pub started: Option<DateTime<Utc>>,
    /// When it ended last.
    pub finished: Option<DateTime<Utc>>,
    /// How often the restart policy started it again.
    pub restart_count: u32,
    /// Whether a user stopped it.
    pub stopped_by_user: bool,
    /// The pause before the last restart.
    pub restart_delay: Duration,
    /// What its health checks have said, if it has any.
    pub health: Option<Health>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The exit code; 128 and the signal's number if a signal ended it.
    pub code: i32,
    /// Whether the kernel killed it for want of memory.
    pub oom_killed: bool,
    /// When.
    pub time: DateTime<Utc>,
}

/// What follows the end of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing.
    Rest,
    /// A restart after a pause.
    RestartAfter(Duration),
}

impl Exit {
    /// The end of a process that nobody saw end.
    pub fn unseen(time: DateTime<Utc>) -> Self {
        Self { code: UNKNOWN_END, oom_killed: false, time }
    }
}

impl State {
    /// Whether it counts as running: it has a process, or is about to have one again.
    pub fn is_running(&self) -> bool {
        matches!(self.status, Status::Running | Status::Paused | Status::Restarting)
    }

    /// Whether there is a process.
    pub fn has_process(&self) -> bool {
        matches!(self.status, Status::Running | Status::Paused)
    }

    /// Its process runs.
    pub fn start(&mut self, pid: i32, now: DateTime<Utc>) {
        self.status = Status::Running;
        self.pid = pid;
        self.exit_code = 0;
        self.error.clear();
        self.oom_killed = false;
        self.started = Some(now);
        self.finished = None;
        self.health = None;
    }

    /// A user starts it: the restart policy begins anew.
    pub fn forget_restarts(&mut self) {
        self.restart_count = 0;
        self.restart_delay = Duration::ZERO;
        self.stopped_by_user = false;
    }

    /// It could not be started; `code` is 126, 127 or 128 where it was the program's fault.
    pub fn fail_start(&mut self, code: i32, error: &str, now: DateTime<Utc>) {
        self.pid = 0;
        self.exit_code = code;
        error.clone_into(&mut self.error);
        if self.status == Status::Restarting {
            self.status = Status::Exited;
            self.finished = Some(now);
        }
    }

    /// Its process ended. Decides what follows.
    pub fn end(&mut self, exit: Exit, policy: RestartPolicy) -> Next {
        let ran = self.started.map_or(TimeDelta::zero(), |started| exit.time - started);
        self.status = Status::Exited;
        self.pid = 0;
        self.exit_code = exit.code;
        self.oom_killed = exit.oom_killed;
        self.finished = Some(exit.time);
        if !self.restarts(policy) {
            return Next::Rest;
        }
        self.restart_delay = if ran >= WELL || self.restart_delay.is_zero() {
            FIRST_DELAY
        } else {
            (self.restart_delay * 2).min(LONGEST_DELAY)
        };
        self.restart_count += 1;
        self.status = Status::Restarting;
        Next::RestartAfter(self.restart_delay)
    }

    /// Whether the policy wants an ended container started again.
    fn restarts(&self, policy: RestartPolicy) -> bool {
        if self.stopped_by_user {
            return false;
        }
        match policy {
            RestartPolicy::No => false,
            RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
            RestartPolicy::OnFailure(limit) => {
                self.exit_code != 0 && (limit == 0 || self.restart_count < limit)
            }
        }
    }

    /// Whether a container that rests is started when the daemon starts. Those that ran are judged
    /// by [`State::end`].
    pub fn starts_with_daemon(&self, policy: RestartPolicy) -> bool {
        match policy {
            RestartPolicy::Always => self.status == Status::Exited,
            _ => self.status == Status::Restarting,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn exit(code: i32, seconds: i64) -> Exit {
        Exit { code, oom_killed: false, time: at(seconds) }
    }

    fn running() -> State {
        let mut state = State::default();
        state.start(42, at(0));
        state
    }

    #[test]
    fn a_container_without_a_policy_rests_after_its_end() {
        let mut state = running();
        assert_eq!(state.end(exit(3, 1), RestartPolicy::No), Next::Rest);
        assert_eq!((state.status, state.exit_code, state.pid), (Status::Exited, 3, 0));
    }

    #[test]
    fn pauses_double_up_to_a_minute_and_start_anew_after_ten_seconds_of_running() {
        let mut state = running();
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let Next::RestartAfter(pause) = state.end(exit(0, 1), RestartPolicy::Always) else {
                panic!("it rests");
            };
            pauses.push(pause.as_millis());
            state.start(42, at(0));
        }
        assert_eq!(pauses[..4], [100, 200, 400, 800]);
        assert_eq!(pauses[10..], [60_000, 60_000]);
        let next = state.end(exit(0, 10), RestartPolicy::Always);
        assert_eq!(next, Next::RestartAfter(FIRST_DELAY));
    }

    #[test]
    fn on_failure_gives_up_after_its_number_of_restarts() {
        let policy = RestartPolicy::OnFailure(2);
        let mut state = running();
        let ends: Vec<_> = (0..3)
            .map(|_| {
                let next = state.end(exit(1, 1), policy);
                state.started = Some(at(0));
                next != Next::Rest
            })
            .collect();
        assert_eq!(ends, [true, true, false]);
        assert_eq!((state.restart_count, state.status), (2, Status::Exited));
    }

    #[test]
    fn on_failure_rests_after_success() {
        assert_eq!(running().end(exit(0, 1), RestartPolicy::OnFailure(0)), Next::Rest);
    }

    #[test]
    fn what_a_user_stopped_stays_stopped_until_the_daemon_starts() {
        let mut state = running();
        state.stopped_by_user = true;
        assert_eq!(state.end(exit(137, 1), RestartPolicy::Always), Next::Rest);
        assert!(state.starts_with_daemon(RestartPolicy::Always));
        assert!(!state.starts_with_daemon(RestartPolicy::UnlessStopped));
        assert!(!state.starts_with_daemon(RestartPolicy::OnFailure(0)));
    }

    #[test]
    fn a_failed_first_start_leaves_a_container_created() {
        let mut state = State::default();
        state.fail_start(127, "no such file or directory", at(1));
        assert_eq!((state.status, state.exit_code), (Status::Created, 127));
    }
}
