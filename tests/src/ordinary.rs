//! Programs run by an ordinary user, with a `/dev/net/tun` of a chosen mode.
//!
//! The device node is a private one: it lies on a tmpfs in a mount namespace of the command, over the machine's, whose
//! mode stays as it is. Making it takes root.

use crate::{
    Scratch,
    peers::{self, Missing},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// `nobody`, on all distributions that matter.
const USER: &str = "65534";

const SCRIPT: &str = r#"
set -e
mount -t tmpfs -o mode=0755 tmpfs "$1"
mknod "$1/tun" c 10 200
chmod "$2" "$1/tun"
mount --bind "$1/tun" /dev/net/tun
user=$3
shift 3
exec setpriv --reuid "$user" --regid "$user" --clear-groups --inh-caps=-all -- "$@"
"#;

/// A command that runs `program` as an ordinary user who finds `/dev/net/tun` with this mode, such as `0666`.
///
/// The process that starts is the program itself. With `own_network` it has a network namespace that is not its own, and
/// in which it may therefore change nothing.
pub fn command(program: &Path, mode: &str, own_network: bool, scratch: &Scratch) -> Result<Command, Missing> {
    if !peers::is_root() {
        return Err(Missing::new("only root can become an ordinary user with a device of its own", "run as root"));
    }
    let unshare = peers::find("unshare")?;
    peers::find("setpriv")?;
    let devices = tempfile::Builder::new().prefix("dev-").tempdir_in(scratch.path()).expect("own folder").keep();
    let mut command = Command::new(unshare);
    command.arg("--mount").args(own_network.then_some("--net"));
    command.args(["sh", "-c", SCRIPT, "sh"]).arg(devices).args([mode, USER]).arg(visible(program, scratch));
    Ok(command)
}

/// A copy of `program` that everybody may run: the original may lie in somebody's home.
pub fn visible(program: &Path, scratch: &Scratch) -> PathBuf {
    scratch.open_to_all();
    let copy = scratch.join(program.file_name().and_then(|name| name.to_str()).expect("programs have names"));
    if !copy.exists() {
        fs::copy(program, &copy).expect("programs can be read");
    }
    copy
}
