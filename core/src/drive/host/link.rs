//! The streams of frames: what is read goes to the gateway frame by frame, what it has for them is written in one piece.

use super::{Attach, Host, LinkKind, Notice, Source, World};
use crate::{
    drive::Errno,
    drive::VSOCK_WRITE_MAX,
    frame::{Decoder, Framing, MIN_FRAME},
    gateway::{ANONYMOUS, Ended, Handled, PortId, turns},
    time::Instant,
};

/// A stream of frames, from its handshake to its end.
pub(super) struct Link<W: World> {
    stream: W::Stream,
    /// `None` where every message is a frame.
    decoder: Option<Decoder>,
    framing: Option<Framing>,
    writable: bool,
    /// The other side has closed: reading goes on until that has shown.
    hangup: bool,
    /// Largest write.
    max_write: usize,
    /// Bytes at the head of the queue that were captured already.
    captured: usize,
    tenant: u32,
    /// Bytes that may be written before others get their turn.
    may_write: usize,
    /// The decoder has whole frames: its tenant had used its share.
    unfinished: bool,
    /// Nothing is read until then: its enclave has sent others too much, or too much that came to nothing.
    rest: Option<Instant>,
    peer: String,
    ended: Option<W::Reply<()>>,
}

/// Bytes asked of a stream at a time.
const READ: usize = 64 << 10;
/// Bytes read from one link before others get their turn.
const READ_TURN: usize = 4 * READ;
/// Bytes written to one link before others get their turn.
const WRITE_TURN: usize = 1 << 20;
/// Messages read from, and written to, one link before others get their turn.
const MESSAGES_TURN: usize = 256;
/// Work without a bound: for the few frames that came with a handshake.
const ALL: u64 = u64::MAX;
/// What the kernel should hold for a stream in each direction: enough that it is never the stream that is waited for.
const SOCKET_BUFFER: usize = 1 << 20;

impl<W: World> Link<W> {
    /// Who is there, for the log.
    pub(super) fn peer(&self) -> &str {
        &self.peer
    }

    fn rests(&mut self, now: Instant) -> bool {
        self.rest = self.rest.filter(|until| *until > now);
        self.rest.is_some()
    }
}

impl<W: World> Host<W> {
    pub(super) fn attach(&mut self, now: Instant, attach: Attach<W::Stream, W::Reply<()>>) {
        let Attach { mut stream, kind, tenant, peer, received, ended } = attach;
        let framing = match kind {
            LinkKind::Stream(framing) => Some(framing),
            LinkKind::Messages => None,
        };
        let attached = self.gateway.attach(tenant, framing);
        self.turns.spend(tenant, turns::LINK);
        self.end_links();
        let Some(port) = attached else {
            self.counters.refused_links += 1;
            return self.world.tell(Notice::LinkRefused { tenant, peer: &peer });
        };
        // Where the kernel does not want that much it takes what it wants.
        self.world.set_buffers(&mut stream, SOCKET_BUFFER);
        let world = &mut self.world;
        let watched = world.unblock(&mut stream).and_then(|()| world.watch(&mut stream, Source::Link(port)));
        if let Err(error) = watched {
            world.tell(Notice::LinkUnwatched { tenant, peer: &peer, error });
            return self.gateway.detach(port);
        }
        let max_write = if tenant < ANONYMOUS { VSOCK_WRITE_MAX } else { 256 << 10 };
        let decoder = framing.map(|framing| Decoder::with_framing(READ, framing));
        self.world.tell(Notice::LinkUp { tenant, peer: &peer, link: port });
        self.counters.attached += 1;
        self.links.insert(
            port,
            Link {
                stream,
                decoder,
                framing,
                writable: true,
                hangup: false,
                max_write,
                captured: 0,
                may_write: WRITE_TURN,
                tenant,
                unfinished: false,
                rest: None,
                peer,
                ended,
            },
        );
        for chunk in received.chunks(READ) {
            let Some(decoder) = self.links.get_mut(&port).and_then(|link| link.decoder.as_mut()) else { break };
            decoder.space()[..chunk.len()].copy_from_slice(chunk);
            decoder.commit(chunk.len());
            self.frames(now, port, ALL);
        }
        // Bytes may have come before it was watched.
        self.turns.wait(tenant, Source::Link(port));
    }

    pub(super) fn link_ready(&mut self, now: Instant, port: PortId, readable: bool, writable: bool, hangup: bool) {
        let Some(link) = self.links.get_mut(&port) else { return };
        link.hangup |= hangup;
        link.writable |= writable;
        link.may_write = WRITE_TURN;
        let tenant = link.tenant;
        let rests = link.rests(now);
        // Also when its turn's share of writing was used up and nothing has happened since.
        self.write_link(now, port);
        // What rests is looked at when that is over, whatever has come of it.
        if (readable || hangup) && !rests {
            if self.turns.left(tenant) == 0 {
                self.counters.turns_over += 1;
                return self.turns.wait(tenant, Source::Link(port));
            }
            let messages = self.links.get(&port).is_some_and(|link| link.decoder.is_none());
            let more = if messages { self.read_messages(now, port) } else { self.read_stream(now, port) };
            match more {
                Ok(true) => self.turns.wait(tenant, Source::Link(port)),
                Ok(false) => {}
                Err(why) => self.link_lost(port, &why),
            }
        }
    }

