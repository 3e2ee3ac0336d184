//! How things are shown: stdout that survives a closed pipe, numbers for people, times for machines, progress bars.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cli::error::CliError;
use crate::content::code::Code;

/// Writes to stdout as it is, and flushes. A reader that went away wants no more, which is no fault of the command.
///
/// # Errors
/// [`CliError`] where stdout cannot be written for another reason, such as a full disk behind it.
pub fn text(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    let outcome = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let code = if error.kind() == io::ErrorKind::StorageFull { Code::DiskFull } else { Code::Io };
            Err(CliError::new(code, "cannot write the output").culprit("stdout").because(error))
        }
        _ => Ok(()),
    }
}

/// Writes one line to stdout; control characters in it are shown escaped.
///
/// # Errors
/// As [`text`].
pub fn line(line: &str) -> Result<(), CliError> {
    text(&format!("{}\n", plain(line)))
}

/// Writes one JSON value to stdout, on one line.
///
/// # Errors
/// As [`text`].
pub fn json(value: &impl Serialize) -> Result<(), CliError> {
    let line = serde_json::to_string(value);
    let line = line.map_err(|error| CliError::new(Code::Io, "the output has no JSON form").because(error))?;
    text(&format!("{line}\n"))
}

/// Writes a note to stderr, which may be gone.
pub fn note(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", plain(line));
}

/// Whether stderr shows colours: a terminal, and nobody said no (`NO_COLOR`).
pub fn stderr_is_colourful() -> bool {
    io::stderr().is_terminal() && wants_colour()
}

/// Whether stdout shows colours.
pub fn stdout_is_colourful() -> bool {
    io::stdout().is_terminal() && wants_colour()
}

fn wants_colour() -> bool {
    let set = |variable| std::env::var_os(variable).is_some_and(|value| !value.is_empty());
    !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|terminal| terminal != "dumb")
}

/// What clap says, coloured or not.
pub fn rendered(answer: &clap::Error, colour: bool) -> String {
    let text = answer.render();
    if colour { text.ansi().to_string() } else { text.to_string() }
}

/// A text with what could control a terminal, or reorder what it shows, written as escapes.
pub fn plain(text: &str) -> Cow<'_, str> {
    let hostile = |c: char| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    if !text.contains(hostile) {
        return Cow::Borrowed(text);
    }
    let escaped = text.chars().map(|c| if hostile(c) { c.escape_default().to_string() } else { c.to_string() });
    Cow::Owned(escaped.collect())
}

/// Bytes for people: `1.5 GiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit = "B";
    let (mut whole, mut shift) = (count, 0u32);
    for larger in UNITS {
        if whole < 1024 {
            break;
        }
        (whole, shift, unit) = (whole >> 10, shift.saturating_add(10), larger);
    }
    if shift == 0 {
        return format!("{count} B");
    }
    let tenths = (u128::from(count) * 10) >> shift;
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

/// Bytes a second for people; of no time at all, unknown.
pub fn rate(count: u64, time: Duration) -> String {
    let nanos = time.as_nanos();
    if nanos == 0 {
        return "- B/s".to_owned();
    }
    let rate = u128::from(count).saturating_mul(1_000_000_000) / nanos;
    format!("{}/s", bytes(u64::try_from(rate).unwrap_or(u64::MAX)))
}

/// A duration for people: `1 h 02 min`, `3 min 05 s`, `1.4 s`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds}.{} s", time.subsec_millis() / 100),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// Seconds since the epoch as ISO 8601; past the calendar, the bare number.
pub fn timestamp(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_else(|| seconds.to_string())
}

/// Reads an RFC 3339 time as whole seconds since the epoch; what is before 1970 is no time of ours.
///
/// # Errors
/// What is expected, for clap.
pub fn parse_timestamp(text: &str) -> Result<u64, String> {
    let time = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| "expected a time such as 2031-05-01T00:00:00Z")?;
    u64::try_from(time.unix_timestamp()).ok().filter(|seconds| *seconds > 0).ok_or("it lies before 1970".to_owned())
}

/// A time that somebody named, as it was named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deadline {
    /// After so long.
    In(Duration),
    /// At a time, in seconds since the epoch.
    At(u64),
}

