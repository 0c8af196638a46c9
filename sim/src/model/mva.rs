//! Exact Mean Value Analysis of a closed network with one class of requests.
//!
//! Source: Reiser and Lavenberg, "Mean-Value Analysis of Closed Multichain Queuing Networks", J. ACM 27(2), 1980; the
//! split of stations with several servers is Seidmann, Schweitzer and Shalev-Oren, 1987. Takes `N` times the number of
//! stations steps.

/// One place where requests queue and are served: a core, a lock, a link.
#[derive(Debug, Clone, PartialEq)]
pub struct Station {
    /// For reports.
    pub name: String,
    /// Service that one request needs here over all its visits, in microseconds; finite and not negative.
    pub demand_us: f64,
    /// Requests served at once; 0 counts as 1.
    pub servers: u32,
}

impl Station {
    /// Servers as a factor of capacity.
    pub(super) fn capacity(&self) -> f64 {
        f64::from(self.servers.max(1))
    }

    /// Demand at the queue that Seidmann's split puts in the station's place, in microseconds.
    fn queueing_us(&self) -> f64 {
        self.demand_us / self.capacity()
    }

    /// The rest of the demand, which the split makes a delay without a queue, in microseconds.
    fn delay_us(&self) -> f64 {
        self.demand_us - self.queueing_us()
    }
}

/// Steady state of the network.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// Completed requests per second; infinite if no request takes any time.
    pub throughput_per_s: f64,
    /// From the request's start to its end: all stations, without the think time, in microseconds.
    pub response_us: f64,
    /// Mean number of requests at each station, waiting or in service, in the order of the stations.
    pub queues: Vec<f64>,
}

