//! The states of a container.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// Where in its life a container is. Docker's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
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
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
    /// The health check's state, as the API has it.
    pub health: Option<serde_json::Value>,
}

impl State {
    /// Whether there is a process: running or paused. Docker counts restarting too.
    pub fn is_running(&self) -> bool {
        matches!(self.status, Status::Running | Status::Paused | Status::Restarting)
    }
}
