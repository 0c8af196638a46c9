//! Descriptors 0 to 2, before anything else runs.
//!
//! The runtime opens /dev/null on those that are closed, and ends the process where it cannot. The first process of a machine
//! whose /dev is not there yet would be such a one, and its end is the kernel's panic.
#![expect(unsafe_code, reason = "this runs before the runtime, with nothing but system calls")]

use std::ffi::{CStr, c_int};

/// What the loader calls before `main` (System V ABI, "Initialization and Termination Functions").
#[used]
#[unsafe(link_section = ".init_array")]
static OPEN: extern "C" fn() = open_standard;

extern "C" fn open_standard() {
    for fd in 0..=2 {
        // SAFETY: a query about a number, which may be of no descriptor.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
            open_lowest(fd);
        }
    }
}

/// Opens something on the lowest number that is free: words go to the console, if this is the first process.
fn open_lowest(fd: c_int) {
    // SAFETY: it has no arguments and cannot fail.
    let first = unsafe { libc::getpid() } == 1;
    let open = |path: &CStr, flags| {
        // SAFETY: the path ends with a zero, and outlives the call.
        unsafe { libc::open(path.as_ptr(), flags | libc::O_NOCTTY) }
    };
    if first && fd > 0 && open(c"/dev/console", libc::O_WRONLY) >= 0 {
        return;
    }
    if open(c"/dev/null", libc::O_RDWR) >= 0 {
        return;
    }
    // Without a file system: reading it gives the end, writing to it an error, and it takes no memory.
    // SAFETY: the name ends with a zero, and the seals are set on the descriptor that was just made.
    unsafe {
        let nothing = libc::memfd_create(c"nothing".as_ptr(), libc::MFD_ALLOW_SEALING);
        if nothing >= 0 {
            libc::fcntl(nothing, libc::F_ADD_SEALS, libc::F_SEAL_WRITE | libc::F_SEAL_GROW);
        }
    }
}
