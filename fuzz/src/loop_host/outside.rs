//! The operations of a world made from bytes. What happens in it beside them is in `steps`, and what must be true in `audit`.

use super::{
    ends::{Dial, Edges, End, Handle, Handles, OfLink, Port, Socket},
    guest::Guests,
    pattern,
};
use crate::world::Script;
use nitrotap_core::{
    drive::{
        Errno, VSOCK_WRITE_MAX,
        host::{
            Complaint, Control, Datagrams, Local, Notice, Ports, Ready, Received, Request, Source, Streams, View,
            Watch, World,
        },
    },
    frame::{Framing, MIN_FRAME},
    gateway::{FlowStatus, Kind, PortId, Target, publishing::Asker},
    time::Instant,
};
use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::Duration,
};

/// Too many open files.
pub(super) const EMFILE: Errno = Errno::from_raw(24);
/// The first port of the world that guests connect to; the connection's number is added.
pub(super) const WORLD: u16 = 1000;

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The bytes say what happens.
    Script,
    /// All is well, and everything that was begun must get on by itself.
    Calm,
    /// Everybody ends what there is.
    End,
    /// The loop was told to stop, or cannot go on.
    Over,
}

/// What was true at the end of the last turn.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) flows: BTreeMap<Source, Option<FlowStatus>>,
    pub(super) links: BTreeMap<Source, usize>,
    pub(super) sessions: BTreeSet<Source>,
}

pub(super) struct Outside<'d> {
    pub(super) script: Script<'d>,
    /// Every call on a stream takes a byte.
    pub(super) nervous: bool,
    /// News tell all that is true, as those of the kernel; else what has happened and no more.
    pub(super) talkative: bool,
    pub(super) limited: bool,
    pub(super) clock: u64,
    pub(super) handles: Handles,
    pub(super) is_over: Rc<Cell<bool>>,
    pub(super) stage: Stage,
    pub(super) began: Instant,
    pub(super) guests: Guests,
    pub(super) ends: Vec<End>,
    pub(super) sockets: Vec<Socket>,
    pub(super) ports: Vec<Port>,
    pub(super) links: BTreeMap<PortId, usize>,
    pub(super) requests: VecDeque<Request<Self>>,
    pub(super) questions: VecDeque<(u64, Vec<u8>)>,
    pub(super) edges: Edges,
    /// Names of datagrams that guests have sent, and the last name of all.
    pub(super) sent: BTreeSet<u16>,
    pub(super) name: u16,
    pub(super) seen: Seen,
    /// Something has passed since the last wait; turns in which nothing did, and since when they are counted.
    pub(super) moved: bool,
    pub(super) idle: (Instant, u32),
}

enum Mood {
    Fine,
    Short(usize),
    Signal,
    Shortage,
    Fail,
}

