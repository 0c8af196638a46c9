//! Which bytes of a datagram have arrived.

/// Disjoint spans in ascending order that do not touch each other, each a `start..end` of bytes.
#[derive(Debug, Default)]
pub(super) struct Spans(Vec<(u16, u16)>);

/// How a span that arrives lies to those that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// All of it is new; it has been added.
    New,
    /// All of it had arrived before.
    Known,
    /// Part of it had arrived before.
    Overlap,
}

impl Spans {
    /// Adds `start..end`, not empty, unless some of it is there already.
    pub(super) fn add(&mut self, start: u16, end: u16) -> Arrival {
        // The first span that ends at or behind `start`: all before it are of no concern.
        let at = self.0.partition_point(|span| span.1 < start);
        let touches_left = self.0.get(at).is_some_and(|span| span.1 == start);
        let next = at + usize::from(touches_left);
        let (next_start, next_end) = self.0.get(next).copied().unwrap_or((u16::MAX, u16::MAX));
        if next_start <= start && end <= next_end && next < self.0.len() {
            return Arrival::Known;
        }
        if next_start < end && next < self.0.len() {
            return Arrival::Overlap;
        }
        let touches_right = next < self.0.len() && next_start == end;
        match (touches_left, touches_right) {
            (true, true) => {
                self.0[at].1 = next_end;
                self.0.remove(next);
            }
            (true, false) => self.0[at].1 = end,
            (false, true) => self.0[next].0 = start,
            (false, false) => self.0.insert(at, (start, end)),
        }
        Arrival::New
    }

    /// Whether `0..end` is there and nothing else.
    pub(super) fn are_exactly(&self, end: u16) -> bool {
        self.0 == [(0, end)]
    }

    /// One behind the last byte that has arrived.
    pub(super) fn end(&self) -> u16 {
        self.0.last().map_or(0, |span| span.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    quickcheck! {
        fn spans_know_what_a_bitmap_knows(arrivals: Vec<(u8, u8)>) -> bool {
            let mut spans = Spans::default();
            let mut bitmap = [false; 512];
            arrivals.into_iter().all(|(start, len)| {
                let (start, end) = (usize::from(start) / 4, usize::from(start) / 4 + usize::from(len) / 16 + 1);
                let known = bitmap[start..end].iter().filter(|bit| **bit).count();
                let expected = match known {
                    0 => Arrival::New,
                    n if n == end - start => Arrival::Known,
                    _ => Arrival::Overlap,
                };
                if expected == Arrival::New {
                    bitmap[start..end].fill(true);
                }
                let arrival = spans.add(start as u16, end as u16);
                let last = bitmap.iter().rposition(|bit| *bit).map_or(0, |at| at + 1);
                let first_gap = bitmap.iter().position(|bit| !bit).expect("longer than any span");
                arrival == expected
                    && usize::from(spans.end()) == last
                    && spans.are_exactly(last as u16) == (last > 0 && first_gap == last)
                    && spans.0.windows(2).all(|two| two[0].1 < two[1].0)
            })
        }
    }
}
