//! A small world: streams, datagram sockets and ports that do what a test tells them, and a note of all that was done.

use crate::{
    drive::{
        Errno,
        host::{
            Complaint, Control, Datagrams, Local, Notice, Ports, Ready, Received, Request, Source, Streams, View,
            Watch, World,
        },
    },
    frame::Framing,
    gateway::{Kind, PortId, Target, publishing::Asker},
    time::Instant,
};
use core::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use std::{cell::RefCell, collections::VecDeque, io, rc::Rc};

/// Something that the loop has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Done {
    Request,
    Frame,
    /// Bytes of the stream with this number.
    Read(usize, usize),
    Wrote(usize, usize),
    Finished(usize),
    Sent(Vec<u8>),
    Accepted,
}

/// One stream, as the world holds it.
#[derive(Debug)]
pub(super) struct End {
    source: Option<Source>,
    /// What the loop may read, and whether an end is behind it.
    pub(super) input: VecDeque<u8>,
    pub(super) end: bool,
    /// What the next readings and writings say instead.
    pub(super) read_errors: VecDeque<Errno>,
    pub(super) write_errors: VecDeque<Errno>,
    /// What the loop has written, and how much more it may.
    pub(super) output: Vec<u8>,
    pub(super) room: usize,
    pub(super) finished: bool,
    pub(super) reset: bool,
    /// How a connection is begun, and answered.
    pub(super) begun: Result<(), Errno>,
    pub(super) answer: Result<(), Errno>,
}

/// A published port.
#[derive(Debug, Default)]
pub(super) struct Port {
    source: Option<Source>,
    pub(super) clients: VecDeque<Result<usize, Errno>>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Fake {
    pub(super) now: Instant,
    /// For the next wait.
    pub(super) news: Vec<Ready>,
    pub(super) requests: VecDeque<Request<Self>>,
    pub(super) ends: Vec<End>,
    /// How connections to the world are begun and answered.
    pub(super) begun: Option<Errno>,
    /// Streams that were connected to the world, in that order.
    pub(super) dialed: Vec<usize>,
    pub(super) ports: Vec<Port>,
    pub(super) done: Vec<Done>,
    pub(super) told: Vec<String>,
    /// Frames that were shown before they were offered to a link.
    pub(super) shown: Vec<(PortId, Vec<u8>)>,
    /// How long the last wait might have been.
    pub(super) timeout: Option<Duration>,
    /// What one call of `elapse` takes.
    pub(super) cost: Duration,
    pub(super) turns: u64,
}

impl Fake {
    pub(super) fn stream(&mut self) -> usize {
        self.ends.push(End {
            source: None,
            input: VecDeque::new(),
            end: false,
            read_errors: VecDeque::new(),
            write_errors: VecDeque::new(),
            output: Vec::new(),
            room: usize::MAX,
            finished: false,
            reset: false,
            begun: Ok(()),
            answer: Ok(()),
        });
        self.ends.len() - 1
    }

    /// Bytes have come.
    pub(super) fn arrive(&mut self, stream: usize, bytes: &[u8]) {
        self.ends[stream].input.extend(bytes);
        self.tell_of(stream, true, false, false);
    }

    /// Bytes have come, and the end behind them.
    pub(super) fn arrive_last(&mut self, stream: usize, bytes: &[u8]) {
        self.ends[stream].input.extend(bytes);
        self.ends[stream].end = true;
        self.tell_of(stream, true, false, true);
    }

    /// The stream takes so many bytes more.
    pub(super) fn make_room(&mut self, stream: usize, room: usize) {
        self.ends[stream].room = room;
        self.tell_of(stream, false, true, false);
    }

    /// News of a stream, for the next wait.
    pub(super) fn tell_of(&mut self, stream: usize, readable: bool, writable: bool, hangup: bool) {
        let Some(source) = self.ends[stream].source else { return };
        match self.news.iter_mut().find(|ready| ready.source == source) {
            Some(ready) => {
                ready.readable |= readable;
                ready.writable |= writable;
                ready.hangup |= hangup;
            }
            None => self.news.push(Ready { source, readable, writable, hangup }),
        }
    }

