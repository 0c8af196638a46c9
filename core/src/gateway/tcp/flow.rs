//! One TCP connection with a guest: a smoltcp interface with a single socket.
//!
//! Owns: the interface, the socket, its two buffers. Driven by: the flow table. No clock: smoltcp is told the time.
//! A socket set with many sockets is searched from the beginning for every packet; here the table finds the connection,
//! and its set has one.

use super::{
    super::{
        config::Allocate,
        wire::{self, ACK, FIN, RST, SYN, Segment},
    },
    State,
    device::{Emit, TIMESTAMPS, Wire, capabilities},
    initial,
};
use crate::time::Instant;
use core::{cell::Cell, net::IpAddr, time::Duration};
use smoltcp::{
    iface::{Config, Interface, PollResult, SocketHandle, SocketSet},
    phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken},
    socket::tcp,
    time::{Duration as SmolDuration, Instant as SmolInstant},
    wire::{HardwareAddress, IpCidr, IpListenEndpoint, Ipv4Address, Ipv6Address},
};

/// Silence after which the guest is asked whether it is still there (RFC 1122 section 4.2.3.6 says two hours at least by
/// default; gvproxy never asks, and keeps what a vanished guest had).
const KEEP_ALIVE: Duration = Duration::from_secs(120);

/// Segments sent before other connections get their turn.
pub(super) const TURN: usize = 4;

/// Segments in a row that may say nothing that the one before them did not. smoltcp says the same thing twice where an
/// acknowledgement and a window meet the data behind them, or where a probe repeats a byte, and at most four times when all
/// of that comes together at one time; twice as many never end.
const REPEATS: u8 = 8;

/// The largest window without a scale.
const WINDOW: usize = 0xffff;

/// What came of sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nothing is left to send now.
    Idle,
    /// There is more, and room for it.
    More,
    /// There is more, and no room.
    Blocked,
    /// There will always be more, and it says nothing new.
    Stuck,
}

/// See the module.
pub(crate) struct Flow {
    iface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    /// Bytes of each buffer.
    pub(crate) buffer: usize,
    /// The MTU it was made for, which small buffers make smaller.
    pub(crate) mtu: usize,
    /// Bytes of the longest packet that the way to the guest takes, as far as it has complained.
    path: usize,
    /// Bytes of payload that fit a packet.
    largest: usize,
    /// Sequence and acknowledgement number of the last segment sent.
    pub(crate) last: (u32, u32),
    /// The sequence number behind all that was sent at least once, our end aside.
    sent: u32,
    /// The sequence number behind all that was written for the guest.
    edge: u32,
    /// What is added to the time in timestamps.
    stamp: u32,
    first: FirstSegment,
    /// A probe of the guest's closed window may still be due, though nothing is left to send: what the guest acknowledged.
    probing: Option<u32>,
    /// The guest's window was closed when it was last heard of.
    shut: bool,
    /// Our end waits for the bytes before it: see [`Flow::finish`].
    ending: bool,
    /// Segments in a row that said nothing new.
    repeats: u8,
}

/// What a connection keeps bytes in.
pub(crate) struct Buffers {
    /// Bytes that were promised for each.
    size: usize,
    receive: Vec<u8>,
    send: Vec<u8>,
}

impl Buffers {
    /// Of `size` bytes each; `None` where memory is used up.
    pub(crate) fn new(allocate: Allocate, size: usize) -> Option<Self> {
        Some(Self { size, receive: lazy(allocate, receive_capacity(size))?, send: lazy(allocate, size)? })
    }
}

/// Whether the guest is known to have the connection too, and until then what it may be sent.
///
/// A Linux guest whose backlog is full answers a SYN with a SYN cookie, remembers nothing, and drops the last part of the
/// handshake while nobody accepts. The first segment then opens the connection, as its sequence number proves the cookie;
/// one behind it proves nothing and is answered with a reset (`__cookie_v4_check` in Linux's net/ipv4/syncookies.c). So
/// nothing is sent behind the first segment until that is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FirstSegment {
    /// It may have this many bytes.
    ToSend(usize),
    /// This one waits for its answer; it has room for that many bytes more.
    Sent(usize),
    Answered,
}

/// With which numbers a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Start {
    /// Our initial sequence number.
    pub(crate) number: u32,
    /// What is added to the time in timestamps (RFC 7323); `None` for none.
    pub(crate) stamp: Option<u32>,
}

thread_local! {
    /// The timestamp of segments that are being made: smoltcp asks for it by a function that knows nothing else.
    static STAMP: Cell<u32> = const { Cell::new(0) };
}

fn stamp() -> u32 {
    STAMP.get()
}

/// Tells smoltcp the capabilities; nothing is sent through it.
struct Blueprint(usize);

