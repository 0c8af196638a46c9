//! What happens in the world between and within the loop's turns: steps of the script, the guests, and the time.

use super::{
    ends::{Dial, Handle, OfLink},
    guest::{self, GATEWAY, SERVER},
    outside::{EMFILE, Outside, Stage, WORLD},
    pattern,
};
use nitrotap_core::{
    drive::{
        Errno,
        host::{Attach, Complaint, Forward, LinkKind, Local, Ready, Request, Tunnel, Who},
    },
    frame::{Framing, MIN_FRAME},
    gateway::policy::HostAddresses,
};
use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

/// Connections that guests begin, and the world, and datagrams, links and published ports in all: what an input may do.
const TALKS: usize = 8;
const CLIENTS: usize = 6;
const DATAGRAMS: usize = 200;
const LINKS: usize = 12;
const PORTS: usize = 8;
/// Bytes of each direction of a connection.
const MOST: usize = 1 << 20;
/// Names of datagrams begin where those of connections end.
pub(super) const NAMES: u16 = 10_000;
const STRANGER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

/// Few bytes, or many.
const fn amount(byte: u8) -> usize {
    if byte < 128 { byte as usize * 20 + 1 } else { (byte as usize - 127) * 4096 }
}

impl Outside<'_> {
    /// Everything that happens until the loop goes on; an error if it cannot.
    pub(super) fn happen(&mut self) -> Result<(), Errno> {
        let mut go_on = Ok(());
        if self.stage == Stage::Script {
            while self.step() {}
            if self.script.byte() == 0xff && self.script.byte() == 0xff {
                self.is_over.set(true);
                go_on = Err(Errno::INVAL);
            }
        }
        if self.stage == Stage::End {
            self.end_all();
        }
        for n in 0..self.ends.len() {
            if self.ends[n].dial == Dial::Begun(true) && self.ends[n].source.is_some() {
                self.answer_dial(n, Ok(()));
            }
        }
        self.talk();
        go_on
    }

    /// Guests hear what has come for them, and say what they have to say.
    pub(super) fn talk(&mut self) {
        let now = self.time();
        for n in 0..self.ends.len() {
            let end = &mut self.ends[n];
            if let Some(OfLink { guest, .. }) = end.link
                && end.inwards.pass(now) | end.outwards.pass(now)
            {
                self.shake(guest);
            }
        }
        for end in &mut self.ends {
            let Some(OfLink { guest, framing }) = end.link else { continue };
            let output = std::mem::take(&mut end.output);
            let mut rest = &output[..];
            while let Some((frame, len)) = framing.unwrap_or(Framing::Qemu).split(rest) {
                let shown = end.shown.pop_front();
                assert!(shown.as_deref() == Some(frame), "a frame that was not shown, or not in that order");
                if !end.is_gone() {
                    self.guests.hear(now, guest, frame);
                }
                rest = &rest[len..];
            }
            end.output = rest.to_vec();
        }
        self.guests.speak(now);
        for guest in 0..self.guests.all.len() {
            let frames = std::mem::take(&mut self.guests.all[guest].out);
            let is_it = |link: &OfLink| link.guest == guest;
            let Some(n) = self.ends.iter().rposition(|end| end.link.as_ref().is_some_and(is_it)) else { continue };
            if self.ends[n].is_gone() || !self.ends[n].is_held() {
                continue;
            }
            for frame in frames {
                self.say(n, frame);
            }
            self.send_staged(n);
        }
    }

    /// A frame for a link.
    fn say(&mut self, n: usize, frame: Vec<u8>) {
        let end = &mut self.ends[n];
        let Some(OfLink { framing, .. }) = end.link else { return };
        match framing {
            None => end.messages.push_back(frame.clone()),
            Some(Framing::Hyperkit) => end.staged.extend((frame.len() as u16).to_le_bytes()),
            Some(Framing::Qemu) => end.staged.extend((frame.len() as u32).to_be_bytes()),
        }
        if framing.is_some() {
            end.staged.extend(&frame);
        }
        if frame.len() >= MIN_FRAME {
            end.coming.push_back(frame);
        }
        if framing.is_none() {
            self.readable(n);
        }
    }

    /// What is on its way to the loop arrives, but for what waits for more.
    fn send_staged(&mut self, n: usize) {
        let (time, end) = (self.time(), &mut self.ends[n]);
        let now = end.staged.len().saturating_sub(end.slack);
        end.input.extend(end.staged.drain(..now));
        end.inwards.note(time, end.staged.is_empty());
        if now > 0 {
            self.readable(n);
        }
    }

    fn answer_dial(&mut self, n: usize, result: Result<(), Errno>) {
        if matches!(self.ends[n].dial, Dial::Begun(_)) {
            self.ends[n].dial = Dial::Answered(result);
            self.tell(n, (result.is_err(), true, result.is_err()));
        }
    }

    /// One of those streams that are held, by a byte.
    fn pick(&mut self, of_links: Option<bool>) -> Option<usize> {
        let byte = usize::from(self.script.byte());
        let fits = |n: &usize| {
            let end = &self.ends[*n];
            end.is_held() && of_links.is_none_or(|of_links| end.link.is_some() == of_links)
        };
        let all: Vec<usize> = (0..self.ends.len()).filter(fits).collect();
        (!all.is_empty()).then(|| all[byte % all.len()])
    }

    fn pick_talk(&mut self) -> Option<usize> {
        let byte = usize::from(self.script.byte());
        (!self.guests.talks.is_empty()).then(|| byte % self.guests.talks.len())
    }

    fn next_name(&mut self) -> Option<u16> {
        self.name += 1;
        (usize::from(self.name - NAMES) < DATAGRAMS).then_some(self.name)
    }

    fn give(&mut self, n: usize, bytes: usize) {
        let end = &mut self.ends[n];
        if !end.is_gone() && matches!(end.dial, Dial::Stands) {
            end.given = (end.given + bytes).min(MOST);
            self.readable(n);
        }
    }

    fn end(&mut self, n: usize) {
        let end = &mut self.ends[n];
        if !end.is_gone() && matches!(end.dial, Dial::Stands) {
            // So much that everybody can tell who it was.
            end.given = end.given.max(2);
            end.end = true;
            self.readable(n);
        }
    }

    fn make_room(&mut self, n: usize, room: usize) {
        let end = &mut self.ends[n];
        end.room = room;
        if end.full && room > 0 {
            end.full = false;
            self.tell(n, (false, true, false));
        }
    }

    /// One thing happens. True if more does before the loop goes on.
    pub(super) fn step(&mut self) -> bool {
        let byte = self.script.byte();
        let how = byte >> 4 & 7;
        match byte & 15 {
            1 => self.open(how),
            2 => {
                if let Some(talk) = self.pick_talk() {
                    let more = amount(self.script.byte());
                    let talk = &mut self.guests.talks[talk];
                    talk.total = if talk.ends { talk.total } else { (talk.total + more).min(MOST) };
                }
            }
            3 => {
                if let Some(talk) = self.pick_talk() {
                    let talk = &mut self.guests.talks[talk];
                    if how < 6 {
                        (talk.total, talk.ends) = (talk.total.max(2), true);
                    } else if how == 7 {
                        self.guests.reset(usize::from(self.script.byte()) % self.guests.talks.len());
                    }
                }
            }
            4 => self.guest_datagram(how),
            5 | 6 => {
                if let Some(n) = self.pick(Some(false)) {
                    let bytes = amount(self.script.byte());
                    self.give(n, bytes);
                    if how == 7 {
                        self.end(n);
                    }
                }
            }
            7 => {
                if let Some(n) = self.pick(Some(false)) {
                    match how {
                        0..3 => self.end(n),
                        3 => self.fail(n, Errno::CONNRESET),
                        4 => self.ends[n].refuses = true,
                        5 => {
                            let errno = self.script.failure();
                            self.answer_dial(n, Err(errno));
                        }
                        _ => self.answer_dial(n, Ok(())),
                    }
                }
            }
            8 => {
                if let Some(n) = self.pick((how < 4).then_some(how < 2)) {
                    let byte = self.script.byte();
                    self.make_room(n, if byte == 0 { 0 } else { amount(byte) });
                }
            }
            9 => self.world_datagram(how),
            10 => self.come(how),
            11 => self.request(how),
            12 => self.link_step(how),
            13 => {
                let steps = u64::from(self.script.byte());
                self.clock += 1_000_000 * if how == 7 { steps * steps } else { steps };
                if steps > 200 && how == 7 {
                    self.guests.talks.iter_mut().for_each(|talk| talk.shaky = true);
                }
            }
            14 => {
                if let Some(talk) = self.pick_talk() {
                    self.guests.talks[talk].set_window(how & 1 == 0);
                }
            }
            15 => self.talk(),
            _ => {}
        }
        byte & 0x80 != 0 && !self.script.is_over()
    }

    /// A guest begins a connection.
    fn open(&mut self, how: u8) {
        if self.guests.talks.len() >= TALKS {
            return;
        }
        let guest = usize::from(self.script.byte()) % self.guests.all.len();
        let to = match how {
            6 => SocketAddrV4::new(GATEWAY, 53),
            7 => SocketAddrV4::new(GATEWAY, 80),
            _ => SocketAddrV4::new(STRANGER, WORLD + self.guests.talks.len() as u16),
        };
        self.guests.open(self.time(), guest, to);
    }

    fn guest_datagram(&mut self, how: u8) {
        let guest = usize::from(self.script.byte()) % self.guests.all.len();
        if how == 7 {
            // A question without an answer yet.
            let question = [&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1][..], b"a\0\0\x01\0\x01"].concat();
            return self.guests.datagram(guest, 17, SocketAddrV4::new(GATEWAY, 53), 64, &question);
        }
        let Some(name) = self.next_name() else { return };
        self.sent.insert(name);
        let body = pattern::make(name, 2 + self.script.up_to(255) * 4);
        let protocol = if how == 6 { 1 } else { 17 };
        let hops = if how == 5 { 3 } else { 64 };
        let to = SocketAddrV4::new(STRANGER, 5000 + u16::from(how & 3));
        self.guests.datagram(guest, protocol, to, hops, &body);
    }

    fn world_datagram(&mut self, how: u8) {
        let held: Vec<usize> = (0..self.sockets.len()).filter(|n| self.sockets[*n].handle.strong_count() > 0).collect();
        let byte = usize::from(self.script.byte());
        if held.is_empty() {
            return;
        }
        let n = held[byte % held.len()];
        let news = match how {
            0..5 => {
                let Some(name) = self.next_name() else { return };
                let body = pattern::make(name, 2 + self.script.up_to(255) * 4);
                self.guests.owed.insert(name);
                Ok(body)
            }
            5 => Err([Errno::CONNREFUSED, Errno::HOSTUNREACH][byte & 1]),
            6 => {
                let quoted = pattern::make(NAMES, 8);
                let from = STRANGER.into();
                self.sockets[n].complaints.push_back(Complaint { kind: 11, from, quoted });
                Err(Errno::HOSTUNREACH)
            }
            _ => Err(Errno::NOBUFS),
        };
        self.sockets[n].inbox.push_back(news);
        if let Some(source) = self.sockets[n].source {
            self.edges.tell(source, (true, false, false));
        }
    }

    /// Somebody comes to a published port.
    fn come(&mut self, how: u8) {
        let held: Vec<usize> = (0..self.ports.len()).filter(|n| self.ports[*n].handle.strong_count() > 0).collect();
        let byte = usize::from(self.script.byte());
        if held.is_empty() {
            return;
        }
        let n = held[byte % held.len()];
        if self.ports[n].udp {
            let Some(name) = self.next_name() else { return };
            let news = if how == 7 { Err(Errno::NOBUFS) } else { Ok(pattern::make(name, 2 + byte)) };
            if news.is_ok() {
                self.guests.owed.insert(name);
            }
            self.ports[n].inbox.push_back(news);
        } else if how >= 6 {
            self.ports[n].clients.push_back(Err(if how == 6 { Errno::CONNABORTED } else { EMFILE }));
        } else if let Some(client) = self.client() {
            if how & 1 == 1 {
                self.ends[*client].given = amount(byte as u8).max(2);
                self.ends[*client].end = how == 5;
            }
            self.ports[n].clients.push_back(Ok(client));
        }
        self.edges.tell(self.ports[n].source, (true, false, false));
    }

    fn client(&mut self) -> Option<Handle> {
        let clients = self.ends.iter().filter(|end| end.link.is_none() && end.incoming.name.is_none()).count();
        (clients < CLIENTS).then(|| self.stream(None))
    }

    fn request(&mut self, how: u8) {
        let (unwatched, _) = self.handles.make(0);
        let byte = self.script.byte();
        let guest = usize::from(byte >> 4) % self.guests.all.len();
        let (tcp, port) = (byte & 1 == 0, u16::from(byte & 3));
        let name = format!(":{}", 9000 + port);
        let request = match how {
            0..3 if self.ports.len() < PORTS => {
                let at = ([0, 0, 0, 0], 9000 + port).into();
                let local = if tcp { Local::Tcp(at) } else { Local::Udp(at) };
                let proxy_protocol = byte & 2 == 2;
                let server = SERVER + port;
                if tcp && proxy_protocol {
                    self.guests.with_header.insert(server);
                }
                let to = (guest::address(guest), server).into();
                Request::Expose(Who::Operator, Forward { name, local, to, proxy_protocol }, unwatched)
            }
            3 => Request::Unexpose(Who::Operator, if tcp { "tcp" } else { "udp" }, name, unwatched),
            4 => {
                let Some(stream) = self.client() else { return };
                let mut received = vec![0; amount(self.script.byte() & 127)];
                pattern::fill(*stream as u16, 0, &mut received);
                let end = &mut self.ends[*stream];
                (end.given, end.taken) = (received.len(), received.len());
                Request::Tunnel(Tunnel { stream, to: (guest::address(guest), SERVER + 9).into(), received })
            }
            5 => {
                let Some((client, mut answer)) = self.questions.pop_front() else { return };
                answer[2] |= 0x80;
                Request::DnsAnswer { client, answer }
            }
            6 => {
                // Each of them is work: so many are left for the next turn.
                self.requests.extend((0..byte).map(|_| Request::Alive(self.handles.make(0).0)));
                Request::Stats(unwatched)
            }
            _ if byte == 0x77 => Request::Stop,
            _ => Request::HostAddresses(HostAddresses::default()),
        };
        self.requests.push_back(request);
    }

    fn link_step(&mut self, how: u8) {
        let Some(n) = self.pick(Some(true)) else { return };
        let Some(OfLink { guest, framing }) = self.ends[n].link else { return };
        match how {
            0 => self.ends[n].slack = usize::from(self.script.byte()),
            1 | 2 => {
                let len = usize::from(self.script.byte()) * usize::from(how * how);
                self.say(n, vec![7; 1 + len]);
            }
            3 if self.script.byte() & 7 == 7 => {
                self.send_staged(n);
                self.ends[n].end = true;
                self.readable(n);
                self.shake(guest);
            }
            4 if self.script.byte() & 7 == 7 => {
                self.fail(n, Errno::CONNRESET);
                self.shake(guest);
            }
            5 => {
                let byte = self.script.byte();
                if byte & 7 == 7 {
                    self.attach(guest, framing, byte);
                }
            }
            _ => {}
        }
    }

    /// Frames of a guest, or for it, are lost.
    pub(super) fn shake(&mut self, guest: usize) {
        self.guests.talks.iter_mut().filter(|talk| talk.guest == guest).for_each(|talk| talk.shaky = true);
    }

    /// A link of a guest begins, with bytes that were read during its handshake.
    pub(super) fn attach(&mut self, guest: usize, framing: Option<Framing>, received: u8) {
        if self.ends.iter().filter(|end| end.link.is_some()).count() >= LINKS {
            return;
        }
        for n in 0..self.ends.len() {
            if self.ends[n].link.is_some_and(|link| link.guest == guest) && !self.ends[n].is_gone() {
                self.send_staged(n);
                self.ends[n].end = true;
                self.readable(n);
                self.shake(guest);
            }
        }
        let stream = self.stream(Some(OfLink { guest, framing }));
        let n = *stream;
        for frame in std::mem::take(&mut self.guests.all[guest].out) {
            self.say(n, frame);
        }
        let end = &mut self.ends[n];
        let first = end.staged.len().min(usize::from(received));
        let received = end.staged.drain(..first).collect();
        self.send_staged(n);
        let ended = Some(self.handles.make(0).0);
        let (tenant, peer) = (16 + guest as u32 % 2, format!("guest {guest}"));
        let kind = framing.map_or(LinkKind::Messages, LinkKind::Stream);
        self.requests.push_back(Request::Attach(Box::new(Attach { stream, kind, tenant, peer, received, ended })));
    }

    /// From now on nothing stands in the way of anybody.
    pub(super) fn calm(&mut self) {
        for n in 0..self.ends.len() {
            self.ends[n].slack = 0;
            self.make_room(n, usize::MAX);
            self.answer_dial(n, Ok(()));
        }
        self.guests.talks.iter_mut().for_each(|talk| talk.set_window(false));
        for guest in 0..self.guests.all.len() {
            let last = self.ends.iter().rfind(|end| end.link.is_some_and(|link| link.guest == guest));
            if last.is_none_or(|end| end.is_gone() || !end.is_held()) {
                let framing = last.and_then(|end| end.link).and_then(|link| link.framing);
                self.attach(guest, framing, 0);
            }
        }
    }

    /// Everybody ends what there is.
    fn end_all(&mut self) {
        for talk in &mut self.guests.talks {
            (talk.total, talk.ends) = (talk.total.max(2), true);
        }
        for n in 0..self.ends.len() {
            if self.ends[n].link.is_none() {
                self.end(n);
            }
        }
    }

    /// Nothing happens until something is due: a deadline of the loop's, or of a guest's.
    pub(super) fn pass(&mut self, timeout: Option<Duration>) {
        let most = Duration::from_millis(if self.stage == Stage::Script { 1 } else { 500 });
        let time = timeout.map_or(most, |timeout| timeout.min(most));
        self.clock += u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    }

    /// As the kernel does, which looks when it is asked: all that is true of what something has happened to.
    pub(super) fn tell_all(&self, news: &mut [Ready]) {
        for ready in news {
            let is_it = |n: &usize| self.ends[*n].source == Some(ready.source);
            let Some(n) = (0..self.ends.len()).find(is_it) else { continue };
            let (readable, writable, hangup) = self.ends[n].state();
            ready.readable |= readable;
            ready.writable |= writable;
            ready.hangup |= hangup;
        }
    }
}
