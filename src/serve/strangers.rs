//! Whoever comes without a valid token or password: counted by where they come from, and made to wait the longer the more often they
//! fail, so that guessing takes years and one loud program costs the others nothing. A valid token never waits.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// So many failures are a slip of the hand.
const FREE_FAILURES: u32 = 5;
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Who did not fail for so long begins anew.
const FORGIVEN_AFTER: Duration = Duration::from_secs(60);
/// Networks whose failures are told apart; all others share one count.
const NETWORKS_MAX: usize = 4096;
/// Networks that an audit entry names, those with the most failures.
const NAMED_MAX: usize = 10;

/// What came without a valid token since it was last asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    pub requests: u64,
    /// Log-ins among them.
    pub log_ins: u64,
    /// Where most of them came from, and how many.
    pub from: Vec<(IpAddr, u64)>,
}

#[derive(Debug, Default)]
pub struct Strangers {
    /// None: networks beyond those that are told apart, and requests of unknown origin.
    networks: Mutex<HashMap<Option<IpAddr>, Network>>,
}

#[derive(Clone, Copy, Debug)]
struct Network {
    /// In a row.
    failures: u32,
    last: Instant,
    untold: u64,
}

impl Strangers {
    /// Counts a failure, and says how long its answer should wait. Only connections have an origin; without one nobody
    /// waits.
    pub fn count(&self, from: Option<IpAddr>, now: Instant) -> Duration {
        let mut networks = self.networks();
        let pause_max = from.map_or(Duration::ZERO, |_| PAUSE_MAX);
        let mut from = from.map(network);
        if networks.len() >= NETWORKS_MAX && !networks.contains_key(&from) {
            networks.retain(|_, network| network.untold > 0 || !network.is_forgiven(now));
            if networks.len() >= NETWORKS_MAX {
                from = None;
            }
        }
        let network = networks.entry(from).or_insert(Network { failures: 0, last: now, untold: 0 });
        if network.is_forgiven(now) {
            network.failures = 0;
        }
        network.failures = network.failures.saturating_add(1);
        network.untold += 1;
        network.last = now;
        pause(network.failures, pause_max)
    }

    /// What was counted since the last time.
    pub fn take(&self) -> Failures {
        let mut networks = self.networks();
        let mut taken = Failures::default();
        for (from, network) in networks.iter_mut() {
            taken.requests += network.untold;
            taken.from.extend(from.filter(|_| network.untold > 0).map(|from| (from, network.untold)));
            network.untold = 0;
        }
        taken.from.sort_by_key(|&(from, requests)| (std::cmp::Reverse(requests), from));
        taken.from.truncate(NAMED_MAX);
        taken
    }

    fn networks(&self) -> MutexGuard<'_, HashMap<Option<IpAddr>, Network>> {
        self.networks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Network {
    fn is_forgiven(&self, now: Instant) -> bool {
        now.duration_since(self.last) >= FORGIVEN_AFTER
    }
}

/// What so many failures in a row cost.
pub(super) fn pause(failures: u32, pause_max: Duration) -> Duration {
    match failures.checked_sub(FREE_FAILURES + 1) {
        None => Duration::ZERO,
        Some(beyond) => pause_max.min(PAUSE_MIN * 2u32.pow(beyond.min(10))),
    }
}

/// A household or a machine has a /64 of IPv6 to itself: to tell its addresses apart would give it as many tries.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn each_failure_beyond_a_few_waits_longer_up_to_a_bound_and_a_minute_forgives() {
        let (strangers, now) = (Strangers::default(), Instant::now());
        let pauses: Vec<u128> =
            (0..12).map(|_| strangers.count(address("10.0.0.1"), now).as_millis()).collect();
        assert_eq!(pauses, [0, 0, 0, 0, 0, 100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(strangers.count(address("10.0.0.2"), now), Duration::ZERO, "another's are its own");
        assert_eq!(strangers.count(address("10.0.0.1"), now + FORGIVEN_AFTER), Duration::ZERO);
    }

    #[test]
    fn a_network_is_one_however_many_addresses_it_uses() {
        let (strangers, now) = (Strangers::default(), Instant::now());
        for host in 0..20 {
            strangers.count(address(&format!("2001:db8:1:2::{host:x}")), now);
        }
        assert_eq!(strangers.count(address("2001:db8:1:2:ffff::1"), now), PAUSE_MAX);
        assert_eq!(strangers.count(address("2001:db8:1:3::1"), now), Duration::ZERO);
        strangers.count(address("::ffff:10.0.0.1"), now);
        assert!(strangers.take().from.contains(&("10.0.0.1".parse().unwrap(), 1)));
    }

    #[test]
    fn what_was_told_is_not_told_again_and_the_loudest_are_named() {
        let (strangers, now) = (Strangers::default(), Instant::now());
        strangers.count(None, now);
        for host in 1..=20u8 {
            for _ in 0..host {
                strangers.count(Some(IpAddr::from([10, 0, 0, host])), now);
            }
        }
        let told = strangers.take();
        assert_eq!(told.requests, 1 + 210);
        assert_eq!(told.from.len(), NAMED_MAX);
        assert_eq!(told.from[0], (IpAddr::from([10, 0, 0, 20]), 20));
        assert_eq!(strangers.take(), Failures::default());
    }

    #[test]
    fn more_networks_than_are_told_apart_share_one_count() {
        let (strangers, now) = (Strangers::default(), Instant::now());
        for host in 0..NETWORKS_MAX as u32 {
            strangers.count(Some(IpAddr::from(host.to_be_bytes())), now);
        }
        for _ in 0..20 {
            strangers.count(address("192.0.2.1"), now);
        }
        assert_eq!(strangers.count(address("192.0.2.2"), now), PAUSE_MAX);
        assert_eq!(strangers.networks().len(), NETWORKS_MAX + 1);
        strangers.take();
        let later = now + FORGIVEN_AFTER;
        assert_eq!(strangers.count(address("192.0.2.3"), later), Duration::ZERO);
        assert!(strangers.networks().len() < 10, "the forgiven were forgotten");
    }
}
