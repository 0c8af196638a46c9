//! One TCP connection: a smoltcp interface with a single socket.

use super::{device::Slot, vnet::Packet};
use nitrotap_core::time::Instant;
use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    phy::ChecksumCapabilities,
    socket::tcp,
    time::{Duration as SmolDuration, Instant as SmolInstant},
    wire::{
        HardwareAddress, IpCidr, IpListenEndpoint, IpProtocol, Ipv4Address, Ipv4Packet, Ipv4Repr, TcpControl,
        TcpPacket, TcpRepr, TcpSeqNumber,
    },
};
use std::{net::Ipv4Addr, task::Waker, time::Duration};

/// What every connection of a host has in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct FlowConfig {
    pub(super) mtu: usize,
    pub(super) buffer: usize,
    pub(super) ack_delay: Option<Duration>,
    pub(super) user_timeout: Duration,
    pub(super) trusting: bool,
    pub(super) offload: bool,
}

/// See the module.
pub(super) struct Flow {
    iface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    device: Slot,
    ack_delay: Option<SmolDuration>,
    /// The peer's window was closed when it was last heard of.
    shut: bool,
    /// Our end waits for the bytes before it: see [`Flow::close`].
    ending: bool,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
    /// Nobody holds it any more.
    pub(super) orphaned: Option<Instant>,
    /// It came from a listener that has not handed it out.
    pub(super) unaccepted: bool,
    /// The listener knows of it.
    pub(super) announced: bool,
    /// It was established at some time.
    pub(super) established: bool,
    /// Its number among the host's connections.
    pub(super) serial: u64,
    /// When the host will look at it again.
    pub(super) scheduled: Option<Instant>,
}

