//! `cloister doctor`: what this machine offers, what is missing, and what to do about it. It changes nothing
//! and opens nothing that is sealed.

use std::{fs, path::Path, sync::Arc};

use serde::Serialize;

use super::{deploy, screen::Screen, session::Session, settings::Settings};
use crate::{
    base::{
        Error, Result,
        units::{Bytes, Count},
    },
    corpus::cage::Walls,
    device::{
        Choice, Cuda, Device, Pool,
        cuda::{self, Driver, Info},
    },
    tensor::DType,
    train::machine,
    vault::Vault,
    work::{client, question::DaemonState},
};

/// Below this a trial run of a few million parameters would start to swap.
const MEMORY_BYTES_MIN: u64 = 2 << 30;
/// SQLite's locks do not hold on these.
const NETWORK_FILESYSTEMS: [&str; 8] =
    ["nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "fuse.sshfs"];

#[derive(Debug, clap::Args)]
pub struct Args {}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Good,
    /// It works, less well than it could.
    Poor,
    Bad,
}

#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    state: State,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

pub fn run(_: Args, Session { settings, screen }: &Session) -> Result<()> {
    let threads = settings.threads.map(usize::from);
    let checks = [
        version(),
        processor(),
        memory(&read("/proc/meminfo")),
        locked_memory(&read("/proc/self/limits")),
        filesystem(&settings.data_dir, &read("/proc/self/mounts")),
        sealing(settings),
        deployments(&settings.data_dir),
        cage(Walls::of_this_kernel()),
        device(settings.device),
        speed(&settings.device.open(threads).unwrap_or_else(|_| Device::cpu(threads))),
    ];
    for check in &checks {
        screen.show(check, draw)?;
    }
    match checks.iter().filter(|check| check.state == State::Bad).count() {
        0 => Ok(()),
        bad => Err(Error::failed(format!("{bad} of {} checks failed", checks.len()))),
    }
}

fn draw(screen: &Screen, check: &Check) -> Result<()> {
    let mark = match check.state {
        State::Good => "ok  ",
        State::Poor => "poor",
        State::Bad => "BAD ",
    };
    screen.line(format_args!("{mark}  {:<14} {}", check.name, check.found))?;
    check.remedy.iter().try_for_each(|remedy| screen.line(format_args!("      {:<14} {remedy}", "")))
}

fn good(name: &'static str, found: impl Into<String>) -> Check {
    Check { name, state: State::Good, found: found.into(), remedy: None }
}

fn lacking(name: &'static str, state: State, found: impl Into<String>, remedy: &str) -> Check {
    Check { name, state, found: found.into(), remedy: Some(remedy.into()) }
}

/// An unreadable file of the kernel's reads as empty: each check then says that it does not know.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn version() -> Check {
    good("version", format!("cloister {}", env!("CARGO_PKG_VERSION")))
}

fn processor() -> Check {
    let info = read("/proc/cpuinfo");
    let field = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    let model = field("model name").unwrap_or_else(|| std::env::consts::ARCH.into());
    let flags = field("flags").unwrap_or_default();
    let has = |flag: &str| flags.split_whitespace().any(|known| known == flag);
    let simd: Vec<&str> = ["avx2", "avx512f", "avx512_bf16"].into_iter().filter(|flag| has(flag)).collect();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let found = format!(
        "{model}, {cores} threads, {}",
        if simd.is_empty() { "no AVX".into() } else { simd.join(" ") }
    );
    if has("avx2") {
        good("processor", found)
    } else {
        lacking("processor", State::Poor, found, "without AVX2 training is several times slower")
    }
}

