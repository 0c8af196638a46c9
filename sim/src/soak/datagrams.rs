//! Clients inside the enclave that send datagrams, pings and questions for names, and what they make of what comes back.

use super::{
    clients::{Client, NOWHERE, OUTSIDE, PATIENCE},
    pattern,
    run::ECHO,
};
use crate::{
    check::Invariant,
    gvproxy::GATEWAY,
    native::{datagrams::router, names},
    rng::mix,
    stack::{Heard, StackDatagrams, TOO_LONG},
    world::ServerSide,
};
use std::{collections::BTreeMap, io, net::Ipv4Addr, time::Duration};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Longest wait for an answer, after which the question is asked again, as resolvers do: nobody promises a datagram.
const ROUND: Duration = Duration::from_secs(6);

/// How often something is asked.
const ROUNDS: u32 = 3;

/// Longest packet that the gateway sends into the world, its default.
const WORLD_MTU: u16 = 1500;

/// Links that a datagram may pass unless it is meant to end on the way.
const HOP_LIMIT: u8 = 64;

/// What is asked, and what has to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// Somebody sends back what it gets.
    Echo(Ipv4Addr),
    /// Nobody listens there, and somebody says so.
    Closed,
    /// Nobody is there.
    Nowhere,
    /// An echo request.
    Ping,
    /// It ends after so many links, and the router there says so.
    Expired(u8),
}

impl Client {
    /// Sends datagrams of up to `max_bytes`.
    pub(super) async fn datagrams(mut self, side: &ServerSide, max_bytes: usize) {
        self.start().await;
        let mut kept: Option<(Asked, StackDatagrams)> = None;
        while self.think().await {
            let asked = match self.rng.u8(0..10) {
                0..4 => Asked::Echo(OUTSIDE),
                4 => Asked::Echo(side.host()),
                5 => Asked::Closed,
                6 => Asked::Nowhere,
                7 => Asked::Ping,
                _ => Asked::Expired(self.rng.u8(1..=4)),
            };
            // Answers that nobody waits for any more may be on their way to a socket of before. So it is only used again with
            // the peer it was used with.
            let is_kept = self.rng.bool() && matches!(asked, Asked::Echo(_));
            let before = kept.take().filter(|(before, _)| is_kept && *before == asked).map(|(_, socket)| socket);
            let Some(socket) = before.or_else(|| side.bind()) else {
                self.fail(Invariant::Bounds, "all ports are taken".to_owned());
                return;
            };
            self.exchange(&socket, asked, max_bytes).await;
            kept = is_kept.then_some((asked, socket));
        }
    }

    async fn exchange(&mut self, socket: &StackDatagrams, asked: Asked, max_bytes: usize) {
        let begun = self.clock.now();
        let count = if matches!(asked, Asked::Echo(_)) { self.rng.u32(1..=12) } else { 1 };
        // What has no answer yet, and its lengths.
        let mut open: BTreeMap<u64, usize> = BTreeMap::new();
        for _ in 0..count {
            open.insert(self.next_id(), self.rng.usize(8..=max_bytes.max(8)));
        }
        for _ in 0..ROUNDS {
            for (id, len) in &open {
                send(socket, asked, &pattern::bytes(*id, *len));
            }
            let until = self.clock.now() + ROUND;
            while !open.is_empty() {
                let heard = tokio::select! {
                    biased;
                    heard = socket.hear() => heard,
                    () = self.clock.sleep_until(until) => break,
                };
                self.weigh_datagram((socket, asked), &mut open, heard);
            }
            if open.is_empty() || asked == Asked::Nowhere {
                break;
            }
        }
        match asked {
            Asked::Nowhere => self.book.fired("datagram-unanswered"),
            Asked::Closed | Asked::Expired(_) | Asked::Ping | Asked::Echo(_) if open.is_empty() => {
                self.book.answer();
                self.book.fired(asked.name());
            }
            Asked::Closed | Asked::Expired(_) | Asked::Ping | Asked::Echo(_) => {
                self.judge(begun, || format!("{asked:?}: {} of {count} had no answer", open.len()));
            }
        }
    }

