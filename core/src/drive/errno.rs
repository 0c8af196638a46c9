//! Error numbers as system calls give them (Linux, `include/uapi/asm-generic/errno-base.h` and `errno.h`).

use std::{fmt, io};

/// What a call says that did not do what it was asked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Errno(i32);

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident = $number:literal;)+) => {
        impl Errno {
            $($(#[$doc])* pub const $name: Self = Self($number);)+
        }
    };
}

numbers! {
    /// Operation not permitted.
    PERM = 1;
    /// Interrupted by a signal before anything was done: the call is made again.
    INTR = 4;
    /// Nothing can be done now: wait until it can.
    AGAIN = 11;
    /// No memory.
    NOMEM = 12;
    /// Permission denied.
    ACCESS = 13;
    /// No such device.
    NODEV = 19;
    /// Invalid argument.
    INVAL = 22;
    /// Nobody reads what is written.
    PIPE = 32;
    /// The message is longer than can be sent.
    MSGSIZE = 90;
    /// The address is in use.
    ADDRINUSE = 98;
    /// The address, or a free port of it, is not to be had.
    ADDRNOTAVAIL = 99;
    /// The network is down.
    NETDOWN = 100;
    /// There is no way to the network.
    NETUNREACH = 101;
    /// The connection was aborted before it was accepted.
    CONNABORTED = 103;
    /// The connection was reset.
    CONNRESET = 104;
    /// No room in the kernel's buffers.
    NOBUFS = 105;
    /// The connection timed out.
    TIMEDOUT = 110;
    /// Nobody listens there.
    CONNREFUSED = 111;
    /// The host is down.
    HOSTDOWN = 112;
    /// There is no way to the host.
    HOSTUNREACH = 113;
    /// The connection is being made.
    INPROGRESS = 115;
}

impl Errno {
    /// An error by its number.
    #[must_use]
    pub const fn from_raw(number: i32) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub const fn raw(self) -> i32 {
        self.0
    }

    /// Whether the kernel has no memory for a call that is right otherwise.
    #[must_use]
    pub const fn is_shortage(self) -> bool {
        matches!(self, Self::NOMEM | Self::NOBUFS)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&io::Error::from(*self), f)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errno({self})")
    }
}

impl std::error::Error for Errno {}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> Self {
        Self::from_raw_os_error(errno.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;

    #[test]
    fn numbers_are_those_of_this_system() {
        for (errno, kind) in [
            (Errno::AGAIN, ErrorKind::WouldBlock),
            (Errno::INTR, ErrorKind::Interrupted),
            (Errno::NOMEM, ErrorKind::OutOfMemory),
            (Errno::ACCESS, ErrorKind::PermissionDenied),
            (Errno::PERM, ErrorKind::PermissionDenied),
            (Errno::PIPE, ErrorKind::BrokenPipe),
            (Errno::ADDRINUSE, ErrorKind::AddrInUse),
            (Errno::ADDRNOTAVAIL, ErrorKind::AddrNotAvailable),
            (Errno::NETDOWN, ErrorKind::NetworkDown),
            (Errno::NETUNREACH, ErrorKind::NetworkUnreachable),
            (Errno::CONNABORTED, ErrorKind::ConnectionAborted),
            (Errno::CONNRESET, ErrorKind::ConnectionReset),
            (Errno::TIMEDOUT, ErrorKind::TimedOut),
            (Errno::CONNREFUSED, ErrorKind::ConnectionRefused),
            (Errno::HOSTUNREACH, ErrorKind::HostUnreachable),
            (Errno::INVAL, ErrorKind::InvalidInput),
        ] {
            assert_eq!(io::Error::from(errno).kind(), kind, "{errno}");
        }
        assert_eq!(Errno::from_raw(104), Errno::CONNRESET);
        assert!(Errno::NOBUFS.is_shortage() && !Errno::AGAIN.is_shortage());
    }
}