    /// A client, or an error, waits at a published port.
    pub(super) fn come(&mut self, port: usize, client: Result<usize, Errno>) {
        self.ports[port].clients.push_back(client);
        if let Some(source) = self.ports[port].source {
            self.news.push(Ready { source, readable: true, writable: false, hangup: false });
        }
    }

    /// Bytes read from and written to a stream since this was last asked.
    pub(super) fn moved(&mut self, stream: usize) -> (usize, usize) {
        let mut moved = (0, 0);
        for done in self.done.drain(..) {
            match done {
                Done::Read(from, n) if from == stream => moved.0 += n,
                Done::Wrote(to, n) if to == stream => moved.1 += n,
                Done::Read(..)
                | Done::Wrote(..)
                | Done::Request
                | Done::Frame
                | Done::Finished(_)
                | Done::Sent(_)
                | Done::Accepted => {}
            }
        }
        moved
    }
}

impl World for Fake {
    type News = Vec<Ready>;

    fn now(&self) -> Instant {
        self.now
    }

    async fn wait(&mut self, news: &mut Vec<Ready>, timeout: Option<Duration>) -> Result<(), Errno> {
        news.clear();
        news.append(&mut self.news);
        self.timeout = timeout;
        Ok(())
    }

    async fn elapse(&mut self, now: Instant) -> Instant {
        self.now = now + self.cost;
        self.now
    }
}

impl Streams for Fake {
    type Stream = usize;

    fn open(&mut self, _: SocketAddr) -> Result<usize, Errno> {
        let stream = self.stream();
        self.ends[stream].begun = self.begun.map_or(Ok(()), Err);
        self.dialed.push(stream);
        Ok(stream)
    }

    fn connect(&mut self, stream: &mut usize, _: SocketAddr) -> Result<(), Errno> {
        self.ends[*stream].begun
    }

    fn answer(&mut self, stream: &mut usize) -> Result<(), Errno> {
        self.ends[*stream].answer
    }

    fn unblock(&mut self, _: &mut usize) -> Result<(), Errno> {
        Ok(())
    }

    fn watch(&mut self, stream: &mut usize, source: Source) -> Result<(), Errno> {
        self.ends[*stream].source = Some(source);
        if !self.ends[*stream].input.is_empty() {
            self.tell_of(*stream, true, true, false);
        }
        Ok(())
    }

    fn tune(&mut self, _: &mut usize) {}

    fn set_buffers(&mut self, _: &mut usize, _: usize) {}

    fn read(&mut self, stream: &mut usize, space: &mut [u8]) -> Result<usize, Errno> {
        let end = &mut self.ends[*stream];
        if let Some(errno) = end.read_errors.pop_front() {
            return Err(errno);
        }
        if end.input.is_empty() && !end.end {
            return Err(Errno::AGAIN);
        }
        let n = space.len().min(end.input.len());
        for (to, from) in space.iter_mut().zip(end.input.drain(..n)) {
            *to = from;
        }
        self.done.push(Done::Read(*stream, n));
        Ok(n)
    }

    fn write(&mut self, stream: &mut usize, bytes: &[u8]) -> Result<usize, Errno> {
        let end = &mut self.ends[*stream];
        if let Some(errno) = end.write_errors.pop_front() {
            return Err(errno);
        }
        if end.room == 0 {
            return Err(Errno::AGAIN);
        }
        let n = bytes.len().min(end.room);
        end.room -= n;
        end.output.extend_from_slice(&bytes[..n]);
        self.done.push(Done::Wrote(*stream, n));
        Ok(n)
    }

    fn finish(&mut self, stream: &mut usize) {
        self.ends[*stream].finished = true;
        self.done.push(Done::Finished(*stream));
    }

    fn reset(&mut self, stream: &mut usize) {
        self.ends[*stream].reset = true;
    }