    /// Takes what was heard from the list of what is waited for.
    fn weigh_datagram(&self, (socket, asked): (&StackDatagrams, Asked), open: &mut BTreeMap<u64, usize>, heard: Heard) {
        match (heard, asked) {
            (Heard::Datagram { from, payload }, Asked::Echo(_) | Asked::Ping) => {
                let expected = match asked {
                    Asked::Echo(ip) => (ip, ECHO),
                    Asked::Closed | Asked::Nowhere | Asked::Ping | Asked::Expired(_) => (OUTSIDE, 0),
                };
                if from != expected {
                    self.fail(Invariant::Integrity, format!("{asked:?} was answered by {from:?}"));
                }
                let known = open.iter().find(|(id, len)| payload == pattern::bytes(**id, **len));
                if let Some(id) = known.map(|(id, _)| *id) {
                    open.remove(&id);
                } else if !self.was_sent(&payload) {
                    let len = payload.len();
                    self.fail(Invariant::Integrity, format!("{asked:?}: {len} bytes came back that were never sent"));
                }
            }
            (Heard::Error { from, what: TOO_LONG, to, mtu }, _) => {
                // Path MTU discovery (RFC 1191): what is too long is sent shorter.
                let room = usize::from(mtu).saturating_sub(28);
                let mut is_shorter = false;
                for (id, len) in open.iter_mut().filter(|(_, len)| **len > room) {
                    *len = room;
                    is_shorter = true;
                    send(socket, asked, &pattern::bytes(*id, room));
                }
                if is_shorter {
                    self.book.fired("datagram-too-long");
                }
                if from != GATEWAY || mtu != WORLD_MTU {
                    self.fail(Invariant::Integrity, format!("{asked:?}: {from} says {mtu} is the MTU to {to}"));
                }
            }
            (Heard::Error { from, what, to, .. }, _) => {
                let expected = match asked {
                    Asked::Closed => (OUTSIDE, (3, 3)),
                    Asked::Expired(1) => (GATEWAY, (11, 0)),
                    Asked::Expired(links) => (router(links - 1), (11, 0)),
                    Asked::Echo(_) | Asked::Nowhere | Asked::Ping => {
                        return self.fail(Invariant::Integrity, format!("{asked:?}: {from} says {what:?} about {to}"));
                    }
                };
                if (from, what) != expected || to != OUTSIDE {
                    self.fail(Invariant::Integrity, format!("{asked:?}: {from} says {what:?} about {to}"));
                }
                open.clear();
            }
            (Heard::Datagram { from, .. }, Asked::Closed | Asked::Nowhere | Asked::Expired(_)) => {
                self.fail(Invariant::Integrity, format!("{asked:?} was answered by {from:?}"));
            }
        }
    }

    /// Whether this client has ever sent these bytes: a late answer to what was asked again is none that was made up.
    fn was_sent(&self, payload: &[u8]) -> bool {
        self.ids().any(|id| pattern::bytes(id, payload.len()) == payload)
    }

    /// Asks for names, over UDP and over TCP.
    pub(super) async fn names(mut self, side: &ServerSide) {
        self.start().await;
        while self.think().await {
            let begun = self.clock.now();
            let label = format!("{:016x}", self.next_id());
            let name = [&[16], label.as_bytes(), b"\x04soak\x07example\0"].concat();
            let number = (mix(self.next_id()) & 0xffff) as u16;
            let query = names::question(number, &name);
            let is_tcp = self.rng.u8(0..4) == 0;
            let answer =
                if is_tcp { self.ask_stream(side, &query).await } else { self.ask_datagram(side, &query).await };
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) => {
                    let by = if is_tcp { "TCP" } else { "UDP" };
                    self.judge(begun, || format!("no answer for a name, over {by}: {error}"));
                    continue;
                }
            };
            match names::read(&answer) {
                Some((id, Ok(address))) if id == number && address == names::address(&name) => {
                    self.book.answer();
                    self.book.fired(if is_tcp { "name-tcp" } else { "name-udp" });
                }
                // The gateway says so when it has no place for a question.
                Some((id, Err(2))) if id == number => self.judge(begun, || "a name server that failed".to_owned()),
                read => self.fail(Invariant::Integrity, format!("question {number} for a name was answered {read:?}")),
            }
        }
    }

    async fn ask_datagram(&self, side: &ServerSide, query: &[u8]) -> io::Result<Vec<u8>> {
        let socket = side.bind().ok_or(io::ErrorKind::AddrInUse)?;
        for _ in 0..ROUNDS {
            socket.send_to((GATEWAY, 53), HOP_LIMIT, query);
            let until = self.clock.now() + ROUND;
            loop {
                let heard = tokio::select! {
                    biased;
                    heard = socket.hear() => heard,
                    () = self.clock.sleep_until(until) => break,
                };
                match heard {
                    Heard::Datagram { from, payload } if from == (GATEWAY, 53) => return Ok(payload),
                    heard @ (Heard::Datagram { .. } | Heard::Error { .. }) => {
                        self.fail(Invariant::Integrity, format!("a question for a name was answered {heard:?}"));
                    }
                }
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    async fn ask_stream(&self, side: &ServerSide, query: &[u8]) -> io::Result<Vec<u8>> {
        let exchange = async {
            let mut stream = side.connect(GATEWAY, 53).await?;
            // Each message follows its length (RFC 1035 section 4.2.2).
            let len = (query.len() as u16).to_be_bytes();
            stream.write_all(&[&len, query].concat()).await?;
            let mut answer = vec![0; usize::from(stream.read_u16().await?)];
            stream.read_exact(&mut answer).await?;
            io::Result::Ok(answer)
        };
        tokio::select! {
            biased;
            answer = exchange => answer,
            () = self.clock.sleep(PATIENCE) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl Asked {
    const fn name(self) -> &'static str {
        match self {
            Self::Echo(_) => "datagram-echo",
            Self::Closed => "datagram-refused",
            Self::Nowhere => "datagram-unanswered",
            Self::Ping => "ping",
            Self::Expired(_) => "datagram-expired",
        }
    }
}

fn send(socket: &StackDatagrams, asked: Asked, payload: &[u8]) {
    match asked {
        Asked::Echo(ip) => socket.send_to((ip, ECHO), HOP_LIMIT, payload),
        Asked::Closed => socket.send_to((OUTSIDE, 9), HOP_LIMIT, payload),
        Asked::Nowhere => socket.send_to((NOWHERE, ECHO), HOP_LIMIT, payload),
        Asked::Ping => socket.ping(OUTSIDE, HOP_LIMIT, payload),
        Asked::Expired(links) => socket.send_to((OUTSIDE, ECHO), links, payload),
    }
}
