//! What strangers made, in a line of the log: nothing in it may end the line, begin another one, or steer a terminal.
//!
//! Names, paths, addresses and errors of guests reach the log through fields of events. In JSON they are escaped anyway.

use std::fmt::{self, Write};
use tracing::field::Field;
use tracing_subscriber::{
    field::{MakeExt, MakeVisitor, RecordFields, VisitOutput},
    fmt::{
        FormatFields,
        format::{Writer, debug_fn},
    },
};

/// How the fields of an event are written.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Escaped;

impl<'w> FormatFields<'w> for Escaped {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut visitor = debug_fn(write_field).delimited(" ").make_visitor(writer);
        fields.record(&mut visitor);
        visitor.finish()
    }
}

fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    let name = field.name();
    if name != "message" {
        let name = name.strip_prefix("r#").unwrap_or(name);
        if writer.has_ansi_escapes() {
            write!(writer, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m")?;
        } else {
            write!(writer, "{name}=")?;
        }
    }
    write!(Escape(writer), "{value:?}")
}

/// Writes text on as it is, but for what is no visible part of a line.
pub(crate) struct Escape<W>(pub(crate) W);

impl<W: Write> Write for Escape<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut plain = text;
        while let Some(at) = plain.find(is_unsafe) {
            let (before, rest) = plain.split_at(at);
            self.0.write_str(before)?;
            let mut chars = rest.chars();
            if let Some(c) = chars.next() {
                write!(self.0, "{}", c.escape_default())?;
            }
            plain = chars.as_str();
        }
        self.0.write_str(plain)
    }
}

/// Control characters, what some viewers take for the end of a line, and what turns the direction of writing.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io,
        sync::{Arc, Mutex, PoisonError},
    };

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log(event: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .fmt_fields(Escaped)
            .with_target(false)
            .with_ansi(false)
            .without_time()
            .finish();
        tracing::subscriber::with_default(subscriber, event);
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_field_cannot_end_its_line_nor_steer_a_terminal() {
        let path = "/run/x\n2026-11-29T00:00:00.000000Z ERROR forged\r\u{1b}[2J\u{9b}\u{2028}\u{202e}ü";
        let line = log(|| tracing::info!(local = %path, quoted = path, count = 3, "a port \"is\" published"));
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        assert!(!line.trim_end_matches('\n').contains(is_unsafe), "{line}");
        let escaped = r"/run/x\n2026-11-29T00:00:00.000000Z ERROR forged\r\u{1b}[2J\u{9b}\u{2028}\u{202e}ü";
        assert!(
            line.starts_with(&format!(" INFO a port \"is\" published local={escaped} quoted=\"/run/x\\n")),
            "{line}"
        );
        assert!(line.ends_with(" count=3\n"), "{line}");
    }

    #[test]
    fn a_message_cannot_either() {
        let name = "evil\nERROR forged";
        assert_eq!(log(|| tracing::warn!("no such name: {name}")), " WARN no such name: evil\\nERROR forged\n");
    }
}
