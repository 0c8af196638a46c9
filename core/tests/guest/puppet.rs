//! A guest without a TCP of its own: it says what a script wants, at sequence numbers that the gateway takes seriously.

use nitrotap_core::{
    frame::Framing,
    gateway::{Config, FlowId, Gateway, Handled, Output, PortId, TenantLimits},
    offload::checksum,
    time::Instant,
};
use std::{net::SocketAddr, time::Duration};

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const GATEWAY_MAC: [u8; 6] = [0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xdd];
const WORLD: [u8; 4] = [203, 0, 113, 9];
const GUEST: [u8; 4] = [192, 168, 127, 2];
const PREFIX: u128 = 0xfd00_0001 << 96;
const WORLD6: u128 = 0x2001_0db8 << 96 | 9;

/// How much a segment acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Upto {
    /// What it did before.
    Before,
    /// One byte more.
    OneMore,
    /// All that was sent, an end included.
    Sent,
    /// All that the world has given and its end, sent or not.
    Given,
    /// A byte more than there can be.
    Beyond,
}

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// The world gives bytes.
    Give(usize),
    /// The world takes all that there is.
    Take,
    /// The world closes its half.
    Finish,
    /// The guest sends a segment: flags, what it acknowledges, its window, bytes of payload.
    Say(u8, Upto, u16, usize),
    /// The same from one number too low, as probes and questions for signs of life are.
    Ask(u16),
    /// The link goes.
    Unlink,
    /// Another one comes, and the guest is heard of.
    Link,
    /// Time passes, in milliseconds.
    Wait(u64),
}

/// What it came to: of one thing, or in a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Toll {
    /// Frames to the guest, seen by it or lost.
    pub(crate) frames: u64,
    /// Times that the driver was called back.
    pub(crate) wakes: u64,
}

/// A gateway with one guest, and one connection at a time.
pub(crate) struct Puppet {
    pub(crate) gateway: Gateway,
    pub(crate) now: Instant,
    pub(crate) flow: Option<FlowId>,
    v6: bool,
    mss: u16,
    link: Option<PortId>,
    /// The guest's port of the last connection that it opened.
    last_port: u16,
    /// Ports: the guest's, and the other end's.
    ports: (u16, u16),
    /// The guest's next sequence number.
    next: u32,
    /// What it has acknowledged.
    acknowledged: u32,
    /// Where what it was sent ends.
    sent: u32,
    /// Where what it could be sent begins.
    first: u32,
    /// Where all that ends.
    given: u32,
    finished: bool,
    toll: Toll,
}

impl Puppet {
    pub(crate) fn new(v6: bool, mss: u16) -> Self {
        let subnet6 = v6.then(|| "fd00:1::/64".parse().unwrap());
        let tenant = TenantLimits { half_open: 8192, ..Config::default().tenant };
        let gateway = Gateway::new(Config { seed: 5, subnet6, tenant, ..Config::default() }).unwrap();
        Self {
            gateway,
            now: Instant::from_millis(1000),
            flow: None,
            v6,
            mss,
            link: None,
            last_port: 1000,
            ports: (1000, 80),
            next: 0,
            acknowledged: 0,
            sent: 0,
            first: 0,
            given: 0,
            finished: false,
            toll: Toll::default(),
        }
    }

    /// The guest asks for a connection, which the world has yet to answer.
    pub(crate) fn dial(&mut self, window: u16) -> FlowId {
        self.begin();
        self.say(SYN, window, 0);
        self.flow.expect("the world is asked")
    }

    /// The guest opens a connection, with this window from the beginning.
    pub(crate) fn open(&mut self, window: u16) {
        let flow = self.dial(window);
        self.gateway.handle_dialed(self.now, flow, Ok(()));
        self.settle();
        self.acknowledged = self.sent;
        self.say(ACK, window, 0);
        assert!(self.gateway.status(self.flow.unwrap()).is_some_and(|status| status.established));
    }

    /// The world opens a connection to the guest; `together` if the guest begins the same one at the same time.
    pub(crate) fn accept(&mut self, window: u16, together: bool) {
        self.begin();
        let guest: SocketAddr =
            if self.v6 { (std::net::Ipv6Addr::from_bits(PREFIX | 2), 80).into() } else { (GUEST, 80).into() };
        self.ports = (80, 0);
        self.flow = self.gateway.connect(self.now, guest).ok();
        self.settle();
        self.acknowledged = self.sent;
        if together {
            self.say(SYN, window, 0);
            self.next += 1;
            self.say(ACK, window, 0);
        } else {
            self.say(SYN | ACK, window, 0);
            self.next += 1;
        }
        assert!(self.gateway.status(self.flow.unwrap()).is_some_and(|status| status.established), "{self:?}");
    }

