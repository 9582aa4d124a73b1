//! Prints the engine's log, one line for each record on stderr.

use std::ffi::OsStr;
use std::fmt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::exit::warn;
use crate::json;

/// Starts logging: warnings, more with each `-v`, or what `DLOCK_LOG` selects.
pub(crate) fn start(verbose: u8) {
    let level = match verbose {
        0 => Level::WARN,
        1 => Level::INFO,
        2 => Level::DEBUG,
        _ => Level::TRACE,
    };
    // `run` reports a lost lock itself.
    let losses = if verbose == 0 { Level::ERROR } else { level };
    let default = || Targets::new().with_target("dlock", level).with_target("dlock::session", losses);
    let chosen = std::env::var_os("DLOCK_LOG").filter(|text| !text.is_empty());
    let filter = match chosen.map(|text| read(&text)) {
        Some(Some(filter)) => filter,
        Some(None) => {
            warn("DLOCK_LOG cannot be read and is ignored; write for instance `dlock=debug`");
            default()
        }
        None => default(),
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .log_internal_errors(false)
        .event_format(LogLine);
    tracing_subscriber::registry().with(lines).with(filter).init();
}

/// Reads levels, and targets with levels; `None` if a word is neither. The parser would take such a word for a target, which silences dlock.
fn read(text: &OsStr) -> Option<Targets> {
    let text = text.to_str()?;
    let means_something = |part: &str| part.contains('=') || part.starts_with("dlock") || part.parse::<LevelFilter>().is_ok();
    text.split(',').map(str::trim).all(means_something).then(|| text.parse().ok())?
}

/// `dlock: message field=value`, with the level unless it is a warning.
struct LogLine;

impl<S, N> FormatEvent<S, N> for LogLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        if json::wanted() {
            let mut fields = json::Fields::default();
            event.record(&mut fields);
            return writer.write_str(&fields.line(*event.metadata().level()));
        }
        write!(writer, "dlock: ")?;
        let level = *event.metadata().level();
        if level != Level::WARN {
            write!(writer, "{}: ", level.as_str().to_ascii_lowercase())?;
        }
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}
