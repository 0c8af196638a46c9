//! One end of two kernels' TCP with a stream between: what a TAP says goes behind its length onto the stream, as it is, and
//! back. Neither end looks into a frame, so that this is the least that anything made of the kernel's own TCP has to do.
//!
//! Owns: a TAP with virtio-net headers and all the offload that TCP can use, and the stream. Driven by: a blocking thread
//! for each direction. To the stream: one read of the TAP and one write for each frame. From the stream: a read brings all
//! the frames that are there, up to [`BUFFER`], and each takes one write to the TAP. Drain: none; ends with the stream or
//! the bench. Bounds: frames of [`FRAME_MAX`] bytes, and those two buffers.

use super::{
    dial::{dial, read_some, write_all},
    window::say,
};
use crate::{
    bench::options::ServeUrl,
    endpoint::Endpoint,
    errors::Error,
    netlink::{Interface, Ipv6, configure},
    sys::tun::{self, Features},
};
use nitrotap_core::{frame::MAX_FRAME, link::MacAddr, offload::VNET_LEN};
use rustix::{fd::OwnedFd, io::Errno};
use std::{
    ffi::c_int,
    net::Ipv4Addr,
    process::ExitCode,
    sync::{Arc, mpsc},
    thread,
};

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Be the far end, 192.168.127.1, and take the stream here
    #[arg(long, required_unless_present = "connect", conflicts_with = "connect")]
    listen: Option<ServeUrl>,
    /// Be the enclave's end, 192.168.127.2, and get the stream here
    #[arg(long)]
    connect: Option<Endpoint>,
    #[arg(long)]
    tap: String,
    #[arg(long)]
    mtu: u16,
}

/// Bytes of the length, big-endian.
const PREFIX: usize = 4;
/// Of a virtio-net header and its Ethernet frame.
const FRAME_MAX: usize = VNET_LEN + MAX_FRAME;
const BUFFER: usize = 256 << 10;
/// Bytes under way on the stream: what the link of `nitrotap enclave` asks for.
const STREAM_BUFFER: usize = 1 << 20;

const FAR: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 1);
const NEAR: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 2);

pub(super) fn run(args: &Args) -> Result<ExitCode, Error> {
    let tap = open(&args.tap)?;
    let (mac, address, gateway) = match args.listen {
        Some(_) => (MacAddr([0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xdd]), FAR, NEAR),
        None => (MacAddr([0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xee]), NEAR, FAR),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::runtime(format!("cannot start the async runtime: {e}")))?;
    let (name, mtu, ipv6) = (args.tap.clone(), args.mtu, Ipv6::default());
    runtime.block_on(configure(&Interface { name, mac, address, prefix: 24, gateway, mtu, ipv6 }))?;
    let ready = || say(&format!("ready {}", std::process::id()));
    let stream = match (&args.listen, &args.connect) {
        (Some(listen), _) => {
            let failed = |e: Errno| Error::runtime(format!("cannot take the stream: {e}"));
            let (listener, _) = super::bind(listen)?;
            rustix::io::ioctl_fionbio(&listener, false).map_err(failed)?;
            ready()?;
            rustix::net::accept(&listener).map_err(failed)?
        }
        (None, Some(connect)) => {
            let stream = dial(connect)?;
            ready()?;
            stream
        }
        (None, None) => return Err(Error::usage("give --listen or --connect")),
    };
    // The kernel cuts it to net.core.wmem_max; a smaller one is slower and nothing worse.
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(&stream, STREAM_BUFFER);
    let (tap, stream) = (Arc::new(tap), Arc::new(stream));
    let (tell, over) = mpsc::channel();
    for move_frames in [to_stream, to_tap] {
        let (tap, stream, tell) = (Arc::clone(&tap), Arc::clone(&stream), tell.clone());
        thread::spawn(move || tell.send(move_frames(&tap, &stream)));
    }
    // The other one may wait for ever; it ends with the process.
    over.recv().unwrap_or_else(|_| Err(Error::runtime("both threads ended without a word")))?;
    Ok(ExitCode::SUCCESS)
}

