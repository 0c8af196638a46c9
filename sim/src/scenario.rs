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
    /// [`Scenario::NitridingNrp`] with nitrotap's gateway in gvproxy's place.
    NitridingNrpHost,
    /// [`Scenario::NitridingIdle2`] with nitrotap's gateway.
    #[serde(rename = "nitriding-idle2-host")]
    NitridingIdle2Host,
    /// [`Scenario::Nitriding`] with nitrotap's gateway.
    NitridingHost,
    /// [`Scenario::NitrotapNrp`] with nitrotap's gateway.
    NitrotapNrpHost,
    /// [`Scenario::Nitrotap`] with nitrotap's gateway.
    NitrotapHost,
}

impl Scenario {
    /// All of them, in the order of the figure.
    pub const ALL: [Self; 12] = [
        Self::Docker,
        Self::Enclave,
        Self::NitridingNrp,
        Self::NitridingIdle2,
        Self::Nitriding,
        Self::NitrotapNrp,
        Self::Nitrotap,
        Self::NitridingNrpHost,
        Self::NitridingIdle2Host,
        Self::NitridingHost,
        Self::NitrotapNrpHost,
        Self::NitrotapHost,
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
            Self::NitridingNrpHost => "nitriding-nrp-host",
            Self::NitridingIdle2Host => "nitriding-idle2-host",
            Self::NitridingHost => "nitriding-host",
            Self::NitrotapNrpHost => "nitrotap-nrp-host",
            Self::NitrotapHost => "nitrotap-host",
        }
    }

    /// Whether frames cross a TAP and a gateway on the host.
    #[must_use]
    pub const fn has_tap(self) -> bool {
        !matches!(self, Self::Docker | Self::Enclave)
    }

    /// Whether nitrotap, rather than nitriding, moves the frames.
    #[must_use]
    pub const fn is_nitrotap(self) -> bool {
        matches!(self.on_gvproxy(), Self::NitrotapNrp | Self::Nitrotap)
    }

    /// Whether the gateway on the host is nitrotap's own rather than gvproxy.
    #[must_use]
    pub const fn is_native_host(self) -> bool {
        matches!(
            self,
            Self::NitridingNrpHost
                | Self::NitridingIdle2Host
                | Self::NitridingHost
                | Self::NitrotapNrpHost
                | Self::NitrotapHost
        )
    }

    /// The same way with nitrotap's gateway on the host; itself where there is no gateway.
    #[must_use]
    pub const fn on_native_host(self) -> Self {
        match self {
            Self::NitridingNrp => Self::NitridingNrpHost,
            Self::NitridingIdle2 => Self::NitridingIdle2Host,
            Self::Nitriding => Self::NitridingHost,
            Self::NitrotapNrp => Self::NitrotapNrpHost,
            Self::Nitrotap => Self::NitrotapHost,
            Self::Docker
            | Self::Enclave
            | Self::NitridingNrpHost
            | Self::NitridingIdle2Host
            | Self::NitridingHost
            | Self::NitrotapNrpHost
            | Self::NitrotapHost => self,
        }
    }

    /// The same way with gvproxy on the host; itself where there is no gateway.
    #[must_use]
    pub const fn on_gvproxy(self) -> Self {
        match self {
            Self::NitridingNrpHost => Self::NitridingNrp,
            Self::NitridingIdle2Host => Self::NitridingIdle2,
            Self::NitridingHost => Self::Nitriding,
            Self::NitrotapNrpHost => Self::NitrotapNrp,
            Self::NitrotapHost => Self::Nitrotap,
            Self::Docker
            | Self::Enclave
            | Self::NitridingNrp
            | Self::NitridingIdle2
            | Self::Nitriding
            | Self::NitrotapNrp
            | Self::Nitrotap => self,
        }
    }

    /// Whether a reverse proxy stands in front of the app, and how many idle upstream connections it may keep.
    #[must_use]
    pub const fn proxy(self) -> Option<usize> {
        match self {
            Self::NitridingIdle2 | Self::NitridingIdle2Host => Some(2),
            Self::Nitriding | Self::NitridingHost => Some(500),
            Self::Nitrotap | Self::NitrotapHost => Some(1024),
            Self::Docker
            | Self::Enclave
            | Self::NitridingNrp
            | Self::NitrotapNrp
            | Self::NitridingNrpHost
            | Self::NitrotapNrpHost => None,
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