/// Predicts what `n` connections do that each think for `z_us` microseconds and then send the next request.
///
/// Exact for exponential service where every station has one server. Seidmann's split replaces a station of `k`
/// servers by a queue of demand `D / k` and a delay of `D (k - 1) / k`: right for one connection and in saturation,
/// and pessimistic in between, since a request then waits although a server is free. Without connections the response
/// time is that of a request which finds nobody.
#[must_use]
pub fn mva(stations: &[Station], z_us: f64, n: u32) -> Prediction {
    let delay_us: f64 = stations.iter().map(Station::delay_us).sum();
    let mut waiting = vec![0.0; stations.len()];
    let mut response_us = stations.iter().map(|station| station.demand_us).sum();
    let mut per_us = 0.0;
    for population in 1..=n {
        // An arriving request sees the network as it is with one request less (arrival theorem).
        let residence_us = |(station, queue): (&Station, &f64)| station.queueing_us() * (1.0 + queue);
        let residences_us: Vec<f64> = stations.iter().zip(&waiting).map(residence_us).collect();
        response_us = residences_us.iter().sum::<f64>() + delay_us;
        let cycle_us = response_us + z_us;
        if cycle_us <= 0.0 {
            return Prediction { throughput_per_s: f64::INFINITY, response_us, queues: waiting };
        }
        per_us = f64::from(population) / cycle_us;
        waiting = residences_us.iter().map(|residence_us| per_us * residence_us).collect();
    }
    let queues = stations.iter().zip(&waiting).map(|(station, queue)| queue + per_us * station.delay_us()).collect();
    Prediction { throughput_per_s: per_us * 1e6, response_us, queues }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    #[test]
    fn one_queue_without_think_time_is_always_busy() {
        for n in [1, 2, 7, 64, 1000] {
            let got = mva(&[station(50.0, 1)], 0.0, n);
            assert_close(got.throughput_per_s, 20_000.0);
            assert_close(got.response_us, 50.0 * f64::from(n));
            assert_close(got.queues[0], f64::from(n));
        }
    }

    #[test]
    fn equal_stations_follow_the_balanced_networks_formula() {
        for k in [1_u32, 2, 3, 8] {
            let stations: Vec<Station> = (0..k).map(|_| station(25.0, 1)).collect();
            for n in [1, 2, 5, 100] {
                let got = mva(&stations, 0.0, n);
                assert_close(got.throughput_per_s, 1e6 * f64::from(n) / (f64::from(n + k - 1) * 25.0));
                assert_close(got.queues[0], f64::from(n) / f64::from(k));
            }
        }
    }

    #[test]
    fn one_queue_with_think_time_follows_the_machine_repair_formula() {
        for (demand_us, z_us) in [(20.0, 400.0), (30.0, 30.0), (400.0, 20.0)] {
            for n in [1, 2, 8, 50] {
                let got = mva(&[station(demand_us, 1)], z_us, n);
                assert_close(got.throughput_per_s, machine_repair_per_s(demand_us, 1, z_us, n));
            }
        }
    }

    #[test]
    fn several_servers_are_right_alone_and_in_saturation_and_pessimistic_between() {
        for servers in [2, 4, 16] {
            for z_us in [0.0, 50.0, 1000.0] {
                for n in 1..200 {
                    let got = mva(&[station(100.0, servers)], z_us, n).throughput_per_s;
                    let exact = machine_repair_per_s(100.0, servers, z_us.max(1e-6), n);
                    assert!(got <= exact * (1.0 + 1e-6), "{servers} servers, {z_us} us, {n}: {got} above {exact}");
                    if n == 1 {
                        assert!(got > exact * 0.999_999, "{servers} servers, {z_us} us: {got} below {exact}");
                    }
                }
                let saturated = mva(&[station(100.0, servers)], z_us, 100_000).throughput_per_s;
                assert!(saturated > f64::from(servers) * 1e4 * 0.999);
            }
        }
    }

    #[test]
    fn a_station_with_a_server_for_everyone_is_a_delay() {
        let got = mva(&[station(400.0, u32::MAX), station(20.0, 1)], 0.0, 32);
        let delay = mva(&[station(20.0, 1)], 400.0, 32);
        assert!((got.throughput_per_s / delay.throughput_per_s - 1.0).abs() < 1e-6);
    }

    #[test]
    fn nothing_to_do_is_answered_too() {
        let idle = mva(&[station(20.0, 1), station(30.0, 2)], 10.0, 0);
        assert_eq!(idle, Prediction { throughput_per_s: 0.0, response_us: 50.0, queues: vec![0.0, 0.0] });
        assert_eq!(mva(&[], 100.0, 5).throughput_per_s, 50_000.0);
        assert_eq!(mva(&[station(0.0, 0)], 0.0, 5).throughput_per_s, f64::INFINITY);
    }

    quickcheck! {
        fn requests_at_the_stations_and_thinking_add_up_to_the_connections(
            demands: Vec<(u16, u8)>, z_us: u16, n: u8
        ) -> bool {
            let stations = stations(&demands);
            let z_us = f64::from(z_us) + 1.0;
            let got = mva(&stations, z_us, n.into());
            let per_us = got.throughput_per_s / 1e6;
            let little = per_us * (got.response_us + z_us);
            let counted = got.queues.iter().sum::<f64>() + per_us * z_us;
            (little - f64::from(n)).abs() < 1e-6 && (counted - f64::from(n)).abs() < 1e-6
        }

        fn more_connections_never_lower_throughput_nor_response_time(
            demands: Vec<(u16, u8)>, z_us: u16, n: u8
        ) -> bool {
            let stations = stations(&demands);
            let z_us = f64::from(z_us) + 1.0;
            let less = mva(&stations, z_us, n.into());
            let more = mva(&stations, z_us, u32::from(n) + 1);
            more.throughput_per_s >= less.throughput_per_s * (1.0 - 1e-9)
                && more.response_us >= less.response_us * (1.0 - 1e-9)
        }
    }

    /// Exact throughput of one station with `servers` servers and exponential service, by its birth-death process.
    fn machine_repair_per_s(demand_us: f64, servers: u32, z_us: f64, n: u32) -> f64 {
        let (mut weight, mut total, mut served) = (1.0, 1.0, 0.0);
        for at_station in 1..=n {
            let rate = f64::from(at_station.min(servers)) / demand_us;
            weight *= f64::from(n - at_station + 1) / z_us / rate;
            // Keeps the weights in range; only their ratios matter.
            let scale = if weight > 1e100 { 1e-100 } else { 1.0 };
            weight *= scale;
            total = total * scale + weight;
            served = served * scale + weight * rate;
        }
        served / total * 1e6
    }

    fn stations(demands: &[(u16, u8)]) -> Vec<Station> {
        demands.iter().map(|&(demand_us, servers)| station(demand_us.into(), servers.into())).collect()
    }

    fn station(demand_us: f64, servers: u32) -> Station {
        Station { name: String::new(), demand_us, servers }
    }

    fn assert_close(got: f64, expected: f64) {
        assert!((got / expected - 1.0).abs() < 1e-9, "{got} is not {expected}");
    }
}