impl Outside<'_> {
    /// The kernel takes what it takes.
    fn take(&mut self, n: usize, bytes: &[u8]) -> Result<usize, Errno> {
        let mut most = bytes.len();
        match self.mood() {
            Mood::Fine => {}
            Mood::Short(len) => most = most.min(len),
            // No write that does not block is interrupted.
            Mood::Signal => {}
            Mood::Shortage => {
                self.ends[n].shortage = Some(self.time());
                return Err(Errno::NOBUFS);
            }
            Mood::Fail if matches!(self.ends[n].link, Some(OfLink { framing: None, .. })) => {
                let shown = self.ends[n].forget_shown();
                assert!(shown.as_deref() == Some(bytes), "a frame that was not shown, or not in that order");
                return Err(Errno::MSGSIZE);
            }
            Mood::Fail => {
                let errno = self.script.failure();
                self.fail(n, errno);
            }
        }
        self.moved = true;
        let end = &mut self.ends[n];
        assert!(!end.finished && end.dial == Dial::Stands, "nothing more can be written: {end:?}");
        if end.error.is_some() || end.refuses {
            let error = end.error.filter(|_| !end.eaten && !end.read_error);
            end.eaten |= error.is_some();
            end.refused = true;
            return Err(error.unwrap_or(Errno::PIPE));
        }
        if let Some(OfLink { framing: None, .. }) = end.link {
            most = bytes.len();
        }
        if end.room == 0 {
            end.full = true;
            return Err(Errno::AGAIN);
        }
        let len = if matches!(end.link, Some(OfLink { framing: None, .. })) { most } else { most.min(end.room) };
        end.room = if end.room == usize::MAX { end.room } else { end.room.saturating_sub(len) };
        end.full = len < bytes.len() && end.room == 0;
        if len < bytes.len() && end.room > 0 {
            // There is room again in this moment.
            self.tell(n, (false, true, false));
        }
        let end = &mut self.ends[n];
        match end.link {
            Some(OfLink { framing, .. }) => {
                end.passed += len;
                assert!(len <= VSOCK_WRITE_MAX, "a write of {len} bytes");
                if framing.is_none() {
                    end.output.extend(Framing::Qemu.prefix(len).map_or([0; 4], |(prefix, _)| prefix));
                }
                end.output.extend(&bytes[..len]);
            }
            None => end.incoming.take(&bytes[..len]),
        }
        Ok(len)
    }

    fn mood(&mut self) -> Mood {
        if !self.nervous || self.script.is_over() {
            return Mood::Fine;
        }
        match self.script.byte() {
            0xc0..0xd0 => Mood::Short(1 + self.script.up_to(200)),
            0xd0..0xd8 => Mood::Signal,
            0xd8..0xe0 => Mood::Shortage,
            0xe0..0xf0 => {
                self.step();
                Mood::Fine
            }
            0xf0.. if self.script.byte() == 7 => Mood::Fail,
            _ => Mood::Fine,
        }
    }

    pub(super) fn time(&self) -> Instant {
        Instant::from_nanos(self.clock)
    }

    pub(super) fn stream(&mut self, link: Option<OfLink>) -> Handle {
        let (handle, weak) = self.handles.make(self.ends.len());
        self.ends.push(End::new(weak, link));
        handle
    }

    /// Something has happened to a stream.
    pub(super) fn tell(&mut self, stream: usize, edge: (bool, bool, bool)) {
        if let Some(source) = self.ends[stream].source {
            self.edges.tell(source, edge);
        }
    }

    /// Bytes or an end have come.
    pub(super) fn readable(&mut self, stream: usize) {
        let hangup = self.ends[stream].is_gone();
        if !matches!(self.ends[stream].dial, Dial::Begun(_)) {
            self.tell(stream, (true, false, hangup));
        }
    }

    /// The other side of a stream fails.
    pub(super) fn fail(&mut self, stream: usize, errno: Errno) {
        let errno = if errno.is_shortage() { Errno::CONNRESET } else { errno };
        let end = &mut self.ends[stream];
        if !end.is_gone() && end.dial == Dial::Stands {
            end.error = Some(errno);
            self.tell(stream, (true, true, true));
        }
    }

    fn read_link(&mut self, n: usize, space: &mut [u8], most: usize) -> usize {
        let end = &mut self.ends[n];
        if let Some(message) = end.messages.pop_front() {
            let len = message.len().min(space.len());
            space[..len].copy_from_slice(&message[..len]);
            return len;
        }
        let len = most.min(end.input.len());
        for (to, from) in space.iter_mut().zip(end.input.drain(..len)) {
            *to = from;
        }
        len
    }
}

