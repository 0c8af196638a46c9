//! A TCP segment, made and taken apart by hand: any flags, any numbers.

use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{IpAddress, TcpOption, TcpPacket, TcpSeqNumber},
};
use std::{
    fmt::{self, Formatter},
    net::Ipv4Addr,
    ops::BitOr,
};

/// The flags of a segment (RFC 9293, section 3.1).
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Flags(u8);

impl Flags {
    pub const FIN: Self = Self(1);
    pub const SYN: Self = Self(2);
    pub const RST: Self = Self(4);
    pub const PSH: Self = Self(8);
    pub const ACK: Self = Self(16);

    /// Whether all of `other` are among these.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    const NAMED: [(Self, &str); 5] =
        [(Self::SYN, "SYN"), (Self::FIN, "FIN"), (Self::RST, "RST"), (Self::PSH, "PSH"), (Self::ACK, "ACK")];
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let names = Self::NAMED.iter().filter(|(flag, _)| self.has(*flag)).map(|(_, name)| *name);
        f.write_str(&names.collect::<Vec<_>>().join("+"))
    }
}

/// The options of a SYN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Maximum segment size, in bytes.
    pub mss: Option<u16>,
    /// Shift of every later window.
    pub window_scale: Option<u8>,
    pub sack_permitted: bool,
    /// Value and echo.
    pub timestamps: Option<(u32, u32)>,
}

impl Options {
    /// What Linux offers behind an MTU of 1500, without timestamps.
    pub const LINUX: Self = Self { mss: Some(1460), window_scale: Some(7), sack_permitted: true, timestamps: None };

    fn list(self) -> Vec<TcpOption<'static>> {
        let mut list = Vec::new();
        list.extend(self.mss.map(TcpOption::MaxSegmentSize));
        list.extend(self.window_scale.map(TcpOption::WindowScale));
        list.extend(self.sack_permitted.then_some(TcpOption::SackPermitted));
        list.extend(self.timestamps.map(|(tsval, tsecr)| TcpOption::TimeStamp { tsval, tsecr }));
        list
    }
}

/// One segment, with the ports and without the addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    pub from: u16,
    pub to: u16,
    pub seq: u32,
    /// Zero, and meaningless, without ACK.
    pub ack: u32,
    pub flags: Flags,
    /// As it stands in the header, not shifted.
    pub window: u16,
    pub options: Options,
    pub payload: Vec<u8>,
}

impl Segment {
    /// How much of the sequence space it takes.
    pub fn sequence_length(&self) -> u32 {
        let controls = u32::from(self.flags.has(Flags::SYN)) + u32::from(self.flags.has(Flags::FIN));
        u32::try_from(self.payload.len()).expect("a frame is at most 65,535 bytes") + controls
    }

    /// Its bytes, with a full checksum.
    pub fn emit(&self, from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
        let options = self.options.list();
        let header = (20 + options.iter().map(TcpOption::buffer_len).sum::<usize>()).next_multiple_of(4);
        let mut bytes = vec![0; header + self.payload.len()];
        let mut packet = TcpPacket::new_unchecked(&mut bytes[..]);
        packet.set_src_port(self.from);
        packet.set_dst_port(self.to);
        packet.set_seq_number(number(self.seq));
        packet.set_ack_number(number(self.ack));
        packet.set_header_len(u8::try_from(header).expect("options are few"));
        packet.set_syn(self.flags.has(Flags::SYN));
        packet.set_fin(self.flags.has(Flags::FIN));
        packet.set_rst(self.flags.has(Flags::RST));
        packet.set_psh(self.flags.has(Flags::PSH));
        packet.set_ack(self.flags.has(Flags::ACK));
        packet.set_window_len(self.window);
        let mut room = packet.options_mut();
        for option in options {
            room = option.emit(room);
        }
        // What is left of it is zero, which ends the list.
        packet.payload_mut().copy_from_slice(&self.payload);
        packet.fill_checksum(&from.into(), &to.into());
        bytes
    }

    /// Takes one apart; `None` if it is cut short or its checksum is wrong.
    pub fn parse(bytes: &[u8], from: Ipv4Addr, to: Ipv4Addr) -> Option<Self> {
        let packet = TcpPacket::new_checked(bytes).ok()?;
        let (from, to): (IpAddress, IpAddress) = (from.into(), to.into());
        let wrong = ChecksumCapabilities::default().tcp.rx() && !packet.verify_checksum(&from, &to);
        let flags = [
            (packet.fin(), Flags::FIN),
            (packet.syn(), Flags::SYN),
            (packet.rst(), Flags::RST),
            (packet.psh(), Flags::PSH),
            (packet.ack(), Flags::ACK),
        ];
        let mut options = Options::default();
        let mut rest = packet.options();
        while !rest.is_empty() {
            let (after, option) = TcpOption::parse(rest).ok()?;
            rest = after;
            match option {
                TcpOption::EndOfList => break,
                TcpOption::MaxSegmentSize(size) => options.mss = Some(size),
                TcpOption::WindowScale(shift) => options.window_scale = Some(shift),
                TcpOption::SackPermitted => options.sack_permitted = true,
                TcpOption::TimeStamp { tsval, tsecr } => options.timestamps = Some((tsval, tsecr)),
                TcpOption::NoOperation | TcpOption::SackRange(_) | TcpOption::Unknown { .. } => {}
            }
        }
        (!wrong).then(|| Self {
            from: packet.src_port(),
            to: packet.dst_port(),
            seq: of_number(packet.seq_number()),
            ack: of_number(packet.ack_number()),
            flags: flags.iter().filter(|(set, _)| *set).fold(Flags::default(), |all, (_, flag)| all | *flag),
            window: packet.window_len(),
            options,
            payload: packet.payload().to_vec(),
        })
    }
}

const fn number(number: u32) -> TcpSeqNumber {
    TcpSeqNumber(number.cast_signed())
}

const fn of_number(number: TcpSeqNumber) -> u32 {
    number.0.cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 2);
    const B: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    #[test]
    fn a_segment_reads_back_as_it_was_made() {
        let options = Options { timestamps: Some((7, 9)), ..Options::LINUX };
        let syn =
            Segment { from: 1, to: 2, seq: u32::MAX, flags: Flags::SYN, window: 3, options, ..Segment::default() };
        let data = Segment {
            ack: 5,
            flags: Flags::ACK | Flags::PSH | Flags::FIN,
            options: Options::default(),
            payload: b"abc".to_vec(),
            ..syn
        };
        for segment in [syn, data, Segment::default()] {
            assert_eq!(Segment::parse(&segment.emit(A, B), A, B), Some(segment));
        }
    }

    #[test]
    fn a_segment_with_a_wrong_checksum_is_none() {
        let mut bytes = Segment { payload: b"abc".to_vec(), ..Segment::default() }.emit(A, B);
        *bytes.last_mut().unwrap() ^= 1;
        assert_eq!(Segment::parse(&bytes, A, B), None);
    }

    #[test]
    fn flags_are_told_by_their_names() {
        assert_eq!(format!("{:?}", Flags::ACK | Flags::SYN), "SYN+ACK");
    }
}
