//! At most one log line per second for each cause, with the number of times it stands for: an upstream that is away must
//! not fill the disk.

use nitrotap_core::time::Instant;
use std::{cell::RefCell, time::Duration};

/// Shortest time between two lines of one cause.
const EVERY: Duration = Duration::from_secs(1);

/// Causes told apart at once; the rest share one entry.
const CAUSES: usize = 16;

/// What is logged when the entries are used up.
const OTHERS: &str = "several causes";

/// Recent causes. Driven by those who log, and by the housekeeper, which tells what was held back.
#[derive(Default)]
pub(crate) struct Lines(RefCell<Vec<Entry>>);

struct Entry {
    what: What,
    cause: String,
    /// When it was last logged.
    at: Instant,
    /// Times since then.
    held_back: u64,
}

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A request was answered with this status, because of the upstream.
    Answer(u16),
    /// A response ended before its end.
    BrokeOff,
    /// A dial failed in an unusual way.
    Dial,
}

/// A line to log now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) what: What,
    pub(crate) cause: String,
    /// How often it happened since the last line.
    pub(crate) count: u64,
}

impl Lines {
    /// Something happened: the line to log, unless one was logged a moment ago.
    pub(crate) fn happened(&self, now: Instant, what: What, cause: &str) -> Option<Line> {
        let mut entries = self.0.borrow_mut();
        entries.retain(|entry| entry.held_back > 0 || now.since(entry.at) < EVERY);
        let find = |entries: &[Entry], cause: &str| entries.iter().position(|e| e.what == what && e.cause == cause);
        let cause = if entries.len() < CAUSES || find(&entries, cause).is_some() { cause } else { OTHERS };
        match find(&entries, cause) {
            Some(index) => {
                entries[index].held_back += 1;
                entries[index].due(now)
            }
            None => {
                if entries.len() <= CAUSES {
                    entries.push(Entry { what, cause: cause.into(), at: now, held_back: 0 });
                    return Some(Line { what, cause: cause.into(), count: 1 });
                }
                // Others that are about something else: the one entry of the rest counts them.
                let rest = entries.last_mut()?;
                rest.held_back += 1;
                rest.due(now)
            }
        }
    }

    /// The lines for what was held back long enough.
    pub(crate) fn due(&self, now: Instant) -> Vec<Line> {
        self.0.borrow_mut().iter_mut().filter_map(|entry| entry.due(now)).collect()
    }

    /// When [`Self::due`] has something to tell.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.borrow().iter().filter(|entry| entry.held_back > 0).map(|entry| entry.at + EVERY).min()
    }
}

impl Entry {
    fn due(&mut self, now: Instant) -> Option<Line> {
        if self.held_back == 0 || now.since(self.at) < EVERY {
            return None;
        }
        self.at = now;
        Some(Line { what: self.what, cause: self.cause.clone(), count: std::mem::take(&mut self.held_back) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    #[test]
    fn the_first_of_a_cause_is_told_at_once_and_the_rest_once_a_second_with_their_number() {
        let lines = Lines::default();
        assert_eq!(
            lines.happened(at(0), What::Answer(502), "refused"),
            Some(Line { what: What::Answer(502), cause: "refused".into(), count: 1 })
        );
        assert_eq!(lines.next(), None);
        for n in 1..500 {
            assert_eq!(lines.happened(at(n), What::Answer(502), "refused"), None);
        }
        assert!(lines.happened(at(500), What::Answer(504), "late").is_some(), "another cause");
        assert_eq!((lines.next(), lines.due(at(999))), (Some(at(1000)), vec![]));
        assert_eq!(lines.due(at(1000)), [Line { what: What::Answer(502), cause: "refused".into(), count: 499 }]);
        assert_eq!((lines.next(), lines.due(at(5000))), (None, vec![]));
        assert_eq!(lines.happened(at(5000), What::Answer(502), "refused").unwrap().count, 1);
    }

    #[test]
    fn ever_new_causes_take_no_more_memory_and_no_more_lines() {
        let lines = Lines::default();
        let told = (0..1000)
            .filter_map(|n| lines.happened(at(n / 10), What::Answer(502 + (n % 2) as u16), &n.to_string()))
            .count();
        assert!(told <= CAUSES + 1, "{told}");
        assert!(lines.0.borrow().len() <= CAUSES + 1);
        let held_back: u64 = lines.due(at(2000)).iter().map(|line| line.count).sum();
        assert_eq!(held_back + told as u64, 1000, "none is lost");
    }
}