impl Flow {
    fn new(
        now: Instant,
        local: IpAddr,
        Buffers { size: buffer, receive, send }: Buffers,
        mtu: usize,
        start: Start,
    ) -> Self {
        // A window of less than some segments makes senders wait for acknowledgements that wait for them.
        let mtu = mtu.min((buffer / 4).max(1500));
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = initial::seed(start.number);
        let mut iface = Interface::new(config, &mut Blueprint(mtu), smol(now));
        iface.update_ip_addrs(|addrs| {
            let pushed = addrs.push(IpCidr::new(local.into(), if local.is_ipv4() { 32 } else { 128 }));
            debug_assert!(pushed.is_ok(), "a list for two addresses has room for one");
        });
        // Packets leave without hardware addresses: any router will do.
        let routed = match local {
            IpAddr::V4(_) => iface.routes_mut().add_default_ipv4_route(Ipv4Address::new(192, 0, 2, 1)),
            IpAddr::V6(_) => {
                iface.routes_mut().add_default_ipv6_route(Ipv6Address::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))
            }
        };
        debug_assert!(routed.is_ok(), "an empty table has room for a default route");
        let mut socket = tcp::Socket::new(tcp::SocketBuffer::new(receive), tcp::SocketBuffer::new(send));
        socket.set_nagle_enabled(false);
        // Acknowledgements are sent once per batch of frames, which is as late as they should be.
        socket.set_ack_delay(None);
        socket.set_keep_alive(Some(smol_duration(KEEP_ALIVE)));
        // Linux takes the ports of connections that it closed first a second later and not a minute, if these had timestamps
        // (`net.ipv4.tcp_tw_reuse`). Without them in the guest's SYN smoltcp sends none.
        socket.set_tsval_generator(start.stamp.map(|_| stamp as fn() -> u32));
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        let largest = mtu - wire::head(local) - wire::TCP;
        Self {
            iface,
            sockets,
            handle,
            buffer,
            mtu,
            path: mtu,
            largest,
            last: (0, 0),
            sent: start.number.wrapping_add(1),
            edge: start.number.wrapping_add(1),
            stamp: start.stamp.unwrap_or_default(),
            first: FirstSegment::Answered,
            probing: None,
            shut: false,
            ending: false,
            repeats: 0,
        }
    }

    /// A connection that a guest's SYN is about to open, from these numbers on.
    pub(crate) fn listen(now: Instant, local: (IpAddr, u16), buffers: Buffers, mtu: usize, start: Start) -> Self {
        let mut flow = Self::new(now, local.0, buffers, mtu, start);
        let endpoint = IpListenEndpoint { addr: Some(local.0.into()), port: local.1 };
        let listening = flow.socket_mut().listen(endpoint);
        debug_assert!(listening.is_ok(), "a new socket on a port other than 0 can listen");
        flow
    }

    /// A connection that sends a SYN to a guest.
    pub(crate) fn connect(
        now: Instant,
        local: (IpAddr, u16),
        guest: (IpAddr, u16),
        buffers: Buffers,
        mtu: usize,
        start: Start,
    ) -> Self {
        let mut flow = Self::new(now, local.0, buffers, mtu, start);
        let socket = flow.sockets.get_mut::<tcp::Socket<'_>>(flow.handle);
        let connecting = socket.connect(flow.iface.context(), guest, local);
        debug_assert!(connecting.is_ok(), "a new socket with addresses and ports can connect");
        flow.first = FirstSegment::ToSend(wire::DEFAULT_MSS);
        flow
    }

    pub(crate) fn socket(&self) -> &tcp::Socket<'static> {
        self.sockets.get(self.handle)
    }

    pub(crate) fn socket_mut(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    /// Takes a packet of this connection in, with what its segment says of the guest's window. What it causes is sent with
    /// [`Flow::send`].
    pub(crate) fn receive(&mut self, now: Instant, (packet, window): (&[u8], u16), emit: &mut Emit<'_>) {
        (emit.last, emit.sent) = (self.last, self.sent);
        emit.path = self.path;
        emit.narrows = self.narrows();
        self.set_stamp(now);
        let before = self.socket().state();
        if matches!(before, State::CloseWait | State::Closing | State::LastAck | State::TimeWait) {
            self.take_without_text(now, packet, emit);
        } else {
            self.take(now, packet, emit);
        }
        if matches!(before, State::Listen | State::SynSent) && self.socket().state() != before {
            // What the guest's SYN makes the next one, should its link be gone before that is acknowledged.
            emit.last.1 = wire::sequence_numbers(packet).0.wrapping_add(1);
        }
        if self.shut || window == 0 {
            let was_shut = core::mem::replace(&mut self.shut, window == 0);
            if was_shut && window != 0 {
                self.reopened(now, packet, emit);
            }
        }
        (self.last, self.sent) = (emit.last, emit.sent);
        if self.first != FirstSegment::Answered {
            self.learn(before, packet);
        }
        if before == State::FinWait1 {
            self.leave_probing(packet);
        }
    }

    /// Whether segments offer one unit of the window less than smoltcp lets them.
    ///
    /// smoltcp 0.14 rounds a window down to its unit and takes nothing behind it, though it has offered that before: an odd
    /// byte moves the end of the window back, by less than a unit. A guest that was quick to use all that it was offered
    /// would lose the last bytes, and wait for its timer to send them again. RFC 7323 section 2.4 has receivers bear that.
    const fn narrows(&self) -> bool {
        self.buffer >= 2 * WINDOW
    }

    fn take(&mut self, now: Instant, packet: &[u8], emit: &mut Emit<'_>) {
        self.iface.poll_ingress_single(smol(now), &mut Wire { rx: Some(packet), emit }, &mut self.sockets);
    }

    /// The guest has ended: what it says all the same is ignored (RFC 9293 section 3.10.7.4, seventh). smoltcp 0.14 takes it, and
    /// whoever would read it has left.
    ///
    /// In LAST-ACK it ignores windows too, unless something is acknowledged with them. One that closes would have it probe for
    /// one that opens, and not send again what was lost meanwhile. So it is told that a byte may come, which it sends again.
    #[inline(never)]
    fn take_without_text(&mut self, now: Instant, packet: &[u8], emit: &mut Emit<'_>) {
        let mut room = [0; wire::MOST_HEADERS];
        if self.socket().state() == State::LastAck && wire::window(packet) == 0 {
            self.take(now, wire::with_window(packet, &mut room, 1), emit);
        } else {
            self.take(now, wire::without_text(packet, &mut room), emit);
        }
    }

    /// The guest's window was closed, and is open again.
    ///
    /// smoltcp 0.14 forgets to send again what is under way when a window closes, and does not think of it when it opens. A
    /// guest that has lost some of it would wait for ever. The same acknowledgement three times is how it would say so
    /// (RFC 5681 section 3.2).
    #[inline(never)]
    fn reopened(&mut self, now: Instant, packet: &[u8], emit: &mut Emit<'_>) {
        let Some(segment) = wire::segment_of(packet).filter(|segment| segment.flags & (SYN | ACK | RST) == ACK) else {
            return;
        };
        if emit.sent.wrapping_sub(segment.acknowledgement).cast_signed() > 0 {
            let sequence = segment.sequence.wrapping_add(segment.len as u32 + u32::from(segment.flags & FIN != 0));
            for _ in 0..3 {
                self.acknowledge(now, (sequence, segment.acknowledgement), segment.window, emit);
            }
        }
    }

    /// Our end may just have been acknowledged, with a window of zero: see [`Flow::stop_probing`].
    fn leave_probing(&mut self, packet: &[u8]) {
        if self.socket().state() == State::FinWait2
            && let Some(segment) = wire::segment_of(packet).filter(|segment| segment.window == 0)
        {
            self.probing = Some(segment.acknowledgement);
        }
    }

    /// Tells smoltcp of a window, so that it forgets to probe for one.
    ///
    /// smoltcp 0.14 leaves the timer of its probes armed when our end is acknowledged with a window of zero. In FIN-WAIT-2
    /// there is nothing to probe with, so that nothing rewinds the timer: from its expiry on, each call sends one more
    /// acknowledgement, and none is the last. Any segment with a window stops it, and no window matters any more. So it gets
    /// one in the guest's name, that acknowledges what the guest did. It is in sequence, as the last acknowledgement sent
    /// says what the guest sends next: smoltcp has none to send in between.
    fn stop_probing(&mut self, now: Instant, acknowledgement: u32, emit: &mut Emit<'_>) {
        self.acknowledge(now, (emit.last.1, acknowledgement), 1, emit);
    }

    /// Gives smoltcp an acknowledgement in the guest's name.
    fn acknowledge(&mut self, now: Instant, (sequence, acknowledgement): (u32, u32), window: u16, emit: &mut Emit<'_>) {
        let (Some(local), Some(remote)) = (self.socket().local_endpoint(), self.socket().remote_endpoint()) else {
            return;
        };
        let mut packet = [0; wire::IPV6 + wire::TCP];
        let packet = &mut packet[..wire::head(local.addr.into()) + wire::TCP];
        let (guest, to) = ((remote.addr.into(), remote.port), (local.addr.into(), local.port));
        wire::bare_segment(packet, guest, to, sequence, acknowledgement, ACK, window);
        self.take(now, packet, emit);
    }

    fn learn(&mut self, before: State, packet: &[u8]) {
        let socket = self.socket();
        let spoke = socket.recv_queue() > 0 || !matches!(socket.state(), State::SynSent | State::Established);
        self.first = match self.first {
            FirstSegment::ToSend(_) if before == State::SynSent => {
                let options = if socket.timestamp_enabled() { TIMESTAMPS } else { 0 };
                FirstSegment::ToSend(wire::maximum_segment(packet).min(self.largest).saturating_sub(options).max(1))
            }
            FirstSegment::Sent(_) if socket.send_queue() == 0 => FirstSegment::Answered,
            FirstSegment::ToSend(_) | FirstSegment::Sent(_) if spoke => FirstSegment::Answered,
            same @ (FirstSegment::ToSend(_) | FirstSegment::Sent(_) | FirstSegment::Answered) => same,
        };
    }

    /// The sequence number behind all that was written for the guest.
    pub(crate) const fn edge(&self) -> u32 {
        self.edge
    }

    /// The sequence number that the guest sends next, as far as it was told.
    pub(crate) const fn expected(&self) -> u32 {
        self.last.1
    }

    /// Whether both sides have closed, and each knows it of the other.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.socket().state(), State::Closed | State::TimeWait)
    }

    /// Whether nobody but this connection's guest can have sent a segment: its numbers fit, of which there are 2^64.
    pub(crate) fn proves(&self, segment: &Segment) -> bool {
        let socket = self.socket();
        let flags = segment.flags & (SYN | ACK | RST);
        match socket.state() {
            State::SynSent => flags == SYN | ACK && segment.acknowledgement == self.edge,
            State::SynReceived if flags == SYN => segment.sequence.wrapping_add(1) == self.expected(),
            State::Closed
            | State::Listen
            | State::SynReceived
            | State::Established
            | State::FinWait1
            | State::FinWait2
            | State::CloseWait
            | State::Closing
            | State::LastAck
            | State::TimeWait => {
                // What waits to be sent is taken for sent, which smoltcp does too; behind it there may be a FIN.
                let unacknowledged = socket.send_queue() as u32;
                let oldest = self.edge.wrapping_sub(unacknowledged);
                // What was acknowledged into a link that was lost comes again.
                let window = socket.recv_capacity() as u32;
                flags == ACK
                    && segment.acknowledgement.wrapping_sub(oldest) <= unacknowledged + 1
                    && segment.sequence.wrapping_sub(self.expected().wrapping_sub(window)) <= 2 * window
            }
        }
    }

    /// Timestamps count milliseconds (RFC 7323 section 5.4: between one and a thousand of them).
    fn set_stamp(&self, now: Instant) {
        STAMP.set(self.stamp.wrapping_add((now.as_nanos() / 1_000_000) as u32));
    }

    /// Whether a segment that should answer our SYN acknowledges something else: there is an earlier connection.
    pub(crate) fn is_challenged(&self, segment: &Segment) -> bool {
        segment.flags & (SYN | ACK | RST) == ACK
            && self.socket().state() == State::SynSent
            && segment.acknowledgement != self.edge
    }

    /// Whether a segment with this number waits for its acknowledgement, or may.
    pub(crate) fn is_under_way(&self, sequence: u32) -> bool {
        let unacknowledged = self.socket().send_queue() as u32;
        // The SYN before the first byte, or the FIN behind the last one.
        sequence.wrapping_sub(self.edge.wrapping_sub(unacknowledged).wrapping_sub(1)) <= unacknowledged + 1
    }

    /// The way to the guest takes packets of no more than this. What is sent again is shorter.
    pub(crate) fn shorten(&mut self, mtu: usize) {
        self.path = self.path.min(mtu);
    }

    /// Bytes that may be written now.
    pub(crate) fn room(&self) -> usize {
        if self.ending {
            return 0;
        }
        let socket = self.socket();
        let room = socket.send_capacity() - socket.send_queue();
        match self.first {
            FirstSegment::ToSend(most) | FirstSegment::Sent(most) => room.min(most),
            FirstSegment::Answered => room,
        }
    }

    /// Lets `give` write bytes for the guest, as many as there is room for; it says how many it wrote.
    pub(crate) fn write(&mut self, give: impl FnOnce(&mut [u8]) -> usize) -> usize {
        let most = self.room();
        let mut given = 0;
        // An error says that nothing can be sent any more.
        let _ = self.socket_mut().send(|room| {
            let most = most.min(room.len());
            given = give(&mut room[..most]).min(most);
            (given, ())
        });
        self.edge = self.edge.wrapping_add(given as u32);
        if let (FirstSegment::ToSend(most) | FirstSegment::Sent(most), 1..) = (self.first, given) {
            self.first = FirstSegment::Sent(most - given);
        }
        given
    }

    /// Nothing more will be written.
    ///
    /// In LAST-ACK smoltcp 0.14 ignores a window that opens unless something is acknowledged with it, and probes instead, at
    /// ever longer intervals. So it gets there only once the guest's window has let everything pass.
    pub(crate) fn finish(&mut self) {
        if self.socket().state() == State::CloseWait && self.socket().send_queue() > 0 {
            self.ending = true;
        } else {
            self.socket_mut().close();
        }
    }

    /// Whether our end has waited for long enough.
    fn may_end(&self, sent: u32) -> bool {
        self.ending && (self.socket().send_queue() == 0 || sent == self.edge && !self.shut)
    }

    /// Sends what there is to send, [`TURN`] segments at most.
    pub(crate) fn send(&mut self, now: Instant, emit: &mut Emit<'_>) -> Progress {
        (emit.last, emit.sent) = (self.last, self.sent);
        emit.path = self.path;
        emit.narrows = self.narrows();
        self.set_stamp(now);
        emit.exhausted = false;
        let mut progress = Progress::More;
        for _ in 0..TURN {
            let before = emit.last;
            let result = self.iface.poll_egress(smol(now), &mut Wire { rx: None, emit }, &mut self.sockets);
            if emit.exhausted {
                progress = Progress::Blocked;
                break;
            }
            if let Some(acknowledgement) = self.probing.take() {
                self.stop_probing(now, acknowledgement, emit);
            }
            if result == PollResult::None {
                self.repeats = 0;
                if self.may_end(emit.sent) {
                    self.ending = false;
                    self.socket_mut().close();
                    continue;
                }
                progress = Progress::Idle;
                break;
            }
            if says_more(before, emit.last) {
                self.repeats = 0;
            } else if self.repeats < REPEATS {
                self.repeats += 1;
            } else {
                progress = Progress::Stuck;
                break;
            }
        }
        (self.last, self.sent) = (emit.last, emit.sent);
        progress
    }

    /// When to call [`Flow::send`] though nothing happened.
    pub(crate) fn poll_at(&mut self, now: Instant) -> Option<Instant> {
        let at = self.iface.poll_at(smol(now), &self.sockets)?;
        let at = Instant::from_nanos(u64::try_from(at.total_micros()).unwrap_or(0).saturating_mul(1000));
        // smoltcp counts in microseconds and we in nanoseconds: what is due in this microsecond is due in the next.
        Some(at.max(Instant::from_nanos(now.as_nanos() + 1000)))
    }
}

