//! Logs to stderr: how much by `-v`, `-q` and `PIECEWORK_LOG`, with control characters of strangers escaped.

use std::io::{self, Write};

use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::cli::GlobalArguments;
use crate::cli::error::CliError;
use crate::cli::output;
use crate::content::code::Code;

/// What is logged, as `warn` or `piecework::swarm=trace,libp2p=info`; stronger than the flags.
pub const VARIABLE: &str = "PIECEWORK_LOG";

/// Starts logging for the whole process.
///
/// # Errors
/// [`Code::BadConfig`] for a [`VARIABLE`] that does not parse.
pub fn start(arguments: &GlobalArguments) -> Result<(), CliError> {
    let targets = match std::env::var(VARIABLE) {
        Ok(text) if !text.is_empty() => text.parse::<Targets>().map_err(|fault| {
            CliError::new(Code::BadConfig, format!("{VARIABLE} is {text:?}: {fault}"))
                .culprit(VARIABLE)
                .remedy("write a level such as `debug`, or targets such as `piecework::swarm=trace,warn`")
        })?,
        _ => by_flags(arguments),
    };
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(|| Plain);
    // A second start in one process, as in tests, keeps the first.
    let _ = tracing_subscriber::registry().with(lines).with(targets).try_init();
    Ok(())
}

/// Our own words by the flags; those of libraries only where they warn, until everything is asked for.
fn by_flags(arguments: &GlobalArguments) -> Targets {
    let ours = match (arguments.quiet, arguments.verbose) {
        (true, _) => Level::ERROR,
        (false, 0) => Level::WARN,
        (false, 1) => Level::INFO,
        (false, 2) => Level::DEBUG,
        (false, _) => Level::TRACE,
    };
    let theirs = match arguments.verbose {
        0 => LevelFilter::ERROR,
        1 | 2 => LevelFilter::WARN,
        _ => LevelFilter::DEBUG,
    };
    Targets::new().with_default(theirs).with_target("piecework", ours)
}

/// Stderr, with everything but the line's end made harmless; each event arrives as one buffer.
struct Plain;

impl Write for Plain {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        io::stderr().lock().write_all(escaped(buffer).as_bytes())?;
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}

fn escaped(buffer: &[u8]) -> String {
    let text = String::from_utf8_lossy(buffer);
    match text.strip_suffix('\n') {
        Some(line) => format!("{}\n", output::plain(line)),
        None => output::plain(&text).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_stays_one_line_without_commands_to_the_terminal() {
        assert_eq!(escaped(b"peer said \x1b[2J\nINFO forged\n"), "peer said \\u{1b}[2J\\nINFO forged\n");
        assert_eq!(escaped(b"\xff\n"), "\u{fffd}\n");
    }
}
