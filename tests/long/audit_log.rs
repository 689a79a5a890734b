//! The audit log at the size that years make, verified by the binary.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use cloister::{
    auditlog::{AuditLog, Entry, Outcome},
    vault::{Purpose, Unsealer, Vault},
};

use crate::harness::{Site, finish, spawn};

const ENTRIES: u64 = 10_000_000;
/// Those who append at once share a sync and a signature.
const APPENDING: u64 = 200;

/// Says how long it took, and the most memory that it stood in: with ten times the log it must be about the same.
#[test]
#[ignore = "long: minutes, and five gigabytes in the temporary directory"]
fn ten_million_entries_are_verified() {
    let site = Site::initialised();
    for entries in [ENTRIES / 10, ENTRIES] {
        fill(&site, entries);
        let started = Instant::now();
        let mut child = spawn(site.command(&["audit", "verify", "--json"]));
        let status = format!("/proc/{}/status", child.id());
        let mut peak = String::new();
        while child.try_wait().expect("a child of ours").is_none() {
            let told = std::fs::read_to_string(&status).unwrap_or_default();
            peak = told.lines().find(|line| line.starts_with("VmHWM")).map_or(peak, str::to_owned);
            std::thread::sleep(Duration::from_millis(2));
        }
        let took_s = started.elapsed().as_secs_f64();
        let report: serde_json::Value =
            serde_json::from_str(&finish(child).done().stdout).expect("one JSON document");
        assert!(report["entries"].as_u64().is_some_and(|verified| verified >= entries), "{report}");
        println!("{entries} entries: {took_s:.2} s, {peak}");
    }
}

/// Appends until there are so many.
fn fill(site: &Site, entries: u64) {
    let key = Unsealer::KeyFile(site.at("root.key"));
    let root = Vault::unseal(&site.data(), Some(&key)).expect("the root key");
    let vault = Vault::open(&site.data(), root).expect("the vault");
    let signer = vault.signer(Purpose::Audit).expect("its key");
    let log = AuditLog::open(&site.data().join("audit"), vault.install(), signer, None).expect("the log");
    let next = AtomicU64::new(log.size());
    std::thread::scope(|threads| {
        for _ in 0..APPENDING {
            threads.spawn(|| {
                while next.fetch_add(1, Ordering::Relaxed) < entries {
                    let entry = Entry::new("local:0", "test.act", Outcome::Done).detail("step", 1);
                    log.append(entry).expect("room");
                }
            });
        }
    });
}