    /// Reads up to a turn's share; true if there may be more.
    fn read_stream(&mut self, now: Instant, port: PortId) -> Result<bool, String> {
        let mut left = READ_TURN;
        while left > 0 {
            let Some(link) = self.links.get(&port) else { return Ok(false) };
            let (tenant, unfinished) = (link.tenant, link.unfinished);
            let may = self.turns.left(tenant);
            if may == 0 {
                return Ok(true);
            }
            if unfinished && (!self.frames(now, port, may) || !self.goes_on(port)) {
                return Ok(self.goes_on(port));
            }
            let Some(link) = self.links.get_mut(&port) else { return Ok(false) };
            let Some(decoder) = &mut link.decoder else { return Ok(false) };
            let space = decoder.space();
            let want = space.len();
            match self.world.read(&mut link.stream, space) {
                Ok(0) => {
                    return Err(match decoder.finish() {
                        Ok(()) => "the other side has closed it".to_owned(),
                        Err(truncated) => truncated.to_string(),
                    });
                }
                Ok(n) => {
                    decoder.commit(n);
                    self.turns.spend(tenant, n as u64 / turns::STREAM);
                    let may = self.turns.left(tenant);
                    if !self.frames(now, port, may) || !self.goes_on(port) {
                        return Ok(self.goes_on(port));
                    }
                    let Some(link) = self.links.get(&port) else { return Ok(false) };
                    let Some(decoder) = &link.decoder else { return Ok(false) };
                    if let Some(broken) = decoder.broken() {
                        self.counters.broken += 1;
                        return Err(broken.to_string());
                    }
                    left = left.saturating_sub(n);
                    // A short read emptied the stream; what comes now is an edge. An end, though, may be behind it already.
                    if n < want && !link.hangup {
                        return Ok(false);
                    }
                }
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(errno) if errno.is_shortage() => {
                    self.retry(now, Source::Link(port));
                    return Ok(false);
                }
                Err(errno) => return Err(errno.to_string()),
            }
        }
        Ok(true)
    }

    /// Whether a link with frames left over is looked at in its tenant's next turn, and not only when its rest is over.
    fn goes_on(&self, port: PortId) -> bool {
        self.links.get(&port).is_some_and(|link| link.rest.is_none())
    }

    /// Hands the decoder's frames to the gateway, for so much work. False if there are more.
    fn frames(&mut self, now: Instant, port: PortId, may: u64) -> bool {
        // The decoder stays with its link unless the gateway's work, which never touches links, needs the whole worker.
        let Some(mut decoder) = self.links.get_mut(&port).and_then(|link| link.decoder.take()) else { return true };
        let (runts, useless, mut work, mut finished) = (decoder.runts(), self.gateway.useless(), 0, false);
        let mut rest = None;
        while work < may && (rest.is_none() || may == ALL) {
            let Some(frame) = decoder.next_frame() else {
                finished = true;
                break;
            };
            let (cost, until) = self.frame(now, port, frame);
            (work, rest) = (work + cost, until);
        }
        self.counters.runts += decoder.runts() - runts;
        let useless = decoder.runts() - runts + self.gateway.useless() - useless;
        rest = rest.max(self.gateway.handle_useless(now, port, useless));
        let Some(link) = self.links.get_mut(&port) else { return finished };
        let tenant = link.tenant;
        link.decoder = Some(decoder);
        link.unfinished = !finished;
        self.rest(port, rest);
        // What it has for other links goes out before there is more: their share for that is small.
        while let Some(crowded) = self.gateway.poll_crowded() {
            work += self.write_link(now, crowded) as u64 / turns::STREAM;
        }
        self.turns.spend(tenant, work);
        finished
    }

    fn read_messages(&mut self, now: Instant, port: PortId) -> Result<bool, String> {
        let Some(tenant) = self.links.get(&port).map(|link| link.tenant) else { return Ok(false) };
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut result = Ok(true);
        let (may, useless, mut work, mut rest) = (self.turns.left(tenant), self.gateway.useless(), 0, None);
        for _ in 0..MESSAGES_TURN {
            if work >= may || rest.is_some() {
                break;
            }
            let Some(link) = self.links.get_mut(&port) else { break };
            work += turns::DATAGRAM;
            match self.world.read(&mut link.stream, &mut buffer) {
                Ok(0) => {
                    result = Err("the other side has closed it".to_owned());
                    break;
                }
                Ok(n) if n < MIN_FRAME => self.counters.runts += 1,
                Ok(n) => {
                    let (cost, until) = self.frame(now, port, &buffer[..n]);
                    (work, rest) = (work + cost, until);
                }
                Err(Errno::AGAIN) => {
                    result = Ok(false);
                    break;
                }
                Err(Errno::INTR) => {}
                Err(errno) if errno.is_shortage() => {
                    self.retry(now, Source::Link(port));
                    result = Ok(false);
                    break;
                }
                Err(errno) => {
                    result = Err(errno.to_string());
                    break;
                }
            }
        }
        self.buffer = buffer;
        self.turns.spend(tenant, work);
        let useless = self.gateway.useless() - useless;
        rest = rest.max(self.gateway.handle_useless(now, port, useless));
        self.rest(port, rest);
        // When its rest is over it is looked at in any case.
        if rest.is_some() && result.is_ok() { Ok(false) } else { result }
    }

