//! An echo server for tens of thousands of connections, on one thread.

use rustix::{
    event::epoll::{self, CreateFlags, EventData, EventFlags},
    net::{AddressFamily, SocketType, ipproto},
};
use std::{
    collections::BTreeMap,
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpListener},
    thread,
};

/// As many connections as wait to be accepted; the system may allow fewer.
const BACKLOG: i32 = 16_384;

const LISTENER: u64 = u64::MAX;

/// Listens on the loopback and serves on a thread that ends with the process; gives the port.
pub fn serve() -> u16 {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, Some(ipproto::TCP)).expect("a socket");
    rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).expect("the loopback has free ports");
    rustix::net::listen(&socket, BACKLOG).expect("own socket");
    let listener = TcpListener::from(socket);
    listener.set_nonblocking(true).expect("own socket");
    let port = listener.local_addr().expect("bound").port();
    thread::spawn(move || run(&listener).expect("an echo server runs as long as its process"));
    port
}

fn run(listener: &TcpListener) -> io::Result<()> {
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut streams = BTreeMap::new();
    let mut serial = 0;
    let mut events = Vec::with_capacity(1024);
    let mut buf = vec![0; 65_536];
    loop {
        events.clear();
        match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let key = event.data.u64();
            if key == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    epoll::add(&epoll, &stream, EventData::new_u64(serial), EventFlags::IN)?;
                    streams.insert(serial, stream);
                    serial += 1;
                }
                continue;
            }
            let Some(stream) = streams.get_mut(&key) else { continue };
            let goes_on = match stream.read(&mut buf) {
                Ok(0) => false,
                // A request fits any socket buffer, and the client waits for its echo before the next.
                Ok(n) => stream.write_all(&buf[..n]).is_ok(),
                Err(error) => error.kind() == io::ErrorKind::WouldBlock,
            };
            if !goes_on {
                streams.remove(&key);
            }
        }
    }
}
