//! Error numbers on their way from the system to core.

use nitrotap_core::drive::Errno;

/// A system call's error, as core has it.
pub(crate) const fn errno(errno: rustix::io::Errno) -> Errno {
    Errno::from_raw(errno.raw_os_error())
}
