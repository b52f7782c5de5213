//! Health checks: a command that is run in a container now and then, and what its outcome says of
//! the container. Docker's rules (`HEALTHCHECK` in the Dockerfile reference).

mod watch;

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use engine_error::{Error, Result};

/// How long to wait between two checks.
const INTERVAL: Duration = Duration::from_secs(30);
/// The same while a container that is starting may fail.
const START_INTERVAL: Duration = Duration::from_secs(5);
/// How long a check may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How many failures in a row make a container unhealthy.
const RETRIES: i64 = 3;
/// How many outcomes are kept.
const KEPT: usize = 5;

/// What is to be run and how often, as the API has it. Times are in nanoseconds; zero stands for
/// the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Healthcheck {
    /// Nothing for the image's, `NONE`, `CMD` with a command, or `CMD-SHELL` with a line for the
    /// image's shell.
    pub test: Option<Vec<String>>,
    /// Between two checks.
    pub interval: i64,
    /// For one check.
    pub timeout: i64,
    /// How long after its start a container's failures do not count.
    pub start_period: i64,
    /// Between two checks during that time.
    pub start_interval: i64,
    /// How many failures in a row make the container unhealthy.
    pub retries: i64,
}

/// How a container is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// No check has said yet.
    #[default]
    Starting,
    /// The last check went well.
    Healthy,
    /// Too many checks in a row failed.
    Unhealthy,
}

/// What the checks of a container have said, as the API has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Health {
    /// How it is.
    pub status: HealthStatus,
    /// Failures since the last success.
    pub failing_streak: i64,
    /// The last outcomes, the newest last.
    pub log: Vec<Outcome>,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Outcome {
    /// When it began.
    pub start: DateTime<Utc>,
    /// When it ended.
    pub end: DateTime<Utc>,
    /// 0 if the container is well.
    pub exit_code: i32,
    /// The beginning of what it printed.
    pub output: String,
}

impl HealthStatus {
    /// Docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

impl Healthcheck {
    /// A request's check, completed by the image's. `None` if there is nothing to run.
    ///
    /// # Errors
    /// What cannot be meant, in Docker's words.
    pub fn resolve(own: Option<&Value>, image: Option<&Value>) -> Result<Option<Self>> {
        let read = |value: &Value| {
            serde_json::from_value::<Self>(value.clone())
                .map_err(|error| Error::invalid(format!("invalid Healthcheck: {error}")))
        };
        let own = own.filter(|value| !value.is_null()).map(read).transpose()?;
        let image = image.filter(|value| !value.is_null()).map(read).transpose()?;
        let merged = match (own, image) {
            (Some(own), Some(image)) => own.completed_by(image),
            (own, image) => match own.or(image) {
                Some(one) => one,
                None => return Ok(None),
            },
        };
        merged.check()?;
        let is_some = merged.test.as_ref().is_some_and(|test| !test.is_empty());
        Ok(is_some.then_some(merged))
    }

    fn completed_by(self, image: Self) -> Self {
        let or = |own: i64, other: i64| if own == 0 { other } else { own };
        Self {
            test: self.test.filter(|test| !test.is_empty()).or(image.test),
            interval: or(self.interval, image.interval),
            timeout: or(self.timeout, image.timeout),
            start_period: or(self.start_period, image.start_period),
            start_interval: or(self.start_interval, image.start_interval),
            retries: or(self.retries, image.retries),
        }
    }

    fn check(&self) -> Result<()> {
        let times = [
            ("Interval", self.interval),
            ("Timeout", self.timeout),
            ("StartPeriod", self.start_period),
            ("StartInterval", self.start_interval),
        ];
        if let Some((name, _)) = times.iter().find(|(_, time)| *time != 0 && *time < 1_000_000) {
            return Err(Error::invalid(format!("{name} in Healthcheck cannot be less than 1ms")));
        }
        if self.retries < 0 {
            return Err(Error::invalid("Retries in Healthcheck cannot be negative"));
        }
        match self.test.iter().flatten().next().map(String::as_str) {
            None | Some("NONE" | "CMD" | "CMD-SHELL") => Ok(()),
            Some(other) => Err(Error::invalid(format!(
                "Unknown healthcheck type '{other}': use NONE, CMD or CMD-SHELL"
            ))),
        }
    }

    /// The program to run and its arguments. `None` if nothing is to be run.
    pub(super) fn command(&self, shell: &[String]) -> Option<Vec<String>> {
        let (kind, words) = self.test.as_ref()?.split_first()?;
        let command = match kind.as_str() {
            "CMD" => words.to_vec(),
            "CMD-SHELL" => [shell, words].concat(),
            _ => return None,
        };
        (!words.is_empty()).then_some(command)
    }