impl Deadline {
    /// How long it is from now to then; `None` where it is past.
    pub fn from_now(self) -> Option<Duration> {
        match self {
            Self::In(duration) => Some(duration),
            Self::At(seconds) => Duration::from_secs(seconds).checked_sub(since_epoch()),
        }
    }
}

/// Reads an RFC 3339 time, or a duration in days, hours, minutes and seconds such as `2h30m`.
///
/// # Errors
/// What is expected, for clap.
pub fn parse_deadline(text: &str) -> Result<Deadline, String> {
    if text.contains(':') {
        return parse_timestamp(text).map(Deadline::At);
    }
    let expected = || "expected a duration such as 90s or 2h30m, or a time such as 2031-05-01T00:00:00Z".to_owned();
    let (mut seconds, mut digits) = (0u64, String::new());
    for letter in text.chars() {
        let unit = match letter {
            '0'..='9' => {
                digits.push(letter);
                continue;
            }
            'd' => 86_400,
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return Err(expected()),
        };
        let count: u32 = std::mem::take(&mut digits).parse().map_err(|_| expected())?;
        seconds = seconds.saturating_add(u64::from(count).saturating_mul(unit));
    }
    if !digits.is_empty() || seconds == 0 {
        return Err(expected());
    }
    Ok(Deadline::In(Duration::from_secs(seconds)))
}

/// Seconds since the epoch by this machine's clock; 0 where it stands before 1970.
pub fn now() -> u64 {
    since_epoch().as_secs()
}

/// Milliseconds since the epoch by this machine's clock.
pub fn now_milliseconds() -> u64 {
    u64::try_from(since_epoch().as_millis()).unwrap_or(u64::MAX)
}

fn since_epoch() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}

/// A progress bar over bytes, on stderr; hidden where that is no terminal, or `quiet`.
pub fn progress(total: u64, label: &'static str, quiet: bool) -> ProgressBar {
    let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(Some(total), target);
    let form = "{prefix} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
    if let Ok(style) = ProgressStyle::with_template(form) {
        bar.set_style(style);
    }
    bar.with_prefix(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_times_or_durations() {
        let within = |seconds| Ok(Deadline::In(Duration::from_secs(seconds)));
        assert_eq!(parse_deadline("90s"), within(90));
        assert_eq!(parse_deadline("2h30m"), within(9000));
        assert_eq!(parse_deadline("1d"), within(86_400));
        assert_eq!(parse_deadline("1970-01-01T00:01:00Z"), Ok(Deadline::At(60)));
        for wrong in ["", "5", "0s", "h", "5x", "-5s", "99999999999s", "5 s", "10:00"] {
            assert!(parse_deadline(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Deadline::At(60).from_now(), None);
    }

    #[test]
    fn numbers_read_well() {
        for (count, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1 << 30, "1.0 GiB"),
            ((1 << 30) - 1, "1023.9 MiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(bytes(count), shown);
        }
        assert_eq!(rate(1 << 20, Duration::from_millis(500)), "2.0 MiB/s");
        assert_eq!(rate(1, Duration::ZERO), "- B/s");
        assert_eq!(rate(u64::MAX, Duration::from_nanos(1)), "15.9 EiB/s");
        for (seconds, shown) in [(1.45, "1.4 s"), (65.0, "1 min 05 s"), (3720.0, "1 h 02 min")] {
            assert_eq!(duration(Duration::from_secs_f64(seconds)), shown);
        }
    }

    #[test]
    fn times_read_back() {
        assert_eq!(timestamp(1_700_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(parse_timestamp("2023-11-14T22:13:20Z"), Ok(1_700_000_000));
        assert_eq!(parse_timestamp("2023-11-15T00:13:20+02:00"), Ok(1_700_000_000));
        assert_eq!(timestamp(u64::MAX), u64::MAX.to_string());
        for text in ["", "tomorrow", "2023-11-14", "1969-01-01T00:00:00Z", "2023-13-01T00:00:00Z"] {
            assert!(parse_timestamp(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_controls_a_terminal_is_shown_instead() {
        assert_eq!(plain("naïve file"), "naïve file");
        assert_eq!(plain("a\x1b[2Jb\nc\u{202e}d\u{9b}"), "a\\u{1b}[2Jb\\nc\\u{202e}d\\u{9b}");
    }
}
