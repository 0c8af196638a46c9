//! What the figures were taken on: they hold for this machine only.

use serde::Serialize;

/// Share of time given to others that spoils figures.
pub(crate) const STEAL_MAX: f64 = 0.05;

/// Facts for whoever reads the figures later.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Facts {
    pub(crate) nitrotap: String,
    pub(crate) kernel: String,
    pub(crate) architecture: String,
    pub(crate) processor: String,
    pub(crate) cores: usize,
    /// Share of the processors' time that the hypervisor gave to others during the run, from 0 to 1.
    pub(crate) steal_share: f64,
    /// Of programs that took part and are not ours.
    pub(crate) peers: Vec<String>,
}

impl Facts {
    pub(crate) fn gather(steal_share: f64, peers: Vec<String>) -> Self {
        let uname = rustix::system::uname();
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            nitrotap: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: format!("{} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy()),
            architecture: uname.machine().to_string_lossy().into_owned(),
            processor: model.map_or("unknown", |(_, name)| name).to_owned(),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            steal_share,
            peers,
        }
    }
}
