//! Readiness of many descriptors, by epoll.

use nitrotap_core::{
    drive::host::{self, Ready, Source},
    gateway::{FlowId, PortId, SessionId},
};
use rustix::{
    event::{Timespec, epoll},
    io::{self, Errno},
};
use std::{
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

/// Readings between two looks at everything else.
const EVENTS: usize = 2048;

/// See the module. Everything is edge-triggered, as [`host::World`] wants it.
#[derive(Debug)]
pub(super) struct Poller {
    epoll: OwnedFd,
}

/// Room for the news of one wait. It stays in the thread that waits: the kernel's structure may hold a pointer.
pub(crate) struct News(Vec<epoll::Event>);

/// Bits of an index: more things than a process may have descriptors.
const INDEX: u32 = 24;
/// Where the kind begins: above 32 bits of generation.
const KIND: u32 = INDEX + 32;

const MAILBOX: u64 = 0;
const LINK: u64 = 1;
const FLOW: u64 = 2;
const SESSION: u64 = 3;
const FORWARD: u64 = 4;

/// The 64 bits that epoll keeps for a descriptor.
const fn encode(source: Source) -> u64 {
    let (kind, id) = match source {
        Source::Mailbox => (MAILBOX, 0),
        Source::Link(id) => (LINK, id.to_u64()),
        Source::Flow(id) => (FLOW, id.to_u64()),
        Source::Session(id) => (SESSION, id.to_u64()),
        Source::Forward(number) => (FORWARD, number as u64),
    };
    kind << KIND | (id >> 32) << INDEX | (id & ((1 << INDEX) - 1))
}

const fn decode(data: u64) -> Source {
    let id = ((data >> INDEX) & 0xffff_ffff) << 32 | (data & ((1 << INDEX) - 1));
    match data >> KIND {
        LINK => Source::Link(PortId::from_u64(id)),
        FLOW => Source::Flow(FlowId::from_u64(id)),
        SESSION => Source::Session(SessionId::from_u64(id)),
        FORWARD => Source::Forward(id as u32),
        _ => Source::Mailbox,
    }
}

impl Poller {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)? })
    }

    /// Watches a descriptor until it is closed.
    pub(super) fn watch(&self, fd: impl AsFd, source: Source) -> io::Result<()> {
        let flags = epoll::EventFlags::IN
            | epoll::EventFlags::OUT
            | epoll::EventFlags::PRI
            | epoll::EventFlags::RDHUP
            | epoll::EventFlags::ET;
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(encode(source)), flags)
    }

    /// Waits for news, at most for `timeout`.
    pub(super) fn wait(&self, news: &mut News, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        news.0.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut news.0), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

impl Default for News {
    fn default() -> Self {
        Self(Vec::with_capacity(EVENTS))
    }
}

impl host::News for News {
    fn iter(&self) -> impl Iterator<Item = Ready> + '_ {
        self.0.iter().map(|event| {
            // The structure is packed: its fields are copied out.
            let epoll::Event { flags, data } = *event;
            Ready {
                source: decode(data.u64()),
                readable: flags.contains(epoll::EventFlags::IN),
                writable: flags.contains(epoll::EventFlags::OUT),
                // Urgent data too makes a reading short of what there is (tcp(7)).
                hangup: flags.intersects(
                    epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR | epoll::EventFlags::PRI,
                ),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_descriptor_belongs_to_survives_the_kernel() {
        let id = 0xffff_ffff_0012_3456;
        for source in [
            Source::Mailbox,
            Source::Link(PortId::from_u64(id)),
            Source::Flow(FlowId::from_u64(id)),
            Source::Session(SessionId::from_u64(1)),
            Source::Forward(7),
        ] {
            assert_eq!(decode(encode(source)), source);
        }
    }
}
