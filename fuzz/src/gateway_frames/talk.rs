//! What a guest knows of a connection, so that what it says is at sequence numbers which the gateway takes seriously.

use std::collections::BTreeMap;

pub(super) const SYN: u8 = 0x02;
pub(super) const ACK: u8 = 0x10;
const FIN: u8 = 0x01;

/// Both ends of a connection: the guest's address and port, and the other end's, as they are in a packet.
pub(super) type Key = (Vec<u8>, Vec<u8>);

/// One connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Talk {
    /// The guest's next sequence number.
    pub(super) next: u32,
    /// What it has acknowledged.
    acknowledged: u32,
    /// Where what it was sent ends.
    sent: u32,
    /// Where all ends that it could be sent: all that the world has given, and its end.
    all: u32,
    finished: bool,
}

impl Talk {
    /// The number that a segment acknowledges: a base in the lower two bits, and how far from it in the others.
    pub(super) fn acknowledge(&mut self, how: u8) -> u32 {
        let base = [self.acknowledged, self.sent, self.all, self.all][usize::from(how & 3)];
        let acknowledgement = base.wrapping_add((i32::from(how.cast_signed()) >> 2) as u32);
        if acknowledgement.wrapping_sub(self.acknowledged).cast_signed() > 0 {
            self.acknowledged = acknowledgement;
        }
        acknowledgement
    }

    /// The guest has said something.
    pub(super) const fn said(&mut self, sequence: u32, flags: u8, len: u32) {
        let end = sequence.wrapping_add(len + (flags & SYN != 0) as u32 + (flags & FIN != 0) as u32);
        if flags & (SYN | ACK) == SYN || end.wrapping_sub(self.next).cast_signed() > 0 {
            self.next = end;
        }
    }

    /// The world has given bytes.
    pub(super) const fn given(&mut self, n: usize) {
        self.all = self.all.wrapping_add(n as u32);
    }

    /// The world has closed its half.
    pub(super) const fn finished(&mut self) {
        self.all = self.all.wrapping_add(!self.finished as u32);
        self.finished = true;
    }
}

/// All of them. Bounds: those that the fuzzer can name, a few hundred.
#[derive(Debug, Default)]
pub(super) struct Talks(BTreeMap<Key, Talk>);

impl Talks {
    pub(super) fn of(&mut self, key: Key) -> &mut Talk {
        self.0.entry(key).or_insert(Talk { next: 1000, acknowledged: 0, sent: 0, all: 0, finished: false })
    }

    /// The gateway has sent a segment to a guest.
    pub(super) fn heard(&mut self, key: Key, segment: &[u8]) {
        let number = |at: usize| u32::from_be_bytes([segment[at], segment[at + 1], segment[at + 2], segment[at + 3]]);
        let flags = segment[13];
        let len = (segment.len() - usize::from(segment[12] >> 4) * 4) as u32;
        let end = number(4).wrapping_add(len + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0));
        let talk = self.of(key);
        if flags & SYN != 0 {
            *talk = Talk { acknowledged: end, sent: end, all: end, finished: false, ..*talk };
        } else if end.wrapping_sub(talk.sent).cast_signed() > 0 {
            talk.sent = end;
        }
    }
}