/// A blocking TAP whose kernel leaves checksums and segments to whoever reads it, as the other end's kernel takes them.
fn open(name: &str) -> Result<OwnedFd, Error> {
    let cannot = |what: &str, errno: Errno| Error::runtime(format!("no TAP {name} with offload: {what}: {errno}"));
    let tap = tun::open().map_err(|errno| cannot(tun::DEVICE, errno))?;
    tun::attach(&tap, name, true).map_err(|errno| cannot("TUNSETIFF", errno))?;
    tun::set_header(&tap, VNET_LEN as c_int).map_err(|errno| cannot("TUNSETVNETHDRSZ", errno))?;
    let needed = Features::CSUM.union(Features::TSO);
    if !tun::offload(&tap, needed).contains(needed) {
        return Err(Error::runtime(format!("no TAP {name} with offload: this kernel lacks checksums or TCP segments")));
    }
    rustix::io::ioctl_fionbio(&tap, false).map_err(|errno| cannot("FIONBIO", errno))?;
    Ok(tap)
}

/// Frames of the TAP, until something fails.
fn to_stream(tap: &OwnedFd, stream: &OwnedFd) -> Result<(), Error> {
    // One byte more than there can be, so that a frame that was cut short is seen.
    let mut buffer = vec![0; PREFIX + FRAME_MAX + 1];
    loop {
        let n = match rustix::io::read(tap, &mut buffer[PREFIX..]) {
            Ok(n) => n,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(Error::runtime(format!("cannot read the TAP: {errno}"))),
        };
        let prefix = prefix(n)?;
        buffer[..PREFIX].copy_from_slice(&prefix);
        write_all(stream, &buffer[..PREFIX + n])?;
    }
}

/// Frames of the stream, until something fails.
fn to_tap(tap: &OwnedFd, stream: &OwnedFd) -> Result<(), Error> {
    let mut buffer = vec![0; BUFFER];
    let mut have = 0;
    loop {
        have += read_some(stream, &mut buffer[have..])?;
        let mut from = 0;
        while let Some(frame) = first(&buffer[from..have])? {
            put(tap, frame)?;
            from += PREFIX + frame.len();
        }
        buffer.copy_within(from..have, 0);
        have -= from;
    }
}

/// One whole frame; what the TAP has no room for is lost, as on any wire.
fn put(tap: &OwnedFd, frame: &[u8]) -> Result<(), Error> {
    loop {
        match rustix::io::write(tap, frame) {
            Ok(_) | Err(Errno::NOBUFS | Errno::NOMEM) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => {
                return Err(Error::runtime(format!("cannot write {} bytes to the TAP: {errno}", frame.len())));
            }
        }
    }
}

fn prefix(len: usize) -> Result<[u8; PREFIX], Error> {
    match u32::try_from(len) {
        Ok(prefix) if (VNET_LEN..=FRAME_MAX).contains(&len) => Ok(prefix.to_be_bytes()),
        Ok(_) | Err(_) => {
            Err(Error::runtime(format!("a frame of {len} bytes is not one of {VNET_LEN} to {FRAME_MAX}")))
        }
    }
}

/// The frame at the beginning, if all of it is there.
fn first(bytes: &[u8]) -> Result<Option<&[u8]>, Error> {
    let Some((length, rest)) = bytes.split_first_chunk::<PREFIX>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    prefix(length)?;
    Ok(rest.get(..length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_cut_out_of_the_stream_once_they_are_whole() {
        let frame = [7; VNET_LEN + 60];
        let mut bytes = prefix(frame.len()).unwrap().to_vec();
        bytes.extend_from_slice(&frame);
        for part in 0..bytes.len() {
            assert_eq!(first(&bytes[..part]).unwrap(), None, "{part}");
        }
        bytes.push(9);
        assert_eq!(first(&bytes).unwrap(), Some(&frame[..]));
    }

    #[test]
    fn lengths_that_no_frame_has_end_the_pipe() {
        for bad in [0, VNET_LEN - 1, FRAME_MAX + 1, u32::MAX as usize] {
            assert!(prefix(bad).is_err(), "{bad}");
            assert!(first(&(bad as u32).to_be_bytes()).is_err(), "{bad}");
        }
        assert!(BUFFER >= PREFIX + FRAME_MAX && prefix(FRAME_MAX).is_ok());
    }
}
