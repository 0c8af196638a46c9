//! The data thread: core's loop over this host's kernel.
//!
//! Owns: every descriptor that data passes through. Driven by: [`nitrotap_core::drive::host::Host`], which decides everything;
//! here are its system calls, and what of its work others can see: metrics, log, capture.

mod capture;
mod datagrams;
mod notices;
mod poller;
mod ports;
mod published;
mod raw;
mod streams;

pub(crate) use capture::CaptureConfig;

use super::control::{Request, Waiting};
use crate::{clock::Clock, drive::mailbox::Mailbox, errors::Error, metrics::Sources, sys::errno};
use capture::Recorder;
use nitrotap_core::{
    drive::{
        self, Errno,
        host::{Config, Control, Host, Notice, Source, View, Watch, World},
    },
    frame::Framing,
    gateway::{self, Gateway, PortId, Target, publishing::Asker},
    time::Instant,
};
use notices::Told;
use poller::{News, Poller};
use published::Published;
use raw::RawSockets;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::{os::fd::OwnedFd, thread, time::Duration};
use tokio::sync::oneshot;

/// What the data thread hands to the control side.
pub(crate) struct Hooks {
    /// A tenant's question for the name server, with the number its answer must bear; false if it cannot be taken.
    pub(crate) ask: Box<dyn FnMut(u32, u64, Vec<u8>) -> bool + Send>,
    /// A guest's connection to a service of the gateway, as a stream, and the guest; false if nobody takes it.
    pub(crate) serve: Box<dyn FnMut(Target, Asker, OwnedFd) -> bool + Send>,
}

/// What the data thread is told once.
pub(crate) struct EngineConfig {
    pub(crate) gateway: gateway::Config,
    pub(crate) hooks: Hooks,
    pub(crate) capture: Option<CaptureConfig>,
    pub(crate) host: Config,
}

/// Starts the data thread. The receiver is told when it has ended: without an error only after
/// [`Handle::stop`](super::control::Handle::stop).
pub(crate) fn start(
    config: EngineConfig,
    clock: Clock,
    mailbox: Mailbox<Waiting>,
    sources: &Sources,
) -> Result<oneshot::Receiver<Result<(), Error>>, Error> {
    let cannot = |what: &str, error: &dyn std::fmt::Display| Error::runtime(format!("cannot {what}: {error}"));
    let gateway =
        Gateway::new(config.gateway).map_err(|e| Error::usage(format!("the virtual network cannot be: {e}")))?;
    let poller = Poller::new().map_err(|e| cannot("make an epoll descriptor", &e))?;
    poller.watch(mailbox.wake(), Source::Mailbox).map_err(|e| cannot("watch an event descriptor", &e))?;
    let capture = config.capture.map(|config| Recorder::start(config, clock.epoch())).transpose()?;
    let shared = Published::default();
    shared.register(sources);
    let told = Told::default();
    let lines = told.clone();
    sources.add_status(move || lines.text());
    let kernel = Kernel { clock, poller, mailbox, hooks: config.hooks, capture, shared, told, raw: RawSockets::open() };
    let host = Host::new(kernel, gateway, config.host);
    let (tell, ended) = oneshot::channel();
    thread::Builder::new()
        .name("nitrotap-gateway".to_owned())
        .spawn(move || {
            let done = drive::block(host.run())
                .map_err(|e| Error::runtime(format!("the gateway cannot wait for its sockets any more: {e}")));
            // Nobody may be listening any more.
            let _ = tell.send(done);
        })
        .map_err(|e| cannot("start a thread", &e))?;
    Ok(ended)
}

/// This host's kernel, and the control side of this process.
pub(crate) struct Kernel {
    clock: Clock,
    poller: Poller,
    mailbox: Mailbox<Waiting>,
    hooks: Hooks,
    capture: Option<Recorder>,
    shared: Published,
    told: Told,
    raw: RawSockets,
}

impl World for Kernel {
    type News = News;

    fn now(&self) -> Instant {
        self.clock.now()
    }

    async fn wait(&mut self, news: &mut News, timeout: Option<Duration>) -> Result<(), Errno> {
        self.poller.wait(news, timeout).map_err(errno)
    }

    async fn elapse(&mut self, now: Instant) -> Instant {
        now
    }
}

impl Control for Kernel {
    type Reply<T> = oneshot::Sender<T>;

    fn take_request(&mut self) -> Option<Request> {
        self.mailbox.take().map(|waiting| waiting.request)
    }

    fn reply<T>(&mut self, reply: oneshot::Sender<T>, value: T) {
        // Then the answer is for nobody.
        let _ = reply.send(value);
    }

    fn ask(&mut self, tenant: u32, client: u64, query: Vec<u8>) -> bool {
        (self.hooks.ask)(tenant, client, query)
    }

    fn serve(&mut self, target: Target, asker: Asker) -> Result<Option<OwnedFd>, Errno> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(errno)?;
        Ok((self.hooks.serve)(target, asker, theirs).then_some(ours))
    }

    fn tell(&mut self, notice: Notice<'_>) {
        notices::log(notice, &self.told);
    }

    fn publish(&mut self, view: View<'_, Self>) {
        self.shared.publish(&view, self.capture.as_ref());
    }
}

impl Watch for Kernel {
    fn frame_in(&mut self, now: Instant, _: PortId, frame: &[u8]) {
        if let Some(capture) = &mut self.capture {
            capture.frame(now, frame);
        }
    }

    fn frames_out(&mut self, now: Instant, _: PortId, pending: &[u8], seen: usize, framing: Framing) -> usize {
        self.capture.as_mut().map_or(seen, |capture| capture.pending(now, pending, seen, framing))
    }

    fn pause(&mut self) {
        if let Some(capture) = &mut self.capture {
            capture.flush();
        }
    }

    fn reopen(&mut self) {
        if let Some(capture) = &mut self.capture {
            capture.reopen();
        }
    }

    fn lost(&self) -> u64 {
        self.capture.as_ref().map_or(0, Recorder::lost)
    }
}
