//! One reading of a Prometheus text page.

use std::collections::BTreeMap;

/// All samples of one reading, by series: `name{label="value",…}` exactly as exported.
#[derive(Clone, Debug)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    pub fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse().ok()?))
        });
        Self(samples.collect())
    }

    /// The value of a series; panics if it is not exported, which is a defect whatever its value.
    pub fn get(&self, series: &str) -> u64 {
        let value = self.0.get(series).unwrap_or_else(|| panic!("no {series} among {:#?}", self.0));
        assert!(value.fract() == 0.0 && (0.0..9e15).contains(value), "{series} is {value}");
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
        let whole = *value as u64;
        whole
    }

    pub fn frames(&self, direction: &str) -> u64 {
        self.get(&format!("nitrotap_frames_total{{direction=\"{direction}\"}}"))
    }

    pub fn bytes(&self, direction: &str) -> u64 {
        self.get(&format!("nitrotap_bytes_total{{direction=\"{direction}\"}}"))
    }

    pub fn drops(&self, direction: &str, cause: &str) -> u64 {
        self.get(&format!("nitrotap_drops_total{{direction=\"{direction}\",cause=\"{cause}\"}}"))
    }

    pub fn rx_over_mtu(&self) -> u64 {
        self.get("nitrotap_rx_over_mtu_total")
    }

    pub fn link_is_up(&self) -> bool {
        self.get("nitrotap_link_up") == 1
    }

    pub fn dials(&self) -> u64 {
        self.get("nitrotap_link_dials_total")
    }

    pub fn losses(&self) -> u64 {
        self.get("nitrotap_link_losses_total")
    }

    /// Losses because the host, still connected, had nothing more to say.
    pub fn silent_losses(&self) -> u64 {
        self.get("nitrotap_link_losses_silent_total")
    }

    pub fn probe_failures(&self) -> u64 {
        self.get("nitrotap_link_probe_failures_total")
    }

    /// All drops, in both directions and whatever their cause.
    pub fn all_drops(&self) -> u64 {
        self.drops_where(|_| true)
    }

    /// All drops but those with this cause.
    pub fn all_drops_but(&self, cause: &str) -> u64 {
        let label = format!("cause=\"{cause}\"");
        self.drops_where(|series| !series.contains(&label))
    }

    fn drops_where(&self, wanted: impl Fn(&str) -> bool) -> u64 {
        let names = self.0.keys().filter(|series| series.starts_with("nitrotap_drops_total{") && wanted(series));
        names.map(|series| self.get(series)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_found_by_its_name_and_labels() {
        let page = "# HELP x y\n# TYPE nitrotap_link_up gauge\nnitrotap_link_up 1\n\
                    nitrotap_drops_total{direction=\"rx\",cause=\"runt\"} 14\n\
                    nitrotap_drops_total{direction=\"tx\",cause=\"runt\"} 1\n# EOF\n";
        let metrics = Metrics::parse(page);
        assert!(metrics.link_is_up());
        assert_eq!(metrics.drops("rx", "runt"), 14);
        assert_eq!(metrics.all_drops(), 15);
    }
}
