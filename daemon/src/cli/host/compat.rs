//! gvproxy's command line: its flags have one dash, long names and sometimes other names.
//!
//! Only arguments of `nitrotap host` are looked at, and only those whose names gvproxy has: they are rewritten to ours
//! before clap sees them. What has no meaning here is an error that says what to use instead.

use crate::errors::Error;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

/// What becomes of a flag of gvproxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// A flag of ours with a value.
    Value(&'static str),
    /// A flag of ours without a value; Go takes `-flag=false` too.
    Switch(&'static str),
    /// Not there; what to do instead.
    Gone(&'static str),
}

/// The flags of gvproxy 0.8.9 and of 0.8.1.
const FLAGS: &[(&str, Fate)] = &[
    ("config", Fate::Value("config")),
    ("debug", Fate::Switch("debug")),
    ("deviceIP", Fate::Value("device-ip")),
    ("ec2-metadata-access", Fate::Switch("allow-imds")),
    ("forward-dest", Fate::Gone(SSH)),
    ("forward-identity", Fate::Gone(SSH)),
    ("forward-sock", Fate::Gone(SSH)),
    ("forward-user", Fate::Gone(SSH)),
    ("gatewayIP", Fate::Value("gateway-ip")),
    ("hostIP", Fate::Value("host-ip")),
    ("listen", Fate::Value("listen")),
    ("listen-bess", Fate::Value("listen-bess")),
    ("listen-qemu", Fate::Value("listen-qemu")),
    ("listen-stdio", Fate::Gone("frames come over sockets only; use --listen unix:///PATH and its /connect")),
    ("listen-vfkit", Fate::Gone("vfkit is a thing of macOS; use --listen-qemu unix:///PATH or --listen")),
    ("listen-vpnkit", Fate::Gone("hyperkit is a thing of macOS; use --listen-qemu unix:///PATH or --listen")),
    ("log-file", Fate::Value("log-file")),
    ("mtu", Fate::Value("mtu")),
    (
        "notification",
        Fate::Gone("systemd is told of readiness (Type=notify), and --metrics knows of links and connections"),
    ),
    ("pcap", Fate::Value("pcap")),
    ("pid-file", Fate::Value("pid-file")),
    ("services", Fate::Value("services")),
    ("ssh-port", Fate::Value("ssh-port")),
    ("subnet", Fate::Value("subnet")),
    ("version", Fate::Switch("version")),
];

const SSH: &str = "unix sockets are not forwarded over SSH; use ssh -L with a published port 22, or the REST interface's \
                   expose with protocol unix and remote tcp://IP:PORT";

/// The arguments with gvproxy's flags as ours.
pub(crate) fn rewrite(args: impl IntoIterator<Item = OsString>) -> Result<Vec<OsString>, Error> {
    let mut args = args.into_iter();
    let mut out: Vec<OsString> = args.next().into_iter().collect();
    // Which subcommand is it? Ahead of it there can only be flags of all subcommands.
    for arg in args.by_ref() {
        let flag = arg.as_bytes().starts_with(b"-");
        let value = out.last().is_some_and(|before| before == "--log-format");
        let host = arg == "host" && !value;
        out.push(arg);
        if host {
            break;
        }
        if !flag && !value {
            out.extend(args);
            return Ok(out);
        }
    }
    while let Some(arg) = args.next() {
        if arg == "--" {
            out.push(arg);
            out.extend(args);
            break;
        }
        let Some((name, value)) = parts(&arg) else {
            out.push(arg);
            continue;
        };
        match FLAGS.iter().find(|(known, _)| OsStr::new(known) == name) {
            None => out.push(arg),
            Some((name, Fate::Gone(instead))) => {
                return Err(Error::usage(format!("gvproxy's -{name} is not there: {instead}")));
            }
            Some((_, Fate::Switch(ours))) => {
                // The words of Go's strconv.ParseBool.
                let off = value.is_some_and(|v| ["0", "f", "F", "false", "FALSE", "False"].iter().any(|f| v == *f));
                if !off {
                    out.push(format!("--{ours}").into());
                }
            }
            Some((_, Fate::Value(ours))) => {
                let mut whole = format!("--{ours}").into_bytes();
                if let Some(value) = value.map(OsStr::to_owned).or_else(|| args.next()) {
                    whole.push(b'=');
                    whole.extend_from_slice(value.as_bytes());
                }
                out.push(OsString::from_vec(whole));
            }
        }
    }
    Ok(out)
}

/// Name and value of `-name`, `--name`, `-name=value` or `--name=value`.
fn parts(arg: &OsStr) -> Option<(&OsStr, Option<&OsStr>)> {
    let name = arg.as_bytes().strip_prefix(b"-")?;
    let name = name.strip_prefix(b"-").unwrap_or(name);
    let at = name.iter().position(|b| *b == b'=');
    let (name, value) = at.map_or((name, None), |at| (&name[..at], Some(&name[at + 1..])));
    Some((OsStr::from_bytes(name), value.map(OsStr::from_bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(args: &str) -> Result<String, String> {
        let args = args.split(' ').map(OsString::from);
        rewrite(args)
            .map(|args| args.join(OsStr::new(" ")).to_string_lossy().into_owned())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn gvproxys_flags_become_ours() {
        for (theirs, ours) in [
            ("n host -listen vsock://:1024 -mtu 65520", "n host --listen=vsock://:1024 --mtu=65520"),
            ("n host -listen=unix:///a --listen unix:///b", "n host --listen=unix:///a --listen=unix:///b"),
            ("n host -ssh-port -1 -debug", "n host --ssh-port=-1 --debug"),
            ("n host -gatewayIP 10.0.0.1 --deviceIP=10.0.0.2", "n host --gateway-ip=10.0.0.1 --device-ip=10.0.0.2"),
            ("n host -ec2-metadata-access -version", "n host --allow-imds --version"),
            ("n host -debug=false -ec2-metadata-access=true", "n host --allow-imds"),
            ("n --log-format json host -mtu 1", "n --log-format json host --mtu=1"),
            ("n --log-format=json host -mtu", "n --log-format=json host --mtu"),
            ("n host --publish 1=:2 -h -- -mtu 3", "n host --publish 1=:2 -h -- -mtu 3"),
        ] {
            assert_eq!(rewritten(theirs), Ok(ours.to_owned()), "{theirs}");
        }
    }

    #[test]
    fn other_roles_and_other_flags_are_left_alone() {
        for args in ["n", "n enclave --mtu 9 -- app -mtu 3", "n --log-format host enclave -mtu 9", "n host -x --y=-mtu"]
        {
            assert_eq!(rewritten(args), Ok(args.to_owned()), "{args}");
        }
    }

    #[test]
    fn what_is_not_there_says_what_to_use_instead() {
        for (flag, instead) in [
            ("-listen-vpnkit=unix:///x", "--listen-qemu"),
            ("--listen-vfkit", "--listen-qemu"),
            ("-listen-stdio", "--listen unix"),
            ("-forward-sock", "ssh -L"),
            ("-notification", "Type=notify"),
        ] {
            let error = rewritten(&format!("n host {flag}")).unwrap_err();
            assert!(error.starts_with("gvproxy's -") && error.contains(instead), "{error}");
        }
    }
}