    /// Forgets the last connection, and gives the guest a link if it has none.
    fn begin(&mut self) {
        if let Some(flow) = self.flow.take() {
            self.gateway.abort(self.now, flow);
            self.settle();
            assert_eq!(self.gateway.status(flow), None);
        }
        self.last_port = 1000 + (self.last_port - 999) % 60_000;
        self.ports = (self.last_port, 80);
        (self.next, self.acknowledged, self.sent, self.first, self.given) = (7000, 0, 0, 0, 0);
        self.finished = false;
        if self.link.is_none() {
            self.link();
        }
        self.toll = Toll::default();
    }

    /// Does one thing, and all that follows from it at once.
    pub(crate) fn act(&mut self, act: Act) -> Toll {
        self.toll = Toll::default();
        match act {
            Act::Give(n) => {
                if let Some(flow) = self.flow {
                    let n = self.gateway.write(flow, |room| room.len().min(n));
                    self.given = self.given.wrapping_add(n as u32);
                }
            }
            Act::Take => {
                if let Some(flow) = self.flow {
                    while self.gateway.read(flow, <[u8]>::len) > 0 {}
                }
            }
            Act::Finish => {
                if let Some(flow) = self.flow {
                    self.gateway.finish(self.now, flow);
                    self.given = self.given.wrapping_add(u32::from(!self.finished));
                    self.finished = true;
                }
            }
            Act::Say(flags, upto, window, len) => {
                let before = self.acknowledged;
                self.acknowledged = match upto {
                    Upto::Before => before,
                    Upto::OneMore => before.wrapping_add(1),
                    Upto::Sent => self.sent,
                    Upto::Given => self.given,
                    Upto::Beyond => self.given.wrapping_add(1),
                };
                self.say(flags, window, len);
                if upto == Upto::Beyond {
                    self.acknowledged = before;
                }
            }
            Act::Ask(window) => {
                self.next = self.next.wrapping_sub(1);
                self.say(ACK, window, 0);
                self.next = self.next.wrapping_add(1);
            }
            Act::Unlink => {
                if let Some(link) = self.link.take() {
                    self.gateway.detach(link);
                }
            }
            Act::Link => {
                if self.link.is_none() {
                    self.link();
                }
            }
            Act::Wait(ms) => self.wait(Duration::from_millis(ms)),
        }
        self.settle();
        self.toll
    }

    /// Bytes that the world has given, and its end.
    pub(crate) fn given(&self) -> u64 {
        self.given.wrapping_sub(self.first).into()
    }

    /// The guest's next connections are those of a twin, on another machine's link.
    pub(crate) fn elsewhere(&mut self, tenant: u32) {
        self.link = self.gateway.attach(tenant, Some(Framing::Hyperkit));
    }

