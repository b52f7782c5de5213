//! The time as Docker's logs have it, without a library for time zones.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// How exactly a time is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Precision {
    Second,
    Micro,
}

/// A moment, RFC 3339 in UTC.
pub(super) fn at(time: SystemTime, precision: Precision) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut text = format(since.as_secs(), 0);
    if precision == Precision::Micro {
        text.pop();
        // Writing to a string does not fail.
        let _ = write!(text, ".{:06}Z", since.subsec_micros());
    }
    text
}

/// A moment as the older syslog has it, in UTC: `Jan  2 15:04:05`.
pub(super) fn stamp(time: SystemTime) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (_, month, day) = date(seconds / 86_400);
    let month = MONTHS[usize::try_from(month - 1).unwrap_or_default() % 12];
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{month} {day:>2} {hour:02}:{minute:02}:{second:02}")
}

/// Now, RFC 3339 in UTC with nanoseconds, trailing zeros left out as Go does.
pub(super) fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format(since.as_secs(), since.subsec_nanos())
}

fn format(seconds: u64, nanoseconds: u32) -> String {
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let mut text = String::with_capacity(30);
    // Writing to a string does not fail.
    let _ = write!(text, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    if nanoseconds != 0 {
        let digits = format!(".{nanoseconds:09}");
        text.push_str(digits.trim_end_matches('0'));
    }
    text.push('Z');
    text
}

/// Year, month and day of a number of days since 1970 (Howard Hinnant's algorithm).
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::format;

    #[test]
    fn times_are_written_as_go_writes_them() {
        assert_eq!(format(0, 0), "1970-01-01T00:00:00Z");
        assert_eq!(format(951_782_400, 120_000_000), "2000-02-29T00:00:00.12Z");
        assert_eq!(format(1_735_689_599, 999_999_999), "2024-12-31T23:59:59.999999999Z");
    }
}
