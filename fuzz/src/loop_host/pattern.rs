//! Bytes that tell whose they are and where they belong.
//!
//! Each direction of a connection, and each datagram, begins with two bytes that name who sent it. What follows is told by
//! the name and the offset, so that one that is lost, doubled, out of place or another's is seen at once.

/// No power of two, so that blocks which change places are seen.
const PERIOD: usize = 251;
/// Bytes that are copied or compared at once.
const BLOCK: usize = 16 << 10;

static TABLE: [u8; PERIOD + BLOCK] = {
    let mut table = [0; PERIOD + BLOCK];
    let mut i = 0;
    while i < table.len() {
        table[i] = (i % PERIOD) as u8;
        i += 1;
    }
    table
};

/// What `name` sends from `offset` on, in pieces.
fn pieces(name: u16, offset: usize, len: usize, mut each: impl FnMut(usize, &[u8])) {
    let mut at = 0;
    while at < len {
        let from = offset + at;
        let n = if let Some(byte) = name.to_be_bytes().get(from) {
            each(at, &[*byte]);
            1
        } else {
            let start = (from + usize::from(name) * 37) % PERIOD;
            let n = (len - at).min(BLOCK);
            each(at, &TABLE[start..start + n]);
            n
        };
        at += n;
    }
}

/// Fills `space` with what `name` sends from `offset` on.
pub(super) fn fill(name: u16, offset: usize, space: &mut [u8]) {
    pieces(name, offset, space.len(), |at, piece| space[at..at + piece.len()].copy_from_slice(piece));
}

/// What `name` sends first.
pub(super) fn make(name: u16, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fill(name, 0, &mut bytes);
    bytes
}

/// Whether `bytes` are what `name` sends from `offset` on.
pub(super) fn is(name: u16, offset: usize, bytes: &[u8]) -> bool {
    let mut same = true;
    pieces(name, offset, bytes.len(), |at, piece| same &= bytes[at..at + piece.len()] == *piece);
    same
}

/// One direction of a connection as it comes in: who sends, and how much of it has come.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    first: Option<u8>,
    /// Who it is, once two bytes have told or it was known before.
    pub(super) name: Option<u16>,
    /// Bytes so far.
    pub(super) got: usize,
}

impl Incoming {
    pub(super) fn take(&mut self, mut bytes: &[u8]) {
        while let (None, [byte, rest @ ..]) = (self.name, bytes) {
            match self.first {
                None => self.first = Some(*byte),
                Some(first) => self.name = Some(u16::from_be_bytes([first, *byte])),
            }
            (self.got, bytes) = (self.got + 1, rest);
        }
        if let Some(name) = self.name {
            assert!(is(name, self.got, bytes), "{} bytes at {} are not what {name} sent", bytes.len(), self.got);
        }
        self.got += bytes.len();
    }
}