impl Flow {
    fn new(now: Instant, local: Ipv4Addr, config: FlowConfig, seed: u64) -> Self {
        let mut device = Slot::new(config.mtu, config.trusting, config.offload);
        let mut iface_config = Config::new(HardwareAddress::Ip);
        iface_config.random_seed = seed;
        let mut iface = Interface::new(iface_config, &mut device, smol(now));
        iface.update_ip_addrs(|addrs| {
            // One address into a list made for more.
            let pushed = addrs.push(IpCidr::new(local.into(), 32));
            debug_assert!(pushed.is_ok());
        });
        let routed = iface.routes_mut().add_default_ipv4_route(Ipv4Address::new(192, 0, 2, 1));
        debug_assert!(routed.is_ok(), "an empty table has room for a default route");
        let buffer = || tcp::SocketBuffer::new(vec![0; config.buffer]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        let ack_delay = config.ack_delay.map(smol_duration);
        socket.set_ack_delay(ack_delay);
        socket.set_timeout(Some(smol_duration(config.user_timeout)));
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Self {
            iface,
            sockets,
            handle,
            device,
            ack_delay,
            shut: false,
            ending: false,
            reader: None,
            writer: None,
            orphaned: None,
            unaccepted: false,
            announced: false,
            established: false,
            serial: 0,
            scheduled: None,
        }
    }

    /// A connection that a SYN is about to open.
    pub(super) fn listen(now: Instant, local: (Ipv4Addr, u16), config: FlowConfig, seed: u64) -> Self {
        let mut flow = Self::new(now, local.0, config, seed);
        let endpoint = IpListenEndpoint { addr: Some(local.0.into()), port: local.1 };
        let listening = flow.socket().listen(endpoint);
        debug_assert!(listening.is_ok(), "a new socket on a port other than 0 can listen");
        flow.unaccepted = true;
        flow
    }

    /// A connection that sends a SYN.
    pub(super) fn connect(
        now: Instant,
        local: (Ipv4Addr, u16),
        peer: (Ipv4Addr, u16),
        config: FlowConfig,
        seed: u64,
    ) -> Self {
        let mut flow = Self::new(now, local.0, config, seed);
        let socket = flow.sockets.get_mut::<tcp::Socket<'_>>(flow.handle);
        let connecting = socket.connect(flow.iface.context(), peer, local);
        debug_assert!(connecting.is_ok(), "a new socket with addresses and ports can connect");
        flow
    }

    /// Answers a packet that belongs to no connection: smoltcp's own reset, whose checksum Linux leaves to nobody
    /// (`ip_send_unicast_reply`).
    pub(super) fn reject(now: Instant, local: Ipv4Addr, packet: Vec<u8>, config: FlowConfig) -> Vec<Packet> {
        let mut flow = Self::new(now, local, FlowConfig { buffer: 1, offload: false, ..config }, 0);
        flow.device.rx = Some(packet);
        flow.poll(now)
    }

    pub(super) fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    pub(super) fn state(&self) -> tcp::State {
        self.sockets.get::<tcp::Socket<'_>>(self.handle).state()
    }

    /// Takes a packet in and gives those that it caused.
    pub(super) fn handle_packet(&mut self, now: Instant, mut packet: Vec<u8>) -> Vec<Packet> {
        let is_of_use = |it: &Acknowledged| self.shut || it.window == 0;
        let is_right = |_: &Acknowledged| self.device.trusting || has_right_sum(&packet);
        match Acknowledged::parse(&packet).filter(is_of_use).filter(is_right) {
            Some(it) => {
                let was_shut = std::mem::replace(&mut self.shut, it.window == 0);
                if it.window == 0 && self.state() == tcp::State::LastAck {
                    // smoltcp 0.14 ignores windows here unless something is acknowledged with them: it would probe for one that
                    // opens, and not send again what was lost meanwhile. With room for a byte it sends that again.
                    set_window(&mut packet, 1);
                }
                self.take(now, packet);
                if was_shut && it.window != 0 && self.socket().send_queue() > 0 {
                    // smoltcp 0.14 forgets to send again what is under way when a window closes, and does not think of it when
                    // it opens. The same acknowledgement three times has it do what Linux and gVisor do by their timers.
                    for _ in 0..3 {
                        self.take(now, it.packet(it.window));
                    }
                } else if it.window == 0 && self.state() == tcp::State::FinWait2 {
                    // Nothing is left to probe with, but smoltcp 0.14 may not have stopped to, and then never ends to
                    // acknowledge. No window matters any more.
                    self.take(now, it.packet(1));
                }
            }
            None => self.take(now, packet),
        }
        self.poll(now)
    }

    fn take(&mut self, now: Instant, packet: Vec<u8>) {
        self.device.rx = Some(packet);
        self.iface.poll_ingress_single(smol(now), &mut self.device, &mut self.sockets);
    }

    /// Nothing more will be sent.
    ///
    /// In LAST-ACK smoltcp 0.14 does not hear of a window that opens, so it gets there only once no window matters.
    pub(super) fn close(&mut self) {
        if self.shut && self.state() == tcp::State::CloseWait && self.socket().send_queue() > 0 {
            self.ending = true;
        } else {
            self.socket().close();
        }
    }

    /// The same for a packet that stands for several segments: more than one is acknowledged at once
    /// (`__tcp_ack_snd_check`), where smoltcp waits for a second packet.
    pub(super) fn handle_super_packet(&mut self, now: Instant, packet: Vec<u8>) -> Vec<Packet> {
        let delay = self.ack_delay;
        self.socket().set_ack_delay(delay.map(|_| SmolDuration::ZERO));
        let made = self.handle_packet(now, packet);
        self.socket().set_ack_delay(delay);
        made
    }

    /// Lets time and the application's calls take effect.
    pub(super) fn poll(&mut self, now: Instant) -> Vec<Packet> {
        if self.ending && self.socket().send_queue() == 0 {
            self.ending = false;
            self.socket().close();
        }
        self.iface.poll(smol(now), &mut self.device, &mut self.sockets);
        self.wake();
        self.device.tx.drain(..).collect()
    }

    pub(super) fn poll_at(&mut self, now: Instant) -> Option<Instant> {
        let at = self.iface.poll_at(smol(now), &self.sockets)?;
        let at = Instant::from_nanos(u64::try_from(at.total_micros()).unwrap_or(0).saturating_mul(1000));
        // smoltcp counts in microseconds and we in nanoseconds: what is due in this microsecond is due in the next.
        Some(at.max(Instant::from_nanos(now.as_nanos() + 1000)))
    }

    /// It is gone: whoever waits for it is told.
    pub(super) fn wake_all(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }

    fn wake(&mut self) {
        let socket = self.sockets.get::<tcp::Socket<'_>>(self.handle);
        let state = socket.state();
        let open = !matches!(state, tcp::State::Listen | tcp::State::SynSent | tcp::State::SynReceived);
        self.established |= open && state != tcp::State::Closed;
        if open
            && (socket.can_recv() || !socket.may_recv())
            && let Some(waker) = self.reader.take()
        {
            waker.wake();
        }
        if open
            && (socket.can_send() || !socket.may_send())
            && let Some(waker) = self.writer.take()
        {
            waker.wake();
        }
    }
}

/// What the segment of a packet says of what its sender has, and of its window.
#[derive(Clone, Copy, Debug)]
struct Acknowledged {
    from: (Ipv4Addr, u16),
    to: (Ipv4Addr, u16),
    /// What its sender sends next.
    sequence: TcpSeqNumber,
    acknowledgement: TcpSeqNumber,
    window: u16,
}

impl Acknowledged {
    /// `None` if it begins a connection, resets one, or is none.
    fn parse(packet: &[u8]) -> Option<Self> {
        let ip = Ipv4Packet::new_checked(packet).ok()?;
        let (from, to) = (ip.src_addr(), ip.dst_addr());
        let tcp = TcpPacket::new_checked(ip.payload()).ok()?;
        let said = tcp.ack() && !tcp.syn() && !tcp.rst();
        said.then(|| Self {
            from: (from, tcp.src_port()),
            to: (to, tcp.dst_port()),
            sequence: tcp.seq_number() + tcp.segment_len(),
            acknowledgement: tcp.ack_number(),
            window: tcp.window_len(),
        })
    }

