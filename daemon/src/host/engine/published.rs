//! What the data thread counts, as metrics and `/status` show it.

use super::{Kernel, Recorder, notices::PINGS_REFUSED};
use crate::metrics::Sources;
use nitrotap_core::{
    counters::Shared,
    drive::host::{HostCounters, View},
    gateway,
    pcap::CaptureCounters,
};
use std::sync::Arc;

/// The counters as they were at the end of a turn.
#[derive(Default)]
pub(super) struct Published {
    gateway: Arc<Shared<gateway::Counters>>,
    policy: Arc<Shared<gateway::policy::PolicyCounters>>,
    dhcp: Arc<Shared<gateway::dhcp::DhcpCounters>>,
    fragments: Arc<Shared<gateway::fragments::FragmentCounters>>,
    host: Arc<Shared<HostCounters>>,
    capture: Arc<Shared<CaptureCounters>>,
}

impl Published {
    pub(super) fn register(&self, sources: &Sources) {
        sources.add_counters(Arc::clone(&self.gateway));
        sources.add_counters(Arc::clone(&self.host));
        sources.add_counters(Arc::clone(&self.policy));
        sources.add_counters(Arc::clone(&self.dhcp));
        sources.add_counters(Arc::clone(&self.fragments));
        sources.add_counters(Arc::clone(&self.capture));
        let host = Arc::clone(&self.host);
        sources.add_status(move || match host.latest().pings_refused {
            0 => String::new(),
            refused => format!("pings: {refused} refused: {PINGS_REFUSED}\n"),
        });
    }

    pub(super) fn publish(&self, view: &View<'_, Kernel>, capture: Option<&Recorder>) {
        let gateway = view.gateway();
        self.gateway.publish(&gateway.counters());
        self.policy.publish(&gateway.policy_counters());
        self.dhcp.publish(gateway.dhcp_counters());
        self.fragments.publish(gateway.fragment_counters());
        if let Some(capture) = capture {
            self.capture.publish(capture.counters());
        }
        self.host.publish(view.counters());
    }
}