impl Streams for Outside<'_> {
    type Stream = Handle;

    fn open(&mut self, to: SocketAddr) -> Result<Handle, Errno> {
        let talk = self.guests.talks.get_mut(usize::from(to.port().wrapping_sub(WORLD)));
        let Some(talk) = talk else { panic!("nobody has asked for {to}") };
        // It had been refused, and its next attempt was on its way.
        talk.shaky |= talk.refused;
        let result = match self.script.byte() {
            0xf0.. => Err(EMFILE),
            0xe0.. => Err(Errno::NOBUFS),
            _ => Ok(()),
        };
        talk.refused |= result.is_err();
        result?;
        let handle = self.stream(None);
        self.ends[*handle].dial = Dial::Failed;
        Ok(handle)
    }

    fn connect(&mut self, stream: &mut Handle, to: SocketAddr) -> Result<(), Errno> {
        let talk = to.port().wrapping_sub(WORLD);
        let end = &mut self.ends[**stream];
        end.incoming.name = Some(talk);
        let (dial, result) = match self.script.byte() & 7 {
            0..4 => (Dial::Begun(true), Err(Errno::INPROGRESS)),
            4 | 5 => (Dial::Begun(false), Err(Errno::INPROGRESS)),
            6 => (Dial::Stands, Ok(())),
            _ => (Dial::Failed, Err(self.script.failure())),
        };
        end.dial = dial;
        let talk = &mut self.guests.talks[usize::from(talk)];
        if end.dial != Dial::Failed {
            talk.incoming.name = Some(**stream as u16);
        }
        talk.refused |= end.dial == Dial::Failed;
        result
    }

    fn answer(&mut self, stream: &mut Handle) -> Result<(), Errno> {
        let end = &mut self.ends[**stream];
        let Dial::Answered(result) = end.dial else { panic!("nobody has answered: {end:?}") };
        end.dial = if result.is_ok() { Dial::Stands } else { Dial::Failed };
        let talk = end.incoming.name.and_then(|name| self.guests.talks.get_mut(usize::from(name)));
        talk.into_iter().for_each(|talk| talk.refused |= result.is_err());
        self.moved = true;
        result
    }

    fn unblock(&mut self, _: &mut Handle) -> Result<(), Errno> {
        if self.script.byte() >= 0xf8 { Err(Errno::INVAL) } else { Ok(()) }
    }

    fn watch(&mut self, stream: &mut Handle, source: Source) -> Result<(), Errno> {
        if self.script.byte() >= 0xf8 {
            let end = &mut self.ends[**stream];
            end.dial = Dial::Failed;
            let talk = end.incoming.name.and_then(|name| self.guests.talks.get_mut(usize::from(name)));
            talk.into_iter().for_each(|talk| talk.refused = true);
            return Err(Errno::NOMEM);
        }
        assert!(self.ends[**stream].source.is_none(), "watched twice");
        self.ends[**stream].source = Some(source);
        if let Source::Link(port) = source {
            self.links.insert(port, **stream);
        }
        let state = self.ends[**stream].state();
        self.tell(**stream, state);
        Ok(())
    }

    fn tune(&mut self, _: &mut Handle) {}

    fn set_buffers(&mut self, _: &mut Handle, _: usize) {}

    fn read(&mut self, stream: &mut Handle, space: &mut [u8]) -> Result<usize, Errno> {
        let n = **stream;
        let mut most = space.len();
        match self.mood() {
            Mood::Fine => {}
            Mood::Short(len) => most = most.min(len),
            Mood::Signal => return Err(Errno::INTR),
            Mood::Shortage => {
                self.ends[n].shortage = Some(self.time());
                return Err(Errno::NOMEM);
            }
            Mood::Fail => {
                let errno = self.script.failure();
                self.fail(n, errno);
            }
        }
        let end = &mut self.ends[n];
        self.moved |= end.is_readable();
        assert!(!end.read_error && end.dial == Dial::Stands, "nothing more can be read: {end:?}");
        let len = if end.link.is_some() {
            self.read_link(n, space, most)
        } else {
            let len = most.min(end.given - end.taken);
            pattern::fill(n as u16, end.taken, &mut space[..len]);
            end.taken += len;
            len
        };
        let end = &mut self.ends[n];
        if len > 0 {
            end.passed += len;
            if len < space.len() && end.is_readable() {
                // It has come in this moment.
                self.readable(n);
            }
            return Ok(len);
        }
        match end.error.filter(|_| !end.eaten) {
            Some(errno) => {
                end.read_error = true;
                Err(errno)
            }
            None if end.is_gone() => {
                // Again where a write of the same look had no memory.
                assert!(!end.read_end || end.shortage.is_some(), "an end that was read: {end:?}");
                end.read_end = true;
                Ok(0)
            }
            None => Err(Errno::AGAIN),
        }
    }

    fn write(&mut self, stream: &mut Handle, bytes: &[u8]) -> Result<usize, Errno> {
        let n = **stream;
        assert!(!bytes.is_empty(), "an empty write");
        let written = self.take(n, bytes);
        let (now, end) = (self.time(), &mut self.ends[n]);
        // A message that is too long is left out, and nothing waits for it.
        end.outwards.note(now, written == Ok(bytes.len()) || written == Err(Errno::MSGSIZE));
        written
    }

    fn finish(&mut self, stream: &mut Handle) {
        let end = &mut self.ends[**stream];
        assert!(!end.finished, "ended twice");
        end.finished = true;
        self.check_finish(**stream);
    }

    fn reset(&mut self, stream: &mut Handle) {
        self.ends[**stream].reset = true;
    }

    fn local_address(&mut self, _: &mut Handle) -> Option<SocketAddr> {
        Some(([198, 51, 100, 1], 443).into())
    }
}