    fn local_address(&mut self, _: &mut usize) -> Option<SocketAddr> {
        Some(([198, 51, 100, 1], 443).into())
    }
}

impl Datagrams for Fake {
    type Datagrams = ();

    fn talk(&mut self, _: Kind, _: SocketAddr) -> Result<(), Errno> {
        Ok(())
    }

    fn watch_datagrams(&mut self, (): &mut (), _: Source) -> Result<(), Errno> {
        Ok(())
    }

    fn receive(&mut self, (): &mut (), _: &mut [u8]) -> Result<usize, Errno> {
        Err(Errno::AGAIN)
    }

    fn send(&mut self, (): &mut (), payload: &[u8]) -> Result<(), Errno> {
        self.done.push(Done::Sent(payload.to_vec()));
        Ok(())
    }

    fn source_address(&mut self, (): &mut ()) -> Option<IpAddr> {
        None
    }

    fn path_mtu(&mut self, (): &mut (), _: SocketAddr) -> Option<u32> {
        None
    }

    fn set_hop_limit(&mut self, (): &mut (), _: SocketAddr, _: u8) {}

    fn hear_complaints(&mut self, (): &mut (), _: SocketAddr) -> bool {
        false
    }

    fn complaint(&mut self, (): &mut ()) -> Result<Option<Complaint>, Errno> {
        Err(Errno::AGAIN)
    }
}

impl Ports for Fake {
    type Listener = usize;

    fn listen(&mut self, local: &Local, source: Source) -> Result<(usize, SocketAddr), io::Error> {
        self.ports.push(Port { source: Some(source), clients: VecDeque::new() });
        let (Local::Tcp(address) | Local::Udp(address)) = local else { return Err(io::ErrorKind::Unsupported.into()) };
        Ok((self.ports.len() - 1, *address))
    }

    fn accept(&mut self, listener: &mut usize) -> Result<(usize, Option<SocketAddr>), Errno> {
        let client = self.ports[*listener].clients.pop_front().unwrap_or(Err(Errno::AGAIN))?;
        self.done.push(Done::Accepted);
        Ok((client, Some(([203, 0, 113, 77], 50_000).into())))
    }

    fn receive_from(&mut self, _: &mut usize, _: &mut [u8]) -> Result<Received, Errno> {
        Err(Errno::AGAIN)
    }

    fn send_to(&mut self, _: &mut usize, _: &[u8], _: SocketAddr, _: Option<IpAddr>) -> Result<(), Errno> {
        Ok(())
    }

    fn may_send_packets(&self, _: bool) -> bool {
        false
    }

    fn send_packet(&mut self, _: &[u8], _: SocketAddr) -> bool {
        false
    }
}

impl Control for Fake {
    type Reply<T> = Rc<RefCell<Option<T>>>;

    fn take_request(&mut self) -> Option<Request<Self>> {
        let request = self.requests.pop_front()?;
        self.done.push(Done::Request);
        Some(request)
    }

    fn reply<T>(&mut self, reply: Self::Reply<T>, value: T) {
        *reply.borrow_mut() = Some(value);
    }

    fn ask(&mut self, _: u32, _: u64, _: Vec<u8>) -> bool {
        true
    }

    fn serve(&mut self, _: Target, _: Asker) -> Result<Option<usize>, Errno> {
        Ok(None)
    }

    fn tell(&mut self, notice: Notice<'_>) {
        self.told.push(format!("{notice:?}"));
    }

    fn publish(&mut self, view: View<'_, Self>) {
        self.turns += 1;
        assert_eq!(view.counters().turns, self.turns);
    }
}

impl Watch for Fake {
    fn frame_in(&mut self, _: Instant, _: PortId, _: &[u8]) {
        self.done.push(Done::Frame);
    }

    fn frames_out(&mut self, _: Instant, port: PortId, pending: &[u8], mut seen: usize, framing: Framing) -> usize {
        while let Some((frame, len)) = pending.get(seen..).and_then(|rest| framing.split(rest)) {
            self.shown.push((port, frame.to_vec()));
            seen += len;
        }
        seen
    }
}
