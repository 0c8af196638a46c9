//! `--pin WHO=IP[,MAC]`: which enclave has an address, whoever asks for it first.

use super::{address::ListenUrl, config::Listeners, control::Mac, listen};
use nitrotap_core::{
    gateway::{ANONYMOUS, Pin},
    link::MacAddr,
};
use std::{fmt, net::IpAddr, str::FromStr};

/// Whose an address is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The enclave with this CID.
    Cid(u32),
    /// Whoever comes by this listener.
    Listener(ListenUrl),
}

/// One `--pin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pinned {
    pub(crate) owner: Owner,
    pub(crate) address: IpAddr,
    /// The only station that may use it.
    pub(crate) mac: Option<Mac>,
}

impl FromStr for Pinned {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected CID=IP, URL=IP or the same with ,MAC, such as 16=192.168.127.2 or \
                                unix:///run/nitrotap.sock=192.168.127.2,02:00:00:00:00:01";
        // A path may have an equals sign in it, an address has none.
        let (owner, rest) = text.rsplit_once('=').ok_or(EXPECTED)?;
        let (address, mac) = rest.split_once(',').map_or((rest, None), |(address, mac)| (address, Some(mac)));
        let address = address.parse().map_err(|_| format!("{address:?} is no IP address; {EXPECTED}"))?;
        let mac = mac.map(|mac| mac.parse::<MacAddr>().map(|mac| mac.0).map_err(|error| format!("{mac:?}: {error}")));
        let owner = match owner.parse::<u32>() {
            Ok(cid) if cid < ANONYMOUS => Owner::Cid(cid),
            Ok(cid) => return Err(format!("{cid} is no CID of an enclave; see nitro-cli describe-enclaves")),
            Err(_) => match owner.parse::<ListenUrl>() {
                Ok(ListenUrl::Vsock { .. }) => {
                    return Err(
                        "enclaves that come by vsock are told apart by their CIDs: write --pin CID=IP".to_owned()
                    );
                }
                Ok(url) => Owner::Listener(url),
                Err(_) => return Err(format!("{owner:?} is neither a CID nor the URL of a listener; {EXPECTED}")),
            },
        };
        Ok(Self { owner, address, mac: mac.transpose()? })
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cid(cid) => cid.fmt(f),
            Self::Listener(url) => url.fmt(f),
        }
    }
}

impl Pinned {
    /// As the gateway has it; `None` if no listener has this URL.
    pub(crate) fn resolve(&self, listeners: &Listeners) -> Option<Pin> {
        let tenant = match &self.owner {
            Owner::Cid(cid) => *cid,
            Owner::Listener(url) => listen::without_cid(listeners.index_of(url)?),
        };
        Some(Pin { tenant, address: self.address, mac: self.mac })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_cids_and_listeners() {
        let pin: Pinned = "16=192.168.127.2".parse().unwrap();
        assert_eq!(pin, Pinned { owner: Owner::Cid(16), address: [192, 168, 127, 2].into(), mac: None });
        let pin: Pinned = "unix:///run/a=b.sock=fd00::2,02:00:00:00:00:01".parse().unwrap();
        assert_eq!(pin.owner, Owner::Listener(ListenUrl::Unix("/run/a=b.sock".into())));
        assert_eq!((pin.address, pin.mac), ("fd00::2".parse().unwrap(), Some([2, 0, 0, 0, 0, 1])));
        let pin: Pinned = "tcp://127.0.0.1:9=192.168.127.2".parse().unwrap();
        assert_eq!(pin.owner.to_string(), "tcp://127.0.0.1:9");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (bad, why) in [
            ("16", "expected CID=IP"),
            ("16=192.168.127", "\"192.168.127\" is no IP address"),
            ("16=192.168.127.2,xx", "\"xx\""),
            ("4294967295=192.168.127.2", "no CID"),
            ("vsock://:1024=192.168.127.2", "told apart by their CIDs"),
            ("here=192.168.127.2", "\"here\" is neither"),
        ] {
            let error = bad.parse::<Pinned>().unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }
}