impl Datagrams for Outside<'_> {
    type Datagrams = Handle;

    fn talk(&mut self, kind: Kind, _: SocketAddr) -> Result<Handle, Errno> {
        match self.script.byte() {
            0xf8.. => return Err(EMFILE),
            0xf0.. => return Err(Errno::NETUNREACH),
            0xe8.. => return Err(Errno::ACCESS),
            _ => {}
        }
        let (handle, weak) = self.handles.make(self.sockets.len());
        let (inbox, complaints) = (VecDeque::new(), VecDeque::new());
        self.sockets.push(Socket { handle: weak, kind, source: None, inbox, complaints, shortage: None });
        Ok(handle)
    }

    fn watch_datagrams(&mut self, socket: &mut Handle, source: Source) -> Result<(), Errno> {
        if self.script.byte() >= 0xf8 {
            return Err(Errno::NOMEM);
        }
        self.sockets[**socket].source = Some(source);
        Ok(())
    }

    fn receive(&mut self, socket: &mut Handle, space: &mut [u8]) -> Result<usize, Errno> {
        let mood = self.mood();
        let now = self.time();
        let socket = &mut self.sockets[**socket];
        match mood {
            Mood::Signal => return Err(Errno::INTR),
            Mood::Shortage => {
                socket.shortage = Some(now);
                return Err(Errno::NOMEM);
            }
            Mood::Fine | Mood::Short(_) | Mood::Fail => {}
        }
        self.moved = true;
        let datagram = socket.inbox.pop_front().unwrap_or(Err(Errno::AGAIN)).inspect_err(|errno| {
            if errno.is_shortage() {
                socket.shortage = Some(now);
            }
        })?;
        space[..datagram.len()].copy_from_slice(&datagram);
        Ok(datagram.len())
    }

    fn send(&mut self, socket: &mut Handle, payload: &[u8]) -> Result<(), Errno> {
        let body = if self.sockets[**socket].kind == Kind::Udp { payload } else { &payload[8..] };
        let name = u16::from_be_bytes([body[0], body[1]]);
        assert!(pattern::is(name, 0, body), "a datagram that no guest has sent");
        match self.script.byte() {
            0xfc.. => Err(Errno::MSGSIZE),
            0xf8.. => Err(Errno::CONNREFUSED),
            0xf4.. => Err(Errno::NETUNREACH),
            0xf0.. => Err(Errno::AGAIN),
            _ => {
                assert!(self.sent.remove(&name), "datagram {name} was sent twice");
                Ok(())
            }
        }
    }

    fn source_address(&mut self, _: &mut Handle) -> Option<IpAddr> {
        Some([10, 0, 0, self.script.byte() & 1].into())
    }

    fn path_mtu(&mut self, _: &mut Handle, _: SocketAddr) -> Option<u32> {
        Some(1280)
    }

    fn set_hop_limit(&mut self, _: &mut Handle, _: SocketAddr, _: u8) {}

    fn hear_complaints(&mut self, _: &mut Handle, _: SocketAddr) -> bool {
        self.script.byte() & 1 == 0
    }

    fn complaint(&mut self, socket: &mut Handle) -> Result<Option<Complaint>, Errno> {
        self.sockets[**socket].complaints.pop_front().map(Some).ok_or(Errno::AGAIN)
    }
}

