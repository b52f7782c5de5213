//! Sizes and times as people write and read them.

use super::error::CliError;

/// Parses a size such as `64m`, `1.5g` or `512`; units are powers of 1024 (go-units `RAMInBytes`).
pub(crate) fn bytes(text: &str) -> Result<i64, CliError> {
    let lower = text.trim().to_ascii_lowercase();
    let number = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = lower[number.len()..].trim_end_matches('b').trim_end_matches('i');
    let shift = match unit {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(CliError::new(format!("invalid size: '{text}'")).with_code(125)),
    };
    let value: f64 = number
        .trim()
        .parse()
        .map_err(|_| CliError::new(format!("invalid size: '{text}'")).with_code(125))?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "sizes beyond 2^53 bytes lose nothing that matters"
    )]
    Ok((value * (1_i64 << shift) as f64) as i64)
}

/// A size in decimal units with four significant digits (go-units `HumanSizeWithPrecision`).
pub(crate) fn human_size(size: i64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    #[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
    let mut value = size as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{}{}", significant(value, 3), UNITS[unit])
}

/// A size in binary units with four significant digits (go-units `BytesSize`).
pub(crate) fn bytes_size(size: f64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut value, mut unit) = (size, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{}{}", significant(value, 4), UNITS[unit])
}

/// A number with that many significant digits, without trailing zeros (Go's `%.3g`).
fn significant(value: f64, digits: usize) -> String {
    let whole = format!("{value:.0}").len();
    let text = format!("{value:.*}", digits.saturating_sub(whole));
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// A span of seconds in words (go-units `HumanDuration`).
pub(crate) fn human_duration(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match seconds {
        ..1 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".to_owned(),
        120..3600 if minutes < 60 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// A moment in the past, in words: `5 minutes ago`.
pub(crate) fn ago(unix: i64) -> String {
    format!("{} ago", human_duration(chrono::Utc::now().timestamp() - unix))
}

/// `--since` and `--until`: a duration before now, an RFC 3339 time, or Unix seconds; as Unix
/// seconds for the API.
pub(crate) fn timestamp(text: &str) -> Result<String, CliError> {
    if text.parse::<f64>().is_ok() {
        return Ok(text.to_owned());
    }
    if let Some(span) = go_duration(text) {
        let then = chrono::Utc::now() - chrono::Duration::nanoseconds(span);
        return Ok(unix(&then));
    }
    if let Ok(time) = chrono::DateTime::parse_from_rfc3339(text) {
        return Ok(unix(&time.to_utc()));
    }
    for format in ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M"] {
        if let Ok(time) = chrono::NaiveDateTime::parse_from_str(text, format) {
            return Ok(unix(&time.and_utc()));
        }
    }
    if let Ok(date) = chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return Ok(unix(&date.and_time(chrono::NaiveTime::MIN).and_utc()));
    }
    Err(CliError::new(format!(
        "`{text}` is not a time: use 10m, 2006-01-02T15:04:05Z or seconds since 1970"
    )))
}

fn unix(time: &chrono::DateTime<chrono::Utc>) -> String {
    format!("{}.{:09}", time.timestamp(), time.timestamp_subsec_nanos())
}

/// Parses a Go duration such as `1h15m30.5s`; in nanoseconds.
pub(crate) fn go_duration(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let value: f64 = rest[..digits].parse().ok()?;
        let unit_end = rest[digits..]
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .map_or(rest.len(), |at| digits + at);
        total += value
            * match &rest[digits..unit_end] {
                "ns" => 1.0,
                "us" | "µs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                _ => return None,
            };
        rest = &rest[unit_end..];
    }
    #[expect(clippy::cast_possible_truncation, reason = "durations of centuries are not asked for")]
    (!text.is_empty()).then_some(total as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_powers_of_1024() {
        for (text, expected) in [("512", 512), ("64m", 64 << 20), ("1.5g", 3 << 29), ("2KiB", 2048)]
        {
            assert_eq!(bytes(text).ok(), Some(expected), "{text}");
        }
        assert!(bytes("much").is_err());
    }

    #[test]
    fn sizes_are_shown_in_decimal_units() {
        let shown = [(0, "0B"), (999, "999B"), (1_980_000, "1.98MB"), (93_600_000, "93.6MB")];
        for (size, expected) in shown {
            assert_eq!(human_size(size), expected);
        }
    }

    #[test]
    fn durations_are_shown_in_words() {
        let shown = [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (61, "About a minute"),
            (150, "2 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (86400 * 3, "3 days"),
            (86400 * 21, "3 weeks"),
        ];
        for (seconds, expected) in shown {
            assert_eq!(human_duration(seconds), expected);
        }
    }

    #[test]
    fn go_durations_are_read() {
        assert_eq!(go_duration("1m30s"), Some(90_000_000_000));
        assert_eq!(go_duration("250ms"), Some(250_000_000));
        assert_eq!(go_duration("soon"), None);
        assert_eq!(go_duration(""), None);
    }
}
