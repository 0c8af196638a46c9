//! Frames between an endpoint and a stream, as many per call as there are.
//!
//! Bounds: one read's worth in, [`WRITE_MAX`] and one segment per flow out.

use super::Endpoint;
use crate::errors::Error;
use nitrotap_core::{frame::Decoder, time::Instant};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::OwnedFd,
    io::Errno,
};

const READ_MAX: usize = 256 << 10;
const WRITE_MAX: usize = 64 << 10;
/// What a flow writes before the next one does.
const TURN: usize = 16 << 10;
/// So that timers are looked at.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

#[derive(Debug)]
pub(in crate::bench) struct Pump {
    stream: OwnedFd,
    decoder: Decoder,
    written: usize,
}

impl Pump {
    /// `stream` is made non-blocking; `before` are bytes that were read from it already.
    pub(in crate::bench) fn new(stream: OwnedFd, before: &[u8]) -> Result<Self, Error> {
        rustix::io::ioctl_fionbio(&stream, true).map_err(failed)?;
        let mut decoder = Decoder::new(READ_MAX);
        decoder.space()[..before.len()].copy_from_slice(before);
        decoder.commit(before.len());
        Ok(Self { stream, decoder, written: 0 })
    }

    /// Moves what can be moved, waiting for the stream if there is nothing to do. False at its end.
    pub(in crate::bench) fn turn(&mut self, endpoint: &mut Endpoint, now: Instant) -> Result<bool, Error> {
        let mut idle = true;
        while let Some(frame) = self.decoder.next_frame() {
            endpoint.input(frame);
            idle = false;
        }
        if endpoint.out().is_empty() {
            endpoint.poll(now, WRITE_MAX, TURN);
        }
        let blocked = !self.write(endpoint)?;
        // What is left waits for the stream; what is not makes room for more.
        if !blocked && endpoint.out().is_empty() {
            endpoint.poll(now, WRITE_MAX, TURN);
            idle &= endpoint.out().is_empty();
        }
        match rustix::io::read(&self.stream, self.decoder.space()) {
            Ok(0) => return Ok(false),
            Ok(n) => {
                self.decoder.commit(n);
                return Ok(true);
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Ok(false),
            Err(errno) => return Err(failed(errno)),
        }
        if idle || blocked {
            let flags = if blocked { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            match poll(&mut [PollFd::new(&self.stream, flags)], Some(&PATIENCE)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        Ok(true)
    }

    /// Writes what waits, for as long as the stream takes it.
    pub(in crate::bench) fn flush(&mut self, endpoint: &mut Endpoint) -> Result<(), Error> {
        while !self.write(endpoint)? {
            match poll(&mut [PollFd::new(&self.stream, PollFlags::OUT)], Some(&PATIENCE)) {
                Ok(0) => return Ok(()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        Ok(())
    }

    /// False if the stream takes no more for now.
    fn write(&mut self, endpoint: &mut Endpoint) -> Result<bool, Error> {
        while self.written < endpoint.out().len() {
            match rustix::io::write(&self.stream, &endpoint.out()[self.written..]) {
                Ok(n) => self.written += n,
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                // Reading tells that it is over.
                Err(Errno::PIPE | Errno::CONNRESET) => break,
                Err(errno) => return Err(failed(errno)),
            }
        }
        endpoint.out().clear();
        self.written = 0;
        Ok(true)
    }
}

fn failed(errno: Errno) -> Error {
    Error::runtime(format!("the stream of frames failed: {errno}"))
}
