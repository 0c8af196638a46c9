//! Asymptotic bounds of a closed network, and the envelope that a simulated throughput must lie in.
//!
//! Source: Denning and Buzen, "The Operational Analysis of Queueing Network Models", ACM Computing Surveys 10(3), 1978.
//! The bounds hold whatever the distribution of service times, because they count only work.

use super::mva::{Station, mva};

/// Highest throughput that `n` connections can reach, in requests per second.
///
/// `min(n / (sum D + Z), min k / D)`: a lone request takes at least all its demands `D` and the think time `Z`
/// (`z_us` microseconds), and a station of `k` servers completes at most `k / D`. Infinite if neither limits.
#[must_use]
pub fn throughput_bound(stations: &[Station], z_us: f64, n: u32) -> f64 {
    if n == 0 {
        return 0.0;
    }
    let population_per_us = f64::from(n) / lone_cycle_us(stations, z_us);
    population_per_us.min(1.0 / bottleneck_us(stations)) * 1e6
}

/// Number of connections from which on queues must form, `N* = (sum D + Z) / max(D / k)`; infinite without demand.
#[must_use]
pub fn knee(stations: &[Station], z_us: f64) -> f64 {
    let bottleneck_us = bottleneck_us(stations);
    if bottleneck_us > 0.0 { lone_cycle_us(stations, z_us) / bottleneck_us } else { f64::INFINITY }
}

/// The two ends between which the throughput of `n` connections lies.
#[must_use]
pub fn envelope(stations: &[Station], z_us: f64, n: u32) -> Envelope {
    Envelope { low: mva(stations, z_us, n).throughput_per_s, high: throughput_bound(stations, z_us, n) }
}

/// A range of throughput, in requests per second.
///
/// `low` is what exponential service reaches ([`mva`](super::mva())): the most variable that a server is expected to
/// be, hence the longest queues. `high` is the asymptotic bound, which no service exceeds. Service that varies less
/// than exponential, and deterministic service in particular, lies between: the simulator's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Envelope {
    /// Throughput of exponential service, in requests per second.
    pub low: f64,
    /// The asymptotic bound, in requests per second.
    pub high: f64,
}

impl Envelope {
    /// Makes room for the finite length of a run: `low` falls by the fraction `below`, `high` rises by `above`.
    #[must_use]
    pub fn widened(self, below: f64, above: f64) -> Self {
        Self { low: self.low * (1.0 - below), high: self.high * (1.0 + above) }
    }

    /// Whether a throughput, in requests per second, lies inside, the ends included.
    #[must_use]
    pub fn contains(self, throughput_per_s: f64) -> bool {
        (self.low..=self.high).contains(&throughput_per_s)
    }
}

/// Time of one cycle of a request that never waits, in microseconds.
fn lone_cycle_us(stations: &[Station], z_us: f64) -> f64 {
    stations.iter().map(|station| station.demand_us).sum::<f64>() + z_us
}

/// Time between two completions of the slowest station when it is always busy, in microseconds.
fn bottleneck_us(stations: &[Station]) -> f64 {
    stations.iter().map(|station| station.demand_us / station.capacity()).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    #[test]
    fn few_connections_are_bound_by_the_cycle_and_many_by_the_bottleneck() {
        let stations = [station(60.0, 8), station(30.0, 1), station(50.0, 2)];
        assert_close(throughput_bound(&stations, 60.0, 1), 5_000.0);
        assert_close(throughput_bound(&stations, 60.0, 4), 20_000.0);
        assert_close(throughput_bound(&stations, 60.0, 1000), 1e6 / 30.0);
        assert_close(knee(&stations, 60.0), 200.0 / 30.0);
    }

    #[test]
    fn nothing_to_do_is_answered_too() {
        assert_eq!(throughput_bound(&[], 0.0, 0), 0.0);
        assert_eq!(throughput_bound(&[], 0.0, 1), f64::INFINITY);
        assert_eq!(throughput_bound(&[], 100.0, 5), 50_000.0);
        assert_eq!(knee(&[], 100.0), f64::INFINITY);
    }

    #[test]
    fn one_connection_leaves_no_room_between_the_ends() {
        let one = envelope(&[station(60.0, 8), station(30.0, 1)], 110.0, 1);
        assert_close(one.low, 5_000.0);
        assert_close(one.high, 5_000.0);
    }

    #[test]
    fn an_envelope_contains_its_ends_and_what_it_is_widened_by() {
        let envelope = Envelope { low: 1000.0, high: 2000.0 };
        assert!(envelope.contains(1000.0) && envelope.contains(2000.0));
        assert!(!envelope.contains(999.0) && !envelope.contains(2001.0) && !envelope.contains(f64::NAN));
        let widened = envelope.widened(0.03, 0.01);
        assert!(widened.contains(971.0) && widened.contains(2019.0));
        assert!(!widened.contains(969.0) && !widened.contains(2021.0));
    }

    #[test]
    fn deterministic_service_lies_inside_the_envelope() {
        let stations = [station(60.0, 1), station(33.0, 1), station(25.0, 1)];
        for n in [1, 2, 3, 4, 8, 32] {
            let got = tandem_per_s(&[60.0, 33.0, 25.0], 100.0, n);
            let envelope = envelope(&stations, 100.0, n).widened(1e-3, 1e-3);
            assert!(envelope.contains(got), "{n} connections: {got} outside of {envelope:?}");
        }
    }

    quickcheck! {
        fn the_bounds_bracket_mva(demands: Vec<(u16, u8)>, z_us: u16, n: u8) -> bool {
            let stations: Vec<Station> =
                demands.iter().map(|&(demand_us, servers)| station(demand_us.into(), servers.into())).collect();
            let Envelope { low, high } = envelope(&stations, f64::from(z_us) + 1.0, n.into());
            low <= high * (1.0 + 1e-9)
        }

        fn more_connections_never_lower_the_bound(demands: Vec<u16>, z_us: u16, n: u8) -> bool {
            let stations: Vec<Station> = demands.iter().map(|&demand_us| station(demand_us.into(), 1)).collect();
            let bound = |n| throughput_bound(&stations, f64::from(z_us) + 1.0, n);
            bound(u32::from(n) + 1) >= bound(n.into())
        }
    }

    /// Throughput of a loop over single-server stations that serve in constant time, first come first served: a
    /// departure is the later of the arrival and the departure before it, plus the service.
    fn tandem_per_s(demands_us: &[f64], z_us: f64, n: u32) -> f64 {
        let rounds = 10_000;
        let mut ready_us = vec![0.0_f64; n as usize];
        let mut free_us = vec![0.0_f64; demands_us.len()];
        for _ in 0..rounds {
            for ready_us in &mut ready_us {
                let mut now_us = *ready_us + z_us;
                for (free_us, demand_us) in free_us.iter_mut().zip(demands_us) {
                    now_us = now_us.max(*free_us) + demand_us;
                    *free_us = now_us;
                }
                *ready_us = now_us;
            }
        }
        let last_us = ready_us.iter().copied().fold(0.0, f64::max);
        f64::from(rounds * n) / last_us * 1e6
    }

    fn station(demand_us: f64, servers: u32) -> Station {
        Station { name: String::new(), demand_us, servers }
    }

    fn assert_close(got: f64, expected: f64) {
        assert!((got / expected - 1.0).abs() < 1e-9, "{got} is not {expected}");
    }
}