impl core::fmt::Debug for Flow {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Flow")
            .field("state", &self.socket().state())
            .field("buffer", &self.buffer)
            .finish_non_exhaustive()
    }
}

impl Device for Blueprint {
    type RxToken<'t> = Nothing;
    type TxToken<'t> = Nothing;

    fn receive(&mut self, _: SmolInstant) -> Option<(Nothing, Nothing)> {
        None
    }

    fn transmit(&mut self, _: SmolInstant) -> Option<Nothing> {
        None
    }

    fn capabilities(&self) -> DeviceCapabilities {
        debug_assert_eq!(capabilities(self.0).medium, Medium::Ip);
        capabilities(self.0)
    }
}

/// A token that is never handed out.
enum Nothing {}

impl RxToken for Nothing {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, _: F) -> R {
        match self {}
    }
}

impl TxToken for Nothing {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, _: usize, _: F) -> R {
        match self {}
    }
}

/// The largest receive buffer within `buffer` that its own window describes exactly.
///
/// The window of a SYN is not scaled (RFC 7323 section 2.2), and 65,535 where the buffer is larger; smoltcp 0.14 scales what
/// it said there all the same when it judges the first segment. With a buffer of another size a guest could send more than
/// fits, and smoltcp would panic.
fn receive_capacity(buffer: usize) -> usize {
    if buffer <= WINDOW {
        return buffer;
    }
    WINDOW << (buffer / WINDOW).ilog2()
}