fn memory(meminfo: &str) -> Check {
    let kib = |name: &str| -> Option<u64> {
        let line = meminfo.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    let (Some(total), Some(available)) = (kib("MemTotal:"), kib("MemAvailable:")) else {
        return lacking("memory", State::Poor, "unknown: /proc/meminfo cannot be read", "mount /proc");
    };
    let found = format!("{} of {} available", Bytes(available << 10), Bytes(total << 10));
    if available << 10 >= MEMORY_BYTES_MIN {
        good("memory", found)
    } else {
        lacking("memory", State::Poor, found, "train a smaller model (--params), or free some memory")
    }
}

/// Keys live in locked pages, so that they never reach a swap partition.
fn locked_memory(limits: &str) -> Check {
    const NEEDED_BYTES: u64 = 64 << 10;
    let soft = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory"))
        .and_then(|rest| rest.split_whitespace().next());
    match soft {
        Some("unlimited") => good("locked memory", "unlimited"),
        Some(limit) => {
            let bytes = limit.parse().unwrap_or(0);
            let found = Bytes(bytes).to_string();
            if bytes >= NEEDED_BYTES {
                good("locked memory", found)
            } else {
                let remedy =
                    "raise it (ulimit -l, or LimitMEMLOCK= in the unit): keys are kept in locked memory";
                lacking("locked memory", State::Bad, found, remedy)
            }
        }
        None => lacking("locked memory", State::Poor, "unknown: /proc cannot be read", "mount /proc"),
    }
}

/// The filesystem that holds, or will hold, the data directory.
fn filesystem(data_dir: &Path, mounts: &str) -> Check {
    let existing = data_dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    let existing = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
    let Ok(real) = existing.canonicalize() else {
        return lacking(
            "data directory",
            State::Bad,
            format!("{} cannot be reached", data_dir.display()),
            "check the path",
        );
    };
    let mount = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace().skip(1);
            Some((fields.next()?, fields.next()?))
        })
        .filter(|(place, _)| real.starts_with(place))
        .max_by_key(|(place, _)| place.len());
    let kind = mount.map_or("unknown", |(_, kind)| kind);
    let state = if data_dir.exists() { "" } else { ", not made yet" };
    let found = format!("{} on {kind}{state}", data_dir.display());
    if NETWORK_FILESYSTEMS.contains(&kind) {
        lacking(
            "data directory",
            State::Bad,
            found,
            "keep it on a local disk: SQLite's locks do not hold over a network",
        )
    } else {
        good("data directory", found)
    }
}

/// Whether the data directory is open, or could be.
fn sealing(settings: &Settings) -> Check {
    let name = "sealing";
    let unknown = |error: Error| {
        let remedy = error.remedy_text().unwrap_or("look at the data directory's keys").to_owned();
        lacking(name, State::Poor, format!("unknown: {error}"), &remedy)
    };
    match client::state(&settings.data_dir) {
        Ok(Some(DaemonState::Sealed(sealing))) => {
            let found = format!("a sealed daemon holds it, {sealing}");
            lacking(name, State::Poor, found, "unseal it with `cloister unseal`")
        }
        Ok(Some(DaemonState::Opening)) => good(name, "unsealed; a daemon makes ready to serve"),
        Ok(Some(DaemonState::Serving(bound))) => {
            good(name, format!("unsealed; served at https://{}", bound.address))
        }
        Ok(None) if !Vault::exists(&settings.data_dir) => good(name, "nothing to unseal yet"),
        Ok(None) => unserved(name, settings).unwrap_or_else(unknown),
        Err(error) => unknown(error),
    }
}

/// Whether what is served was approved. It is sealed: a daemon that serves can say it.
fn deployments(data_dir: &Path) -> Check {
    let found = match client::state(data_dir) {
        Ok(Some(DaemonState::Serving(bound))) => {
            format!("{}: {}", bound.policy.as_str(), deploy::rule(bound.policy))
        }
        _ => "no daemon serves; `cloister deploy ls` says by which policy one would".to_owned(),
    };
    good("deployments", found)
}

/// No daemon runs: what would unseal it, and whether that is here.
fn unserved(name: &'static str, settings: &Settings) -> Result<Check> {
    if let Some(why) = client::kept_sealed(&settings.data_dir) {
        return Ok(lacking(name, State::Poor, why.to_string(), "unseal it with `cloister unseal`"));
    }
    let unsealer = settings.unsealer.as_ref().map(Into::into);
    let by: Vec<String> = Vault::unsealed_by(&settings.data_dir)?.iter().map(ToString::to_string).collect();
    Ok(match Vault::out_of_reach(&settings.data_dir, unsealer.as_ref())? {
        None => good(name, format!("no daemon runs; unsealed by {}", by.join(" or "))),
        Some(why) => {
            let remedy = "`cloister serve` starts sealed, and `cloister unseal` opens it; other commands take \
                          --key-file, --passphrase-file or --share-file";
            lacking(name, State::Poor, format!("sealed, and no daemon runs: {why}"), remedy)
        }
    })
}

/// What keeps a hostile document from doing anything but being read.
fn cage(walls: Walls) -> Check {
    let found = walls.to_string();
    match walls {
        Walls { filter: true, landlock: true } => good("cage", found),
        Walls { filter: true, landlock: false } => {
            let remedy =
                "one wall of two: landlock in the kernel's list of security modules (lsm=) adds the other";
            lacking("cage", State::Poor, found, remedy)
        }
        Walls { filter: false, .. } => {
            lacking("cage", State::Bad, found, "ingest takes a kernel with CONFIG_SECCOMP_FILTER")
        }
    }
}

