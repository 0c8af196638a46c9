//! The set-ups that are compared, by the names the issue gave them.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A way for a client to reach an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// No enclave: the app runs on the EC2 host.
    Docker,
    /// The app listens on vsock itself: the upper limit of an enclave.
    Enclave,
    /// TAP and gvproxy with nitriding's frame loop, no reverse proxy.
    NitridingNrp,
    /// The same with nitriding's reverse proxy and Go's default of two idle upstream connections.
    #[serde(rename = "nitriding-idle2")]
    NitridingIdle2,
    /// The same with 500 idle upstream connections, as nitriding sets it since its fix.
    Nitriding,
    /// TAP and gvproxy with nitrotap's link, no reverse proxy.
    NitrotapNrp,
    /// The same with nitrotap's reverse proxy.
    Nitrotap,
}

impl Scenario {
    /// All of them, in the order of the figure.
    pub const ALL: [Self; 7] = [
        Self::Docker,
        Self::Enclave,
        Self::NitridingNrp,
        Self::NitridingIdle2,
        Self::Nitriding,
        Self::NitrotapNrp,
        Self::Nitrotap,
    ];

    /// Its name on the command line and in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Enclave => "enclave",
            Self::NitridingNrp => "nitriding-nrp",
            Self::NitridingIdle2 => "nitriding-idle2",
            Self::Nitriding => "nitriding",
            Self::NitrotapNrp => "nitrotap-nrp",
            Self::Nitrotap => "nitrotap",
        }
    }

    /// Whether frames cross a TAP and gvproxy.
    #[must_use]
    pub const fn has_tap(self) -> bool {
        !matches!(self, Self::Docker | Self::Enclave)
    }

    /// Whether nitrotap, rather than nitriding, moves the frames.
    #[must_use]
    pub const fn is_nitrotap(self) -> bool {
        matches!(self, Self::NitrotapNrp | Self::Nitrotap)
    }

    /// Whether a reverse proxy stands in front of the app, and how many idle upstream connections it may keep.
    #[must_use]
    pub const fn proxy(self) -> Option<usize> {
        match self {
            Self::NitridingIdle2 => Some(2),
            Self::Nitriding => Some(500),
            Self::Nitrotap => Some(1024),
            Self::Docker | Self::Enclave | Self::NitridingNrp | Self::NitrotapNrp => None,
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Scenario {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|scenario| scenario.name() == name);
        found.ok_or_else(|| format!("no such scenario; there are: {}", Self::ALL.map(Self::name).join(", ")))
    }
}