/// Whether a segment is about something that the one before it was not: it begins further on, or acknowledges more.
const fn says_more(before: (u32, u32), after: (u32, u32)) -> bool {
    const fn is_ahead(a: u32, b: u32) -> bool {
        a.wrapping_sub(b).cast_signed() > 0
    }
    is_ahead(after.0, before.0) || is_ahead(after.1, before.1)
}

/// Zeroes that take memory only where they are touched: allocators map what is this large, and the kernel maps pages on
/// their first use. Whoever wants less gets a part of it.
fn lazy(allocate: Allocate, len: usize) -> Option<Vec<u8>> {
    const MAPPED: usize = 128 << 10;
    let mut zeroes = allocate(len.max(MAPPED))?;
    zeroes.truncate(len);
    Some(zeroes)
}

fn smol(now: Instant) -> SmolInstant {
    SmolInstant::from_micros(i64::try_from(now.as_nanos() / 1000).unwrap_or(i64::MAX))
}

fn smol_duration(duration: Duration) -> SmolDuration {
    SmolDuration::from_micros(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receive_buffer_is_what_its_first_window_says() {
        for buffer in (4096..1 << 20).step_by(4096) {
            let capacity = receive_capacity(buffer);
            assert!(capacity <= buffer && capacity > buffer / 2 - 1, "{buffer}: {capacity}");
            // smoltcp's shift, and its window of a SYN.
            let shift = (usize::BITS - capacity.leading_zeros()).saturating_sub(16);
            assert_eq!(capacity.min(0xffff) << shift, capacity, "{buffer}");
        }
    }
    /// A connection in FIN-WAIT-2 whose guest has acknowledged our end with a window of zero, while that was probed.
    fn probing(emit: &mut Emit<'_>) -> Flow {
        let (guest, local) = (([192, 168, 127, 2].into(), 1000), ([203, 0, 113, 9].into(), 80));
        let buffers = Buffers::new(|len| Some(vec![0; len]), 16_384).unwrap();
        let mut flow = Flow::listen(Instant::ZERO, local, buffers, 1500, Start { number: 1, stamp: None });
        let mut say = |flow: &mut Flow, sequence, acknowledgement, flags| {
            let mut packet = [0; wire::IPV4 + wire::TCP];
            wire::bare_segment(&mut packet, guest, local, sequence, acknowledgement, flags, 0);
            flow.receive(Instant::ZERO, (&packet, 0), emit);
            flow.send(Instant::ZERO, emit);
            emit.last.0
        };
        let ours = say(&mut flow, 1, 0, SYN);
        say(&mut flow, 2, ours.wrapping_add(1), ACK);
        assert_eq!(flow.write(|_| 10), 10);
        flow.socket_mut().close();
        say(&mut flow, 2, ours.wrapping_add(1), ACK);
        let (data, end) = (10, 1);
        let mut packet = [0; wire::IPV4 + wire::TCP];
        let all = ours.wrapping_add(1 + data + end);
        wire::bare_segment(&mut packet, guest, local, 2, all, ACK, 0);
        flow.receive(Instant::ZERO, (&packet, 0), emit);
        assert_eq!(flow.socket().state(), State::FinWait2);
        flow
    }

    fn nowhere(scratch: &mut [u8]) -> Emit<'_> {
        Emit {
            queue: None,
            destination: [2; 6],
            source: [3; 6],
            ethertype: wire::ETHERTYPE_IPV4,
            mtu: 1500,
            path: 1500,
            narrows: false,
            scratch,
            last: (0, 0),
            sent: 0,
            exhausted: false,
            work: 0,
            packets: 0,
            bytes: 0,
        }
    }

    #[test]
    fn nothing_is_probed_for_once_all_is_acknowledged() {
        let mut scratch = vec![0; 65_535];
        let mut emit = nowhere(&mut scratch);
        let mut flow = probing(&mut emit);
        let before = emit.work;
        let late = Instant::from_millis(100_000);
        // One acknowledgement more at most, where the probe was due already.
        assert_eq!((flow.send(late, &mut emit), emit.work - before), (Progress::Idle, 1));
        assert_eq!((flow.send(late, &mut emit), emit.work - before), (Progress::Idle, 1));
        assert!(flow.poll_at(late).is_some_and(|at| at > late + Duration::from_secs(1)));
    }

    #[test]
    fn a_state_that_says_the_same_for_ever_is_found_out() {
        let mut scratch = vec![0; 65_535];
        let mut emit = nowhere(&mut scratch);
        let mut flow = probing(&mut emit);
        // As if nothing were known of it.
        flow.probing = None;
        let late = Instant::from_millis(100_000);
        let sent = [(); 3].map(|()| flow.send(late, &mut emit));
        assert_eq!(sent, [Progress::More, Progress::More, Progress::Stuck]);
    }

    /// A connection that a guest has opened, and whose segments have these numbers in turn.
    struct Talk {
        flow: Flow,
        /// The number of our first byte, and of the guest's next one.
        first: u32,
        next: u32,
    }

    const GUEST: (IpAddr, u16) = (IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 127, 2)), 1000);
    const LOCAL: (IpAddr, u16) = (IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 9)), 80);

    impl Talk {
        fn new(window: u16, emit: &mut Emit<'_>) -> Self {
            let buffers = Buffers::new(|len| Some(vec![0; len]), 16_384).unwrap();
            let flow = Flow::listen(Instant::ZERO, LOCAL, buffers, 1500, Start { number: 1, stamp: None });
            let mut talk = Self { flow, first: 0, next: 1 };
            talk.say(Instant::ZERO, SYN, 0, window, emit);
            talk.first = emit.last.0.wrapping_add(1);
            talk.say(Instant::ZERO, ACK, 0, window, emit);
            talk
        }

        /// The guest says that it has so many bytes, and its window; what follows is sent.
        fn say(&mut self, now: Instant, flags: u8, has: u32, window: u16, emit: &mut Emit<'_>) {
            let mut packet = [0; wire::IPV4 + wire::TCP];
            let has = self.first.wrapping_add(has);
            wire::bare_segment(&mut packet, GUEST, LOCAL, self.next, has, flags, window);
            self.next += u32::from(flags & (SYN | FIN) != 0);
            self.flow.receive(now, (&packet, window), emit);
            self.flow.send(now, emit);
        }

        fn write(&mut self, bytes: usize, emit: &mut Emit<'_>) {
            assert_eq!(self.flow.write(|_| bytes), bytes);
            self.flow.send(Instant::ZERO, emit);
        }

        /// Bytes before the last segment.
        fn last(&self, emit: &Emit<'_>) -> u32 {
            emit.last.0.wrapping_sub(self.first)
        }
    }

    #[test]
    fn our_end_is_sent_with_the_bytes_before_it_if_the_window_lets_it() {
        let mut scratch = vec![0; 65_535];
        let mut emit = nowhere(&mut scratch);
        let mut talk = Talk::new(10_000, &mut emit);
        talk.say(Instant::ZERO, FIN | ACK, 0, 10_000, &mut emit);
        assert_eq!(talk.flow.write(|_| 3000), 3000);
        talk.flow.finish();
        talk.flow.send(Instant::ZERO, &mut emit);
        assert_eq!((talk.flow.socket().state(), talk.last(&emit)), (State::LastAck, 3000));
        talk.say(Instant::ZERO, ACK, 3001, 10_000, &mut emit);
        assert_eq!(talk.flow.socket().state(), State::Closed);
    }

    #[test]
    fn a_window_that_opens_late_is_heard_though_both_sides_have_ended() {
        let mut scratch = vec![0; 65_535];
        let mut emit = nowhere(&mut scratch);
        let mut talk = Talk::new(0, &mut emit);
        talk.say(Instant::ZERO, FIN | ACK, 0, 0, &mut emit);
        talk.write(3000, &mut emit);
        talk.flow.finish();
        talk.flow.send(Instant::ZERO, &mut emit);
        assert_eq!((talk.flow.room(), talk.last(&emit)), (0, 0));
        let later = Instant::from_millis(40_000);
        talk.flow.send(later, &mut emit);
        talk.say(later, ACK, 0, 10_000, &mut emit);
        assert_eq!((talk.flow.socket().state(), talk.last(&emit)), (State::LastAck, 3000));
    }

    #[test]
    fn what_was_lost_before_a_window_closed_is_sent_again_when_it_opens() {
        for ends in [false, true] {
            let mut scratch = vec![0; 65_535];
            let mut emit = nowhere(&mut scratch);
            let mut talk = Talk::new(10_000, &mut emit);
            if ends {
                talk.say(Instant::ZERO, FIN | ACK, 0, 10_000, &mut emit);
            }
            talk.write(3000, &mut emit);
            assert_eq!(talk.flow.sent.wrapping_sub(talk.first), 3000);
            talk.say(Instant::ZERO, ACK, 1000, 0, &mut emit);
            assert_ne!(talk.last(&emit), 1000);
            talk.say(Instant::from_millis(1), ACK, 1000, 10_000, &mut emit);
            assert_eq!(talk.last(&emit), 1000, "guest has ended: {ends}");
        }
    }

    #[test]
    fn what_was_lost_before_a_window_closed_is_sent_again_though_both_sides_have_ended() {
        let mut scratch = vec![0; 65_535];
        let mut emit = nowhere(&mut scratch);
        let mut talk = Talk::new(10_000, &mut emit);
        talk.say(Instant::ZERO, FIN | ACK, 0, 10_000, &mut emit);
        talk.write(3000, &mut emit);
        talk.flow.finish();
        talk.flow.send(Instant::ZERO, &mut emit);
        talk.say(Instant::ZERO, ACK, 1000, 0, &mut emit);
        talk.say(Instant::from_millis(1), ACK, 1000, 10_000, &mut emit);
        let later = Instant::from_millis(2000);
        talk.flow.send(later, &mut emit);
        assert_eq!(talk.last(&emit), 1000);
        // The byte that came opens the window.
        talk.say(later, ACK, 1001, 10_000, &mut emit);
        assert_eq!(talk.flow.socket().state(), State::LastAck);
        talk.say(later, ACK, 3001, 10_000, &mut emit);
        assert_eq!(talk.flow.socket().state(), State::Closed);
    }

    /// A connection that a guest has begun, and whose handshake it ends with a wrong acknowledgement, which is reset.
    fn mistaken(emit: &mut Emit<'_>) -> Talk {
        let buffers = Buffers::new(|len| Some(vec![0; len]), 16_384).unwrap();
        let flow = Flow::listen(Instant::ZERO, LOCAL, buffers, 1500, Start { number: 1, stamp: None });
        let mut talk = Talk { flow, first: 0, next: 1 };
        talk.say(Instant::ZERO, SYN, 0, 0, emit);
        talk.first = emit.last.0.wrapping_add(1);
        let work = emit.work;
        talk.say(Instant::ZERO, ACK, 1_000_000, 0, emit);
        assert_eq!((emit.work - work, talk.flow.socket().state()), (1, State::SynReceived), "it is answered");
        talk
    }

    #[test]
    fn a_reset_says_nothing_of_where_a_connection_is() {
        let mut scratch = vec![0; 65_535];
        let mut emit = nowhere(&mut scratch);
        let talk = mistaken(&mut emit);
        assert_eq!((talk.last(&emit), talk.flow.expected(), talk.flow.sent), (u32::MAX, 2, talk.first));
    }

    #[test]
    fn only_a_syn_says_where_a_guest_begins() {
        let mut scratch = vec![0; 65_535];
        let mut emit = nowhere(&mut scratch);
        let buffers = Buffers::new(|len| Some(vec![0; len]), 16_384).unwrap();
        let mut flow = Flow::connect(Instant::ZERO, LOCAL, GUEST, buffers, 1500, Start { number: 1, stamp: None });
        flow.send(Instant::ZERO, &mut emit);
        let mut packet = [0; wire::IPV4 + wire::TCP];
        wire::bare_segment(&mut packet, GUEST, LOCAL, 5000, 77, ACK, 100);
        flow.receive(Instant::ZERO, (&packet, 100), &mut emit);
        assert_eq!((flow.socket().state(), flow.last), (State::SynSent, (1, 0)));
        wire::bare_segment(&mut packet, GUEST, LOCAL, 6000, 2, SYN | ACK, 100);
        flow.receive(Instant::ZERO, (&packet, 100), &mut emit);
        assert_eq!((flow.socket().state(), flow.expected()), (State::Established, 6001));
    }

    #[test]
    fn nothing_is_probed_for_after_a_handshake_with_a_mistake() {
        let mut scratch = vec![0; 65_535];
        let mut emit = nowhere(&mut scratch);
        let mut talk = mistaken(&mut emit);
        talk.say(Instant::ZERO, ACK, 0, 0, &mut emit);
        talk.write(3000, &mut emit);
        talk.flow.finish();
        talk.flow.send(Instant::ZERO, &mut emit);
        talk.say(Instant::ZERO, ACK, 3001, 0, &mut emit);
        assert_eq!(talk.flow.socket().state(), State::FinWait2);
        let late = Instant::from_millis(100_000);
        assert_eq!([(); 3].map(|()| talk.flow.send(late, &mut emit)), [Progress::Idle; 3]);
    }

    /// smoltcp 0.14 rounds windows down and takes nothing behind them, though it has offered it before.
    #[test]
    fn what_a_guest_was_offered_is_taken() {
        const SIZE: usize = 1 << 20;
        let mut scratch = vec![0; 65_535];
        let mut emit = nowhere(&mut scratch);
        let buffers = Buffers::new(|len| Some(vec![0; len]), SIZE).unwrap();
        let mut flow = Flow::listen(Instant::ZERO, LOCAL, buffers, 1500, Start { number: 1, stamp: None });
        let shift = (usize::BITS - receive_capacity(SIZE).leading_zeros()).saturating_sub(16);
        assert!(shift > 0, "its windows are rounded");
        let (mut next, mut has) = (1_u32, 0);
        let mut say = |flags, len: usize, emit: &mut Emit<'_>| {
            let mut packet = vec![0; wire::IPV4 + wire::TCP + 4 + len];
            let window = 10_000;
            wire::bare_segment(&mut packet, GUEST, LOCAL, next, has, flags, window);
            // An option, for a SYN that of window scaling by nothing (RFC 7323 section 2.2).
            packet[wire::IPV4 + 12] = 0x60;
            let option = if flags & SYN == 0 { [1, 1, 1, 0] } else { [3, 3, 0, 0] };
            packet[wire::IPV4 + wire::TCP..][..4].copy_from_slice(&option);
            next = next.wrapping_add(len as u32 + u32::from(flags & SYN != 0));
            flow.receive(Instant::ZERO, (&packet, window), emit);
            flow.send(Instant::ZERO, emit);
            if flags & SYN != 0 {
                has = emit.last.0.wrapping_add(1);
            }
            usize::from(wire::window(emit.scratch)) << shift
        };
        say(SYN, 0, &mut emit);
        say(ACK, 0, &mut emit);
        // The window is a multiple of its unit behind these, and none behind one byte more.
        let first = 1600;
        let offered = say(ACK, first, &mut emit);
        say(ACK, 1, &mut emit);
        let mut left = offered - 1;
        while left > 0 {
            let len = left.min(1400);
            say(ACK, len, &mut emit);
            left -= len;
        }
        assert_eq!(flow.socket().recv_queue(), first + offered);
    }

    /// smoltcp draws our initial number itself; here is seen whether it draws the one that it should.
    #[test]
    fn a_connection_begins_with_the_number_that_it_is_given() {
        let mut scratch = vec![0; super::super::device::LONGEST];
        let (here, there) = (([192, 168, 127, 1].into(), 20_000), ([192, 168, 127, 2].into(), 80));
        for number in [0, 1, 0x1234_5678, 0x8000_0000, u32::MAX] {
            let start = Start { number, stamp: None };
            let buffers = || Buffers::new(|len| Some(vec![0; len]), 4096).unwrap();
            let mut emit = nowhere(&mut scratch);
            let mut active = Flow::connect(Instant::ZERO, here, there, buffers(), 1500, start);
            active.send(Instant::ZERO, &mut emit);
            assert_eq!((active.last.0, active.edge()), (number, number.wrapping_add(1)));
            let mut syn = [0; 40];
            wire::bare_segment(&mut syn, there, here, 77, 0, SYN, 1000);
            let mut passive = Flow::listen(Instant::ZERO, here, buffers(), 1500, start);
            passive.receive(Instant::ZERO, (&syn, wire::window(&syn)), &mut emit);
            assert_eq!(passive.expected(), 78, "known before it is acknowledged");
            passive.send(Instant::ZERO, &mut emit);
            assert_eq!((passive.last, passive.edge()), ((number, 78), number.wrapping_add(1)));
        }
    }
}
