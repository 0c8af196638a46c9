//! Makes the TAP: with headers for offload where the kernel has them, without where it does not.

use super::offload::Offload;
use crate::{
    errors::Error,
    sys::tun::{self, Features},
};
use nitrotap_core::offload::VNET_LEN;
use rustix::io::Errno;
use std::{ffi::c_int, os::fd::OwnedFd};

/// Opens TAP `name` with as much of the offload as is wanted and the kernel has; `None` is a TAP without headers.
pub(super) fn open(name: &str, wanted: Offload) -> Result<(OwnedFd, Option<Offload>), Error> {
    let device = tun::DEVICE;
    let tap = tun::open().map_err(|errno| {
        Error::runtime(match errno {
            Errno::NOENT | Errno::NODEV | Errno::NXIO => format!(
                "cannot open {device}: {errno}; load the tun module, or make the device: \
                 mkdir -p /dev/net && mknod {device} c 10 200"
            ),
            Errno::ACCESS | Errno::PERM => format!(
                "cannot open {device}: {errno}; run as root, or let ordinary users use it as most distributions do: \
                 sudo chmod 0666 {device}"
            ),
            _ => format!("cannot open {device}: {errno}"),
        })
    })?;
    let offload = if wanted == Offload::NONE { None } else { attach_offload(&tap, name, wanted) };
    if let Some(offload) = offload {
        tracing::info!(tap = name, %offload, "offload");
        return Ok((tap, Some(offload)));
    }
    tun::attach(&tap, name, false).map_err(|errno| {
        Error::runtime(match errno {
            Errno::BUSY => {
                format!("the TAP device {name} is in use by another process; end that, or choose another name with --tap")
            }
            Errno::INVAL => {
                format!("an interface {name} exists and is no TAP of this kind; choose another name with --tap")
            }
            Errno::PERM => format!(
                "no permission to make the TAP device {name}; run as root, with CAP_NET_ADMIN, or through nitrotap local"
            ),
            _ => format!("cannot make the TAP device {name}: {errno}"),
        })
    })?;
    // One that outlives its users keeps what the last one asked for. Where it cannot be told, nobody has asked.
    tun::offload(&tap, Features::default());
    Ok((tap, None))
}

/// Attaches with headers; `None` if the kernel will not, and then the TAP is not attached either, or cannot be at all.
fn attach_offload(tap: &OwnedFd, name: &str, wanted: Offload) -> Option<Offload> {
    let unavailable = |what: &str, errno: Errno| tracing::debug!(tap = name, "no offload: {what}: {errno}");
    tun::attach(tap, name, true).inspect_err(|errno| unavailable("TUNSETIFF", *errno)).ok()?;
    // An attached TAP with headers of another form cannot be made one without: no kernel with the one lacks the other
    // (TUNSETVNETHDRSZ is older than what is asked of it here, TUNSETVNETLE does nothing on little-endian machines).
    tun::set_header(tap, VNET_LEN as c_int).inspect_err(|errno| unavailable("TUNSETVNETHDRSZ", *errno)).ok()?;
    Some(wanted.limited_to(tun::offload(tap, wanted.features())))
}