    fn may_still_fail(&self, status: HealthStatus, since: TimeDelta) -> bool {
        let period = TimeDelta::nanoseconds(self.start_period);
        status == HealthStatus::Starting && since < period
    }

    /// How long to wait for the next check of a container that has run for so long.
    fn pause(&self, status: HealthStatus, since: TimeDelta) -> Duration {
        if self.may_still_fail(status, since) {
            span(self.start_interval, START_INTERVAL)
        } else {
            span(self.interval, INTERVAL)
        }
    }
}

impl Health {
    /// Takes in an outcome; returns the status if it is another one now.
    fn take_in(
        &mut self,
        outcome: Outcome,
        check: &Healthcheck,
        started: DateTime<Utc>,
    ) -> Option<HealthStatus> {
        let before = self.status;
        if outcome.exit_code == 0 {
            self.failing_streak = 0;
            self.status = HealthStatus::Healthy;
        } else if !check.may_still_fail(before, outcome.start - started) {
            self.failing_streak += 1;
            let retries = if check.retries == 0 { RETRIES } else { check.retries };
            if self.failing_streak >= retries {
                self.status = HealthStatus::Unhealthy;
            }
        }
        self.log.push(outcome);
        let old = self.log.len().saturating_sub(KEPT);
        self.log.drain(..old);
        (self.status != before).then_some(self.status)
    }
}

/// A time of the API, or its default.
fn span(nanoseconds: i64, default: Duration) -> Duration {
    match u64::try_from(nanoseconds) {
        Ok(0) | Err(_) => default,
        Ok(some) => Duration::from_nanos(some),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn resolved(own: &Value, image: &Value) -> String {
        match Healthcheck::resolve(Some(own), Some(image)) {
            Ok(check) => serde_json::to_string(&check).unwrap(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_request_s_check_is_completed_by_the_image_s() {
        let image = json!({"Test": ["CMD", "a"], "Interval": 5_000_000, "Retries": 2});
        let own = json!({"Timeout": 7_000_000, "Interval": 0, "Test": null});
        assert_eq!(
            resolved(&own, &image),
            r#"{"Test":["CMD","a"],"Interval":5000000,"Timeout":7000000,"StartPeriod":0,"StartInterval":0,"Retries":2}"#
        );
        assert_eq!(resolved(&Value::Null, &Value::Null), "null");
        assert_eq!(resolved(&own, &Value::Null), "null");
        for (wrong, words) in [
            (json!({"Interval": 1}), "Interval in Healthcheck cannot be less than 1ms"),
            (json!({"Retries": -1}), "Retries in Healthcheck cannot be negative"),
            (json!({"Test": ["PING"]}), "Unknown healthcheck type 'PING'"),
            (json!({"Test": "x"}), "invalid Healthcheck"),
        ] {
            assert!(resolved(&wrong, &image).contains(words), "{}", resolved(&wrong, &image));
        }
        let none = Healthcheck { test: Some(vec!["NONE".to_owned()]), ..Healthcheck::default() };
        assert_eq!(none.command(&[]), None);
    }

    #[test]
    fn failures_count_in_a_row_and_after_the_start_period() {
        let check = Healthcheck { start_period: 10_000_000_000, retries: 2, ..Default::default() };
        let started = DateTime::UNIX_EPOCH;
        let mut health = Health::default();
        let mut see = |second: i64, exit_code: i32| {
            let time = started + TimeDelta::seconds(second);
            let outcome = Outcome { start: time, end: time, exit_code, output: String::new() };
            let news = health.take_in(outcome, &check, started);
            (news.map_or("", HealthStatus::as_str), health.failing_streak)
        };
        assert_eq!((see(1, 1), see(2, 1), see(3, 1)), (("", 0), ("", 0), ("", 0)));
        assert_eq!((see(11, 1), see(12, 0)), (("", 1), ("healthy", 0)));
        assert_eq!((see(13, 1), see(14, -1)), (("", 1), ("unhealthy", 2)));
        assert_eq!((see(15, 1), see(16, 0)), (("", 3), ("healthy", 0)));
        assert_eq!(health.log.len(), KEPT);
        let (starting, healthy) = (HealthStatus::Starting, HealthStatus::Healthy);
        assert_eq!(check.pause(starting, TimeDelta::seconds(1)), START_INTERVAL);
        assert_eq!(check.pause(healthy, TimeDelta::seconds(1)), INTERVAL);
    }
}