    /// Reads nothing more of a link until then.
    fn rest(&mut self, port: PortId, until: Option<Instant>) {
        if let (Some(link), Some(until)) = (self.links.get_mut(&port), until) {
            link.rest = Some(until);
            self.retries.insert((until, Source::Link(port)));
        }
    }

    /// A frame; gives the work that it was, and until when its link is to rest.
    fn frame(&mut self, now: Instant, port: PortId, frame: &[u8]) -> (u64, Option<Instant>) {
        let changes = self.gateway.changes();
        let (mut work, mut rest) = (turns::FRAME, None);
        self.world.frame_in(now, port, frame);
        match self.gateway.handle_frame(now, port, frame) {
            Handled::Done => {}
            Handled::Rest { until } => rest = Some(until),
            Handled::Datagram { session, kind, to, payload, hop_limit } => {
                work += turns::DATAGRAM;
                self.send_datagram(session, kind, to, &payload, hop_limit);
            }
            Handled::Dns { client, query } => {
                work += turns::QUESTION;
                let tenant = self.links.get(&port).map_or(ANONYMOUS, |link| link.tenant);
                if !self.world.ask(tenant, client, query.into_owned()) {
                    self.counters.questions_dropped += 1;
                    self.gateway.forget_dns(client);
                }
            }
        }
        (work + (self.gateway.changes() - changes) * turns::OPENING, rest)
    }

    /// Writes what waits for a link, up to a turn's share; gives how many bytes that were.
    pub(super) fn write_link(&mut self, now: Instant, port: PortId) -> usize {
        let mut total = 0;
        loop {
            let Some(link) = self.links.get_mut(&port).filter(|link| link.writable) else { return total };
            let pending = self.gateway.pending(port);
            if pending.is_empty() {
                return total;
            }
            if link.may_write == 0 {
                self.turns.wait(link.tenant, Source::Link(port));
                return total;
            }
            // Between messages, where no prefix is sent, the queue has QEMU's.
            let framing = link.framing.unwrap_or(Framing::Qemu);
            link.captured = self.world.frames_out(now, port, pending, link.captured, framing);
            let (before, messages) = (pending.len(), link.decoder.is_none());
            let written = if messages {
                let Some(frame) = self.gateway.next_frame(port) else { return total };
                self.world.write(&mut link.stream, frame)
            } else {
                self.world.write(&mut link.stream, &pending[..before.min(link.max_write)])
            };
            let more = match written {
                // A message that the kernel will never take goes too; without it the others go on.
                Ok(_) | Err(Errno::MSGSIZE) if messages => self.gateway.consume_frame(port),
                Ok(n) => self.gateway.consume(port, n),
                Err(Errno::AGAIN) => {
                    link.writable = false;
                    return total;
                }
                Err(Errno::INTR) => continue,
                // The stream is as it was: what was not taken is offered again.
                Err(errno) if errno.is_shortage() => {
                    link.writable = false;
                    self.retry(now, Source::Link(port));
                    return total;
                }
                Err(errno) => {
                    self.link_lost(port, &errno.to_string());
                    return total;
                }
            };
            let taken = before - self.gateway.pending(port).len();
            link.captured = link.captured.saturating_sub(taken);
            link.may_write = link.may_write.saturating_sub(taken);
            total += taken;
            if more {
                self.gateway.flush(now);
            }
        }
    }

    /// Closes what the gateway has ended.
    pub(super) fn end_links(&mut self) {
        while let Some((port, why)) = self.gateway.poll_ended() {
            self.link_lost(
                port,
                match why {
                    Ended::Mute => "no frame has come since it began",
                    Ended::Crowded => "there is no room for more links, and its enclave or listener has most of them",
                },
            );
        }
    }

    pub(super) fn link_lost(&mut self, port: PortId, why: &str) {
        let Some(link) = self.links.remove(&port) else { return };
        self.gateway.detach(port);
        self.turns.spend(link.tenant, turns::LINK);
        self.world.tell(Notice::LinkDown { tenant: link.tenant, peer: &link.peer, link: port, why });
        if let Some(ended) = link.ended {
            self.world.reply(ended, ());
        }
    }
}