    /// A packet that says nothing else, with this window.
    fn packet(&self, window: u16) -> Vec<u8> {
        let tcp = TcpRepr {
            src_port: self.from.1,
            dst_port: self.to.1,
            control: TcpControl::None,
            seq_number: self.sequence,
            ack_number: Some(self.acknowledgement),
            window_len: window,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: &[],
        };
        packet(self.from.0, self.to.0, &tcp)
    }
}

fn packet(from: Ipv4Addr, to: Ipv4Addr, tcp: &TcpRepr<'_>) -> Vec<u8> {
    let payload_len = tcp.buffer_len();
    let ip = Ipv4Repr { src_addr: from, dst_addr: to, next_header: IpProtocol::Tcp, payload_len, hop_limit: 64 };
    let mut bytes = vec![0; ip.buffer_len() + payload_len];
    let mut into = Ipv4Packet::new_unchecked(&mut bytes);
    ip.emit(&mut into, &ChecksumCapabilities::default());
    let mut into = TcpPacket::new_unchecked(into.payload_mut());
    tcp.emit(&mut into, &from.into(), &to.into(), &ChecksumCapabilities::default());
    bytes
}

/// Whether the checksum of a packet's segment is that of its bytes.
fn has_right_sum(packet: &[u8]) -> bool {
    let ip = Ipv4Packet::new_unchecked(packet);
    TcpPacket::new_unchecked(ip.payload()).verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into())
}

/// Lets a packet's segment say another window.
fn set_window(packet: &mut [u8], window: u16) {
    let mut ip = Ipv4Packet::new_unchecked(packet);
    let (from, to) = (ip.src_addr().into(), ip.dst_addr().into());
    let mut tcp = TcpPacket::new_unchecked(ip.payload_mut());
    tcp.set_window_len(window);
    tcp.fill_checksum(&from, &to);
}