/// What would compute, and why not a card.
fn device(choice: Choice) -> Check {
    let driver = Driver::look();
    if let (Ok(_), Choice::Auto | Choice::Cuda(_)) = (driver.cards(), choice) {
        let ordinal = if let Choice::Cuda(ordinal) = choice { ordinal } else { 0 };
        return match Cuda::open(ordinal, Arc::new(Pool::new(1)))
            .and_then(|card| Ok((card.free_bytes()?, card)))
        {
            Ok(((free, total), card)) => card_found(&driver, &card, free, total),
            Err(error) => {
                let remedy = error.remedy_text().unwrap_or("see the driver's log").to_owned();
                lacking("device", State::Poor, format!("CPU; {driver}; {error}"), &remedy)
            }
        };
    }
    match &driver {
        Driver::Absent => good("device", format!("CPU; {driver}; {}", kernels())),
        Driver::Found { cards: 1.., .. } => good("device", format!("CPU, as asked; {driver}; {}", kernels())),
        other => lacking("device", State::Poor, format!("CPU; {other}; {}", kernels()), other.remedy()),
    }
}

fn card_found(driver: &Driver, card: &Cuda, free: u64, total: u64) -> Check {
    let Info { ordinal, name, compute_capability: (major, minor), processors, .. } = card.info();
    let products = if card.has_cublaslt() { "cuBLASLt found" } else { "cuBLASLt not found" };
    let found = format!(
        "cuda:{ordinal}, {name}, compute capability {major}.{minor}, {processors} multiprocessors, {} of {} free; \
         {driver}; {}; {products}",
        Bytes(free),
        Bytes(total),
        kernels()
    );
    if card.has_cublaslt() {
        return good("device", found);
    }
    let remedy = format!(
        "matrices are multiplied by slower kernels: install cuBLAS of CUDA 13, or name its folder in {}",
        cuda::LIBRARIES_VARIABLE
    );
    lacking("device", State::Poor, found, &remedy)
}

/// For which cards this build has kernels.
fn kernels() -> String {
    match cuda::are_embedded() {
        true => format!("kernels for compute capabilities {}", cuda::ARCHITECTURES.join(", ")),
        false => "no CUDA kernels in this build (packaging/cuda-toolchain fetches what compiles them)".into(),
    }
}

/// What computing can reach at most, as `bench` will report its shares of.
fn speed(device: &Device) -> Check {
    let measure = || -> Result<String> {
        let rates = [
            ("f32 products", machine::matrix_flops_per_s(device, DType::F32)?, "FLOP/s"),
            ("bf16 products", machine::matrix_flops_per_s(device, DType::Bf16)?, "FLOP/s"),
            ("copying memory", machine::copy_bytes_per_s(device)?, "B/s"),
        ];
        Ok(rates.map(|(name, rate, unit)| format!("{name} {}{unit}", Count(rate))).join(", "))
    };
    match measure() {
        Ok(rates) => good("speed", rates),
        Err(error) => {
            let remedy = error.remedy_text().unwrap_or("look at the device's own check above").to_owned();
            lacking("speed", State::Poor, format!("not measured: {error}"), &remedy)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_over_a_network_is_bad() {
        let mounts = "/dev/sda1 / ext4 rw 0 0\nserver:/home /tmp nfs4 rw 0 0\n";
        assert_eq!(filesystem(Path::new("/tmp/nowhere/data"), mounts).state, State::Bad);
        assert_eq!(filesystem(Path::new("/nowhere/data"), mounts).state, State::Good);
    }

    #[test]
    fn a_cage_with_one_wall_is_poor_and_without_the_filter_bad() {
        let state = |filter, landlock| cage(Walls { filter, landlock }).state;
        assert_eq!(state(true, true), State::Good);
        assert_eq!(state(true, false), State::Poor);
        assert_eq!((state(false, true), state(false, false)), (State::Bad, State::Bad));
    }

    #[test]
    fn little_memory_to_lock_is_bad_and_little_to_use_is_poor() {
        let limits = |soft: &str| {
            format!("Max locked memory         {soft}               8388608              bytes\n")
        };
        assert_eq!(locked_memory(&limits("0")).state, State::Bad);
        assert_eq!(locked_memory(&limits("8388608")).state, State::Good);
        assert_eq!(locked_memory(&limits("unlimited")).state, State::Good);
        assert_eq!(memory("MemTotal: 4096 kB\nMemAvailable: 1024 kB\n").state, State::Poor);
        assert_eq!(memory("garbage").state, State::Poor);
    }
}
