//! Streams: links, and the world's ends of connections.

use super::Kernel;
use crate::sys::errno;
use nitrotap_core::drive::{
    Errno,
    host::{Source, Streams},
};
use rustix::{
    io,
    net::{
        AddressFamily, SendFlags, Shutdown, SocketFlags, SocketType, connect, getsockname, send, shutdown, socket_with,
        sockopt,
    },
};
use std::{net::SocketAddr, os::fd::OwnedFd, time::Duration};

impl Streams for Kernel {
    type Stream = OwnedFd;

    fn open(&mut self, to: SocketAddr) -> Result<OwnedFd, Errno> {
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        socket_with(family, SocketType::STREAM, flags, None).map_err(errno)
    }

    fn connect(&mut self, stream: &mut OwnedFd, to: SocketAddr) -> Result<(), Errno> {
        connect(stream, &to).map_err(errno)
    }

    fn answer(&mut self, stream: &mut OwnedFd) -> Result<(), Errno> {
        sockopt::socket_error(stream).flatten().map_err(errno)
    }

    fn unblock(&mut self, stream: &mut OwnedFd) -> Result<(), Errno> {
        io::ioctl_fionbio(stream, true).map_err(errno)
    }

    fn watch(&mut self, stream: &mut OwnedFd, source: Source) -> Result<(), Errno> {
        self.poller.watch(stream, source).map_err(errno)
    }

    fn tune(&mut self, stream: &mut OwnedFd) {
        // Neither is vital.
        let _ = sockopt::set_tcp_nodelay(&stream, true);
        let _ = sockopt::set_socket_keepalive(&stream, true);
    }

    fn set_buffers(&mut self, stream: &mut OwnedFd, bytes: usize) {
        // Where the kernel does not want that much it takes what it wants.
        let _ = sockopt::set_socket_send_buffer_size(&stream, bytes);
        let _ = sockopt::set_socket_recv_buffer_size(&stream, bytes);
    }

    fn read(&mut self, stream: &mut OwnedFd, space: &mut [u8]) -> Result<usize, Errno> {
        io::read(stream, space).map_err(errno)
    }

    fn write(&mut self, stream: &mut OwnedFd, bytes: &[u8]) -> Result<usize, Errno> {
        send(stream, bytes, SendFlags::NOSIGNAL).map_err(errno)
    }

    fn finish(&mut self, stream: &mut OwnedFd) {
        // The other side may have gone already.
        let _ = shutdown(stream, Shutdown::Write);
    }

    fn reset(&mut self, stream: &mut OwnedFd) {
        // With no time to linger, closing sends a reset.
        let _ = sockopt::set_socket_linger(stream, Some(Duration::ZERO));
    }

    fn local_address(&mut self, stream: &mut OwnedFd) -> Option<SocketAddr> {
        getsockname(stream).ok().and_then(|any| SocketAddr::try_from(any).ok())
    }
}