impl std::fmt::Debug for Flow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flow").field("state", &self.state()).field("orphaned", &self.orphaned).finish_non_exhaustive()
    }
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

    const PEER: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 0, 0, 1), 1000);
    const LOCAL: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 0, 0, 2), 80);

    /// A connection that a peer has opened, and the number of our first byte and of the peer's next one.
    struct Talk {
        flow: Flow,
        first: TcpSeqNumber,
        next: TcpSeqNumber,
    }

    impl Talk {
        fn new() -> Self {
            let config = FlowConfig {
                mtu: 1500,
                buffer: 16_384,
                ack_delay: None,
                user_timeout: Duration::from_secs(120),
                trusting: false,
                offload: false,
            };
            let flow = Flow::listen(Instant::ZERO, LOCAL, config, 1);
            let mut talk = Self { flow, first: TcpSeqNumber(0), next: TcpSeqNumber(1) };
            let answer = talk.flow.handle_packet(Instant::ZERO, talk.segment(TcpControl::Syn, None, 10_000));
            talk.first = TcpPacket::new_unchecked(&answer[0].bytes[20..]).seq_number() + 1;
            talk.next += 1;
            talk.say(0, TcpControl::None, 0, 10_000);
            talk
        }

        fn segment(&self, control: TcpControl, ack_number: Option<TcpSeqNumber>, window_len: u16) -> Vec<u8> {
            let tcp = TcpRepr {
                src_port: PEER.1,
                dst_port: LOCAL.1,
                control,
                seq_number: self.next,
                ack_number,
                window_len,
                window_scale: None,
                max_seg_size: None,
                sack_permitted: false,
                sack_ranges: [None; 3],
                timestamp: None,
                payload: &[],
            };
            packet(PEER.0, LOCAL.0, &tcp)
        }

        /// The peer says that it has so many bytes, and its window. Gives what follows.
        fn say(&mut self, ms: u64, control: TcpControl, has: usize, window: u16) -> Vec<(usize, usize, bool)> {
            let segment = self.segment(control, Some(self.first + has), window);
            self.next += control.len();
            let sent = self.flow.handle_packet(Instant::from_millis(ms), segment);
            self.places(sent)
        }

        fn wait(&mut self, ms: u64) -> Vec<(usize, usize, bool)> {
            let sent = self.flow.poll(Instant::from_millis(ms));
            self.places(sent)
        }

        fn write(&mut self, bytes: usize) -> Vec<(usize, usize, bool)> {
            assert_eq!(self.flow.socket().send_slice(&vec![7; bytes]), Ok(bytes));
            self.wait(0)
        }

        /// Of each segment with bytes or an end: where it begins, how long it is, and whether it is the end.
        fn places(&self, sent: Vec<Packet>) -> Vec<(usize, usize, bool)> {
            let places = sent.iter().map(|packet| {
                let tcp = TcpPacket::new_unchecked(&packet.bytes[20..]);
                (tcp.seq_number() - self.first, tcp.payload().len(), tcp.fin())
            });
            places.filter(|(_, len, end)| *len > 0 || *end).collect()
        }
    }

    #[test]
    fn what_was_lost_while_a_window_closed_is_sent_again_when_it_opens() {
        for ends in [false, true] {
            let mut talk = Talk::new();
            if ends {
                talk.say(0, TcpControl::Fin, 0, 10_000);
            }
            talk.write(2000);
            assert_eq!(talk.say(1, TcpControl::None, 1999, 0), []);
            assert_eq!(talk.say(2, TcpControl::None, 1999, 10_000), [(1999, 1, false)], "the peer has ended: {ends}");
        }
    }

    #[test]
    fn an_end_waits_for_what_a_closed_window_keeps_back() {
        let mut talk = Talk::new();
        talk.say(0, TcpControl::Fin, 0, 10_000);
        talk.write(2000);
        talk.say(1, TcpControl::None, 1999, 0);
        talk.flow.close();
        assert_eq!(talk.wait(2), []);
        assert_eq!(talk.say(3, TcpControl::None, 1999, 10_000), [(1999, 1, false)]);
        assert_eq!(talk.say(4, TcpControl::None, 2000, 10_000), [(2000, 0, true)]);
        talk.say(5, TcpControl::None, 2001, 10_000);
        assert_eq!(talk.flow.state(), tcp::State::Closed);
    }

    #[test]
    fn what_was_lost_while_a_window_closed_is_sent_again_though_both_sides_have_ended() {
        let mut talk = Talk::new();
        talk.say(0, TcpControl::Fin, 0, 10_000);
        talk.write(2000);
        talk.flow.close();
        assert_eq!(talk.wait(0), [(2000, 0, true)]);
        assert_eq!(talk.say(1, TcpControl::None, 1998, 0), []);
        talk.say(2, TcpControl::None, 1998, 10_000);
        assert_eq!(talk.wait(60_000), [(1998, 1, false)]);
        talk.say(60_001, TcpControl::None, 1999, 10_000);
        assert_eq!(talk.wait(119_000).last(), Some(&(1999, 1, true)));
        talk.say(119_001, TcpControl::None, 2001, 10_000);
        assert_eq!(talk.flow.state(), tcp::State::Closed);
    }

    #[test]
    fn nothing_is_probed_for_once_all_is_acknowledged() {
        let mut talk = Talk::new();
        talk.write(10);
        talk.flow.close();
        talk.wait(0);
        // Probed for from here on.
        talk.say(1, TcpControl::None, 9, 0);
        talk.say(2, TcpControl::None, 11, 0);
        assert_eq!(talk.flow.state(), tcp::State::FinWait2);
        assert!(talk.flow.poll(Instant::from_millis(100_000)).is_empty());
    }
}
