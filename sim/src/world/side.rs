//! What a client and a server get of the world.

use super::{Shared, Site};
use crate::{
    charged::Readable,
    cpu::Process,
    gvproxy,
    params::ProgramCosts,
    stack::{Stack, StackDatagrams, StackListener, StackStream},
    stream::{Addr, Listener, SimStream},
    time::Clock,
    trace::Trace,
};
use std::{
    io,
    net::Ipv4Addr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A client's view: where the load comes from.
#[derive(Clone)]
pub struct ClientSide {
    pub(super) shared: Rc<Shared>,
    pub(super) site: Site,
}

impl ClientSide {
    /// Connects to the app, the way the scenario goes.
    ///
    /// # Errors
    /// Those of `connect`.
    pub async fn connect(&self) -> io::Result<SimStream> {
        self.site.net.connect(super::boot::entrance(&self.shared.config)).await
    }

    /// Connects to a published port of the EC2 host.
    ///
    /// # Errors
    /// Those of `connect`.
    pub async fn connect_host(&self, port: u32) -> io::Result<SimStream> {
        self.site.net.connect(Addr { cid: super::boot::HOST_CID, port }).await
    }

    /// Listens on the client's machine, where the enclave finds the rest of the world.
    ///
    /// # Errors
    /// Those of `bind`.
    pub fn listen(&self, port: u32) -> io::Result<Listener> {
        self.site.net.listen(port)
    }

    /// Model time.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.site.clock
    }

    /// A process on this machine; see [`crate::cpu`].
    #[must_use]
    pub fn process(&self, threads: u32) -> Process {
        let process = self.site.cpu.process(threads);
        self.shared.sites.borrow_mut().processes.push(("client", process.clone()));
        process
    }

    /// What a load generator's steps cost.
    #[must_use]
    pub fn costs(&self) -> ProgramCosts {
        let config = &self.shared.config;
        config.params.client.with_dearer_calls(super::boot::vsock_call_ns(config))
    }

    /// The world's seed; draw from it with [`crate::rng::stream`].
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.shared.config.seed
    }

    /// The world's trace.
    #[must_use]
    pub fn trace(&self) -> &Trace {
        &self.shared.trace
    }

    /// Starts a task on this machine.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.site.group.spawn(task);
    }

    pub(crate) fn audit(&self) -> &crate::check::Audit {
        &self.shared.audit
    }
}

/// A server's view: the machine the app runs on.
#[derive(Clone)]
pub struct ServerSide {
    pub(super) shared: Rc<Shared>,
    pub(super) site: Site,
    /// The kernel behind the TAP, where there is one.
    pub(super) kernel: Option<Stack>,
}

impl ServerSide {
    /// The port that the scenario's path leads to.
    pub const APP_PORT: u16 = 8080;

    /// Listens on every interface: the TAP, where there is one, the loopback, and vsock.
    ///
    /// # Errors
    /// Those of `bind`.
    pub fn listen(&self, port: u16) -> io::Result<ServerListener> {
        let kernel = self.kernel.as_ref().map(|kernel| kernel.listen(port)).transpose()?;
        Ok(ServerListener { net: self.site.net.listen(port.into())?, kernel })
    }

    /// Connects from inside the enclave through the TAP to the world outside.
    ///
    /// # Errors
    /// Those of `connect`; `NetworkUnreachable` in a scenario without a TAP.
    pub async fn connect(&self, ip: Ipv4Addr, port: u16) -> io::Result<StackStream> {
        match &self.kernel {
            Some(kernel) => kernel.connect((ip, port)).await,
            None => Err(io::ErrorKind::NetworkUnreachable.into()),
        }
    }

    /// A port of UDP behind the TAP; `None` in a scenario without one.
    #[must_use]
    pub fn bind(&self) -> Option<StackDatagrams> {
        self.kernel.as_ref()?.bind()
    }

    /// The address inside the virtual network that stands for the EC2 host.
    #[must_use]
    pub const fn host(&self) -> Ipv4Addr {
        gvproxy::HOST
    }

    /// Model time.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.site.clock
    }

    /// A process on this machine; see [`crate::cpu`].
    #[must_use]
    pub fn process(&self, threads: u32) -> Process {
        let process = self.site.cpu.process(threads);
        self.shared.sites.borrow_mut().processes.push(("app", process.clone()));
        process
    }

    /// What the app's steps cost.
    #[must_use]
    pub fn costs(&self) -> ProgramCosts {
        let config = &self.shared.config;
        config.params.app.with_dearer_calls(super::boot::vsock_call_ns(config))
    }

    /// The world's seed; draw from it with [`crate::rng::stream`].
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.shared.config.seed
    }

    /// The world's trace.
    #[must_use]
    pub fn trace(&self) -> &Trace {
        &self.shared.trace
    }

    /// Starts a task on this machine.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.site.group.spawn(task);
    }

    pub(crate) fn audit(&self) -> &crate::check::Audit {
        &self.shared.audit
    }
}

/// A port of the app, on every interface.
pub struct ServerListener {
    net: Listener,
    kernel: Option<StackListener>,
}

impl ServerListener {
    /// The next connection.
    pub async fn accept(&self) -> ServerStream {
        match &self.kernel {
            None => ServerStream::Local(self.net.accept().await),
            Some(kernel) => tokio::select! {
                biased;
                stream = self.net.accept() => ServerStream::Local(stream),
                stream = kernel.accept() => ServerStream::Tap(stream),
            },
        }
    }
}

/// A connection to the app.
#[derive(Clone)]
pub enum ServerStream {
    /// Over the loopback or vsock.
    Local(SimStream),
    /// Through the TAP.
    Tap(StackStream),
}

impl ServerStream {
    /// Resets the connection at once.
    pub fn abort(&self) {
        match self {
            Self::Local(stream) => stream.abort(),
            Self::Tap(stream) => stream.abort(),
        }
    }
}

impl Readable for ServerStream {
    fn poll_readable(&self, cx: &Context<'_>) -> Poll<()> {
        match self {
            Self::Local(stream) => stream.poll_readable(cx),
            Self::Tap(stream) => stream.poll_readable(cx),
        }
    }
}

impl AsyncRead for ServerStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Local(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tap(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for ServerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Local(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tap(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Local(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tap(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
