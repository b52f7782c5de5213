//! Signals by name and number.

use nix::sys::signal::Signal;

use engine_error::{Error, Result};

/// The first real-time signal, as the C libraries number them.
const RTMIN: i32 = 34;

/// The last real-time signal.
const RTMAX: i32 = 64;

/// The number of a signal given as `SIGTERM`, `term`, `15`, `RTMIN+3` or `RTMAX-1`.
pub(crate) fn parse(text: &str) -> Result<i32> {
    let wrong = || Error::invalid(format!("invalid signal: {text}"));
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=RTMAX).contains(&number) { Ok(number) } else { Err(wrong()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |rest: &str| match rest {
        "" => Some(0),
        rest => rest[1..].parse::<i32>().ok().filter(|_| rest.starts_with(['+', '-'])),
    };
    if let Some(rest) = name.strip_prefix("RTMIN") {
        let number = offset(rest).map(|offset| RTMIN + offset);
        return number.filter(|number| (RTMIN..=RTMAX).contains(number)).ok_or_else(wrong);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        let number = offset(rest).map(|offset| RTMAX - offset);
        return number.filter(|number| (RTMIN..=RTMAX).contains(number)).ok_or_else(wrong);
    }
    format!("SIG{name}").parse::<Signal>().map(|signal| signal as i32).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_numbers_and_real_time_signals_are_understood() {
        let table = [("SIGTERM", 15), ("kill", 9), ("9", 9), ("Winch", 28), ("RTMIN+3", 37)];
        for (text, number) in table {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
        assert_eq!(parse("SIGRTMAX-1").unwrap(), 63);
    }

    #[test]
    fn what_is_no_signal_is_refused_by_name() {
        for text in ["", "0", "65", "-1", "SIGNOPE", "RTMIN+99", "RTMIN3"] {
            assert_eq!(parse(text).unwrap_err().to_string(), format!("invalid signal: {text}"));
        }
    }
}