    fn link(&mut self) {
        let link = self.gateway.attach(1, Some(Framing::Hyperkit)).expect("there is room for one link");
        self.link = Some(link);
        // Whoever sends something is heard of: it asks for the gateway, as one does on a new link.
        let question = if self.v6 {
            let target = PREFIX | 1;
            let mut message = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target.to_be_bytes(), &[1, 1], &MAC].concat();
            let (from, to) = (PREFIX | 2, 0xff02_u128 << 112 | 0x1_ff00_0001);
            let addresses = [from.to_be_bytes(), to.to_be_bytes()].concat();
            let sum = checksum::add(checksum::add(0, &addresses), &[0, 0, 0, message.len() as u8, 0, 0, 0, 58]);
            let sum = checksum::finish(checksum::add(sum, &message));
            message[2..4].copy_from_slice(&sum);
            let head = [0x60, 0, 0, 0, 0, message.len() as u8, 58, 255];
            [&[0x33, 0x33, 0xff, 0, 0, 1][..], &MAC, &[0x86, 0xdd], &head, &addresses, &message].concat()
        } else {
            let head = [8, 6, 0, 1, 8, 0, 6, 4, 0, 1];
            [&[0xff; 6][..], &MAC, &head, &MAC, &GUEST, &[0; 6], &[192, 168, 127, 1]].concat()
        };
        self.frame(&question);
    }

    /// Time passes; the driver is called back whenever the gateway wants it.
    fn wait(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(at) = self.gateway.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.gateway.handle_timeout(self.now);
            self.settle();
            self.toll.wakes += 1;
            assert!(self.toll.wakes < 100_000, "the gateway keeps its driver awake: {self:?}");
        }
        self.now = end;
    }

    fn say(&mut self, flags: u8, window: u16, len: usize) {
        // An MSS and a window scale of 0 with a SYN (RFC 9293 section 3.1, RFC 7323 section 2.2).
        let [high, low] = self.mss.to_be_bytes();
        let options: &[u8] = if flags & SYN != 0 { &[2, 4, high, low, 3, 3, 0, 1] } else { &[] };
        let acknowledgement = if flags & ACK != 0 { self.acknowledged } else { 0 };
        let window = window.to_be_bytes();
        let tcp = [
            &self.ports.0.to_be_bytes()[..],
            &self.ports.1.to_be_bytes(),
            &self.next.to_be_bytes(),
            &acknowledgement.to_be_bytes(),
            &[(5 + options.len() as u8 / 4) << 4, flags, window[0], window[1], 0, 0, 0, 0],
            options,
            &vec![b'x'; len],
        ]
        .concat();
        let frame = if self.v6 {
            let len = (tcp.len() as u16).to_be_bytes();
            let head = [0x86, 0xdd, 0x60, 0, 0, 0, len[0], len[1], 6, 64];
            let addresses = [(PREFIX | 2).to_be_bytes(), self.other_v6().to_be_bytes()].concat();
            [&GATEWAY_MAC[..], &MAC, &head, &addresses, &tcp].concat()
        } else {
            let len = (20 + tcp.len() as u16).to_be_bytes();
            let head = [8, 0, 0x45, 0, len[0], len[1], 0, 0, 0, 0, 64, 6, 0, 0];
            [&GATEWAY_MAC[..], &MAC, &head, &GUEST, &self.other(), &tcp].concat()
        };
        self.next = self.next.wrapping_add(len as u32 + u32::from(flags & FIN != 0));
        if flags & (SYN | ACK) == SYN && self.ports.1 == 80 {
            self.next = self.next.wrapping_add(1);
        }
        self.frame(&frame);
    }

    /// Who the guest speaks with: the world where it began, the gateway where that did.
    const fn other(&self) -> [u8; 4] {
        if self.ports.0 == 80 { [192, 168, 127, 1] } else { WORLD }
    }

    const fn other_v6(&self) -> u128 {
        if self.ports.0 == 80 { PREFIX | 1 } else { WORLD6 }
    }

    fn frame(&mut self, frame: &[u8]) {
        let Some(link) = self.link else { return };
        assert_eq!(self.gateway.handle_frame(self.now, link, frame), Handled::Done);
        self.settle();
    }

    /// What every driver does after an input.
    fn settle(&mut self) {
        for round in 0.. {
            assert!(round < 100, "the gateway never has enough: {self:?}");
            self.gateway.flush(self.now);
            while let Some(output) = self.gateway.poll_output() {
                match output {
                    Output::Dial { flow, .. } => self.flow = Some(flow),
                    Output::Closed { flow, .. } => {
                        self.flow = self.flow.filter(|own| *own != flow);
                    }
                    Output::Flow(_) | Output::SessionClosed(_) | Output::SessionRefused(_) => {}
                    Output::Frames(port) => {
                        let mut bytes = self.gateway.pending(port).to_vec();
                        self.gateway.consume(port, bytes.len());
                        while let Some((frame, len)) = Framing::Hyperkit.split(&bytes) {
                            self.take(frame);
                            bytes.drain(..len);
                        }
                    }
                }
            }
            if self.gateway.poll_timeout().is_none_or(|at| at > self.now) {
                return;
            }
            self.toll.wakes += 1;
            self.gateway.handle_timeout(self.now);
        }
    }

    fn take(&mut self, frame: &[u8]) {
        let head = if self.v6 { 54 } else { 34 };
        let protocol = if self.v6 { 20 } else { 23 };
        if frame[12..14] == [8, 6] {
            let answer = [&frame[6..12], &MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2], &MAC, &frame[38..42], &frame[22..32]];
            if frame[21] == 1 && frame[38..42] == GUEST {
                self.frame(&answer.concat());
            }
            return;
        }
        if frame.len() < head + 20 || frame[protocol] != 6 {
            return;
        }
        self.toll.frames += 1;
        let tcp = &frame[head..];
        let number = |at: usize| u32::from_be_bytes([tcp[at], tcp[at + 1], tcp[at + 2], tcp[at + 3]]);
        let flags = tcp[13];
        if self.ports.1 == 0 {
            self.ports.1 = u16::from_be_bytes([tcp[0], tcp[1]]);
        }
        let len = tcp.len() - usize::from(tcp[12] >> 4) * 4;
        let end = number(4).wrapping_add(len as u32 + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0));
        if flags & SYN != 0 {
            (self.sent, self.first, self.given) = (end, end, end);
        } else if flags & RST == 0 && end.wrapping_sub(self.sent).cast_signed() > 0 {
            self.sent = end;
        }
    }
}

impl core::fmt::Debug for Puppet {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { now, flow, ports, next, acknowledged, sent, given, finished, toll, .. } = self;
        write!(
            f,
            "at {now:?}: {flow:?}, ports {ports:?}, next {next}, acknowledged {acknowledged}, sent {sent}, given {given}, \
             finished {finished}, {toll:?}; {:?}",
            self.gateway.counters()
        )
    }
}
