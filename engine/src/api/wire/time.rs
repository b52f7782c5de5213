//! Times as Docker reads and writes them.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

use engine_error::{Error, Result};

/// RFC 3339 with nanoseconds; Go's zero time where there is none.
pub fn rfc3339(time: Option<DateTime<Utc>>) -> String {
    let Some(time) = time else { return "0001-01-01T00:00:00Z".to_owned() };
    let text = time.to_rfc3339_opts(SecondsFormat::Nanos, true);
    // Go leaves out zeros at the end.
    let digits = text.trim_end_matches('Z').trim_end_matches('0').trim_end_matches('.');
    format!("{digits}Z")
}

/// A time from nanoseconds since the epoch.
pub fn from_nanos(nanos: u64) -> DateTime<Utc> {
    DateTime::from_timestamp_nanos(i64::try_from(nanos).unwrap_or(i64::MAX))
}

/// A point in time of a query or filter: unix seconds with a fraction, RFC 3339, or a Go duration
/// before `now`. Empty is no time; `0` is the epoch.
pub fn point(text: &str, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>> {
    if text.is_empty() {
        return Ok(None);
    }
    let time = unix(text)
        .or_else(|| DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc()))
        .or_else(|| now.checked_sub_signed(duration(text)?));
    let unusable = || {
        let hint = "use seconds since the epoch, an RFC 3339 time or a duration such as 10m";
        Error::invalid(format!("invalid time `{text}`: {hint}"))
    };
    time.map(Some).ok_or_else(unusable)
}

/// The point in time of a filter `until`.
pub fn until(text: &str, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>> {
    point(text, now).map_err(|_| {
        Error::invalid(format!("failed to parse value as time or duration: \"{text}\""))
    })
}

fn unix(text: &str) -> Option<DateTime<Utc>> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos = if fraction.is_empty() { 0 } else { format!("{fraction:0<9}").parse().ok()? };
    DateTime::from_timestamp(seconds.parse().ok()?, nanos)
}

/// A Go duration: `1h30m`, `1.5s`, `300ms`.
pub fn duration(text: &str) -> Option<TimeDelta> {
    let mut rest = text.strip_prefix('-').unwrap_or(text);
    let mut total = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        total += number
            * match &rest[..unit_end] {
                "ns" => 1e-9,
                "us" | "µs" | "μs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = &rest[unit_end..];
    }
    let duration = TimeDelta::from_std(std::time::Duration::try_from_secs_f64(total).ok()?).ok()?;
    Some(if text.starts_with('-') { -duration } else { duration })
}

/// How long ago, in words, as `docker ps` says it.
pub fn human(duration: TimeDelta) -> String {
    let seconds = duration.num_seconds().max(0);
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_in_time_have_four_forms() {
        let now = DateTime::from_timestamp(1_000_000, 0).unwrap();
        let check = |text: &str, seconds: i64, nanos: u32| {
            let time = point(text, now).unwrap().unwrap();
            assert_eq!(
                (time.timestamp(), time.timestamp_subsec_nanos()),
                (seconds, nanos),
                "{text}"
            );
        };
        check("1700000000", 1_700_000_000, 0);
        check("1700000000.000000005", 1_700_000_000, 5);
        check("1700000000.5", 1_700_000_000, 500_000_000);
        check("2020-01-01T00:00:00Z", 1_577_836_800, 0);
        check("10m", 999_400, 0);
        check("1h30m", 994_600, 0);
        assert_eq!(point("", now).unwrap(), None);
        check("0", 0, 0);
        assert!(point("yesterday", now).is_err());
    }

    #[test]
    fn ages_read_as_docker_says_them() {
        let table = [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (125, "2 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (86_400 * 3, "3 days"),
            (86_400 * 15, "2 weeks"),
            (86_400 * 90, "3 months"),
            (86_400 * 365 * 3, "3 years"),
        ];
        for (seconds, text) in table {
            assert_eq!(human(TimeDelta::seconds(seconds)), text);
        }
    }

    #[test]
    fn no_time_is_go_s_zero_time() {
        assert_eq!(rfc3339(None), "0001-01-01T00:00:00Z");
        let time = DateTime::from_timestamp(0, 5).unwrap();
        assert_eq!(rfc3339(Some(time)), "1970-01-01T00:00:00.000000005Z");
        let time = DateTime::from_timestamp(10, 500_000_000).unwrap();
        assert_eq!(rfc3339(Some(time)), "1970-01-01T00:00:10.5Z");
        assert_eq!(rfc3339(DateTime::from_timestamp(10, 0)), "1970-01-01T00:00:10Z");
    }
}