impl Ports for Outside<'_> {
    type Listener = Handle;

    fn listen(&mut self, local: &Local, source: Source) -> Result<(Handle, SocketAddr), io::Error> {
        if self.script.byte() >= 0xf0 {
            return Err(Errno::ADDRINUSE.into());
        }
        let (handle, weak) = self.handles.make(self.ports.len());
        let udp = matches!(local, Local::Udp(_));
        let (clients, inbox) = (VecDeque::new(), VecDeque::new());
        self.ports.push(Port { handle: weak, source, udp, clients, inbox, shortage: None });
        let (Local::Tcp(address) | Local::Udp(address)) = local else { return Err(io::ErrorKind::Unsupported.into()) };
        Ok((handle, *address))
    }

    fn accept(&mut self, listener: &mut Handle) -> Result<(Handle, Option<SocketAddr>), Errno> {
        self.moved = true;
        let now = self.time();
        let port = &mut self.ports[**listener];
        let client = port.clients.pop_front().unwrap_or(Err(Errno::AGAIN)).inspect_err(|errno| {
            if *errno == EMFILE {
                port.shortage = Some(now);
            }
        })?;
        let number = *client as u16;
        Ok((client, Some(([203, 0, 113, 200], number).into())))
    }

    fn receive_from(&mut self, listener: &mut Handle, space: &mut [u8]) -> Result<Received, Errno> {
        self.moved = true;
        let now = self.time();
        let port = &mut self.ports[**listener];
        let datagram = port.inbox.pop_front().unwrap_or(Err(Errno::AGAIN)).inspect_err(|errno| {
            if errno.is_shortage() {
                port.shortage = Some(now);
            }
        })?;
        space[..datagram.len()].copy_from_slice(&datagram);
        let client = ([203, 0, 113, 201], 50_000 + u16::from(datagram[0] & 3)).into();
        Ok(Received { len: datagram.len(), client: Some(client), asked: None })
    }

    fn send_to(&mut self, _: &mut Handle, payload: &[u8], _: SocketAddr, _: Option<IpAddr>) -> Result<(), Errno> {
        let name = u16::from_be_bytes([payload[0], payload[1]]);
        assert!(pattern::is(name, 0, payload), "a datagram that no guest has sent");
        assert!(self.sent.remove(&name), "datagram {name} was sent twice");
        Ok(())
    }

    fn may_send_packets(&self, _: bool) -> bool {
        true
    }

    fn send_packet(&mut self, _: &[u8], _: SocketAddr) -> bool {
        true
    }
}

impl Control for Outside<'_> {
    type Reply<T> = Handle;

    fn take_request(&mut self) -> Option<Request<Self>> {
        let request = self.requests.pop_front()?;
        self.moved = true;
        self.is_over.set(self.is_over.get() || matches!(request, Request::Stop));
        Some(request)
    }

    fn reply<T>(&mut self, _: Handle, _: T) {}

    fn ask(&mut self, _: u32, client: u64, query: Vec<u8>) -> bool {
        let takes = self.script.byte() < 0xf0;
        if takes {
            self.questions.push_back((client, query));
        }
        takes
    }

    fn serve(&mut self, _: Target, _: Asker) -> Result<Option<Handle>, Errno> {
        match self.script.byte() {
            0xf8.. => Err(EMFILE),
            0xf0.. => Ok(None),
            _ => Ok(Some(self.stream(None))),
        }
    }

    fn tell(&mut self, _: Notice<'_>) {}

    fn publish(&mut self, view: View<'_, Self>) {
        self.see(&view);
    }
}

impl Watch for Outside<'_> {
    fn frame_in(&mut self, _: Instant, port: PortId, frame: &[u8]) {
        let Some(end) = self.links.get(&port).map(|n| &mut self.ends[*n]) else { panic!("a frame of no link") };
        let Some(next) = end.coming.pop_front() else { panic!("a frame that no guest has sent") };
        assert!(next == frame, "another frame than the next: {} bytes, not {}", frame.len(), next.len());
    }

    fn frames_out(&mut self, _: Instant, port: PortId, pending: &[u8], mut seen: usize, framing: Framing) -> usize {
        let Some(end) = self.links.get(&port).map(|n| &mut self.ends[*n]) else { panic!("frames for no link") };
        while let Some((frame, len)) = pending.get(seen..).and_then(|rest| framing.split(rest)) {
            assert!(frame.len() >= MIN_FRAME, "a frame of {} bytes", frame.len());
            end.shown.push_back(frame.to_vec());
            seen += len;
        }
        seen
    }
}

impl World for Outside<'_> {
    type News = Vec<Ready>;

    fn now(&self) -> Instant {
        self.time()
    }

    async fn wait(&mut self, news: &mut Vec<Ready>, timeout: Option<Duration>) -> Result<(), Errno> {
        assert!(!self.is_over.get(), "a wait after the end");
        self.check(timeout);
        if self.stage == Stage::Script && self.script.is_over() {
            self.stage = Stage::Calm;
            self.began = self.time();
            self.calm();
        }
        let go_on = self.happen();
        if self.edges.is_empty() && self.requests.is_empty() {
            self.pass(timeout);
        }
        *news = self.edges.take();
        if self.talkative {
            self.tell_all(news);
        }
        self.moved = false;
        go_on
    }

    async fn elapse(&mut self, _: Instant) -> Instant {
        self.clock += 200;
        self.time()
    }
}
