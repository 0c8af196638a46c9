//! One TCP connection: a smoltcp interface with a single socket.

use super::{device::Slot, vnet::Packet};
use nitrotap_core::time::Instant;
use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    socket::tcp,
    time::{Duration as SmolDuration, Instant as SmolInstant},
    wire::{HardwareAddress, IpCidr, IpListenEndpoint, Ipv4Address},
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
    pub(super) fn handle_packet(&mut self, now: Instant, packet: Vec<u8>) -> Vec<Packet> {
        self.device.rx = Some(packet);
        self.poll(now)
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
